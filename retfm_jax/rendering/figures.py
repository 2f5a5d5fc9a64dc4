"""Figures with users' text: no name is taken for mathematics, no machine's settings matter."""

import contextlib
import io
import logging
import textwrap
from collections.abc import Iterator, Sequence

from retfm_jax import extras
from retfm_jax.files import PathLike, atomic_write
from retfm_jax.rendering import charts, colors, fonts

with extras.needed("data"):
    from matplotlib import style
    from matplotlib.axes import Axes
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
def panels(
    shown: Sequence[charts.Panel],
    title: str,
    notes: Sequence[str] = (),
    columns: int = 6,
    key: Sequence[str] = (),
) -> Figure:
    """Plots charts as small multiples, in rows; pages have them as `charts.gallery`.

    Args:
      shown: at least one.
      title: of the figure.
      notes: lines below the title, which end where the figure does.
      columns: charts in a row at most.
      key: what colors stand for, where they mean the same in all charts.
    """
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    width = max(2.35 * columns, 6.0)
    head = 0.34 * (1 + bool(key)) + 0.17 * len(notes) + 0.1
    height = head + 2.25 * rows
    figure = new_figure(width, height)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - head / height), w_pad=0.06, h_pad=0.08)
    place = 1 - 0.08 / height

    def line(text: str, size: float, color: str, tall: float) -> None:
        nonlocal place
        figure.text(0.1 / width, place, text, fontsize=size, color=color, va="top")
        place -= tall / height

    line(words(title, round(9 * width)), 12, colors.INK, 0.32)
    for note in notes:
        line(words(note, round(17 * width)), 8, colors.SOFT, 0.17)
    _key(figure, key, place, width)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, shown, strict=False):
        _plot(axes, panel)
    for axes in grid[len(shown) :]:
        axes.axis("off")
    return figure


def _key(figure: Figure, key: Sequence[str], place: float, width: float) -> None:
    """Names in the colors of their curves, in a row."""
    left = 0.1
    for position, name in enumerate(key):
        name, color = words(name), colors.CURVES[position % len(colors.CURVES)]
        figure.text(left / width, place, "■ " + name, fontsize=9, color=color, va="top")
        left += 0.35 + 0.068 * len(name)


def _plot(axes: Axes, panel: charts.Panel) -> None:
    axes.set_title(words(panel.title, 40), fontsize=8.5, loc="left", color=colors.INK, pad=3)
    axes.set_xlabel(panel.x_label, fontsize=7.5, color=colors.SOFT, labelpad=1)
    axes.set_ylabel(panel.y_label, fontsize=7.5, color=colors.SOFT, labelpad=1)
    axes.tick_params(labelsize=7, colors=colors.INK, length=2, pad=2)
    axes.grid(color=colors.GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    x_span, y_span = panel.spans
    if panel.diagonal:
        axes.plot([0, 1], [0, 1], color=colors.SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
    for curve in panel.curves:
        color = colors.CURVES[curve.color]
        if curve.band is not None:
            x, low, high = curve.band
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        x, y = charts.thinned(curve.x, curve.y)
        width, alpha = (0.8, 0.4) if curve.faint else (1.4, 1.0)
        axes.plot(x, y, color=color, linewidth=width, alpha=alpha)
    for x, y, color in panel.dots:
        axes.plot(x, y, "o", color=colors.CURVES[color], markersize=4)
    _label(axes, panel, y_span)
    axes.set(xlim=x_span, ylim=y_span)
    for axis, values in (
        (axes.xaxis, charts.ticks(x_span, 4, panel.integers)),
        (axes.yaxis, charts.ticks(y_span)),
    ):
        axis.set_ticks(values, charts.tick_labels(values))
    # Where curves seldom are: right below those that rise, left below those that fall.
    x, side = (0.97, "right") if panel.diagonal else (0.05, "left")
    for line, (value, color) in enumerate(reversed(panel.values)):
        axes.text(
            x, 0.04 + 0.095 * line, words(value), transform=axes.transAxes, fontsize=7.5,
            color=colors.CURVES[color], ha=side, va="bottom", fontweight="bold",
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
        )  # fmt: skip
    if panel.note and not panel.values:
        axes.text(
            x, 0.04, "\n".join(wrapped(panel.note, 30, 4)), transform=axes.transAxes,
            fontsize=7.5, color=colors.INK, ha=side, va="bottom",
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
        )  # fmt: skip


def _label(axes: Axes, panel: charts.Panel, span: tuple[float, float]) -> None:
    """Names of curves at their ends, apart from each other."""
    low, high = span
    places = charts.apart([y for _, y in panel.ends], 0.09 * (high - low), low, high)
    for (curve, _), place in zip(panel.ends, places, strict=True):
        axes.text(
            1.02, (place - low) / (high - low), words(curve.label, 24), transform=axes.transAxes,
            fontsize=7.5, color=colors.CURVES[curve.color], va="center",
        )  # fmt: skip


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
    figure.draw_without_rendering()  # labels of ticks get their text only now
    if any(fonts.UNDRAWN in text.get_text() for text in figure.findobj(Text)):
        figure.supxlabel(
            f"{fonts.UNDRAWN} stands for text that no font of this machine draws (a font such as "
            "Noto Sans CJK does); the HTML page has it",
            fontsize=8,
            x=0.01,
            ha="left",
        )
    else:
        figure.set_layout_engine("none")  # it is laid out: a second time takes as long
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
