"""Experiments from mappings, files and overrides, and back into JSON values."""

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
from typing import Annotated, Any, Literal, TypeGuard

from retfm_jax.config.schema import ExperimentConfig
from retfm_jax.config.stored_paths import located
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import Path, PathLike, as_path, local_file, read_json
from retfm_jax.methods import get_method_class, method_names
from retfm_jax.ranges import RangeError, hints


def from_dict(values: Mapping[str, Any]) -> ExperimentConfig:
    """Builds and checks an experiment from nested mappings, as a config file or JSON holds them.

    Args:
      values: entries by name, with "method"; absent ones take their defaults.

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
    model = build_section(
        get_method_class(method).config_class, values.get("model", {}), "config.model"
    )
    config = build_section(ExperimentConfig, values | {"model": model}, "config")
    _check(config)
    return config


def check_norm_batch(model: Any, batch_size: int, microbatches: int) -> None:
    """Checks that no group of samples that batch norms normalize together is split.

    Args:
      model: configuration of a method; one whose images pass no batch norms passes.
      batch_size: samples of a step over all devices.
      microbatches: number of microbatches in it.

    Raises:
      UserError: a microbatch holds a part of a group, and would need the statistics of another.
    """
    image: Any = getattr(model, "image", None)
    if not hasattr(image, "norm_batch"):
        return
    part, together = batch_size // microbatches, image.norm_batch or batch_size
    if part % together:
        raise UserError(
            f"config.train.microbatches {microbatches} encodes {part} samples at a time, but the "
            f"network's batch norms normalize {together} together (config.model.image.norm_batch "
            f"{'is not set' if image.norm_batch is None else image.norm_batch}): set "
            f"config.model.image.norm_batch to {part} or a divisor of it"
            + (", or config.train.microbatches to 1" if microbatches > 1 else "")
        )


def to_dict(config: Any) -> dict[str, Any]:
    """Inverts `from_dict`: nested dicts of JSON values, in which towers name their kind.

    Args:
      config: an experiment, or one of its sections.
    """
    return json.loads(json.dumps(_named(config)))


def model_entries(model: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Model section as `to_dict` writes it, whichever version wrote the given one.

    Args:
      model: dataclass of the section, `Method.config_class`.
      values: its entries by name; absent ones take their defaults.

    Raises:
      UserError: an entry is unknown, or its value is not allowed.
    """
    return to_dict(build_section(model, values, "config.model"))


def _named(section: Any) -> dict[str, Any]:
    named = {"kind": section.kind} if hasattr(section, "sizes") else {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, tuple):
            named[field.name] = [_named(v) if dataclasses.is_dataclass(v) else v for v in value]
        else:
            named[field.name] = _named(value) if dataclasses.is_dataclass(value) else value
    return named


