"""The one vocabulary of sides: how reports, tables and file names call an eye.

Every word for a left eye stands beside its word for a right eye, so that a reader that knows one
knows the other, and a mirrored report is written by taking the partner of each. The labeler
(`cues`), the exchange of sides in training, and names of columns and files read from here.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

LEFT, RIGHT, BOTH, OTHER = "left", "right", "both", "other"
#: The eyes of a patient, in the order of arrays that hold both.
Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
OPPOSITE = {LEFT: RIGHT, RIGHT: LEFT}


class Pair(NamedTuple):
    """A word for the left and the same word for the right.

    Attributes:
      left, right: the two words.
    """

    left: str
    right: str


#: Words that mean an eye wherever they stand, in the spelling of `normalize.normalize`. A blank
#: stands for any run of blanks, hyphens and underscores, also none: "lefteye", "left_eye".
EYES = (
    Pair("left eye", "right eye"),
    Pair("left eyes", "right eyes"),
    Pair("left fundus", "right fundus"),
    Pair("left side", "right side"),
    Pair("left sided", "right sided"),
    Pair("lt eye", "rt eye"),
    Pair("lt. eye", "rt. eye"),
    Pair("l eye", "r eye"),
    Pair("l. eye", "r. eye"),
    Pair("l/eye", "r/eye"),
    Pair("lt fundus", "rt fundus"),
    Pair("os", "od"),
    Pair("o.s", "o.d"),
    Pair("o.s.", "o.d."),
    Pair("oculus sinister", "oculus dexter"),
    Pair("左眼", "右眼"),
    Pair("左侧", "右侧"),
    Pair("左侧眼", "右侧眼"),
    Pair("左眼底", "右眼底"),
    Pair("左目", "右目"),
    Pair("左眼部", "右眼部"),
    Pair("l眼", "r眼"),
    Pair("lt眼", "rt眼"),
    Pair("os眼", "od眼"),
)
#: Words whose letters are words of the language too: they count in capitals only.
IN_CAPITALS = (Pair("le", "re"), Pair("l/e", "r/e"), Pair("l.e", "r.e"), Pair("l.e.", "r.e."))
#: Words that are sides only beside what has sides.
BARE = (
    Pair("left", "right"),
    Pair("lt", "rt"),
    Pair("lt.", "rt."),
    Pair("l", "r"),
    Pair("左", "右"),
)
BOTH_EYES = (
    *("both eyes", "ou", "o.u", "o.u.", "bilateral", "bilaterally", "either eye", "each eye"),
    *("every eye", "both sides", "both fundi", "both", "both maculae", "both discs", "binocular"),
    *("in both", "both retinas", "both retinae", "two eyes", "b/l", "bilat", "bilat."),
    *("oculus uterque", "left or right eye", "right or left eye", "left and right eyes"),
    *("right and left eyes", "left and right eye", "right and left eye"),
    *("双眼", "两眼", "双侧", "双侧眼", "左右眼", "左右双眼", "双眼底", "两侧", "左右两眼", "双目"),
    *("左右眼底", "左、右眼", "右、左眼", "双黄斑", "两只眼", "左右两侧", "双侧眼底"),
)
BOTH_IN_CAPITALS = ("be", "b/e", "bes")
#: Between the sides of a pair they make both of it: "L>R", "OD and OS", "左眼重于右眼".
_JOINTS = (
    *("and", "or", "&", "/", "+", ">", "<", "=", "≥", "≤", ">>", "<<", "more than", "less than"),
    *("worse than", "greater than", "better than", "same as", "equal to"),
)
_JOINTS_ZH = ("及", "和", "与", "或", ">", "<", "=", "重于", "轻于", "较", "比")
_JOINED_ZH = (Pair("左", "右"), Pair("左眼", "右眼"))
_JOINED = (
    *(Pair("left", "right"), Pair("left eye", "right eye"), Pair("os", "od"), Pair("l", "r")),
    *(Pair("lt", "rt"), Pair("o.s.", "o.d."), Pair("le", "re"), Pair("l eye", "r eye")),
)
OTHER_EYE = (
    *("fellow eye", "other eye", "contralateral eye"),
    *("对侧眼", "另一眼", "另眼", "对侧", "另一只眼"),
)


def both_eyes() -> Iterator[str]:
    """Yields every word for both eyes, also the two of a pair with what joins them."""
    yield from BOTH_EYES
    for pairs, joints in ((_JOINED, _JOINTS), (_JOINED_ZH, _JOINTS_ZH)):
        for pair in pairs:
            for joint in joints:
                yield f"{pair.left} {joint} {pair.right}"
                yield f"{pair.right} {joint} {pair.left}"


# ---- reports of mirrored patients

_LETTERS = (*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in _LETTERS}
_WIDTHS = _FULL_WIDTH | dict(zip(map(ord, "．：／＞＜＆＋＝"), ".:/><&+=", strict=True))

# A side as a text writes it, in order of trust. "left" and "right" are sides as words and before
# what they may be glued to; one letter is a side where its neighbors make it one. 左右 is one word
# ("both", "about") and stays.
_LETTER_BEFORE = r"(?<![A-Za-z])"
_LETTER_AFTER = r"(?![A-Za-z])"
_GLUED = r"eyes?|fundus|sided?|macula|disc|optic|ward|wards|most|hand"
_SIDE = re.compile(
    rf"{_LETTER_BEFORE}(?P<word>(?i:left|right)(?=(?i:{_GLUED})|[^A-Za-z]|$)"
    rf"|(?i:dexter|sinister)(?:(?i:ra|rum))?{_LETTER_AFTER}"
    rf"|(?i:lt|rt)(?={_LETTER_AFTER}|(?i:eye)))"
    rf"|{_LETTER_BEFORE}(?P<latin>[Oo](?:\.\s?)?[DdSs]){_LETTER_AFTER}"
    # RE, L/E, R.E., "L eye", "r-eye", "R:", "L 0.3"
    rf"|{_LETTER_BEFORE}(?P<letter>[LR](?=(?:\s?[./])?\s?E{_LETTER_AFTER})"
    rf"|[LlRr](?=(?:\s|[./-]){{0,2}}(?i:eyes?|fundus){_LETTER_AFTER}|眼|\s?[:：]|\s?[01]?\.\d)"
    # "R>L", "L/R", "R and L", "R & L": both of a pair
    rf"|[LlRr](?=\s?(?:[><=≥≤/&+]|\band\b|\bor\b)\s?[LlRr]{_LETTER_AFTER}(?!/E))"
    rf"|(?:(?<=[><=≥≤/&+])|(?<=[><=≥≤/&+]\s)|(?<=\band\s)|(?<=\bor\s))[LlRr](?={_LETTER_AFTER}))"
    rf"|(?P<both>左右|{_LETTER_BEFORE}[Bb]/[Ll]{_LETTER_AFTER})"
    r"|(?P<chinese>[左右])"
    # A letter that could be a side and could be anything else.
    rf"|{_LETTER_BEFORE}(?P<unsure>[LRlr])(?![A-Za-z0-9])"
)
_PARTNER = {
    "left": "right", "dexter": "sinister", "dextra": "sinistra", "dextrum": "sinistrum",
    "lt": "rt", "l": "r", "d": "s", "左": "右",
}  # fmt: skip
_PARTNER |= {other: one for one, other in _PARTNER.items()}

# A clock hour moves when the picture is mirrored ("at 3 o'clock", "7点钟方向"), as a meridian does,
# in too many notations (ranges, half hours) to be rewritten safely.
_CLOCK = re.compile(
    r"o['’`]?\s?clock|clock[ -]?hours?|clockwise|\bmeridian|\baxis\b|"
    r"[\d一二三四五六七八九十]\s*点|点钟|钟点|钟位|时针|子午线|轴位",
    re.IGNORECASE,
)


def names_side(text: str) -> bool:
    """Tells whether a report may speak of one side: a left or right eye, English or Chinese.

    Args:
      text: a report in English, Chinese or both.
    """
    found = _SIDE.finditer(text.translate(_WIDTHS))
    return any(match.lastgroup not in ("both", "unsure") for match in found)


def exchange_sides(text: str) -> str | None:
    """Rewrites a report for the mirrored patient: lefts become rights and the other way round.

    "Left eye: drusen, OD normal" gives "Right eye: drusen, OS normal"; applied twice it gives the
    text again.

    Args:
      text: a report in English, Chinese or both.

    Returns:
      the text, or None where it cannot be rewritten surely: it tells positions as clock hours or
      meridians, or has a single L or R that need not be a side.
    """
    plain = text.translate(_WIDTHS)
    if _CLOCK.search(plain):
        return None
    parts, end = [], 0
    for match in _SIDE.finditer(plain):
        if match.lastgroup == "unsure":
            return None
        start, stop = match.span()
        parts += [text[end:start], _exchanged(match.group(), match.lastgroup, text[start:stop])]
        end = stop
    return "".join((*parts, text[end:]))


def _exchanged(plain: str, kind: str | None, written: str) -> str:
    if kind == "both":
        return written
    kept, word = (plain[:-1], plain[-1]) if kind == "latin" else ("", plain)
    other = kept + _like(word, _PARTNER[word.lower()])
    wide = any(ord(character) in _FULL_WIDTH for character in written)
    return "".join(_wide(character) for character in other) if wide else other


def _like(found: str, other: str) -> str:
    """`other` with the capitals of `found`."""
    if found.isupper():
        return other.upper()
    return other.capitalize() if found[0].isupper() else other


def _wide(character: str) -> str:
    return chr(ord(character) + 0xFEE0) if "A" <= character <= "z" else character


# ---- names of columns and files

#: Names of columns for an eye, beside "left" and "right" ("og" is French).
IN_NAMES = {
    LEFT: ("l", "lt", "le", "os", "og", "oculus sinister", "左", "左眼", "左侧"),
    RIGHT: ("r", "rt", "re", "od", "oculus dexter", "右", "右眼", "右侧"),
}
#: Words for an eye that are believed in names of files, as a regular expression: no letters that
#: could be anything else.
IN_FILE_NAMES = (
    r"left|right|od|os|og|oi|左眼?|右眼?|links|rechts|gauche|droite?|izquierd[oa]|derech[oa]"
    r"|esquerd[oa]|direit[oa]|sinistr[oa]|destr[oa]"
)
