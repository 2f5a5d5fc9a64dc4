"""Results of a benchmark's cells, and the files that hold them.

``<out>/cells/<model>/<task>/<cell>`` holds `predictions.npz`, `hits.npz` or `masks.npz`,
`measured.json` and, written last, `cell.json`. What depends on the machine and the hour, seconds
and peak memory, stands in `measured.json` alone: the other files are the same bytes whenever and
wherever they are made.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool

from retfm_jax.array_files import read_arrays, write_arrays
from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.mask_counts import MaskCounts, sample_facts
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.metrics.retrieval import DIRECTIONS, RECALL_AT
from retfm_jax.files import Path, PathLike, as_path, read_json, write_json
from retfm_jax.knowledge.laterality import SIDES

if TYPE_CHECKING:
    from retfm_jax.experiments.benchmark.suite import Suite

Status = Literal["measured", "not applicable", "failed"]
Verdict = Literal[
    "none known",
    "same set",
    "holds its test",
    "shares a source",
    "trained on its training split",
    "unknown",
]
STATUSES: tuple[Status, ...] = ("measured", "not applicable", "failed")

#: The protocol that works on masks, and the outcome of a task as far as its masks go.
SEGMENT, DRAWN = "segment", "masks"
#: Names of the files of a cell; the first one is written last.
CELL, MEASURED = "cell.json", "measured.json"
PREDICTIONS, HITS, MASKS = "predictions.npz", "hits.npz", "masks.npz"
#: Names of folders are cut to this many characters, before the digest that keeps them apart.
_LONGEST = 60


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One number of the benchmark's table, before it is measured.

    Attributes:
      model, task, protocol: by their names in the suite.
      setting: of the protocol, such as "en" or "5 shots"; "" where it has one alone.
    """

    model: str
    task: str
    protocol: str
    setting: str = ""

    def __str__(self) -> str:
        what = f"{self.protocol}, {self.setting}" if self.setting else self.protocol
        return f"{self.model} on {self.task}, {what}"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a cell took.

    All but `seconds` and `peak_rss` are the same on every machine of one kind.

    Attributes:
      parameters, trained_parameters: of the image network, and those that the protocol learned.
      image_flops: floating-point operations of one image, forward.
      training_flops: of the protocol's whole training, all grid points and seeds; 0 where only
        frozen features are used.
      memory_bytes: of the device, as compiled for a batch of the protocol: weights, inputs, outputs
        and temporaries.
      seconds: wall-clock time by stage, such as "embedding", "fitting", "training".
      peak_rss: largest resident memory of the process until the cell ended, in bytes.
    """

    parameters: int
    trained_parameters: int
    image_flops: float
    training_flops: float
    memory_bytes: int
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    peak_rss: int = 0


@dataclasses.dataclass(frozen=True)
class Hits:
    """Whether queries of a retrieval found their match.

    Attributes:
      found: by direction ("image_to_report", "report_to_image"), for every query whether the first
        right answer is among the first 1, 5 and 10, (n, 3) bool; see `metrics.retrieval.RECALL_AT`.
      patients: of every query, the unit of the intervals.
      samples: each query's position in its split.
    """

    found: Mapping[str, Bool[np.ndarray, "n 3"]]
    patients: tuple[str, ...]
    samples: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class CellResult:
    """Findings of a cell.

    Attributes:
      cell: which one.
      status: "measured"; "not applicable" where the model or the task cannot do this; "failed"
        where a user's mistake ended it, which the next run tries again.
      reason: a sentence, where it is not measured.
      predictions: of classes of the test split, one for each seed; () of other protocols.
      hits: of retrieval, else None.
      masks: of a segmentation of the test split, one for each seed; () of other protocols.
      chosen: for each seed: "seed", "values" (of the grid, chosen), "metric", "points" (every grid
        point's values and its score on validation, None where undefined).
      cost: None where nothing ran.
      notes: sentences that the numbers need beside them.
    """

    cell: Cell
    status: Status
    reason: str = ""
    predictions: tuple[Predictions, ...] = ()
    hits: Hits | None = None
    chosen: tuple[Mapping[str, Any], ...] = ()
    cost: Cost | None = None
    notes: tuple[str, ...] = ()
    masks: tuple[MaskCounts, ...] = ()

    @property
    def patients(self) -> tuple[str, ...]:
        """Of the samples of a cell that was measured, by whom they are."""
        if self.hits is not None:
            return self.hits.patients
        return (self.predictions or self.masks)[0].patients

    @property
    def seeds(self) -> int:
        """Number of seeds that the value is a mean of."""
        return max(1, len(self.predictions), len(self.masks))


@dataclasses.dataclass(frozen=True)
class Contamination:
    """Whether a network may have seen the test photographs of a task.

    Attributes:
      verdict: the worst thing that is known. "holds its test": its sets hold photographs of the
        task's test, as copies that an audit found, or as relations between sets say; "same set":
        it was trained on the task's set, in another division or one that nobody says; "shares a
        source": both sets hold photographs of a third; "trained on its training split": and on
        nothing else that is related to the task; "unknown": nothing is known, and some of what it
        was trained on is not established; "none known": the rest.
      sentences: why, and what is not known.
      copies: test photographs of the task that have a copy in a set that the network was trained
        on; None where no audit looked at both.
    """

    verdict: Verdict
    sentences: tuple[str, ...] = ()
    copies: int | None = None


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What a reader must know of a task.

    Attributes:
      name: in the suite.
      classes: in the order of the predictions' columns; of masks the structures.
      outcome: what they are to each other, "exclusive", "findings" or "grades"; `DRAWN` of masks;
        "" without labels.
      images, patients: of "train", "validation" and "test", by these names.
      patients_known: whether intervals can be by patient; else every image is a unit of its own.
      modality: "cfp", "ffa" or "oct".
      citation, licence: of its set; "" where nothing is known.
      synthetic: whether its images are generated.
      notes: on how it was read and divided, and what was left out.
    """

    name: str
    classes: tuple[str, ...]
    outcome: str
    images: Mapping[str, int]
    patients: Mapping[str, int]
    patients_known: bool
    modality: str = "cfp"
    citation: str = ""
    licence: str = ""
    synthetic: bool = False
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What a reader must know of a model.

    Attributes:
      name: in the suite.
      method: of its network.
      origin: where its weights are from, in words.
      trained_on: names of the sets that it learned from, as far as known.
      texts: whether it compares images with texts.
      parameters: of the whole network.
      image_size: side of its images, in pixels.
      notes: on its weights.
      checksum: SHA-256 of its weights; "" where it has none.
    """

    name: str
    method: str
    origin: str
    trained_on: tuple[str, ...]
    texts: bool
    parameters: int
    image_size: int
    notes: tuple[str, ...] = ()
    checksum: str = ""


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that the page and the tables show.

    Attributes:
      suite: what was asked.
      cells: of all cells of the suite, in its order; one that no process has measured yet is not
        among them.
      contamination: by model and task.
      models, tasks: facts by name, in the suite's order; of a model or task that cannot be opened
        there are none.
      masks: facts of tasks as far as their masks go, likewise.
      versions: of this package and of the libraries that numbers depend on, by name.
    """

    suite: "Suite"
    cells: tuple[CellResult, ...]
    contamination: Mapping[tuple[str, str], Contamination]
    models: Mapping[str, ModelFacts]
    tasks: Mapping[str, TaskFacts]
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    masks: Mapping[str, TaskFacts] = dataclasses.field(default_factory=dict)

    def facts(self, task: str, protocol: str) -> TaskFacts | None:
        """Facts of a task as far as a protocol goes; None where there are none.

        Args:
          task, protocol: their names in the suite.
        """
        return (self.masks if protocol == SEGMENT else self.tasks).get(task)


def folder_name(name: str) -> str:
    """Makes a name of a folder of a name of the suite; different names give different folders.

    Args:
      name: any text.
    """
    plain = re.sub(r"[^a-z0-9.-]+", "_", name.lower()).strip("._")[:_LONGEST]
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def task_folder(out: PathLike, model: str, task: str) -> Path:
    """Folder of what a model's cells on a task share, and of the cells.

    Args:
      out: of the benchmark.
      model, task: their names in the suite.
    """
    return as_path(out) / "cells" / folder_name(model) / folder_name(task)


def cell_folder(out: PathLike, cell: Cell) -> Path:
    """Folder of a cell.

    Args:
      out: of the benchmark.
      cell: which one.
    """
    what = f"{cell.protocol}-{cell.setting}" if cell.setting else cell.protocol
    return task_folder(out, cell.model, cell.task) / folder_name(what)


def write_cell(folder: PathLike, result: CellResult) -> None:
    """Writes a cell, whose `cell.json` is there last: a cell is there as a whole or not at all.

    Args:
      folder: of the cell, see `cell_folder`; made where it is missing.
      result: its findings.

    Raises:
      UserError: the folder cannot be written.
      ValueError: the seeds' predictions are of different samples.
    """
    folder = as_path(folder)
    if result.predictions:
        write_arrays(folder / PREDICTIONS, _packed(result.predictions))
    if result.masks:
        write_arrays(folder / MASKS, _packed_masks(result.masks))
    if result.hits is not None:
        hits = result.hits
        arrays: dict[str, Any] = {
            "patients": np.array(hits.patients, np.str_),
            "samples": np.array(hits.samples, np.int64),
            **hits.found,
        }
        write_arrays(folder / HITS, arrays)
    cost = None
    if result.cost is not None:
        cost = dataclasses.asdict(result.cost)
        measured = {name: cost.pop(name) for name in ("seconds", "peak_rss")}
        write_json(folder / MEASURED, measured)
    document = {
        **dataclasses.asdict(result.cell),
        "status": result.status,
        "reason": result.reason,
        "predictions": len(result.predictions),
        "hits": result.hits is not None,
        "masks": len(result.masks),
        "chosen": [_plain(each) for each in result.chosen],
        "cost": cost,
        "notes": list(result.notes),
    }
    write_json(folder / CELL, document)


def status_of(folder: PathLike) -> Status | None:
    """Status of a cell, without its numbers; None where it has not been written.

    Args:
      folder: of the cell.

    Raises:
      UserError: it is damaged; the message names the folder to remove.
    """
    path = as_path(folder) / CELL
    if not path.is_file():
        return None
    said = read_json(path)
    status = said.get("status") if isinstance(said, Mapping) else None
    if status not in STATUSES:
        raise UserError(f"{path} is no cell of a benchmark: remove {folder}")
    return status


def read_cell(folder: PathLike) -> CellResult | None:
    """Reads a cell; None where it has not been written.

    Args:
      folder: of the cell.

    Raises:
      UserError: it is damaged; the message names the folder to remove.
    """
    folder = as_path(folder)
    if not (folder / CELL).is_file():
        return None
    try:
        said = read_json(folder / CELL)
        cell = Cell(*(_text(said[name]) for name in ("model", "task", "protocol", "setting")))
        if said["status"] not in STATUSES:
            raise ValueError(f"status {said['status']!r}")
        predictions, hits, masks, cost = (), None, (), None
        if said["predictions"]:
            arrays = read_arrays(folder / PREDICTIONS, remedy="")
            predictions = _unpacked(arrays, int(said["predictions"]))
        if said["hits"]:
            hits = _hits(read_arrays(folder / HITS, remedy=""))
        if said.get("masks"):  # cells of older versions have none
            masks = _masks(read_arrays(folder / MASKS, remedy=""), int(said["masks"]))
        if said["cost"] is not None:
            measured = read_json(folder / MEASURED) if (folder / MEASURED).is_file() else {}
            cost = Cost(**said["cost"], **measured)
        return CellResult(
            cell=cell,
            status=said["status"],
            reason=_text(said["reason"]),
            predictions=predictions,
            hits=hits,
            chosen=tuple(dict(each) for each in said["chosen"]),
            cost=cost,
            notes=tuple(_text(each) for each in said["notes"]),
            masks=masks,
        )
    except (KeyError, TypeError, ValueError, UserError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{folder} is no whole cell of a benchmark ({what}): remove that folder, and the next "
            "run measures it again"
        ) from error


def _packed(predictions: Sequence[Predictions]) -> dict[str, Any]:
    """Arrays of all seeds, which share everything but the scores."""
    first = predictions[0]
    for other in predictions[1:]:
        same = (other.names, other.patients, other.samples, other.exclusive) == (
            first.names,
            first.patients,
            first.samples,
            first.exclusive,
        )
        if not same or not np.array_equal(other.labels, first.labels):
            raise ValueError("the seeds of a cell predict different samples")
    sides = ("", *SIDES)
    return {
        "names": np.array(first.names, np.str_),
        "labels": np.asarray(first.labels, np.int8),
        "scores": np.stack([np.asarray(each.scores, np.float64) for each in predictions]),
        "patients": np.array(first.patients, np.str_),
        "rows": np.array([row for row, _ in first.samples], np.int64),
        "sides": np.array([sides.index(side or "") for _, side in first.samples], np.int8),
        "exclusive": np.array(first.exclusive),
    }


def _unpacked(arrays: Mapping[str, np.ndarray], seeds: int) -> tuple[Predictions, ...]:
    names, scores, labels = (arrays[name] for name in ("names", "scores", "labels"))
    count, classes = labels.shape
    if scores.shape != (seeds, count, classes) or names.shape != (classes,):
        raise ValueError(f"scores of shape {scores.shape} beside labels of {labels.shape}")
    if not len(arrays["patients"]) == len(arrays["rows"]) == len(arrays["sides"]) == count:
        raise ValueError("patients and samples differ in number")
    sides = (None, *SIDES)
    samples = tuple(
        (int(row), sides[int(side)])
        for row, side in zip(arrays["rows"], arrays["sides"], strict=True)
    )
    patients = tuple(str(patient) for patient in arrays["patients"])
    return tuple(
        Predictions(
            names=tuple(str(name) for name in names),
            labels=labels.astype(np.int64),
            scores=each,
            patients=patients,
            samples=samples,
            exclusive=bool(arrays["exclusive"]),
        )
        for each in scores
    )


def _packed_masks(masks: Sequence[MaskCounts]) -> dict[str, Any]:
    """Arrays of all seeds, which share the photographs."""
    first = masks[0]
    if any(sample_facts(other) != sample_facts(first) for other in masks[1:]):
        raise ValueError("the seeds of a cell segment different samples")
    return {
        "structures": np.array(first.structures, np.str_),
        "patients": np.array(first.patients, np.str_),
        "samples": np.array(first.samples, np.int64),
        "thresholds": np.array([each.thresholds for each in masks], np.float64),
        "scores": np.stack([each.scores for each in masks]),
        "counts": np.stack([each.counts for each in masks]),
    }


def _masks(arrays: Mapping[str, np.ndarray], seeds: int) -> tuple[MaskCounts, ...]:
    structures, patients = (tuple(map(str, arrays[name])) for name in ("structures", "patients"))
    samples = tuple(map(int, arrays["samples"]))
    count, classes = len(samples), len(structures)
    shapes = {name: arrays[name].shape for name in ("thresholds", "scores", "counts")}
    fits = (
        len(patients) == count
        and shapes["thresholds"] == (seeds, classes)
        and shapes["counts"] == (seeds, count, classes, 4)
        and shapes["scores"][:-1] == (seeds, count, classes, 2)
    )
    if not fits:
        raise ValueError(f"{count} photographs, {classes} structures and arrays of {shapes}")
    return tuple(
        MaskCounts(structures, tuple(map(float, thresholds)), patients, samples, scores, counts)
        for thresholds, scores, counts in zip(
            arrays["thresholds"], arrays["scores"], arrays["counts"], strict=True
        )
    )


def _hits(arrays: Mapping[str, np.ndarray]) -> Hits:
    found = {direction: arrays[direction].astype(bool) for direction in DIRECTIONS}
    count = len(arrays["patients"])
    shapes = {each.shape for each in found.values()} | {(len(arrays["samples"]), len(RECALL_AT))}
    if shapes != {(count, len(RECALL_AT))}:
        raise ValueError("queries and patients differ in number")
    patients = tuple(str(patient) for patient in arrays["patients"])
    return Hits(found, patients, tuple(int(row) for row in arrays["samples"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _plain(value: Any) -> Any:
    """JSON values: what is no finite number is None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    json.dumps(value)  # anything else is a mistake of ours
    return value
