"""One sentence of a report, read: which condition is said of which eye, and how surely.

The reading is a single pass over the known words (`lexicon.Token`). Its state is what the words
so far still govern: a negation, a doubt, a side, an advice. Each rule stands in the method of the
cue that triggers it. No rule searches the sentence: what follows is asked of `ahead.Ahead`, what
went before is kept, so that the time grows with the length of the sentence however it is written.
"""

import bisect
import dataclasses
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from retfm_jax.knowledge.ahead import LISTED, NAMED, Ahead, words_left
from retfm_jax.knowledge.cues import ABSENT, FUNDUS, PRESENT, UNCERTAIN, Cue
from retfm_jax.knowledge.laterality import OPPOSITE, OTHER
from retfm_jax.knowledge.lexicon import Lexicon, Token
from retfm_jax.knowledge.vocabulary import Vocabulary

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
_TRAILING = re.compile(r"\s*+[)）]?\s*+(?:[,，?？]|and\b|及|$)")
# "The left has drusen": the words before a side that is a subject.
_SUBJECT = re.compile(
    r"(?:^|[,，]|\b(?:while|whereas|but|and|although|however|yet))\s*+(?:the\s++)?+$"
)
# Nothing follows but the number of the next item.
_ALONE = re.compile(r"\s*+\d?\s*+$")

_STOP = re.compile(r"[;；!！。．•.\n)）①-⑳]")
# A dot or a line break that ends nothing: "0.6", "approx. 0.6", a line that goes on in lower case,
# "neg. for", "R. eye", "Lt. drusen", "O.D.".
_NO_STOP = re.compile(
    r"[.．]\d|(?<=approx)\.|\n[ \t]*[a-z]"
    r"|(?i:(?<=\bneg)\.\s*for\b|(?<=\b[lr])\.\s?(?:eye|fundus|e\b)|(?<=\b[lr]t)\.\s?\w"
    r"|(?<=\b(?:poss|prob|susp|prev))\.|(?<=\b(?:mod|sev))\.|(?<=\b(?:pmhx|pohx))\.|(?<=\bfhx)\.|(?<=\bhx)\.|(?<=\bvs)\."
    r"|(?<=\bo)\.\s?[dsu]\b|(?<=\bo\.[dsu])\.|(?<=\bo\.\s[dsu])\.|(?<=\b[lr]\.e)\.)"
)
# "2)" begins an item of a list, "(0.2)" does not.
_ITEM = re.compile(r"(?:^|[\s,，、])\d{1,2}$")

#: Nothing refers further back than so many mentions, and no gap that is asked for is longer than so
#: many characters, no span of evidence for normality than so many.
_MENTIONS_BACK = 32
_LONGEST_GAP = 80
_LONGEST_SPAN = 200


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
    """Mentions of a sentence, and what it leaves for those that follow.

    Attributes:
      mentions: in the order of the text.
      side: what it leaves as the side of the sentences that follow; None: no change.
      resets: it ends what headings before it governed ("Impression:").
    """

    mentions: tuple[Mention, ...]
    side: str | None
    resets: bool


