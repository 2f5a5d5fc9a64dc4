"""Times of a checkpoint: how long a run stands still, until it is on disk, and to read it back."""

import tempfile
from pathlib import Path

import jax

from retfm_jax.benchmarks.step import Trainer
from retfm_jax.benchmarks.timing import Measurement, Timing, timed
from retfm_jax.config import ExperimentConfig, to_dict
from retfm_jax.files import PathLike
from retfm_jax.runtime.checkpoints import Checkpoints
from retfm_jax.training.state import TrainState


def measure(
    config: ExperimentConfig, rounds: int, folder: PathLike | None = None
) -> list[Measurement]:
    """Saves and restores the whole training state of an experiment.

    Args:
      config: the experiment, which has random weights.
      rounds: timed saves and restores, after one that does not count.
      folder: existing folder for the checkpoints, on the disk that a run will use; None: the
        system's folder for temporary files.
    """
    state = Trainer(config).state
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    blocked: list[Timing] = []
    whole: list[Timing] = []
    read: list[Timing] = []
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        checkpoints = Checkpoints(Path(workdir), keep=1)
        for step in range(rounds + 1):

            def save(step: int = step) -> None:
                position = {"next_batch": step, "identity": {}}
                meta = {"config": to_dict(config)}
                checkpoints.save(step, state.network(), state.training(), position, meta)

            def restore() -> None:
                restored = checkpoints.restore(
                    shapes.network(), shapes.training(), lambda data, meta: None
                )
                assert restored is not None
                jax.block_until_ready(TrainState.from_parts(restored.network, restored.training))

            begun = timed(save)
            written = timed(checkpoints.wait)
            restoring = timed(restore)
            if step:  # The first one compiles the checksums.
                blocked.append(begun)
                whole.append(Timing(begun.seconds + written.seconds))
                read.append(Timing(restoring.seconds))
        checkpoints.close()
    return [
        Measurement("training stands still for a save", tuple(blocked)),
        Measurement("save, until it is on disk", tuple(whole), size, "MB"),
        Measurement("restore", tuple(read), size, "MB"),
    ]
