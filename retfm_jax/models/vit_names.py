"""Published names of vision transformers, and the form of a tower that names and shapes tell.

A layout is how one library calls the tensors of a ViT. Its table serves both directions; which of
its rows a tower has depends on the tower's form.
"""

import fnmatch
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from retfm_jax.models.layers import count_layers, majority
from retfm_jax.models.vit import ViTConfig

Names = tuple[tuple[str, str, str], ...]
Shapes = Mapping[str, tuple[int, ...]]


class Layout(NamedTuple):
    """Names of one library, relative to the tower.

    Attributes:
      title: the library, for messages.
      signature: tensors that every tower of this layout has, and no other layout.
      rows: (published name, our path, transform), of all forms; `{n}` counts blocks.
      defaults: form of its towers that no name tells, as entries of `ViTConfig`.
      aligned: whether its authors resize positions with aligned corners.
      unused: patterns of names that stand beside a tower and take no part in it.
    """

    title: str
    signature: tuple[str, ...]
    rows: Names
    defaults: Mapping[str, Any]
    aligned: bool = False
    unused: tuple[str, ...] = ()


def _linear(theirs: str, ours: str, part: str = "") -> Names:
    """A linear map's two rows; `part` is one of q, k, v of a fused map."""
    part = f":{part}" if part else ""
    return (
        (f"{theirs}.weight", f"{ours}/kernel", f"linear{part}"),
        (f"{theirs}.bias", f"{ours}/bias", f"copy{part}"),
    )


def _norm(theirs: str, ours: str) -> Names:
    return (f"{theirs}.weight", f"{ours}/scale", "copy"), (f"{theirs}.bias", f"{ours}/bias", "copy")


def _patches(theirs: str) -> Names:
    return (f"{theirs}.weight", "patch/kernel", "conv"), (f"{theirs}.bias", "patch/bias", "copy")


def _blocks(
    prefix: str,
    norms: tuple[str, str],
    qkv: str | tuple[str, str, str],
    out: str,
    mlp: tuple[str, str],
    scales: tuple[str, str] | None = None,
) -> Names:
    """Rows of the blocks, whose names begin with `prefix` and a number.

    `qkv` is what stands before "weight" of a fused map, or the names of three.
    """
    each = f"{prefix}.{{n}}."
    if isinstance(qkv, str):
        rows = [
            (f"{each}{qkv}weight", "blocks/qkv/kernel", "linear"),
            (f"{each}{qkv}bias", "blocks/qkv/bias", "copy"),
        ]
    else:
        rows = [
            row
            for part, name in zip("qkv", qkv, strict=True)
            for row in _linear(f"{each}{name}", "blocks/qkv", part)
        ]
    rows += [
        *_norm(f"{each}{norms[0]}", "blocks/ln_1"),
        *_linear(f"{each}{out}", "blocks/out"),
        *_norm(f"{each}{norms[1]}", "blocks/ln_2"),
        *_linear(f"{each}{mlp[0]}", "blocks/fc"),
        *_linear(f"{each}{mlp[1]}", "blocks/proj"),
    ]
    for number, name in enumerate(scales or (), 1):
        rows.append((f"{each}{name}", f"blocks/scale_{number}", "copy"))
    return tuple(rows)


_PLAIN = {"activation": "gelu", "norm_eps": 1e-6}
_CLIP = {"activation": "quick_gelu", "norm_eps": 1e-5}
_QKV = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
_QKV5 = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_FIRST = "encoder.layer.0"
_TIMM_HEAD = ("head.*", "head_drop.*", "mask_token", "decoder_*")
_TIMM_POOL = (
    ("attn_pool.latent", "pooling/query", "token"),
    ("attn_pool.q.weight", "pooling/qkv/kernel", "linear:q"),
    ("attn_pool.q.bias", "pooling/qkv/bias", "copy:q"),
    ("attn_pool.kv.weight", "pooling/qkv/kernel", "linear:kv"),
    ("attn_pool.kv.bias", "pooling/qkv/bias", "copy:kv"),
    *_linear("attn_pool.proj", "pooling/out"),
    *_norm("attn_pool.norm", "pooling/norm"),
    *_linear("attn_pool.mlp.fc1", "pooling/fc"),
    *_linear("attn_pool.mlp.fc2", "pooling/proj"),
)


