"""One sentence of a report, read: which condition is said of which eye, and how surely.

The reading is a single pass over the known words (`lexicon.Token`). Its state is what the words
so far still govern: a negation, a doubt, a side, an advice. Each rule stands in the method of the
cue that triggers it.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from retfm_jax.knowledge.cues import FILLERS, FILLERS_ZH, FUNDUS, LEFT, OTHER, RIGHT, Cue
from retfm_jax.knowledge.lexicon import Lexicon, Token
from retfm_jax.knowledge.vocabulary import Vocabulary

PRESENT, ABSENT, UNCERTAIN = "present", "absent", "uncertain"

#: Pseudo conditions that the labeler resolves.
NORMALITY = "#normal"  # payload: the part that is normal, or the whole fundus
ABNORMALITY = "#abnormal"  # an abnormality without a name
CUP_RATIO = "#cup_ratio"  # payload: the ratio

#: Above this cup-to-disc ratio a cup is large: the vertical ratio of 97.5% of normal discs is below
#: 0.7 (Foster et al., Br J Ophthalmol 2002, 86:238).
LARGE_CUP = 0.6

# Words before a ratio that turn it into a bound.
_BELOW = re.compile(r"(?:[<≤]|小于|低于|不足|不超过|不大于|less than|below|under)=?\s*$")
_ABOVE = re.compile(r"(?:[>≥]|大于|超过|高于|greater than|more than|above|over)=?\s*$")

# "Left eye:" and "LEFT EYE - " open a section.
_HEADING = re.compile(r"\s*(?:[:：]|[-–—]+\s)")
# "drusen OD," and "drusen (OD)" name the side afterwards.
_TRAILING = re.compile(r"\s*[)）]?\s*(?:[,，?？]|and\b|及|$)")
# Nothing follows but the number of the next item.
_ALONE = re.compile(r"\s*\d?\s*$")

_STOP = re.compile(r"[;；!！。．•.\n)）①-⑳]")
# A dot or a line break that ends nothing: "0.6", "approx. 0.6", a line that goes on in lower case.
_NO_STOP = re.compile(r"[.．]\d|(?<=approx)\.|\n[ \t]*[a-z]")
# "2)" begins an item of a list, "(0.2)" does not.
_ITEM = re.compile(r"(?:^|[\s,，、])\d{1,2}$")
_WORD = re.compile(r"[a-z]+|[\u4e00-\u9fff]")


@dataclasses.dataclass(slots=True)
class Mention:
    """A condition said of an eye in a sentence.

    Attributes:
      condition: an id of the vocabulary or a pseudo condition.
      status: present, absent or uncertain.
      side: "left", "right", "both", "other" (the one that was not spoken of) or None: what the
        sentences before said.
      start, end: the span in the sentence.
      value: the ratio or the part of a pseudo condition.
    """

    condition: str
    status: str
    side: str | None
    start: int
    end: int
    value: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence:
    """What a sentence says.

    Attributes:
      mentions: in the order of the text.
      side: what it leaves as the side of the sentences that follow; None: no change.
      resets: it ends what headings before it governed ("Impression:").
    """

    mentions: tuple[Mention, ...]
    side: str | None
    resets: bool


def split_sentences(report: str) -> list[tuple[int, str]]:
    """The sentences of a report with their offsets; a line wrapped in English is no end."""
    sentences, start = [], 0
    for match in _STOP.finditer(report):
        stop = match.start()
        if report[stop] in ")）":
            if not _ITEM.search(report[max(start, stop - 4) : stop]):
                continue
        elif _NO_STOP.match(report, stop):
            continue
        if stop > start:
            sentences.append((start, report[start:stop]))
        start = stop + 1
    if start < len(report):
        sentences.append((start, report[start:]))
    return sentences


class Reader:
    """Reads sentences with one lexicon."""

    def __init__(self, vocabulary: Vocabulary, lexicon: Lexicon):
        self.lexicon = lexicon
        self.kinds = {condition.id: condition.kind for condition in vocabulary}
        self.grades = _grades(vocabulary)
        self.ancestors = {
            condition.id: vocabulary.ancestors(condition.id) for condition in vocabulary
        }

    def read(self, sentence: str) -> Sentence:
        """What a sentence says; spans count from its start."""
        tokens = self.lexicon.scan(sentence)
        if not tokens:
            return Sentence((), None, False)
        return _Reading(self, sentence, tokens).run()


def _grades(vocabulary: Vocabulary) -> Mapping[tuple[str, str], str]:
    """The condition that is a grade of another, also through a parent without grades."""
    grades: dict[tuple[str, str], str] = {}
    for condition in vocabulary:
        if condition.grade:
            for ancestor in vocabulary.ancestors(condition.id):
                grades.setdefault((ancestor, condition.grade), condition.id)
    return grades


class _Reading:
    """The state of one pass; its fields begin as the class has them."""

    segment = 0  # first mention of the comma segment
    segment_start = 0  # where it starts in the text
    group = 0  # first mention of the list that a following doubt refers to
    negated = False
    negated_since = 0  # first mention under the negation
    negation_segment = 0
    negated_list = False  # a comma may continue the negation
    doubted = False
    skipped = False  # advice and history
    forgotten = False  # the next condition is history
    procedure: int | None = None  # mentions before a procedure of the segment
    side: str | None = None
    last_side: str | None = None  # also where it stands after what it governs
    sided_since = 0  # first mention after the last side
    leading = False  # sides stand before what they govern
    heading: str | None = None
    resets = False
    grade: tuple[str, int, int] | None = None  # word and span
    cup: tuple[int, bool] | None = None  # start, and whether a number decides

    def __init__(self, reader: Reader, text: str, tokens: Sequence[Token]):
        self.reader = reader
        self.text = text
        self.lower = text.lower()
        self.tokens = tokens
        self.mentions: list[Mention] = []

    def run(self) -> Sentence:
        for index, token in enumerate(self.tokens):
            rule = _RULES.get(token.cue)
            if rule is not None:
                rule(self, index, token)
        return Sentence(tuple(self.mentions), self.heading, self.resets)

    # ---- what stands around a token

    def after(self, index: int) -> Token | None:
        return self.tokens[index + 1] if index + 1 < len(self.tokens) else None

    def governs(self, index: int) -> bool:
        """Whether a condition follows in this segment before the list ends."""
        for token in self.tokens[index + 1 :]:
            if token.cue in _NAMED:
                return True
            if token.cue in _ENDS:
                return False
        return False

    def gap(self, start: int, end: int) -> str:
        return self.lower[start:end].strip()

    # ---- rules

    def condition(self, index: int, token: Token) -> None:
        following = self.after(index)
        start, end = token.start, token.end
        # "cataract surgery", "青光眼手术史": the condition is not a finding.
        purpose = (
            following is not None
            and following.cue in (Cue.SERVICE, Cue.HISTORY_LAST)
            and not self.gap(end, following.start)
        )
        self.cup = None
        if self.skipped or self.forgotten or purpose:
            self.forgotten = False
            return
        if self.negated and len(self.mentions) > self.negated_since:
            # "不伴黄斑水肿的NPDR": the attribute is denied, not what it belongs to.
            self.negated = "的" not in self.gap(self.mentions[-1].end, start)
        for condition in token.payload:
            if self.grade is not None:
                word, grade_start, grade_end = self.grade
                graded = self.reader.grades.get((condition, word))
                if graded and len(self.gap(grade_end, start)) <= 2:
                    condition, start = graded, grade_start
            self.mentions.append(Mention(condition, self._status(), self.side, start, end))
            if condition == "large_cup":
                self.cup = (start, False)
        self.grade = None

    def _status(self) -> str:
        return ABSENT if self.negated else UNCERTAIN if self.doubted else PRESENT

    def staged(self, index: int, token: Token) -> None:
        """A stage of what was named before: "diabetic retinopathy, right eye proliferative"."""
        stage, start, end = token.payload, token.start, token.end
        general = self.reader.ancestors.get(stage, ())
        named = next((m for m in reversed(self.mentions) if m.condition in general), None)
        if named is None or self.skipped:
            return
        if self.grade is not None:
            word, grade_start, _ = self.grade
            stage, start = self.reader.grades.get((stage, word), stage), grade_start
            self.grade = None
        if named.side == self.side and not self.negated:
            named.condition, named.end = stage, end
        elif not self.negated or named.status == ABSENT:
            self.mentions.append(Mention(stage, named.status, self.side, start, end))

    def graded(self, index: int, token: Token) -> None:
        following = self.after(index)
        if self.mentions:
            last = self.mentions[-1]
            graded = self.reader.grades.get((last.condition, token.payload))
            adjacent = self.gap(last.end, token.start) in ("", "(", ",", ":", "(", "（", "，", "：")
            leads = (
                following is not None
                and following.cue is Cue.CONDITION
                and not self.gap(token.end, following.start)
            )
            if graded and adjacent and not leads:
                last.condition, last.end = graded, token.end
                return
        start, word = token.start, token.payload
        if self.grade is not None:
            # "mild to moderate" is the worse of the two.
            before, before_start, before_end = self.grade
            if self.gap(before_end, token.start) in ("to", "", "至", "到", "~", "or"):
                start, word = before_start, max(before, word, key=_WORSE.index)
        self.grade = (word, start, token.end)
        self.amount(index, token)

    def amount(self, index: int, token: Token) -> None:
        """An amount after a comma or "and" begins a new statement: "no DR, mild cataract"."""
        if not self.negated or index == 0 or self.negated_since == len(self.mentions):
            return
        if self.tokens[index - 1].cue in (Cue.AND, Cue.COMMA) and not self._list_of_or(index):
            self.negated = False

    def negation(self, index: int, token: Token) -> None:
        self.doubted = False
        if self.governs(index) or self._opens(index):
            self.negated = True
            self.negated_since = len(self.mentions)
            self.negation_segment = self.segment
            self.negated_list = True
        elif len(self.mentions) > self.segment:
            self.deny(index, token)

    def _opens(self, index: int) -> bool:
        """Whether a negation waits for its object: "not abnormal", "no: haemorrhage"."""
        return any(t.cue in (Cue.ABNORMAL, Cue.NORMAL) for t in self.tokens[index + 1 : index + 6])

    def deny(self, index: int, token: Token) -> None:
        """What precedes is absent: "A, B and C not seen"."""
        first, following = self.segment, self.after(index)
        if first == len(self.mentions) and following is not None and following.cue in _NAMED:
            self.negated = not self.gap(token.end, following.start)  # "resolved macular oedema"
            self.negated_since = self.negation_segment = first
            self.negated_list = False
            return
        joined = any(
            t.cue in (Cue.AND, Cue.OR) and t.start >= self.segment_start
            for t in self.tokens[:index]
        )
        if joined:
            first = self._bare_list_start(index)
        for mention in self.mentions[first:]:
            if mention.condition != NORMALITY:
                mention.status = ABSENT
        self.negated = self.doubted = False

    def _bare_list_start(self, index: int) -> int:
        """The first mention of a list without verbs that reaches up to this segment."""
        count = len(self.mentions)
        for token in reversed(self.tokens[:index]):
            if token.cue in _NAMED:
                count -= 1
            elif token.cue not in _LIST:
                break
        return max(0, min(count, self.segment))

    def doubt(self, index: int, token: Token) -> None:
        following = self.after(index)
        ahead = self.governs(index) and (
            following is not None and following.cue not in (Cue.AND, Cue.OR)
        )
        if ahead:
            # "cannot exclude" ends a negation, "no possible" does not.
            self.negated = self.negated and self.negated_since == len(self.mentions)
            self.doubted = not self.negated
        else:
            self.question_back()

    def question(self, index: int, token: Token) -> None:
        before = self.tokens[index - 1] if index else None
        following = self.after(index)
        glued = before is not None and before.end == token.start
        ahead = following is not None and self.gap(token.end, following.start) == ""
        if not glued and ahead and (self.segment == len(self.mentions) or self.governs(index)):
            self.negated = False
            self.doubted = True
            return
        self.question_back()
        self.comma(index, token)

    def question_back(self) -> None:
        """What stands before in the same list is doubted."""
        for mention in self.mentions[self.group :]:
            if mention.status == PRESENT and not mention.condition.startswith("#"):
                mention.status = UNCERTAIN

    def assertion(self, index: int, token: Token) -> None:
        # "no evidence of ...": the negation still waits for its object.
        if not (self.negated and self.negated_since == len(self.mentions)):
            self.negated = False
            self.group = len(self.mentions)
        if self.doubted and len(self.mentions) > self.segment:
            self.doubted = False

    def asserted(self, index: int, token: Token) -> None:
        if self.negated and self.negation_segment != self.segment:
            for mention in self.mentions[self.segment :]:
                mention.status = PRESENT
        if self.negated and len(self.mentions) > self.negated_since:
            self.negated = False

    def contrast(self, index: int, token: Token) -> None:
        self._new_segment(token.end)
        self.negated = self.doubted = self.skipped = False

    def comma(self, index: int, token: Token) -> None:
        following = self.after(index)
        if self.skipped and (following is None or following.cue not in _ADVICE_GOES_ON):
            self.skipped = False
        if self.negated and not (self.negated_list and self._list_goes_on(index)):
            self.negated = False
        if self.doubted and not self._list_of_or(index):
            self.doubted = False
        self._new_segment(token.end)

    def _new_segment(self, start: int) -> None:
        self.segment = self.group = len(self.mentions)
        self.segment_start = start
        self.procedure = None
        self.grade = None

    def _segments_after(self, index: int) -> list[list[Token]]:
        segments: list[list[Token]] = [[]]
        for token in self.tokens[index + 1 :]:
            if token.cue is Cue.COMMA:
                segments.append([])
            elif token.cue is Cue.CONTRAST:
                break
            else:
                segments[-1].append(token)
        return segments

    def _list_of_or(self, index: int) -> bool:
        """Whether the list that goes on here is closed by an "or", with nothing asserted in it."""
        for segment in self._segments_after(index):
            for token in segment:
                if token.cue is Cue.OR:
                    return True
                if token.cue in _STATEMENT:
                    return False
            if not any(token.cue in _NAMED for token in segment):
                return False
        return False

    def _list_goes_on(self, index: int) -> bool:
        """Whether a comma continues what is denied: "no A, B or C", not "no A, mild B"."""
        if self._list_of_or(index):
            return True
        if any(
            token.cue in (Cue.AND, Cue.OR) and token.start >= self.segment_start
            for token in self.tokens[:index]
            if self.text[token.start] not in "、/"
        ):
            return False  # "no A or B, C": the list is closed
        segments = self._segments_after(index)
        bare = [self._is_bare(segment, index) for segment in segments]
        if not segments[0]:
            return True
        if not bare[0]:
            return False
        denied = [m.condition for m in self.mentions[self.negated_since :]]
        listed = [c for t in segments[0] if t.cue is Cue.CONDITION for c in t.payload]
        findings = all(self.reader.kinds.get(c) == "finding" for c in denied + listed)
        # "no DR, cataract" tells a finding; "no DR, cataract, glaucoma" is a list.
        return findings or (len(segments) > 1 and all(bare))

    def _is_bare(self, segment: Sequence[Token], index: int) -> bool:
        """Only names and what joins them."""
        if not segment or any(token.cue not in _LIST for token in segment):
            return False
        if not any(token.cue in _NAMED for token in segment):
            return False
        start = self.tokens[index].end
        covered = [(t.start, t.end) for t in self.tokens if t.start >= start]
        if segment[0].start < start:
            return False
        begin = max((t.end for t in self.tokens if t.end <= segment[0].start), default=0)
        finish = min((a for a, _ in covered if a >= segment[-1].end), default=len(self.text))
        return not self._words_left(segment, begin, finish)

    def _words_left(self, tokens: Sequence[Token], start: int, end: int) -> bool:
        """Whether text between `start` and `end` says more than its tokens and fillers."""
        position = start
        for token in (*tokens, None):
            stop = token.start if token else end
            for word in _WORD.findall(self.lower, position, max(position, stop)):
                if word not in FILLERS and word not in FILLERS_ZH:
                    return True
            position = max(position, token.end) if token else end
        return False

    # ---- sides

    def sided(self, index: int, token: Token) -> None:
        side = self._resolve(token.payload)
        if _HEADING.match(self.text, token.end):
            self.negated = False
            self._lead(token, side, heading=True)
            return
        spoken = len(self.mentions) > max(self.segment, self.sided_since)
        if not spoken and self.leading is False and not self.skipped:
            # "A, B in the left eye": the list before may reach over commas.
            spoken = len(self.mentions) > self.sided_since and self._preposition(index)
        alone = index and self.tokens[index - 1].cue is Cue.COMMA and not self.leading
        if alone and _ALONE.match(self.lower, token.end):
            spoken = len(self.mentions) > self.sided_since  # "drusen, left eye"
        if not spoken:
            # The first words of a sentence govern the next ones too; "no left ..." does not.
            self._lead(token, side, heading=not self.mentions and not self.negated)
            return
        trailing = _TRAILING.match(self.lower, token.end) is not None
        following = self.after(index)
        measures = self.cup is not None and following is not None and following.cue is Cue.NUMBER
        if self.leading and not trailing and (measures or not self._preposition(index)):
            self._lead(token, side, heading=False)
            return
        first = max(self.segment, self.sided_since) if self.leading else self.sided_since
        for mention in self.mentions[first:]:
            mention.side = side
        self.last_side = side
        self.sided_since = len(self.mentions)
        if not self.leading:
            self.side = None

    def bare_side(self, index: int, token: Token) -> None:
        following = self.after(index)
        if self._preposition(index) and _TRAILING.match(self.lower, token.end):
            self.sided(index, token)  # "macular oedema in the left"
        if following is None:
            return
        gap = self.gap(token.end, following.start)
        if following.cue is Cue.COLON and not gap:
            self.sided(index, token)
        elif gap:
            return
        elif following.cue is Cue.NUMBER or (
            token.end - token.start > len("rt") and following.cue in _BESIDE_A_SIDE
        ):
            self._lead(token, token.payload, heading=False)

    def _lead(self, token: Token, side: str, heading: bool) -> None:
        waiting = self.negated and self.negated_since == len(self.mentions)
        if not waiting:
            self.negated = self.doubted = self.skipped = False
            self._new_segment(token.end)
        if self.cup is not None and not self.cup[1]:
            self.cup = None
        self.side = self.last_side = side
        self.sided_since = len(self.mentions)
        self.leading = True
        if heading or self.heading is not None:
            self.heading = side

    def _resolve(self, side: str) -> str:
        opposite = {LEFT: RIGHT, RIGHT: LEFT}
        return opposite.get(self.last_side or "", OTHER) if side == OTHER else side

    def _preposition(self, index: int) -> bool:
        before = self.tokens[index - 1] if index else None
        return (
            before is not None
            and before.cue is Cue.PREPOSITION
            and self.gap(before.end, self.tokens[index].start) in ("", "the", "his", "her")
        )

    def headed(self, index: int, token: Token) -> None:
        """A heading such as "Impression:" speaks of the patient again."""
        self._new_segment(token.end)
        self.side = self.heading = None
        self.leading = self.negated = self.doubted = self.skipped = False
        self.sided_since = len(self.mentions)
        self.resets = True

    # ---- advice and history

    def advice(self, index: int, token: Token) -> None:
        self.skipped = True

    def purpose(self, index: int, token: Token) -> None:
        self.skipped = self.skipped or self.governs(index)

    def advised(self, index: int, token: Token) -> None:
        first = self.segment if self.procedure is None else self.procedure
        del self.mentions[first:]
        self._clip()
        self.skipped = True

    def procedural(self, index: int, token: Token) -> None:
        if self.procedure is None:
            self.procedure = len(self.mentions)

    def history(self, index: int, token: Token) -> None:
        following = self.after(index)
        if self.governs(index) or (following is not None and following.cue is Cue.COLON):
            self.skipped = True
        else:
            self.past(index, token)

    def past(self, index: int, token: Token) -> None:
        del self.mentions[self.segment :]
        self._clip()

    def forget_next(self, index: int, token: Token) -> None:
        following = self.after(index)
        if following is not None and not self.gap(token.end, following.start):
            self.forgotten = following.cue is Cue.CONDITION

    def _clip(self) -> None:
        count = len(self.mentions)
        self.group = min(self.group, count)
        self.negated_since = min(self.negated_since, count)
        self.sided_since = min(self.sided_since, count)

    # ---- cups

    def cupped(self, index: int, token: Token) -> None:
        # "enlarged cup, C/D 0.5": the words decide, the number only measures.
        decides = self.cup is None or self.cup[1]
        self.cup = (token.start, decides)

    def number(self, index: int, token: Token) -> None:
        if self.cup is None or self.skipped:
            return
        start, decides = self.cup
        value = token.payload
        last = self.mentions[-1] if self.mentions else None
        if last is not None and last.condition == CUP_RATIO and index:
            between = self.gap(last.end, token.start)
            if between in ("-", "~", "to", "至", "–", "到", "/") or not between:
                # A range counts by its upper end.
                last.value, last.end = max(last.value, value), token.end
                last.status = self._cup_status(last.value, last.end) if decides else UNCERTAIN
                return
        status = self._cup_status(value, token.start) if decides else UNCERTAIN
        side = self.side
        if side is None and not any(t.cue is Cue.SIDE for t in self.tokens[index + 1 :]):
            side = self.last_side  # "cupped disc OD, C/D 0.8": a ratio is always one eye's
        self.mentions.append(Mention(CUP_RATIO, status, side, start, token.end, value))

    def _cup_status(self, value: float, start: int) -> str:
        before = self.lower[max(0, start - 14) : start]
        if value == LARGE_CUP and _ABOVE.search(before):
            return PRESENT
        return PRESENT if value > LARGE_CUP and not _BELOW.search(before) else ABSENT

    # ---- normality

    def anatomy(self, index: int, token: Token) -> None:
        self.cup = None

    def normal(self, index: int, token: Token) -> None:
        if self.skipped:
            return
        if self.negated and self.negated_since == len(self.mentions):
            self._note(ABNORMALITY, token.start, token.end)
            self.negated = False
            return
        self._normality(index, token.start, token.end)

    def normal_part(self, index: int, token: Token) -> None:
        if not self.skipped:
            self._note(NORMALITY, token.start, token.end, token.payload)

    def abnormal(self, index: int, token: Token) -> None:
        if self.skipped:
            return
        if self.negated:
            start = max((t.start for t in self.tokens[:index] if t.cue is Cue.NEGATION), default=0)
            self._normality(index, start, token.end)
        elif not self._denied_later(index):
            self._note(ABNORMALITY, token.start, token.end)
        else:
            self._normality(index, token.start, token.end)

    def _denied_later(self, index: int) -> bool:
        for token in self.tokens[index + 1 :]:
            if token.cue in (Cue.NEGATED, Cue.NEGATION):
                return True
            if token.cue in _ENDS:
                return False
        return False

    def _normality(self, index: int, start: int, end: int) -> None:
        """The parts named beside the word are normal; the whole fundus where none is."""
        before = self.tokens[index - 1].end if index else 0
        if self._words_left((), before, self.tokens[index].start):
            return  # "pressure normal" says nothing of the fundus
        first = last = index
        while first and self._beside(first - 1, first):
            first -= 1
        while last + 1 < len(self.tokens) and self._beside(last, last + 1):
            last += 1
        around = self.tokens[first : last + 1]
        parts = [token for token in around if token.cue is Cue.ANATOMY]
        fundus = [token for token in parts if token.payload == FUNDUS]
        named = [token for token in parts if token.payload != FUNDUS]
        if named:
            for part in named:
                self._note(NORMALITY, min(start, part.start), max(end, part.end), part.payload)
            return
        begin = self.tokens[first - 1].end if first else 0
        finish = self.tokens[last + 1].start if last + 1 < len(self.tokens) else len(self.text)
        if not self._words_left(around, begin, finish):
            spans = [(start, end), *((token.start, token.end) for token in fundus)]
            self._note(NORMALITY, min(a for a, _ in spans), max(b for _, b in spans), FUNDUS)

    def _beside(self, one: int, other: int) -> bool:
        """Whether two neighbours belong to one statement of normality."""
        left, right = self.tokens[one], self.tokens[other]
        return (
            left.cue in _NORMAL_LIST
            and right.cue in _NORMAL_LIST
            and not self._words_left((), left.end, right.start)
        )

    def _note(self, condition: str, start: int, end: int, value: Any = None) -> None:
        self.mentions.append(Mention(condition, PRESENT, self.side, start, end, value))


_WORSE = ("mild", "moderate", "severe")
#: What a list may name.
_NAMED = frozenset({Cue.CONDITION})
#: Tokens of a bare list.
_LIST = frozenset({Cue.CONDITION, Cue.AND, Cue.OR, Cue.COMMA})
#: Tokens that end the reach of what follows a cue.
_ENDS = frozenset({Cue.COMMA, Cue.CONTRAST, Cue.QUESTION, Cue.HEADING})
#: Tokens that make a statement of their own.
_STATEMENT = frozenset(
    {
        Cue.NEGATION, Cue.NEGATED, Cue.ASSERTION, Cue.ASSERTED, Cue.DOUBT, Cue.QUESTION,
        Cue.SIDE, Cue.ADVICE, Cue.ADVISED, Cue.HISTORY, Cue.NORMAL, Cue.NORMAL_PART, Cue.CUP,
    }
)  # fmt: skip
_ADVICE_GOES_ON = frozenset({Cue.PURPOSE, Cue.ADVICE, Cue.PROCEDURE, Cue.SERVICE})
_BESIDE_A_SIDE = frozenset(
    {Cue.CONDITION, Cue.ANATOMY, Cue.GRADE, Cue.AMOUNT, Cue.NORMAL, Cue.NEGATION, Cue.DOUBT}
)
_NORMAL_LIST = frozenset(
    {
        Cue.ANATOMY, Cue.AND, Cue.OR, Cue.COMMA, Cue.PREPOSITION, Cue.NEGATION, Cue.ABNORMAL,
        Cue.NORMAL, Cue.ASSERTED, Cue.ASSERTION,
    }
)  # fmt: skip

_RULES = {
    Cue.CONDITION: _Reading.condition,
    Cue.GRADE: _Reading.graded,
    Cue.STAGE: _Reading.staged,
    Cue.AMOUNT: _Reading.amount,
    Cue.NEGATION: _Reading.negation,
    Cue.NEGATED: _Reading.deny,
    Cue.DOUBT: _Reading.doubt,
    Cue.QUESTION: _Reading.question,
    Cue.ASSERTION: _Reading.assertion,
    Cue.ASSERTED: _Reading.asserted,
    Cue.CONTRAST: _Reading.contrast,
    Cue.COMMA: _Reading.comma,
    Cue.SIDE: _Reading.sided,
    Cue.BARE_SIDE: _Reading.bare_side,
    Cue.HEADING: _Reading.headed,
    Cue.ADVICE: _Reading.advice,
    Cue.ADVISED: _Reading.advised,
    Cue.PURPOSE: _Reading.purpose,
    Cue.PROCEDURE: _Reading.procedural,
    Cue.SERVICE: _Reading.procedural,
    Cue.HISTORY: _Reading.history,
    Cue.HISTORY_NEXT: _Reading.forget_next,
    Cue.HISTORY_LAST: _Reading.past,
    Cue.CUP: _Reading.cupped,
    Cue.NUMBER: _Reading.number,
    Cue.ANATOMY: _Reading.anatomy,
    Cue.NORMAL: _Reading.normal,
    Cue.NORMAL_PART: _Reading.normal_part,
    Cue.ABNORMAL: _Reading.abnormal,
}
