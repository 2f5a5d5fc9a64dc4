"""BERT's tokenizer in plain Python, from a `tokenizer.json`: texts -> token ids."""

import json
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np


class WordPieces:
    """[CLS], the text's tokens, [SEP], padded with 0.

    Args:
      path: of `tokenizer.json`.
      length: ids in a row; longer texts are cut.
      straighten: whether texts are lower-cased, and curly quotes straightened, before all else, as
        the published Chinese models do.
    """

    def __init__(self, path: pathlib.Path, length: int, straighten: bool):
        content = json.loads(path.read_text(encoding="utf-8"))
        self.length, self.straighten = length, straighten
        self.rules: dict[str, Any] = content["normalizer"]
        self.model: dict[str, Any] = content["model"]
        self.ids: dict[str, int] = self.model["vocab"]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes texts, (n, length) int32.

        Args:
          texts: any number of them.
        """
        rows = np.zeros((len(texts), self.length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            found = [piece for word in self._words(text) for piece in self._pieces(word)]
            ids = [self.ids["[CLS]"], *found[: self.length - 2], self.ids["[SEP]"]]
            row[: len(ids)] = ids
        return rows

    def _words(self, text: str) -> list[str]:
        """The words of a normalized text; each punctuation mark is one."""
        if self.straighten:
            text = text.lower().replace("“", '"').replace("”", '"')
        # Halves of surrogate pairs are joined, lone ones are left out below.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        words = [""]
        for letter in self._normalized(text):
            if letter.isspace():
                words.append("")
            elif _is_punctuation(letter):
                words += [letter, ""]
            else:
                words[-1] += letter
        return [word for word in words if word]

    def _normalized(self, text: str) -> str:
        rules = self.rules
        if rules["clean_text"]:
            text = "".join(" " if c.isspace() else c for c in text if not _is_control(c))
        if rules["handle_chinese_chars"]:
            text = "".join(f" {c} " if _is_chinese(ord(c)) else c for c in text)
        accents = rules["strip_accents"]
        if rules["lowercase"] if accents is None else accents:
            text = unicodedata.normalize("NFD", text)
            text = "".join(c for c in text if unicodedata.category(c) != "Mn")
        return "".join(c.lower() for c in text) if rules["lowercase"] else text

    def _pieces(self, word: str) -> list[int]:
        """Ids of the longest pieces of the vocabulary, from the front; of [UNK] where none fits."""
        unknown = [self.ids[self.model["unk_token"]]]
        if len(word) > self.model["max_input_chars_per_word"]:
            return unknown
        found, start = [], 0
        while start < len(word):
            prefix = self.model["continuing_subword_prefix"] if start else ""
            end = len(word)
            while end > start and prefix + word[start:end] not in self.ids:
                end -= 1
            if end == start:
                return unknown
            found.append(self.ids[prefix + word[start:end]])
            start = end
        return found


def _is_control(letter: str) -> bool:
    if letter in "\t\n\r":
        return False
    return letter == "\ufffd" or unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cs")


def _is_punctuation(letter: str) -> bool:
    ascii_mark = letter.isascii() and letter.isprintable() and not letter.isalnum()
    return (ascii_mark and letter != " ") or unicodedata.category(letter).startswith("P")


def _is_chinese(code: int) -> bool:
    ranges = (
        *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
        *((0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
    )
    return any(low <= code <= high for low, high in ranges)
