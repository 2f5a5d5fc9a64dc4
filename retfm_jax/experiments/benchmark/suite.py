"""Suites: which models are compared on which tasks by which protocols, as one YAML file.

A suite of one's own is a file; those of published tables lie in `suites/` and are known by their
names. Its entries::

    title       one line
    about       what a reader should know of it, in plain text
    models      name -> what `retfm_jax.load` takes, or a mapping with the entries of `ModelEntry`
    tasks       a list of tasks (as `retfm tasks` names them, built datasets, class folders), or
                a mapping of names to such, or to the entries of `TaskEntry`
    protocols   name -> the entries of `ZeroShot`, `LinearProbe`, `FewShot`, `FineTune`, `Segment`
                or `Retrieval`; {} takes their defaults
    seed, seeds the first seed, and how many: of protocols that draw samples, and of training
    metric      the primary one of classes, by which grids are chosen on validation
    draws       of the bootstrap
    published   rows of articles that are shown beside ours, see `Published`
"""

import dataclasses
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from retfm_jax.config import build_section, to_dict
from retfm_jax.errors import UserError, did_you_mean, first_of
from retfm_jax.evaluation.metrics import mask_counts
from retfm_jax.experiments.benchmark.results import SEGMENT, Cell
from retfm_jax.files import PathLike
from retfm_jax.knowledge.prompts import PROMPT_STYLES
from retfm_jax.parsing import read_yaml
from retfm_jax.ranges import Filled, Name, Positive, PositiveFloat, Range, RangeError, Section

#: Folder of the suites that come with this package.
BUNDLED = Path(__file__).with_name("suites")
#: Metrics of a task as a whole, see `metrics.classification`.
METRICS = ("auroc", "average_precision", "aca", "accuracy", "f1", "kappa", "quadratic_kappa")

_Languages = Annotated[tuple[Literal["en", "zh"], ...], Filled()]
_Grid = Annotated[tuple[PositiveFloat, ...], Filled()]
#: Of the layers of a tower: that all of them learn.
ALL = "all"
#: Penalties of logistic regression: a decade and a half step between two of them.
STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)


@dataclasses.dataclass(frozen=True)
class ModelEntry(Section):
    """A model of a suite.

    Attributes:
      load: what `retfm_jax.load` takes: a workdir, a weight file, an address of the Hub, a name
        that `retfm models` lists.
      untrained: takes the same network with fresh weights, drawn with the suite's seed.
      method, zoo, pooling, tokenizer: as `retfm_jax.load` takes them.
      trained_on: names of the sets that it learned from; None: what its weights tell.
    """

    load: Name
    untrained: bool = False
    method: Name | None = None
    zoo: Name | None = None
    pooling: Name | None = None
    tokenizer: Name | None = None
    trained_on: tuple[Name, ...] | None = None