def load_config(name_or_path: PathLike, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Reads a bundled experiment by name, a config file or a `config.json`, and overrides entries.

    Args:
      name_or_path: "quickstart", "path/to/config.py" (with `get_config()`) or "path/config.json".
      overrides: entries "a.b=value"; the value is read as JSON, else taken as text.

    Raises:
      UserError: no such config, a misspelled key, a value of the wrong type.
    """
    values = _read(name_or_path)
    if isinstance(overrides, str) or not all(isinstance(entry, str) for entry in overrides):
        raise UserError(f'give overrides as a list, ["train.steps=100"], not {overrides!r:.60}')
    for entry in overrides:
        key, separator, text = entry.partition("=")
        if not separator:
            raise UserError(f"config.{entry}: give a value, config.{key}=VALUE")
        _override(values, key, text)
    return from_dict(values)


def bundled_configs() -> list[str]:
    """Names of the experiments that come with this package, sorted."""
    from retfm_jax import configs

    return sorted(file.stem for file in as_path(configs.__file__).parent.glob("[a-z]*.py"))


def summary(name_or_path: str) -> str:
    """First line of a Python config's docstring; empty where there is none, and for JSON.

    Args:
      name_or_path: as in `load_config`.

    Raises:
      UserError: no such config, or Python fails in it.
    """
    path = _find(name_or_path)
    about = None if path.suffix == ".json" else _import(path).__doc__
    return (about or "").strip().partition("\n")[0]


def load_variants(name_or_path: str) -> dict[str, tuple[str, ...]]:
    """Variants that a config compares in its `get_variants()`, as overrides by name.

    Args:
      name_or_path: as in `load_config`; a Python config.

    Returns:
      for every variant its overrides, as `load_config` takes them.

    Raises:
      UserError: no such config, or it names no variants.
    """
    path = _find(name_or_path)
    module = None if path.suffix == ".json" else _import(path)
    if module is None or not hasattr(module, "get_variants"):
        raise UserError(
            f"{path} compares nothing: give it get_variants(), which returns entries to override "
            'by the name of the variant, {"small": {"model.embed_dim": 64}, ...}'
        )
    with _naming(path):
        variants = module.get_variants()
        return {
            name: tuple(f"{key}={json.dumps(value)}" for key, value in entries.items())
            for name, entries in variants.items()
        }


def _read(name_or_path: PathLike) -> dict[str, Any]:
    path = _find(name_or_path)
    if path.suffix == ".json":
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
        assert spec is not None
        assert spec.loader is not None
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


def build_section(section: type, values: Any, where: str) -> Any:
    """Builds and checks one section from a mapping.

    Args:
      section: its frozen dataclass.
      values: entries by name; absent ones take their defaults.
      where: what stands before an entry's name in messages, such as "config.data.image".

    Raises:
      UserError: an entry is unknown or missing, or its value is not allowed.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a section with entries, not {values!r}")
    types_of = hints(section)
    known = list(types_of)
    for key in values:
        if key not in known:
            hint = difflib.get_close_matches(str(key), known, n=1)
            listed = f" (known: {', '.join(known)})"
            meant = f"; did you mean {where}.{hint[0]}?" if hint else listed
            raise UserError(f"unknown key {where}.{key}{meant}")
    required = [
        field.name
        for field in dataclasses.fields(section)
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where}.{missing[0]} is missing")
    arguments = {
        key: _convert(types_of[key], value, f"{where}.{key}") for key, value in values.items()
    }
    try:
        return section(**arguments)
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
        sections = [option for option in options if _is_section(option)]
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
        sections = _is_section(options[0])
        return tuple(
            _convert(options[0], item, f"{where}[{index}]" if sections else where)
            for index, item in enumerate(value)
        )
    if hasattr(hint, "sizes"):
        return _build_tower([hint], value, where)
    if _is_section(hint):
        return value if isinstance(value, hint) else build_section(hint, value, where)
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


def _is_section(hint: Any) -> TypeGuard[type]:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _short(value: Any) -> str:
    """A value as Python writes it, cut where it fills the screen."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _build_tower(towers: Sequence[Any], value: Any, where: str) -> Any:
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
    all_towers = towers
    if kind is not None:
        towers = [tower for tower in towers if tower.kind == kind] or _none(
            f"{where}.kind", kind, [tower.kind for tower in towers]
        )
    if size is not None and not any(tower.sizes for tower in towers):
        example = json.dumps({"kind": towers[0].kind})
        raise UserError(f"{where} must be entries in JSON, such as {example}, not {_short(size)}")
    if size is not None:
        found = [tower for tower in towers if size in tower.sizes]
        towers = found or _none(
            f"{where}.size", size, [name for tower in towers for name in tower.sizes]
        )
        entries = {**towers[0].sizes[size], **entries}

    def unknown(tower: type) -> set[str]:
        return set(entries) - {field.name for field in dataclasses.fields(tower)}

    tower = min(towers, key=lambda tower: len(unknown(tower)))
    others = {field.name for other in all_towers for field in dataclasses.fields(other)}
    if kind is not None and (foreign := unknown(tower) & others):
        whole = json.dumps({"kind": kind})
        raise UserError(
            f"{where}: a tower of kind {kind} has no {', '.join(sorted(foreign))}; where the "
            f"experiment sets these for another kind, give the entry as a whole, such as "
            f"{where}={whole}"
        )
    return build_section(tower, entries, where)


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
