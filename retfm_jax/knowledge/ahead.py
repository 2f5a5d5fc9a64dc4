"""Lookahead: what follows a word in its sentence, for all words in one pass.

A sentence of a report can be any length (a report without a full stop, a table that was pasted),
so nothing may be searched for anew at every word. The pass goes from the last word to the first
and runs once a sentence, where something is asked of it.
"""

import re
from collections.abc import Sequence

from retfm_jax.knowledge.cues import FILLERS, FILLERS_ZH, Cue
from retfm_jax.knowledge.lexicon import Token

#: What a list may name.
NAMED = frozenset({Cue.CONDITION})
#: Tokens of a bare list.
LISTED = frozenset({Cue.CONDITION, Cue.AND, Cue.OR, Cue.COMMA})
#: Tokens that end the reach of what follows a cue.
_ENDS = frozenset({Cue.COMMA, Cue.CONTRAST, Cue.QUESTION, Cue.HEADING})
#: Tokens that make a statement of their own.
_STATEMENT = frozenset(
    {
        Cue.NEGATION, Cue.NEGATED, Cue.ASSERTION, Cue.ASSERTED, Cue.DOUBT, Cue.QUESTION,
        Cue.SIDE, Cue.SIGN, Cue.ADVICE, Cue.ADVISED, Cue.HISTORY, Cue.FAMILY, Cue.NORMAL,
        Cue.NORMAL_PART, Cue.CUP,
    }
)  # fmt: skip
_DENIALS = frozenset({Cue.NEGATED, Cue.NEGATION})

_WORD = re.compile(r"[a-z]+|[\u4e00-\u9fff]")


def words_left(text: str, tokens: Sequence[Token], start: int, end: int) -> bool:
    """Tells whether text between `start` and `end` says more than its tokens and fillers.

    Args:
      text: the sentence in lower case.
      tokens: those that lie between.
      start, end: indices of characters.
    """
    position = start
    for token in (*tokens, None):
        stop = token.start if token else end
        for word in _WORD.finditer(text, position, max(position, stop)):
            if word.group() not in FILLERS and word.group() not in FILLERS_ZH:
                return True
        position = max(position, token.end) if token else end
    return False


class Ahead:
    """Answers about what follows each token of a sentence.

    Attributes:
      governs: by token: a condition follows before the list ends.
      denied: by token: a denial follows before the list ends.
      closed_by_or: by token: the list that begins after it is closed by an "or", with nothing
        asserted in it and a name between any two commas.
      bare: by comma: up to the next comma stand only names and what joins them.
      all_bare: by comma: so it is up to the end of the list of segments.
      plain: by comma: up to the next comma nothing is stated, only named.
      several: by comma: another comma follows before a "but".
      segment_end: by token: index of the comma or "but" that ends what follows it.
      last_side: index of the last side in the sentence, -1 without one.
    """

    def __init__(self, text: str, tokens: Sequence[Token]):
        """Makes the pass.

        Args:
          text: the sentence in lower case.
          tokens: its known words.
        """
        count = len(tokens)
        self.governs, self.denied = [False] * count, [False] * count
        self.closed_by_or, self.bare = [False] * count, [False] * count
        self.all_bare, self.several = [False] * count, [False] * count
        self.segment_end, self.plain = [count] * count, [False] * count
        self.last_side = -1
        governs = denied = several = False
        # What the walk from here on finds, where the segment has a name before and where not.
        closed = closed_named = False
        rest_bare = plain = True
        end = count  # index behind the segment that is walked through
        for index in range(count - 1, -1, -1):
            cue = tokens[index].cue
            self.governs[index], self.denied[index] = governs, denied
            self.closed_by_or[index], self.segment_end[index] = closed, end
            if cue in _ENDS:
                governs = denied = False
            if cue in NAMED:
                governs = True
                closed = closed_named
            elif cue in _DENIALS:
                denied = True
            if cue is Cue.OR:
                closed = closed_named = True
            elif cue is Cue.COMMA:
                bare = _is_bare(text, tokens, index, end)
                self.bare[index], self.several[index] = bare, several
                rest_bare = rest_bare and bare
                self.plain[index], plain = plain, True
                self.all_bare[index] = rest_bare
                several, end = True, index
                closed, closed_named = False, closed
            elif cue is Cue.CONTRAST:
                closed = closed_named = several = False
                rest_bare, plain, end = True, True, index
            elif cue in _STATEMENT:
                closed = closed_named = plain = False
                if cue is Cue.SIDE:
                    self.last_side = max(self.last_side, index)


def _is_bare(text: str, tokens: Sequence[Token], comma: int, end: int) -> bool:
    """Whether between a comma and the token `end` stand only names and what joins them."""
    segment = tokens[comma + 1 : end]
    if any(token.cue not in LISTED for token in segment):
        return False
    if not any(token.cue in NAMED for token in segment):
        return False
    finish = tokens[end].start if end < len(tokens) else len(text)
    return not words_left(text, segment, tokens[comma].end, finish)