def split_sentences(report: str) -> list[tuple[int, str]]:
    """Splits a report into sentences; a line wrapped in English is no end.

    Args:
      report: English, Chinese or mixed, as written.

    Returns:
      each sentence as (offset in characters, text).
    """
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
    """Reads sentences with one lexicon.

    Args:
      vocabulary: tells kinds, grades and ancestors of the conditions.
      lexicon: finds the known words of a sentence.
    """

    def __init__(self, vocabulary: Vocabulary, lexicon: Lexicon):
        self.lexicon = lexicon
        self.kinds = {condition.id: condition.kind for condition in vocabulary}
        self.grades = _grades(vocabulary)
        self.ancestors = {
            condition.id: vocabulary.ancestors(condition.id) for condition in vocabulary
        }

    def read(self, sentence: str) -> Sentence:
        """Reads what a sentence says; spans count from its start.

        Args:
          sentence: as the report has it.
        """
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
    doubted_list = False  # a comma continues the doubt: "DDx: A, B"
    skipped = False  # advice and history
    family = False  # what is skipped is somebody else's, or stands behind a heading of history
    signed_to = 0  # the mentions before this one have a sign of their own
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
    joined = -1  # where the last "and" or "or" stands
    closed = -1  # where the last one stands that closes a list, as "、" does not
    negation_start = 0  # where the last negation stands
    denied_to = 0  # the mentions of the segment before this one are denied already
    questioned_to = 0  # those before this one are doubted already
    denied_findings = True  # all mentions under the negation are findings
    compared_to = 0  # those before this one have been looked at for it
    statement: "_Normality | None" = None  # the last statement of normality

    def __init__(self, reader: Reader, text: str, tokens: Sequence[Token]):
        self.reader = reader
        self.text = text
        self.lower = text.lower()
        self.tokens = tokens
        self.mentions: list[Mention] = []
        self._ahead: Ahead | None = None

    def run(self) -> Sentence:
        for index, token in enumerate(self.tokens):
            rule = _RULES.get(token.cue)
            if rule is not None:
                rule(self, index, token)
        return Sentence(tuple(self.mentions), self.heading, self.resets)

    # ---- what stands around a token

    def after(self, index: int) -> Token | None:
        return self.tokens[index + 1] if index + 1 < len(self.tokens) else None

    @property
    def ahead(self) -> Ahead:
        if self._ahead is None:
            self._ahead = Ahead(self.lower, self.tokens)
        return self._ahead

    def governs(self, index: int) -> bool:
        """Whether a condition follows in this segment before the list ends."""
        if index + 1 < len(self.tokens) and self.tokens[index + 1].cue in NAMED:
            return True
        return self.ahead.governs[index]

    def gap(self, start: int, end: int) -> str:
        if end - start > _LONGEST_GAP:
            return self.lower[start : start + _LONGEST_GAP]
        return self.lower[start:end].strip()

    # ---- rules

    def condition(self, index: int, token: Token) -> None:
        following = self.after(index)
        start, end = token.start, token.end
        # "cataract surgery", "青光眼手术史": the condition is not a finding.
        purpose = (
            following is not None
            and following.cue in (Cue.SERVICE, Cue.HISTORY_LAST)
            and (
                not (gap := self.gap(end, following.start))
                or (following.cue is Cue.SERVICE and _OPERATION.fullmatch(gap) is not None)
            )
        )
        if following is not None and purpose and self._is_screened(index + 1):
            purpose, end = False, following.end  # "DR screening: negative"
        self.cup = None
        # "s/p PRP", "previous cataract surgery": what a treatment leaves is there to be seen.
        past = self.forgotten and not _LEFT_BY_TREATMENT.issuperset(token.payload)
        self.forgotten = False
        if self.skipped or past or purpose:
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

    def _is_screened(self, index: int) -> bool:
        """Whether a service is a screening and its result follows."""
        service = self.tokens[index]
        if self.text[service.start : service.end].lower() not in ("screening", "筛查"):
            return False
        result = self.after(index)
        if result is not None and result.cue is Cue.COLON:
            result = self.after(index + 1)
        return result is not None and result.cue in _RESULTS

    def _status(self) -> str:
        return ABSENT if self.negated else UNCERTAIN if self.doubted else PRESENT

    def staged(self, index: int, token: Token) -> None:
        """A stage of what was named before: "diabetic retinopathy, right eye proliferative"."""
        stage, start, end = token.payload, token.start, token.end
        general = self.reader.ancestors.get(stage, ())
        recent = self.mentions[-_MENTIONS_BACK:]
        named = next((m for m in reversed(recent) if m.condition in general), None)
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
        if self.tokens[index - 1].cue not in (Cue.AND, Cue.COMMA):
            return
        if not self.ahead.closed_by_or[index]:
            self.negated = False

    def join(self, index: int, token: Token) -> None:
        self.joined = token.start
        if self.text[token.start] not in "、/":
            self.closed = token.start

    # ---- signs and values

    def signed(self, index: int, token: Token) -> None:
        """A sign behind what it speaks of, or right before it: "DR (-)", "(-) DR"."""
        if self.mentions and self._is_value(index, token):
            first = max(self.segment, self.signed_to, self.group, self.sided_since)
            if token.payload != ABSENT:
                first = len(self.mentions) - 1
            self._state(min(first, len(self.mentions) - 1), token.payload)
            return
        following = self.after(index)
        if following is None or self.gap(token.end, following.start):
            return
        if token.payload == UNCERTAIN:
            self.doubted = True
        elif token.payload == ABSENT and following.cue in NAMED:
            self.negated = True
            self._negate_from(len(self.mentions))
            self.negation_segment = self.segment
            self.negated_list = False

    def _is_value(self, index: int, token: Token) -> bool:
        """Whether a word stands right behind the last mention, or behind its colon."""
        before = self.tokens[index - 1] if index else None
        start = token.start
        if before is not None and before.cue is Cue.COLON:
            start = before.start if not self.gap(before.end, start) else start
        return self.mentions[-1].end <= start and self.gap(self.mentions[-1].end, start) == ""

    def _is_answer(self, index: int, token: Token) -> bool:
        """Whether a word is all that is said of the key before: "DR: no", "糖网：无 青光眼：有"."""
        if not self.mentions or index == 0 or self.tokens[index - 1].cue is not Cue.COLON:
            return False
        if self.tokens[index - 1].start < self.mentions[-1].end or not self._is_value(index, token):
            return False
        following, next_one = self.after(index), self.after(index + 1)
        if following is None or following.cue in (Cue.COMMA, Cue.SIDE, Cue.HEADING, Cue.CONTRAST):
            return True
        return (
            following.cue in NAMED
            and next_one is not None
            and next_one.cue is Cue.COLON
            and not self.gap(following.end, next_one.start)
        )

    def _state(self, first: int, status: str) -> None:
        """Gives the mentions from `first` on their status, and ends what is said of them."""
        span = self.mentions[-1].start
        while first and self.mentions[first].start == self.mentions[first - 1].start == span:
            first -= 1  # one term of two conditions
        for mention in self.mentions[first:]:
            if mention.condition != NORMALITY:
                mention.status = status
        self.negated = self.doubted = False
        self.group = self.denied_to = self.signed_to = len(self.mentions)

    # ---- denial and doubt

    def negation(self, index: int, token: Token) -> None:
        self.doubted = False
        if self._is_answer(index, token):
            self._state(len(self.mentions) - 1, ABSENT)
            return
        self.negation_start = token.start
        if self.governs(index) or self._opens(index):
            self.negated = True
            self._negate_from(len(self.mentions))
            self.negation_segment = self.segment
            self.negated_list = True
        elif len(self.mentions) > self.segment:
            self.deny(index, token)

    def _opens(self, index: int) -> bool:
        """Whether a negation waits for its object: "not abnormal", "no: haemorrhage"."""
        return any(t.cue in (Cue.ABNORMAL, Cue.NORMAL) for t in self.tokens[index + 1 : index + 6])

    def deny(self, index: int, token: Token) -> None:
        """What precedes is absent: "A, B and C not seen"."""
        if self._is_answer(index, token):
            self._state(len(self.mentions) - 1, ABSENT)
            return
        first, following = self.segment, self.after(index)
        heads = following is not None and following.cue is Cue.COLON and self.governs(index)
        if first == len(self.mentions) and heads:
            self.negation(index, token)  # "neg: haemorrhage, exudates"
            return
        if first == len(self.mentions) and following is not None and following.cue in NAMED:
            self.negated = not self.gap(token.end, following.start)  # "resolved macular oedema"
            self._negate_from(first)
            self.negation_segment = first
            self.negated_list = False
            return
        if self.joined >= self.segment_start:
            first = self._bare_list_start(index)
        for mention in self.mentions[first if first < self.segment else self.denied_to :]:
            if mention.condition != NORMALITY:
                mention.status = ABSENT
        self.denied_to = len(self.mentions)
        self.negated = self.doubted = False

    def _negate_from(self, mention: int) -> None:
        self.negated_since = self.compared_to = mention
        self.denied_findings = True

    def _bare_list_start(self, index: int) -> int:
        """The first mention of a list without verbs that reaches up to this segment."""
        count = len(self.mentions)
        # Another denial is no part of a list: no word is passed by two of these walks.
        while index and self.tokens[index - 1].cue in LISTED:
            index -= 1
            count -= self.tokens[index].cue in NAMED
        return max(0, min(count, self.segment))

    def doubt(self, index: int, token: Token) -> None:
        following = self.after(index)
        if self.governs(index) and following is not None and following.cue not in (Cue.AND, Cue.OR):
            # "cannot exclude" ends a negation, "no possible" does not.
            self.negated = self.negated and self.negated_since == len(self.mentions)
            self.doubted = not self.negated
            word = self.lower[token.start : token.end]
            self.doubted_list = following.cue is Cue.COLON or word.startswith(_DIFFERENTIAL)
        elif self.group == len(self.mentions) and index and self.mentions:
            if self.tokens[index - 1].cue is Cue.CONTRAST:
                self.mentions[-1].status = UNCERTAIN  # "no glaucoma, but cannot be excluded"
        else:
            self.question_back()

    def question(self, index: int, token: Token) -> None:
        before = self.tokens[index - 1] if index else None
        following = self.after(index)
        if self.negated and self.lower.startswith(_EXCLUSIONS, self.negation_start):
            for mention in self.mentions[self.negated_since :]:
                mention.status = UNCERTAIN  # "exclude glaucoma?"
        glued = before is not None and before.end == token.start and before.cue is not Cue.SIDE
        ahead = following is not None and self.gap(token.end, following.start) == ""
        if not glued and ahead and (self.segment == len(self.mentions) or self.governs(index)):
            self.negated = False
            self.doubted = True
            return
        self.question_back()
        self.comma(index, token)

    def question_back(self) -> None:
        """What stands before in the same list is doubted."""
        for mention in self.mentions[max(self.group, self.questioned_to) :]:
            if mention.status == PRESENT and not mention.condition.startswith("#"):
                mention.status = UNCERTAIN
        self.questioned_to = len(self.mentions)

    def versus(self, index: int, token: Token) -> None:
        if self.governs(index):
            self.question_back()
            self.negated, self.doubted = False, True

    def assertion(self, index: int, token: Token) -> None:
        if self._is_answer(index, token):
            self._state(len(self.mentions) - 1, PRESENT)  # "有无出血：有"
            return
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
            self.denied_to = self.questioned_to = self.segment
        if self.negated and len(self.mentions) > self.negated_since:
            self.negated = False

    def contrast(self, index: int, token: Token) -> None:
        self._new_segment(token.end)
        self.negated = self.doubted = self.skipped = self.family = False

    def comma(self, index: int, token: Token) -> None:
        following = self.after(index)
        if self.skipped and (following is None or following.cue not in _ADVICE_GOES_ON):
            self.skipped = self.family and self.ahead.plain[index]
            self.family = self.skipped
        if self.negated and not (self.negated_list and self._list_goes_on(index)):
            self.negated = False
        if self.doubted and not (
            self.ahead.closed_by_or[index] or (self.doubted_list and self.ahead.plain[index])
        ):
            self.doubted = False
        self._new_segment(token.end)

    def _new_segment(self, start: int) -> None:
        self.segment = self.group = self.denied_to = len(self.mentions)
        self.segment_start = start
        self.procedure = None
        self.grade = None

    def _list_goes_on(self, index: int) -> bool:
        """Whether a comma continues what is denied: "no A, B or C", not "no A, mild B"."""
        ahead = self.ahead
        if ahead.closed_by_or[index]:
            return True
        if self.closed >= self.segment_start:
            return False  # "no A or B, C": the list is closed
        end = ahead.segment_end[index]
        if end == index + 1:
            return True
        if not ahead.bare[index]:
            return False
        if ahead.several[index] and ahead.all_bare[index]:
            return True
        # "no DR, cataract" tells a finding; "no DR, cataract, glaucoma" is a list.
        listed = (c for t in self.tokens[index + 1 : end] if t.cue in NAMED for c in t.payload)
        return self._denies_findings() and all(map(self._is_finding, listed))

    def _denies_findings(self) -> bool:
        """Whether all mentions under the negation are findings."""
        if self.denied_findings:
            denied = self.mentions[self.compared_to :]
            self.denied_findings = all(self._is_finding(m.condition) for m in denied)
            self.compared_to = len(self.mentions)
        return self.denied_findings

    def _is_finding(self, condition: str) -> bool:
        return self.reader.kinds.get(condition) == "finding"

    # ---- sides

    def sided(self, index: int, token: Token) -> None:
        side = self._resolve(token.payload)
        if _HEADING.match(self.text, token.end):
            self.negated = self.doubted = self.skipped = self.family = False
            self._lead(token, side, heading=True)
            return
        spoken = len(self.mentions) > max(self.segment, self.sided_since)
        if not spoken and self.leading is False and not self.skipped:
            # "A, B in the left eye": the list before may reach over commas.
            spoken = len(self.mentions) > self.sided_since and self._preposition(index)
        alone = index and self.tokens[index - 1].cue in _BEFORE_A_LAST_SIDE and not self.leading
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
        if self._closes(index, token):
            self.sided(index, token)  # "drusen, Lt", "出血（右）"
            return
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
            token.end - token.start > 1
            and (following.cue in _BESIDE_A_SIDE or self._has(token, following))
        ):
            self._lead(token, token.payload, heading=False)

    def _has(self, side: Token, verb: Token) -> bool:
        """Whether a bare side is what a verb speaks of: "the left has", "the right shows"."""
        if verb.cue is not Cue.ASSERTION or self.lower.startswith("there", verb.start):
            return False
        return _SUBJECT.search(self.lower, max(0, side.start - 16), side.start) is not None

    def _closes(self, index: int, token: Token) -> bool:
        """Whether a bare side ends what it belongs to, after a comma or in brackets."""
        if len(self.mentions) <= self.sided_since or self.leading:
            return False
        start, end = token.start, token.end
        if start and self.text[start - 1] in "(（" and self.text[end : end + 1] in (")", "）"):
            return self.gap(self.mentions[-1].end, start - 1) == ""
        after_comma = index > 0 and self.tokens[index - 1].cue is Cue.COMMA and end - start > 1
        return after_comma and _ALONE.match(self.lower, end) is not None

    def _lead(self, token: Token, side: str, heading: bool) -> None:
        waiting = self.negated and self.negated_since == len(self.mentions)
        if not waiting and not self._is_begun(token):
            self.negated = self.doubted = self.skipped = self.family = False
            self._new_segment(token.end)
        if self.cup is not None and not self.cup[1]:
            self.cup = None
        self.side = self.last_side = side
        self.sided_since = len(self.mentions)
        self.leading = True
        if heading or self.heading is not None:
            self.heading = side

    def _is_begun(self, token: Token) -> bool:
        """Whether a doubt, a history or an advice stands right before a side: "疑左眼青光眼"."""
        if not (self.doubted or self.skipped):
            return False
        index = bisect.bisect_left(self.tokens, token.start, key=_start_of)
        before = [t for t in self.tokens[max(0, index - 2) : index] if t.cue is not Cue.COLON]
        return bool(before) and before[-1].cue in _BEGINNINGS

    def _resolve(self, side: str) -> str:
        return OPPOSITE.get(self.last_side or "", OTHER) if side == OTHER else side

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
        self.leading = self.negated = self.doubted = self.skipped = self.family = False
        self.sided_since = len(self.mentions)
        self.resets = True

    # ---- advice and history

    def advice(self, index: int, token: Token) -> None:
        self.skipped = True

    def purpose(self, index: int, token: Token) -> None:
        first = index == 0 or self.tokens[index - 1].cue in (Cue.COMMA, Cue.SIDE, Cue.COLON)
        if first and not self.skipped and self.procedure is None and self.governs(index):
            self.doubted = True  # "除外青光眼" without an examination that is to exclude it
            return
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
        if following is not None and following.cue is Cue.COLON:
            self.skipped = self.family = True  # the whole list behind the heading
        elif self.governs(index):
            self.skipped = True
        else:
            self.past(index, token)

    def of_family(self, index: int, token: Token) -> None:
        following = self.after(index)
        heads = following is not None and following.cue is Cue.COLON
        if heads or self.text[token.end - 1] in ":：" or self.governs(index):
            self.skipped = self.family = True
        elif not self.skipped:
            self.past(index, token)

    def past(self, index: int, token: Token) -> None:
        del self.mentions[self.segment :]
        self._clip()

    def forget_next(self, index: int, token: Token) -> None:
        following = self.after(index)
        if following is not None and not self.gap(token.end, following.start):
            self.forgotten = following.cue in (Cue.CONDITION, Cue.GRADE, Cue.AMOUNT)

    def _clip(self) -> None:
        count = len(self.mentions)
        self.group = min(self.group, count)
        self.denied_to = min(self.denied_to, count)
        self.questioned_to = min(self.questioned_to, count)
        self.compared_to = min(self.compared_to, count)
        self.signed_to = min(self.signed_to, count)
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
        if side is None and self.ahead.last_side <= index:
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
            self._normality(index, self.negation_start, token.end)
        elif not self.ahead.denied[index]:
            self._note(ABNORMALITY, token.start, token.end)
        else:
            self._normality(index, token.start, token.end)

    def _normality(self, index: int, start: int, end: int) -> None:
        """The parts named beside the word are normal; the whole fundus where none is."""
        before = self.tokens[index - 1].end if index else 0
        if words_left(self.lower, (), before, self.tokens[index].start):
            return  # "pressure normal" says nothing of the fundus
        said = self.statement
        if said is None or not said.first <= index < said.end:
            said = self.statement = self._statement_around(index)
        for part, positions in said.parts.items():
            nearest = self.tokens[_nearest(positions, index)]
            span = min(start, nearest.start), max(end, nearest.end)
            if span[1] - span[0] > _LONGEST_SPAN:
                span = start, end
            self._note(NORMALITY, *span, part)

    def _statement_around(self, index: int) -> "_Normality":
        """The statement of normality that a word belongs to."""
        first, last = index, index + 1
        while first and self._beside(first - 1, first):
            first -= 1
        while last < len(self.tokens) and self._beside(last - 1, last):
            last += 1
        parts: dict[str, list[int]] = {}
        for position in range(first, last):
            if self.tokens[position].cue is Cue.ANATOMY:
                parts.setdefault(self.tokens[position].payload, []).append(position)
        fundus = parts.pop(FUNDUS, [index])
        if not parts:
            begin = self.tokens[first - 1].end if first else 0
            finish = self.tokens[last].start if last < len(self.tokens) else len(self.text)
            if not words_left(self.lower, self.tokens[first:last], begin, finish):
                parts = {FUNDUS: fundus}
        return _Normality(first, last, parts)

    def _beside(self, one: int, other: int) -> bool:
        """Whether two neighbors belong to one statement of normality."""
        left, right = self.tokens[one], self.tokens[other]
        return (
            left.cue in _NORMAL_LIST
            and right.cue in _NORMAL_LIST
            and not words_left(self.lower, (), left.end, right.start)
        )

    def _note(self, condition: str, start: int, end: int, value: Any = None) -> None:
        self.mentions.append(Mention(condition, PRESENT, self.side, start, end, value))


