"""Metrics of generated reports by their words: BLEU, ROUGE-L, CIDEr-D, and how often they repeat.

They equal pycocoevalcap 1.2, which the publications of report generation use, with one reference to
each report. A report is a text whose words stand between spaces, nothing else divides it: what
counts as a word (one Chinese character, a full stop) is decided where reports become ids. METEOR
has a program of its own, see `meteor`.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.bootstrap import (
    Estimate,
    Weights,
    bootstrap,
    estimates,
    to_json,
    weighted_mean,
)

#: BLEU and CIDEr-D look at sequences of 1 to so many words.
_LONGEST = 4
#: What pycocoevalcap adds to matches and to guesses, so that no product is 0 and no quotient 0 / 0.
_TINY, _SMALL = 1e-15, 1e-9
#: Weight of recall in ROUGE-L.
_BETA = 1.2
#: Width of CIDEr-D's penalty on lengths, in bigrams.
_SIGMA = 6.0
#: Names of the metrics, in the order of all arrays here.
NAMES = (*(f"bleu_{n}" for n in range(1, _LONGEST + 1)), "rouge_l", "cider")

_Grams = collections.Counter[tuple[str, ...]]
#: Matches and guesses of 1 to 4 words, words of the report and of its reference.
_Counts = Float[np.ndarray, "*any 10"]


@dataclasses.dataclass(frozen=True)
class CaptionMetrics:
    """Metrics of generated reports by their words.

    Attributes:
      values: by name, `NAMES`: BLEU of all reports together, means over reports of the others.
      reports: number of generated reports.
      cases: number of cases, which the intervals resample.
      distinct: number of different texts among the generated reports.
      repeated: share of the generated reports whose text another one has as well.
      loops: share of all three words in a row of the generated reports that stood in the same
        report before.
      words: mean number of words of the generated reports and of their references.
    """

    values: Mapping[str, Estimate]
    reports: int
    cases: int
    distinct: int
    repeated: float
    loops: float
    words: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Converts the metrics to JSON values."""
        return {
            **to_json(self.values),
            "reports": self.reports,
            "cases": self.cases,
            "distinct_reports": self.distinct,
            "share_repeated": round(self.repeated, 6),
            "share_of_trigrams_repeated": round(self.loops, 6),
            "mean_words": round(self.words[0], 3),
            "mean_words_of_references": round(self.words[1], 3),
        }


