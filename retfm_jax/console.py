"""Output for people: text as it is.

Names, labels and paths are a user's own. Square brackets in them are no markup, control characters
appear as escapes, and what the encoding of the output cannot hold is spelled out instead of ending
the command. `say` is the only function of this package that prints. Output that cannot be
delivered, as behind a closed terminal or on a full disk, ends no work: `finish` reports it.
"""

import contextlib
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

#: Signs of our own that have a plain spelling, for terminals that know ASCII alone.
_SPELLINGS = str.maketrans({"±": "+-", "–": "-", "—": "-", "…": "...", "─": "-", "≥": ">="})

#: Categories of characters that move the cursor or cannot be written: controls, lone surrogates,
#: separators of lines and of paragraphs.
_MOVING = ("Cc", "Cs", "Zl", "Zp")
#: Marks that turn the direction of what follows, and some that show nothing at all.
_DIRECTIONS = frozenset(
    "\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
)


def say(*lines: object, style: str = "", error: bool = False) -> None:
    """Prints lines as they are: nothing in them is markup, and none is wrapped or cut.

    Args:
      lines: objects whose texts are printed, each on a line of its own.
      style: of rich, such as "bold", where the output is a terminal.
      error: whether they go to stderr.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # closed before this process began
        return
    text = "\n".join(fitting(printable(str(line), keep="\n\t"), stream) for line in lines)
    with _losing("stderr" if error else "stdout"):
        if style and stream.isatty():
            from rich.console import Console
            from rich.text import Text

            Console(file=stream).print(Text(text), style=style, soft_wrap=True)
            stream.flush()
        else:
            print(text, file=stream, flush=True)


#: Why the output could not be written, by "stdout" and "stderr".
_lost: dict[str, OSError] = {}

#: A reader that has had enough (`| head`), a terminal that was closed.
_NOBODY_READS = (errno.EPIPE, errno.EIO)


@contextlib.contextmanager
def _losing(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _lost.setdefault(name, error)


def finish() -> str | None:
    """Writes what is left of the output, at the end of a command.

    Python would try once more at its end, report the failure, and change the exit status: a stream
    that cannot be written is therefore redirected to `os.devnull`.

    Returns:
      why standard output is incomplete; None where it is complete, or where nobody reads it.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            continue
        with _losing(name), contextlib.suppress(ValueError):  # it may be closed
            stream.flush()
        if name in _lost:
            with contextlib.suppress(io.UnsupportedOperation, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    reason = _lost.get("stdout")
    _lost.clear()
    if reason is None or reason.errno in _NOBODY_READS:
        return None
    return reason.strerror or str(reason)


def fitting(text: str, stream: TextIO) -> str:
    """Text in characters that a stream can hold; the others are spelled out or escaped.

    Args:
      text: what is to be written.
      stream: whose encoding counts; UTF-8 where it states none.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_SPELLINGS).encode(encoding, "backslashreplace").decode(encoding)
    return text


def printable(text: str, keep: str = "") -> str:
    """Text with control characters, lone surrogates and marks of direction as escapes.

    They would move a terminal's cursor, or show a name and what follows it backwards.

    Args:
      text: of a user or a file.
      keep: control characters that stay, such as "\\n".
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if (unicodedata.category(character) in _MOVING or character in _DIRECTIONS)
        and character not in keep
        else character
        for character in text
    )
