"""Pictures of a benchmark: intervals in rows of a table, and critical differences."""

import math
from collections.abc import Sequence

from retfm_jax import extras
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.experiments.benchmark import words
from retfm_jax.experiments.benchmark.comparisons import Panel
from retfm_jax.rendering import charts, colors, figures
from retfm_jax.rendering.figures import new_figure, plain_style

with extras.needed("eval"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Size of a picture in a row, in CSS pixels, and its margins left and right.
_WIDTH, _HEIGHT, _MARGIN = 164, 22, 14


class Scale:
    """A common scale of the pictures in the rows of one table.

    Args:
      values: what it has to hold; those without a value are passed over.
      zero: whether 0 is on it.
    """

    def __init__(self, values: Sequence[Estimate], zero: bool = False):
        numbers = [x for of in values for x in of[:3] if not math.isnan(x)]
        numbers += [0.0] * zero
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        if high - low < 0.02:
            low, high = low - 0.01, high + 0.01
        step = charts.step(high - low)
        self._low, self._high = math.floor(low / step) * step, math.ceil(high / step) * step
        count = round((self._high - self._low) / step)
        self._ticks = [self._low + step * at for at in range(count + 1)]
        self._decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        self._zero = zero

    def _x(self, value: float) -> str:
        share = (value - self._low) / (self._high - self._low)
        return f"{_MARGIN + share * (_WIDTH - 2 * _MARGIN):.1f}"

    def row(self, value: Estimate, strong: bool = False) -> str:
        """A dot with its interval, as SVG; readers of the page have the numbers beside it.

        Args:
          value: with or without an interval; nothing is drawn without a value.
          strong: whether it stands out.
        """
        color, middle = f"var(--{'c0' if strong else 'soft'})", _HEIGHT / 2
        parts = [self._line(tick, "rule") for tick in self._ticks]
        if self._zero:
            parts.append(self._line(0.0, "ink"))
        if value.has_interval:
            ends = (self._x(value.low), self._x(value.high))
            parts.append(
                f'<path d="M{ends[0]} {middle}H{ends[1]}" stroke-width="2.5" '
                f'style="stroke: {color}"/>'
            )
        if not math.isnan(value.value):
            parts.append(
                f'<circle cx="{self._x(value.value)}" cy="{middle}" r="4" style="fill: {color}"/>'
            )
        return _svg(parts, _HEIGHT)

    def _said(self, tick: float) -> str:
        return f"{round(tick, self._decimals) + 0.0:.{self._decimals}f}".replace("-", "−")

    def _line(self, at: float, variable: str) -> str:
        return f'<path d="M{self._x(at)} 0V{_HEIGHT}" style="stroke: var(--{variable})"/>'

    def axis(self) -> str:
        """The numbers of the scale, as SVG."""
        every = 2 if len(self._ticks) > 5 else 1
        labels = [
            f'<text x="{self._x(tick)}" y="12" text-anchor="middle" font-size="11" '
            f'style="fill: var(--soft)">{self._said(tick)}</text>'
            for tick in self._ticks[::every]
        ]
        return _svg(labels, 16)


def _svg(parts: Sequence[str], height: int) -> str:
    return (
        f'<svg aria-hidden="true" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}">{"".join(parts)}</svg>'
    )


#: Inches of a row, of a panel's head and foot, and of the picture's width.
_ROW, _HEAD, _FOOT, _BROAD = 0.21, 0.62, 0.16, 5.6
#: Where names end, where the ranks begin and end, where the bars begin, and between two, in inches.
_NAMES, _LEFT, _RIGHT, _BARS, _APART = 2.1, 2.7, 4.6, 4.8, 0.11


@plain_style()
def critical_differences(panels: Sequence[Panel]) -> Figure:
    """Plots average ranks, and bars that join models that cannot be told apart.

    It is Demsar's picture (JMLR 2006) with a row for each model, so that twenty names are read on a
    narrow screen, too.

    Args:
      panels: at least one.
    """
    height = sum(map(_height, panels))
    figure = new_figure(_BROAD, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set(xlim=(0, _BROAD), ylim=(0, height))
    for panel in panels:
        _draw(axes, panel, height)
        height -= _height(panel)
    return figure


def _height(panel: Panel) -> float:
    return _HEAD + _ROW * len(panel.order) + _FOOT


def _draw(axes: Axes, panel: Panel, top: float) -> None:
    """One panel, in inches: names, average ranks from the left, the best, on, and bars."""
    count = len(panel.tasks)
    tasks = panel.tasks[0] if count == 1 else f"{count} tasks"
    title = f"{words.protocol(*panel.way)}: average rank, {tasks}"
    axes.text(0.12, top - 0.08, figures.words(title, 60), fontsize=10, va="top", color=colors.INK)
    first, last = top - _HEAD, top - _HEAD - _ROW * len(panel.order)
    most = len(panel.order)

    def x(rank: float) -> float:
        return _LEFT + (rank - 1) / (most - 1) * (_RIGHT - _LEFT)

    for rank in range(1, most + 1, max(1, round(most / 8))):
        axes.plot([x(rank)] * 2, [first, last], color=colors.GRID, linewidth=0.8, zorder=0)
        axes.text(
            x(rank), first + 0.03, str(rank), ha="center", va="bottom", fontsize=8, color=colors.INK
        )
    rows = {name: first - _ROW * (at + 0.5) for at, name in enumerate(panel.order)}
    for name, y in rows.items():
        rank = panel.average_ranks[name]
        wide = any(ord(character) > 0x2E80 for character in name)
        said = figures.words(name, 12 if wide else 24)
        axes.text(_NAMES, y, said, ha="right", va="center", fontsize=8.5, color=colors.INK)
        axes.text(
            _LEFT - 0.12, y, f"{rank:.2f}", ha="right", va="center", fontsize=8.5, color=colors.INK
        )
        axes.plot([_LEFT, x(rank)], [y, y], color=colors.GRID, linewidth=0.8, zorder=0)
        axes.plot(x(rank), y, "o", color=colors.INK, markersize=5)
    ends: list[float] = []  # of the last bar in each column
    bars = []
    for group in panel.groups:
        start, end = rows[group[0]] + 0.3 * _ROW, rows[group[-1]] - 0.3 * _ROW
        column = next((at for at, y in enumerate(ends) if y > start), len(ends))
        ends[column : column + 1] = [end]
        bars.append((column, start, end))
    apart = min(_APART, (_BROAD - 0.1 - _BARS) / max(1, len(ends)))
    for column, start, end in bars:
        at = _BARS + apart * column
        axes.plot(
            [at, at],
            [start, end],
            color=colors.CURVES[0],
            linewidth=36 * apart,
            solid_capstyle="butt",
        )
