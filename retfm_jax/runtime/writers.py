"""Metrics on disk: one JSON line a step, and TensorBoard events."""

import json
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from retfm_jax.errors import UserError
from retfm_jax.files import Mirror, PathLike, as_path, atomic_write

_METRICS = "metrics.jsonl"


class MetricWriter:
    """Writes `metrics.jsonl` and TensorBoard events into a workdir.

    A run that resumes at an earlier step writes the steps after it again; what stood there of
    them before is dropped, so that every step stands there once.

    In an object store, where nothing can be appended, both are copied as a whole: once a minute,
    and whenever `flush` is called.
    """

    def __init__(self, workdir: PathLike, step: int):
        """Opens the files to go on after `step`.

        Raises:
          UserError: they cannot be written.
        """
        self._name = as_path(workdir) / _METRICS
        self._mirror = Mirror(workdir, fetch=[_METRICS])
        self._path = self._mirror.local / _METRICS
        self._truncate(step)
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        self._events = SummaryWriter(str(self._mirror.local), purge_step=step + 1 if step else None)

    def _truncate(self, step: int) -> None:
        if not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except ValueError:
                continue  # The line that was being written when the run was killed.
        with atomic_write(self._path) as file:
            file.writelines(line + "\n" for line in kept)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step.

        Raises:
          UserError: the disk is full.
        """
        try:
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
        except OSError as error:
            raise self._unwritable(error) from error
        self._mirror.copy_if_due()

    def flush(self) -> None:
        """Returns when all metrics so far are in the workdir.

        Raises:
          UserError: they cannot be written.
        """
        self._mirror.copy()

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()
        self._mirror.close()

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self._name}: {error.strerror or error}")
