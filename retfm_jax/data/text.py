"""Reports -> token ids."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from retfm_jax.config import TextConfig
from retfm_jax.errors import UserError

#: The vocabulary of BERT-base-Chinese and RoBERTa-wwm-ext, which RET-CLIP and ViLReF were
#: trained with.
BUNDLED = "bert-base-chinese"
_BUNDLED_FILE = Path(__file__).parent / "vocab" / "bert_chinese_vocab.txt"

#: Token rows that are remembered: a report comes back every epoch, and many reports are equal.
#: Some 15 MB at most.
_CACHE_ENTRIES = 1 << 14


class Tokenizer:
    """A BERT tokenizer: [CLS], the text's tokens, [SEP], padded with 0.

    Thread-safe. Reads local files only and never asks a hub.
    """

    def __init__(self, config: TextConfig):
        """Loads the vocabulary.

        Raises:
          UserError: no such file or folder, no vocabulary in it, or one that does not fit BERT.
        """
        self.context_length = config.context_length
        if self.context_length < 2:
            raise UserError("config.data.text.context_length must be at least 2: [CLS] and [SEP]")
        # The published pipelines of the Chinese models lower-case the text and straighten curly
        # quotes before tokenization.
        self._published_chinese = config.tokenizer == BUNDLED
        tokenizer = _load(config.tokenizer)
        if tokenizer.pad_token_id != 0:
            raise UserError(
                f"tokenizer {config.tokenizer}: the padding token must have id 0, which the text "
                f"tower masks; it has {tokenizer.pad_token_id}"
            )
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            raise UserError(f"tokenizer {config.tokenizer}: has no [CLS] or [SEP]: not a BERT one")
        self.vocab_size = len(tokenizer)
        self._cls, self._sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        # The backend alone: transformers' wrapper sets truncation on shared state at every call
        # and is neither thread-safe nor fast.
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        # "[SEP]" in a report is text.
        self._backend.encode_special_tokens = True
        self._cache: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key not in ("_cache", "_lock")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _cache={}, _lock=threading.Lock())

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "texts context_length"]:
        """Token ids of each text."""
        if not len(texts):
            return np.zeros((0, self.context_length), np.int32)
        return np.stack([self.row(text) for text in texts])

    def row(self, text: str) -> Int32[np.ndarray, " context_length"]:
        """Token ids of one text; the array is shared by equal texts and must not be written to."""
        row = self._cache.get(text)
        if row is None:
            row = self._encode(text)
            with self._lock:
                while len(self._cache) >= _CACHE_ENTRIES:
                    del self._cache[next(iter(self._cache))]
                self._cache[text] = row
        return row

    def _encode(self, text: str) -> np.ndarray:
        if self._published_chinese:
            text = text.lower().replace("“", '"').replace("”", '"')
        ids = self._backend.encode(text, add_special_tokens=False).ids
        ids = ids[: self.context_length - 2]
        row = np.zeros(self.context_length, np.int32)
        row[: len(ids) + 2] = [self._cls, *ids, self._sep]
        row.flags.writeable = False
        return row


def _load(name: str):
    from transformers import AutoTokenizer, BertTokenizer

    path = _BUNDLED_FILE if name == BUNDLED else Path(name).expanduser()
    if not path.exists():
        raise UserError(
            f"tokenizer {name!r}: no such file or folder; give {BUNDLED!r} (bundled), a vocab.txt, "
            "or a folder with the tokenizer's files (nothing is downloaded)"
        )
    if path.is_dir() and any((path / file).is_file() for file in _FOLDER_FILES):
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except Exception as error:  # transformers raises whatever its reader meets
            raise UserError(f"tokenizer folder {path} cannot be read: {error}") from error
        if not tokenizer.is_fast:
            raise UserError(f"tokenizer folder {path} holds no BERT tokenizer")
        return tokenizer
    vocabulary = path / "vocab.txt" if path.is_dir() else path
    try:
        tokens = vocabulary.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokenizer vocabulary {vocabulary} cannot be read: {error}") from error
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in tokens]
    if missing:
        raise UserError(f"{vocabulary} is no BERT vocabulary: it lacks {', '.join(missing)}")
    # A cased vocabulary has entries such as "The"; an uncased one has capitals in its special
    # tokens only. A vocabulary file alone does not say which it is.
    cased = any(re.fullmatch(r"[A-Z][a-z]+", token) for token in tokens)
    return BertTokenizer(vocab=str(vocabulary), do_lower_case=not cased)


def save_tokenizer(config: TextConfig, folder: str | Path) -> None:
    """Writes a tokenizer into a folder as transformers' `AutoTokenizer` reads it.

    Raises:
      UserError: see `Tokenizer`.
    """
    tokenizer = _load(config.tokenizer)
    tokenizer.model_max_length = config.context_length
    tokenizer.save_pretrained(folder)


_FOLDER_FILES = ("tokenizer.json", "tokenizer_config.json")
