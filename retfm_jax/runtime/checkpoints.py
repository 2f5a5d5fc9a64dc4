"""Checkpoints of a run: written whole and verified, readable on any mesh, the newest few kept.

A checkpoint is a folder ``<workdir>/checkpoints/<step>`` with four items::

    network    params and batch_stats: all that inference needs
    training   what only training needs: step, optimizer state, momentum copies, queues, key
    data       JSON: position of the data iterator, and the fingerprint of its configuration
    meta       JSON: the experiment and the versions that wrote it, checksums of the arrays, and a
               seal over both JSON items

It takes that name when everything in it is on the disk, and loses it before anything in it is
removed. What cannot be used is renamed and stays: ``damaged-<step>``, ``nonfinite-<step>``.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, Bool, UInt32

from retfm_jax.console import say
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, absolute, as_path, errors, is_remote, remove, rename
from retfm_jax.runtime import distributed
from retfm_jax.trees import (
    at_hand,
    flatten,
    floating_leaves,
    leaf_name,
    refuse_nonfinite,
    unflatten_like,
)

FOLDER = "checkpoints"
#: Where the network lies that was best on validation; see `runtime.best`.
BEST = "best"
#: Orbax's last object of a checkpoint in a store.
_COMMITTED = "commit_success.txt"

#: Seconds to wait before reading again what could not be read.
_PAUSES = (1.0, 2.0, 4.0)
#: Where removed checkpoints lie until their files are gone.
_REMOVED = ".removed"


class _Problem(enum.Enum):
    """Why a checkpoint is not taken; the value is the name under which it is set aside."""

    DAMAGED = "damaged"
    NOT_FINITE = "nonfinite"
    #: Nothing is known of what stands in it: it stays.
    UNREADABLE = ""


class _NotFinite(ValueError):
    """The arrays are those that were written, and of no use."""


class _Defect(Exception):
    """Our own code failed with what a whole checkpoint says; the checkpoint is not to blame.

    Attributes:
      error: with which it failed.
    """

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


@dataclasses.dataclass(frozen=True)
class Restored:
    """Content of a checkpoint.

    Attributes:
      step: number of updates before it.
      network, training: pytrees like the ones that were asked for.
      data, meta: the JSON items.
    """

    step: int
    network: Any
    training: Any
    data: dict[str, Any]
    meta: dict[str, Any]


class Checkpoints:
    """Checkpoints of one workdir; every process of a run makes one and calls it alike.

    Writing happens in the background: an error of it is raised by the next call. As a context
    manager it finishes the save that is in progress, whatever ends the block.
    """

    def __init__(self, workdir: PathLike, keep: int = 3):
        """Opens the checkpoints of a workdir, and makes their folder where it is missing.

        Args:
          workdir: folder of the run, local or in a store.
          keep: number of newest checkpoints that stay; older ones are removed.

        Raises:
          UserError: the folder cannot be read or written, see also `nameable`.
        """
        _quiet()
        self.folder = nameable(workdir) / FOLDER
        try:
            self._manager = _manager(self.folder, keep)
        except errors() as error:
            raise UserError(f"cannot open {self.folder}: {_reason(error)}") from error
        self._writing: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        # Others of the run may be gone, and a second signal is an order.
        lost = issubclass(kind, jax.errors.JaxRuntimeError) and jax.process_count() > 1
        if not lost and not issubclass(kind, KeyboardInterrupt):
            with contextlib.suppress(UserError):  # what ended the block is the news
                self.wait()

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> Path | None:
        """Folder of the newest checkpoint that is completely written; None where there is none."""
        steps = [step for step in self.steps if step != self._writing]
        return self.folder / str(steps[-1]) if steps else None

    def save(
        self,
        step: int,
        network: Any,
        training: Any,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> None:
        """Begins to write a checkpoint; does nothing where the step has one.

        Args:
          step: number of updates so far.
          network: pytree of arrays, `params` and `batch_stats`.
          training: pytree of arrays that only training needs.
          data: JSON item, with "next_batch", the position in the data, which is `step`.
          meta: JSON item; checksums of the arrays and a seal are added.

        Raises:
          UserError: this one or the one before could not be written; others are intact.
        """
        self.wait()
        if step in self.steps:
            return
        self._writing = step
        data = dict(data)
        meta = {**meta, "checksums": [checksum(network), checksum(training)]}
        args = ocp.args.Composite(
            network=ocp.args.StandardSave(network),
            training=ocp.args.StandardSave(_without_empty(training)),
            data=ocp.args.JsonSave(data),
            meta=ocp.args.JsonSave({**meta, "seal": _seal(data, meta)}),
        )
        self._guarded(lambda: self._manager.save(step, args=args))

    def wait(self) -> None:
        """Waits until every save is completely on disk.

        Raises:
          UserError: a checkpoint could not be written.
        """
        self._guarded(self._manager.wait_until_finished)
        self._writing = None
        _empty(self.folder / _REMOVED)

    def check(self) -> None:
        """Raises errors of saves in the background, without waiting.

        Raises:
          UserError: a checkpoint could not be written.
        """
        self._guarded(self._manager.check_for_errors)

    def close(self) -> None:
        """Waits for the last save and frees what the manager holds.

        Raises:
          UserError: the last checkpoint could not be written.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except (OSError, ValueError, RuntimeError) as error:
            step = self._writing
            if jax.process_index() == 0:
                remove_half_written(self.folder)  # a full disk has room for what is to come
            intact = [str(other) for other in self.steps if other != step]
            rest = (
                f"the earlier ones are intact ({', '.join(intact)})"
                if intact
                else "there is no earlier one"
            )
            raise UserError(
                f"cannot write the checkpoint of step {step} under {self.folder}: "
                f"{_reason(error)}; {rest}. Make room there and run the same command again: "
                "it resumes from the newest checkpoint"
            ) from error

    def restore(
        self,
        network: Any,
        training: Any,
        check: Callable[[dict[str, Any], dict[str, Any]], None],
        former: Callable[[str], str] = lambda name: name,
    ) -> Restored | None:
        """Reads the newest checkpoint that is whole, onto the shardings of the given shapes.

        One that is damaged, or whose arrays are not finite, is renamed and reported on stderr, and
        the one before it is taken. One that cannot be read is tried again for some seconds; it may
        be whole, and stays as it is.

        Args:
          network, training: pytrees of `jax.ShapeDtypeStruct` with shardings, of any mesh.
          check: called with the items `data` and `meta` before any array is read; raises
            `UserError` where this run must not resume from them.
          former: gives the name that an array of `training` has in a checkpoint of an earlier
            version.

        Returns:
          None where there is no checkpoint with finite arrays.

        Raises:
          UserError: the run does not fit the checkpoint, a checkpoint cannot be read now, or all
            checkpoints are damaged.
        """
        aside: dict[int, tuple[_Problem, str]] = {}
        for step in reversed(self.steps):
            restored, problem, reason = self._read_patiently(step, network, training, check, former)
            if problem is None:
                self._set_aside(aside)
                return restored
            if problem is _Problem.UNREADABLE:
                raise self._unreadable(step, reason)
            aside[step] = problem, reason
        if any(problem is _Problem.DAMAGED for problem, _ in aside.values()):
            problems = "; ".join(f"{step}: {reason}" for step, (_, reason) in aside.items())
            raise UserError(
                f"none of the checkpoints under {self.folder} can be read ({problems}). Where the "
                "files are lost, start anew in another workdir"
            )
        self._set_aside(aside)
        return None

    def _read_patiently(
        self, step, network, training, check, former
    ) -> tuple[Restored | None, _Problem | None, str]:
        """Reads a checkpoint, several times where that may help; every process finds the same."""
        for pause in (*_PAUSES, None):
            restored, problem, reason = None, None, "another process cannot read it"
            try:
                restored = self._read(step, network, training, check, former)
            except UserError:
                raise
            except _Defect as defect:
                raise defect.error from None
            except Exception as error:  # tensorstore raises bare ones, too
                problem, reason = _problem(error), _reason(error)
            # What one process cannot use, none uses.
            problem = next(
                (
                    kind
                    for kind in (_Problem.UNREADABLE, _Problem.DAMAGED, _Problem.NOT_FINITE)
                    if distributed.any_process(problem is kind)
                ),
                None,
            )
            if problem is not _Problem.UNREADABLE or pause is None:
                return restored, problem, reason
            path = self.folder / str(step)
            say(f"cannot read {path} ({reason}); trying again in {pause:.0f} s", error=True)
            time.sleep(pause)
        raise AssertionError("the last pause returns")

    def _unreadable(self, step: int, reason: str) -> UserError:
        before = [other for other in self.steps if other < step]
        rest = f"from {self.folder / str(before[-1])}" if before else "at its beginning"
        return UserError(
            f"the checkpoint {self.folder / str(step)} cannot be read: {reason}. It may well be "
            "whole, and nothing was changed: run the same command again when its disk answers. "
            f"Where it never will, move that folder away, and the run resumes {rest}"
        )

    def _read(self, step, network, training, check, former) -> Restored:
        path = self.folder / str(step)
        meta = self._item(step, "meta", ocp.args.JsonRestore())
        if meta.get("network_only"):
            raise UserError(
                f"{path} holds weights without a run to resume: give them "
                "as config.init.weights and take another workdir"
            )
        data = self._item(step, "data", ocp.args.JsonRestore())
        if data["next_batch"] != step:
            raise ValueError(f"its position in the data is {data['next_batch']!r}")
        seal = meta.pop("seal", None)
        if seal not in (None, _seal(data, meta)):
            raise ValueError("its description is not the one that was written")
        try:
            check(data, meta)
        except UserError:
            raise
        except Exception as error:
            # Checkpoints of version 0.1 have no seal: what stands in theirs may be anything.
            if seal is None:
                raise
            raise _Defect(error) from error
        stored = self._manager.item_metadata(step)
        parts = []
        for name, wanted, names in (
            ("network", network, str),
            ("training", training, former),
        ):
            if stored[name] is None:
                raise ValueError(f"its {name} item is missing")
            parts.append(self._arrays(step, name, stored[name].tree, wanted, names))
        network, training = parts
        if [checksum(network), checksum(training)] != meta["checksums"]:
            raise ValueError("its arrays are not those that were written")
        unusable = not_finite(network, norms=True) + not_finite(training)
        if unusable:
            raise _NotFinite(f"{unusable[0]} is not finite")
        return Restored(step, network, training, data, meta)

    def _arrays(self, step: int, item: str, stored: Any, wanted: Any, former) -> Any:
        """An item in the structure of `wanted`, whatever containers it was stored in."""
        shapes = flatten(_without_empty(wanted))
        there = flatten(stored).keys()
        if there != shapes.keys() and there == {former(name) for name in shapes}:
            shapes = {former(name): leaf for name, leaf in shapes.items()}
        else:
            former = str
        _check_shapes(self.folder / str(step), item, stored, shapes)
        target = unflatten_like(stored, shapes)
        found = flatten(self._item(step, item, ocp.args.StandardRestore(target)))
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: (
                found[former(leaf_name(path))]
                if leaf.size
                else jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
            ),
            wanted,
        )

    def _item(self, step: int, name: str, args: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**{name: args}))[name]

    def set_aside(self, step: int, reason: str) -> Path | None:
        """Renames a checkpoint that the run must not resume from, so that the one before is taken.

        Args:
          step: number of updates of the checkpoint.
          reason: why, for the warning on stderr.

        Returns:
          its new name; None where the step has no checkpoint.
        """
        if step not in self.steps:
            return None
        return self._set_aside({step: (_Problem.NOT_FINITE, reason)})

    def _set_aside(self, problems: Mapping[int, tuple[_Problem, str]]) -> Path | None:
        """Renames checkpoints, so that the run can save those steps again."""
        aside = None
        for step, (problem, reason) in problems.items():
            path = self.folder / str(step)
            aside = self.folder / f"{problem.value}-{step}"
            if jax.process_index() == 0:
                what = "is damaged" if problem is _Problem.DAMAGED else "is of no use"
                say(f"warning: checkpoint {path} {what} ({reason}); now {aside.name}", error=True)
                remove(aside)
                rename(path, aside)
        if problems:
            distributed.barrier(f"checkpoints set aside: {sorted(problems)}")
            self._manager.reload()
        return aside