def _timm(registers: str, scales: tuple[str, str], mlp: tuple[str, str]) -> Names:
    return (
        ("cls_token", "class_embedding", "token"),
        (registers, "registers", "tokens"),
        ("pos_embed", "position_embedding", "tokens"),
        *_patches("patch_embed.proj"),
        *_norm("norm_pre", "ln_pre"),
        *_blocks("blocks", ("norm1", "norm2"), "attn.qkv.", "attn.proj", mlp, scales),
        *_norm("norm", "ln_post"),
        ("head.weight", "projection", "linear"),
        *_TIMM_POOL,
    )


def _huggingface(blocks: Names, *, end: str = "layernorm") -> Names:
    return (
        ("embeddings.cls_token", "class_embedding", "token"),
        ("embeddings.register_tokens", "registers", "tokens"),
        ("embeddings.position_embeddings", "position_embedding", "tokens"),
        *_patches("embeddings.patch_embeddings.projection"),
        *blocks,
        *_norm(end, "ln_post"),
    )


_VIT_NORMS = ("layernorm_before", "layernorm_after")
_DINO_NORMS, _MLP = ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2")
_DINO_SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")
_DENSE = "attention.output.dense"
_HF_CLIP_BLOCKS = _blocks(
    "encoder.layers",
    ("layer_norm1", "layer_norm2"),
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.out_proj",
    _MLP,
)

