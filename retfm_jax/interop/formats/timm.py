"""An image tower as a folder that `timm.create_model` opens."""

import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.files import read_json, write_json
from retfm_jax.interop.formats.base import Exported, Form
from retfm_jax.interop.formats.towers import (
    classes_head,
    image_tower_of,
    pixels_of,
    require_terms,
    tower_tensors,
)
from retfm_jax.interop.layouts import tower_method
from retfm_jax.interop.state_dict import from_state_dict
from retfm_jax.interop.weights import read_tensors, write_tensors
from retfm_jax.methods import get_method_class
from retfm_jax.methods.outputs import (
    CLASS_PROBABILITIES,
    IMAGE_EMBEDDING,
    IMAGE_FEATURES,
    ImageTower,
    Unit,
)
from retfm_jax.models.resnet import ClipResNetConfig, ResNetConfig
from retfm_jax.models.vit import ViTConfig

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
#: Entry of the configuration that is ours.
_OWN = "retfm_jax"
_POOLS = {"class": "token", "mean": "avg", "mean_norm": "avg", "attention": "map"}
#: Architectures whose norms add so much to the variance; all else is an argument.
_BY_EPSILON = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_quickgelu_224"}
#: The one with gated maps.
_GATED = "vit_giant_patch14_dinov2"
#: Share of the short side that is cropped, as `data.images.center_crop` does.
_CROP = 224 / 256


