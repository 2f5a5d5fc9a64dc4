"""Reports in, labels out: what a report in English, Chinese or both says of each eye.

Three stages, as ViLReF describes its expert knowledge: a report is split and standardized
(`normalize`, `lexicon`), the clauses that speak of findings are read (`clauses`), and what they
mention becomes labels of the vocabulary, here.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from retfm_jax.errors import UserError
from retfm_jax.knowledge.clauses import (
    ABNORMALITY,
    ABSENT,
    CUP_RATIO,
    NORMALITY,
    PRESENT,
    UNCERTAIN,
    Mention,
    Reader,
    split_sentences,
)
from retfm_jax.knowledge.cues import DISC, FUNDUS, MACULA
from retfm_jax.knowledge.laterality import BOTH, LEFT, OPPOSITE, OTHER, RIGHT
from retfm_jax.knowledge.lexicon import build_lexicon
from retfm_jax.knowledge.vocabulary import Vocabulary, load_vocabulary

PATIENT = "patient"

#: Cups that differ by so much are unequal (Foster et al., Br J Ophthalmol 2002, 86:238).
ASYMMETRY = 0.2

_STRENGTH = {ABSENT: 0, UNCERTAIN: 1, PRESENT: 2}
_SCOPES = {
    LEFT: (PATIENT, LEFT),
    RIGHT: (PATIENT, RIGHT),
    BOTH: (PATIENT, LEFT, RIGHT),
    None: (PATIENT,),
}
_NAMES = {NORMALITY: "normal", CUP_RATIO: "large_cup"}
#: Reports repeat their sentences; so many different ones are remembered, of so many characters.
_REMEMBERED = 1 << 15
_LONGEST_REMEMBERED = 400


class Evidence(NamedTuple):
    """Source of a label in a report.

    Attributes:
      condition: its id.
      side: "left", "right", "both", or None where the report names no side.
      status: "present", "absent" or "uncertain".
      start, end: the span in the original text.
      text: that span.
      source: which text: "report", "left" or "right".
    """

    condition: str
    side: str | None
    status: str
    start: int
    end: int
    text: str
    source: str


@dataclasses.dataclass(frozen=True)
class ReportLabels:
    """Labels that a report gives, ancestors included.

    Attributes:
      statuses: for "patient", "left" and "right" the status of each condition spoken of. What
        holds for one eye holds for the patient; a finding without a side is the patient's only.
      evidence: in the order of the text; implied ancestors have none of their own.
    """

    statuses: Mapping[str, Mapping[str, str]]
    evidence: tuple[Evidence, ...]

    def _having(self, scope: str, *statuses: str) -> tuple[str, ...]:
        return tuple(c for c, status in self.statuses[scope].items() if status in statuses)

    @property
    def patient(self) -> tuple[str, ...]:
        """Ids that hold for the patient, uncertain ones included; empty: nothing is known."""
        return self._having(PATIENT, PRESENT, UNCERTAIN)

    @property
    def left(self) -> tuple[str, ...]:
        """Ids that hold for the left eye, uncertain ones included."""
        return self._having(LEFT, PRESENT, UNCERTAIN)

    @property
    def right(self) -> tuple[str, ...]:
        """Ids that hold for the right eye, uncertain ones included."""
        return self._having(RIGHT, PRESENT, UNCERTAIN)

    @property
    def uncertain(self) -> tuple[str, ...]:
        """Ids of the patient that the report only suspects."""
        return self._having(PATIENT, UNCERTAIN)

    @property
    def absent(self) -> tuple[str, ...]:
        """Ids that the report denies and nowhere affirms."""
        return self._having(PATIENT, ABSENT)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that `retfm label` writes."""
        return {
            "patient": list(self.patient),
            "left": list(self.left),
            "right": list(self.right),
            "uncertain": list(self.uncertain),
            "evidence": [item._asdict() for item in self.evidence],
        }