LAYOUTS: dict[str, Layout] = {
    "openai": Layout(
        "OpenAI's CLIP",
        ("class_embedding", "positional_embedding", "conv1.weight"),
        (
            ("class_embedding", "class_embedding", "copy"),
            ("positional_embedding", "position_embedding", "copy"),
            ("proj", "projection", "copy"),
            *_patches("conv1"),
            *_norm("ln_pre", "ln_pre"),
            *_blocks(
                "transformer.resblocks",
                ("ln_1", "ln_2"),
                "attn.in_proj_",
                "attn.out_proj",
                ("mlp.c_fc", "mlp.c_proj"),
                ("ls_1.gamma", "ls_2.gamma"),  # as open_clip has them
            ),
            *_norm("ln_post", "ln_post"),
            ("register_tokens", "registers", "copy"),
            *_TIMM_POOL,
        ),
        _CLIP,
        aligned=True,
    ),
    "dinov2": Layout(
        "DINOv2's own code",
        ("pos_embed", "patch_embed.proj.weight", "register_tokens", "blocks.0.norm1.weight"),
        _timm("register_tokens", ("ls1.gamma", "ls2.gamma"), ("mlp.fc1", "mlp.fc2")),
        _PLAIN,
        unused=_TIMM_HEAD,
    ),
    "dinov2_swiglu": Layout(
        "DINOv2's own code",
        ("patch_embed.proj.weight", "blocks.0.mlp.w12.weight"),
        _timm("register_tokens", ("ls1.gamma", "ls2.gamma"), ("mlp.w12", "mlp.w3")),
        _PLAIN,
        unused=_TIMM_HEAD,
    ),
    "timm_dinov3": Layout(
        "timm",
        ("patch_embed.proj.weight", "reg_token", "blocks.0.gamma_1"),
        _timm("reg_token", ("gamma_1", "gamma_2"), ("mlp.fc1", "mlp.fc2")),
        {**_PLAIN, "norm_eps": 1e-5},
        unused=_TIMM_HEAD,
    ),
    "timm": Layout(
        "timm, MAE or DINOv2",
        ("patch_embed.proj.weight", "pos_embed", "blocks.0.norm1.weight"),
        _timm("reg_token", ("ls1.gamma", "ls2.gamma"), ("mlp.fc1", "mlp.fc2")),
        _PLAIN,
        unused=_TIMM_HEAD,
    ),
    "huggingface_clip": Layout(
        "CLIP in transformers",
        ("embeddings.class_embedding", "embeddings.patch_embedding.weight"),
        (
            ("embeddings.class_embedding", "class_embedding", "copy"),
            ("embeddings.position_embedding.weight", "position_embedding", "copy"),
            *_patches("embeddings.patch_embedding"),
            *_norm("pre_layrnorm", "ln_pre"),  # so it is spelled there
            *_HF_CLIP_BLOCKS,
            *_norm("post_layernorm", "ln_post"),
        ),
        _CLIP,
        unused=("embeddings.position_ids",),
    ),
    "huggingface_siglip": Layout(
        "SigLIP in transformers",
        ("embeddings.patch_embedding.weight", "head.probe"),
        (
            ("embeddings.position_embedding.weight", "position_embedding", "copy"),
            *_patches("embeddings.patch_embedding"),
            *_HF_CLIP_BLOCKS,
            *_norm("post_layernorm", "ln_post"),
            ("head.probe", "pooling/query", "token"),
            ("head.attention.in_proj_weight", "pooling/qkv/kernel", "linear"),
            ("head.attention.in_proj_bias", "pooling/qkv/bias", "copy"),
            *_linear("head.attention.out_proj", "pooling/out"),
            *_norm("head.layernorm", "pooling/norm"),
            *_linear("head.mlp.fc1", "pooling/fc"),
            *_linear("head.mlp.fc2", "pooling/proj"),
        ),
        {**_PLAIN, "activation": "gelu_tanh"},
        unused=("embeddings.position_ids",),
    ),
    "huggingface_dinov2_swiglu": Layout(
        "DINOv2 in transformers",
        ("embeddings.cls_token", "encoder.layer.0.mlp.weights_in.weight"),
        _huggingface(
            _blocks(
                "encoder.layer",
                _DINO_NORMS,
                _QKV,
                _DENSE,
                ("mlp.weights_in", "mlp.weights_out"),
                _DINO_SCALES,
            )
        ),
        _PLAIN,
        unused=("embeddings.mask_token", "classifier.*"),
    ),
    "huggingface_dinov2": Layout(
        "DINOv2 in transformers",
        ("embeddings.cls_token", "encoder.layer.0.norm1.weight", f"{_FIRST}.{_QKV[0]}.weight"),
        _huggingface(_blocks("encoder.layer", _DINO_NORMS, _QKV, _DENSE, _MLP, _DINO_SCALES)),
        _PLAIN,
        unused=("embeddings.mask_token", "classifier.*"),
    ),
    "huggingface_dinov2_v5": Layout(
        "DINOv2 in transformers 5",
        ("embeddings.cls_token", "encoder.layer.0.norm1.weight", f"{_FIRST}.{_QKV5[0]}.weight"),
        _huggingface(
            _blocks("encoder.layer", _DINO_NORMS, _QKV5, "attention.o_proj", _MLP, _DINO_SCALES)
        ),
        _PLAIN,
        unused=("embeddings.mask_token", "classifier.*"),
    ),
    "huggingface_dinov3": Layout(
        "DINOv3 in transformers",
        ("embeddings.cls_token", "layer.0.norm1.weight", "layer.0.attention.q_proj.weight"),
        (
            ("embeddings.cls_token", "class_embedding", "token"),
            ("embeddings.register_tokens", "registers", "tokens"),
            *_patches("embeddings.patch_embeddings"),
            *(
                row
                for row in _blocks(
                    "layer",
                    _DINO_NORMS,
                    _QKV5,
                    "attention.o_proj",
                    ("mlp.up_proj", "mlp.down_proj"),
                    _DINO_SCALES,
                )
                if row[0] != "layer.{n}.attention.k_proj.bias"  # there is none
            ),
            *_norm("norm", "ln_post"),
        ),
        {**_PLAIN, "norm_eps": 1e-5},
        unused=("embeddings.mask_token", "classifier.*"),
    ),
    "huggingface_vit": Layout(
        "ViT or MAE in transformers",
        ("embeddings.cls_token", "encoder.layer.0.layernorm_before.weight"),
        _huggingface(
            _blocks(
                "encoder.layer", _VIT_NORMS, _QKV, _DENSE, ("intermediate.dense", "output.dense")
            )
        ),
        {**_PLAIN, "norm_eps": 1e-12},
        unused=("pooler.*", "classifier.*", "decoder.*"),
    ),
    "huggingface_vit_v5": Layout(
        "ViT or MAE in transformers 5",
        ("embeddings.cls_token", "layers.0.layernorm_before.weight"),
        _huggingface(_blocks("layers", _VIT_NORMS, _QKV5, "attention.o_proj", _MLP)),
        {**_PLAIN, "norm_eps": 1e-12},
        unused=("pooler.*", "classifier.*", "decoder.*"),
    ),
}


