"""What an evaluation found, in sentences: its page opens with them."""

import math
from collections.abc import Sequence

from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.metrics.retrieval import DIRECTIONS, Retrieval
from retfm_jax.evaluation.report.figures import class_name
from retfm_jax.evaluation.results import (
    LANGUAGE_NAMES,
    MaskSection,
    ReportSection,
    Results,
    Section,
)
from retfm_jax.rendering import markup

#: Structures that are named.
_NAMED = 6


def of(results: Results) -> str:
    """The box that opens the page, as HTML; "" where nothing was measured.

    Args:
      results: of an evaluation.
    """
    found = sentences(results)
    return markup.answer(*map(markup.explained, found)) if found else ""


def sentences(results: Results) -> list[str]:
    """What was found, as text, each a sentence or two.

    Args:
      results: of an evaluation.
    """
    found = [_of_section(section) for section in results.sections[:1]]
    if len(found) < len(results.sections):
        found[0] += f" {_others(results.sections)}"
    found += [of_retrieval(each, language) for language, each in results.retrievals.items()][:1]
    if results.masks is not None:
        found.append(_of_masks(results.masks))
    if results.reports is not None:
        found.append(_of_reports(results.reports))
    return [sentence for sentence in found if sentence]


def _of_section(section: Section) -> str:
    overall, measured = section.measured.overall, section.measured
    count = len(measured.predictions.names)
    if measured.predictions.exclusive:
        said = (
            f"{_share(overall['accuracy'])} of {len(measured.predictions.samples):,} samples get "
        )
        said += f"their right class of {count}; " if count > 2 else "their right class; "
        said += f"ACA {_number(overall['aca'])}, chance {1 / count:.2f}"
    else:
        count = sum(not math.isnan(row["auroc"].value) for row in measured.metrics.classes.values())
        said = (
            f"Mean AUROC over {count} classes: {_number(overall['auroc'])}, where 0.5 is chance"
            if count > 1
            else f"AUROC {_number(overall['auroc'])}, where 0.5 is chance"
        )
    return f"{section.title}: {said}{_extremes(section)}."


def _extremes(section: Section) -> str:
    """Classes with the largest and the least AUROC, of three or more."""
    areas = {
        name: row["auroc"].value
        for name, row in section.measured.metrics.classes.items()
        if "auroc" in row and not math.isnan(row["auroc"].value)
    }
    if len(areas) < 3:
        return ""
    most, least = max(areas, key=areas.__getitem__), min(areas, key=areas.__getitem__)
    return (
        f". AUROC is highest for {class_name(most)} ({areas[most]:.2f}) and lowest for "
        f"{class_name(least)} ({areas[least]:.2f})"
    )


def _others(sections: Sequence[Section]) -> str:
    """The range of the first section's metric over all sections."""
    name = "aca" if "aca" in sections[0].measured.overall else "auroc"
    values = [
        section.measured.overall[name].value
        for section in sections
        if name in section.measured.overall
    ]
    word = {"aca": "ACA", "auroc": "macro AUROC"}[name]
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return ""
    return f"Over all {len(known)} settings {word} is {min(known):.2f} to {max(known):.2f}."


def of_retrieval(found: Retrieval, language: str) -> str:
    """Says how often a patient's report is found by the photographs.

    Args:
      found: of one language.
      language: its code.
    """
    recalls, count = found.recalls[DIRECTIONS[0]], len(found.rows)
    first, tenth = recalls["recall_at_1"], recalls["recall_at_10"]
    chance = ""
    if count > 10:
        chance = f" By chance it would be about {100 / count:.1f} % and {1000 / count:.1f} %."
    return (
        f"Of {count:,} {LANGUAGE_NAMES[language]} reports, that of the photographs is the first "
        f"answer for {_share(first)}, and among the first 10 for {_share(tenth)}.{chance}"
    )


def _of_masks(masks: MaskSection) -> str:
    prefix = "best_" if masks.fitted_on else ""
    told = [
        f"{class_name(name)} {_number(row[f'{prefix}dice'])}"
        for name, row in masks.metrics.classes.items()
    ]
    more = f", and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    return f"Dice of all pixels: {'; '.join(told[:_NAMED])}{more}." if told else ""


def _of_reports(section: ReportSection) -> str:
    network, *others = section.scores
    values = network.clinical.values
    said = (
        f"Generated reports name {_share(values['recall'])} of the findings of their references, "
        f"and {_share(values['precision'])} of what they name is there: F1 {_number(values['f1'])}"
    )
    baselines = ", ".join(
        f"{other.clinical.values['f1'].value:.3f} by the {other.writer}" for other in others
    )
    return f"{said}{f', against {baselines}' if baselines else ''}."


def _number(value: Estimate) -> str:
    interval = f" (95 % interval {value.low:.3f}–{value.high:.3f})" if value.has_interval else ""
    return "–" if math.isnan(value.value) else f"{value.value:.3f}{interval}"


def _share(value: Estimate) -> str:
    if math.isnan(value.value):
        return "–"
    interval = f" ({100 * value.low:.1f}–{100 * value.high:.1f})" if value.has_interval else ""
    return f"{100 * value.value:.1f} %{interval}"