def _quiet() -> None:
    # Orbax reports its progress on the root logger, and errors with their tracebacks: those are
    # raised as well. Once for every array that did not find room on a disk, so does asyncio.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if sys.unraisablehook is not _without_stragglers:
        _hooks.append(sys.unraisablehook)
        sys.unraisablehook = _without_stragglers


#: What showed exceptions that nobody can catch before.
_hooks: list[Callable[[Any], None]] = []


def _without_stragglers(unraisable: Any) -> None:
    """Shows an exception that nobody can catch, but for writes that nobody waits for any more.

    Tensorstore's threads report to the event loop of a save that another array has ended already.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        _hooks[-1](unraisable)


class _Durable(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A folder that takes its name when the disk has what it holds: a power cut leaves no husk."""

    async def finalize(self) -> None:
        for folder, _, names in os.walk(self.get()):
            for name in names:
                _sync(os.path.join(folder, name))
            _sync_folder(folder)
        await super().finalize()
        _sync_folder(self.get_final().parent)


def _temporary(folder: Path) -> type[_Durable] | None:
    return None if is_remote(folder) else _Durable


def _sync(path: str | os.PathLike[str]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: str | os.PathLike[str]) -> None:
    with contextlib.suppress(OSError):  # some network disks know it of files alone
        _sync(path)


