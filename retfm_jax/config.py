"""The schema of an experiment: frozen dataclasses, validation, JSON in and out."""

import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import json
import math
import os
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import Path, PathLike, as_path, local_file, read_json
from retfm_jax.methods import get_method_class, method_names
from retfm_jax.ranges import (
    LARGEST,
    Count,
    Few,
    FewOrNone,
    Filled,
    Increasing,
    Name,
    NonNegative,
    Positive,
    PositiveFloat,
    PositiveShare,
    Range,
    RangeError,
    Rate,
    Section,
    Seed,
    Share,
    hints,
)

#: Devices along an axis of the mesh; -1 for those that are left.
_Axis = Annotated[int, Range(low=1, high=LARGEST, also=(-1,))]

#: Mean and standard deviation of CLIP's training images, RGB, values 0..1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ImageConfig(Section):
    """How a photograph becomes the network's input.

    Attributes:
      size: height and width in pixels.
      resize: "squash" to size x size with Pillow's bicubic filter (RET-CLIP, ViLReF), or "pad":
        long side to size with an antialiased bilinear filter, zeros at right and bottom (KeepFIT).
      mean, std: of the channels R, G, B, for values 0..1.
    """

    size: Annotated[int, Range(low=1, high=16384)] = 224
    resize: Literal["squash", "pad"] = "squash"
    mean: tuple[Share, Share, Share] = CLIP_MEAN
    std: tuple[PositiveShare, PositiveShare, PositiveShare] = CLIP_STD


@dataclasses.dataclass(frozen=True)
class TextConfig(Section):
    """How a report becomes token ids.

    Attributes:
      tokenizer: "bert-base-chinese" (the bundled vocabulary), or a vocabulary file or folder.
      context_length: tokens with [CLS] and [SEP]; longer reports are cut, shorter ones padded.
    """

    tokenizer: Name = "bert-base-chinese"
    context_length: Annotated[int, Range(low=3, high=LARGEST)] = 100


@dataclasses.dataclass(frozen=True)
class AugmentConfig(Section):
    """Random changes to training images; every range of 0 switches its change off.

    Attributes:
      crop_area: smallest and largest share of the area that a random resized crop keeps.
      flip: "exchange" mirrors both eyes of a patient and swaps left and right, in the report too;
        "independent" flips each image on its own (as published for RET-CLIP, which contradicts
        laterality); "none".
      flip_probability: chance of the flip.
      brightness, contrast, saturation, hue: largest change by colour jitter, as in torchvision.
      colour_probability: chance that a sample is jittered.
      erasing_probability: chance that a random rectangle is erased.
      affine_probability, affine_degrees, affine_scale: random rotation and scaling.
    """

    crop_area: Annotated[tuple[PositiveShare, PositiveShare], Increasing()] = (0.9, 1.0)
    flip: Literal["exchange", "independent", "none"] = "exchange"
    flip_probability: Share = 0.5
    brightness: NonNegative = 0.2
    contrast: NonNegative = 0.2
    saturation: NonNegative = 0.2
    hue: Annotated[float, Range(low=0, high=0.5)] = 0.2
    colour_probability: Share = 1.0
    erasing_probability: Share = 0.1
    affine_probability: Share = 0.0
    affine_degrees: Annotated[float, Range(low=0, high=180)] = 5.0
    affine_scale: Annotated[tuple[PositiveFloat, PositiveFloat], Increasing()] = (0.9, 1.0)


