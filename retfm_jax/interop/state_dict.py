"""Conversion of published PyTorch state dicts to our parameters and back, by tables of names.

A row of a table is (published name, our path, transform). `{n}` in the published name counts the
layers that our array stacks on its leading axis. Transforms, theirs to ours and back:

  copy    nothing changes
  linear  (out, in) <-> (in, out)
  conv    (out, in, h, w) <-> (h, w, in, out)
  deconv  (in, out, h, w) <-> (h, w, in, out)
  token   (1, 1, d) <-> (d,)
  tokens  (1, n, d) <-> (n, d)
  int64   int64 there, int32 here

Behind a colon stands which thirds of a fused query-key-value tensor a published one is: `linear:q`,
`copy:kv`. A third that no row names is zero here, and is not written.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.interop.layouts import (
    from_chinese_clip,
    from_timm_clip,
    is_hugging_face_clip,
    is_timm_clip,
    plain_names,
    recognized,
)
from retfm_jax.interop.pickles import printable
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.models.positions import resize_grid
from retfm_jax.trees import flatten, refuse_nonfinite, unflatten_like

Names = tuple[tuple[str, str, str], ...]

#: Tensors of published files that change no output; left out where no parameter takes them.
_IGNORED = re.compile(
    r"bert\.pooler\.|(bert|text_model\.model|vision_model)\.embeddings\.position_ids$"
)

_INWARD = {
    "copy": lambda x: x,
    "linear": lambda x: x.T,
    "conv": lambda x: x.transpose(2, 3, 1, 0),
    "deconv": lambda x: x.transpose(2, 3, 0, 1),
    "token": lambda x: x[0, 0],
    "tokens": lambda x: x[0],
    "int64": lambda x: x.astype(np.int32),
}
_OUTWARD = {
    "copy": lambda x: x,
    "linear": lambda x: x.T,
    "conv": lambda x: x.transpose(3, 2, 0, 1),
    "deconv": lambda x: x.transpose(2, 3, 0, 1),
    "token": lambda x: x[None, None],
    "tokens": lambda x: x[None],
    "int64": lambda x: x.astype(np.int64),
}
#: First third and the one behind the last.
_THIRDS = {"": (0, 3), "q": (0, 1), "k": (1, 2), "v": (2, 3), "kv": (1, 3)}


class _Tensor(NamedTuple):
    """One published tensor: its name, where its values live with us, and how they are turned."""

    name: str
    path: str
    layer: int | None
    transform: str
    thirds: tuple[int, int]

    def published(self, value: np.ndarray) -> np.ndarray:
        """The tensor in PyTorch's layout, of all values at the path."""
        value = _OUTWARD[self.transform](value if self.layer is None else value[self.layer])
        if self.thirds == _THIRDS[""]:
            return value
        first, end = (len(value) // 3 * third for third in self.thirds)
        return value[first:end]


def _tensors(names: Names, leaves: Mapping[str, Any]) -> Iterator[_Tensor]:
    for published, path, transform in names:
        if path not in leaves:
            raise KeyError(f"the name table speaks of {path}, which the network does not have")
        transform, _, part = transform.partition(":")
        turned = transform, _THIRDS[part]
        if "{n}" not in published:
            yield _Tensor(published, path, None, *turned)
            continue
        for index in range(leaves[path].shape[0]):
            yield _Tensor(published.replace("{n}", str(index)), path, index, *turned)


def to_state_dict(method: Method, params: Params, state: MethodState) -> dict[str, np.ndarray]:
    """Gives a network its published names and PyTorch's layout; every value keeps its bits.

    Args:
      method: the network's method, whose `weight_names` tell names and layouts.
      params, state: arrays of the network, on one device or replicated.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in _variables(params, state).items()}
    tensors = {}
    for tensor in _tensors(method.weight_names, leaves):
        tensors[tensor.name] = np.array(tensor.published(leaves[tensor.path]), order="C")
    return tensors


def from_state_dict(
    method: Method, tensors: Mapping[str, np.ndarray], *, where: str = "state dict"
) -> tuple[Params, MethodState]:
    """Builds the parameters and state of a method from published tensors.

    Args:
      method: the network's method; all shapes come from its configuration.
      tensors: as `normalize` returns them.
      where: how errors call them.

    Raises:
      UserError: tensors are missing, extra, of another shape, or integers where the network has
        floating point, and all of them are named; or some hold NaN or infinities.
    """
    params, state = jax.eval_shape(method.init, jax.random.key(0))
    shapes = _variables(params, state)
    wanted = {tensor.name: tensor for tensor in _tensors(method.weight_names, shapes)}
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [
        f"extra {name}" for name in tensors if name not in wanted and not _IGNORED.match(name)
    ]
    parts: dict[tuple[str, int | None], list[tuple[_Tensor, np.ndarray]]] = {}
    for name, tensor in wanted.items():
        if name not in tensors:
            continue
        value, shape = tensors[name], shapes[tensor.path]
        # Nothing is allocated for a shape that a file speaks of.
        expected = tensor.published(np.broadcast_to(np.int8(0), shape.shape)).shape
        if value.shape != expected:
            problems.append(f"misshaped {name}: {value.shape} where {expected} is expected")
            continue
        if value.dtype.kind != "f" and jnp.issubdtype(shape.dtype, jnp.floating):
            problems.append(f"{value.dtype} {name}: floating point is expected; quantized?")
            continue
        parts.setdefault((tensor.path, tensor.layer), []).append((tensor, value))
    if problems:
        listed = "\n  ".join(printable(problem, 300) for problem in sorted(problems))
        hint = recognized(tensors, method.name)
        raise UserError(f"{where} does not fit a {method.name} network.{hint}\n  {listed}")
    refuse_nonfinite({name: tensors[name] for name in wanted}, where)
    layers: dict[str, dict[int | None, np.ndarray]] = {}
    for (path, layer), pieces in parts.items():
        layers.setdefault(path, {})[layer] = _fused(pieces)
    leaves = {}
    for path, members in layers.items():
        value = members[None] if None in members else np.stack([*members.values()])
        leaves[path] = jnp.asarray(value, dtype=shapes[path].dtype)
    params = unflatten_like(params, leaves)
    stats = unflatten_like(state.batch_stats, leaves)
    return params, MethodState(stats, method.init_carry(params, stats))


def _fused(pieces: list[tuple[_Tensor, np.ndarray]]) -> np.ndarray:
    """One layer's values in our layout, of the tensors that hold its thirds."""
    (tensor, value), *others = pieces
    if others or tensor.thirds != _THIRDS[""]:
        rows = len(value) // (tensor.thirds[1] - tensor.thirds[0])
        whole = np.zeros((3 * rows, *value.shape[1:]), value.dtype)
        for each, piece in pieces:
            whole[rows * each.thirds[0] : rows * each.thirds[1]] = piece
        value = whole
    return _INWARD[tensor.transform](value)


def plain_tensors(
    state_dict: Mapping[str, Any], *, where: str = "state dict"
) -> dict[str, np.ndarray]:
    """Tensors as NumPy arrays, without the prefixes of data-parallel training and trainers.

    Floating-point types of other precision become float32.

    Args:
      state_dict: tensors of PyTorch, JAX or NumPy, or numbers, by name.
      where: how errors call it.

    Raises:
      UserError: a tensor has no values that can be used, or two have one name.
    """
    plain = plain_names(state_dict, where)
    arrays: dict[str, np.ndarray] = {}
    problems = []
    for name, value in state_dict.items():
        try:
            arrays[plain[name]] = _to_numpy(value)
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            problems.append(f"{printable(name)} ({printable(error)})")
    if problems:
        raise UserError(f"{where} has tensors that cannot be used: {', '.join(problems)}")
    return arrays


def normalize(state_dict: Mapping[str, Any], *, where: str = "state dict") -> dict[str, np.ndarray]:
    """Tensors as NumPy arrays under plain published names.

    Beside what `plain_tensors` does, gives Chinese-CLIP of transformers its published names, splits
    fused query-key-value tensors of BERT, and gives `Wqkv` its plain name.

    Args:
      state_dict: tensors of PyTorch, JAX or NumPy, or numbers, by name.
      where: how errors call it.

    Raises:
      UserError: see `plain_tensors`.
    """
    arrays = plain_tensors(state_dict, where=where)
    if is_hugging_face_clip(arrays):
        arrays = from_chinese_clip(arrays)
    elif is_timm_clip(arrays):
        arrays = from_timm_clip(arrays, where)
    tensors: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        fused = re.fullmatch(r"(bert\.encoder\..*\.attention\.self)\.(?:Wqkv|qkv)\.(\w+)", name)
        if fused and array.ndim and len(array) % 3 == 0:
            for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                tensors[f"{fused[1]}.{part}.{fused[2]}"] = piece
            continue
        name = re.sub(r"\.attn\.Wqkv\.(weight|bias)$", r".attn.in_proj_\1", name)
        tensors[name] = array
    return tensors


def resize_positions(
    positions: np.ndarray,
    tokens: int,
    *,
    aligned: bool = True,
    where: str = "positional_embedding",
) -> np.ndarray:
    """Fits position embeddings of a ViT to another grid, as published.

    The class token's embedding stays; the others are interpolated bicubically (Keys' kernel,
    a = -0.75).

    Args:
      positions: (1 + g g, d), the class token first, or (g g, d) without.
      tokens: 1 + G G, or G G.
      aligned: whether the corners of both grids coincide (Chinese-CLIP), else the edges of their
        patches do (MAE, timm, DINOv2).
      where: how errors call them.

    Returns:
      (1 + G G, d) or (G G, d), of the same dtype; `positions` itself where nothing changes.

    Raises:
      UserError: one of the grids is not square.
    """
    if len(positions) == tokens:
        return positions
    first = int(math.isqrt(tokens) ** 2 != tokens)
    old, new = math.isqrt(len(positions) - first), math.isqrt(tokens - first)
    if first + old * old != len(positions) or first + new * new != tokens:
        raise UserError(
            f"{where} has {len(positions)} tokens and {tokens} are needed: both must be a square "
            "grid, with a class token or both without"
        )
    grid = positions[first:].astype(np.float64).reshape(old, old, -1)
    grid = resize_grid(grid, (new, new), aligned=aligned)
    return np.concatenate([positions[:first], grid.reshape(new * new, -1).astype(positions.dtype)])


def _variables(params: Params, state: MethodState) -> dict[str, Any]:
    return flatten(params) | flatten(state.batch_stats)


def _to_numpy(value: Any) -> np.ndarray:
    """A tensor of PyTorch, JAX or NumPy, or a number, with floats as float32.

    Raises:
      ValueError: it has no values of its own, or none that a network could take.
    """
    if hasattr(value, "detach"):
        for is_so, what in (
            (getattr(value, "is_meta", False), "a meta tensor, without values"),
            (getattr(value, "is_quantized", False), "quantized"),
            (getattr(value, "is_nested", False), "nested"),
            (str(getattr(value, "layout", "torch.strided")) != "torch.strided", "sparse"),
            (value.is_complex(), f"of the type {value.dtype}"),
            ("float8" in str(value.dtype) or "float4" in str(value.dtype), f"{value.dtype}"),
        ):
            if is_so:
                raise ValueError(what)
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    if array.dtype == np.float32 or array.dtype.kind in "iub":
        return array
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        raise ValueError(f"of the type {array.dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused by name
        return array.astype(np.float32)