#: How often half-written folders are removed, and seconds between.
_ATTEMPTS, _PAUSE = 4, 0.2


def remove_half_written(folder: Path) -> None:
    """Removes unfinished checkpoints, of a killed process or a full disk, from a folder.

    Orbax's own cleaning misses some. What cannot be removed stays.

    Args:
      folder: the folder that holds the checkpoints.
    """
    for attempt in range(_ATTEMPTS):
        left = _half_written(folder)
        if not left:
            return
        if attempt:  # threads of the write that failed may still have been making files
            time.sleep(_PAUSE)
        for half_written in left:
            with contextlib.suppress(*errors()):
                remove(half_written)


def _half_written(folder: Path) -> list[Path]:
    """Folders of checkpoints that are none: on disks they have another name, in stores no mark."""
    if is_remote(folder):
        return [step for step in _steps(folder).values() if not _is_whole(step)]
    return list(folder.glob("*.orbax-checkpoint-tmp*"))


def _steps(folder: Path) -> dict[int, Path]:
    """The folders of steps, whole or not."""
    if not folder.is_dir():
        return {}
    return {int(path.name): path for path in folder.iterdir() if path.name.isdigit()}


def _is_whole(checkpoint: Path) -> bool:
    return not is_remote(checkpoint) or (checkpoint / _COMMITTED).exists()


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    if jax.process_index() == 0:
        remove_half_written(folder)
    _empty(folder / _REMOVED)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=True,
        temporary_path_class=_temporary(folder),
        todelete_subdir=None if is_remote(folder) else _REMOVED,
    )
    # Named handlers: without them the shapes of a stored item cannot be asked for.
    handlers = {
        "network": _arrays(folder),
        "training": _arrays(folder),
        "data": ocp.JsonCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _arrays(folder: Path) -> ocp.StandardCheckpointHandler:
    """Writes arrays: all of them into few files on a disk, each into objects of its own in a store.

    The database of the few files is rewritten with every part that arrives, which a store would
    have to check against the writes of others.
    """
    return ocp.StandardCheckpointHandler(use_ocdbt=not is_remote(folder))


def _empty(folder: Path) -> None:
    if jax.process_index() == 0:
        with contextlib.suppress(*errors()):
            remove(folder)


def _without_empty(tree: Any) -> Any:
    # Orbax writes no array without elements, such as the labels of a queue whose data have none.
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, tree)


