"""Lists of words beside the weights of networks that write reports, which hold none."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from retfm_jax.config import TextConfig, build_section
from retfm_jax.data.words import UNKNOWN
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path, read_json, write_json

#: Entries of `TextConfig` that belong to the words.
_ENTRIES = ("words", "cleaning", "context_length")
_SUFFIX = ".words.json"


def words_beside(weights: PathLike) -> Path:
    """Names the file in which a weight file's words stand, "captioner.words.json" of captioner.pth.

    Args:
      weights: the weight file.
    """
    path = as_path(weights)
    return path.with_name(path.stem + _SUFFIX)


def write_words(path: PathLike, text: TextConfig) -> None:
    """Writes words, and how reports are divided into them.

    Args:
      path: the file.
      text: of a network that writes reports.

    Raises:
      UserError: it cannot be written.
    """
    write_json(path, {name: _plain(getattr(text, name)) for name in _ENTRIES})


def read_words(path: PathLike, text: TextConfig, vocabulary: int) -> TextConfig:
    """Reads the words of a network.

    Args:
      path: a JSON file: what `write_words` wrote, a list of words in the order of their ids from 1
        on, or an object that maps each word to its id.
      text: of the network as it is without them.
      vocabulary: ids of the network, one more than it has words.

    Returns:
      `text` with the words, and with what else the file says of them.

    Raises:
      UserError: the file holds no such words, or another number of them.
    """
    found = read_json(path)
    entries: dict[str, Any] = {}
    if isinstance(found, Mapping) and "words" in found and not isinstance(found["words"], int):
        entries = {name: found[name] for name in _ENTRIES if name in found}
    elif isinstance(found, Mapping):
        entries["words"] = _by_id(found)
    else:
        entries["words"] = found
    words = entries["words"]
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise UserError(
            f"{path} holds no list of words, in the order of their ids from 1 on, and no object "
            "that maps words to these ids"
        )
    if len(words) + 1 != vocabulary:
        raise UserError(
            f"{path} has {len(words)} words, and the network writes {vocabulary - 1}: it belongs "
            "to other weights"
        )
    if UNKNOWN not in words:
        raise UserError(f"{path} lacks {UNKNOWN}, which stands for all words that are not in it")
    return build_section(TextConfig, dataclasses.asdict(text) | entries, str(path))


def _by_id(ids: Mapping[str, Any]) -> list[str] | None:
    """Words in the order of their ids; None where these are not 1, 2, 3 and so on."""
    numbers = list(ids.values())
    if not all(isinstance(number, int) for number in numbers):
        return None
    ordered = sorted(ids, key=ids.__getitem__)
    return ordered if sorted(numbers) == list(range(1, len(ids) + 1)) else None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
