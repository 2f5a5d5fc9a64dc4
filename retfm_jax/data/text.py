"""Reports -> token ids."""

import functools
import hashlib
import json
import pathlib
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import models, normalizers, pre_tokenizers

from retfm_jax import extras, hub
from retfm_jax.config import TextConfig
from retfm_jax.console import printable
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path, errors, local_file, read_json

#: The vocabulary of BERT-base-Chinese and RoBERTa-wwm-ext, which RET-CLIP and ViLReF were
#: trained with.
BUNDLED = "bert-base-chinese"
_BUNDLED_FILE = pathlib.Path(__file__).parent / "vocab" / "bert_chinese_vocab.txt"

#: Token rows that are remembered: a report comes back every epoch, and many reports are equal.
#: Some 15 MB at most.
_CACHE_ENTRIES = 1 << 14


#: What the tokenizers of all BERTs need.
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

#: Tokenizers of one vocabulary differ in letter case, accents, widths and quotes.
_PROBE = "A “ｂ” É 眼底"


class Tokenizer:
    """A BERT tokenizer: [CLS], the text's tokens, [SEP], padded with 0.

    Thread-safe. Reads local files, or those of an address `hf:owner/name` on the Hub, and runs no
    code of a tokenizer's folder.

    Attributes:
      context_length: ids in a row.
      vocab_size: one more than the largest id that a text can have.
    """

    def __init__(self, config: TextConfig):
        """Loads the vocabulary.

        Args:
          config: gives the vocabulary and the length of a row.

        Raises:
          UserError: no such file or folder, no vocabulary in it, or one that does not fit BERT.
        """
        self.context_length = config.context_length
        # The published pipelines of the Chinese models lower-case the text and straighten curly
        # quotes before tokenization.
        self._published_chinese = config.tokenizer == BUNDLED
        # The backend alone: transformers' wrapper sets truncation on shared state at every call
        # and is neither thread-safe nor fast.
        self._backend, special = _backend(config.tokenizer)
        absent = [name for name, index in special.items() if index is None]
        if absent:
            raise UserError(
                f"tokenizer {config.tokenizer} has no {', '.join(absent)}: it is not a BERT one"
            )
        if special["[PAD]"] != 0:
            raise UserError(
                f"tokenizer {config.tokenizer}: the padding token must have id 0, which the text "
                f"tower masks; it has {special['[PAD]']}"
            )
        self.vocab_size = _vocab_size(self._backend, special)
        self._cls, self._sep = special["[CLS]"], special["[SEP]"]
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

    @property
    def digest(self) -> str:
        """SHA-256 of how it encodes texts; the same wherever its files lie."""
        vocabulary = sorted(self._backend.get_vocab().items())
        made = [vocabulary, self._encode(_PROBE).tolist()]
        return hashlib.sha256(json.dumps(made).encode()).hexdigest()

    @property
    def is_word_pieces(self) -> bool:
        """Tells whether BERT's own rules and a vocabulary are all of it.

        Then it can be repeated from `tokenizer.json` alone (`interop.parts.tokenizer`).
        """
        said = json.loads(self._backend.to_str())
        parts = ("normalizer", "pre_tokenizer", "model")
        kinds = [(said[part] or {}).get("type") for part in parts]
        added = all(token["special"] for token in said["added_tokens"])
        return added and kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "texts context_length"]:
        """Encodes texts as token ids, int32 (texts, context_length).

        Args:
          texts: reports or prompts; longer ones are cut to `context_length` ids.
        """
        if not len(texts):
            return np.zeros((0, self.context_length), np.int32)
        return np.stack([self.row(text) for text in texts])

    def row(self, text: str) -> Int32[np.ndarray, " context_length"]:
        """Encodes one text as token ids, int32 (context_length,).

        The array is read-only: equal texts share it.

        Args:
          text: a report or prompt; cut where it is longer than `context_length` ids.
        """
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
        if not text.isascii():
            # Halves of surrogate pairs are joined, lone ones become U+FFFD, which BERT leaves out.
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        ids = self._backend.encode(text, add_special_tokens=False).ids
        ids = ids[: self.context_length - 2]
        row = np.zeros(self.context_length, np.int32)
        row[: len(ids) + 2] = [self._cls, *ids, self._sep]
        row.flags.writeable = False
        return row


