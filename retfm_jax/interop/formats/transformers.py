"""An image tower as a folder that transformers' `AutoModel` opens."""

import contextlib
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from retfm_jax import extras
from retfm_jax.errors import UserError
from retfm_jax.files import read_json, write_json
from retfm_jax.interop.formats.base import PREPROCESSING, Exported, Form
from retfm_jax.interop.formats.torch import require_torch
from retfm_jax.interop.formats.towers import (
    classes_head,
    image_tower_of,
    pixels_of,
    require_terms,
    tower_tensors,
)
from retfm_jax.interop.huggingface import PREPROCESSOR, image_processor
from retfm_jax.interop.weights import write_tensors
from retfm_jax.methods.outputs import CLASS_PROBABILITIES, IMAGE_FEATURES
from retfm_jax.models.resnet import ClipResNetConfig, ResNetConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.models.vit_names import LAYOUTS

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_ACTIVATIONS = {
    "gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh", "swiglu": "silu"
}  # fmt: skip
#: Pixels are the same where they differ by less, of 255.
_SAME = 0.5


class _Kind(NamedTuple):
    """Model of transformers that a tower is.

    Attributes:
      model_type: its name there.
      layout: of its tensors, one of `models.vit_names.LAYOUTS`.
      entries: of its configuration.
      head: class for image classification, and what stands before the tower's names in it; None:
        there is none whose head sees what ours sees.
      beside: tensors that it has and no output depends on, by name, with their shape.
    """

    model_type: str
    layout: str
    entries: Mapping[str, Any]
    head: tuple[str, str] | None = None
    beside: Mapping[str, tuple[int, ...]] = {}


