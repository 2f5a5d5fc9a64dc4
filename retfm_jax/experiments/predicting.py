"""Predicts the classes of photographs into a file: any number of them, resumed where it stopped."""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from retfm_jax.data.images import fit
from retfm_jax.decisions import Decisions
from retfm_jax.errors import UserError
from retfm_jax.experiments.in_parts import complete, refuse_shared_stream, run_of
from retfm_jax.experiments.photograph_list import Listed, photograph_list
from retfm_jax.experiments.photograph_rows import FLAGS, KNOWN, Summary, look, refuse, rounded
from retfm_jax.experiments.prediction_files import Columns, Parts, Row, check_suffix, join
from retfm_jax.files import PathLike, as_path, check_writable
from retfm_jax.model import RetinalModel, load
from retfm_jax.runtime.signals import StopSignal
from retfm_jax.runtime.threads import cores, in_threads

#: Photographs of a part: what a killed process has to do again, at most.
PART_SIZE = 256
#: Photographs of a device in a call of the network.
_ON_DEVICE = 32
#: Significant digits of probabilities.
_DIGITS = 7
#: Stands before a class's name in the name of its column.
_PROBABILITY = "p_"


def predict(
    workdir: PathLike,
    images: PathLike,
    out: PathLike,
    *,
    on_error: str = "skip",
    batch_size: int | None = None,
) -> Summary | None:
    """Writes a row for every photograph, in the order of the list; see `columns_of`.

    Memory does not grow with the number of photographs. All local devices share a batch; of several
    hosts each makes every so-manieth part, and process 0 joins them.

    Args:
      workdir: of the network, or its checkpoint folder, or weights, as `load` reads them.
      images: a folder, a CSV with a column `image`, one photograph, or "-", a list of paths on
        standard input.
      out: `.csv`, `.jsonl` or `.parquet`.
      on_error: "skip" gives photographs that cannot be used a row that says so, "refuse" ends at
        the first one.
      batch_size: photographs in a call of the network over all devices of this host; None: 32 on
        each device. It is rounded up to a multiple of the devices.

    Returns:
      the summary; None on other hosts than that of process 0.

    Raises:
      Stopped: a signal ended it; the same command resumes.
      UserError: the network has no classes, there is no photograph, another process writes the same
        file, or what an earlier command left there was made of something else.
    """
    out = as_path(out)
    check_suffix(out)
    check_writable(out)
    refuse_shared_stream(images)
    model = load(workdir)
    model.require_classes()
    with photograph_list(images, PART_SIZE) as listed:
        batch = batch_of(listed.count, batch_size)
        return complete(
            Parts(out),
            listed,
            run_of(model, listed, {"decisions": _decisions(model).to_json()}),
            lambda items, stop: rows_of(model, items, batch, on_error, stop),
            lambda parts: join(out, columns_of(model), parts),
            doing="predicting",
        )


def _decisions(model: RetinalModel) -> Decisions:
    assert model.decisions is not None, "the model has classes"
    return model.decisions


