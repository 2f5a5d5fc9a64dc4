"""The Grain pipeline: sources -> global batches, the same whatever reads them.

Batch k of a run is a pure function of the data configuration, the datasets and the seed: neither
the number of processes, workers or threads nor an interruption changes it. So the state of the
iterator is one integer, the index of the next batch.
"""

import copy
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from retfm_jax import extras
from retfm_jax.config import DataConfig
from retfm_jax.console import say
from retfm_jax.data.curriculum import Staged, staged
from retfm_jax.data.epochs import Epochs
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.kinds.base import SampleKind
from retfm_jax.data.mixing import Mixed
from retfm_jax.data.samples import DAMAGED, Sample, SampleMaker, Unusable
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError
from retfm_jax.runtime.threads import cores
from retfm_jax.runtime.workers import end_with_parent, remove_abandoned_memory
from retfm_jax.trees import differences

with extras.needed("train"):
    import grain

_log = logging.getLogger(__name__)

#: Records tried in the place of one without a readable image before the run is stopped.
_ATTEMPTS = 16

#: Reading threads of a process, at most, where the configuration leaves them open.
_MOST_THREADS = 16

#: "For ever" in batches: Grain wants a length, and no run comes near this one.
_ENDLESS = 1 << 40

#: Entries of `DataConfig` that do not change what is in a batch, or that the sources' identities
#: say better.
_NOT_CONTENT = (
    *("dataset", "data_dir", "train_split", "eval_split", "expert", "vocabulary", "extend"),
    "curriculum",
    "mix",
    *("workers", "threads", "prefetch"),
    *("classes", "outcome", "shares", "fold", "patient_regex", "follow_links", "exclude"),
)

_RECORD_ID = "record_id"
_UNUSABLE = "unusable"


class HostBatch(NamedTuple):
    """Rows of a global batch that this process makes.

    Attributes:
      arrays: by name, rows first; images uint8 NHWC.
      record_ids: of the rows.
      index: of the batch in its run.
    """

    arrays: dict[str, np.ndarray]
    record_ids: list[str]
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (nobody searches a batch)


def open_training(config: DataConfig, kind: str) -> tuple[RecordSource, RecordSource | None]:
    """Opens the training split and, where there is one, the second stream of a kind of samples.

    Args:
      config: names the datasets, their splits and folders.
      kind: name of the kind of samples, see `kinds.get_kind`.

    Raises:
      UserError: a dataset or split is missing, or its records cannot serve the method.
    """
    source, second = get_kind(kind).open(config)
    return staged(source, config, get_kind(kind)), second