class Labeler:
    """Labels reports by a vocabulary. Deterministic; safe to share and to copy to processes."""

    def __init__(self, vocabulary: Vocabulary | None = None):
        """Prepares the scanner, which takes about a second.

        Args:
          vocabulary: the bundled one where None.
        """
        self.vocabulary = vocabulary or load_vocabulary()
        self._prepare()

    def _prepare(self) -> None:
        vocabulary = self.vocabulary
        reader = Reader(vocabulary, build_lexicon(vocabulary))
        self._read_anew = reader.read
        self._read = functools.lru_cache(_REMEMBERED)(reader.read)
        self._order = {
            condition_id: position for position, condition_id in enumerate(vocabulary.ids)
        }
        self._implied = {c.id: vocabulary.ancestors(c.id) for c in vocabulary}
        self._suspicions = {c.suspicion_of: c.id for c in vocabulary if c.suspicion_of}
        self._findings = frozenset(c.id for c in vocabulary if c.kind != "state")

    def __getstate__(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def label(self, report: str) -> ReportLabels:
        """Labels a patient's whole report.

        Args:
          report: English, Chinese or mixed, as written.

        Raises:
          UserError: it is no text.
        """
        return self._resolve([(report, "report", self._walk(report, None))])

    def label_sides(self, left: str = "", right: str = "", report: str = "") -> ReportLabels:
        """Labels a report that comes in a text for each eye.

        Args:
          left, right: the texts of the eyes; "" where there is none.
          report: a text about the patient beside them.

        Raises:
          UserError: one of them is no text.
        """
        texts = ((left, LEFT, LEFT), (right, RIGHT, RIGHT), (report, "report", None))
        return self._resolve(
            [
                (text, source, self._walk(text, side))
                for text, source, side in texts
                if not isinstance(text, str) or text
            ]
        )

    def _walk(self, text: str, side: str | None) -> list[tuple[Mention, str | None, int]]:
        """The mentions of a text with their side and the offset of their sentence."""
        if not isinstance(text, str):
            raise UserError(f"a report is a text, not {type(text).__name__} {text!r:.60}")
        found = []
        heading = named = side  # what governs the sentence, and the side spoken of last
        for offset, sentence in split_sentences(text):
            known = len(sentence) <= _LONGEST_REMEMBERED
            read = self._read(sentence) if known else self._read_anew(sentence)
            if read.resets:
                heading = side
            for mention in read.mentions:
                said = mention.side
                if said is None:
                    said = heading
                elif said == OTHER:
                    said = OPPOSITE.get(heading or named or "")
                found.append((mention, said, offset))
            if read.side is not None:
                heading = OPPOSITE.get(heading or named or "") if read.side == OTHER else read.side
            named = next((said for _, said, _ in reversed(found[-8:]) if said), heading or named)
        return found

    def _resolve(
        self, texts: Sequence[tuple[str, str, list[tuple[Mention, str | None, int]]]]
    ) -> ReportLabels:
        said: dict[str, dict[str, str]] = {PATIENT: {}, LEFT: {}, RIGHT: {}}
        normal: dict[str, set[str]] = {PATIENT: set(), LEFT: set(), RIGHT: set()}
        abnormal: set[str] = set()
        evidence: list[Evidence] = []
        cups: dict[str, tuple[float, Evidence]] = {}
        for text, source, mentions in texts:
            for mention, side, offset in mentions:
                scopes = _SCOPES[side]
                condition = _NAMES.get(mention.condition, mention.condition)
                status = mention.status
                if condition == ABNORMALITY:
                    abnormal.update(scopes)
                    continue
                if condition not in self._order:  # a vocabulary of the user's without it
                    continue
                start, end = mention.start + offset, mention.end + offset
                item = Evidence(condition, side, status, start, end, text[start:end], source)
                if mention.condition == CUP_RATIO:
                    cups.update({scope: (mention.value, item) for scope in scopes})
                    if status == UNCERTAIN:  # words have judged this cup
                        continue
                evidence.append(item)
                for scope in scopes:
                    if condition != "normal":
                        _affirm(said[scope], condition, status)
                    elif status == PRESENT:
                        normal[scope].add(mention.value or FUNDUS)
        self._compare_cups(cups, said[PATIENT], evidence)
        statuses = {
            scope: self._close(said[scope], normal[scope], scope in abnormal)
            if said[scope] or normal[scope]
            else {}
            for scope in said
        }
        evidence = [
            item
            for item in evidence
            if item.condition != "normal"
            or any("normal" in statuses[scope] for scope in _SCOPES[item.side][1:] or (PATIENT,))
        ]
        return ReportLabels(statuses, tuple(evidence))

    def _compare_cups(
        self,
        cups: Mapping[str, tuple[float, Evidence]],
        said: dict[str, str],
        evidence: list[Evidence],
    ) -> None:
        if LEFT not in cups or RIGHT not in cups or "cup_asymmetry" not in self._order:
            return
        if abs(cups[LEFT][0] - cups[RIGHT][0]) < ASYMMETRY - 1e-9:
            return
        _affirm(said, "cup_asymmetry", PRESENT)
        later = max((cups[LEFT][1], cups[RIGHT][1]), key=lambda item: item.start)
        evidence.append(later._replace(condition="cup_asymmetry", side=None, status=PRESENT))

    def _close(self, said: dict[str, str], normal: set[str], abnormal: bool) -> Mapping[str, str]:
        """Adds what is implied: ancestors, the suspicion of a disease, normality."""
        closed = dict(said)
        for condition, status in said.items():
            if status != ABSENT:
                abnormal = abnormal or condition in self._findings
                for ancestor in self._implied[condition]:
                    _affirm(closed, ancestor, status)
        for disease, suspicion in self._suspicions.items():
            if said.get(suspicion, ABSENT) != ABSENT:
                _affirm(closed, disease, UNCERTAIN)
            elif closed.get(disease) == UNCERTAIN:
                _affirm(closed, suspicion, PRESENT)
        if not abnormal and (FUNDUS in normal or {DISC, MACULA} <= normal):
            closed["normal"] = PRESENT
        order = self._order
        return {c: closed[c] for c in sorted(closed, key=order.__getitem__)}


def _affirm(statuses: dict[str, str], condition: str, status: str) -> None:
    """Keeps the strongest: a finding denied here and seen there is present."""
    before = statuses.get(condition)
    if before is None or _STRENGTH[status] > _STRENGTH[before]:
        statuses[condition] = status
