"""Trace of a few steps, readable in TensorBoard's profiler, XProf and Perfetto."""

from typing import Any

import jax

from retfm_jax.config import ProfileConfig
from retfm_jax.files import Mirror, PathLike, as_path


class Profiler:
    """Traces the window of steps that the config names into `<workdir>/profile`.

    Args:
      workdir: folder of the run, local or in a store.
      config: first step and length of the window; length 0 traces nothing.
    """

    def __init__(self, workdir: PathLike, config: ProfileConfig):
        self._folder = as_path(workdir) / "profile"
        self._first, self._end = config.first_step, config.first_step + config.steps
        self._tracing: Mirror | None = None

    def before_step(self, step: int, state: Any) -> None:
        """Begins the trace before the first step of the window, ends it after the last.

        Args:
          step: number of the step that comes next.
          state: arrays that the steps so far compute; the trace waits for them at both ends.
        """
        if step == self._first and self._end > self._first:
            jax.block_until_ready(state)
            self._tracing = Mirror(self._folder)
            jax.profiler.start_trace(self._tracing.local)
        elif step == self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes the trace that is in progress, if there is one."""
        if self._tracing is not None:
            jax.profiler.stop_trace()
            self._tracing.close()
            self._tracing = None
