"""Figures with users' text: no name is taken for mathematics, no machine's settings matter."""

import contextlib
import io
import textwrap
from collections.abc import Iterator

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from retfm_jax.files import PathLike, atomic_write
from retfm_jax.rendering import fonts

#: Longest name that is plotted whole; pages and JSON files hold the whole of it.
_LONGEST = 48


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Matplotlib's own style, every text as it is written, with fonts for all its characters.

    Plotting happens inside, as texts take their settings when they are made. As a decorator it
    serves a function that makes a figure.
    """
    settings = {
        "text.parse_math": False,
        "font.family": list(fonts.families()),
        "axes.formatter.use_mathtext": False,
    }
    with style.context(["default", settings]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, without any window."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def words(text: object, limit: int | None = _LONGEST) -> str:
    """A name or an id as one line of a figure.

    Args:
      limit: characters; what is longer loses its middle.
    """
    return fonts.drawable(fonts.one_line(text, limit))


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """The beginning of a longer text in lines of a figure.

    Args:
      width: of a line in Latin letters, of which Chinese ones are about twice as wide.
      lines: at most.
    """
    line = words(" ".join(text.split()), None)
    wide = any(ord(character) > 0x2E80 and character != fonts.UNDRAWN for character in line)
    return textwrap.wrap(line, width // 2 if wide else width, max_lines=lines, placeholder=" …")


@plain_style()
def png(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as the bytes of a PNG; what no font draws is said once, below it."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.canvas.draw()  # labels of ticks get their text only now
    if any(fonts.UNDRAWN in text.get_text() for text in figure.findobj(Text)):
        figure.supxlabel(
            f"{fonts.UNDRAWN} stands for text that no font of this machine draws (a font such as "
            "Noto Sans CJK does); the HTML page has it",
            fontsize=8,
            x=0.01,
            ha="left",
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def save(figure: Figure, path: PathLike, dpi: int = 130) -> None:
    """Writes a figure as PNG, atomically."""
    data = png(figure, dpi)
    with atomic_write(path, "wb") as file:
        file.write(data)