#: The blocks of timm's plain transformers, as MAE's decoder has them, too.
TIMM_BLOCKS = tuple(row for row in LAYOUTS["timm"].rows if row[0].startswith("blocks."))


def names(
    config: ViTConfig, layout: str = "openai", prefix: str = "", *, projection: bool = True
) -> Names:
    """Table of names of a tower, in rows of (published name, our path, transform).

    Args:
      config: sizes and form of the tower.
      layout: one of `LAYOUTS`.
      prefix: what stands before the tower's names.
      projection: whether the tower projects its features.
    """
    there = {
        "class_embedding": config.class_token,
        "position_embedding": config.position_rows > 0,
        "registers": config.registers > 0,
        "patch/bias": config.patch_bias,
        "ln_pre": config.pre_norm,
        "blocks/qkv/bias": config.qkv_bias,
        "blocks/scale_1": config.layer_scale,
        "blocks/scale_2": config.layer_scale,
        "pooling": config.pooling == "attention",
        "projection": projection,
    }
    without = tuple(path for path, is_there in there.items() if not is_there)
    rows = []
    for published, path, transform in LAYOUTS[layout].rows:
        if any(path == each or path.startswith(f"{each}/") for each in without):
            continue
        if config.pooling == "mean_norm" and layout.startswith(("timm", "dinov2")):
            published = re.sub(r"^norm\.", "fc_norm.", published)
        rows.append((prefix + published, path, transform))
    if projection and layout == "huggingface_clip":
        rows.append((_projection_beside(prefix), "projection", "linear"))
    return tuple(rows)


def _projection_beside(prefix: str) -> str:
    """Where transformers has CLIP's projection: beside the tower, not in it."""
    return f"{prefix.removesuffix('vision_model.')}visual_projection.weight"


def infer_config(shapes: Shapes) -> ViTConfig:
    """Infers the sizes of CLIP's tower from tensors that are called as OpenAI calls them.

    Sizes are decided by majority where the tensors contradict each other.

    Args:
      shapes: of the tower's tensors, by name relative to the tower.
    """
    width = majority(shapes, (("class_embedding", 0), ("ln_*", 0), ("*.ln_?.weight", 0)), 768)
    patch = majority(shapes, (("conv1.weight", 3), ("conv1.weight", 2)), 16)
    tokens = majority(shapes, (("positional_embedding", 0),), 197)
    return ViTConfig(
        image_size=patch * math.isqrt(max(tokens - 1, 1)),
        patch_size=patch,
        width=width,
        layers=count_layers(shapes, "transformer.resblocks.") or 12,
        heads=_heads(width),
    )


def _heads(width: int) -> int | None:
    """Attention heads, which no shape tells: 64 wide but for the published H/14."""
    return 16 if width == 1280 else None if width % 64 == 0 else 1


class Found(NamedTuple):
    """Image tower that a file holds, by its names and shapes.

    Attributes:
      layout: one of `LAYOUTS`.
      prefix: before the tower's names in the file.
      config: sizes and form of the tower.
      embed_dim: width of the projected features; None without a projection.
      guesses: what neither names nor shapes tell, in words, by the entry of `config`.
    """

    layout: str
    prefix: str
    config: ViTConfig
    embed_dim: int | None
    guesses: Mapping[str, str]


def recognize(shapes: Shapes) -> Found | None:
    """Finds the vision transformer among the tensors of a file; None where there is none.

    Sizes are decided by majority, so that one misshaped tensor does not hide what all others say.

    Args:
      shapes: of all tensors of the file, by plain name.

    Raises:
      ValueError: sizes that are no tower's, such as a number of positions that is no square grid.
    """
    for layout, about in LAYOUTS.items():
        first = about.signature[0]
        prefixes = [name[: -len(first)] for name in shapes if name.endswith(first)]
        prefixes = [
            prefix
            for prefix in prefixes
            if (not prefix or prefix.endswith("."))
            and all(prefix + name in shapes for name in about.signature)
        ]
        if prefixes:
            prefix = min(prefixes, key=lambda prefix: (prefix.count("."), prefix))
            tower = {
                name[len(prefix) :]: shape
                for name, shape in shapes.items()
                if name.startswith(prefix)
            }
            return _infer(layout, prefix, tower, shapes.get(_projection_beside(prefix), ()))
    return None