def batch_of(count: int, batch_size: int | None) -> int:
    """Photographs in a call of the network: the same for a list, wherever it is resumed.

    Args:
      count: of all photographs.
      batch_size: that was asked for.

    Returns:
      a multiple of the local devices, and no more than few photographs need.
    """
    devices = jax.local_device_count()
    wanted = min(batch_size or _ON_DEVICE * devices, count)
    return -(-wanted // devices) * devices


@dataclasses.dataclass(frozen=True, slots=True)
class _Looked:
    """A photograph that was looked at: its input, None where it cannot be used, and its row."""

    pixels: UInt8[np.ndarray, "size size 3"] | None
    row: Row


@contextlib.contextmanager
def rows_of(
    model: RetinalModel,
    photographs: Iterable[Listed],
    batch: int,
    on_error: str,
    stop: StopSignal,
) -> Iterator[Iterator[Row]]:
    """Makes rows of photographs: threads decode while the devices compute.

    Args:
      model: with classes.
      photographs: any number, taken as they are needed.
      batch: photographs in a call of the network, a multiple of the local devices.
      on_error: "refuse" raises at the first photograph that cannot be used.
      stop: a signal that it got ends the rows.

    Yields:
      an iterator of rows, in order.
    """

    def look(photograph: Listed) -> _Looked:
        return _look(model, photograph)

    def rows(looked: Iterator[_Looked]) -> Iterator[Row]:
        # Of one batch more than the devices compute on: they never wait.
        waiting: collections.deque[tuple[list[_Looked], jax.Array | None]] = collections.deque()
        while stop.received is None and (some := list(itertools.islice(looked, batch))):
            if on_error == "refuse":
                refuse(each.row for each in some)
            waiting.append((some, _logits(model, some, batch)))
            if len(waiting) > 1:
                yield from _finished(model, *waiting.popleft())
        while waiting and stop.received is None:
            yield from _finished(model, *waiting.popleft())

    with in_threads(look, photographs, threads=cores(), ahead=2 * batch) as looked:
        yield rows(looked)


def _look(model: RetinalModel, photograph: Listed) -> _Looked:
    """Reads, measures and scales a photograph, in a thread."""
    seen = look(photograph, model.data_config.image.modality)
    image = None if seen.image is None else fit(seen.image, model.data_config.image)
    return _Looked(image, seen.row)


def _logits(model: RetinalModel, looked: Sequence[_Looked], batch: int) -> jax.Array | None:
    """Begins to compute the logits of a batch, filled up to its size with black."""
    if all(each.pixels is None for each in looked):
        return None
    size = model.data_config.image.size
    pixels = np.zeros((batch, size, size, 3), np.uint8)
    for index, each in enumerate(looked):
        if each.pixels is not None:
            pixels[index] = each.pixels
    return model.pixel_logits(pixels)


def _finished(
    model: RetinalModel, looked: Sequence[_Looked], logits: jax.Array | None
) -> Iterator[Row]:
    """Rows of a batch, when its logits are there."""
    decisions = _decisions(model)
    columns = columns_of(model)
    said: list[Row] = [{} for _ in looked]
    if logits is not None:
        values = np.asarray(logits)[: len(looked)]
        for index, each in enumerate(looked):
            if each.pixels is not None and not np.isfinite(values[index]).all():
                raise UserError(
                    f"the network gives no finite numbers for {each.row['image']}: its weights or "
                    "its precision are at fault"
                )
        said = statements(decisions, values)
    nothing: Row = dict.fromkeys(columns)
    for each, statement in zip(looked, said, strict=True):
        yield nothing | each.row | (statement if each.pixels is not None else {})


def statements(decisions: Decisions, logits: Float[np.ndarray, "n c"]) -> list[Row]:
    """Says what logits mean, as the columns of a row that depend on them.

    Args:
      decisions: of the network.
      logits: finite.
    """
    probabilities = decisions.probabilities(logits)
    predicted, sets = decisions.predicted(probabilities), decisions.sets(probabilities)
    names, rows = decisions.classes, []
    for index, values in enumerate(probabilities):
        row: Row = {
            f"{_PROBABILITY}{name}": rounded(value, _DIGITS)
            for name, value in zip(names, values, strict=True)
        }
        if decisions.outcome == "findings":
            present = predicted[index]
            row["predicted"] = [name for name, there in zip(names, present, strict=True) if there]
            confidence = np.where(present, values, 1 - values).min()
        else:
            row["predicted"], confidence = names[predicted[index]], values[predicted[index]]
        row["confidence"] = rounded(confidence, _DIGITS)
        if decisions.outcome == "grades":
            grade = decisions.expected_grade(values[None])[0]
            row["expected_grade"] = rounded(grade, _DIGITS)
        if sets is not None:
            row["set"] = [name for name, there in zip(names, sets[index], strict=True) if there]
        rows.append(row)
    return rows


def columns_of(model: RetinalModel) -> Columns:
    """Columns of a file of predictions, and what each holds.

    - `image`: as the list has it.
    - `predicted`: the class; of findings the names of those that are said to be present.
    - `confidence`: its calibrated probability; of findings that of the least certain of the
      statements, present or absent.
    - `expected_grade`: of grades, the mean one, 0 for the lowest.
    - `set`: where a conformal quantile was fitted, the classes that cannot be ruled out.
    - `p_NAME`: calibrated probability of each class.
    - `unreadable`, `not_fundus`, `low_quality`: flags, the last two by rules that are not validated
      (see `data.quality`).
    - `eye`, `eye_from`: "left" or "right", from a DICOM "header" or as a "guess".
    - `quality`, `sharpness`, `illumination`, `field`: see `data.quality.Quality`.
    - `problem`: why a photograph is unreadable.

    Args:
      model: with classes.
    """
    decisions = _decisions(model)
    columns: dict[str, type] = {"image": str}
    columns["predicted"] = list if decisions.outcome == "findings" else str
    columns["confidence"] = float
    if decisions.outcome == "grades":
        columns["expected_grade"] = float
    if decisions.conformal is not None:
        columns["set"] = list
    columns |= {f"{_PROBABILITY}{name}": float for name in decisions.classes}
    return {**columns, **FLAGS, **KNOWN}
