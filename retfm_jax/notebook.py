"""`%retfm` and `show` for notebooks: the command line, and photographs beside each other.

`%load_ext retfm_jax.notebook` defines it. It is written as `retfm` in a terminal, may go over
several lines that end in a backslash, and takes variables of the notebook in braces::

    %retfm train --config finetune --config.data.dataset={PHOTOGRAPHS} --workdir run

Each command is a process of its own, which gives memory back when it ends; a GPU is shared with it
where `XLA_PYTHON_CLIENT_PREALLOCATE=false` was set before JAX began. What it writes appears as it
comes. Where it fails the notebook stops. Interrupting the cell interrupts the command, so that a
training run is saved, and the same cell resumes it.
"""

import io
import os
import shlex
import subprocess
import sys
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from retfm_jax.console import say


class CommandFailed(Exception):
    """A command ended with a status that is not 0; what was wrong stands in its output."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: nobody looks for the mistake in this file."""
        return [str(self)]


def retfm(line: str) -> None:
    """Runs `retfm` and shows what it writes.

    Args:
      line: its arguments, quoted as in a shell; nothing else of a shell is done.

    Raises:
      CommandFailed: it did not end with 0.
    """
    arguments = shlex.split(line)
    command = [sys.executable, "-m", "retfm_jax.cli", *arguments]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(
        command, env=environment, encoding="utf-8", errors="replace", **pipes
    ) as process:
        try:
            _pass_on(process)
        except KeyboardInterrupt:  # the command has it, too, and saves what it has
            _pass_on(process)
            raise
    if process.returncode:
        raise CommandFailed(
            f"retfm {' '.join(arguments[:1])} ended with status {process.returncode}: the lines "
            "above say why"
        )


def _pass_on(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None, "it is a pipe"
    for text in process.stdout:
        say(text.rstrip("\n"))


def show(
    *pictures: str | os.PathLike | bytes | Image.Image | UInt8[np.ndarray, "h w 3"],
    width: int = 800,
) -> Any:
    """Pictures beside each other, as one small JPEG that a notebook shows and keeps.

    Args:
      pictures: paths, encoded bytes, PIL images, or RGB arrays (h, w, 3) uint8; one or more. All
        get one height.
      width: of all together, in pixels.

    Returns:
      an `IPython.display.Image`: the last line of a cell, or what `display` takes.

    Raises:
      OSError: one cannot be read.
    """
    from IPython.display import Image as Shown

    opened = [_opened(each) for each in pictures]
    shapes = [(each.width / each.height, each) for each in opened]
    height = width / sum(ratio for ratio, _ in shapes)
    sized = [each.resize((round(height * ratio), round(height))) for ratio, each in shapes]
    buffer = io.BytesIO()
    Image.fromarray(np.hstack([np.asarray(each) for each in sized])).save(
        buffer, "JPEG", quality=75
    )
    return Shown(buffer.getvalue())


def _opened(photograph: Any) -> Image.Image:
    """A photograph upright, in RGB."""
    if isinstance(photograph, np.ndarray):
        return Image.fromarray(photograph)
    if isinstance(photograph, bytes):
        photograph = io.BytesIO(photograph)
    if not isinstance(photograph, Image.Image):
        photograph = Image.open(photograph)
    return ImageOps.exif_transpose(photograph).convert("RGB")


def load_ipython_extension(shell: Any) -> None:
    """Defines `%retfm`; IPython calls it for `%load_ext retfm_jax.notebook`.

    Args:
      shell: IPython's.
    """
    shell.register_magic_function(retfm, "line")
