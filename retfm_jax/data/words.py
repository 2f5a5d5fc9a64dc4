"""Reports <-> the ids of whole words, which report generation reads and writes.

0 begins, ends and pads a report; words are numbered from 1. `UNKNOWN` is one of them and stands for
all that are not in the vocabulary.
"""

import collections
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Integer

from retfm_jax.config import TextConfig
from retfm_jax.errors import UserError

UNKNOWN = "<unk>"
#: Ends a sentence.
STOP = "."
#: Words that reports have at least so often are in their vocabulary, as published.
LEAST = 3

_CHINESE = r"\u3400-\u9fff\uf900-\ufaff"
#: A Chinese character; a number with its decimals; letters and digits, hyphens within; a stop.
_WORDS = re.compile(
    rf"[{_CHINESE}]|\d+(?:\.\d+)+|[^\W_{_CHINESE}]+(?:[-'’][^\W_{_CHINESE}]+)*|[.。;!?]+"
)
_STOPS = re.compile(r"[.。;!?]+")
#: Between these no space is written.
_CLOSE = re.compile(rf"(?<=[{_CHINESE}]) (?=[{_CHINESE}])")
#: The published class of characters; its range from `:` to `[` holds capitals, and `-` stays.
_REMOVED = re.compile(r"[.,?;*!%^&_+():-\[\]{}]")


def clean(text: str) -> list[str]:
    """Divides a report into words, in lower case.

    A Chinese character is a word; hyphens and decimals stay within theirs; what ends a sentence is
    one `STOP`, and all other punctuation is left out.

    Args:
      text: English, Chinese or mixed, as written.
    """
    found = _WORDS.findall(unicodedata.normalize("NFKC", text).lower())
    words: list[str] = []
    for word in found:
        stop = _STOPS.fullmatch(word) is not None
        if not stop:
            words.append(word)
        elif words and words[-1] != STOP:
            words.append(STOP)
    return [*words, STOP] if words and words[-1] != STOP else words


def clean_as_published(text: str) -> list[str]:
    """Divides a report into words as MM-Retinal and FFA-IR do (R2Gen's rules of MIMIC-CXR).

    Args:
      text: English, as written.
    """
    text = text.replace("\n", " ")
    for run, times in (("_", 7), (" ", 6), (".", 8)):
        for _ in range(times):
            text = text.replace(2 * run, run)
    text = text.replace("1. ", "")
    for before in (". ", " "):
        for number in range(2, 6):
            text = text.replace(f"{before}{number}. ", ". ")
    sentences = (
        _REMOVED.sub("", re.sub(r"[\"/\\']", "", sentence).strip())
        for sentence in text.strip().lower().split(". ")
    )
    return f"{' . '.join(sentences)} .".split()


#: By the values of `TextConfig.cleaning`.
_CLEAN = {"plain": clean, "published": clean_as_published}


class Counted(NamedTuple):
    """Words of reports.

    Attributes:
      words: how often each word occurs.
      lengths: how many reports have a number of words.
    """

    words: collections.Counter[str]
    lengths: collections.Counter[int]

    def longer_than(self, words: int) -> int:
        """Counts the reports of more words.

        Args:
          words: their number.
        """
        return sum(count for length, count in self.lengths.items() if length > words)


def count_words(reports: Iterable[str], cleaning: str = "plain") -> Counted:
    """Counts the words of reports.

    Args:
      reports: as written, each as often as its case stands in the training split.
      cleaning: see `TextConfig.cleaning`.
    """
    found = Counted(collections.Counter(), collections.Counter())
    for text in reports:
        words = _CLEAN[cleaning](text)
        found.words.update(words)
        found.lengths[len(words)] += 1
    return found


def make_vocabulary(counted: Counted, least: int = LEAST) -> tuple[str, ...]:
    """Chooses the words of a vocabulary, sorted, `UNKNOWN` among them.

    Args:
      counted: words of the training reports.
      least: times that a word has to occur.

    Raises:
      UserError: no word occurs so often.
    """
    words = {word for word, count in counted.words.items() if count >= least}
    if not words:
        raise UserError(
            f"no word of the training reports occurs {least} times, so that there is none to learn"
        )
    return tuple(sorted({*words, UNKNOWN}))


class WordTokenizer:
    """Whole words as ids.

    Args:
      config: gives the words, the length of a row and how reports are cleaned.

    Attributes:
      context_length: ids in a row.
      vocab_size: one more than the largest id.

    Raises:
      UserError: `UNKNOWN` is none of the words.
    """

    def __init__(self, config: TextConfig):
        if UNKNOWN not in config.words:
            raise UserError(
                f"config.data.text.words has {len(config.words)} words and lacks {UNKNOWN}, which "
                "stands for all others"
            )
        self.context_length, self._cleaning = config.context_length, config.cleaning
        self._words = config.words
        self._ids = {word: number for number, word in enumerate(config.words, start=1)}
        self.vocab_size = len(config.words) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of how it encodes texts."""
        made = [self._words, self._cleaning]
        return hashlib.sha256(json.dumps(made).encode()).hexdigest()

    def row(self, text: str) -> Int32[np.ndarray, " context_length"]:
        """Encodes a report: 0, the ids of its words, 0, and zeros behind.

        Args:
          text: as written; one that is too long is cut, and keeps its end but as published.
        """
        unknown = self._ids[UNKNOWN]
        ids = [self._ids.get(word, unknown) for word in _CLEAN[self._cleaning](text)]
        if self._cleaning == "plain":
            ids = ids[: self.context_length - 2]
        row = np.zeros(self.context_length, np.int32)
        ids = [0, *ids][: self.context_length]
        row[: len(ids)] = ids
        return row

    def words(self, ids: Integer[np.ndarray, " n"] | Sequence[int]) -> list[str]:
        """Words of ids, up to the first 0.

        Args:
          ids: without the 0 that begins a report.
        """
        found = []
        for number in ids:
            if number == 0:
                break
            found.append(self._words[int(number) - 1])
        return found

    def divided(self, text: str) -> list[str]:
        """Words of a report: all of them, known or not.

        Args:
          text: as written.
        """
        return _CLEAN[self._cleaning](text)

    def spelled(self, text: str) -> str:
        """A report as ids spell it: cut, cleaned, with `UNKNOWN` in it, words between spaces.

        Args:
          text: as written.
        """
        return " ".join(self.words(self.row(text)[1:]))


def readable(words: Sequence[str]) -> str:
    """Writes words as a text: Chinese without spaces, no space before a stop.

    Args:
      words: as `WordTokenizer.words` gives them.
    """
    text = _CLOSE.sub("", " ".join(words))
    text = re.sub(rf"(?<=[{_CHINESE}]) {re.escape(STOP)} ?", "。", text)
    return text.replace(f" {STOP}", STOP)
