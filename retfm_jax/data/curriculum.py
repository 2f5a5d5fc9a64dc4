"""Curricula: the records of a run from easy to hard ones (MedKCO, arXiv 2603.09101)."""

import collections
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from retfm_jax import dataset_folders, files
from retfm_jax.config import CurriculumConfig, DataConfig
from retfm_jax.console import say
from retfm_jax.data import cells
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.epochs import Stage
from retfm_jax.data.importing import tables
from retfm_jax.data.kinds.base import SampleKind
from retfm_jax.data.records import ImageRecord
from retfm_jax.data.sources import (
    Chain,
    OneKind,
    OtherLabels,
    RecordSource,
    Wrapped,
    as_images,
    open_dataset,
    scan,
)
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.knowledge.normalize import fold
from retfm_jax.knowledge.vocabulary import Vocabulary, load_vocabulary

#: Beside the shards of a dataset whose source ranks its records.
TABLE = "curriculum.csv"
COLUMNS = ("record_id", "level")
#: A level of difficulty is a small number.
_MOST_LEVELS = 1000


class Staged(Wrapped[OneKind]):
    """Source whose records take part in stages of a run.

    Args:
      source: of all records.
      stages: one after the other; see `epochs.Epochs`.
    """

    def __init__(self, source: RecordSource[OneKind], stages: Sequence[Stage]):
        super().__init__(source)
        self.stages = tuple(stages)

    @property
    def record_ids(self) -> list[str] | None:
        return self._source.record_ids

    @property
    def identity(self) -> dict[str, Any]:
        stages = [
            {"until": stage.until, "records": hashlib.sha256(stage.records.tobytes()).hexdigest()}
            for stage in self.stages
        ]
        return {**self._source.identity, "curriculum": stages}


class Descriptions(OtherLabels):
    """Images with captions, without categories and labels, beside a source that has others."""

    def categories(self, record: ImageRecord) -> tuple[str, ...]:
        return ()

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._source.identity, "as": "descriptions"}


def staged(
    source: RecordSource[OneKind], config: DataConfig, kind: SampleKind
) -> RecordSource[OneKind]:
    """Divides a training split into the stages of a curriculum; reads every record once.

    Says how many records each level has.

    Args:
      source: the training split.
      config: of the data; without a curriculum the source is returned as it is.
      kind: of the samples that are made of the records.

    Raises:
      UserError: nothing tells levels, a table cannot be read, a category is unknown, a stage has no
        record, or samples of this kind are no descriptions.
    """
    wanted = config.curriculum
    if wanted is None:
        return source
    own = _tables(wanted, config)
    if not own and not wanted.categories:
        raise UserError(
            f"config.data.curriculum: {config.dataset} has no {TABLE} beside it that ranks its "
            "records; give table, a CSV with the columns record_id and level, or categories by "
            "level"
        )
    levels, joined = _levels(source, wanted, own, _vocabulary(config)), source
    described = np.zeros(len(source), bool)
    if wanted.descriptions is not None:
        if kind.texts != "knowledge":
            raise UserError(
                f"config.data.curriculum.descriptions stand in place of prompts of categories; "
                f"samples of {kind.unit} have none: leave it out"
            )
        texts: Any = _descriptions(config, source.label_names)
        joined = Chain([source, texts])
        of_texts = _levels(texts, wanted, own, _vocabulary(config))
        levels = np.concatenate([levels, of_texts])
        described = np.concatenate([described, np.ones(len(texts), bool)])
    stages = []
    for number, stage in enumerate(wanted.stages, 1):
        members = np.isin(levels, stage.levels)
        if stage.records != "all":
            members &= described == (stage.records == "descriptions")
        what = " and ".join(map(str, stage.levels))
        title = f"stage {number} of {len(wanted.stages)} (level {what})"
        stages.append(Stage(stage.until, np.flatnonzero(members).astype(np.int64), title))
    return Staged(joined, stages)