def fitting_tokenizer(config: TextConfig, network: Any) -> Tokenizer:
    """Makes a tokenizer whose every token the network embeds.

    Args:
      config: names the tokenizer and the length of texts in tokens.
      network: sizes of the text tower, `vocab_size` and `positions`.

    Raises:
      UserError: see `Tokenizer` and `check_tokenizer`.
    """
    tokenizer = Tokenizer(config)
    _check_fit(config, tokenizer.vocab_size, network)
    return tokenizer


def check_tokenizer(config: TextConfig, network: Any) -> None:
    """Checks a tokenizer against a text tower; cheap for a vocabulary file.

    Args:
      config: names the tokenizer and the length of texts in tokens.
      network: sizes of the text tower, `vocab_size` and `positions`.

    Raises:
      UserError: it has ids beyond the tower's table, which JAX would silently read as its last row;
        its texts are longer than the tower's positions; or see `Tokenizer`.
    """
    _check_fit(config, vocabulary_size(config), network)


def _check_fit(config: TextConfig, words: int, network: Any) -> None:
    if words > network.vocab_size:
        raise UserError(
            f"tokenizer {config.tokenizer} (config.data.text.tokenizer) has {words} tokens, the "
            f"network's table (config.model.text.vocab_size) {network.vocab_size}: it is another "
            "tokenizer than the network was made for"
        )
    if config.context_length > network.positions:
        raise UserError(
            f"texts are {config.context_length} tokens long (config.data.text.context_length), the "
            f"network's text tower has {network.positions} positions (config.model.text.positions)"
        )


def vocabulary_size(config: TextConfig) -> int:
    """Counts the rows that an embedding needs for a tokenizer's ids; cheap for a vocabulary file.

    Args:
      config: names the tokenizer.

    Raises:
      UserError: see `Tokenizer`.
    """
    path = _find(config.tokenizer)
    if not _is_saved(path):
        return len(_read_vocabulary(path))
    return _vocab_size(*_backend(config.tokenizer))


def _vocab_size(backend: Any, special: Mapping[str, int | None]) -> int:
    added = backend.get_added_tokens_decoder()
    # Special tokens are not looked for in texts: one that is added has no row to need.
    ids = {
        *backend.get_vocab(with_added_tokens=False).values(),
        *(index for index, token in added.items() if not token.special),
        *(special[name] for name in ("[CLS]", "[SEP]", "[PAD]")),
    }
    return max(ids) + 1


def _find(name: str) -> Path:
    if name == BUNDLED:
        return _BUNDLED_FILE
    path = _hub_folder(name) if hub.is_address(name) else as_path(name)
    if not path.exists():
        raise UserError(
            f"tokenizer {name!r}: no such file or folder; give {BUNDLED!r} (bundled), a vocab.txt, "
            "a folder with the tokenizer's files, or hf:owner/name of the Hub"
        )
    return path


@functools.cache
def _hub_folder(name: str) -> Path:
    """Asked for once: the Hub would be asked again for every look at the vocabulary."""
    try:
        return hub.tokenizer_folder(name)[0]
    except UserError as error:
        raise UserError(f"tokenizer: {error}") from error


def _is_saved(path: Path) -> bool:
    """Whether it is a folder that transformers wrote."""
    return path.is_dir() and any((path / file).is_file() for file in _FOLDER_FILES)


def _backend(name: str) -> tuple[Any, dict[str, int | None]]:
    """The part of a tokenizer that tokenizes, and the ids of BERT's special tokens.

    Of a vocabulary file it is what transformers' `BertTokenizer` wraps, without transformers: that
    takes seconds to import, with PyTorch where that is installed.
    """
    with local_file(_find(name)) as path:
        if _is_saved(path):
            saved = _read_saved(path)
            ids = (saved.pad_token_id, saved.unk_token_id, saved.cls_token_id, saved.sep_token_id)
            return saved.backend_tokenizer, dict(zip(_SPECIAL, ids, strict=True))
        tokens = _read_vocabulary(path)
        backend = tokenizers.Tokenizer(models.WordPiece(tokens, unk_token="[UNK]"))
        lower = _is_lowered(tokens, of_hub=hub.is_address(name))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens([*_SPECIAL, "[MASK]"])
    return backend, {token: tokens[token] for token in _SPECIAL}