def _reason(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text:
        return "no space left on the device"
    first = text.splitlines()[0]
    return first if len(first) <= 200 else first[:200] + "..."


@jax.jit
def _sum_of_bits(tree: Any) -> UInt32[Array, ""]:
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
        total += jnp.sum(bits, dtype=jnp.uint32)
    return total


def checksum(tree: Any) -> int:
    """Sum of all elements' bits modulo 2^32: the same on every mesh, and exact.

    The storage formats notice a missing or a short file, but not a changed bit.

    Args:
      tree: pytree of arrays of any dtype of 8 to 32 bits, sharded or not.
    """
    arrays = at_hand(jax.tree.leaves(tree))
    if arrays is None:
        return int(_sum_of_bits(tree))
    bits = (array.view(f"uint{8 * array.dtype.itemsize}") for array in arrays)
    return sum(int(each.sum(dtype=np.uint32)) for each in bits) % 2**32


@functools.partial(jax.jit, static_argnames="norms")
def _finite(leaves: list[Any], norms: bool) -> list[Bool[Array, ""]]:
    return [
        jnp.isfinite(jnp.sum(jnp.square(leaf.astype(jnp.float32))))
        if norms
        else jnp.all(jnp.isfinite(leaf))
        for leaf in leaves
    ]


def _is_finite(array: np.ndarray, norms: bool) -> bool:
    """`_finite` of an array of this process."""
    if not norms:
        return bool(np.isfinite(array).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.square(array.astype(np.float32)).sum()))