def read_levels(path: files.PathLike) -> dict[str, int]:
    """Reads a table of levels.

    Args:
      path: of a CSV file with the columns `record_id` and `level`.

    Returns:
      level by record id.

    Raises:
      UserError: it cannot be read, or a level is no whole number from 1 on (the row is named).
    """
    problems = ProblemLog()
    table = tables.read_csv(path, problems)
    for problem in problems.problems:
        raise UserError(f"{path} row {problem.row}: {problem.what}")
    tables.require_columns(table, COLUMNS)
    found: dict[str, int] = {}
    for line in table.rows:
        record, level = (str(line.cells[name]).strip() for name in COLUMNS)
        if not (level.isascii() and level.isdecimal() and 1 <= int(level) <= _MOST_LEVELS):
            raise UserError(
                f"{path} row {line.row}: level {level[:40]!r} is no whole number from 1 to "
                f"{_MOST_LEVELS}"
            )
        if found.setdefault(record, int(level)) != int(level):
            raise UserError(f"{path} row {line.row}: this record has level {found[record]} already")
    return found


def write_levels(path: files.PathLike, levels: Mapping[str, int]) -> None:
    """Writes a table that `read_levels` reads.

    Args:
      path: of the CSV file.
      levels: by record id.

    Raises:
      UserError: it cannot be written.
    """
    with files.atomic_write(path) as file:
        cells.write_csv(file, COLUMNS, ((record, str(level)) for record, level in levels.items()))


def _tables(wanted: CurriculumConfig, config: DataConfig) -> dict[str, int]:
    """Levels by record id: of the datasets' own tables, then of the user's."""
    found: dict[str, int] = {}
    datasets = [config.dataset]
    if wanted.descriptions is not None:
        datasets.append(wanted.descriptions.dataset)
    for name in datasets:
        if not dataset_folders.is_built(name, config.data_dir):
            continue
        beside = dataset_folders.find(name, config.data_dir) / TABLE
        if beside.exists():
            found |= read_levels(beside)
    return found if wanted.table is None else found | read_levels(wanted.table)


def _vocabulary(config: DataConfig) -> Vocabulary:
    return load_vocabulary(config.vocabulary, extend=config.extend)


def _descriptions(config: DataConfig, label_names: tuple[str, ...]) -> RecordSource[ImageRecord]:
    assert config.curriculum is not None
    wanted = config.curriculum.descriptions
    assert wanted is not None, "the caller looked"
    source = open_dataset(wanted.dataset, wanted.split, config.data_dir, config.exclude)
    return Descriptions(as_images(source, "caption"), label_names)


def _levels(
    source: RecordSource[Any],
    wanted: CurriculumConfig,
    own: Mapping[str, int],
    vocabulary: Vocabulary,
) -> Int64[np.ndarray, " records"]:
    """The level of every record; those of which nothing is known have the last one."""

    def key(name: str) -> str:
        known = vocabulary.find(name)
        return fold(name) if known is None else known.id

    of_category = {
        key(name): level for level, names in enumerate(wanted.categories, 1) for name in names
    }

    def look(index: int) -> tuple[int | None, tuple[str, ...]]:
        record = source[index]
        shown: tuple[str, ...] = ()
        if isinstance(record, ImageRecord):
            shown = record.shows(source.label_names)
        level = own.get(record.record_id)
        if level is None and shown:
            level = max((of_category.get(key(name), 0) for name in shown), default=0) or None
        return level, shown

    seen = list(scan(len(source), look))
    known = {key(name): name for _, shown in seen for name in shown}
    if not isinstance(source, Descriptions):
        _check_categories(wanted, source, set(known), key, vocabulary)
    last = max([len(wanted.categories), *own.values(), *_wanted_levels(wanted)])
    levels = np.array([last if level is None else level for level, _ in seen], np.int64)
    counts = collections.Counter(levels.tolist())
    listed = ", ".join(f"level {level}: {counts[level]:,}" for level in sorted(counts))
    unknown = sum(level is None for level, _ in seen)
    remark = (
        f"; {unknown:,} have no level of their own and count as level {last}" if unknown else ""
    )
    say(f"curriculum of {source.name}, {source.split}: records of {listed}{remark}")
    return levels


def _wanted_levels(wanted: CurriculumConfig) -> list[int]:
    return [level for stage in wanted.stages for level in stage.levels]


def _check_categories(
    wanted: CurriculumConfig,
    source: RecordSource[Any],
    shown: set[str],
    key: Any,
    vocabulary: Vocabulary,
) -> None:
    for name in (name for names in wanted.categories for name in names):
        if key(name) not in shown and vocabulary.find(name) is None:
            raise UserError(
                f"config.data.curriculum.categories: {source.name} has no category {name!r}"
                + did_you_mean(name, sorted(shown))
            )
