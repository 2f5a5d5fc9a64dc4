"""Text of users as it can be shown: what is escaped, and which installed fonts have the rest."""

import functools
import re
from collections.abc import Sequence

#: Families in the order of preference where several fonts draw a script, as systems name them.
#: Simplified Chinese comes first: Han characters have other forms in Japanese and Korean fonts.
_PREFERRED = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "PingFang SC", "Hiragino Sans GB", "Heiti SC", "Microsoft YaHei", "SimHei",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans CJK JP",
    "Noto Sans",
)  # fmt: skip
#: Two characters of every script that users' names and reports are likely to be in.
_SCRIPTS = ("眼底", "あア", "안저", "אב", "عب", "हक", "กข", "😀👁")
#: Matplotlib's own, which is always there and stands first.
_LATIN = "DejaVu Sans"
#: Stands for characters that no installed font draws.
UNDRAWN = "\N{REPLACEMENT CHARACTER}"

# What has no form of its own or moves other text: control characters, lone surrogates,
# noncharacters, and the characters that turn the direction of what follows.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f"
    "\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_BREAKS = re.compile("\r\n|[\r\u2028\u2029]")


def visible(text: object) -> str:
    """Text with everything written out that cannot be shown as it is; lines stay lines.

    A lone surrogate, as in a file name that is no UTF-8, becomes `\\udc80`, a control character
    `\\x07`. The result can be encoded as UTF-8.

    Args:
      text: an object whose `str` is shown.
    """
    return _UNSEEN.sub(_escaped, _BREAKS.sub("\n", str(text)))


def one_line(text: object, limit: int | None = None) -> str:
    """Makes `visible` text one line, for names, ids and classes.

    Args:
      text: an object whose `str` is shown.
      limit: greatest number of characters; longer text loses its middle, as ids tend to differ at
        their ends. None for no limit.
    """
    line = re.sub("[\n\t]", _escaped, visible(text))
    if limit is None or len(line) <= limit:
        return line
    tail = (limit - 1) // 2
    return f"{line[: limit - 1 - tail]}…{line[len(line) - tail :]}"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


@functools.cache
def families() -> tuple[str, ...]:
    """Font families that together have all characters this machine can show, in order of use."""
    chosen = [_LATIN]
    for sample in _SCRIPTS:
        if not any(_family_draws(family, sample) for family in chosen):
            chosen += [family for family in _candidates() if _family_draws(family, sample)][:1]
    return tuple(chosen)


def drawable(text: str) -> str:
    """Text in which `UNDRAWN` replaces every run of characters that no chosen font has.

    Args:
      text: as `visible` or `one_line` returns it.
    """
    return re.sub(
        f"{UNDRAWN}+", UNDRAWN, "".join(c if c.isspace() or _drawn(c) else UNDRAWN for c in text)
    )


@functools.lru_cache(1 << 14)
def _drawn(character: str) -> bool:
    # A mark that joins its neighbors, such as a variation selector, needs no form.
    joins = character in "\u200b\u200c\u200d\ufe0e\ufe0f"
    return joins or any(_has(_file(family), character) for family in families())


@functools.cache
def _candidates() -> tuple[str, ...]:
    installed = {entry.name for entry in _entries()}
    preferred = [family for family in _PREFERRED if family in installed]
    return tuple(dict.fromkeys([*preferred, *sorted(installed)]))


def _entries() -> Sequence:
    from matplotlib import font_manager

    return font_manager.fontManager.ttflist


@functools.cache
def _file(family: str) -> str:
    """The file of a family's upright form of usual weight."""
    entries = [entry for entry in _entries() if entry.name == family]
    return min(entries, key=lambda e: (e.style != "normal", abs(_weight(e.weight) - 400))).fname


def _weight(weight: int | str) -> int:
    from matplotlib import font_manager

    return font_manager.weight_dict.get(weight, 400) if isinstance(weight, str) else int(weight)


def _family_draws(family: str, sample: str) -> bool:
    return draws(_file(family), sample)


@functools.cache
def draws(path: str, sample: str) -> bool:
    """Tells whether a font file has a form of its own for every character of a sample.

    A *last resort* font claims every character and has the same box for a whole block; a blank
    font shows nothing.

    Args:
      path: the font file.
      sample: characters of one script, two or more.
    """
    forms = [_form(path, character) for character in sample]
    return all(forms) and len(set(forms)) == len(forms)


@functools.cache
def _claims_everything(path: str) -> bool:
    # U+FDD0 is no character and never will be: no honest font maps it.
    font = _opened(path)
    return font is None or bool(font.get_char_index(0xFDD0))


def _has(path: str, character: str) -> bool:
    font = _opened(path)
    if font is None or _claims_everything(path):
        return False
    return bool(font.get_char_index(ord(character)))


@functools.lru_cache(32)
def _opened(path: str):
    from matplotlib.ft2font import FT2Font

    try:
        # Not `font_manager.get_font`, whose fonts fall back on the last resort.
        return FT2Font(path)
    except (RuntimeError, OSError, TypeError):
        return None  # a bitmap font, or one that FreeType cannot read


def _form(path: str, character: str) -> bytes:
    """The outline of a character; empty where the font has none."""
    font = _opened(path)
    if font is None or not _has(path, character):
        return b""
    try:
        font.set_size(12, 72)
        font.load_char(ord(character))
    except RuntimeError:
        return b""
    vertices, _ = font.get_path()
    return vertices.tobytes()