def not_finite(tree: Any, *, norms: bool = False) -> list[str]:
    """Names of arrays that hold NaN or infinities.

    Args:
      tree: pytree of arrays, sharded or not; integers are always finite.
      norms: whether arrays whose norm overflows float32 count too. Parameters of that size come
        from an update that went wrong, and give no finite loss.
    """
    floating = floating_leaves(tree)
    leaves = list(floating.values())
    arrays = at_hand(leaves)
    if arrays is None:
        found = jax.device_get(_finite(leaves, norms))
    else:
        found = [_is_finite(array, norms) for array in arrays]
    return [name for name, finite in zip(floating, found, strict=True) if not finite]


def _seal(data: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """A fingerprint of both JSON items, which notices a changed digit."""
    return hashlib.sha256(json.dumps([data, meta], sort_keys=True).encode()).hexdigest()


#: How tensorstore begins to speak of what went wrong outside of the files.
_PASSING = re.compile(
    r"(UNKNOWN|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|PERMISSION_DENIED|"
    r"UNAUTHENTICATED|RESOURCE_EXHAUSTED|INTERNAL)\b"
)


def _problem(error: BaseException) -> _Problem:
    """Tells what is wrong with a checkpoint from what is wrong with the way to it."""
    if isinstance(error, _NotFinite):
        return _Problem.NOT_FINITE
    missing = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    cause: BaseException | None = error
    while cause is not None:
        outside = (*errors(), MemoryError)
        if isinstance(cause, outside) and not isinstance(cause, missing):
            return _Problem.UNREADABLE
        if _PASSING.match(str(cause).strip()):
            return _Problem.UNREADABLE
        cause = cause.__cause__ or cause.__context__
    return _Problem.DAMAGED


def _check_shapes(path: Path, item: str, stored: Any, wanted: Mapping[str, Any]) -> None:
    """Tells a checkpoint of another network or optimizer from a damaged one."""
    stored = {name: tuple(leaf.shape) for name, leaf in flatten(stored).items()}
    wanted = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    differences = [
        f"{name}: {stored.get(name, 'missing')} there, {wanted.get(name, 'missing')} here"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name) != wanted.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
        raise UserError(
            f"checkpoint {path} belongs to another configuration: {len(differences)} arrays of its "
            f"{item} differ ({shown}). Resume with the configuration that wrote it, or take "
            "another workdir"
        )


def nameable(path: PathLike) -> Path:
    """Absolute form of a path, where the libraries that store arrays can name it.

    Args:
      path: a folder, which need not exist.

    Raises:
      UserError: they cannot: a disk takes any bytes as a name, and these are not UTF-8.
    """
    path = absolute(path)
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}: arrays cannot be stored there, for that name is not UTF-8: rename the "
            "folder or take another one"
        ) from error
    return path


def find_checkpoint(path: PathLike) -> Path:
    """Best checkpoint of a workdir where it keeps one, else its newest; or the given one itself.

    Args:
      path: a workdir, its folder `best` or `checkpoints`, or one checkpoint.

    Raises:
      UserError: there is no checkpoint, see also `nameable`.
    """
    path = nameable(path)
    if (path / "network").is_dir():
        return path
    for folder in (path / BEST, path / FOLDER, path):
        whole = whole_steps(folder)
        if whole:
            return folder / str(whole[-1])
    raise UserError(f"no checkpoint under {path}: give a workdir or a checkpoint folder")