def _infer(layout: str, prefix: str, tower: Shapes, beside: tuple[int, ...]) -> Found:
    about, guesses = LAYOUTS[layout], {}
    paths = _published_by_path(about)

    def shape(path: str) -> tuple[int, ...]:
        return next((tower[name] for name in paths.get(path, ()) if name in tower), ())

    def has(path: str) -> bool:
        return any(
            fnmatch.fnmatchcase(name, published.replace("{n}", "*"))
            for each, rows in paths.items()
            if each == path or each.startswith(f"{path}/")
            for published in rows
            for name in tower
        )

    blocks = paths["blocks/ln_1/scale"][0].partition("{n}")[0]
    layers = count_layers(tower, blocks)

    def votes(*paths_and_axes: tuple[str, int]) -> list[tuple[str, int]]:
        return [
            (published.replace("{n}", str(layer)), axis)
            for path, axis in paths_and_axes
            for published in paths[path]
            for layer in range(layers if "{n}" in published else 1)
        ]

    norms = votes(("blocks/ln_1/scale", 0), ("ln_post/scale", 0), ("blocks/ln_2/bias", 0))
    width = majority(tower, [*votes(("patch/kernel", 0)), *norms], 768)
    patch = majority(tower, votes(("patch/kernel", 2), ("patch/kernel", 3)), 16)
    hidden = majority(tower, votes(("blocks/proj/kernel", 1)), 4 * width)
    inner = majority(tower, votes(("blocks/fc/kernel", 0)), hidden)
    form = dict(about.defaults)
    if inner == 2 * hidden:
        form["activation"] = "swiglu"
    if layout == "timm" and has("ln_pre"):
        form |= _CLIP
        why = "as OpenAI's towers have it, because of the norm before blocks"
        guesses["activation"] = f"QuickGELU, {why}"
    class_token = has("class_embedding")
    rows = shape("position_embedding")
    positions = rows[-2] if len(rows) >= 2 else 0
    if positions:
        grid, class_position = _grid(positions)
        form["class_position"] = class_token and class_position
        size = patch * grid
    else:
        guesses["image_size"] = "images of 224 pixels"
        size = 224 // patch * patch
    pooling, guess = _pooling(tower, has("pooling"), class_token)
    if guess:
        guesses["pooling"] = guess
    heads = _heads(width)
    guesses = {"heads": f"{width // (heads or width // 64)} channels a head"} | guesses
    registers = shape("registers")
    config = ViTConfig(
        **form,
        image_size=size,
        patch_size=patch,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=None if hidden == 4 * width else hidden,
        pre_norm=has("ln_pre"),
        patch_bias=has("patch/bias"),
        qkv_bias=has("blocks/qkv/bias"),
        layer_scale=has("blocks/scale_1"),
        class_token=class_token,
        registers=registers[-2] if len(registers) >= 2 else 0,
        positions="learned" if positions else "rope",
        pooling=pooling,
    )
    projection = beside[::-1] or shape("projection")[:: 1 if layout == "openai" else -1]
    class_head = "head.bias" in tower
    embed_dim = projection[1] if len(projection) == 2 and not class_head else None
    return Found(layout, prefix, config, embed_dim, guesses)


def _grid(positions: int) -> tuple[int, bool]:
    """Patches along a side, and whether one position more is there, of the class token."""
    for class_position in (False, True):
        grid = math.isqrt(positions - class_position)
        if grid * grid + class_position == positions:
            return grid, class_position
    raise ValueError(f"{positions} positions are no square grid of patches")


def _pooling(
    tower: Shapes, attends: bool, class_token: bool
) -> tuple[Literal["class", "mean", "mean_norm", "attention"], str]:
    """How the tower's features are pooled, and what is guessed of it."""
    if attends:
        return "attention", ""
    if "fc_norm.weight" in tower:
        return "mean_norm", ""
    if any(name.startswith("decoder_") for name in tower):  # RETFound's fine-tuning does so
        return "mean_norm", "the mean of the patches and a norm of their mean as features"
    if class_token:
        return "class", "the class token as features"
    return "mean", "the mean of the patches as features"


def _published_by_path(layout: Layout) -> dict[str, list[str]]:
    paths: dict[str, list[str]] = {}
    for published, path, _ in layout.rows:
        paths.setdefault(path, []).append(published)
    return paths
