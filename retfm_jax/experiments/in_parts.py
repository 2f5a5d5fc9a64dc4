"""Makes a table of photographs or cases part by part, resumed where it stopped."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from retfm_jax.config import to_dict
from retfm_jax.errors import Stopped, UserError
from retfm_jax.experiments.photograph_list import STREAM
from retfm_jax.experiments.photograph_rows import Counts, Summary
from retfm_jax.experiments.prediction_files import Parts, Row
from retfm_jax.experiments.stored_list import Item, StoredList
from retfm_jax.files import PathLike
from retfm_jax.model import RetinalModel
from retfm_jax.progress import progress_bar
from retfm_jax.runtime import distributed, lock
from retfm_jax.runtime.signals import StopSignal
from retfm_jax.trees import digest

#: Makes the rows of items of a list, in order, until a signal stops it.
RowsOf = Callable[[Iterable[Item], StopSignal], contextlib.AbstractContextManager[Iterator[Row]]]


def refuse_shared_stream(images: PathLike) -> None:
    """Refuses standard input where several hosts would have to share it.

    Args:
      images: as `photograph_list` takes it.

    Raises:
      UserError: it is standard input, and there are several hosts.
    """
    if str(images) == STREAM and jax.process_count() > 1:
        raise UserError("several hosts cannot share standard input: give a table of photographs")


def run_of(
    model: RetinalModel, listed: StoredList[Any], decided: Mapping[str, Any]
) -> dict[str, Any]:
    """Describes what decides about rows, as JSON values.

    Args:
      model: that they are made by.
      listed: the photographs or cases.
      decided: what else decides, by names of `prediction_files.Parts`.
    """
    return {
        "network": digest(model.params, model.state.batch_stats),
        "images": to_dict(model.data_config.image),
        **json.loads(json.dumps(decided)),
        "list": listed.digest,
        "count": listed.count,
        "part_size": listed.part_size,
    }


def complete(
    parts: Parts,
    listed: StoredList[Item],
    run: Mapping[str, Any],
    rows_of: RowsOf[Item],
    join: Callable[[Iterator[Sequence[Row]]], None],
    *,
    doing: str,
) -> Summary | None:
    """Makes the parts that are missing, joins all of them, and removes them.

    Memory does not grow with their number. Of several hosts each makes every
    so-manieth part, and process 0 joins them.

    Args:
      parts: of the table.
      listed: the photographs or cases.
      run: what decides about the rows, as JSON values by name.
      rows_of: makes rows.
      join: makes the table of the rows, part after part; called on process 0 alone.
      doing: what the progress bar says, such as "predicting".

    Returns:
      the summary; None on other hosts than that of process 0.

    Raises:
      Stopped: a signal ended it; the same command resumes.
      UserError: another process makes the same table, what an earlier command left there was made
        of something else, or as `rows_of` and `join`.
    """
    with contextlib.ExitStack() as stack:
        leads = jax.process_index() == 0
        if leads:
            stack.callback(parts.remove_folder)
            stack.enter_context(lock.hold(parts.folder))
            stack.callback(parts.forget_if_empty)
            parts.begin(run)
        distributed.barrier(doing)
        if not leads:
            parts.check(run)
        stack.enter_context(distributed.watch(lambda: "the same command resumes"))
        stop = stack.enter_context(StopSignal())
        resumed = _fill(listed, parts, rows_of, stop, doing)
        if not leads:
            return None
        counts = stop.cut_short(lambda: _joined(listed, parts, join))
        if counts is None:
            raise _stopped(stop, listed.count, listed)
        return counts.summary(listed.count, resumed)


def _joined(
    listed: StoredList[Any], parts: Parts, join: Callable[[Iterator[Sequence[Row]]], None]
) -> Counts:
    """Makes the table of all parts, removes them, and returns what was counted on the way."""
    counts = Counts()
    made = (parts.read(part, listed.length(part)) for part in range(listed.parts))
    join(map(counts.counted, made))
    parts.remove()
    return counts


def _stopped(stop: StopSignal, done: int, listed: StoredList[Any]) -> Stopped:
    return Stopped(
        f"stopped ({stop.received or 'on another host'}) after {done} of {listed.count} "
        f"{listed.unit}s; the same command resumes from there (exit status {Stopped.exit_status}, "
        "where 0 would mean finished)"
    )


def _fill(
    listed: StoredList[Item], parts: Parts, rows_of: RowsOf[Item], stop: StopSignal, doing: str
) -> int:
    """Makes the parts that are missing; returns how many rows were there before."""
    finished = parts.finished()
    mine = range(jax.process_index(), listed.parts, jax.process_count())
    missing = [part for part in mine if part not in finished]
    before = sum(listed.length(part) for part in finished if part < listed.parts)
    items = itertools.chain.from_iterable(map(listed.part, missing))
    ours = sum(listed.length(part) for part in mine)
    bar = progress_bar(
        total=ours, desc=doing, unit=listed.unit,
        initial=ours - sum(listed.length(part) for part in missing),
    )  # fmt: skip
    with bar, rows_of(items, stop) as rows:
        for part in missing:
            some = list(itertools.islice(rows, listed.length(part)))
            if stop.received is not None:
                break
            parts.write(part, some)
            bar.update(len(some))
    if distributed.any_process(stop.received is not None):
        done = sum(listed.length(part) for part in parts.finished())
        raise _stopped(stop, done, listed)
    return before