def whole_steps(folder: PathLike) -> list[int]:
    """Steps whose checkpoint in a folder is completely written, in rising order.

    Args:
      folder: of checkpoints; a missing one holds none.
    """
    found = _steps(nameable(folder))
    return sorted(step for step, path in found.items() if _is_whole(path))


def stored_meta(checkpoint: PathLike) -> dict[str, Any]:
    """Reads a checkpoint's item `meta`, and no array.

    Args:
      checkpoint: its folder.

    Raises:
      UserError: it cannot be read.
    """
    _quiet()
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(as_path(checkpoint) / "meta", args=ocp.args.JsonRestore())
    except Exception as error:  # tensorstore raises bare ones, too
        raise UserError(f"checkpoint {checkpoint} cannot be read: {_reason(error)}") from error


def workdir_of(path: PathLike) -> Path:
    """Workdir that a folder of checkpoints or one checkpoint belongs to.

    Args:
      path: a workdir, its folder `best` or `checkpoints`, or one checkpoint in it.
    """
    path = absolute(path)
    for folder in (path, path.parent):
        if folder.name in (FOLDER, BEST):
            return folder.parent
    return path


def load_network(path: PathLike) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Reads only the network of a checkpoint, onto one device, whatever mesh wrote it.

    Args:
      path: a workdir, its checkpoints folder, or one checkpoint.

    Returns:
      parameters, batch statistics, and the item `meta`.

    Raises:
      UserError: there is no checkpoint, it is damaged or cannot be read, or its values are not
        finite.
    """
    _quiet()
    folder = find_checkpoint(path)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            tree = reader.metadata(folder / "network").item_metadata.tree
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree
            )
            network = reader.restore(folder / "network", args=ocp.args.StandardRestore(abstract))
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            meta = reader.restore(folder / "meta", args=ocp.args.JsonRestore())
        if checksum(network) != meta["checksums"][0]:
            raise ValueError("its arrays are not those that were written")
    except Exception as error:  # tensorstore raises bare ones, too
        if _removed(folder, path):
            return load_network(path)
        damaged = _problem(error) is _Problem.DAMAGED
        what = "is damaged" if damaged else "cannot be read, though it may be whole"
        steps = _steps(folder.parent) if folder.name.isdigit() else {}
        before = sorted(step for step in steps if step < int(folder.name))
        rest = f"; an earlier one is {folder.parent / str(before[-1])}" if before else ""
        raise UserError(f"checkpoint {folder} {what}: {_reason(error)}{rest}") from error
    refuse_nonfinite(network, f"checkpoint {folder}")
    return network["params"], network["batch_stats"], meta


def _removed(folder: Path, path: PathLike) -> bool:
    """Whether a run that resumed has removed a checkpoint, with a newer one in `path`."""
    try:
        return find_checkpoint(path) != folder
    except UserError:
        return False


def save_network(path: PathLike, params: Any, batch_stats: Any, meta: Mapping[str, Any]) -> None:
    """Writes a folder that `load_network` reads: a checkpoint without the training part.

    Args:
      path: a new or empty folder, local or in a store.
      params, batch_stats: pytrees of arrays, as `load_network` returns them.
      meta: JSON item; a checksum of the arrays is added.

    Raises:
      UserError: it cannot be written, is not empty, or values are not finite.
    """
    _quiet()
    path = nameable(path)
    try:
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path} is not empty: give a new folder")
    except OSError as error:
        raise UserError(f"cannot write {path}: {_reason(error)}") from error
    network = {"params": params, "batch_stats": batch_stats}
    refuse_nonfinite(network, f"the network to be written into {path}")
    args = ocp.args.Composite(
        network=ocp.args.StandardSave(network),
        meta=ocp.args.JsonSave({**meta, "network_only": True, "checksums": [checksum(network)]}),
    )
    try:
        items = {"network": _arrays(path), "meta": ocp.JsonCheckpointHandler()}
        handler = ocp.CompositeCheckpointHandler(**items)
        with ocp.Checkpointer(handler, temporary_path_class=_temporary(path)) as writer:
            writer.save(path, args=args, force=True)
    except (OSError, ValueError, RuntimeError) as error:
        remove_half_written(path.parent)
        raise UserError(f"cannot write {path}: {_reason(error)}") from error
