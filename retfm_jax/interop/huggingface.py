"""Networks as folders that `transformers.ChineseCLIPModel.from_pretrained` opens."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from retfm_jax.config import DataConfig, ImageConfig
from retfm_jax.data.images import short_side
from retfm_jax.data.text import is_bundled, save_tokenizer
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, absolute, as_path, read_json, whole_folder, write_json
from retfm_jax.interop.layouts import to_chinese_clip
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.interop.weights import holds_weights, write_tensors
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.models.vit import ViTConfig

#: transformers' names of activations, and ours.
_ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

#: The name of this format among those of `Published.formats`.
CHINESE_CLIP = "chinese_clip"
#: The file of a folder that holds the preprocessing.
PREPROCESSOR = "preprocessor_config.json"


def write_chinese_clip(
    folder: PathLike, method: Method, params: Params, state: MethodState, data: DataConfig
) -> None:
    """Writes configuration, weights, tokenizer and image preprocessing of a network.

    Args:
      folder: is made; nothing may be in it.
      method: the network's method, whose published format must be Chinese-CLIP.
      params, state: arrays of the network.
      data: whose tokenizer and image preprocessing go with the network.

    Raises:
      UserError: the method, the image tower or the preprocessing is none that transformers'
        Chinese-CLIP has, or the folder is not empty.
    """
    if method.published is None or CHINESE_CLIP not in method.published.formats:
        raise UserError(
            f"a {method.name} network has heads that Chinese-CLIP does not have: "
            f"export it to {method.name}"
        )
    image = method.config.image
    if not isinstance(image, ViTConfig):
        raise UserError(
            "transformers' ChineseCLIPModel has no residual image tower: export the network to "
            f"{method.name}"
        )
    if data.image.resize != "squash":
        raise UserError(
            f"transformers' Chinese-CLIP squashes images, this network was trained with "
            f"config.data.image.resize={data.image.resize}: export it to {method.name}"
        )
    processor = image_processor(data.image, "ChineseCLIPImageProcessor")
    if processor is None:
        field, contrast = data.image.field_of_view, data.image.contrast
        raise UserError(
            "transformers' Chinese-CLIP takes the photograph as it is, this network was trained "
            f"with config.data.image.field_of_view={field} and contrast={contrast}: export it to "
            f"{method.name}"
        )
    with whole_folder(folder, last="config.json") as made:
        tensors = to_state_dict(method, params, state)
        scale = float(tensors["logit_scale"])
        write_json(made / "config.json", _config(method.config, image, scale))
        write_json(made / PREPROCESSOR, processor)
        write_tensors(made / "model.safetensors", to_chinese_clip(tensors))
        save_tokenizer(data.text, made)


def _config(config: Any, image: ViTConfig, log_scale: float) -> dict[str, Any]:
    text = config.text
    return {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": log_scale,
        "text_config": {
            "model_type": "chinese_clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.num_heads,
            "intermediate_size": text.mlp_width,
            "max_position_embeddings": text.positions,
            "type_vocab_size": text.types,
            "hidden_act": "gelu",
            "hidden_dropout_prob": text.dropout,
            "attention_probs_dropout_prob": text.dropout,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        },
        "vision_config": {
            "model_type": "chinese_clip_vision_model",
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "hidden_size": image.width,
            "num_hidden_layers": image.layers,
            "num_attention_heads": image.num_heads,
            "intermediate_size": 4 * image.width,
            "projection_dim": config.embed_dim,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
    }


def image_processor(image: ImageConfig, kind: str = "CLIPImageProcessor") -> dict[str, Any] | None:
    """Preprocessing in the terms of transformers' image processors.

    Args:
      image: the preprocessing of a network.
      kind: the processor's class there.

    Returns:
      content of `PREPROCESSOR`; None where transformers has no terms for the rule, as for padding
      at right and bottom, for the crop of the field of view and for CLAHE.
    """
    side = {"height": image.size, "width": image.size}
    sizes: dict[str, dict[str, Any]] = {
        "squash": {"size": side, "resample": 3, "do_center_crop": False},
        "squash_bilinear": {"size": side, "resample": 2, "do_center_crop": False},
        "crop": {
            "size": {"shortest_edge": short_side(image.size)},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": side,
        },
    }
    changed = image.field_of_view != "whole" or image.contrast != "none"
    if image.resize not in sizes or changed:
        return None
    return {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        **sizes[image.resize],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def heads_beside(path: PathLike, section: str) -> int | None:
    """Attention heads of a tower, from the Hugging Face configuration beside weights.

    Args:
      path: a Hugging Face folder, or a weight file in one.
      section: of the tower, "text_config" or "vision_config"; a tower alone has none.

    Returns:
      their number; None where there is no such configuration, or it does not state them.

    Raises:
      UserError: the configuration cannot be read.
    """
    folder = _folder(path)
    if folder is None or not (folder / "config.json").is_file():
        return None
    read = read_json(folder / "config.json")
    tower = read.get(section, read) if isinstance(read, Mapping) else None
    return _heads(tower) if isinstance(tower, Mapping) else None


def _heads(tower: Mapping[str, Any]) -> int | None:
    heads = tower.get("num_attention_heads")
    return heads if type(heads) is int and heads > 0 else None


def tower_beside(path: PathLike) -> dict[str, Any]:
    """Entries of a vision transformer that a configuration beside its weights states.

    Names and shapes tell neither heads nor activation nor the epsilon of norms. transformers,
    open_clip and timm write some of them.

    Args:
      path: a Hugging Face folder, or a weight file in one.

    Returns:
      `heads`, `activation` and `norm_eps` of `models.vit.ViTConfig`, as far as they are stated.

    Raises:
      UserError: a configuration cannot be read, or states what no tower has here.
    """
    folder = _folder(path)
    if folder is None:
        return {}
    read = {
        name: content
        for name in ("open_clip_config.json", "config.json")
        if (folder / name).is_file() and isinstance(content := read_json(folder / name), Mapping)
    }
    ours = read.get("open_clip_config.json", {}).get("model_cfg")
    if isinstance(ours, Mapping):
        if "timm_model_name" in ours.get("vision_cfg", {}):
            return {}
        return {"activation": "quick_gelu" if ours.get("quick_gelu") else "gelu"}
    stated = read.get("config.json", {})
    if isinstance(architecture := stated.get("architecture"), str):
        clip = "_clip_" in architecture
        quick = "quickgelu" in architecture
        return {"activation": "quick_gelu" if quick else "gelu"} if clip else {}
    tower = stated.get("vision_config", stated)
    tower = tower if isinstance(tower, Mapping) else {}
    heads = _heads(tower)
    entries: dict[str, Any] = {} if heads is None else {"heads": heads}
    gated = tower.get("use_swiglu_ffn") or tower.get("use_gated_mlp")
    if not gated and (given := tower.get("hidden_act")) is not None:
        if given not in _ACTIVATIONS:
            raise UserError(
                f"{folder / 'config.json'}: hidden_act {given!r} is none of "
                f"{', '.join(_ACTIVATIONS)}, which towers have here"
            )
        entries["activation"] = _ACTIVATIONS[given]
    epsilon = tower.get("layer_norm_eps")
    if isinstance(epsilon, float) and 0 < epsilon < 1:
        entries["norm_eps"] = epsilon
    return entries


def data_beside(path: PathLike, data: DataConfig, positions: int | None) -> DataConfig:
    """Preprocessing of a Hugging Face folder, where it differs from `data`.

    The folder gives mean and standard deviation of colors, as transformers, open_clip or timm write
    them, and the length of its texts. Its
    vocabulary is taken where it is not the bundled one; the folder is then needed later, too.

    Args:
      path: a Hugging Face folder, or a weight file in one.
      data: the configuration to change; returned as it is where the folder has no preprocessing.
      positions: longest text of the network, in tokens; None: it takes no texts.

    Raises:
      UserError: a file of the folder cannot be read, or is of another kind.
    """
    folder = _folder(path)
    if folder is None:
        return data
    image, text = data.image, data.text
    for name, section, keys in _NORM:
        if not (folder / name).is_file():
            continue
        read = read_json(folder / name)
        read = read if isinstance(read, Mapping) else {}
        if section is not None and not isinstance(read.get(section), Mapping):
            continue
        found = read if section is None else read[section]
        mean, std = (_three_numbers(found.get(key)) for key in keys)
        if mean is None or std is None or min(std) <= 0:
            raise UserError(f"{folder / name} has no {' and '.join(keys)} of three numbers")
        image = dataclasses.replace(image, mean=mean, std=std)
        break
    vocabulary = any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json"))
    if positions is not None and vocabulary:
        given = dataclasses.replace(text, tokenizer=str(absolute(folder)))
        if not is_bundled(given):
            text = given
        length = _longest(folder)
        length = text.context_length if length is None else length
        text = dataclasses.replace(text, context_length=min(length, positions))
    return dataclasses.replace(data, image=image, text=text)


#: Where mean and standard deviation stand: file, section in it, and their names. The first counts.
_NORM = (
    (PREPROCESSOR, None, ("image_mean", "image_std")),
    ("open_clip_config.json", "preprocess_cfg", ("mean", "std")),
    ("config.json", "pretrained_cfg", ("mean", "std")),
)


def _folder(path: PathLike) -> Path | None:
    path = as_path(path)
    folder = path if path.is_dir() else path.parent
    return folder if holds_weights(folder) else None


def _three_numbers(values: Any) -> tuple[float, float, float] | None:
    if (
        isinstance(values, list)
        and len(values) == 3
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    ):
        return values[0], values[1], values[2]
    return None


def _longest(folder: Path) -> int | None:
    """Tokens of the longest text, where the tokenizer's configuration tells it."""
    if not (folder / "tokenizer_config.json").is_file():
        return None
    read = read_json(folder / "tokenizer_config.json")
    length = read.get("model_max_length") if isinstance(read, Mapping) else None
    # Without one transformers writes 10^30.
    return length if type(length) is int and 2 <= length < 1 << 20 else None
