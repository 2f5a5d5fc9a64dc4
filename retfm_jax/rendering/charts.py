"""Small charts: what each shows, as SVG for pages, whose colors follow light and dark.

`figures.panels` plots the same as a picture.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from retfm_jax.rendering import fonts, markup

Numbers = Float[np.ndarray, " n"]

#: Size of a chart, the margins round its axes, and the height of a line of text, in user units of
#: SVG: pixels at the width for which it is made.
_WIDTH, _HEIGHT = 230, 190
_LEFT, _RIGHT, _TOP, _BOTTOM, _LINE = 33, 8, 20, 32, 12
#: Width of one character of a label, about.
_CHARACTER = 5.6
#: Points of a line; more cannot be told apart.
_POINTS = 1000


class Curve(NamedTuple):
    """A line of a chart.

    Attributes:
      x, y: its points, (n) floats; points that are no finite numbers are left out.
      label: at its end; "" for none.
      band: lower and upper limits around it: their x and both y, (m) floats each; None for none.
      color: its position in `colors.CURVES`.
      faint: whether it stands back behind the others.
    """

    x: Numbers
    y: Numbers
    label: str = ""
    band: tuple[Numbers, Numbers, Numbers] | None = None
    color: int = 0
    faint: bool = False


class Panel(NamedTuple):
    """A chart.

    Attributes:
      title: above it.
      note: numbers that belong to it, below the title; "" for none.
      x_label, y_label: of the axes.
      curves: lines, the first one at the bottom.
      x_limits, y_limits: what the axes span; None: what the curves need.
      dots: points of their own, each with x, y and a color.
      diagonal: whether a dotted line joins the lower left corner and the upper right one.
      integers: whether x counts something.
      values: of the curves, each with its color; pictures have them beside the curves, in place of
        the note.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    note: str = ""
    x_limits: tuple[float, float] | None = (0.0, 1.0)
    y_limits: tuple[float, float] | None = (0.0, 1.0)
    dots: Sequence[tuple[float, float, int]] = ()
    diagonal: bool = False
    integers: bool = False
    values: Sequence[tuple[str, int]] = ()

    @property
    def spans(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """What the axes span: x and y."""
        x = self.x_limits or _span([curve.x for curve in self.curves], 0.0)
        return x, self.y_limits or _span([curve.y for curve in self.curves], 0.06)

    @property
    def ends(self) -> list[tuple[Curve, float]]:
        """Curves that have a name, and points at all, each with the y of its last one."""
        named = [(curve, thinned(curve.x, curve.y)[1]) for curve in self.curves if curve.label]
        return [(curve, float(y[-1])) for curve, y in named if len(y)]


def step(span: float, most: int = 6) -> float:
    """The smallest of 1, 2 and 5 times a power of ten of which at most a few make a span.

    Args:
      span: above 0.
      most: how many may make it.
    """
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(
        power * times for times in (1, 2, 5, 10) if span / (power * times) <= most * (1 + 1e-9)
    )


def ticks(limits: tuple[float, float], most: int = 4, integers: bool = False) -> list[float]:
    """Round numbers on an axis.

    Args:
      limits: what the axis spans.
      most: how many steps are between them at most.
      integers: whether only whole numbers are meant.
    """
    low, high = limits
    each = step(high - low, most)
    each = max(1.0, each) if integers else each
    first, last = math.ceil(low / each - 1e-9), math.floor(high / each + 1e-9)
    return [each * position for position in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The numbers of an axis, each with the decimals that the axis needs.

    Args:
      values: as `ticks` returns them.
    """
    if not values:
        return []
    apart = min(np.diff(values), default=abs(values[0]) or 1.0)
    largest = max(map(abs, values))
    if 0 < largest < 1e-3:
        return [f"{value:.0e}".replace("e-0", "e-").replace("0e+00", "0") for value in values]
    decimals = min(6, max(0, -math.floor(math.log10(apart) + 1e-9)))
    return [f"{value + 0.0:,.{decimals}f}".replace("-", "−") for value in values]


def gallery(panels: Sequence[Panel], wide: bool = False) -> str:
    """Charts side by side, as many in a line as the page has room for.

    Args:
      panels: what they show.
      wide: whether they hold labels or much detail, and want more room each.
    """
    kind = "charts wide-charts" if wide else "charts"
    return f'<div class="{kind}">{"".join(map(figure, panels))}</div>'


def cards(shown: Iterable[str]) -> str:
    """Cards of two charts each, as many in a line as the page has room for.

    Args:
      shown: as `card` makes them.
    """
    return f'<div class="charts pair-charts">{"".join(shown)}</div>'


def figure(panel: Panel) -> str:
    """A chart with its title and its note, as HTML.

    Args:
      panel: what it shows.
    """
    return card(panel.title, [panel])


def card(title: str, panels: Sequence[Panel]) -> str:
    """Charts of one thing, side by side below its name, each with its note, as HTML.

    Args:
      title: the name; "" for none.
      panels: what the charts show.
    """
    name = f"<figcaption>{markup.explained(title)}</figcaption>" if title else ""
    drawn = "".join(
        f"<div>{svg(panel)}<small>{markup.explained(panel.note)}</small></div>" for panel in panels
    )
    return f'<figure class="card">{name}<div>{drawn}</div></figure>'


def svg(panel: Panel) -> str:
    """A chart without its title, as SVG whose colors are those of the page.

    Args:
      panel: what it shows.
    """
    return _Chart(panel).drawn()


def thinned(x: Numbers, y: Numbers, most: int = _POINTS) -> tuple[Numbers, Numbers]:
    """Finite points of a line; of more than can be told apart evenly spaced ones and the last.

    Args:
      x, y: points, (n) floats.
      most: how many are kept.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= most:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, most).astype(int))
    return x[kept], y[kept]