class _TrainingRows:
    """Maps a global row number to a sample: an augmented record and one of the second stream.

    Picklable, for worker processes.
    """

    def __init__(
        self,
        source: RecordSource,
        second: RecordSource | None,
        kind: SampleKind,
        config: DataConfig,
        batch_size: int,
        seed: int,
    ):
        self._source = source
        self._seed, self._batch_size = seed, batch_size
        if isinstance(source, Mixed):
            self.epochs = Epochs(source.epoch_length, batch_size, draw=source.order)
        else:
            stages = source.stages if isinstance(source, Staged) else ()
            self.epochs = Epochs(len(source), batch_size, stages)
        self._with_epoch = "epoch" in kind.roles
        self._orders: dict[int, np.ndarray] = {}
        self._make = kind.maker(config, source.label_names)
        self._prefix = kind.second
        self._second = (
            None if second is None else (second, kind.second_maker(config, second.label_names))
        )

    @property
    def identity(self) -> dict[str, str]:
        """What fixes the rows beside the sources and the configuration."""
        return self._make.identity

    def __call__(self, row: int) -> Sample:
        sample = self._primary(row)
        if self._second is not None:
            beside = self._beside(row, *self._second)
            sample[_UNUSABLE] += beside.pop(_UNUSABLE)
            sample[DAMAGED] += beside.pop(DAMAGED)
            del beside[_RECORD_ID]
            sample |= {f"{self._prefix}{name}": array for name, array in beside.items()}
        return sample

    def _primary(self, row: int) -> Sample:
        batch, position = divmod(row, self._batch_size)
        epoch, batch = self.epochs.locate(batch)
        position += batch * self._batch_size
        rng = self._rng(0, row)
        order = self._order(epoch)
        # Steps of a whole batch: where an epoch has many, the replacement stands in another one.
        candidates = (
            order[(position + attempt * self._batch_size) % len(order)]
            for attempt in range(_ATTEMPTS)
        )
        sample = _first_usable(self._source, candidates, self._make, rng)
        return sample | {"epoch": np.int32(epoch)} if self._with_epoch else sample

    def _beside(self, row: int, source: RecordSource, make: SampleMaker) -> Sample:
        rng = self._rng(1, row)
        candidates = (int(rng.integers(len(source))) for _ in range(_ATTEMPTS))
        return _first_usable(source, candidates, make, rng)

    def _order(self, epoch: int) -> Int64[np.ndarray, " records"]:
        order = self._orders.get(epoch)
        if order is None:
            order = self.epochs.order(epoch, self._rng(2, epoch))
            # Readers are ahead of one another by less than an epoch.
            near = {other: kept for other, kept in self._orders.items() if abs(other - epoch) == 1}
            self._orders = near | {epoch: order}
        return order

    def _rng(self, stream: int, position: int) -> np.random.Generator:
        key = np.array([(self._seed * 4 + stream) % 2**64, position], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


def _first_usable(
    source: RecordSource, candidates: Iterator[int], make: SampleMaker, rng: np.random.Generator
) -> Sample:
    unusable = []
    for index in candidates:
        record = source[index]
        try:
            sample = make.training(record, rng)
        except Unusable:
            unusable.append(f"{record.record_id} of {source.name}")
            continue
        return sample | {_RECORD_ID: record.record_id, _UNUSABLE: unusable}
    raise UserError(
        f"{source.name}, split {source.split}: {len(unusable)} records in a row have no readable "
        f"image ({', '.join(unusable[:3])}, ...); `retfm data check` lists all of them"
    )


class _Positions:
    """Maps this process's position in the stream to a global row number.

    Process p of P has rows [p B / P, (p + 1) B / P) of every global batch of B.
    """

    def __init__(self, first_batch: int, batch_size: int, process_index: int, process_count: int):
        self.rows = _rows_of_process(batch_size, process_count)
        self._start = first_batch * batch_size + process_index * self.rows
        self._batch_size = batch_size

    def __call__(self, position: int) -> int:
        batch, row = divmod(position, self.rows)
        return self._start + batch * self._batch_size + row


def _rows_of_process(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise UserError(
            f"the global batch of {batch_size} does not divide among {process_count} processes"
        )
    return batch_size // process_count


def stack(samples: Sequence[Sample]) -> Sample:
    """Stacks samples into one dict of arrays; host-only entries become lists.

    Args:
      samples: of one batch, with arrays of equal names, shapes and dtypes; at least one.
    """
    names = [name for name in samples[0] if name not in (_RECORD_ID, _UNUSABLE, DAMAGED)]
    batch: Sample = {name: np.stack([sample[name] for sample in samples]) for name in names}
    batch[_RECORD_ID] = [sample[_RECORD_ID] for sample in samples]
    batch[_UNUSABLE] = [name for sample in samples for name in sample[_UNUSABLE]]
    batch[DAMAGED] = [name for sample in samples for name in sample[DAMAGED]]
    return batch


def reading_threads(config: DataConfig) -> int:
    """Counts the threads in which each reading process makes samples.

    Args:
      config: its `threads` where it is stated, else its `workers` share the cores.
    """
    if config.threads is not None:
        return config.threads
    # Python itself runs in one of them at a time: beyond a few, they only wait for each other.
    return max(1, min(_MOST_THREADS, cores() // max(1, config.workers)))


def _stack_parts(parts: Sequence[Sequence[Sample]]) -> Sample:
    return stack([sample for part in parts for sample in part])


def _part(rows: int, threads: int) -> int:
    """The largest divisor of `rows` with which every thread has a part of the batch."""
    return next(part for part in range(max(1, rows // max(1, threads)), 0, -1) if rows % part == 0)


def _read(
    rows: Callable[[int], Sample], positions: _Positions, config: DataConfig
) -> grain.DatasetIterator[Sample]:
    """Samples of global rows, made ahead of time and stacked to batches."""
    threads = reading_threads(config)
    samples = grain.MapDataset.range(_ENDLESS * positions.rows).map(positions).map(rows)
    if config.workers == 0:
        # Threads work on parts of a batch: on small ones, so that the first batch is ready soon,
        # but not on samples, as every sample that waits for its turn costs the reader time.
        part = _part(positions.rows, threads)
        parts = positions.rows // part
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(threads, config.prefetch * parts)
        )
        read = samples.batch(part, batch_fn=list).to_iter_dataset(options)
        return iter(read.batch(parts, batch_fn=_stack_parts))
    # Processes work on batches: what crosses their boundary is ready to be used.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    remove_abandoned_memory()
    threads = max(1, min(threads, config.prefetch))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    stacked = samples.batch(positions.rows, batch_fn=stack).to_iter_dataset(options)
    return iter(
        stacked.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=config.workers,
                per_worker_buffer_size=max(1, config.prefetch // config.workers),
            ),
            worker_init_fn=end_with_parent,
        )
    )


class _Damage:
    """Warns once for each record that an image could not be decoded, and counts."""

    def __init__(self):
        self._records: set[str] = set()

    def take(self, batch: Sample) -> None:
        for names, consequence in (
            (batch.pop(DAMAGED), "counts as missing"),
            (batch.pop(_UNUSABLE), "is left out"),
        ):
            for name in names:
                if name not in self._records:
                    self._records.add(name)
                    _log.warning(
                        "%s cannot be decoded and %s (%d so far; `retfm data check` lists all)",
                        name,
                        consequence,
                        len(self._records),
                    )


class TrainIterator:
    """Endless shuffled, augmented batches; every epoch is a new order.

    An epoch is as many whole batches as the records give. Records that are left over wait for the
    next epoch; which ones they are changes with the order. A record comes once in an epoch, except
    where it replaces one without a readable image.

    Attributes:
      epochs: which batches and records an epoch has.
      identity: JSON values that fix what the batches hold; see `check_identity`.
    """

    def __init__(
        self,
        source: RecordSource,
        kind: str,
        config: DataConfig,
        *,
        batch_size: int,
        seed: int,
        expert: RecordSource | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Prepares the stream; nothing is read before the first `next`.

        Args:
          source, expert: the training split and the second stream; see `open_training`.
          kind: name of the method's kind of samples.
          config: of the data; `workers`, `threads` and `prefetch` do not change the batches.
          batch_size: of the global batch, over all processes.
          seed: of order, augmentation and the second stream.
          process_index, process_count: which rows of each global batch this process makes.

        Raises:
          UserError: fewer records than one batch holds, in all or in a stage of a curriculum, or a
            batch that does not divide.
        """
        _rows_of_process(batch_size, process_count)
        if len(source) < batch_size:
            raise UserError(
                f"{source.name}, split {source.split}, has {len(source)} records, less than one "
                f"batch of {batch_size}: lower config.train.batch_size"
            )
        self._config = config
        self._rows = _TrainingRows(source, expert, get_kind(kind), config, batch_size, seed)
        self._shard = (batch_size, process_index, process_count)
        self.epochs = self._rows.epochs
        content = dataclasses.asdict(config)
        self.identity = json.loads(
            json.dumps(
                {
                    "source": source.identity,
                    "expert": expert and expert.identity,
                    "kind": kind,
                    "batch_size": batch_size,
                    "seed": seed,
                    "config": {name: content[name] for name in content if name not in _NOT_CONTENT},
                    **self._rows.identity,
                }
            )
        )
        self._damage = _Damage()
        self._next, self._reader = 0, None

    def __iter__(self) -> "TrainIterator":
        return self

    def __next__(self) -> HostBatch:
        if self._reader is None:
            self._reader = _read(self._rows, _Positions(self._next, *self._shard), self._config)
        batch = next(self._reader)
        index, self._next = self._next, self._next + 1
        self._damage.take(batch)
        return HostBatch(batch, batch.pop(_RECORD_ID), index)

    def state(self) -> int:
        """Index of the batch that `next` gives."""
        return self._next

    def restore(self, state: int) -> None:
        """Continues with batch `state`, as if all before it had been taken.

        Args:
          state: index of a batch in the run, from 0, as `state` gives it.
        """
        self.close()
        self._next = int(state)

    def close(self) -> None:
        """Ends reading threads and processes; `next` would start them again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def check_identity(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuses to resume with other data than those of a checkpoint's training.

    Args:
      saved, current: `TrainIterator.identity` of the checkpoint, and of this run.

    Raises:
      UserError: names every entry that differs, with both values.
    """
    digests = all("tokenizer" in identity for identity in (saved, current))
    saved, current = (_one_tokenizer(identity, digests) for identity in (saved, current))
    # Entries that there were not yet had no effect, as their defaults have none.
    defaults = json.loads(json.dumps(dataclasses.asdict(DataConfig())))
    if "config" in saved:
        saved["config"] = _filled(saved["config"], defaults, current.get("config", {}))
    unknown = _without_unknown_contents(saved, current)
    found = [
        f"{where}: {before!r} in the checkpoint, {now!r} now"
        for where, before, now in differences(saved, current, "data")
    ]
    if not found and unknown:
        say(
            "whether the records are those of the checkpoint is not known: a dataset or a "
            "checkpoint of version 0.1 has no digest of them"
        )
    if found:
        raise UserError(
            "the checkpoint was trained with another data configuration; resume with the same "
            "one, or start in another workdir:\n  " + "\n  ".join(found)
        )


def _filled(saved: Any, defaults: Any, wanted: Any) -> Any:
    """Stored entries, and the defaults of those that are wanted and not stored."""
    if not all(isinstance(each, dict) for each in (saved, defaults, wanted)):
        return saved
    found = dict(saved)
    for name in wanted:
        if name not in saved and name in defaults:
            found[name] = defaults[name]
        elif name in saved:
            found[name] = _filled(saved[name], defaults.get(name), wanted[name])
    return found


def _one_tokenizer(identity: dict[str, Any], by_digest: bool) -> dict[str, Any]:
    """An identity with the tokenizer's digest, or its path where one of two lacks that."""
    identity = copy.deepcopy(identity)
    if by_digest:
        del identity["config"]["text"]["tokenizer"]
    else:  # version 0.1's
        identity.pop("tokenizer", None)
    return identity


_CONTENTS = "contents"


def _without_unknown_contents(saved: dict[str, Any], current: dict[str, Any]) -> bool:
    """Drops the digests of records that one of both lacks; whether there were such."""
    unknown = False
    for name in ("source", "expert"):
        pair = [of for of in (saved.get(name), current.get(name)) if isinstance(of, dict)]
        if len(pair) == 2 and any(source.get(_CONTENTS) is None for source in pair):
            unknown = True
            for source in pair:
                source.pop(_CONTENTS, None)
    return unknown
