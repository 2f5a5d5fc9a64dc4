"""Clinical F1 of generated reports: the findings that they name, miss and invent.

Both reports are read by the labeler of this project, in English, Chinese or both; what holds for a
condition holds for those that it implies. The reference is the truth, so that its own mistakes and
those of the labeler count as the generated report's.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from retfm_jax.evaluation.metrics.bootstrap import (
    Estimate,
    Weights,
    bootstrap,
    estimates,
    ratio,
    to_json,
)
from retfm_jax.evaluation.metrics.captions import require_pairs
from retfm_jax.knowledge.labeler import (
    ABSENT,
    PATIENT,
    PRESENT,
    UNCERTAIN,
    Labeler,
    ReportLabels,
)
from retfm_jax.knowledge.laterality import BOTH, SIDES


class Agreement(NamedTuple):
    """What a generated report says of the findings of its reference.

    Attributes:
      named: affirmed by the reference, and affirmed or suspected by the generated report.
      missed: affirmed by the reference alone.
      invented: affirmed or suspected by the generated report alone. What the reference only
        suspects is none of the three.
      contradicted: of the missed and the invented, what the other report denies in words.
    """

    named: tuple[str, ...]
    missed: tuple[str, ...]
    invented: tuple[str, ...]
    contradicted: tuple[str, ...]


def agreement(generated: Mapping[str, str], reference: Mapping[str, str]) -> Agreement:
    """Compares what two reports say of one patient or one eye.

    Args:
      generated, reference: status of each condition spoken of, as `ReportLabels.statuses` has them.
    """
    said = [name for name, status in generated.items() if status != ABSENT]
    there = [name for name, status in reference.items() if status == PRESENT]
    missed = tuple(name for name in there if name not in said)
    invented = tuple(
        name for name in said if reference.get(name, ABSENT) not in (PRESENT, UNCERTAIN)
    )
    denied = [name for name in missed if name in generated]
    denied += [name for name in invented if name in reference]
    named = tuple(name for name in there if name in said)
    return Agreement(named, missed, invented, tuple(denied))


#: Kinds of marks, the gravest last.
MARKS = ("named", "other_eye", "missed", "invented", "contradicted")


class Mark(NamedTuple):
    """Words of a report that speak of a finding, and how the other report agrees.

    Attributes:
      start, end: the span in the report.
      kind: one of `MARKS`, as `Agreement` has them; "other_eye": both reports name the finding,
        each with its eye, and not with this one.
      condition: its id.
    """

    start: int
    end: int
    kind: str
    condition: str


class Marked(NamedTuple):
    """How two reports on one patient agree, and where they say it.

    Attributes:
      found: the findings of the patient.
      generated, reference: marks of each report, in the order of its text. What the reference only
        suspects, and what both deny, has none.
    """

    found: Agreement
    generated: tuple[Mark, ...]
    reference: tuple[Mark, ...]


def marked(generated: ReportLabels, reference: ReportLabels) -> Marked:
    """Marks what two reports say of findings.

    Args:
      generated, reference: what the labeler reads in each.
    """
    found = agreement(generated.statuses[PATIENT], reference.statuses[PATIENT])
    return Marked(
        found,
        _marks(generated, reference, found, "invented"),
        _marks(reference, generated, found, "missed"),
    )


def _marks(
    own: ReportLabels, other: ReportLabels, found: Agreement, alone: str
) -> tuple[Mark, ...]:
    """Marks of one report; `alone` is what a finding is that the other one does not affirm."""
    marks = []
    for item in own.evidence:
        if item.status != own.statuses[PATIENT].get(item.condition):
            continue  # another sentence of the report decides
        if item.condition in found.contradicted:
            kind = "contradicted"
        elif item.status == ABSENT:
            continue
        elif item.condition in found.named:
            sides = SIDES if item.side == BOTH else (item.side,)
            there = [
                side for side in SIDES if other.statuses[side].get(item.condition, ABSENT) != ABSENT
            ]
            agrees = item.side is None or not there or set(sides) <= set(there)
            kind = "named" if agrees else "other_eye"
        elif item.condition in getattr(found, alone):
            kind = alone
        else:
            continue
        marks.append(Mark(item.start, item.end, kind, item.condition))
    return tuple(marks)


@dataclasses.dataclass(frozen=True)
class ClinicalMetrics:
    """Agreement of generated reports with their references.

    Attributes:
      values: precision, recall and f1 of all findings of all reports together, macro_f1 (the mean
        over the conditions that some reference affirms) and contradictions (a report).
      eyes: precision, recall and f1 of findings with their eye; empty where no reference names one.
      conditions: of each condition that is named, missed or invented: f1, and these counts.
      reports: number of generated reports.
      silent: references of which the labeler reads nothing.
    """

    values: Mapping[str, Estimate]
    eyes: Mapping[str, Estimate]
    conditions: Mapping[str, Mapping[str, Any]]
    reports: int
    silent: int

    def to_json(self) -> dict[str, Any]:
        """Converts the metrics to JSON values."""
        return {
            **to_json(self.values),
            **({"eyes": to_json(self.eyes)} if self.eyes else {}),
            "conditions": to_json(self.conditions),
            "reports": self.reports,
            "references_without_findings": self.silent,
        }


def measure(
    hypotheses: Sequence[str],
    references: Sequence[str],
    labeler: Labeler,
    groups: Sequence[Any] | np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> ClinicalMetrics:
    """Computes which findings generated reports name, miss and invent, with intervals by case.

    Args:
      hypotheses: generated reports (n), English, Chinese or mixed.
      references: what was written (n), as written, not as ids spell it.
      labeler: reads both.
      groups: each report's case; None: every report is one.
      draws: number of resamples of the bootstrap.
      seed: of the resamples.

    Raises:
      UserError: there is no report, or one is no text.
      ValueError: the sequences have different lengths.
    """
    require_pairs(hypotheses, references, groups)
    groups = list(range(len(references))) if groups is None else list(groups)
    said = [labeler.label(text).statuses for text in hypotheses]
    written = [labeler.label(text).statuses for text in references]
    ids = labeler.vocabulary.ids
    whole = _Scope.of(said, written, (PATIENT,), ids)
    eyes = _Scope.of(said, written, SIDES, ids)
    sided = any(status == PRESENT for w in written for side in SIDES for status in w[side].values())
    scopes = [whole, *([eyes] if sided else [])]

    def statistic(weights: Weights) -> Float[np.ndarray, "draws values"]:
        return np.concatenate([scope.values(weights) for scope in scopes], axis=1)

    ones = np.ones((len(said), 1), np.float32)
    found = estimates(statistic(ones)[0], bootstrap(groups, statistic, draws, seed))
    names = iter(found)
    overall = {name: next(names) for name in _OVERALL}
    of_conditions = {ids[index]: next(names) for index in whole.used}
    of_eyes = dict(zip(_OVERALL, names, strict=False)) if sided else {}
    return ClinicalMetrics(
        values=overall,
        eyes={name: of_eyes[name] for name in _OVERALL[:3]} if sided else {},
        conditions={
            ids[index]: {"f1": of_conditions[ids[index]]} | whole.counts(index)
            for index in whole.used
        },
        reports=len(said),
        silent=sum(not w[PATIENT] for w in written),
    )


def by_report(
    hypotheses: Sequence[str], references: Sequence[str], labeler: Labeler
) -> Float[np.ndarray, " n"]:
    """Computes F1 of the findings of every report by itself.

    Args:
      hypotheses, references, labeler: see `measure`.

    Returns:
      F1 (n); NaN where neither report names a finding.

    Raises:
      UserError: there is no report, or one is no text.
      ValueError: the sequences have different lengths.
    """
    named, wrong = _counted(hypotheses, references, labeler)
    return ratio(2 * named, 2 * named + wrong)


def f1_difference(
    hypotheses: Sequence[str],
    others: Sequence[str],
    references: Sequence[str],
    labeler: Labeler,
    groups: Sequence[Any] | np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Computes by how much F1 of findings is higher than that of other reports on the same cases.

    Args:
      hypotheses, others: reports of two writers (n).
      references, labeler, groups, draws, seed: see `measure`.

    Returns:
      the difference of F1 over all reports; its interval resamples the cases of both together.

    Raises:
      UserError: there is no report, or one is no text.
      ValueError: the sequences have different lengths.
    """
    require_pairs(hypotheses, references, groups)
    groups = list(range(len(references))) if groups is None else list(groups)
    pairs = [_counted(texts, references, labeler) for texts in (hypotheses, others)]

    def statistic(weights: Weights) -> Float[np.ndarray, "draws 1"]:
        f1 = [
            ratio(2 * named @ weights, 2 * named @ weights + wrong @ weights)
            for named, wrong in pairs
        ]
        return (f1[0] - f1[1])[:, None]

    ones = np.ones((len(references), 1), np.float32)
    return estimates(statistic(ones)[0], bootstrap(groups, statistic, draws, seed))[0]


