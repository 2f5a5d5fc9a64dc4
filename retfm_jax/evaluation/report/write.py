"""Writes what an evaluation found: numbers as JSON, pictures, and one HTML page."""

import json

from retfm_jax.evaluation.report import figures
from retfm_jax.evaluation.report.html import page
from retfm_jax.evaluation.results import Results
from retfm_jax.files import Path, PathLike, as_path, atomic_write, write_json
from retfm_jax.rendering.figures import save

#: Sections whose curves stand in the picture; the page has all.
_CURVES = 4


def write(results: Results, out: PathLike) -> list[Path]:
    """Writes a report.

    Args:
      results: what the report shows; its document is the JSON file.
      out: the JSON file. The page and the curves take its name with `.html` and `.png`, galleries
        of retrieval and a file of generated reports one that begins with it.

    Returns:
      the files that were written.
    """
    out = as_path(out)
    write_json(out, results.document)
    texts = _texts(results, out)
    html = out.with_suffix(".html")
    with atomic_write(html) as file:
        file.write(page(results, results.document))
    return [out, *_pictures(results, out), *texts, html]


def _texts(results: Results, out: Path) -> list[Path]:
    """Writes the reports of all cases, one a line, beside the JSON file."""
    if results.reports is None:
        return []
    path = out.with_name(f"{out.stem}_reports.jsonl")
    with atomic_write(path) as file:
        for row in results.reports.rows:
            text = json.dumps(row.to_json(), ensure_ascii=False)
            # A lone surrogate, of an id that is no UTF-8, becomes its JSON escape.
            file.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
    return [path]


def _pictures(results: Results, out: Path) -> list[Path]:
    """Writes the curves under the name of the JSON file and the galleries beside it."""
    written = []
    if results.sections:
        shown = {section.title: section.measured for section in results.sections[:_CURVES]}
        written.append(out.with_suffix(".png"))
        save(figures.curves(shown, results.data), written[-1])
    if results.masks is not None and results.masks.metrics.classes:
        written.append(out.with_suffix(".png"))
        save(figures.mask_curves(results.masks, results.data), written[-1])
    for language, retrieval in results.retrievals.items():
        assert results.split is not None, "a retrieval is over it"
        written.append(out.with_name(f"{out.stem}_gallery_{language}.png"))
        shown = figures.queries(results.split, retrieval)
        save(figures.retrieval_gallery(results.split, retrieval, shown), written[-1])
    return written