class _Normality(NamedTuple):
    """Neighboring words that state together what is normal.

    Attributes:
      first, end: their tokens.
      parts: the parts of the fundus that they name, and the tokens that name each in order.
    """

    first: int
    end: int
    parts: Mapping[str, Sequence[int]]


def _nearest(positions: Sequence[int], index: int) -> int:
    """The one of ascending `positions` that is nearest to `index`."""
    behind = bisect.bisect_left(positions, index)
    around = positions[max(0, behind - 1) : behind + 1]
    return min(around, key=lambda position: abs(position - index))


#: What may stand between a condition and "术后": the operation's own name.
_OPERATION = re.compile("[剥剝离除切小梁玻璃体植入填充环扎复位引流阀修补内外路联合]{1,8}")
_RESULTS = frozenset({Cue.SIGN, Cue.NEGATED, Cue.NEGATION, Cue.ASSERTED})
_DIFFERENTIAL = ("ddx", "differential", "鉴别")
#: What may govern beyond a side that stands right behind it.
_BEGINNINGS = frozenset({Cue.DOUBT, Cue.QUESTION, Cue.HISTORY, Cue.FAMILY, Cue.ADVICE})
_BEFORE_A_LAST_SIDE = (Cue.COMMA, Cue.QUESTION)
_start_of = operator.attrgetter("start")

