"""An answer as HTML: tables of probabilities, photographs with maps, cases and reports."""

import itertools
from collections.abc import Sequence

from retfm_jax.experiments.demo import words
from retfm_jax.experiments.demo.answers import Answer, Beside, Column, Said, Seen
from retfm_jax.experiments.demo.cases import Case, Cases
from retfm_jax.experiments.demo.words import Words
from retfm_jax.rendering import markup

#: Style of what the page shows, by gradio's variables, which know light from dark.
STYLE = """
.retfm { color: var(--body-text-color); font-size: .95rem; line-height: 1.45; }
.retfm span[lang=zh-Hans] { opacity: .75; margin-left: .35em; }
.retfm h2 { font-size: 1.15rem; margin: 1.4rem 0 .5rem; }
.retfm h3 { font-size: 1rem; margin: .9rem 0 .4rem; font-weight: 600; }
.retfm p { margin: .2rem 0 .6rem; }
.retfm .notice { border-left: 4px solid #b3382c; padding: .5rem .8rem; margin: .4rem 0;
  background: var(--background-fill-secondary); }
.retfm .notice span, .retfm .problem span { display: block; margin: .1rem 0; opacity: 1; }
.retfm .problem { border: 1px solid #b3382c; border-left-width: 6px; border-radius: 4px;
  padding: .7rem 1rem; }
.retfm .wide { overflow-x: auto; }
.retfm table { border-collapse: collapse; border: 0; font-variant-numeric: tabular-nums; }
.retfm tr { border: 0; }
.retfm th, .retfm td { padding: .25rem .6rem; text-align: left; vertical-align: bottom;
  border: 0; border-bottom: 1px solid var(--border-color-primary); }
.retfm thead th span[lang] { display: block; margin-left: 0; }
.retfm tbody th { font-weight: 500; }
.retfm td.number { min-width: 5rem; }
.retfm td .bar { display: block; height: 5px; border-radius: 3px; background: #2f6fb0;
  margin-top: 3px; min-width: 1px; }
.retfm .figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.retfm figure { margin: 0; max-width: 100%; }
.retfm figure .pair { display: flex; gap: 4px; background: #000; border-radius: 4px;
  overflow: hidden; }
.retfm figure .pair img { width: min(300px, 44vw); height: auto; object-fit: contain; }
.retfm .cases figure { width: 200px; }
.retfm .cases figure .pair img { flex: 1 1 0; min-width: 0; width: 100%; }
.retfm figcaption { font-size: .85rem; margin-top: .25rem; overflow-wrap: anywhere; }
.retfm ol { padding-left: 1.4rem; margin: 0 0 1rem; }
.retfm li { margin-bottom: .5rem; white-space: pre-line; overflow-wrap: anywhere; }
.retfm small { color: var(--body-text-color-subdued); }
"""

_OUTCOMES = {
    "exclusive": words.EXCLUSIVE, "grades": words.GRADES, "findings": words.FINDINGS,
}  # fmt: skip


def head(minutes: int) -> str:
    """What stands above everything: for what the page is, and what happens to photographs.

    Args:
      minutes: for how long they are kept.
    """
    return _block(
        f'<p class="notice" role="note">{words.NOTICE.html()}</p>'
        f"<p><small>{words.PRIVACY.filled(minutes=minutes).html()}</small></p>"
    )


def problem(said: Words) -> str:
    """What stands in place of an answer where there is none.

    Args:
      said: why.
    """
    return _block(
        f'<div class="problem" role="alert"><strong>{words.PROBLEM.html()}</strong>'
        f"{said.html()}</div>"
    )


def whole(answer: Answer, cases: Cases | None) -> str:
    """An answer.

    Args:
      answer: of a `Reader`.
      cases: of that reader.
    """
    parts = [f'<p class="notice">{note.html()}</p>' for note in answer.notes]
    parts += [_heading(words.PROBABILITIES), _table(answer), f"<p>{_outcome(answer)}</p>"]
    parts += [_decided(said) for said in answer.said]
    parts += [_heading(words.HEAT_MAP.filled(target=answer.target)), _maps(answer.seen)]
    if cases is not None:
        parts += _beside(answer.beside, cases)
    parts.append(f'<p class="notice">{words.NOTICE.html()}</p>')
    return _block("".join(parts))