@dataclasses.dataclass(frozen=True)
class ExpertConfig(Section):
    """The second stream of KeepFIT: expert image-text pairs, drawn with replacement.

    Attributes:
      dataset: name or folder, as that of the first stream.
      split: of it.
    """

    dataset: Name
    split: Name = "train"


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Which records are read and how.

    Attributes:
      dataset: name of a built dataset under `data_dir`, or a built dataset's folder.
      data_dir: where `retfm data build` and `retfm data import` put datasets.
      train_split, eval_split: TFDS split names; slices such as "train[:90%]" are allowed.
      language: of the reports; "mixed" draws one at random for every sample.
      vocabulary: YAML file of the conditions that reports are searched for (ViLReF); None for the
        bundled ones. Both as for `retfm label`.
      extend: YAML files that add conditions to the vocabulary, or names to its conditions.
      expert: the expert stream (KeepFIT only).
      banned_categories: categories that training leaves out, for out-of-distribution tests.
      balance_sets: draw the sets of a collection equally often, however large each is (KeepFIT).
      workers: processes that decode beside the main one; 0 uses threads only.
      threads: reading threads of a process; None for one on each core that it may use, up to 16; 0
        reads in the thread that takes batches. More pay only where records come from a slow
        network.
      prefetch: batches that are made ready ahead of the step.
    """

    dataset: Name = "synthetic_fundus"
    data_dir: Name = "datasets"
    train_split: Name = "train"
    eval_split: Name = "validation"
    language: Literal["en", "zh", "mixed"] = "zh"
    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    augment: AugmentConfig = AugmentConfig()
    vocabulary: Name | None = None
    extend: tuple[Name, ...] = ()
    expert: ExpertConfig | None = None
    banned_categories: tuple[Name, ...] = ()
    balance_sets: bool = False
    workers: FewOrNone = 0
    threads: FewOrNone | None = None
    prefetch: Few = 4


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW with linear warm-up and half a cosine to zero.

    Attributes:
      learning_rate: the largest one, after the warm-up.
      warmup_steps: steps of linear warm-up, `learning_rate * (step + 1) / warmup_steps`.
      weight_decay: of AdamW, times the learning rate.
      b1, b2: decay of AdamW's first and second moment.
      eps: added to the root of the second moment.
      decay: "published" spares tensors whose published name contains bn, ln, bias or logit_scale;
        "all" decays everything.
      clip_norm: largest global gradient norm, None for no clipping.
      frozen: path prefixes of parameters that stay as they are ("visual" freezes a tower).
    """

    learning_rate: PositiveFloat = 3e-5
    warmup_steps: Count = 50
    weight_decay: NonNegative = 1e-3
    b1: Rate = 0.9
    b2: Rate = 0.98
    eps: PositiveFloat = 1e-6
    decay: Literal["published", "all"] = "published"
    clip_norm: PositiveFloat | None = None
    frozen: tuple[Name, ...] = ()


@dataclasses.dataclass(frozen=True)
class MeshConfig(Section):
    """Sizes of the mesh axes; one of them may be -1 and takes the devices that are left.

    Attributes:
      data: devices that share the batch.
      fsdp: devices that share the parameters, and the batch too.
    """

    data: _Axis = -1
    fsdp: _Axis = 1


@dataclasses.dataclass(frozen=True)
class ProfileConfig(Section):
    """A trace window.

    Attributes:
      first_step: the first step that is traced.
      steps: how many are traced; 0 traces nothing.
    """

    first_step: Count = 10
    steps: Count = 0


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """The course of a run.

    Attributes:
      batch_size: samples of a step over all devices of all hosts.
      epochs: passes over the training split; `steps` wins where it is given.
      steps: steps of the whole run; None for as many as `epochs` need.
      horizon_epochs: length of the learning-rate schedule where it is not that of the run.
      seed: of weights, of the order of the data and of everything random.
      microbatches: parts in which a batch is encoded (gradient caching; the result is the same).
      text_multiple: padding behind the longest text of a batch, in tokens up to a multiple of this,
        is not computed where it takes no part in any embedding; None keeps the context length.
      log_every, evaluate_every, checkpoint_every: in steps; evaluate_every 0 never evaluates.
      keep: how many checkpoints stay.
    """

    batch_size: Positive = 256
    epochs: PositiveFloat = 10.0
    steps: Positive | None = None
    horizon_epochs: PositiveFloat | None = None
    seed: Seed = 0
    microbatches: Positive = 1
    text_multiple: Positive | None = 32
    log_every: Positive = 10
    evaluate_every: Count = 1000
    checkpoint_every: Positive = 1000
    keep: Positive = 3
    profile: ProfileConfig = ProfileConfig()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Section):
    """Evaluation during training and the defaults of `retfm evaluate`.

    Attributes:
      batch_size: samples embedded at a time, over all devices.
      languages: of prompts and reports.
      bootstrap: resamples behind a confidence interval.
    """

    batch_size: Positive = 256
    languages: Annotated[tuple[Literal["en", "zh"], ...], Filled()] = ("en", "zh")
    bootstrap: Positive = 1000