#: What a treatment of the past leaves to be seen.
_LEFT_BY_TREATMENT = frozenset({"laser_scars", "pseudophakia", "silicone_oil_eye"})
#: Words of exclusion that a question mark turns into a doubt.
_EXCLUSIONS = ("排除", "exclude")
_WORSE = ("mild", "moderate", "severe")
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
    Cue.SIGN: _Reading.signed,
    Cue.NEGATION: _Reading.negation,
    Cue.NEGATED: _Reading.deny,
    Cue.DOUBT: _Reading.doubt,
    Cue.QUESTION: _Reading.question,
    Cue.VERSUS: _Reading.versus,
    Cue.ASSERTION: _Reading.assertion,
    Cue.ASSERTED: _Reading.asserted,
    Cue.CONTRAST: _Reading.contrast,
    Cue.COMMA: _Reading.comma,
    Cue.AND: _Reading.join,
    Cue.OR: _Reading.join,
    Cue.SIDE: _Reading.sided,
    Cue.BARE_SIDE: _Reading.bare_side,
    Cue.HEADING: _Reading.headed,
    Cue.ADVICE: _Reading.advice,
    Cue.ADVISED: _Reading.advised,
    Cue.PURPOSE: _Reading.purpose,
    Cue.PROCEDURE: _Reading.procedural,
    Cue.SERVICE: _Reading.procedural,
    Cue.HISTORY: _Reading.history,
    Cue.FAMILY: _Reading.of_family,
    Cue.HISTORY_NEXT: _Reading.forget_next,
    Cue.HISTORY_LAST: _Reading.past,
    Cue.CUP: _Reading.cupped,
    Cue.NUMBER: _Reading.number,
    Cue.ANATOMY: _Reading.anatomy,
    Cue.NORMAL: _Reading.normal,
    Cue.NORMAL_PART: _Reading.normal_part,
    Cue.ABNORMAL: _Reading.abnormal,
}