def apart(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Moves places that lie too close, as little as is needed, and keeps their order.

    Args:
      places: where labels would stand.
      least: distance of two.
      low, high: limits; where all do not fit between them, the last ones lie above.
    """
    order = np.argsort(places, kind="stable")
    found = [0.0] * len(places)
    before = -math.inf
    for position in order:
        before = found[position] = max(places[position], before + least, low)
    after = high
    for position in order[::-1]:
        after = found[position] = max(min(found[position], after), low)
        after -= least
    return found


def _span(values: Sequence[Numbers], margin: float) -> tuple[float, float]:
    every = np.concatenate([np.ravel(each) for each in values]) if values else np.zeros(0)
    every = every[np.isfinite(every)]
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    room = margin * (high - low)
    return low - room, high + room


class _Chart:
    """One chart as SVG."""

    def __init__(self, panel: Panel):
        self._panel = panel
        (self._x0, self._x1), (self._y0, self._y1) = panel.spans
        labels = [curve.label for curve in panel.curves if curve.label]
        room = max((len(fonts.one_line(label, 24)) for label in labels), default=0)
        self._right = _WIDTH - _RIGHT - (room * _CHARACTER + 14 if room else 0)
        self._y_ticks = ticks((self._y0, self._y1))
        widest = max(map(len, tick_labels(self._y_ticks)), default=1)
        self._left = max(_LEFT, 10 + widest * _CHARACTER)

    def drawn(self) -> str:
        panel, bottom = self._panel, _HEIGHT - _BOTTOM
        parts = [*self._axes(bottom)]
        if panel.diagonal:
            corners = f"M{self._left} {bottom}L{self._right:.1f} {_TOP}"
            parts.append(f'<path class="diagonal" d="{corners}"/>')
        parts += [self._band(curve) for curve in panel.curves if curve.band is not None]
        parts += [self._line(curve) for curve in panel.curves]
        parts += [
            f'<circle class="c{color}" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="3.2"/>'
            for x, y, color in panel.dots
        ]
        said = f"{panel.title}: {panel.y_label} against {panel.x_label}. {panel.note}"
        return (
            f'<svg class="chart" role="img" aria-label="{markup.text(said)}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join([*parts, *self._labels(bottom)])}</svg>'
        )

    def _axes(self, bottom: float) -> list[str]:
        panel = self._panel
        across = ticks((self._x0, self._x1), 4, panel.integers)
        parts = []
        for value, said in zip(self._y_ticks, tick_labels(self._y_ticks), strict=True):
            y = self._y(value)
            parts.append(f'<path class="grid" d="M{self._left} {y:.1f}H{self._right:.1f}"/>')
            parts.append(f'<text class="end" x="{self._left - 4}" y="{y + 3.5:.1f}">{said}</text>')
        for value, said in zip(across, tick_labels(across), strict=True):
            x = self._x(value)
            parts.append(f'<path class="grid" d="M{x:.1f} {bottom}V{_TOP}"/>')
            parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 13}">{said}</text>')
        middle = (self._left + self._right) / 2
        frame = f"M{self._left} {_TOP}V{bottom}H{self._right:.1f}"
        return [
            *parts,
            f'<path class="axis" d="{frame}"/>',
            f'<text class="soft" x="4" y="11">{markup.text(panel.y_label)}</text>',
            f'<text class="soft mid" x="{middle:.1f}" y="{_HEIGHT - 5}">'
            f"{markup.text(panel.x_label)}</text>",
        ]

    def _line(self, curve: Curve) -> str:
        x, y = thinned(curve.x, curve.y)
        kind = f"c{curve.color}" + " faint" * curve.faint
        return f'<path class="{kind}" d="{self._path(x, y)}"/>' if len(x) else ""

    def _band(self, curve: Curve) -> str:
        assert curve.band is not None
        x, low, high = curve.band
        there = np.isfinite(low) & np.isfinite(high)
        if not there.any():
            return ""
        x, low, high = x[there], low[there], high[there]
        edge = self._path(np.r_[x, x[::-1]], np.r_[high, low[::-1]])
        return f'<path class="b{curve.color}" d="{edge}Z"/>'

    def _labels(self, bottom: float) -> list[str]:
        ends = self._panel.ends
        places = apart([self._y(y) for _, y in ends], _LINE, _TOP + 4, bottom)
        parts = []
        for (curve, _), y in zip(ends, places, strict=True):
            kind = f"c{curve.color}" + " faint" * curve.faint
            parts.append(f'<path class="{kind}" d="M{self._right + 2:.1f} {y:.1f}h8"/>')
            label = markup.text(fonts.one_line(curve.label, 24))
            parts.append(f'<text x="{self._right + 13:.1f}" y="{y + 3.5:.1f}">{label}</text>')
        return parts

    def _path(self, x: Numbers, y: Numbers) -> str:
        """A line through points, without those that lie on the way from one to the next."""
        kept: list[tuple[str, str]] = []
        for a, b in zip(map(self._x, x), map(self._y, y), strict=True):
            place = f"{a:.1f}", f"{b:.1f}"
            for axis in (0, 1):
                if len(kept) > 1 and kept[-2][axis] == kept[-1][axis] == place[axis]:
                    kept.pop()
                    break
            kept.append(place)
        return "M" + "L".join(" ".join(place) for place in kept)

    def _x(self, value: float) -> float:
        share = (float(value) - self._x0) / (self._x1 - self._x0)
        return self._left + min(max(share, 0.0), 1.0) * (self._right - self._left)

    def _y(self, value: float) -> float:
        share = (float(value) - self._y0) / (self._y1 - self._y0)
        bottom = _HEIGHT - _BOTTOM
        return bottom - min(max(share, 0.0), 1.0) * (bottom - _TOP)
