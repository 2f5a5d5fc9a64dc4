"""Tables as HTML, with what their intervals are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.results import Shown
from retfm_jax.rendering import markup
from retfm_jax.rendering.colors import OKABE_ITO
from retfm_jax.rendering.glossary import readable


def rows(header: Sequence[str], content: Sequence[Sequence[Any]]) -> str:
    """Table of texts, numbers and estimates.

    Args:
      header: titles of the columns.
      content: cells of every row, see `cell`.
    """
    return markup.table(header, [[cell(value) for value in row] for row in content])


def cell(value: Any) -> str:
    """Content of a cell; an interval, or the spread over folds, is below the value.

    Args:
      value: an estimate, mean and spread over folds, or anything else; None: nothing is known.
    """
    if value is None or (isinstance(value, Estimate) and math.isnan(value.value)):
        return "–"
    if isinstance(value, Mapping):
        spread = f"<small>± {value['spread'] or 0:.3f}</small>"
        return "–" if value["mean"] is None else f"{value['mean']:.3f}{spread}"
    if isinstance(value, Estimate) and not value.has_interval:
        return f"{value.value:.3f}"
    if isinstance(value, Estimate):
        return f"{value.value:.3f}<small>{value.low:.3f}–{value.high:.3f}</small>"
    return markup.explained(value)


def shown(table: Shown) -> str:
    """Table of a section, with its heading, its note and its intervals.

    Args:
      table: what it shows.
    """
    heading = f"<h3>{markup.text(table.heading)}</h3>"
    note = f'<p class="note">{markup.own(table.note)}</p>' if table.note else ""
    said = ways((table.heading, value) for row in table.rows for value in row)
    return heading + rows(table.header, table.rows) + note + said


def ways(found: Iterable[tuple[str, Any]]) -> str:
    """Says which metrics have which intervals.

    Args:
      found: pairs of the name of a metric and its value.
    """
    by_way: dict[str, list[str]] = {}
    for name, value in found:
        if isinstance(value, Estimate) and value.has_interval:
            names = by_way.setdefault(value.interval, [])
            names += [readable(name)] if readable(name) not in names else []
    said = "; ".join(f"{', '.join(names)}: {way}" for way, names in by_way.items())
    return f'<p class="note">95% intervals. {markup.text(said)}.</p>' if said else ""


def confusion(counts: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> str:
    """Table of counts by true (row) and predicted class, shaded by the share of the row.

    Args:
      counts: of samples.
      names: of the classes, as they are shown.
    """
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    color = ", ".join(map(str, OKABE_ITO["blue"]))
    head = "".join(f"<th>{markup.explained(name)}</th>" for name in names)
    body = "".join(
        f"<tr><td>{markup.explained(name)}</td>"
        + "".join(
            f'<td style="background: rgba({color}, {0.6 * share:.2f})">{count}</td>'
            for count, share in zip(row.tolist(), of_row.tolist(), strict=True)
        )
        + "</tr>"
        for name, row, of_row in zip(names, counts, shares, strict=True)
    )
    return (
        '<div class="wide"><table class="confusion"><thead><tr><th>true ↓ predicted →</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="note">Counts; the color is stronger for a larger share of the true class.</p>'
    )