@dataclasses.dataclass(frozen=True)
class TaskEntry(Section):
    """A task of a suite.

    Attributes:
      dataset: a task that `retfm tasks` lists, a built dataset, or a folder of class folders.
      train, validation, test: splits; of a built dataset any TFDS splits. Without a validation
        split a share of training is taken, by patient, the same for all models.
      classes: some of the task's classes or structures, in this order; () for all of its
        structures, and for all classes that training shows.
      outcome: what the classes are to each other; None: as the labels are.
      patient_regex, follow_links: how files are read, see `data.class_files.Reading`.
      changes: entries of the configuration of all training on this task, after those of the
        protocol, such as "data.masks.geometry=whole".
    """

    dataset: Name
    train: Name = "train"
    validation: Name = "validation"
    test: Name = "test"
    classes: tuple[Name, ...] = ()
    outcome: Literal["exclusive", "findings", "grades"] | None = None
    patient_regex: Name | None = None
    follow_links: bool = False
    changes: tuple[Name, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        _check_changes(self.changes)


@dataclasses.dataclass(frozen=True)
class ZeroShot(Section):
    """Classes asked for in words; every model is asked with the same prompts.

    Attributes:
      languages: of the prompts, a cell for each.
      prompts: their style, see `knowledge.prompts.prompts_of`.
    """

    languages: _Languages = ("en", "zh")
    prompts: Name = "name"

    def __post_init__(self):
        super().__post_init__()
        if self.prompts not in PROMPT_STYLES:
            hint = did_you_mean(self.prompts, PROMPT_STYLES)
            known = ", ".join(PROMPT_STYLES)
            raise RangeError(f"prompts must be one of {known}, not {self.prompts!r}{hint}")

    @property
    def settings(self) -> tuple[str, ...]:
        """A cell's setting for each language."""
        return self.languages


@dataclasses.dataclass(frozen=True)
class LinearProbe(Section):
    """Logistic regression on all of the training split.

    Attributes:
      strength: penalties to choose from, lambda in mean loss + lambda / 2 times the squared
        weights, of features of unit variance.
    """

    strength: _Grid = STRENGTHS

    @property
    def settings(self) -> tuple[str, ...]:
        """One cell."""
        return ("",)


@dataclasses.dataclass(frozen=True)
class FewShot(Section):
    """Logistic regression on a few photographs of every class, drawn anew with each seed.

    Attributes:
      shots: photographs of every class, each of another patient; a cell for each.
      strength: as of `LinearProbe`.
    """

    shots: Annotated[tuple[Positive, ...], Filled()] = (1, 5, 10)
    strength: _Grid = STRENGTHS

    @property
    def settings(self) -> tuple[str, ...]:
        """A cell's setting for each number of shots."""
        return tuple(f"{shots} shot{'s' * (shots > 1)}" for shots in self.shots)


@dataclasses.dataclass(frozen=True)
class Training(Section):
    """Runs of the training loop, whose grid is chosen on validation.

    Attributes:
      learning_rate: peaks to choose from.
      config: the configuration that is trained.
      epochs, batch_size: of a run; None: as the configuration has them.
      changes: other entries of the configuration, such as "optimizer.layer_decay=0.75".
      last_layers: how many layers of the tower learn, to choose from: numbers from 0, a tower that
        stays as it is, and "all"; see `config.OptimizerConfig`.
      keep: keeps the chosen network of the first seed in the cell's folder, "network".
    """

    learning_rate: _Grid
    config: Name
    epochs: PositiveFloat | None = None
    batch_size: Positive | None = None
    changes: tuple[Name, ...] = ()
    keep: bool = False
    last_layers: Annotated[tuple[Name, ...], Filled()] = (ALL,)

    def __post_init__(self):
        super().__post_init__()
        _check_changes(self.changes)
        for each in self.last_layers:
            if each != ALL and not (each.isascii() and each.isdecimal()):
                raise RangeError(f"last_layers holds {each!r}: write a number from 0, or {ALL!r}")

    @property
    def settings(self) -> tuple[str, ...]:
        """One cell."""
        return ("",)


@dataclasses.dataclass(frozen=True)
class FineTune(Training):
    """Training of a network with a new head, as `retfm train --config finetune` does it."""

    learning_rate: _Grid = (1e-4, 5e-4, 2e-3)
    config: Name = "finetune"


@dataclasses.dataclass(frozen=True)
class Segment(Training):
    """Training of a network with a new decoder, as `retfm train --config segment` does it.

    Grids are chosen by the average precision of the pixels of validation photographs, the mean over
    structures.
    """

    learning_rate: _Grid = (3e-4, 1e-3)
    config: Name = "segment"


#: Entries of the configuration of training that are not for a suite to change.
_DECIDED = (
    "method", "data.dataset", "data.data_dir", "data.train_split", "data.eval_split",
    "data.classes", "data.outcome", "data.shares", "data.fold", "data.exclude",
    "data.patient_regex", "data.follow_links", "train.seed", "train.best", "train.evaluate_every",
    "optimizer.learning_rate", "optimizer.last_layers",
)  # fmt: skip


def _check_changes(changes: Sequence[str]) -> None:
    for change in changes:
        key = change.partition("=")[0]
        if "=" not in change:
            raise RangeError(f"changes holds {change!r}: write entry=value")
        if key in _DECIDED or key.startswith("init."):
            raise RangeError(f"changes holds {key}, which the benchmark decides: leave it out")


@dataclasses.dataclass(frozen=True)
class Retrieval(Section):
    """Reports looked up by their photographs, and photographs by their reports.

    Attributes:
      languages: of the reports, a cell for each.
    """

    languages: _Languages = ("en", "zh")

    @property
    def settings(self) -> tuple[str, ...]:
        """A cell's setting for each language."""
        return self.languages


Settings = ZeroShot | LinearProbe | FewShot | FineTune | Segment | Retrieval
#: In the order of the page.
PROTOCOLS: Mapping[str, type] = {
    "zero_shot": ZeroShot,
    "retrieval": Retrieval,
    "linear_probe": LinearProbe,
    "few_shot": FewShot,
    "fine_tune": FineTune,
    SEGMENT: Segment,
}


@dataclasses.dataclass(frozen=True)
class Published(Section):
    """A number of an article.

    Attributes:
      task, protocol, setting: what it is to be compared with; names of this suite.
      model: as it is called here, in this suite or not.
      metric: one of `METRICS`; of masks one of `mask_counts.METRICS`, as in "dice" or
        "vessels/dice"; or "recall_at_1" and the like of a retrieval, as in
        "image_to_report/recall_at_1".
      value: as printed, scaled to 0..1.
      source: the article, its table, row and column.
      verified: whether it was compared with the article's own text.
      note: what differs from this suite's protocol.
    """

    task: Name
    protocol: Name
    model: Name
    metric: Name
    value: Annotated[float, Range(low=-1, high=1)]
    source: Name
    verified: bool = False
    setting: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite as it was read; see the module.

    Attributes:
      title, about: in words.
      models, tasks, protocols: their entries by name, in the order of the file.
      seed, seeds: the first seed, and their number.
      metric: the primary one, of `METRICS`.
      draws: of the bootstrap.
      published: numbers of articles.
    """

    title: str
    models: Mapping[str, ModelEntry]
    tasks: Mapping[str, TaskEntry]
    protocols: Mapping[str, Settings]
    about: str = ""
    seed: int = 0
    seeds: int = 3
    metric: str = "auroc"
    draws: int = 2000
    published: tuple[Published, ...] = ()

    def cells(self) -> list[Cell]:
        """All cells: by model, so that each is loaded once, then by task and protocol."""
        return [
            Cell(model, task, protocol, setting)
            for model in self.models
            for task in self.tasks
            for protocol, settings in self.protocols.items()
            for setting in settings.settings
        ]

    def seed_range(self) -> range:
        """The seeds of protocols that draw samples or train."""
        return range(self.seed, self.seed + self.seeds)

    def with_models(self, models: Mapping[str, str]) -> "Suite":
        """Adds models.

        Args:
          models: by name, what `retfm_jax.load` takes.

        Raises:
          UserError: the suite has a model of that name.
        """
        for name in models:
            if name in self.models:
                raise UserError(f"model {name}: the suite {self.title!r} has one of that name")
        added = {name: ModelEntry(load) for name, load in models.items()}
        return dataclasses.replace(self, models={**self.models, **added})

    def only(
        self,
        models: Sequence[str] = (),
        tasks: Sequence[str] = (),
        protocols: Sequence[str] = (),
    ) -> "Suite":
        """Takes some of the models, tasks and protocols; all where none is named.

        Args:
          models, tasks, protocols: names of this suite.

        Raises:
          UserError: the suite has no such name.
        """
        wanted = {"models": models, "tasks": tasks, "protocols": protocols}
        changed = {}
        for kind, names in wanted.items():
            known = getattr(self, kind)
            for name in names:
                if name not in known:
                    raise UserError(
                        f"{kind} {name}: the suite {self.title!r} has none of that name (it has "
                        f"{', '.join(known)}){did_you_mean(name, known)}"
                    )
            changed[kind] = {n: each for n, each in known.items() if not names or n in names}
        return dataclasses.replace(self, **changed)

    def to_json(self) -> dict[str, Any]:
        """Converts the suite to JSON values, every number resolved."""
        sections = {
            kind: {name: to_dict(each) for name, each in getattr(self, kind).items()}
            for kind in ("models", "tasks", "protocols")
        }
        return {
            "title": self.title,
            "about": self.about,
            **sections,
            **{name: getattr(self, name) for name in ("seed", "seeds", "metric", "draws")},
            "published": [to_dict(row) for row in self.published],
        }


@dataclasses.dataclass(frozen=True)
class _File(Section):
    """Entries of a suite's file that are plain values."""

    title: Name
    about: str = ""
    seed: Annotated[int, Range(low=0, high=2**31)] = 0
    seeds: Annotated[int, Range(low=1, high=100)] = 3
    metric: Name = "auroc"
    draws: Annotated[int, Range(low=1, high=1_000_000)] = 2000

    def __post_init__(self):
        super().__post_init__()
        if self.metric not in METRICS:
            hint = did_you_mean(self.metric, METRICS)
            raise RangeError(
                f"metric must be one of {', '.join(METRICS)}, not {self.metric!r}{hint}"
            )


_SECTIONS = ("models", "tasks", "protocols", "published")
_KEYS = (*(field.name for field in dataclasses.fields(_File)), *_SECTIONS)
#: The first entry of a section that may be given alone.
_SHORT = {ModelEntry: "load", TaskEntry: "dataset"}


def bundled_suites() -> list[str]:
    """Names of the suites that come with this package, sorted."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def read_suite(name_or_path: PathLike) -> Suite:
    """Reads a suite.

    Args:
      name_or_path: one of `bundled_suites`, or a YAML file.

    Raises:
      UserError: there is none, or an entry cannot be used; the message names file and entry.
    """
    name = os.fspath(name_or_path)
    path: PathLike = name_or_path
    if not name.endswith((".yaml", ".yml")):
        if name not in bundled_suites():
            raise UserError(
                f"no suite {name!r}{did_you_mean(name, bundled_suites())} (bundled: "
                f"{', '.join(bundled_suites())}); a suite of your own is a file that ends in .yaml"
            )
        path = BUNDLED / f"{name}.yaml"
    return suite_of(read_yaml(path, "suite"), str(path))


def suite_of(values: Any, where: str) -> Suite:
    """Makes a suite of what its file holds.

    Args:
      values: as `parsing.read_yaml` gives them: mappings, lists and texts.
      where: the file, for messages.

    Raises:
      UserError: an entry is unknown, missing or of the wrong kind; the message names it.
    """
    values = _mapping(values, where)
    for key in values:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f" (known: {', '.join(_KEYS)})"
            raise UserError(f"unknown key {where}: suite.{key}{hint}")
    for kind in _SECTIONS[:3]:
        if not values.get(kind):
            raise UserError(f"{where}: {kind} is missing: a suite names at least one")
    plain = {key: value for key, value in values.items() if key not in _SECTIONS}
    file: _File = _section(_File, plain, where, "suite")
    protocols = {}
    for name, entries in _mapping(values["protocols"], f"{where}: protocols").items():
        if name not in PROTOCOLS:
            hint = did_you_mean(name, PROTOCOLS)
            known = ", ".join(PROTOCOLS)
            raise UserError(f"{where}: protocols.{name} is no protocol ({known}){hint}")
        protocols[name] = _section(PROTOCOLS[name], entries or {}, where, f"protocols.{name}")
    tasks = values["tasks"]
    if isinstance(tasks, list):
        names = [_text(name, f"{where}: tasks") for name in tasks]
        if len(set(names)) < len(names):
            raise UserError(f"{where}: tasks names one twice: {first_of(names, 20)}")
        tasks = dict(zip(names, names, strict=True))
    suite = Suite(
        models=_entries(ModelEntry, values["models"], where, "models"),
        tasks=_entries(TaskEntry, tasks, where, "tasks"),
        protocols=protocols,
        published=_published(values.get("published") or [], where),
        **{field.name: getattr(file, field.name) for field in dataclasses.fields(file)},
    )
    for number, row in enumerate(suite.published):
        _check_published(row, suite, f"{where}: published[{number}]")
    return suite


def _entries(section: type, values: Any, where: str, kind: str) -> dict[str, Any]:
    """Sections by name; the first entry alone stands for a section."""
    found = {}
    for name, entries in _mapping(values, f"{where}: {kind}").items():
        if not name.strip():
            raise UserError(f"{where}: {kind} has an entry without a name")
        if isinstance(entries, str):
            entries = {_SHORT[section]: entries}
        found[name] = _section(section, entries, where, f"{kind}.{name}")
    return found


def _published(rows: Any, where: str) -> tuple[Published, ...]:
    if not isinstance(rows, list):
        raise UserError(f"{where}: published must be a list of rows")
    return tuple(
        _section(Published, row, where, f"published[{number}]") for number, row in enumerate(rows)
    )


def _check_published(row: Published, suite: Suite, where: str) -> None:
    for entry, known in (("task", suite.tasks), ("protocol", suite.protocols)):
        name = getattr(row, entry)
        if name not in known:
            raise UserError(
                f"{where}.{entry}: {name!r} is none of this suite ({first_of([*known], 20)})"
                + did_you_mean(name, known)
            )
    settings = suite.protocols[row.protocol].settings
    if row.setting not in settings:
        raise UserError(
            f"{where}.setting: {row.protocol} has the settings {', '.join(map(repr, settings))}, "
            f"not {row.setting!r}"
        )
    masks = isinstance(suite.protocols[row.protocol], Segment)
    metrics, name = (mask_counts.METRICS if masks else METRICS), row.metric.rpartition("/")[2]
    if name not in metrics and "recall_at_" not in row.metric:
        hint = did_you_mean(name, metrics)
        raise UserError(f"{where}.metric: {row.metric!r} is none of {', '.join(metrics)}{hint}")


def _section(section: type, values: Any, where: str, entry: str) -> Any:
    """Builds a section from texts, whose numbers become numbers where its types want them."""
    named = f"{where}: {entry}"
    return build_section(section, _typed_entries(section, values, named), named)


def _typed_entries(section: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        return values
    types_of = typing.get_type_hints(section)
    return {
        key: _typed(types_of[key], value, f"{where}.{key}") if key in types_of else value
        for key, value in values.items()
    }


def _typed(hint: Any, value: Any, where: str) -> Any:
    """A value as its type wants it, of the text that stands in the file."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (option for option in options if option is not type(None))
        return None if value is None else _typed(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return [_typed(options[0], each, where) for each in value]
    if value is None and hint is str:
        return ""
    if not isinstance(value, str) or hint not in (int, float, bool):
        return value
    if hint is bool:
        if value not in ("true", "false"):
            raise UserError(f"{where} must be true or false, not {value!r}")
        return value == "true"
    try:
        return hint(value)
    except ValueError as error:
        what = "a whole number" if hint is int else "a number"
        raise UserError(f"{where} must be {what}, not {value!r}") from error


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping of names to entries, not {values!r:.60}")
    for key in values:
        _text(key, where)
    return dict(values)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where} holds {value!r:.60}, which is no name")
    return value
