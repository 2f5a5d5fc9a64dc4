"""METEOR of generated reports, by its authors' own program (Denkowski and Lavie, WMT 2014).

Its table of paraphrases and its stemmer make it a program of its own, and nothing else has its
name: METEOR 1.5 is run as pycocoevalcap runs it, by Java, and this module speaks its protocol.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.captions import require_pairs
from retfm_jax.files import Path, PathLike, as_path

#: Between the parts of a line; reports lose it.
_BETWEEN = " ||| "
#: Memory of its process, as pycocoevalcap gives it.
_MEMORY = "-Xmx2G"
#: Of what the program says where it fails, characters.
_SAID = 200


class Meteor(NamedTuple):
    """METEOR of reports.

    Attributes:
      value: of all reports together, from the sums of their counts, which is no mean of theirs.
      each: of every report (n).
    """

    value: float
    each: Float[np.ndarray, " n"]


def measure(hypotheses: Sequence[str], references: Sequence[str], jar: PathLike) -> Meteor:
    """Computes METEOR of English reports.

    Args:
      hypotheses: generated reports (n), words between spaces.
      references: what was written (n), item i that of the same images as hypothesis i.
      jar: METEOR's program, `meteor-1.5.jar`, beside its folder `data`.

    Raises:
      UserError: there is no report, no such file or no Java, or the program fails.
      ValueError: the sequences have different lengths.
    """
    require_pairs(hypotheses, references)
    command = _command(as_path(jar))
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, encoding="utf-8"
        )
        try:
            return _asked(process, hypotheses, references)
        except (OSError, ValueError) as error:
            process.kill()
            process.wait()
            raise UserError(f"meteor {jar}: {_reason(said, error)}") from error
        finally:
            process.kill()
            process.communicate()


def check(jar: PathLike) -> None:
    """Checks that METEOR can be started.

    Args:
      jar: its program.

    Raises:
      UserError: there is no such file, or no Java.
    """
    _command(as_path(jar))


def _command(jar: Path) -> list[str]:
    if not jar.is_file():
        raise UserError(f"meteor {jar}: no such file; give the path of meteor-1.5.jar")
    java = shutil.which("java")
    if java is None:
        raise UserError(f"meteor {jar} runs by Java, and there is no program java: install one")
    return [java, _MEMORY, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]


def _asked(
    process: "subprocess.Popen[str]", hypotheses: Sequence[str], references: Sequence[str]
) -> Meteor:
    """Asks for the counts of each report, and then for the scores of all.

    Raises:
      OSError: the process ended.
      ValueError: what it answers are no scores.
    """
    counts = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        _write(process, ["SCORE", _plain(reference), _plain(hypothesis)])
        counts.append(_line(process))
    _write(process, ["EVAL", *counts])
    *each, value = (float(_line(process)) for _ in range(len(counts) + 1))
    return Meteor(value, np.array(each))


def _plain(text: str) -> str:
    """One line without what stands between parts."""
    return " ".join(text.replace(_BETWEEN.strip(), " ").split())


def _write(process: "subprocess.Popen[str]", parts: Sequence[str]) -> None:
    assert process.stdin is not None, "it is a pipe"
    process.stdin.write(_BETWEEN.join(parts) + "\n")
    process.stdin.flush()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None, "it is a pipe"
    line = process.stdout.readline()
    if not line.strip():
        raise OSError("it ended before it had answered")
    return line.strip()


def _reason(said: Any, error: Exception) -> str:
    """What the program said last, or else what went wrong."""
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return f"the program failed: {lines[0][:_SAID] if lines else error}"
