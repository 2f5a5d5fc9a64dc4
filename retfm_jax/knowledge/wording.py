"""Wording of a training split's reports: which words affirm a condition, in which sentences.

A network knows the words that it was trained with. Reports name grades and signs where a class
names the disease, so zero-shot asks in the reports' own words: every term that affirms the class,
a case of it or, where it is never named, its signs, in the sentences that reports are made of.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from retfm_jax.errors import UserError
from retfm_jax.knowledge.clauses import split_sentences
from retfm_jax.knowledge.labeler import Evidence, Labeler
from retfm_jax.knowledge.laterality import BOTH, LEFT, RIGHT
from retfm_jax.knowledge.vocabulary import LANGUAGES, Vocabulary

#: A report of one sentence for each eye, and one that speaks of no side.
TWO, NONE = "two", "none"
SLOT = "{}"

#: What fewer reports share could be a patient's own words; it is not kept.
_SHARED_BY = 3
_MOST_FORMS = 16
_MOST_FRAMES = 8
_ASKED_FRAMES = 3
#: A class that fewer mentions name is asked by its signs, too.
_ENOUGH = 5
#: A frame is used where so large a share of the reports has its shape.
_USUAL = 0.15

Counts = Mapping[str, int]


class Form(NamedTuple):
    """A term or a sentence, and its weight.

    Attributes:
      text: the term, or a sentence with "{}" for a term.
      weight: its share; those of a class sum to 1.
    """

    text: str
    weight: float


@dataclasses.dataclass(frozen=True)
class ReportWording:
    """Words of a training split, by language.

    Attributes:
      forms: condition id -> the terms that affirm it, and how many mentions have each.
      frames: shape of a report -> its sentences with "{}" for a term, and how many have each.
      shapes: how many reports have each shape.
    """

    forms: Mapping[str, Mapping[str, Counts]]
    frames: Mapping[str, Mapping[str, Counts]]
    shapes: Mapping[str, Counts]

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        shapes = {language: dict(counts) for language, counts in self.shapes.items()}
        return {"forms": _plain(self.forms), "frames": _plain(self.frames), "shapes": shapes}

    @classmethod
    def from_json(cls, values: Any, where: str = "wording") -> "ReportWording":
        """Reads what `to_json` wrote.

        Args:
          values: JSON values, as `to_json` wrote them.
          where: name of what was read, for the message.

        Raises:
          UserError: it is something else.
        """
        try:
            tables = {
                name: {
                    str(language): {str(key): _counts(counts) for key, counts in table.items()}
                    for language, table in values[name].items()
                }
                for name in ("forms", "frames")
            }
            shapes = {str(code): _counts(counts) for code, counts in values["shapes"].items()}
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(
                f"{where}: the wording of reports cannot be read ({error!r})"
            ) from error
        return cls(**tables, shapes=shapes)

    def class_forms(
        self, condition_id: str, language: str, vocabulary: Vocabulary
    ) -> tuple[Form, ...]:
        """Terms that stand for a class: of itself and its cases, else of its signs.

        Args:
          condition_id: an id of the vocabulary.
          language: "en" or "zh".
          vocabulary: tells the cases of the class and its signs.

        Returns:
          the commonest terms with their shares; empty where the reports never speak of it.
        """
        table = self.forms.get(language, {})
        cases = (condition_id, *vocabulary.descendants(condition_id))
        said: collections.Counter[str] = collections.Counter()
        for case in cases:
            said.update(table.get(case, {}))
        found: dict[str, float] = {**said}
        if said.total() < _ENOUGH:
            signs = {sign for case in cases for sign in vocabulary.findings_of(case)}
            for sign in sorted(signs):
                diseases = len(vocabulary[sign].sign_of)
                for case in (sign, *vocabulary.descendants(sign)):
                    for text, count in table.get(case, {}).items():
                        found[text] = found.get(text, 0) + count / diseases**2
        return _shares(_commonest(found, _MOST_FORMS))

    def sentences(self, language: str, eye: str | None) -> tuple[Form, ...]:
        """Frames that a term is put into: as reports are made, of this eye.

        Args:
          language: "en" or "zh".
          eye: "left" or "right", or None for what is said of a patient or of a single image.

        Returns:
          sentences with "{}" for the term, and their shares; empty where none was kept.
        """
        table, reports = self.frames.get(language, {}), self.shapes.get(language, {})
        choices = ((TWO, BOTH, NONE), (LEFT, RIGHT)) if eye is None else ((TWO, BOTH, eye), (NONE,))
        there: dict[str, int] = {}
        for wanted in choices:
            there = there or {shape: reports.get(shape, 1) for shape in wanted if table.get(shape)}
        found = {}
        for shape, count in there.items():
            if count >= _USUAL * max(there.values()):
                for frame in _shares(_commonest(table[shape], _ASKED_FRAMES)):
                    found[frame.text] = count * frame.weight
        return _shares(found)


def learn_wording(reports: Iterable[Mapping[str, str]], labeler: Labeler) -> ReportWording:
    """Counts the terms and sentences of reports.

    Args:
      reports: text by language, "" where there is none; the order does not matter.
      labeler: tells which terms affirm what.
    """
    forms = {code: collections.defaultdict(collections.Counter) for code in LANGUAGES}
    frames = {code: collections.defaultdict(collections.Counter) for code in LANGUAGES}
    shapes = {code: collections.Counter() for code in LANGUAGES}
    for report in reports:
        for language in LANGUAGES:
            text = report.get(language, "")
            evidence = labeler.label(text).evidence if text else ()
            affirmed = [item for item in evidence if item.status == "present"]
            if not affirmed:
                continue
            for condition, term in {(item.condition, _one_line(item.text)) for item in affirmed}:
                forms[language][condition][term] += 1
            shapes[language][_shape({item.side for item in affirmed})] += 1
            for shape, frame in _frames(text, evidence):
                frames[language][shape][frame] += 1
    for table in frames.values():
        if not table[TWO]:
            table[TWO] = _paired(table)
        for shape, counts in table.items():
            for frame in [frame for frame in counts if not _says(frame, shape, labeler)]:
                del counts[frame]
    return ReportWording(
        {code: _kept(table, _MOST_FORMS) for code, table in forms.items() if table},
        {code: _kept(table, _MOST_FRAMES) for code, table in frames.items() if table},
        {code: dict(counts) for code, counts in shapes.items() if counts},
    )


def _shape(sides: set[str | None]) -> str:
    if {LEFT, RIGHT} <= sides:
        return TWO
    return next((side for side in (BOTH, LEFT, RIGHT) if side in sides), NONE)


def _frames(text: str, evidence: Sequence[Evidence]) -> set[tuple[str, str]]:
    """A report's sentences around a term, where a sentence has but one, by shape."""
    starts = [offset for offset, _ in split_sentences(text)]
    found = []
    for start, end in zip(starts, (*starts[1:], len(text)), strict=True):
        inside = [item for item in evidence if start <= item.start < end]
        spans = {(item.start, item.end) for item in inside}
        if len(spans) == 1 and all(item.status == "present" for item in inside):
            ((first, last),) = spans
            if last <= end and SLOT not in text[start:end]:
                frame = text[start:first] + SLOT + text[last:end]
                found.append((inside[0].side or NONE, frame))
    frames = {(side, _one_line(frame)) for side, frame in found}
    if [side for side, _ in found if side != NONE] in ([LEFT, RIGHT], [RIGHT, LEFT]):
        frames.add((TWO, _one_line("".join(frame for side, frame in found if side != NONE))))
    return frames


