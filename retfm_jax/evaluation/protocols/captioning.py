"""Report generation: what a network writes of cases against what was written of them."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from retfm_jax.captioning import checked
from retfm_jax.data.cases import Cases
from retfm_jax.data.words import WordTokenizer
from retfm_jax.errors import UserError, first_of
from retfm_jax.evaluation import captioning
from retfm_jax.evaluation.captioning import WrittenCase
from retfm_jax.evaluation.metrics import captions, clinical, meteor
from retfm_jax.evaluation.metrics.bootstrap import Estimate, bootstrap, estimates, weighted_mean
from retfm_jax.evaluation.protocols.base import Protocol
from retfm_jax.evaluation.report import figures
from retfm_jax.evaluation.results import (
    Picture,
    ReportExample,
    ReportScores,
    ReportSection,
    Shown,
    WrittenRow,
)
from retfm_jax.evaluation.study import Options, Study
from retfm_jax.knowledge.labeler import Labeler
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.laterality import SIDES

#: Cases of each standing on the page.
_EXAMPLES = 3
#: Photographs of a case on the page.
_PICTURES = 6
#: Words of references that no report has, the most frequent ones, that are named.
_NAMED = 20


class Captioning(Protocol):
    """The reports that a network was trained to write, by beam search."""

    name = "captioning"
    of_cases = True
    needs_labels = False

    def check(self, study: Study) -> None:
        checked(study.model, study.options.caption.search)
        jar = study.options.caption.meteor
        if jar is not None:
            if study.model.data_config.language == "zh":
                raise UserError("METEOR is of English words, and the network writes Chinese")
            meteor.check(jar)

    def run(self, study: Study) -> Mapping[str, Any]:
        model, options, source = study.model, study.options, study.source
        assert isinstance(source, Cases), "of_cases asks for it"
        tokenizer = WordTokenizer(model.data_config.text)
        damaged: list[str] = []
        found = [
            each
            for each in captioning.written_cases(
                model, source, options.caption.search, unusable=damaged, on_error=options.on_error
            )
        ]
        if not found:
            raise UserError(
                f"{source.name}, split {source.split}: no case has a photograph that can be used; "
                f"the first ones are {first_of(damaged, 5)}"
            )
        compared = _Compared(study, tokenizer, found)
        _say(study, tokenizer, found, damaged)
        texts = [each.written.text for each in found]
        scores = [compared.scores("the network", [each.written.spelled for each in found], texts)]
        baselines, said = _baselines(study, compared, found)
        scores += [score for score, _ in baselines.values()]
        rows = compared.rows(texts)
        words = _words(tokenizer, compared.spelled, found)
        longest = options.caption.search.length or tokenizer.context_length
        unfinished = sum(len(each.written.words) >= longest for each in found)
        study.results.reports = ReportSection(
            tuple(scores),
            {each.id: each.name["en"] for each in compared.labeler.vocabulary},
            rows,
            _examples(source, found, rows),
            (_of_words(words, scores, unfinished),),
        )
        return {
            **scores[0].to_json(),
            "mean_log_probability": round(
                float(np.mean([each.written.log_probability for each in found])), 4
            ),
            "reports_without_an_end": unfinished,
            "photographs_left_out": sum(len(each.written.unread) for each in found),
            "cases_left_out": len(damaged),
            "references_cut": compared.cut,
            "vocabulary": words,
            "baselines": {
                name: {**more, **score.to_json()} for name, (score, more) in baselines.items()
            },
            **({"baselines_left_out": said} if said else {}),
        }

    def settings(self, options: Options) -> Mapping[str, Any]:
        search = options.caption.search
        return {
            "beams": search.beams,
            "longest_report": search.length or "as in training",
            "length_penalty": search.length_penalty,
            "meteor": "by its own program" if options.caption.meteor else "left out",
        }


class _Compared:
    """References in their forms, with which reports of every writer are compared.

    Args:
      study: in progress.
      tokenizer: of the network.
      found: the cases.

    Attributes:
      labeler: reads all reports.
      spelled: references as ids spell them.
      cut: how many references are longer than the network's reports.
    """

    def __init__(self, study: Study, tokenizer: WordTokenizer, found: Sequence[WrittenCase]):
        self._options, self._tokenizer, self._found = study.options, tokenizer, found
        data = study.model.data_config
        self.labeler: Labeler = shared_labeler(data.vocabulary, data.extend)
        self._references = [each.reference for each in found]
        self._groups = [each.patient for each in found]
        self.spelled = [tokenizer.spelled(text) for text in self._references]
        self._whole = [" ".join(tokenizer.divided(text)) for text in self._references]
        room = tokenizer.context_length - 2
        self.cut = sum(len(text.split()) > room for text in self._whole)

    def scores(self, writer: str, spelled: Sequence[str], texts: Sequence[str]) -> ReportScores:
        """Measures one writer.

        Args:
          writer: who it is, in words.
          spelled: words of the reports, between spaces.
          texts: the reports as they are read.
        """
        options = self._options
        more = {"groups": self._groups, "draws": options.draws, "seed": options.seed}
        found = ReportScores(
            writer,
            captions.measure(spelled, self.spelled, **more),
            captions.measure(spelled, self._whole, **more),
            clinical.measure(texts, self._references, self.labeler, **more),
        )
        if options.caption.meteor is None:
            return found
        value, each = meteor.measure(spelled, self.spelled, options.caption.meteor)
        return dataclasses.replace(found, meteor=value, mean_meteor=self._mean(each))

    def _mean(self, values: Float[np.ndarray, " n"]) -> Estimate:
        def statistic(weights: Float[np.ndarray, "n draws"]) -> Float[np.ndarray, "draws 1"]:
            return weighted_mean(values, weights)[:, None]

        options = self._options
        drawn = bootstrap(self._groups, statistic, options.draws, options.seed)
        return estimates([float(values.mean())], drawn)[0]

    def copied(self, writer: str, texts: Sequence[str]) -> ReportScores:
        """Measures training reports that stand for generated ones.

        Args:
          writer: the baseline, in words.
          texts: for each case a report as it was written.
        """
        found = self.scores(writer, [self._tokenizer.spelled(text) for text in texts], texts)
        options = self._options
        return dataclasses.replace(
            found,
            behind=clinical.f1_difference(
                [each.written.text for each in self._found],
                texts,
                self._references,
                self.labeler,
                self._groups,
                options.draws,
                options.seed,
            ),
        )

    def rows(self, texts: Sequence[str]) -> tuple[WrittenRow, ...]:
        """Compares each report of the network with its reference.

        Args:
          texts: the reports as they are read.
        """
        f1 = clinical.by_report(texts, self._references, self.labeler)
        spelled = [each.written.spelled for each in self._found]
        rouge = captions.by_report(spelled, self.spelled)["rouge_l"]
        label = self.labeler.label
        return tuple(
            WrittenRow(
                each.case,
                each.patient,
                each.reference,
                text,
                each.written.log_probability,
                clinical.marked(label(text), label(each.reference)),
                float(f1[index]),
                float(rouge[index]),
            )
            for index, (each, text) in enumerate(zip(self._found, texts, strict=True))
        )


def _say(
    study: Study, tokenizer: WordTokenizer, found: Sequence[WrittenCase], damaged: Sequence[str]
) -> None:
    """Notes on what the numbers are of."""
    language = study.model.data_config.language
    if damaged:
        study.note(
            f"{len(damaged)} cases have no photograph that can be used and are left out: "
            f"{first_of(damaged, 50)}"
        )
    unread = sum(bool(each.written.unread) for each in found)
    if unread:
        study.note(f"of {unread} cases some photographs cannot be used and are passed over")
    other = sum(each.translated for each in found)
    if other:
        study.note(
            f"{other} of {len(found)} references are in another language than the network's "
            f"({language}): their words do not compare, their findings do"
        )


_Baselines = dict[str, tuple[ReportScores, dict[str, Any]]]


def _baselines(
    study: Study, compared: _Compared, found: Sequence[WrittenCase]
) -> tuple[_Baselines, str]:
    """Scores of what is copied from the training split, or why there are none."""
    most = study.options.caption.training_cases
    if not most:
        return {}, "nobody asked for them"
    own, source = study.model.data_config, study.source
    try:
        training = captioning.training_reports(
            study.model, study.dataset, study.data_dir, source.split, most
        )
    except UserError as error:
        study.note(f"no baselines: the training reports cannot be copied from: {error}")
        return {}, str(error)
    text, count = training.most_frequent
    nearest = captioning.nearest_reports(
        study.model, source, [each.row for each in found], training
    )
    size = {"training_cases": training.cases, "of": training.of, "dataset": own.dataset}
    return {
        "constant": (
            compared.copied("most frequent training report", [text] * len(found)),
            {"report": text, "stands_there": count, **size},
        ),
        "nearest": (compared.copied("report of the nearest training case", nearest), size),
    }, ""


def _words(
    tokenizer: WordTokenizer, spelled: Sequence[str], found: Sequence[WrittenCase]
) -> dict[str, Any]:
    """Which words the reports never have."""
    written = {word for each in found for word in each.written.words}
    wanted = collections.Counter(word for text in spelled for word in text.split())
    never = {word: count for word, count in wanted.items() if word not in written}
    most = sorted(never, key=lambda word: (-never[word], word))[:_NAMED]
    return {
        "words": tokenizer.vocab_size - 1,
        "written": len(written),
        "of_references": len(wanted),
        "of_references_never_written": len(never),
        "share_of_references_words_never_written": round(
            sum(never.values()) / max(wanted.total(), 1), 6
        ),
        "most_frequent_never_written": {word: never[word] for word in most},
    }


def _of_words(words: Mapping[str, Any], scores: Sequence[ReportScores], unfinished: int) -> Shown:
    never = words["most_frequent_never_written"]
    named = ", ".join(f"{word} ({count})" for word, count in never.items())
    rows: list[tuple[Any, ...]] = [
        (
            each.writer,
            f"{each.words.words[0]:.1f}",
            each.words.distinct,
            f"{each.words.repeated:.1%}",
            f"{each.words.loops:.1%}",
        )
        for each in scores
    ]
    rows.append(("references", f"{scores[0].words.words[1]:.1f}", "", "", ""))
    sentences = [
        f"The network writes {words['written']} of its {words['words']} words.",
        f"Of {words['of_references']} words of the references it never writes "
        f"{words['of_references_never_written']}" + f": {named}" * bool(named) + ".",
        f"{unfinished} of its reports have the greatest length, and no end.",
        "A report repeats whose text another one has; a trigram is three words in a row, and "
        "repeats where it stood in the same report before.",
    ]
    header = "writer", "mean words", "different reports", "reports that repeat"
    return Shown(
        "Lengths and repetition", (*header, "trigrams that repeat"), rows, " ".join(sentences)
    )


def _examples(
    source: Cases, found: Sequence[WrittenCase], rows: Sequence[WrittenRow]
) -> tuple[ReportExample, ...]:
    """The worst, the median and the best cases, each once, with their photographs."""
    keys = [(1.0 if math.isnan(row.f1) else row.f1, row.rouge_l) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: keys[index])
    return tuple(
        ReportExample(standing, rows[index], _pictures(source, found[index].row))
        for index, standing in _standing(order)
    )


def _standing(order: Sequence[int]) -> list[tuple[int, str]]:
    """Which are shown, as what: of few the median ones are left out, of one there is no worst."""
    count = min(_EXAMPLES, len(order) // 3)
    if not count:
        return [
            (index, "only" if len(order) == 1 else ("worst", "best")[place])
            for place, index in enumerate(order)
        ]
    middle = (len(order) - count) // 2
    shown = {
        "worst": order[:count],
        "median": order[middle : middle + count],
        "best": order[-count:],
    }
    return [(index, standing) for standing, some in shown.items() for index in some]


def _pictures(source: Cases, row: int) -> tuple[Picture, ...]:
    """The first photographs of a case."""
    record = source[row]
    found = [
        ("", figures.shown(image, name))
        for image, name in zip(record.images, record.names, strict=True)
    ]
    if record.eyes:  # the right eye first, as clinicians see it
        found = [(side, shown) for side, (_, shown) in zip(SIDES, found, strict=True)][::-1]
    return tuple(found[:_PICTURES])