def _load(name: str) -> Any:
    """A tokenizer as transformers has it."""
    with extras.needed("transformers"):
        from transformers import BertTokenizer

    with local_file(_find(name)) as path:
        if _is_saved(path):
            return _read_saved(path)
        tokens = _read_vocabulary(path)
        lower = _is_lowered(tokens, of_hub=hub.is_address(name))
        return BertTokenizer(vocab=tokens, do_lower_case=lower)


def _read_saved(path: Path) -> Any:
    with extras.needed("transformers"):
        from transformers import AutoTokenizer

    _refuse_code(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises whatever its reader meets
        raise UserError(f"tokenizer folder {path} cannot be read: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer folder {path} holds no BERT tokenizer")
    return tokenizer


def _is_lowered(tokens: Mapping[str, int], of_hub: bool) -> bool:
    # A cased vocabulary has entries such as "The"; an uncased one has capitals in its special
    # tokens only. A vocabulary file alone does not say which it is. Of a repository of the Hub that
    # does not say it either, transformers takes the default, and so did those who trained with it:
    # FLAIR and KeepFIT read lower-cased text by the cased vocabulary of Bio_ClinicalBERT.
    cased = any(re.fullmatch(r"[A-Z][a-z]+", token) for token in tokens)
    return of_hub or not cased


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return printable(text.splitlines()[0])[:300]


def _refuse_code(folder: Path) -> None:
    """Refuses a folder whose tokenizer is code of its own, which transformers would ask to run."""
    for name in ("tokenizer_config.json", "config.json"):
        if (folder / name).is_file():
            read = read_json(folder / name)
            if isinstance(read, Mapping) and read.get("auto_map"):
                raise UserError(
                    f"tokenizer folder {folder} is refused: {name} has an auto_map, which names "
                    "code to be run, and no code of a tokenizer is run. Give its vocab.txt, or "
                    "take out auto_map where the tokenizer is a BERT one"
                )


def _read_vocabulary(path: Path) -> dict[str, int]:
    """The ids of a vocabulary file's tokens: one a line, the first is 0.

    A byte order mark and the line ends of other systems are no part of a token.

    Raises:
      UserError: it cannot be read, is empty, names a token twice, or lacks one that BERT needs.
    """
    path = path / "vocab.txt" if path.is_dir() else path
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (*errors(), UnicodeDecodeError) as error:
        raise UserError(f"tokenizer vocabulary {path} cannot be read: {error}") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"tokenizer vocabulary {path} is empty")
    tokens: dict[str, int] = {}
    twice = []
    for index, token in enumerate(lines):
        if tokens.setdefault(token, index) != index:
            twice.append(f"{printable(token)!r} (lines {tokens[token] + 1} and {index + 1})")
    missing = [token for token in _SPECIAL if token not in tokens]
    if missing:
        raise UserError(f"{path} is no BERT vocabulary: it lacks {', '.join(missing)}")
    if twice:
        raise UserError(
            f"{path} has {len(twice)} tokens twice, so that the ids of a text are not certain: "
            f"{', '.join(twice[:5])}"
        )
    return tokens


def is_bundled(config: TextConfig) -> bool:
    """Tells whether a tokenizer has the bundled vocabulary.

    Args:
      config: names the tokenizer.

    Raises:
      UserError: see `Tokenizer`.
    """
    return _load(config.tokenizer).get_vocab() == _load(BUNDLED).get_vocab()


def save_tokenizer(config: TextConfig, folder: PathLike) -> None:
    """Writes a tokenizer into a folder as transformers' `AutoTokenizer` reads it.

    Args:
      config: names the tokenizer and the length of texts in tokens.
      folder: takes the files; made where it is missing.

    Raises:
      UserError: see `Tokenizer`.
    """
    tokenizer = _load(config.tokenizer)
    tokenizer.model_max_length = config.context_length
    tokenizer.save_pretrained(folder)


_FOLDER_FILES = ("tokenizer.json", "tokenizer_config.json")