def _block(inside: str) -> str:
    return f'<div class="retfm">{inside}</div>'


def _heading(said: Words) -> str:
    return f"<h2>{said.html()}</h2>"


def _outcome(answer: Answer) -> str:
    return f"<small>{_OUTCOMES[answer.outcome].html()}</small>"


def _table(answer: Answer) -> str:
    """Classes down, eyes and the languages of the prompts across."""
    head = "".join(
        f'<th colspan="{len(list(group))}" scope="colgroup">{view.html()}</th>'
        for view, group in itertools.groupby(answer.columns, key=lambda column: column.view)
    )
    prompts = [column.prompts for column in answer.columns]
    below = "".join(f'<th scope="col">{"" if p is None else p.html()}</th>' for p in prompts)
    rows = "".join(
        f'<tr><th scope="row">{name.html()}</th>{_cells(answer.columns, index)}</tr>'
        for index, name in enumerate(answer.classes)
    )
    second = f"<tr><th></th>{below}</tr>" if any(prompts) else ""
    return (
        f'<div class="wide"><table><thead><tr><th scope="col">{words.CLASS.html()}</th>{head}</tr>'
        f"{second}</thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(columns: Sequence[Column], index: int) -> str:
    shares = (column.probabilities[index] for column in columns)
    return "".join(
        f'<td class="number">{share:.1%}<span class="bar" style="width:{share:.1%}"></span></td>'
        for share in shares
    )


def _decided(said: Said) -> str:
    predicted = _listed(said.predicted) or words.NOTHING_PREDICTED.html()
    lines = [f"{words.PREDICTED.html()}: <strong>{predicted}</strong>"]
    if said.coverage is not None:
        possible = _listed(said.possible) or words.NOTHING_PREDICTED.html()
        lines.append(f"{words.SETS.filled(coverage=said.coverage).html()}: {possible}")
    return f"<h3>{said.view.html()}</h3><p>{'<br>'.join(lines)}</p>"


def _listed(names: Sequence[Words]) -> str:
    return ", ".join(name.html() for name in names)


def _maps(seen: Sequence[Seen]) -> str:
    figures = "".join(
        f'<figure><div class="pair">{markup.photograph(each.photograph)}'
        f"{markup.photograph(each.overlay)}</div>"
        f"<figcaption>{each.view.html()}</figcaption></figure>"
        for each in seen
    )
    return f'<div class="figures">{figures}</div><p><small>{words.CAVEAT.html()}</small></p>'


def _beside(found: Sequence[Beside], cases: Cases) -> list[str]:
    title = words.CASES.filled(dataset=cases.dataset, split=cases.split)
    parts = [_heading(title)]
    for each in found:
        figures = "".join(map(_case, each.cases))
        parts.append(f'<h3>{each.view.html()}</h3><div class="figures cases">{figures}</div>')
    if any(each.reports for each in found):
        parts.append(_heading(words.REPORTS))
        for each in found:
            parts.append(f"<h3>{each.view.html()}</h3>")
            parts += [
                "<ol>"
                + "".join(
                    f"<li>{markup.own(report.text)} <small>{_cosine(report.cosine)}</small></li>"
                    for report in reports
                )
                + "</ol>"
                for reports in each.reports.values()
            ]
    return parts


def _case(case: Case) -> str:
    labels = words.NO_LABEL.html() if case.labels is None else _listed(case.labels) or "-"
    return (
        f'<figure><div class="pair">{"".join(map(markup.photograph, case.photographs))}</div>'
        f"<figcaption>{labels}<br><small>{_cosine(case.cosine)}</small></figcaption></figure>"
    )


def _cosine(value: float) -> str:
    return words.CASE.filled(cosine=value).html()
