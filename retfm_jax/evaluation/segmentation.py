"""What a network that finds structures makes of a split with masks, one photograph at a time."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from retfm_jax.config import DataConfig
from retfm_jax.data.building.splits import SPLITS, split_name
from retfm_jax.data.class_files import ALL, Reading
from retfm_jax.data.division import Division
from retfm_jax.data.image_limits import ImageError
from retfm_jax.data.masks import UNKNOWN, MaskError
from retfm_jax.data.segmented import (
    SegmentedData,
    SegmentedSource,
    Truth,
    open_segmented,
    truth_of,
)
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError, did_you_mean, first_of
from retfm_jax.evaluation.embeddings import refuse_unusable
from retfm_jax.evaluation.metrics.segmentation import Tally
from retfm_jax.evaluation.requirements import was_trained_on
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.threads import in_threads

#: Parts of names of structures that are lines, whose centerlines say more than their pixels.
_THIN = ("vessel", "arter", "vein", "venule", "capillar")


class Segmented(NamedTuple):
    """A photograph, what is drawn on it, and what a network finds there.

    Attributes:
      row: its position in the split.
      name: its record's.
      truth: masks of the network's structures, of structures that exclude each other as training
        takes them.
      probabilities: (h, w, structures) float32.
    """

    row: int
    name: str
    truth: Truth
    probabilities: Float32[np.ndarray, "h w structures"]


def open_split(
    model: Any, dataset: str, data_dir: str, split: str, reading: Reading
) -> SegmentedData:
    """Opens a split with masks for a network; what it was trained on is divided as it was then.

    Args:
      model: a `RetinalModel` with structures.
      dataset: a task on masks, a folder with masks, or a built dataset.
      data_dir: folder of built datasets and of the tasks' own folders; it may be empty where a
        folder is named.
      split: "train", "validation", "test" or "all".
      reading: how files are read and divided.

    Raises:
      UserError: there is no such split; see `data.segmented.open_segmented`.
    """
    wanted = ALL if split == ALL else split_name(split)
    if wanted is None:
        raise UserError(f"photographs with masks have no split {split!r}: {', '.join(SPLITS)}, all")
    own: DataConfig = model.data_config
    division = reading.division or Division()
    config = dataclasses.replace(
        own if was_trained_on(own, dataset) else DataConfig(),
        dataset=dataset,
        data_dir=data_dir or own.data_dir,
        classes=(),
        patient_regex=reading.patient_regex,
        follow_links=reading.follow_links,
        exclude=reading.exclude,
        shares=division.shares,
        fold=division.fold,
    )
    return open_segmented(config, (wanted,))


def segmented(
    model: Any,
    source: SegmentedSource,
    rows: Sequence[int] | None = None,
    *,
    unusable: list[str] | None = None,
    on_error: str = "skip",
    progress: bool = True,
) -> Iterator[Segmented]:
    """Segments photographs of a split; those to come are decoded while one is seen.

    Args:
      model: a `RetinalModel` with structures.
      source: photographs with masks of some of them, in any order.
      rows: positions of the photographs; None: all.
      unusable: list that gets the name of every photograph that cannot be decoded, or whose masks
        cannot be; they are left out. None raises at the first one.
      on_error: "refuse" ends at the first of these, "skip" leaves them out.
      progress: whether a progress bar is shown.

    Yields:
      photographs in the order of `rows`, of which few are in memory at once.

    Raises:
      UserError: the network finds no structures, or none of those of the split; or a photograph
        cannot be used and none may be left out.
    """
    model.require_structures()
    columns = check_structures(model, source)
    chosen = range(len(source)) if rows is None else rows
    read = functools.partial(_read, source, unusable is not None)
    bar = progress_bar(total=len(chosen), desc="segmenting", unit="image", disable=not progress)
    with bar, in_threads(read, chosen, threads=1, ahead=1) as found:
        for row, (name, truth) in zip(chosen, found, strict=True):
            if truth is None:
                assert unusable is not None, "the reading raises without the list"
                unusable.append(name)
                refuse_unusable(unusable, on_error)
            else:
                masks = _masks(truth.masks, columns, model.method.exclusive_structures)
                probabilities = model.segment(truth.image, name)
                yield Segmented(row, name, truth._replace(masks=masks), probabilities)
            bar.update(1)


def tally(
    model: Any,
    source: SegmentedSource,
    *,
    thresholds: Mapping[str, float] | None = None,
    on_error: str = "skip",
    unusable: list[str] | None = None,
    progress: bool = True,
) -> Tally:
    """Segments a split and counts its pixels.

    Args:
      model: a `RetinalModel` with structures.
      source: photographs with masks of some of them, in any order.
      thresholds: of all structures, at which the centerlines of thin ones are compared; None: they
        are not, which takes seconds of a large photograph.
      on_error: "refuse" ends at photographs that cannot be used, "skip" leaves them out.
      unusable: list that gets the names of those that are left out.
      progress: whether a progress bar is shown.

    Returns:
      counts of the network's structures; those that the split does not know are unknown in them.
      Patients are the groups.

    Raises:
      UserError: the network finds no structures, or none of those of the split; no photograph can
        be used, or one cannot and none may be left out.
    """
    model.require_structures()
    counted = Tally(model.structures, centerlines(model, thresholds))
    damaged: list[str] = []
    for each in segmented(model, source, unusable=damaged, on_error=on_error, progress=progress):
        add(counted, source, each)
    check_counted(source, counted, damaged)
    if unusable is not None:
        unusable += damaged
    return counted


def add(counted: Tally, source: SegmentedSource, found: Segmented) -> None:
    """Counts a photograph.

    Args:
      counted: gets its pixels.
      source: that it comes from, which knows its patient.
      found: the photograph.
    """
    truth, patient = found.truth, source.patients[found.row]
    counted.add(found.name, found.probabilities, truth.masks, truth.field, patient)


def check_counted(source: SegmentedSource, counted: Tally, damaged: Sequence[str]) -> None:
    """Checks that some photograph of a split could be used.

    Args:
      source: the split.
      counted: its photographs.
      damaged: names of those that could not be used.

    Raises:
      UserError: none could.
    """
    if not counted.groups:
        raise UserError(
            f"{source.name}, split {source.split}: no photograph can be used with its masks; the "
            f"unusable ones are {first_of(damaged, 5)}"
        )


def centerlines(model: Any, thresholds: Mapping[str, float] | None) -> dict[str, float]:
    """Chooses the structures whose centerlines are compared: those that are thin.

    Args:
      model: a `RetinalModel` with structures.
      thresholds: of all structures; None: none is chosen.

    Returns:
      thresholds by the names of the structures.
    """
    if thresholds is None:
        return {}
    thin = [name for name in model.structures if any(part in name.casefold() for part in _THIN)]
    return {name: thresholds[name] for name in thin}


def check_structures(model: Any, source: RecordSource) -> tuple[int, ...]:
    """Finds a network's structures among those of a split.

    Args:
      model: a `RetinalModel` with structures.
      source: photographs with masks.

    Returns:
      positions among the split's, -1 for one that it does not know.

    Raises:
      UserError: the split knows none of them, or not all of those that exclude each other.
    """
    names, known = model.structures, source.structures
    columns = tuple(known.index(name) if name in known else -1 for name in names)
    missing = [name for name, column in zip(names, columns, strict=True) if column < 0]
    where = f"{source.name}, split {source.split}"
    if len(missing) == len(names) or (missing and model.method.exclusive_structures):
        which = "exclude each other, and all are needed" if len(missing) < len(names) else "none is"
        raise UserError(
            f"{where} has masks of {first_of(known, 8)}, and the network finds "
            f"{first_of(names, 8)}, of which {which}" + did_you_mean(missing[0], known)
        )
    return columns


def _read(source: SegmentedSource, skip: bool, row: int) -> tuple[str, Truth | None]:
    """A photograph's name and what is drawn on it; None of one that cannot be used."""
    record = source[row]
    try:
        return record.record_id, truth_of(record)
    except (ImageError, MaskError):
        if not skip:
            raise
        return record.record_id, None


def _masks(
    masks: UInt8[np.ndarray, "h w any"], columns: Sequence[int], exclusive: bool
) -> UInt8[np.ndarray, "h w structures"]:
    """Masks of a network's structures; of exclusive ones the last alone that a pixel shows."""
    unknown = np.full(masks.shape[:2], UNKNOWN, np.uint8)
    found = np.stack([unknown if column < 0 else masks[..., column] for column in columns], axis=-1)
    if exclusive:
        known = (found <= 1).all(-1)
        hidden = np.zeros(masks.shape[:2], bool)
        for index in reversed(range(found.shape[-1])):
            here = found[..., index] == 1
            found[..., index] = np.where(known, here & ~hidden, UNKNOWN)
            hidden |= here
    return found
