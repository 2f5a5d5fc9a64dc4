"""The page of a benchmark, its tables and its picture."""

from collections.abc import Sequence

from retfm_jax.data.cells import write_csv
from retfm_jax.errors import UserError
from retfm_jax.experiments.benchmark import background, pictures, sections, tables, words
from retfm_jax.experiments.benchmark.comparisons import Compared, Panel, compare, panels
from retfm_jax.experiments.benchmark.results import Findings
from retfm_jax.files import Path, PathLike, as_path, atomic_write, errors
from retfm_jax.rendering import figures, markup

#: What `write_report` writes; the page is the last.
PICTURE, TABLE, TIMING, COST = "critical_difference.png", "benchmark.csv", "timing.csv", "cost.html"
PAGE = "benchmark.html"

_STYLE = """<style>
td:first-child, th:first-child { position: sticky; left: 0; background: var(--page); z-index: 1;
  padding-right: .7rem; }
.words td { white-space: normal; text-align: left; min-width: 7rem; max-width: 26rem;
  overflow-wrap: anywhere; }
.words th { text-align: left; }
td svg { display: block; } td code { font-size: .75em; overflow-wrap: anywhere; }
td b small { font-weight: 400; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--link); }
ol.note { color: var(--soft); font-size: .88rem; }
.open { color: var(--open); } a.right, a.wrong, a.open { text-decoration: none; }
sup { line-height: 0; }
nav { margin-top: 1rem; } nav a { display: inline-block; } .wide { margin-bottom: 1rem; }
img.figure { width: min(100%, 728px); }
dl { grid-template-columns: minmax(5rem, max-content) 1fr; }
@media (max-width: 600px) { body { margin: 1rem auto; padding: 0 .8rem; }
  td:first-child, th:first-child { min-width: 6.2rem; max-width: 8rem; }
  .words td { min-width: 6rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
</style>"""


def write_report(
    findings: Findings, out: PathLike, compared: Sequence[Compared] | None = None
) -> list[Path]:
    """Writes the page, its tables and its picture.

    Page, picture and `benchmark.csv` depend on nothing but the findings without what was measured
    of time and memory, and the page's date; `timing.csv` and `cost.html` have the rest.

    Args:
      findings: of a benchmark.
      out: an existing folder.
      compared: their comparisons, where a caller has them; None: they are computed.

    Returns:
      the files, the page first.

    Raises:
      UserError: two models were measured on different samples, or a file cannot be written.
    """
    out = as_path(out)
    compared = compare(findings) if compared is None else compared
    summaries = panels(findings, compared)
    written = [out / PAGE, out / TABLE, out / TIMING, out / COST]
    picture = b""
    if summaries:
        picture = figures.png(pictures.critical_differences(summaries))
        with atomic_write(out / PICTURE, "wb") as file:
            file.write(picture)
        written.append(out / PICTURE)
    else:
        _remove(out / PICTURE)
    rows = tables.benchmark_rows(findings, compared)
    with atomic_write(out / TABLE) as file:
        write_csv(file, tables.COLUMNS, [[row.get(c, "") for c in tables.COLUMNS] for row in rows])
    with atomic_write(out / TIMING) as file:
        write_csv(file, *tables.timing_rows(findings))
    with atomic_write(out / COST) as file:
        file.write(cost_page(findings))
    with atomic_write(out / PAGE) as file:
        file.write(page(findings, compared, summaries, picture))
    return written


def _remove(path: Path) -> None:
    """Removes the picture of an earlier run, which had something to show."""
    try:
        path.unlink(missing_ok=True)
    except errors() as error:
        raise UserError(f"{path} cannot be removed: {error}") from error