class Timm(Form):
    """Configuration and weights of an image tower, and its head for classes."""

    name, library = "timm", "timm"

    def check(self, network: Exported) -> None:
        """See `Form.check`."""
        network.require_told(self.name)
        network.require_vectors(self.name)
        config = image_tower_of(network).config
        if isinstance(config, ViTConfig):
            _architecture(config)
        elif isinstance(config, ClipResNetConfig):
            raise UserError(
                "timm calls the tensors of CLIP's residual networks otherwise, and that is not "
                "written here: export to torch or onnx"
            )
        elif config.width != 64:
            raise UserError(
                f"timm's residual networks begin with 64 channels, this one with {config.width}: "
                "export to torch or onnx"
            )
        if network.decisions is not None:
            classes_head(network)
        require_terms(network, self.name)

    def write(self, folder: pathlib.Path, network: Exported, photographs: Sequence[bytes]) -> None:
        """See `Form.write`."""
        config = image_tower_of(network).config
        if isinstance(config, ViTConfig):
            tensors, said = _vit(network, config)
            head = "head"
        else:
            assert isinstance(config, ResNetConfig)
            tensors, head = tower_tensors(network, None), "fc"
            said = {
                "architecture": "resnet50",
                "num_features": config.features,
                "global_pool": "avg",
                "model_args": {"layers": list(config.stages)},
            }
        classes = 0
        if network.decisions is not None:
            weight, bias = classes_head(network)
            tensors |= {f"{head}.weight": weight, f"{head}.bias": bias}
            said["label_names"] = list(network.decisions.classes)
            classes = len(bias)
        elif f"{head}.weight" in tensors:  # the projection
            classes = len(tensors[f"{head}.weight"])
            tensors[f"{head}.bias"] = np.zeros(classes, np.float32)
        said |= {"num_classes": classes, "pretrained_cfg": _preprocessing(network, classes, head)}
        outcome = network.decisions and network.decisions.outcome
        said[_OWN] = {"outcome": outcome, "projects": _projects(network), "head": head}
        said[_OWN] |= _form(config)
        write_tensors(
            folder / _WEIGHTS, {name: np.array(x, order="C") for name, x in tensors.items()}
        )
        write_json(folder / _CONFIG, said)

    def run(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """See `Form.run`: by timm where it is installed, else what is written is read back."""
        said = read_json(folder / _CONFIG)
        pixels = pixels_of(folder, photographs)
        run = _by_timm if _timm_version() else _read_back
        features, logits = run(folder, said, pixels)
        outputs = {IMAGE_FEATURES: features}
        if logits is None:
            return outputs
        if said[_OWN]["outcome"] is not None:
            findings = said[_OWN]["outcome"] == "findings"
            powers = np.exp(-logits if findings else logits - logits.max(1, keepdims=True))
            shares = 1 / (1 + powers) if findings else powers / powers.sum(1, keepdims=True)
            outputs[CLASS_PROBABILITIES] = shares
        elif said[_OWN]["projects"]:
            norms = np.linalg.norm(logits, axis=1, keepdims=True)
            outputs[IMAGE_EMBEDDING] = logits / norms
        return outputs

    def measured(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, Any]:
        """Says who computed the outputs that were compared; see `Form.measured`."""
        version = _timm_version()
        return {"read_by": f"timm {version}" if version else "retfm_jax, as timm was not installed"}

    def readme(self, network: Exported, measured: Mapping[str, Any]) -> list[str]:
        """See `Form.readme`."""
        lines = [
            "```python",
            "import timm",
            "",
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
            "data = timm.data.resolve_model_data_config(model)",
            "transform = timm.data.create_transform(**data, is_training=False)",
            "```",
            "",
        ]
        if network.decisions is not None:
            findings = network.decisions.outcome == "findings"
            function = "sigmoids" if findings else "softmax"
            lines.append(
                f"The {function} of `model(images)` are the calibrated probabilities: the head is "
                "divided by the temperature. Thresholds and prediction sets are in `classes.json`."
            )
        elif _projects(network):
            lines.append("`model(images)` are embeddings before they are divided by their norm.")
        else:
            lines.append("`model(images)` are image features.")
        return [*lines, "", f"The outputs below were computed by {measured['read_by']}."]


def _timm_version() -> str | None:
    try:
        return importlib.metadata.version("timm")
    except importlib.metadata.PackageNotFoundError:
        return None


def _projects(network: Exported) -> bool:
    """Whether the image embedding is the tower's projection, divided by its norm."""
    if network.decisions is not None or not isinstance(image_tower_of(network).config, ViTConfig):
        return False
    (output,) = (each for each in network.told(ImageTower) if each.name == IMAGE_EMBEDDING)
    tower, *steps = output.steps
    return isinstance(tower, ImageTower) and tower.projected and steps == [Unit()]


def _form(config: Any) -> dict[str, Any]:
    """What names and shapes do not tell of a vision transformer."""
    if not isinstance(config, ViTConfig):
        return {}
    form = {"activation": config.activation, "norm_eps": config.norm_eps}
    return {"pooling": config.pooling, "heads": config.num_heads, "form": form}


def _architecture(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    """timm's nearest architecture, and what is different.

    Raises:
      UserError: timm's vision transformers have no such form.
    """
    gated = config.activation == "swiglu"
    problem = None
    if config.positions != "learned":
        problem = "rotations for positions"
    elif config.norm_eps not in _BY_EPSILON or (gated and config.norm_eps != 1e-6):
        problem = f"norm_eps {config.norm_eps:g}"
    elif config.pre_norm and config.patch_bias:
        problem = "bias of patches before a first norm"
    elif gated and config.pooling == "attention":
        problem = "attention pooling with gated maps"
    if problem is not None:
        raise UserError(
            f"timm's vision transformers, as they can be described in a file, have no {problem}: "
            "export to torch or onnx"
        )
    arguments: dict[str, Any] = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.layers,
        "num_heads": config.num_heads,
        "mlp_ratio": (2 if gated else 1) * config.hidden_width / config.width,
        "qkv_bias": config.qkv_bias,
        "init_values": 1e-5 if config.layer_scale else None,
        "class_token": config.class_token,
        "reg_tokens": config.registers,
        "no_embed_class": not config.class_position or config.registers > 0,
        "pre_norm": config.pre_norm,
        "global_pool": _POOLS[config.pooling],
        "fc_norm": config.pooling == "mean_norm",
    }
    if gated:
        return _GATED, arguments
    return _BY_EPSILON[config.norm_eps], arguments | {"act_layer": config.activation}


def _vit(network: Exported, config: ViTConfig) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and configuration of a vision transformer."""
    architecture, arguments = _architecture(config)
    tensors = tower_tensors(network, "timm", projection=_projects(network))
    if not config.patch_bias and not config.pre_norm:
        tensors["patch_embed.proj.bias"] = np.zeros(config.width, np.float32)
    if config.registers and config.class_position:  # timm has no position for either
        positions = tensors["pos_embed"]
        tensors["cls_token"] = tensors["cls_token"] + positions[:, :1]
        tensors["pos_embed"] = positions[:, 1:]
    return tensors, {
        "architecture": architecture,
        "num_features": config.width,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
    }


def _preprocessing(network: Exported, classes: int, head: str) -> dict[str, Any]:
    image = network.data.image
    crops = image.resize == "crop"
    return dict(
        input_size=[3, image.size, image.size],
        fixed_input_size=head == "head",
        interpolation="bilinear" if image.resize == "squash_bilinear" else "bicubic",
        crop_pct=_CROP if crops else 1.0,
        crop_mode="center" if crops else "squash",
        mean=list(image.mean),
        std=list(image.std),
        num_classes=classes,
        first_conv="patch_embed.proj" if head == "head" else "conv1",
        classifier=head,
    )


def _by_timm(
    folder: pathlib.Path, said: Mapping[str, Any], pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Features and logits by timm itself."""
    timm: Any = importlib.import_module("timm")
    import torch

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        tokens = model.forward_features(torch.from_numpy(pixels))
        features = model.forward_head(tokens, pre_logits=True)
        logits = model.forward_head(tokens) if said["num_classes"] else None
    return features.numpy(), None if logits is None else logits.numpy()


def _read_back(
    folder: pathlib.Path, said: Mapping[str, Any], pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Features and logits by this package, of what the files alone tell it."""
    tensors = dict(read_tensors(folder / _WEIGHTS))
    own = said[_OWN]
    name = own["head"]
    head = [tensors.pop(f"{name}.{part}", None) for part in ("weight", "bias")]
    options: dict[str, Any] = {}
    if "form" in own:
        pooling = None if own["pooling"] == "attention" else own["pooling"]
        options = {"text_num_heads": own["heads"], "pooling": pooling, "stated": own["form"]}
    cls = get_method_class(tower_method())
    selected = cls.select(tensors, **options)
    method = cls(selected.config)
    params, state = from_state_dict(method, selected.tensors, where=str(folder / _WEIGHTS))
    given = jnp.asarray(pixels.transpose(0, 2, 3, 1))
    features = np.asarray(method.image_features(params, state, given))
    if head[0] is None or head[1] is None:
        return features, None
    return features, features @ head[0].T + head[1]


FORM = Timm()