def _paired(table: Mapping[str, Counts]) -> collections.Counter[str]:
    """Reports of two sentences out of the commonest ones of each eye."""
    pairs = zip(
        _commonest(table[LEFT], _MOST_FRAMES).items(),
        _commonest(table[RIGHT], _MOST_FRAMES).items(),
        strict=False,
    )
    return collections.Counter(
        {f"{left} {right}": min(one, other) for (left, one), (right, other) in pairs}
    )


def _says(frame: str, shape: str, labeler: Labeler) -> bool:
    """Whether a sentence, read by itself, says a term of the eyes that its reports meant."""
    evidence = labeler.label(frame.replace(SLOT, "drusen")).evidence
    sides = {item.side for item in evidence if item.condition == "drusen"}
    present = all(item.status == "present" for item in evidence)
    return present and sides == ({LEFT, RIGHT} if shape == TWO else {_SIDE.get(shape)})


_SIDE = {side: side for side in (LEFT, RIGHT, BOTH)}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _kept(table: Mapping[str, Counts], most: int) -> dict[str, dict[str, int]]:
    kept = {}
    for key in sorted(table):
        shared = {text: count for text, count in table[key].items() if count >= _SHARED_BY}
        if shared:
            kept[key] = _commonest(shared, most)
    return kept


def _commonest(counts: Mapping[str, Any], most: int) -> dict[str, Any]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return dict(ranked[:most])


def _shares(counts: Mapping[str, float]) -> tuple[Form, ...]:
    total = sum(counts.values())
    return tuple(Form(text, count / total) for text, count in counts.items())


def _counts(counts: Mapping[Any, Any]) -> dict[str, int]:
    return {str(text): int(count) for text, count in counts.items()}


def _plain(tables: Mapping[str, Mapping[str, Counts]]) -> dict[str, Any]:
    return {
        language: {key: dict(counts) for key, counts in table.items()}
        for language, table in tables.items()
    }
