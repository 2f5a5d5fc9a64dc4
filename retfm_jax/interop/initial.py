"""Initial weights: a whole network, or towers that others trained."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from retfm_jax.config import ExperimentConfig, from_dict
from retfm_jax.errors import UserError
from retfm_jax.files import Path
from retfm_jax.interop.huggingface import tower_beside
from retfm_jax.interop.layouts import recognized, tower_method
from retfm_jax.interop.sources import find_weights
from retfm_jax.interop.state_dict import (
    from_state_dict,
    normalize,
    plain_tensors,
    resize_positions,
    to_state_dict,
)
from retfm_jax.interop.weights import holds_weights, read_tensors
from retfm_jax.methods import get_method_class
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.methods.dual_encoder import as_dual_encoder
from retfm_jax.models.vit import ViTConfig
from retfm_jax.models.vit_names import LAYOUTS, recognize
from retfm_jax.trees import flatten, unflatten_like

_log = logging.getLogger(__name__)

#: Names under which the towers stand in files of others.
_IMAGE_PREFIXES = ("visual.", "vision_model.model.", "image_encoder.", "")
_TEXT_PREFIXES = ("bert.", "text_model.model.", "roberta.", "")


def initial_network(config: ExperimentConfig, method: Method) -> tuple[Params, MethodState]:
    """Initializes a network: random parameters, replaced by the weights that `config.init` names.

    Args:
      config: experiment with `init` and, for random parameters, `train.seed`.
      method: the method of that experiment.

    Returns:
      the parameters and the method's state.

    Raises:
      UserError: a file is missing or unsafe, or its tensors do not fit.
    """
    init = config.init
    if init.weights is not None:
        return _whole_network(init.weights, config.method, method)
    params, state = jax.jit(method.init)(jax.random.key(config.train.seed))
    image = None if init.image is None else _image_source(init.image, method)
    if init.image is not None and isinstance(image, _ImageTower):
        params, stats = _with_tower(init.image, image, method, params, state)
        state, image = MethodState(stats, method.init_carry(params, stats)), None
    text = None if init.text is None else read_tensors(find_weights(init.text).path)
    if image is None and text is None:
        return params, state
    encoder = as_dual_encoder(method, "config.init of a tower")
    tensors = to_state_dict(method, params, state)
    sources = []
    for source, read, ours, theirs in (
        (init.image, image, encoder.image_prefix, _IMAGE_PREFIXES),
        (init.text, text, encoder.text_prefix, _TEXT_PREFIXES),
    ):
        if source is not None and isinstance(read, dict):
            tensors |= _tower(source, read, ours, theirs, tensors, _spare(method))
            sources.append(source)
    return from_state_dict(method, tensors, where=" and ".join(sources))


def _whole_network(source: str, name: str, method: Method) -> tuple[Params, MethodState]:
    path = find_weights(source).path
    if not path.is_dir() or holds_weights(path):
        tensors = normalize(read_tensors(path), where=source)
        wanted = jax.eval_shape(method.init, jax.random.key(0))
        tensors = _fit_positions(tensors, _published_shapes(method, *wanted), source)
        return from_state_dict(method, tensors, where=source)
    from retfm_jax.runtime.checkpoints import load_network

    params, stats, meta = load_network(path)
    if meta["config"]["method"] != name:
        raise UserError(
            f"{source} holds a {meta['config']['method']} network, the config asks for {name}"
        )
    wanted, state = jax.eval_shape(method.init, jax.random.key(0))
    shapes, found = flatten(wanted), flatten(params)
    wrong = sorted(
        path
        for path in shapes.keys() | found.keys()
        if path not in shapes or path not in found or shapes[path].shape != found[path].shape
    )
    if wrong:
        raise UserError(f"{source} holds another network: {', '.join(wrong[:5])} differ in shape")
    params = unflatten_like(wanted, found)
    stats = unflatten_like(state.batch_stats, flatten(stats))
    return params, MethodState(stats, method.init_carry(params, stats))


def _published_shapes(
    method: Method, params: Params, state: MethodState
) -> dict[str, tuple[int, ...]]:
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), (params, state))
    return {name: value.shape for name, value in to_state_dict(method, *zeros).items()}


def _spare(method: Method) -> set[str]:
    """Published names of the tensors that no loss depends on."""
    return {name for name, path, _ in method.weight_names if path.startswith(method.untrained)}


def _tower(
    source: str,
    read: Mapping[str, Any],
    ours: str,
    prefixes: tuple[str, ...],
    tensors: Mapping[str, np.ndarray],
    spare: set[str],
) -> dict[str, np.ndarray]:
    """The tensors of one tower from what a file holds, under our published names.

    Those that nothing uses, `spare`, may be missing.
    """
    found = {_modern(name): value for name, value in normalize(read, where=source).items()}
    wanted = [name[len(ours) :] for name in tensors if name.startswith(ours)]
    prefix = max(prefixes, key=lambda prefix: sum(prefix + name in found for name in wanted))
    theirs = {ours + name: found[prefix + name] for name in wanted if prefix + name in found}
    shapes = {name: tensors[name].shape for name in tensors if name.startswith(ours)}
    theirs = _fit_positions(theirs, shapes, source)
    problems = [f"missing {name}" for name in shapes if name not in theirs and name not in spare]
    problems += [
        f"misshaped {name}: {theirs[name].shape} where {shape} is expected"
        for name, shape in shapes.items()
        if name in theirs and theirs[name].shape != shape
    ]
    if problems:
        hint = recognized(found, None)
        listed = "\n  ".join(problems)
        raise UserError(f"{source} does not fit the tower {ours}*.{hint}\n  {listed}")
    return theirs


class _ImageTower(NamedTuple):
    """An image tower under our own names.

    Attributes:
      config: its sizes and form.
      leaves: arrays by path, "visual/..." of parameters and batch statistics.
      aligned: how its positions are resized, see `resize_positions`.
    """

    config: Any
    leaves: Mapping[str, Any]
    aligned: bool


def _image_source(source: str, method: Method) -> _ImageTower | dict[str, Any]:
    """The image tower of a workdir or of a file; all tensors where the method has their names.

    Only dual encoders have names of their own, CLIP's and torchvision's. Pooling is the method's.
    """
    path = find_weights(source).path
    if path.is_dir() and not holds_weights(path):
        from retfm_jax.runtime.checkpoints import load_network

        params, stats, meta = load_network(path)
        config = from_dict(meta["config"]).model.image
        return _ImageTower(config, _visual(params, stats), aligned=True)
    read = read_tensors(path)
    tensors = plain_tensors(read, where=source)
    cls = get_method_class(tower_method())
    try:
        found = recognize({name: tensor.shape for name, tensor in tensors.items()})
        # Dual encoders have these names of their own.
        if method.text is not None and (found is None or found.config.pre_norm):
            return read
        form = None if found is None else found.config
        selected = cls.select(tensors, **_choices(form, method.config.image, path))
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{source} holds no image tower that can be read: {error}") from error
    params, state = from_state_dict(cls(selected.config), selected.tensors, where=source)
    leaves = _visual(params, state.batch_stats)
    aligned = found is None or LAYOUTS[found.layout].aligned
    return _ImageTower(selected.config.image, leaves, aligned)


def _choices(found: ViTConfig | None, wanted: Any, path: Path) -> dict[str, Any]:
    """What no tensor tells of a tower, and the config or a configuration beside the file does."""
    if found is None or not isinstance(wanted, ViTConfig):
        return {}
    heads = {"heads": wanted.num_heads} if found.width == wanted.width else {}
    pooling = None if "attention" in (wanted.pooling, found.pooling) else wanted.pooling
    return {"pooling": pooling, "stated": heads | tower_beside(path)}


def _visual(params: Params, stats: Mapping[str, Any]) -> dict[str, Any]:
    leaves = flatten(params) | flatten(stats)
    return {path: leaf for path, leaf in leaves.items() if path.startswith("visual/")}


def _with_tower(
    source: str, tower: _ImageTower, method: Method, params: Params, state: MethodState
) -> tuple[Params, dict[str, Any]]:
    """The network with another's image tower; the projection stays where the other has none."""
    image = method.config.image
    ours, theirs = (_form(config) for config in (image, tower.config))
    if ours != theirs:
        differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        listed = ", ".join(
            f"{key} {theirs.get(key)} where the config has {ours.get(key)}" for key in differing
        )
        raise UserError(f"{source} holds another image tower than config.model.image: {listed}")
    wanted = _visual(params, state.batch_stats)
    leaves = dict(tower.leaves)
    for positions in _POSITIONS & wanted.keys() & leaves.keys():
        rows = wanted[positions].shape[0]
        leaves[positions] = resize_positions(
            np.asarray(leaves[positions]), rows, aligned=tower.aligned, where=source
        )
    found = {path: np.shape(leaf) for path, leaf in leaves.items()}
    projection = wanted.get("visual/projection")
    if projection is not None and found.get("visual/projection") != projection.shape:
        _log.warning("%s: its image tower's projection is not used, a new one is trained", source)
        leaves["visual/projection"] = projection
        found["visual/projection"] = projection.shape
    wrong = [
        f"{path} {found.get(path, 'missing')} where {leaf.shape} is expected"
        for path, leaf in wanted.items()
        if found.get(path) != leaf.shape
    ]
    if wrong:
        raise UserError(f"{source} does not fit the image tower: {', '.join(wrong[:5])}")
    new = {path: jnp.asarray(leaves[path], leaf.dtype) for path, leaf in wanted.items()}
    params = unflatten_like(params, flatten(params) | new)
    return params, unflatten_like(state.batch_stats, flatten(state.batch_stats) | new)


