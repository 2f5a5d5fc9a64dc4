"""Many words as one regular expression."""

import re
from collections.abc import Iterable

# A word in Latin letters ends where no letter follows; reports write "C/D0.3".
_WORD_END = (("[a-z]", "(?![a-z])"), ("[0-9]", "(?![a-z0-9])"))


def trie_pattern(words: Iterable[str]) -> str:
    """A pattern that matches the longest of `words` at a position, whole words only.

    Common beginnings are factored out, so that the time for a match grows with the length of the
    word and not with their number. A blank in a word matches any run of white space, also none:
    reports are careless with blanks.

    Args:
      words: as `normalize.normalize` leaves them.
    """
    root: dict[str, dict] = {}
    for word in words:
        node = root
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return _pattern(root, "")


def _pattern(node: dict[str, dict], last: str) -> str:
    branches = {
        character: re.escape(character) + _pattern(child, character)
        for character, child in sorted(node.items())
        if character not in ("", " ")
    }
    alternatives = _grouped(branches) if len(branches) > 2 * _GROUP else [*branches.values()]
    if " " in node:
        alternatives.insert(0, r"[ \n]*" + _pattern(node[" "], " "))
    if "" in node:
        # Longer words come first, so the end of this one is the last resort.
        alternatives.append(next((end for kind, end in _WORD_END if re.match(kind, last)), ""))
    return alternatives[0] if len(alternatives) == 1 else f"(?:{'|'.join(alternatives)})"


#: Alternatives that one set of characters lets in: a branch tries its alternatives one by one.
_GROUP = 8


def _grouped(branches: dict[str, str]) -> list[str]:
    characters = list(branches)
    groups = [characters[i : i + _GROUP] for i in range(0, len(characters), _GROUP)]
    return [
        f"(?=[{''.join(map(re.escape, group))}])(?:{'|'.join(branches[c] for c in group)})"
        for group in groups
    ]