class Transformers(Form):
    """Configuration, weights and preprocessing of an image tower, and its head for classes."""

    name, library = "transformers", "transformers"

    def check(self, network: Exported) -> None:
        """See `Form.check`."""
        require_torch()
        with extras.needed("transformers"):
            import transformers  # noqa: F401
        network.require_told(self.name)
        network.require_vectors(self.name)
        config = image_tower_of(network).config
        if isinstance(config, ViTConfig):
            kind = _kind(config)
            if network.decisions is not None and (kind.head is None or not _fits(network, kind)):
                raise UserError(
                    f"transformers' {kind.model_type} has no head for classes that sees what this "
                    "network's head sees: export to timm, torch or onnx"
                )
        elif isinstance(config, ClipResNetConfig):
            raise UserError(
                "transformers has no model of CLIP's residual networks: export to torch or onnx"
            )
        elif network.decisions is not None:
            classes_head(network)
        require_terms(network, "transformers")

    def write(self, folder: pathlib.Path, network: Exported, photographs: Sequence[bytes]) -> None:
        """See `Form.write`."""
        config = image_tower_of(network).config
        if isinstance(config, ViTConfig):
            tensors, said = _vit(network, config)
        else:
            assert isinstance(config, ResNetConfig)
            tensors, said = _resnet(network, config)
        if network.decisions is not None:
            names = dict(enumerate(network.decisions.classes))
            findings = network.decisions.outcome == "findings"
            said["id2label"] = {str(number): name for number, name in names.items()}
            said["label2id"] = {name: number for number, name in names.items()}
            kind = "multi_label" if findings else "single_label"
            said["problem_type"] = f"{kind}_classification"
        write_tensors(
            folder / _WEIGHTS, {name: np.array(x, order="C") for name, x in tensors.items()}
        )
        processor = image_processor(network.data.image, "ViTImageProcessor")
        write_json(folder / PREPROCESSOR, processor)
        write_json(folder / _CONFIG, said | {"dtype": "float32"})

    def run(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """See `Form.run`; pixels are this package's, see `measured`."""
        import torch
        from transformers import AutoModel, AutoModelForImageClassification

        said = read_json(folder / _CONFIG)
        pixels = torch.from_numpy(pixels_of(folder, photographs))
        options: dict[str, Any] = {"local_files_only": True}
        if said["model_type"] == "vit":
            options["add_pooling_layer"] = False
        with _quiet(), torch.inference_mode():
            found = AutoModel.from_pretrained(folder, **options).eval()(pixel_values=pixels)
            outputs = {IMAGE_FEATURES: _features(found, said).numpy()}
            if "id2label" in said:
                model = AutoModelForImageClassification.from_pretrained(
                    folder, local_files_only=True
                )
                logits = model.eval()(pixel_values=pixels).logits
                findings = said["problem_type"].startswith("multi")
                probabilities = torch.sigmoid(logits) if findings else torch.softmax(logits, -1)
                outputs[CLASS_PROBABILITIES] = probabilities.numpy()
        return outputs

    def measured(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, Any]:
        """Compares the pixels of transformers' image processor with this package's."""
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        std = np.array(read_json(folder / PREPROCESSING)["std"], np.float32)[:, None, None]
        same = 0
        for data, ours in zip(photographs, pixels_of(folder, photographs), strict=True):
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            theirs = processor(picture, return_tensors="np")["pixel_values"][0]
            same += bool((np.abs(theirs - ours) * std * 255).max() < _SAME)
        return {"processor": {"photographs": len(photographs), "same_pixels": same}}

    def readme(self, network: Exported, measured: Mapping[str, Any]) -> list[str]:
        """See `Form.readme`."""
        counted = measured["processor"]
        classes = network.decisions is not None
        lines = [
            "```python",
            "from transformers import AutoImageProcessor, "
            + ("AutoModelForImageClassification" if classes else "AutoModel"),
            "",
            'processor = AutoImageProcessor.from_pretrained("FOLDER")',
        ]
        if classes:
            lines.append('model = AutoModelForImageClassification.from_pretrained("FOLDER")')
        else:
            lines.append('model = AutoModel.from_pretrained("FOLDER")')
        lines += ["```", ""]
        if network.decisions is not None:
            function = "sigmoids" if network.decisions.outcome == "findings" else "softmax"
            lines += [
                f"The {function} of the logits are the calibrated probabilities: the head is "
                "divided by the temperature. Thresholds and prediction sets are in `classes.json`.",
                "",
            ]
        else:
            lines += ["It is the image tower alone: it computes image features.", ""]
        lines.append(
            f"The image processor made the same pixels as retfm_jax of {counted['same_pixels']} of "
            f"{counted['photographs']} photographs; where a central crop lies between two pixels, "
            "the two round differently. Parity is of the network on the same pixels."
        )
        return lines


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences progress bars, and what transformers says of tensors that another class takes."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _features(found: Any, said: Mapping[str, Any]) -> Any:
    """What our tower calls its features, of what transformers' model gives."""
    pooled = said["retfm_jax"]["features"]
    if pooled == "mean":
        return found.last_hidden_state[:, said["retfm_jax"]["prefix_tokens"] :].mean(1)
    if pooled == "class":
        return found.last_hidden_state[:, 0]
    return found.pooler_output.flatten(1)


def _vit(network: Exported, config: ViTConfig) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and configuration of a vision transformer."""
    kind = _kind(config)
    tensors = tower_tensors(network, kind.layout)
    if not config.patch_bias and not config.pre_norm:
        rows = LAYOUTS[kind.layout].rows
        name = next(theirs for theirs, path, _ in rows if path == "patch/bias")
        tensors[name] = np.zeros(config.width, np.float32)
    for name, shape in kind.beside.items():
        tensors[name] = np.zeros(shape, np.float32)
    model = _ALONE[kind.model_type]
    if network.decisions is not None:
        assert kind.head is not None
        model, prefix = kind.head
        weight, bias = classes_head(network)
        if kind.model_type.startswith("dinov2"):  # it sees the class token and the mean
            zeros = np.zeros_like(weight)
            parts = [weight, zeros] if config.pooling == "class" else [zeros, weight]
            weight = np.concatenate(parts, axis=1)
        tensors = {f"{prefix}{name}": value for name, value in tensors.items()}
        tensors |= {"classifier.weight": weight, "classifier.bias": bias}
    pooled = config.pooling
    if kind.model_type in ("clip_vision_model", "siglip_vision_model"):
        pooled = "pooler"
    said = {
        "architectures": [model],
        "model_type": kind.model_type,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": _ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        **kind.entries,
        "retfm_jax": {"features": pooled, "prefix_tokens": config.prefix_tokens},
    }
    return tensors, said


_ALONE = {
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "dinov3_vit": "DINOv3ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "vit": "ViTModel",
}


def _kind(config: ViTConfig) -> _Kind:
    """The model of transformers that a vision transformer is.

    Raises:
      UserError: it is none, with the reason.
    """
    width, hidden = config.width, config.hidden_width
    wanted: dict[str, Any] = {"class_token": True, "class_position": True, "registers": 0}
    wanted |= {"positions": "learned", "pre_norm": False}
    wanted |= {"layer_scale": False, "pooling": ("class", "mean")}
    plain = {"intermediate_size": hidden}
    if config.pre_norm:
        wanted |= {"pre_norm": True, "patch_bias": False, "qkv_bias": True, "pooling": ("class",)}
        kind = _Kind("clip_vision_model", "huggingface_clip", plain)
    elif config.pooling == "attention":
        wanted |= {"class_token": False, "pooling": ("attention",), "qkv_bias": True}
        wanted.pop("class_position")
        kind = _Kind("siglip_vision_model", "huggingface_siglip", plain)
    elif config.positions == "rope":
        wanted |= {"positions": "rope", "layer_scale": True, "registers": config.registers}
        wanted |= {"qkv_bias": False, "activation": ("gelu", "gelu_tanh")}
        wanted.pop("class_position")
        biases = dict.fromkeys(("query_bias", "key_bias", "value_bias"), False)
        entries = {**plain, **biases, "num_register_tokens": config.registers}
        beside: dict[str, tuple[int, ...]] = {"embeddings.mask_token": (1, 1, width)}
        kind = _Kind("dinov3_vit", "huggingface_dinov3", entries, None, beside)
    elif config.layer_scale:
        gated = config.activation == "swiglu"
        wanted |= {"layer_scale": True, "registers": config.registers}
        layout = "huggingface_dinov2_swiglu" if gated else "huggingface_dinov2"
        whole = (int(4 * width * 2 / 3) + 7) // 8 * 8 if gated else hidden // width * width
        if hidden != whole:
            raise _refusal("Dinov2", f"a mlp_width of {hidden}")
        entries = {"mlp_ratio": 4 if gated else hidden // width, "use_swiglu_ffn": gated}
        entries["qkv_bias"] = config.qkv_bias
        beside = {"embeddings.mask_token": (1, width)}
        if config.registers:
            entries["num_register_tokens"] = config.registers
            head = "Dinov2WithRegistersForImageClassification", "dinov2_with_registers."
            kind = _Kind("dinov2_with_registers", layout, entries, head, beside)
        else:
            head = "Dinov2ForImageClassification", "dinov2."
            kind = _Kind("dinov2", layout, entries, head, beside)
    else:
        wanted["activation"] = ("gelu", "gelu_tanh", "quick_gelu")
        entries = plain | {"qkv_bias": config.qkv_bias}
        kind = _Kind("vit", "huggingface_vit_v5", entries, ("ViTForImageClassification", "vit."))
    for name, value in wanted.items():
        has = getattr(config, name)
        if has not in value if isinstance(value, tuple) else has != value:
            raise _refusal(_ALONE[kind.model_type], f"{name} {has}")
    return kind


def _refusal(model: str, what: str) -> UserError:
    return UserError(
        f"transformers' {model}, which is nearest to this image tower, has no {what}: export to "
        "timm, torch or onnx"
    )


def _fits(network: Exported, kind: _Kind) -> bool:
    """Whether the model's own head sees what ours sees."""
    pooling = getattr(image_tower_of(network).config, "pooling", None)
    classes_head(network)
    return pooling == "class" or kind.model_type.startswith("dinov2")


def _resnet(
    network: Exported, config: ResNetConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and configuration of torchvision's residual network."""
    tensors = {}
    for name, value in tower_tensors(network, None).items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            where = "embedder.embedder"
            kind = "convolution" if parts[0] == "conv1" else "normalization"
        else:
            stage, index, part = int(parts[0][-1]) - 1, parts[1], parts[2]
            where = f"encoder.stages.{stage}.layers.{index}."
            if part == "downsample":
                where += "shortcut"
                kind = "convolution" if parts[3] == "0" else "normalization"
            else:
                where += f"layer.{int(part[-1]) - 1}"
                kind = "convolution" if part.startswith("conv") else "normalization"
        tensors[f"{where}.{kind}.{parts[-1]}"] = value
    model = "ResNetModel"
    if network.decisions is not None:
        model = "ResNetForImageClassification"
        weight, bias = classes_head(network)
        tensors = {f"resnet.{name}": value for name, value in tensors.items()}
        tensors |= {"classifier.1.weight": weight, "classifier.1.bias": bias}
    return tensors, {
        "architectures": [model],
        "model_type": "resnet",
        "embedding_size": config.width,
        "hidden_sizes": [4 * config.width * 2**number for number in range(4)],
        "depths": list(config.stages),
        "layer_type": "bottleneck",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "retfm_jax": {"features": "pooler", "prefix_tokens": 0},
    }


FORM = Transformers()
