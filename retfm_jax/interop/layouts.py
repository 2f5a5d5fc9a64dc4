"""Layouts of networks in foreign files: where the state dict is, and which names it has."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from retfm_jax.errors import UserError, first_of
from retfm_jax.interop.pickles import Record, is_tensor, printable
from retfm_jax.methods import get_method_class, method_names
from retfm_jax.methods.base import Published

_log = logging.getLogger(__name__)

#: Under which keys checkpoints hold what was trained; the first that holds tensors counts.
_CONTAINERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network"),
    *("teacher", "student", "weights", "params", "state", "ema_state_dict", "model_ema"),
    *("state_dict_ema", "ema_model", "ema"),
)
#: Tensors beside the network: optimizer states, random number generators.
_BESIDE = re.compile(r"optim|sched|scaler|rng|amp$|loss|criterion|hyper", re.IGNORECASE)
_DEEPEST = 6
#: Attributes of all modules of a TorchScript archive.
_MOST_ENTRIES = 1_000_000

#: What wrappers put before every name, and what they put anywhere in it.
_LEADING = ("module", "model", "net", "network", "backbone")
_ANYWHERE = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
#: First words that belong to a network, not to a wrapper.
_HEADS = frozenset(
    (
        *("visual", "bert", "roberta", "vision_model", "text_model", "image_encoder", "encoder"),
        *("text_encoder", "transformer", "blocks", "embeddings", "attention", "vit", "layers"),
        *("layer1", "layer2", "layer3", "layer4", "decoder", "input_adapters", "text", "trunk"),
    )
)


def state_dict_of(value: Any, where: str, tensor: Callable[[Any], bool] = is_tensor) -> dict:
    """Tensors by name in a checkpoint, whatever else it holds beside or around them.

    Args:
      value: content of a file, or what a user gives.
      where: how messages call it.
      tensor: tells tensors from other values.

    Raises:
      UserError: there is no state dict, or its tensors have no names.
    """
    if isinstance(value, Record) and value.is_scripted:
        tensors = dict(_scripted(value, tensor))
        if not tensors:
            raise UserError(f"{where} is a TorchScript archive without any tensor")
        return tensors
    if not isinstance(value, Mapping):
        kind = value.name if isinstance(value, Record) else type(value).__name__
        kind = "one tensor without a name" if tensor(value) else kind
        raise UserError(f"{where} holds no state dict, but {printable(kind)}")
    key, found = _find(value, tensor, where, set())
    if not found:
        held = ", ".join(_shown(key) for key in list(value)[:5])
        raise UserError(f"{where} holds no state dict: no tensor is in it ({held or 'empty'})")
    unnamed = [key for key in found if not isinstance(key, str)]
    if unnamed:
        raise UserError(
            f"{where}: {key or 'its'} entries have no names: {', '.join(map(_shown, unnamed[:5]))} "
            "(a state dict has texts such as 'visual.conv1.weight')"
        )
    others = [name for name, each in found.items() if not tensor(each)]
    if others:
        _log.warning(
            "%s: passed over %d entries that are no tensors: %s",
            where,
            len(others),
            first_of([_shown(name) for name in others], 5),
        )
    return {name: each for name, each in found.items() if tensor(each)}


def _find(
    value: Mapping, tensor: Callable[[Any], bool], where: str, seen: set[int], depth: int = 0
) -> tuple[str, Mapping]:
    """The key and the mapping that holds the network's tensors; an empty one where none does."""
    if depth > _DEEPEST or id(value) in seen:
        return "", {}
    seen.add(id(value))
    inner = {
        key: each
        for key, each in value.items()
        if isinstance(each, Mapping) and isinstance(key, str) and not _BESIDE.search(key)
    }
    networks = {}
    for key in (key for key in _CONTAINERS if key in inner):
        subkey, found = _find(inner[key], tensor, where, seen, depth + 1)
        if found:
            networks[".".join(filter(None, (key, subkey)))] = found
    if networks:
        read, *others = networks
        if others:
            _log.warning(
                "%s holds several networks: %s is read, not %s (save another one alone to take it)",
                where,
                read,
                ", ".join(others),
            )
        return read, networks[read]
    if any(tensor(each) for each in value.values()):
        return "", value
    parts = {key: _find(each, tensor, where, seen, depth + 1)[1] for key, each in inner.items()}
    parts = {key: part for key, part in parts.items() if part}
    if len(parts) == 1:
        return next(iter(parts.items()))
    # Towers that were saved side by side.
    return "", {f"{key}.{name}": each for key, part in parts.items() for name, each in part.items()}