def _counted(
    hypotheses: Sequence[str], references: Sequence[str], labeler: Labeler
) -> Float[np.ndarray, "2 n"]:
    """Findings of each report that are named, and those that are missed or invented."""
    require_pairs(hypotheses, references)
    found = [
        agreement(labeler.label(ours).statuses[PATIENT], labeler.label(theirs).statuses[PATIENT])
        for ours, theirs in zip(hypotheses, references, strict=True)
    ]
    wrong = [len(each.missed) + len(each.invented) for each in found]
    return np.array([[len(each.named) for each in found], wrong], np.float64)


#: Names of the first columns of `_Scope.values`.
_OVERALL = ("precision", "recall", "f1", "macro_f1", "contradictions")


@dataclasses.dataclass(frozen=True)
class _Scope:
    """Findings of the patients, or of the eyes.

    Attributes:
      named, missed, invented: by report and condition, how often (n, conditions).
      contradictions: of each report (n).
    """

    named: Float[np.ndarray, "n c"]
    missed: Float[np.ndarray, "n c"]
    invented: Float[np.ndarray, "n c"]
    contradictions: Float[np.ndarray, " n"]

    @classmethod
    def of(
        cls,
        said: Sequence[Mapping[str, Mapping[str, str]]],
        written: Sequence[Mapping[str, Mapping[str, str]]],
        scopes: Sequence[str],
        ids: Sequence[str],
    ) -> "_Scope":
        place = {name: index for index, name in enumerate(ids)}
        named, missed, invented = tables = np.zeros((3, len(said), len(ids)))
        contradictions = np.zeros(len(said))
        for row, (ours, theirs) in enumerate(zip(said, written, strict=True)):
            for scope in scopes:
                found = agreement(ours[scope], theirs[scope])
                contradictions[row] += len(found.contradicted)
                for table, names in zip(tables, found, strict=False):
                    for name in names:
                        table[row, place[name]] += 1
        return cls(named, missed, invented, contradictions)

    @property
    def used(self) -> list[int]:
        """Conditions of which anything is to be said."""
        return np.flatnonzero((self.named + self.missed + self.invented).any(0)).tolist()

    @property
    def affirmed(self) -> Bool[np.ndarray, " used"]:
        """Which of `used` some reference affirms."""
        return np.any(self.named + self.missed, axis=0)[np.array(self.used, int)]

    def counts(self, index: int) -> dict[str, int]:
        """How often a condition is named, missed and invented."""
        return {
            "named": int(self.named[:, index].sum()),
            "missed": int(self.missed[:, index].sum()),
            "invented": int(self.invented[:, index].sum()),
        }

    def values(self, weights: Weights) -> Float[np.ndarray, "draws values"]:
        """The values of `_OVERALL`, then F1 of each condition of `used`."""
        weights = weights.T.astype(np.float64)
        # (draws, n) . (n, used) -> (draws, used)
        tables = (self.named, self.missed, self.invented)
        named, missed, invented = (weights @ table[:, self.used] for table in tables)
        each = ratio(2 * named, 2 * named + missed + invented)
        known = self.affirmed & ~np.isnan(each)
        macro = ratio(np.where(known, each, 0).sum(1), known.sum(1))
        named, missed, invented = (table.sum(1) for table in (named, missed, invented))
        overall = (
            ratio(named, named + invented),
            ratio(named, named + missed),
            ratio(2 * named, 2 * named + missed + invented),
            macro,
            ratio(weights @ self.contradictions, weights.sum(1)),
        )
        return np.concatenate([np.stack(overall, axis=1), each], axis=1)
