"""ViLReF networks as folders that `transformers.ChineseCLIPModel.from_pretrained` opens."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retfm_jax.config import DataConfig
from retfm_jax.data.text import save_tokenizer
from retfm_jax.errors import UserError
from retfm_jax.files import write_json
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.interop.weights import write_tensors
from retfm_jax.methods.method import Method, MethodState, Params
from retfm_jax.methods.vilref import Vilref, VilrefConfig
from retfm_jax.models.vit import ViTConfig

#: How transformers names what the published file holds; the first pattern that matches counts.
_RENAMED = (
    (r"bert\.(.*)", r"text_model.\1"),
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.ln_pre\.(.*)", r"vision_model.pre_layrnorm.\1"),  # so it is spelt there
    (r"visual\.ln_post\.(.*)", r"vision_model.post_layernorm.\1"),
    (r"(.*)\.attn\.out_proj\.(.*)", r"\1.self_attn.out_proj.\2"),
    (r"(.*)\.ln_([12])\.(.*)", r"\1.layer_norm\2.\3"),
    (r"(.*)\.mlp\.c_fc\.(.*)", r"\1.mlp.fc1.\2"),
    (r"(.*)\.mlp\.c_proj\.(.*)", r"\1.mlp.fc2.\2"),
)
_BLOCKS = ("visual.transformer.resblocks.", "vision_model.encoder.layers.")
#: Matrices here, linear layers there: (in, out) becomes (out, in).
_PROJECTIONS = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


def write_chinese_clip(
    folder: str | Path, method: Method, params: Params, state: MethodState, data: DataConfig
) -> None:
    """Writes configuration, weights, tokenizer and image preprocessing of a ViLReF network.

    Args:
      folder: is made; nothing may be in it.
      data: whose tokenizer and image preprocessing go with the network.

    Raises:
      UserError: another method, an image tower or a preprocessing that transformers' Chinese-CLIP
        does not have, or a folder that is not empty.
    """
    folder = Path(folder)
    if not isinstance(method, Vilref):
        raise UserError(
            f"a {method.name} network has heads that Chinese-CLIP does not have: "
            f"export it --to {method.name}"
        )
    if not isinstance(method.config.image, ViTConfig):
        raise UserError(
            "transformers' ChineseCLIPModel has no residual image tower: export the network "
            "--to vilref"
        )
    if data.image.resize != "squash":
        raise UserError(
            f"transformers' Chinese-CLIP squashes images, this network was trained with "
            f"config.data.image.resize={data.image.resize}: export it --to vilref"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder} is not empty: give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there whole.
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        tensors = to_state_dict(method, params, state)
        write_json(made / "config.json", _config(method.config, float(tensors["logit_scale"])))
        write_json(made / "preprocessor_config.json", _preprocessing(data))
        write_tensors(made / "model.safetensors", chinese_clip_tensors(tensors))
        save_tokenizer(data.text, made)
        made.chmod(0o755)
        made.replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def chinese_clip_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of the published layout under the names of `transformers.ChineseCLIPModel`."""
    renamed = {}
    for name, value in tensors.items():
        if name in _PROJECTIONS:
            renamed[_PROJECTIONS[name]] = value.T
            continue
        block = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
        if block:
            attention = f"{block[1].replace(*_BLOCKS)}.self_attn"
            for part, piece in zip("qkv", np.split(value, 3), strict=True):
                renamed[f"{attention}.{part}_proj.{block[2]}"] = piece
            continue
        for pattern, replacement in _RENAMED:
            match = re.fullmatch(pattern, name)
            if match:
                name = match.expand(replacement).replace(*_BLOCKS)
                break
        renamed[name] = value
    return renamed


def _config(config: VilrefConfig, log_scale: float) -> dict[str, Any]:
    image, text = config.image, config.text
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


def _preprocessing(data: DataConfig) -> dict[str, Any]:
    size = data.image.size
    return {
        "image_processor_type": "ChineseCLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,  # bicubic
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data.image.mean),
        "image_std": list(data.image.std),
    }
