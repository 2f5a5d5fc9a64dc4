"""Figures with users' text: no name is taken for mathematics, no machine's settings matter."""

import contextlib
import io
import logging
import textwrap
from collections.abc import Iterator

from retfm_jax import extras
from retfm_jax.files import PathLike, atomic_write
from retfm_jax.rendering import fonts

with extras.needed("data"):
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.text import Text

#: Longest name that is plotted whole; pages and JSON files hold the whole of it.
_LONGEST = 48


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Sets Matplotlib's default style, with text as it is written and fonts for its characters.

    Plot inside of the block, as texts take their settings when they are made. As a decorator it
    serves a function that makes a figure.
    """
    settings = {
        "text.parse_math": False,
        "font.family": list(fonts.families()),
        "axes.formatter.use_mathtext": False,
    }
    # A font of one weight draws all: Matplotlib warns of that once for each weight and font.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with style.context(["default", settings]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure, without any window.

    Args:
      width, height: in inches.
    """
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def words(text: object, limit: int | None = _LONGEST) -> str:
    """Name or id as one line of a figure.

    Args:
      text: an object whose `str` is shown.
      limit: greatest number of characters; longer text loses its middle. None for no limit.
    """
    return fonts.drawable(fonts.one_line(text, limit))


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """Beginning of a longer text, in lines of a figure.

    Args:
      text: any text; its line breaks and repeated spaces become single spaces.
      width: of a line in Latin letters, of which Chinese ones are about twice as wide.
      lines: greatest number of lines; " …" ends a text that is cut.
    """
    line = words(" ".join(text.split()), None)
    wide = any(ord(character) > 0x2E80 and character != fonts.UNDRAWN for character in line)
    return textwrap.wrap(line, width // 2 if wide else width, max_lines=lines, placeholder=" …")


@plain_style()
def png(figure: Figure, dpi: int = 130) -> bytes:
    """Renders a figure as PNG; a note below it tells of characters that no font has.

    Args:
      figure: the figure, whose texts are no longer parsed as mathematics afterwards.
      dpi: pixels per inch.

    Returns:
      the bytes of the file.
    """
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
    """Writes a figure as PNG, atomically.

    Args:
      figure, dpi: see `png`.
      path: the file to write.

    Raises:
      UserError: it cannot be written.
    """
    data = png(figure, dpi)
    with atomic_write(path, "wb") as file:
        file.write(data)