def _scripted(root: Record, tensor: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Parameters and buffers of a TorchScript module, by their names in its state dict."""
    waiting: list[tuple[Record, str, tuple[int, ...]]] = [(root, "", ())]
    count = 0
    while waiting:
        module, prefix, above = waiting.pop()
        for name, each in (module.state if isinstance(module.state, Mapping) else {}).items():
            count += 1
            if count > _MOST_ENTRIES:
                raise UserError("the TorchScript archive holds modules without end")
            if tensor(each):
                yield f"{prefix}{name}", each
            elif isinstance(each, Record) and each.is_scripted and id(each) not in above:
                waiting.append((each, f"{prefix}{name}.", (*above, id(each))))


def _shown(key: Any) -> str:
    return printable(key, 80) if isinstance(key, str) else printable(repr(key), 80)


def plain_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Removes from names what data-parallel training, compilation and trainers put around them.

    `module.`, `_orig_mod.`, `model.` and their like are removed, in any order and as often as they
    occur. So is a first word that all names share, where no network's names begin with it.

    Args:
      names: tensors' names in a file.
      where: how messages call the file.

    Returns:
      the plain name of every name.

    Raises:
      UserError: two names become one.
    """
    plain = {}
    for name in names:
        parts = _ANYWHERE.sub("", name).split(".")
        while len(parts) > 1 and parts[0] in _LEADING:
            parts = parts[1:]
        plain[name] = parts
    while plain:
        firsts = {parts[0] for parts in plain.values()}
        shared = len(firsts) == 1 and len(plain) > 1 and min(map(len, plain.values())) > 1
        if not shared or firsts & _HEADS:
            break
        plain = {name: parts[1:] for name, parts in plain.items()}
    found: dict[str, str] = {}
    for name, parts in plain.items():
        other = found.setdefault(".".join(parts), name)
        if other != name:
            raise UserError(
                f"{where} holds {_shown(other)} and {_shown(name)}, which are both "
                f"{_shown('.'.join(parts))}: save one of the two networks alone"
            )
    return {name: short for short, name in found.items()}


# Chinese-CLIP as it was published, and as transformers names it; the first that matches counts.
_CHINESE_CLIP = (
    ("bert.{rest}", "text_model.{rest}"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.ln_pre.{rest}", "vision_model.pre_layrnorm.{rest}"),  # so it is spelled there
    ("visual.ln_post.{rest}", "vision_model.post_layernorm.{rest}"),
    ("{block}.{n}.attn.out_proj.{rest}", "{layer}.{n}.self_attn.out_proj.{rest}"),
    ("{block}.{n}.ln_1.{rest}", "{layer}.{n}.layer_norm1.{rest}"),
    ("{block}.{n}.ln_2.{rest}", "{layer}.{n}.layer_norm2.{rest}"),
    ("{block}.{n}.mlp.c_fc.{rest}", "{layer}.{n}.mlp.fc1.{rest}"),
    ("{block}.{n}.mlp.c_proj.{rest}", "{layer}.{n}.mlp.fc2.{rest}"),
)
# The image tower as timm names it; likewise.
_TIMM = (
    ("visual.class_embedding", "cls_token"),
    ("visual.positional_embedding", "pos_embed"),
    ("visual.conv1.weight", "patch_embed.proj.weight"),
    ("visual.ln_pre.{rest}", "norm_pre.{rest}"),
    ("visual.ln_post.{rest}", "norm.{rest}"),
    ("visual.proj", "head.weight"),
    ("{block}.{n}.attn.in_proj_{rest}", "blocks.{n}.attn.qkv.{rest}"),
    ("{block}.{n}.attn.out_proj.{rest}", "blocks.{n}.attn.proj.{rest}"),
    ("{block}.{n}.ln_1.{rest}", "blocks.{n}.norm1.{rest}"),
    ("{block}.{n}.ln_2.{rest}", "blocks.{n}.norm2.{rest}"),
    ("{block}.{n}.mlp.c_fc.{rest}", "blocks.{n}.mlp.fc1.{rest}"),
    ("{block}.{n}.mlp.c_proj.{rest}", "blocks.{n}.mlp.fc2.{rest}"),
)
_WORDS = {"block": "visual.transformer.resblocks", "layer": "vision_model.encoder.layers"}


def _pattern(template: str) -> re.Pattern:
    for word, text in _WORDS.items():
        template = template.replace(f"{{{word}}}", text)
    pattern = re.escape(template).replace(r"\{n\}", r"(?P<n>\d+)")
    return re.compile(pattern.replace(r"\{rest\}", r"(?P<rest>.*)"))


def _renamed(name: str, table: Iterable[tuple[re.Pattern, str]]) -> str:
    for pattern, other in table:
        match = pattern.fullmatch(name)
        if match:
            return other.format(**_WORDS, **match.groupdict())
    return name


_TO_CHINESE_CLIP = tuple((_pattern(ours), theirs) for ours, theirs in _CHINESE_CLIP)
_FROM_CHINESE_CLIP = tuple((_pattern(theirs), ours) for ours, theirs in _CHINESE_CLIP)
_FROM_TIMM = tuple((_pattern(theirs), ours) for ours, theirs in _TIMM)
#: Matrices there, linear layers with transformers: (in, out) becomes (out, in).
_PROJECTIONS = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}
_FROM_PROJECTIONS = {theirs: ours for ours, theirs in _PROJECTIONS.items()}
_FUSED = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_PARTS = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")


def to_chinese_clip(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gives tensors of the published layout the names of `transformers.ChineseCLIPModel`.

    Args:
      tensors: by published name; projections are transposed, fused query-key-value tensors split.
    """
    renamed = {}
    for name, value in tensors.items():
        fused = _FUSED.fullmatch(name)
        if fused:
            attention = f"vision_model.encoder.layers.{fused[1]}.self_attn"
            for part, piece in zip("qkv", np.split(value, 3), strict=True):
                renamed[f"{attention}.{part}_proj.{fused[2]}"] = piece
        elif name in _PROJECTIONS:
            renamed[_PROJECTIONS[name]] = value.T
        else:
            renamed[_renamed(name, _TO_CHINESE_CLIP)] = value
    return renamed


def is_hugging_face_clip(names: Iterable[str]) -> bool:
    """Tells whether an image or text tower has the names of CLIP models in transformers.

    Args:
      names: plain names of tensors.
    """
    return any(re.match(r"(vision|text)_model\.(embeddings|encoder)\.", name) for name in names)


def from_chinese_clip(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inverts `to_chinese_clip`; tensors that it does not know keep their names.

    Args:
      tensors: by the names of `transformers.ChineseCLIPModel`.
    """
    renamed: dict[str, np.ndarray] = {}
    pieces: dict[str, dict[str, np.ndarray]] = {}
    for name, value in tensors.items():
        part = _PARTS.fullmatch(name)
        if part:
            fused = f"visual.transformer.resblocks.{part[1]}.attn.in_proj_{part[3]}"
            pieces.setdefault(fused, {})[part[2]] = value
        elif name in _FROM_PROJECTIONS and value.ndim == 2:
            renamed[_FROM_PROJECTIONS[name]] = value.T
        else:
            renamed[_renamed(name, _FROM_CHINESE_CLIP)] = value
    for fused, parts in pieces.items():
        if len(parts) == 3 and len({value.shape[1:] for value in parts.values()}) == 1:
            renamed[fused] = np.concatenate([parts[part] for part in "qkv"])
        else:
            layer = fused.split(".")[3]
            attention = f"vision_model.encoder.layers.{layer}.self_attn"
            kind = fused.rsplit("_", 1)[1]
            renamed |= {f"{attention}.{part}_proj.{kind}": each for part, each in parts.items()}
    return renamed


def is_timm_clip(names: Iterable[str]) -> bool:
    """Tells whether these are timm's names of CLIP's vision transformer.

    That network has a norm before its blocks; RETFound and most others do not, and are other
    networks.

    Args:
      names: plain names of tensors.
    """
    return {"norm_pre.weight", "cls_token", "patch_embed.proj.weight"} <= set(names)


def from_timm_clip(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Gives timm's image tower of CLIP's form its published names; other tensors keep theirs.

    A warning is logged: that the tower was trained with QuickGELU is assumed, as no name tells it.

    Args:
      tensors: by plain name.
      where: how the warning calls the file.
    """
    _log.warning(
        "%s has timm's names of CLIP's vision transformer; that it was trained with QuickGELU, as "
        "OpenAI's, is a guess: no name tells it",
        where,
    )
    renamed = {}
    for name, value in tensors.items():
        name = _renamed(name, _FROM_TIMM)
        if name in ("visual.class_embedding", "visual.positional_embedding"):
            value = value.reshape(value.shape[1:] if value.ndim == 3 else value.shape)
            value = value[0] if name == "visual.class_embedding" and value.ndim == 2 else value
        elif name == "visual.proj":
            value = value.T
        renamed[name] = value
    return renamed


_TOWER = (
    "Give it as config.init.image of an experiment, beside a text tower as config.init.text, or "
    "nothing for one that learns from the beginning"
)
_ALONE = (
    "Read its image tower without naming a method, or give it as config.init.image of an "
    "experiment whose image tower has its form"
)
_OTHER = "Such a network does not exist here, and its weights are not read"
#: What names give away, in the order in which it is asked: names of which every one must be there
#: (patterns), what it is, and what can be done with it.
_FOREIGN: tuple[tuple[tuple[str, ...], str, str], ...] = (
    ((r"input_adapters\.",), "a MultiMAE network (MIRAGE, EyeFM)", _OTHER),
    ((r".*lora_vit\.",), "RetiZero, RETFound with low-rank updates", _ALONE),
    (
        (r"(.*\.)?patch_embed\.proj\.weight", r"(.*\.)?blocks\.\d+\."),
        "a timm vision transformer (RETFound, VisionFM, UrFound, DINOv2, MAE and others)",
        _ALONE,
    ),
    (
        (r"(.*\.)?embeddings\.(cls_token|patch_embeddings\.)",),
        "a vision transformer of transformers (ViT, DINOv2, MAE)",
        _ALONE,
    ),
    ((r"vision_model\.head\.probe",), "SigLIP", _ALONE),
    (
        (r"visual\.", r"token_embedding\.weight"),
        "OpenAI's CLIP, whose text tower is no BERT",
        f"Its image tower can be used. {_ALONE}",
    ),
    (
        (r"(visual|vision_model)\.", r"(bert|text_model)\.embeddings\.token_embedding\.weight"),
        "transformers' CLIPModel, whose text tower is no BERT",
        f"Its image tower can be used. {_ALONE}",
    ),
)
#: What is asked after the published systems of the methods.
_TOWERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    ((r"visual\.",), "an image tower of CLIP's form, without a text tower", _TOWER),
    (
        (r"(layer1\.0\.|conv1\.weight$)",),
        "a residual network of torchvision, an image tower alone",
        "Give it as config.init.image of an experiment with such a network",
    ),
    (
        (r"((bert|roberta|text_model)\.)?embeddings\.word_embeddings\.weight",),
        "a BERT, a text tower alone",
        "Give it as config.init.text of an experiment",
    ),
)


def method_of(names: Iterable[str]) -> str:
    """Method whose published weights have such names, or else the one that takes any image tower.

    Args:
      names: plain names of a file's tensors.
    """
    names = list(names)
    if is_hugging_face_clip(names):
        names += [_renamed(name, _FROM_CHINESE_CLIP) for name in names]
        names += [ours for theirs, ours in _FROM_PROJECTIONS.items() if theirs in names]
    for name, published in _published():
        if _matches(published.signature, names):
            return name
    return tower_method()


def tower_method() -> str:
    """The method that takes the image tower of any system."""
    classes = ((name, get_method_class(name)) for name in method_names())
    return next(name for name, cls in classes if cls.takes_towers and not cls.needs_head)


def _matches(patterns: Iterable[str], names: list[str]) -> bool:
    return all(any(re.match(pattern, name) for name in names) for pattern in patterns)


def recognized(names: Iterable[str], method: str | None) -> str:
    """Describes what a file that does not fit a method seems to be, and how it can be used.

    Args:
      names: plain names of its tensors.
      method: that it was taken for; None where a tower was taken from it.

    Returns:
      sentences to append to a message; empty where the names tell nothing, or fit `method`.
    """
    names = list(names)
    systems = ((p.signature, p.title, _as_method(name)) for name, p in _published())
    for patterns, what, advice in (*_FOREIGN, *systems, *_TOWERS):
        if _matches(patterns, names):
            if method is None:
                return f" By its names it is {what}. {advice}." if advice == _OTHER else ""
            if advice == _as_method(method):
                return ""
            return f" By its names it is {what}. {advice}."
    return ""


def _published() -> list[tuple[str, Published]]:
    """Methods that read weights, and of which systems; one that another one contains stands later.

    A system that adds to another one has the longer signature.
    """
    found = ((name, get_method_class(name).published) for name in method_names())
    known = [(name, published) for name, published in found if published is not None]
    return sorted(known, key=lambda each: -len(each[1].signature))


def _as_method(name: str) -> str:
    return f"Read it with method {name}"