@dataclasses.dataclass(frozen=True)
class InitConfig(Section):
    """Where weights come from before the first step; None draws them at random.

    Attributes:
      weights: a whole network: a workdir, a checkpoint or a published file.
      image: an image tower: OpenAI CLIP, Chinese-CLIP or torchvision weights.
      text: a text tower: a Hugging Face BERT folder or file, or Chinese-CLIP weights.
    """

    weights: Name | None = None
    image: Name | None = None
    text: Name | None = None


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(Section):
    """One experiment, whole.

    Attributes:
      method: name of a method, or "module:Class" of one from outside this package.
    """

    method: str
    model: Any
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    init: InitConfig = InitConfig()


def from_dict(values: Mapping[str, Any]) -> ExperimentConfig:
    """Builds and checks an experiment from nested mappings, as a config file or JSON holds them.

    Raises:
      UserError: an unknown key (with the nearest known one), a value of the wrong type, or values
        that contradict each other.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"a config is a mapping of entries, not {type(values).__name__}")
    values = dict(values)
    method = values.get("method")
    if not isinstance(method, str):
        raise UserError(f"config.method is missing; name one of {', '.join(method_names())}")
    model = _build(get_method_class(method).config_class, values.get("model", {}), "config.model")
    config = _build(ExperimentConfig, values | {"model": model}, "config")
    _check(config)
    return config


def check_norm_batch(model: Any, batch_size: int, microbatches: int) -> None:
    """Checks that each part of a batch holds whole groups of samples that are normalised together.

    Args:
      model: configuration of a method; whose images pass no batch norms, passes.

    Raises:
      UserError: a part would need the statistics of another one.
    """
    image = getattr(model, "image", None)
    if not hasattr(image, "norm_batch"):
        return
    part, together = batch_size // microbatches, image.norm_batch or batch_size
    if part % together:
        raise UserError(
            f"config.train.microbatches {microbatches} encodes {part} samples at a time, but the "
            f"network's batch norms normalise {together} together (config.model.image.norm_batch "
            f"{'is not set' if image.norm_batch is None else image.norm_batch}): set "
            f"config.model.image.norm_batch to {part} or a divisor of it"
            + (", or config.train.microbatches to 1" if microbatches > 1 else "")
        )


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `from_dict`: nested dicts of JSON values, in which towers name their kind."""
    return json.loads(json.dumps(_named(config)))