def measure(
    hypotheses: Sequence[str],
    references: Sequence[str],
    groups: Sequence[Any] | np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> CaptionMetrics:
    """Computes all metrics of generated reports, with intervals by case.

    Args:
      hypotheses: generated reports (n), words between spaces; an empty one is a wrong one.
      references: what was written (n), item i that of the same images as hypothesis i.
      groups: each report's case, as images of a case share a report; None: every report is one.
      draws: number of resamples of the bootstrap. CIDEr-D's document frequencies stay those of all
        references.
      seed: of the resamples.

    Raises:
      UserError: there is no report.
      ValueError: the sequences have different lengths.
    """
    require_pairs(hypotheses, references, groups)
    groups = list(range(len(references))) if groups is None else list(groups)
    counts = np.stack([_counted(*pair) for pair in zip(hypotheses, references, strict=True)])
    means = np.stack([_rouge(hypotheses, references), _cider(hypotheses, references)])

    def statistic(weights: Weights) -> Float[np.ndarray, "draws values"]:
        bleu = _bleu(weights.T.astype(np.float64) @ counts)  # (draws, n) . (n, 10) -> (draws, 10)
        return np.concatenate([bleu, *(weighted_mean(row, weights)[:, None] for row in means)], 1)

    whole = [*_bleu(counts.sum(0)), *means.mean(1)]
    found = estimates(whole, bootstrap(groups, statistic, draws, seed))
    texts = collections.Counter(" ".join(text.split()) for text in hypotheses)
    repeated = sum(count for count in texts.values() if count > 1)
    trigrams = [_grams(text.split(), 3) for text in hypotheses]
    again, every = (sum(map(count, trigrams)) for count in (_again, collections.Counter.total))
    return CaptionMetrics(
        values=dict(zip(NAMES, found, strict=True)),
        reports=len(hypotheses),
        cases=len(set(groups)),
        distinct=len(texts),
        repeated=repeated / len(hypotheses),
        loops=again / every if every else 0.0,
        words=(float(counts[:, -2].mean()), float(counts[:, -1].mean())),
    )


def by_report(
    hypotheses: Sequence[str], references: Sequence[str]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Computes the metrics of every report by itself, by name.

    Args:
      hypotheses: generated reports (n), words between spaces.
      references: what was written (n); CIDEr-D's document frequencies are those of all of them.

    Raises:
      UserError: there is no report.
      ValueError: the sequences have different lengths.
    """
    require_pairs(hypotheses, references)
    counts = np.stack([_counted(*pair) for pair in zip(hypotheses, references, strict=True)])
    columns = [*_bleu(counts).T, _rouge(hypotheses, references), _cider(hypotheses, references)]
    return dict(zip(NAMES, columns, strict=True))


def require_pairs(
    hypotheses: Sequence[str],
    references: Sequence[str],
    groups: Sequence[Any] | np.ndarray | None = None,
) -> None:
    """Checks that every generated report has its reference and its case.

    Args:
      hypotheses, references: the reports.
      groups: each report's case; None: every report is one.

    Raises:
      UserError: there is no report.
      ValueError: the sequences have different lengths.
    """
    lengths = {len(hypotheses), len(references), *([] if groups is None else [len(groups)])}
    if len(lengths) > 1:
        raise ValueError(f"reports, references and cases have the lengths {sorted(lengths)}")
    if lengths == {0}:
        raise UserError("no report was generated, so that nothing can be measured")


def _grams(words: Sequence[str], length: int) -> _Grams:
    return collections.Counter(
        tuple(words[start : start + length]) for start in range(len(words) - length + 1)
    )


def _again(grams: _Grams) -> int:
    """How many of them are not the first of their words."""
    return grams.total() - len(grams)


def _counted(hypothesis: str, reference: str) -> Float[np.ndarray, " 10"]:
    """What BLEU needs of a report, `_Counts`; matches as often as both have them."""
    said, written = hypothesis.split(), reference.split()
    lengths = range(1, _LONGEST + 1)
    matches = [(_grams(said, n) & _grams(written, n)).total() for n in lengths]
    guesses = [max(0, len(said) - n + 1) for n in lengths]
    return np.array([*matches, *guesses, len(said), len(written)], np.float64)


def _bleu(counts: _Counts) -> Float[np.ndarray, "*any 4"]:
    """BLEU-1 to BLEU-4 of counts (Papineni et al. 2002), of one report or summed over many.

    With m_k matches among g_k guesses of k words, h words generated of r written, BLEU-n is
    (prod_{k <= n} m_k / g_k)^(1 / n) min(1, exp(1 - r / h)).
    """
    matches, guesses = counts[..., :_LONGEST], counts[..., _LONGEST : 2 * _LONGEST]
    products = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=-1)
    length = (counts[..., -2] + _TINY) / (counts[..., -1] + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / length))
    return products ** (1 / np.arange(1, _LONGEST + 1)) * brevity[..., None]


def _rouge(hypotheses: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, " n"]:
    """ROUGE-L of each report (Lin 2004): F of the longest common subsequence, beta 1.2.

    An empty report counts as one empty word, as its publication's program has it.
    """
    scores = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        said, written = hypothesis.split() or [""], reference.split() or [""]
        common = _common(said, written)
        precision, recall = common / len(said), common / len(written)
        scale = recall + _BETA**2 * precision
        scores.append((1 + _BETA**2) * precision * recall / scale if common else 0.0)
    return np.array(scores)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of its table at a time.

    The row is one integer, whose bit i is 0 where it grows at word i of `first` (Hyyro 2004).
    """
    places: dict[str, int] = collections.defaultdict(int)
    for position, word in enumerate(first):
        places[word] |= 1 << position
    every = (1 << len(first)) - 1
    row = every
    for word in second:
        there = row & places.get(word, 0)
        row = ((row + there) | (row - there)) & every
    return len(first) - row.bit_count()


def _cider(hypotheses: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, " n"]:
    """CIDEr-D of each report (Vedantam et al. 2015), 0 to 10.

    A sequence of words weighs its count times (ln N - ln max(1, d)), where d of the N references
    have it. For n = 1 to 4, s_n = sum_g min(h_g, r_g) r_g / (|h| |r|), times
    exp(-(difference of the numbers of bigrams)^2 / 72); the score is 10 times the mean of s_n.
    """
    said = [_all_grams(text) for text in hypotheses]
    written = [_all_grams(text) for text in references]
    frequency = collections.Counter(gram for grams in written for gram in set().union(*grams))
    documents = math.log(len(references))

    def weighed(grams: _Grams) -> dict[tuple[str, ...], float]:
        return {
            gram: count * (documents - math.log(max(1.0, frequency[gram])))
            for gram, count in grams.items()
        }

    scores = []
    for ours, theirs in zip(said, written, strict=True):
        longer = ours[1].total() - theirs[1].total()
        penalty = math.exp(-(longer**2) / (2 * _SIGMA**2))
        parts = [
            _cosine(weighed(a), weighed(b)) * penalty for a, b in zip(ours, theirs, strict=True)
        ]
        scores.append(float(np.mean(parts)) * 10.0)
    return np.array(scores)


def _all_grams(text: str) -> list[_Grams]:
    words = text.split()
    return [_grams(words, n) for n in range(1, _LONGEST + 1)]


def _cosine(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> float:
    """Cosine whose product counts no more of a sequence than the reference has; 0 of zeros."""
    product = sum(min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0)
                  for gram, weight in ours.items())  # fmt: skip
    norms = [math.sqrt(sum(w**2 for w in weights.values())) for weights in (ours, theirs)]
    return product / (norms[0] * norms[1]) if all(norms) else product
