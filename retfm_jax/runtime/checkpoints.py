"""Checkpoints of a run: atomic, a few kept, readable on any mesh, and honest about damage.

A checkpoint is a folder `<workdir>/checkpoints/<step>` with four items:

    network    params and batch_stats: all that inference needs
    training   what only training needs: step, optimiser state, momentum copies, queues, key
    data       JSON: where the data iterator stood, and the fingerprint of its configuration
    meta       JSON: the experiment and the versions that wrote it, and the arrays' checksums
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt32

from retfm_jax.console import say
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, absolute, errors, is_remote, remove, rename
from retfm_jax.runtime import distributed
from retfm_jax.runtime.mesh import path_string
from retfm_jax.trees import refuse_nonfinite

FOLDER = "checkpoints"
#: Orbax's last object of a checkpoint in a store.
_COMMITTED = "commit_success.txt"


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held.

    Attributes:
      step: number of updates behind it.
      network, training: pytrees like the ones that were asked for.
      data, meta: the JSON items.
    """

    step: int
    network: Any
    training: Any
    data: dict[str, Any]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one workdir; every process of a run makes one and calls it alike.

    Writing happens in the background: an error of it is raised by the next call.
    """

    def __init__(self, workdir: PathLike, keep: int = 3):
        """Opens the checkpoints of `workdir`, of which the newest `keep` stay."""
        _quiet()
        self.folder = absolute(workdir) / FOLDER
        self._manager = _manager(self.folder, keep)
        self._writing: int | None = None

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> Path | None:
        """The folder of the newest checkpoint that is on disk, whole."""
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

        Raises:
          UserError: this one or the one before could not be written; others are intact.
        """
        self.wait()
        if step in self.steps:
            return
        self._writing = step
        args = ocp.args.Composite(
            network=ocp.args.StandardSave(network),
            training=ocp.args.StandardSave(_without_empty(training)),
            data=ocp.args.JsonSave(dict(data)),
            meta=ocp.args.JsonSave({**meta, "checksums": [checksum(network), checksum(training)]}),
        )
        self._guarded(lambda: self._manager.save(step, args=args))

    def wait(self) -> None:
        """Returns when everything begun is on disk.

        Raises:
          UserError: it could not be written.
        """
        self._guarded(self._manager.wait_until_finished)
        self._writing = None

    def check(self) -> None:
        """Raises what went wrong in the background, without waiting.

        Raises:
          UserError: a checkpoint could not be written.
        """
        self._guarded(self._manager.check_for_errors)

    def close(self) -> None:
        """Waits and frees what the manager holds.

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
    ) -> Restored | None:
        """Reads the newest checkpoint that is whole, onto the shardings of the given shapes.

        A damaged one is moved aside as `damaged-<step>`, said on stderr, and the one before it is
        taken.

        Args:
          network, training: pytrees of `jax.ShapeDtypeStruct` with shardings, of any mesh.
          check: called with the items `data` and `meta` before any array is read; raises
            `UserError` where this run must not go on from them.

        Returns:
          None where there is no checkpoint.

        Raises:
          UserError: the run does not fit the checkpoint, or all checkpoints are damaged.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            restored, problem = None, None
            try:
                restored = self._read(step, network, training, check)
            except UserError:
                raise
            except Exception as error:  # tensorstore raises bare ones, too
                problem = _reason(error)
            # What one process cannot read, none uses.
            if not distributed.any_process(problem is not None):
                self._set_aside(damaged)
                return restored
            damaged[step] = problem or "another process cannot read it"
        if damaged:
            problems = "; ".join(f"{step}: {problem}" for step, problem in damaged.items())
            raise UserError(
                f"none of the checkpoints under {self.folder} can be read ({problems}). Where the "
                "files are lost, start anew in another workdir"
            )
        return None

    def _read(self, step, network, training, check) -> Restored:
        meta = self._item(step, "meta", ocp.args.JsonRestore())
        if meta.get("network_only"):
            raise UserError(
                f"{self.folder / str(step)} holds weights without a run to go on with: give them "
                "as config.init.weights and take another workdir"
            )
        data = self._item(step, "data", ocp.args.JsonRestore())
        check(data, meta)
        stored = self._manager.item_metadata(step)
        for name, wanted in (("network", network), ("training", training)):
            if stored[name] is None:
                raise ValueError(f"its {name} item is missing")
            tree = _without_empty(wanted)
            _check_shapes(self.folder / str(step), name, stored[name].tree, tree)
        network = self._item(step, "network", ocp.args.StandardRestore(network))
        stored = self._item(step, "training", ocp.args.StandardRestore(_without_empty(training)))
        training = jax.tree.map(
            lambda wanted, leaf: (
                jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)
                if leaf is None
                else leaf
            ),
            training,
            stored,
        )
        if [checksum(network), checksum(training)] != meta["checksums"]:
            raise ValueError("its arrays are not those that were written")
        return Restored(step, network, training, data, meta)

    def _item(self, step: int, name: str, args: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**{name: args}))[name]

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Renames damaged checkpoints, so that the run can save those steps again."""
        for step, problem in damaged.items():
            path = self.folder / str(step)
            say(f"warning: checkpoint {path} is damaged ({problem})", error=True)
            if jax.process_index() == 0:
                aside = self.folder / f"damaged-{step}"
                remove(aside)
                rename(path, aside)
        if damaged:
            distributed.barrier("damaged checkpoints set aside")
            self._manager.reload()


def _quiet() -> None:
    # Orbax reports its progress on the root logger; errors are raised, not only logged.
    logging.getLogger("absl").setLevel(logging.ERROR)


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
        # What a killed run or a full disk left half-written; Orbax's own cleaning misses some.
        for half_written in _half_written(folder):
            with contextlib.suppress(*errors()):
                remove(half_written)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=True,
    )
    # Named handlers: without them the shapes of a stored item cannot be asked for.
    handlers = {
        "network": ocp.StandardCheckpointHandler(),
        "training": ocp.StandardCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


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
    """The sum of all elements' bits modulo 2^32: the same on every mesh, and exact.

    The storage formats notice a missing or a short file, but not a changed bit.
    """
    return int(_sum_of_bits(tree))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_string(path): tuple(leaf.shape) for path, leaf in leaves}


def _check_shapes(path: Path, item: str, stored: Any, wanted: Any) -> None:
    """Tells a checkpoint of another network or optimiser from a damaged one."""
    stored, wanted = _shapes(stored), _shapes(wanted)
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


def find_checkpoint(path: PathLike) -> Path:
    """The newest checkpoint folder of a workdir, of its `checkpoints` folder, or `path` itself.

    Raises:
      UserError: there is none.
    """
    path = absolute(path)
    if (path / "network").is_dir():
        return path
    for folder in (path / FOLDER, path):
        whole = [step for step, found in _steps(folder).items() if _is_whole(found)]
        if whole:
            return folder / str(max(whole))
    raise UserError(f"no checkpoint under {path}: give a workdir or a checkpoint folder")


def load_network(path: PathLike) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Reads only the network of a checkpoint, onto one device, whatever mesh wrote it.

    Args:
      path: a workdir, its checkpoints folder, or one checkpoint.

    Returns:
      parameters, batch statistics, and the item `meta`.

    Raises:
      UserError: there is no checkpoint, it is damaged, or its values are not finite.
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
        raise UserError(f"checkpoint {folder} is damaged: {_reason(error)}") from error
    refuse_nonfinite(network, f"checkpoint {folder}")
    return network["params"], network["batch_stats"], meta


def save_network(path: PathLike, params: Any, batch_stats: Any, meta: Mapping[str, Any]) -> None:
    """Writes a folder that `load_network` reads: a checkpoint without the training part.

    Raises:
      UserError: it cannot be written, holds something already, or values are not finite.
    """
    path = absolute(path)
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{path} is not empty: give a new folder")
    network = {"params": params, "batch_stats": batch_stats}
    refuse_nonfinite(network, f"the network to be written into {path}")
    args = ocp.args.Composite(
        network=ocp.args.StandardSave(network),
        meta=ocp.args.JsonSave({**meta, "network_only": True, "checksums": [checksum(network)]}),
    )
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
            writer.save(path, args=args, force=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot write {path}: {_reason(error)}") from error