def page(
    findings: Findings, compared: Sequence[Compared], summaries: Sequence[Panel], picture: bytes
) -> str:
    """Makes the page.

    Args:
      findings: of a benchmark.
      compared: their comparisons.
      summaries: of these, over tasks.
      picture: of the summaries, as PNG; empty where there are none.

    Returns:
      HTML, with all pictures inside.
    """
    suite = findings.suite
    numbers = {
        "model": len(suite.models),
        "task": len(suite.tasks),
        "protocol": len(suite.protocols),
        "comparison": len(compared),
    }
    counts = " · ".join(words.counted(many, what) for what, many in numbers.items())
    counts += " · 95 % intervals and tests by patient"
    parts = [_STYLE, f'<p class="sub">{counts}</p>']
    if suite.about.strip():
        parts.append(f"<p>{markup.own(suite.about.strip())}</p>")
    parts.append(_synthetic(findings))
    parts.append(sections.answer(findings, compared, summaries))
    chapters: dict[str, tuple[str, str]] = {}
    if compared:
        tables_of = (
            sections.by_model(findings, compared),
            sections.by_comparison(findings, compared),
        )
        chapters["best"] = ("Who is best where", "".join(tables_of))
    if summaries:
        shown = markup.figure(picture, "average ranks of the models, and who cannot be told apart")
        over = sections.differences_over_tasks(summaries, shown)
        chapters["ranks"] = ("Average ranks over tasks", over)
    if compared:
        chapters["values"] = ("All values", sections.matrices(findings, compared))
        each = "".join(
            f'<h3 id="c{at}">{_title(of)}</h3>{sections.comparison(findings, of)}'
            for at, of in enumerate(compared)
        )
        chapters["comparisons"] = ("Each comparison", each)
    if suite.published:
        said = background.published(findings, compared)
        chapters["published"] = ("Published numbers beside ours", said)
    chapters |= {
        "contamination": ("Contamination", background.contamination(findings)),
        "cost": ("Cost", background.cost(findings)),
        "passed": ("What was passed over", background.passed_over(findings)),
        "method": ("How the numbers were made", background.method(findings)),
        "tasks": ("Tasks", background.tasks(findings)),
        "models": ("Models", background.models(findings)),
        "versions": ("Versions", background.versions(findings)),
    }
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in chapters.items())
    links += '<a href="#words">Words and abbreviations</a>'
    parts.append(f"<nav>{links}</nav>")
    for name, (title, said) in chapters.items():
        parts.append(f'<h2 id="{name}">{title}</h2>{said}')
    shown = [part for part in parts if part]
    return markup.page(suite.title, shown, words=words.ABBREVIATIONS)


def _title(compared: Compared) -> str:
    way = words.protocol(*compared.way)
    return f"{markup.own(compared.task)}, {markup.text(way)}"


def _synthetic(findings: Findings) -> str:
    every = (*findings.tasks.items(), *findings.masks.items())
    names = list(dict.fromkeys(name for name, facts in every if facts.synthetic))
    if not names:
        return ""
    which = "All tasks" if len(names) == len(findings.suite.tasks) else None
    which = which or words.listed([markup.own(name) for name in names], 12)
    verb = "is" if len(names) == 1 and which != "All tasks" else "are"
    return markup.warning(
        f"{which} {verb} synthetic: generated images. Numbers on them say that the benchmark "
        "works, and nothing of patients."
    )


def cost_page(findings: Findings) -> str:
    """The page of what was measured of time and memory.

    Args:
      findings: of a benchmark.

    Returns:
      HTML.
    """
    ran = [result for result in findings.cells if result.cost is not None]
    stages = tables.stages_of(ran)
    rows = []
    for result in ran:
        cell, cost = result.cell, result.cost
        assert cost is not None
        seconds = sum(cost.seconds.values())
        rows.append(
            [
                markup.own(cell.model),
                markup.own(cell.task),
                markup.text(words.protocol(cell.protocol, cell.setting)),
                words.duration(seconds),
                *(
                    words.duration(cost.seconds[stage]) if stage in cost.seconds else "–"
                    for stage in stages
                ),
                words.size(cost.peak_rss) if cost.peak_rss else "–",
            ]
        )
    header = ("model", "task", "protocol", "all", *stages, "peak host memory")
    parts = [
        _STYLE,
        '<p class="sub">As measured on the machines that the cells ran on: another run gives other '
        'numbers. All else is in <a href="benchmark.html">benchmark.html</a>.</p>',
        "<p>Features are computed once for all protocols of a model and task: their seconds stand "
        "at each cell that used them. Peak host memory is that of the process until the cell "
        "ended.</p>",
        markup.table(header, rows) if rows else "",
    ]
    return markup.page(f"Cost of: {findings.suite.title}", parts)