def model_entries(model: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """A model section as `to_dict` writes it, whichever version wrote it.

    Args:
      model: dataclass of the section, `Method.config_class`.

    Raises:
      UserError: an entry is unknown, or its value cannot be.
    """
    return to_dict(_build(model, values, "config.model"))


def _named(section: Any) -> dict[str, Any]:
    named = {"kind": section.kind} if hasattr(section, "sizes") else {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        named[field.name] = _named(value) if dataclasses.is_dataclass(value) else value
    return named


def load_config(name_or_path: PathLike, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Reads a bundled experiment by name, a config file or a `config.json`, and overrides entries.

    Args:
      name_or_path: "quickstart", "path/to/config.py" (with `get_config()`) or "path/config.json".
      overrides: entries "a.b=value"; the value is read as JSON, else taken as text.

    Raises:
      UserError: no such config, a misspelt key, a value of the wrong type.
    """
    values = _read(name_or_path)
    if isinstance(overrides, str) or not all(isinstance(entry, str) for entry in overrides):
        raise UserError(f'give overrides as a list, ["train.steps=100"], not {overrides!r:.60}')
    for entry in overrides:
        key, separator, text = entry.partition("=")
        if not separator:
            raise UserError(f"--config.{entry}: give a value, --config.{key}=VALUE")
        _override(values, key, text)
    return from_dict(values)


def bundled_configs() -> list[str]:
    """Names of the experiments that come with this package."""
    from retfm_jax import configs

    return sorted(file.stem for file in as_path(configs.__file__).parent.glob("[a-z]*.py"))


def summary(name_or_path: str) -> str:
    """What a Python config says of itself in its first line; as in `load_config`."""
    path = _find(name_or_path)
    about = None if path.suffix == ".json" else _import(path).__doc__
    return (about or "").strip().partition("\n")[0]


def load_variants(name_or_path: str) -> dict[str, tuple[str, ...]]:
    """The variants that a config compares in its `get_variants()`, as overrides by name.

    Args:
      name_or_path: as in `load_config`; a Python config.

    Raises:
      UserError: no such config, or it names no variants.
    """
    path = _find(name_or_path)
    module = None if path.suffix == ".json" else _import(path)
    if not hasattr(module, "get_variants"):
        raise UserError(
            f"{path} compares nothing: give it get_variants(), which returns entries to override "
            'by the name of the variant, {"small": {"model.embed_dim": 64}, ...}'
        )
    return {
        name: tuple(f"{key}={json.dumps(value)}" for key, value in entries.items())
        for name, entries in module.get_variants().items()
    }


def _read(name_or_path: PathLike) -> dict[str, Any]:
    path = _find(name_or_path)
    if path.suffix == ".json":
        from retfm_jax.stored_paths import located

        values = read_json(path)
        values = located(values, path.parent) if isinstance(values, Mapping) else values
    else:
        module = _import(path)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path} has no get_config()")
        with _naming(path):
            values = module.get_config()
        values = values.to_dict() if hasattr(values, "to_dict") else values
    if not isinstance(values, Mapping):
        raise UserError(f"{path} must hold a mapping of entries, not {type(values).__name__}")
    return dict(values)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Names the config file in which Python fails, and the line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if path.name in frame.filename]
        line = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{path}{line}: {type(error).__name__}: {error}") from error


def _find(name_or_path: PathLike) -> Path:
    path = as_path(name_or_path)
    name_or_path = os.fspath(name_or_path)
    if path.suffix not in (".py", ".json"):
        from retfm_jax import configs

        path = as_path(configs.__file__).parent / f"{name_or_path}.py"
        if not path.is_file():
            names = bundled_configs()
            meant = did_you_mean(name_or_path, names)
            raise UserError(f"no config {name_or_path!r}{meant} (bundled: {', '.join(names)})")
    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    return path


def _import(path: Path) -> types.ModuleType:
    with local_file(path) as local:
        spec = importlib.util.spec_from_file_location(f"retfm_config_{path.stem}", local)
        module = importlib.util.module_from_spec(spec)
        with _naming(path):
            spec.loader.exec_module(module)
    return module


def _override(values: dict[str, Any], key: str, text: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if child is None:
            child = values[parent] = {}
        if isinstance(child, str):  # a size by name, of which an entry is to differ
            child = values[parent] = {"size": child}
        if not isinstance(child, dict):
            raise UserError(f"config.{key}: {parent!r} holds a value, not a section")
        values = child
    values[last] = _parsed(text)


def _parsed(text: str) -> Any:
    """A JSON value, a list or a constant as Python writes it in config files, else the text."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    if text in ("None", "True", "False") or text.startswith(("(", "[", "{")):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return ast.literal_eval(text)
    return text


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a section with entries, not {values!r}")
    types_of = hints(cls)
    known = list(types_of)
    for key in values:
        if key not in known:
            hint = difflib.get_close_matches(str(key), known, n=1)
            listed = f" (known: {', '.join(known)})"
            meant = f"; did you mean {where}.{hint[0]}?" if hint else listed
            raise UserError(f"unknown key {where}.{key}{meant}")
    required = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where}.{missing[0]} is missing")
    arguments = {
        key: _convert(types_of[key], value, f"{where}.{key}") for key, value in values.items()
    }
    try:
        return cls(**arguments)
    except RangeError as error:
        raise UserError(f"{where}.{error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Checks `value` against a field's type; sections become dataclasses, lists tuples."""
    if hint is Any:
        return value
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _convert(options[0], value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        sections = [option for option in options if dataclasses.is_dataclass(option)]
        if sections:
            return _build_tower(sections, value, where)
        (option,) = (option for option in options if option is not type(None))
        return _convert(option, value, where)
    if origin is Literal:
        if value not in options:
            allowed = ", ".join(map(repr, options))
            raise UserError(f"{where} must be one of {allowed}, not {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, not {value!r}")
        if options[-1] is not Ellipsis and len(value) != len(options):
            raise UserError(f"{where} needs {len(options)} values, not {len(value)}")
        return tuple(_convert(options[0], item, where) for item in value)
    if hasattr(hint, "sizes"):
        return _build_tower([hint], value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _build(hint, value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.inf
        if not math.isfinite(number):
            raise UserError(f"{where} must be finite, not {_short(value)}")
        return number
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise UserError(f"{where} must be {hint.__name__}, not {_short(value)}")
    return value


def _short(value: Any) -> str:
    """A value as Python writes it, cut where it fills the screen."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _build_tower(towers: Sequence[type], value: Any, where: str) -> Any:
    """Builds the sizes of one of several kinds of towers.

    The entry `kind` names the kind, `size` a published size from which the other entries differ; a
    name alone is such a size. Where neither is given, as in version 0.1, it is the kind that knows
    most of the entries.
    """
    for tower in towers:
        if isinstance(value, tower):
            return value
    value = {"size": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a section with entries, or a size, not {value!r}")
    entries = dict(value)
    kind, size = entries.pop("kind", None), entries.pop("size", None)
    if kind is not None:
        towers = [tower for tower in towers if tower.kind == kind] or _none(
            f"{where}.kind", kind, [tower.kind for tower in towers]
        )
    if size is not None:
        found = [tower for tower in towers if size in tower.sizes]
        towers = found or _none(
            f"{where}.size", size, [name for tower in towers for name in tower.sizes]
        )
        entries = {**towers[0].sizes[size], **entries}

    def unknown(tower: type) -> int:
        return len(set(entries) - {field.name for field in dataclasses.fields(tower)})

    return _build(min(towers, key=unknown), entries, where)


def _none(where: str, value: Any, known: Sequence[str]) -> typing.NoReturn:
    meant = did_you_mean(value, known) if isinstance(value, str) else ""
    raise UserError(f"{where} must be one of {', '.join(known)}, not {value!r}{meant}")


def _check(config: ExperimentConfig) -> None:
    train = config.train
    if train.batch_size % train.microbatches:
        raise UserError(
            f"config.train.batch_size {train.batch_size} does not divide into "
            f"config.train.microbatches {train.microbatches}"
        )
    check_norm_batch(config.model, train.batch_size, train.microbatches)
    _check_sizes(config)
    profile = train.profile
    if profile.steps and train.steps is not None and profile.first_step >= train.steps:
        raise UserError(
            f"config.train.profile.first_step {profile.first_step} is not before the last of "
            f"config.train.steps {train.steps}: nothing would be traced"
        )
    if [config.mesh.data, config.mesh.fsdp].count(-1) > 1:
        raise UserError("config.mesh: only one of data and fsdp can be -1")


def _check_sizes(config: ExperimentConfig) -> None:
    """Checks that what the data hands over has the sizes that the network takes."""
    image, text = getattr(config.model, "image", None), getattr(config.model, "text", None)
    size, tower = config.data.image.size, getattr(image, "image_size", None)
    if tower is not None and size != tower:
        raise UserError(
            f"config.data.image.size {size} is not config.model.image.image_size {tower}: the "
            "image tower takes images of one size, set both alike"
        )
    length, positions = config.data.text.context_length, getattr(text, "positions", None)
    if positions is not None and length > positions:
        raise UserError(
            f"config.data.text.context_length {length} is longer than the text tower's "
            f"config.model.text.positions {positions}: lower it, or raise the positions of a "
            "network that is trained from its beginning"
        )
