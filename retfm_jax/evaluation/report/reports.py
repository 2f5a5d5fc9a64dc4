"""Generated reports on the page: tables, and cases with both texts side by side."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from retfm_jax.evaluation.metrics.clinical import MARKS, Mark
from retfm_jax.evaluation.report import tables
from retfm_jax.evaluation.results import Picture, ReportExample, ReportScores, ReportSection
from retfm_jax.rendering import markup

#: Kinds of marks -> what they are called.
_KINDS = {
    "named": "both name it",
    "other_eye": "both name it, of another eye",
    "missed": "only the reference names it",
    "invented": "only the generated report names it",
    "contradicted": "one names it, the other denies it",
}
_WORDS = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr-D",
}
_FINDINGS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "macro_f1": "macro F1",
    "contradictions": "contradictions a report",
}
#: What the columns mean where it is another thing than elsewhere.
MEANINGS = {
    "precision": "share of the findings that generated reports name, which their references name",
    "recall": "share of the findings of the references that generated reports name",
    "F1": "harmonic mean of precision and recall, of all findings of all reports together",
    "macro F1": "mean of the F1 of the conditions that some reference names",
    "contradictions": "findings that one report names and the other denies",
    "eyes": "the same of findings with their eye, where references name one",
    "OD, OS, OU": "the right eye, the left eye, both eyes",
    "<unk>": "stands for words that the network does not know",
}


def of(section: ReportSection) -> str:
    """The part of the page on generated reports.

    Args:
      section: what it shows.
    """
    parts = ["<h2>Findings</h2>", _of_findings(section.scores)]
    parts.append(
        '<p class="note">What the labeler of this project reads in both reports, in English and in '
        "Chinese; its own mistakes count as those of the reports. What holds for a condition holds "
        "for those that it is a case of.</p>"
    )
    parts += ["<h3>Conditions</h3>", _of_conditions(section), "<h2>Words</h2>"]
    parts += ["<h3>Against references as the network could spell them</h3>"]
    parts += [_of_words(section.scores, "words"), "<h3>Against whole references</h3>"]
    parts += [_of_words(section.scores, "whole")]
    parts += [tables.shown(table) for table in section.shown]
    parts += ["<h2>Cases</h2>", _legend()]
    for standing in dict.fromkeys(each.standing for each in section.examples):
        parts.append(f"<h3>{standing}</h3>")
        parts += [
            _case(each, section.names) for each in section.examples if each.standing == standing
        ]
    return "\n".join(parts)


def _of_findings(scores: Sequence[ReportScores]) -> str:
    eyes = any(each.clinical.eyes for each in scores)
    header = ["writer", *_FINDINGS.values(), *(["F1 of eyes"] if eyes else [])]
    header += ["F1 of the network is higher by"] * (len(scores) > 1)
    content = [
        [
            each.writer,
            *(each.clinical.values[name] for name in _FINDINGS),
            *([each.clinical.eyes.get("f1")] if eyes else []),
            *([each.behind] if len(scores) > 1 else []),
        ]
        for each in scores
    ]
    pairs = (pair for each in scores for pair in each.clinical.values.items())
    return tables.rows(header, content) + tables.ways(pairs)


def _of_words(scores: Sequence[ReportScores], which: str) -> str:
    meteor = which == "words" and scores[0].meteor is not None
    header = ["writer", *_WORDS.values(), *(["METEOR"] if meteor else [])]
    content = [
        [
            each.writer,
            *(getattr(each, which).values[name] for name in _WORDS),
            *([f"{each.meteor:.3f}"] if meteor else []),
        ]
        for each in scores
    ]
    pairs = [(_WORDS[name], value) for name, value in getattr(scores[0], which).values.items()]
    return tables.rows(header, content) + tables.ways(pairs)


def _of_conditions(section: ReportSection) -> str:
    """Every condition that some report names, those first that most references do."""
    found = section.scores[0].clinical.conditions
    order = sorted(found, key=lambda name: -(found[name]["named"] + found[name]["missed"]))
    others = section.scores[1:]
    header = ["condition", "in references", "F1", "named", "missed", "invented"]
    content = []
    for name in order:
        row = found[name]
        cells: list[Any] = [section.names[name], row["named"] + row["missed"], row["f1"]]
        cells += [row["named"], row["missed"], row["invented"]]
        cells += [each.clinical.conditions.get(name, {}).get("f1") for each in others]
        content.append(cells)
    return tables.rows([*header, *(f"F1 of the {each.writer}" for each in others)], content)


def _legend() -> str:
    spans = "".join(
        f'<span><mark class="{kind}">{markup.text(kind.replace("_", " "))}</mark> {said}</span>'
        for kind, said in _KINDS.items()
    )
    return (
        f'<p class="legend">{spans}</p><p class="note">By F1 of the findings of each case, then by '
        "ROUGE-L. What the reference only suspects, and what both deny, is not marked. "
        "Resting on a mark shows the whole name of its finding.</p>"
    )


def _case(example: ReportExample, names: Mapping[str, str]) -> str:
    row = example.row
    found = row.findings.found._asdict()
    said = "".join(
        f"<dt>{kind}</dt><dd>{markup.own(', '.join(names[name] for name in ids))}</dd>"
        for kind, ids in found.items()
        if ids
    )
    f1 = "–" if row.f1 != row.f1 else f"{row.f1:.2f}"
    pictures = "".join(map(_picture, example.pictures))
    return (
        f'<div class="case"><figure><div class="eyes">{pictures}</div>'
        f"<figcaption>{markup.own(row.case)}<small>F1 {f1} · ROUGE-L {row.rouge_l:.2f} · "
        f"ln p {row.log_probability:.1f}</small></figcaption></figure>"
        f"<div><h4>reference</h4>{_text(row.reference, row.findings.reference, names)}</div>"
        f"<div><h4>generated</h4>{_text(row.report, row.findings.generated, names)}</div>"
        f"<dl>{said}</dl></div>"
    )


def _picture(picture: Picture) -> str:
    side, found = picture
    if isinstance(found, str):
        return f"<span>{side} {found}</span>"
    return markup.photograph(found, side)


def _text(text: str, marks: Sequence[Mark], names: Mapping[str, str]) -> str:
    """A report with its marks; of several on the same words the gravest one colors them."""
    if not text.strip():
        return '<p class="note">no word</p>'
    ends = sorted({0, len(text), *(place for mark in marks for place in mark[:2])})
    pieces = []
    for start, end in itertools.pairwise(ends):
        here = [mark for mark in marks if mark.start <= start and end <= mark.end]
        piece = markup.text(text[start:end])
        if here:
            kind = max((mark.kind for mark in here), key=MARKS.index)
            said = "; ".join(f"{names[mark.condition]}: {_KINDS[mark.kind]}" for mark in here)
            piece = f'<mark class="{kind}" title="{markup.text(said)}">{piece}</mark>'
        pieces.append(piece)
    return f'<p><bdi class="report">{"".join(pieces)}</bdi></p>'
