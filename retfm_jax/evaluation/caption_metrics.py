"""How well a network writes reports, as plain numbers: for the metrics of a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from retfm_jax.captioning import Search, Written, write_reports
from retfm_jax.data.cases import Cases, MixedCases
from retfm_jax.data.samples import choose_text
from retfm_jax.data.words import WordTokenizer
from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics import captions, clinical
from retfm_jax.knowledge.labels import shared_labeler

#: Metrics of captions that are told of a run.
_TOLD = ("bleu_4", "rouge_l", "cider")


def caption_metrics(model: Any, source: Cases | MixedCases) -> dict[str, float]:
    """Writes the reports of some cases of a split, greedily, and measures them.

    Args:
      model: a `RetinalModel` that writes reports; its `config.evaluation.cases` says how many, and
        they lie evenly from the first to the last one of the split.
      source: cases with reports.

    Returns:
      numbers by name, NaN where undefined: `loss`, the mean of -ln p over all words of the
      references; `bleu_4`, `rouge_l` and `cider`, whose references are as ids spell them; of
      findings `clinical_f1`, `clinical_precision` and `clinical_recall`, as the labeler reads both;
      `words`, the mean of a report, and `distinct`, the share of different reports.

    Raises:
      UserError: the network writes no reports, or no case can be used.
    """
    data = model.data_config
    count = min(len(source), model.config.evaluation.cases)
    rows = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
    references = [choose_text(source.report(row), data.language) for row in rows]
    unusable: list[tuple[int, str]] = []
    found = list(
        write_reports(
            model,
            (source[row].images for row in rows),
            Search(beams=1),
            references=references,
            count=count,
            unusable=unusable,
        )
    )
    pairs = [(each, text) for each, text in zip(found, references, strict=True) if each is not None]
    if not pairs:
        raise UserError(
            f"{source.name}, split {source.split}: no case can be used; {unusable[0][1]}"
        )
    return _measured(model, *map(list, zip(*pairs, strict=True)))


def _measured(
    model: Any, written: Sequence[Written], references: Sequence[str]
) -> dict[str, float]:
    data = model.data_config
    tokenizer = WordTokenizer(data.text)
    by_words = captions.measure(
        [each.spelled for each in written],
        [tokenizer.spelled(text) for text in references],
        draws=1,
    )
    labeler = shared_labeler(data.vocabulary, data.extend)
    by_findings = clinical.measure(
        [each.text for each in written], references, labeler, draws=1
    ).values
    words = np.array([each.loss_words for each in written], float)
    losses = np.array([each.loss for each in written], float)
    return {
        "loss": float((losses * words).sum() / max(words.sum(), 1)),
        **{name: float(by_words.values[name].value) for name in _TOLD},
        **{
            f"clinical_{name}": float(by_findings[name].value)
            for name in ("f1", "precision", "recall")
        },
        "words": by_words.words[0],
        "distinct": by_words.distinct / by_words.reports,
    }