#: Positions of a grid, of a vision transformer and of attention pooling.
_POSITIONS = {"visual/position_embedding", "visual/attnpool/position_embedding"}
#: What may differ: positions are resized, the pooling is how a tower is used, the rest is training.
FREE = ("image_size", "pooling", "drop_path", "patch_dropout", "remat", "norm_batch")


def _form(image: Any) -> dict[str, Any]:
    """What two towers must have in common."""
    entries = dataclasses.asdict(image) | {"kind": image.kind}
    if isinstance(image, ViTConfig):
        entries |= {"heads": image.num_heads, "mlp_width": image.hidden_width}
    return {name: value for name, value in entries.items() if name not in FREE}


def _modern(name: str) -> str:
    """BERT checkpoints of TensorFlow's time call a norm's scale gamma and its bias beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _fit_positions(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], source: str
) -> dict[str, np.ndarray]:
    """Position embeddings of another image size or text length, made to fit.

    A ViT's grid is interpolated; a BERT's first positions are kept.
    """
    fitted = dict(tensors)
    for name, value in tensors.items():
        if name not in shapes or value.shape == shapes[name]:
            continue
        if name.endswith("positional_embedding") and value.shape[1:] == shapes[name][1:]:
            fitted[name] = resize_positions(value, shapes[name][0], where=f"{source}: {name}")
        elif name.endswith("position_embeddings.weight") and len(value) > shapes[name][0]:
            fitted[name] = value[: shapes[name][0]]
    return fitted
