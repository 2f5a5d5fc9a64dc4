"""Cells of tables: empty or not, one name or several, read and written alike by all readers.

Tables come from spreadsheets, from pandas, from R, from databases and from people; each has its own
way to write "nothing" and to write a list. The rules stand here once, for manifests, releases,
tasks, label files and YAML.
"""

import ast
import collections
import csv
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import IO, Any

from retfm_jax.parsing import parse_json

#: Blanks of every width, and characters that show nothing at all.
_BLANK = "".join(
    chr(code)
    for first, last in (
        (0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F),
        (0x115F, 0x1160), (0x1680, 0x1680), (0x17B4, 0x17B5), (0x180E, 0x180E), (0x2000, 0x200F),
        (0x2028, 0x202F), (0x205F, 0x206F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164),
        (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0),
    )
    for code in range(first, last + 1)
)  # fmt: skip

#: How programs and people write that there is nothing, in lower case.
_EMPTY = frozenset(
    {
        # pandas, NumPy, R, Python, databases, JavaScript
        "nan", "+nan", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "nat", "na", "<na>",
        "n/a", "n.a.", "n.a", "n/a.", "none", "<none>", "(none)", "null", "<null>", "(null)",
        "[null]", "nil", "\\n", "undefined", "not available", "not applicable", "missing",
        "<missing>", "(missing)", "(blank)", "(empty)", "<empty>",
        # Excel and its relatives
        "#n/a", "#n/a n/a", "#na", "#value!", "#ref!", "#name?", "#div/0!", "#num!", "#null!",
        "#getting_data", "#spill!", "#calc!", "#field!", "#blocked!", "#unknown!", "#connect!",
        "#error!", "err:502", "err:508", "err:504", "err:509", "err:522", "#nv", "#n/d", "#n/v",
        "#fehlt", "#n/b",
        # people, in English and in what else spreadsheets are kept
        "no report", "no reports", "no data", "no text", "no image", "no photo", "not done",
        "not performed", "not taken", "n\\a", "n/d", "s/d", "k.a.", "k. a.", "keine angabe",
        "sin datos", "なし", "無し", "없음",
        # Chinese
        "无", "無", "空", "空值", "空白", "暂无", "暫無", "未填", "未填写", "缺失", "缺", "无报告",
        "无数据", "(空)", "(无)", "<空>", "<无>", "没有", "暂无报告", "暂无数据", "无记录",
        "未出报告", "未录入", "未提供", "不适用", "无图像", "无图", "未拍", "未拍摄", "未检",
        "未查",
    }
)  # fmt: skip

#: Between names, whatever the names are; and where the names on both sides are known ones.
_STRONG = re.compile("[;；\u037e﹔︔؛|｜¦￤‖、﹑､•●▪。｡\n\r]")
_COMMA = re.compile("[,，﹐︐،]")
_SLASH = re.compile(r"[/／⁄∕\\]")
#: Joins that nobody writes between entries of a list, but that people write between classes.
_JOIN = re.compile(
    r"\s*(?:[+＋&＆\t·・→:：]|[-=]>|<br ?/?>|和|与|及|或|合并|伴有?|并发)\s*"
    r"|\s+(?:and|or|with|plus)\s+|\s+",
    re.IGNORECASE,
)
#: "1、糖网 2、青光眼", "(1) drusen (2) glaucoma", "①糖网②青光眼"
_NUMBER = re.compile(
    r"(?<![^\s;；,，、。])[(（]?(\d{1,2})\s*[.)）、．:：]\s*(?=[^\W\d])|([①-⑳])\s*"
)
_QUOTED = re.compile(r"""(["'])(.*)\1|[“”](.*)[“”]|[‘’](.*)[‘’]|「(.*)」""", re.DOTALL)
#: How Python and NumPy print what holds several.
_CONTAINER = re.compile(
    r"(?:np\.|numpy\.)?(?:array|set|frozenset|list|tuple)\((.*?)(?:,\s*dtype=[^,()]*)?\)", re.DOTALL
)
_LONGEST_VALUED = 200
_VALUED = re.compile(
    r"(.*?)\s*(?:[:=：＝]|\()\s*(?:[01](?:\.\d*)?|true|false|yes|no|[+-]|是|否)\s*\)?",
    re.IGNORECASE,
)
#: What spreadsheets in other languages write for an error: "#WERT!", "#¿NOMBRE?".
_ERROR = re.compile(r"#[¡¿]?[^\W\d_]{2,12}(?:/0)?[!?]")

#: The labels of somebody who looked and found nothing.
NOTHING_FOUND = "none"


def strip(text: str) -> str:
    """Removes blanks and invisible characters from both ends of a text.

    Args:
      text: of a cell.
    """
    return text.strip(_BLANK)


def is_empty(value: Any) -> bool:
    """Tells whether a cell says nothing: None, NaN, blanks, dashes, "N/A", "#VALUE!", "无".

    A text without any letter or digit says nothing.

    Args:
      value: the cell, text or what JSON holds.
    """
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    if not isinstance(value, str):
        return False
    text = _unquoted(strip(value))
    if text[:1].isalnum() and len(text) >= 20:
        return False
    if not any(map(str.isalnum, text)):
        return True
    if _ERROR.fullmatch(text):
        return True
    return len(text) < 20 and unicodedata.normalize("NFKC", text).casefold() in _EMPTY


def _unquoted(text: str) -> str:
    """A text without the quotes that stand around it and nowhere else."""
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return text
    inside = next(part for part in quoted.groups()[1:] if part is not None)
    return text if text[0] in inside or text[-1] in inside else strip(inside)


def text(value: Any) -> str:
    """Reads a cell as text without blanks around it, "" where it is empty.

    Args:
      value: text, or what JSON holds: whole numbers are taken for text.

    Raises:
      ValueError: it is a list, an object, a fraction, or true or false.
    """
    if is_empty(value):
        return ""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return strip(str(value))
    raise ValueError(f"{_short(value)} where text is wanted")


def identifier(value: Any) -> str:
    """Reads a cell as an id: its `text` in composed Unicode, so that equal ids are equal.

    Args:
      value: as in `text`.

    Raises:
      ValueError: see `text`; or a spreadsheet cut the number that the id was.
    """
    written = unicodedata.normalize("NFC", text(value))
    if _CUT_SHORT.fullmatch(written):
        raise ValueError(
            f"{written!r} is a number that a spreadsheet cut short, other ids may have become the "
            "same: export the column as text"
        )
    return written


#: 1.2E+05 was 120,001 or 120,002; which of them, nobody knows.
_CUT_SHORT = re.compile(r"\d([.,]\d+)?[eE]\+\d+")


def alike(value: str) -> str:
    """Folds an id or a name to what it shares with others that may mean the same.

    Letter case, forms of Unicode, the number of blanks, zeros in front of a number and the `.0`
    behind it do not count: spreadsheets and people change them.

    Args:
      value: an id or a name.
    """
    plain = _folded(value)
    if number := re.fullmatch(r"0*(\d+)(\.0*)?", plain):
        return number[1]
    return plain


def same_name(value: Any, names: Collection[str]) -> str | None:
    """Finds the known name that a cell means.

    A name is meant by how it is written; else, if it is the only one, in other letter case, form of
    Unicode or blanks; else as the number that it is ("2.0" and "02" for "2"). So a class that is
    called "None", "NA" or "No" is a class, and not an empty cell.

    Args:
      value: the cell; only text and numbers mean a name.
      names: the known ones.

    Returns:
      the name as `names` has it, None where none is meant.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    written = strip(str(value))
    if written in names:
        return written
    for form in (_folded, _number):
        wanted = form(written)
        alike = [name for name in names if wanted is not None and form(name) == wanted]
        if len(alike) == 1:
            return alike[0]
    return None


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", strip(name)).casefold().split())


def _number(name: str) -> float | None:
    return float(name) if re.fullmatch(r"\d{1,15}(\.\d{0,15})?", name) else None


def names(
    value: Any, column: str, known: Callable[[str], bool] = lambda name: False
) -> tuple[str, ...] | None:
    """Reads the names in a cell, each once.

    A list of JSON or Python (also as NumPy prints it) holds its entries as they are. Text is
    divided at `;`, `|`, `、` and their full-width forms; at commas and slashes where the parts are
    known names. A known name is never divided.

    Args:
      value: the cell, text or a list.
      column: what a message calls it.
      known: whether a name is known to stand alone, see `knows_names`.

    Returns:
      the names; None where the cell is empty, as nobody looked; () for `none` or an empty list, as
      somebody looked and found nothing.

    Raises:
      ValueError: it is no list of names, or nobody can tell which names it joins.
    """
    entries = _entries(value, column)
    if entries is None:
        if is_empty(value) and (value is None or _as_python_writes_none(value)):
            return None
        written = text(value)
        if not written and strip(value).casefold() != NOTHING_FOUND:
            return None
        entries = _divided(strip(str(value)), column, known)
    found = [identifier(name) for name in entries]
    nothing = [_folded(str(name)) == NOTHING_FOUND and not _as_python_writes_none(name)
               for name in entries]  # fmt: skip
    kept = tuple(dict.fromkeys(name for name in found if name))
    for name in kept:
        _check_name(name, column)
        valued = _VALUED.fullmatch(name) if len(name) < _LONGEST_VALUED else None
        if valued and not known(name) and known(valued[1]):
            raise ValueError(
                f"{column}: {_short(name)} is a name with a value: list the names that are there"
            )
    if any(nothing) and kept:
        raise ValueError(f"{column}: {_short(value)} names something and says `none` as well")
    return kept if kept or any(nothing) or not entries else None


def _as_python_writes_none(value: Any) -> bool:
    # str(None): a missing value, where `none` is what somebody says who has looked.
    return not isinstance(value, str) or strip(value) == "None"


def knows_names(
    values: Iterable[Any], known: Callable[[str], bool] = lambda name: False
) -> Callable[[str], bool]:
    """Makes a test of whether a text is one known name, for `names` to divide cells by.

    Args:
      values: all cells of the columns that hold names. What stands alone in a cell or as an entry
        of a list is a name, and so is what several cells hold beside other names.
      known: whether a name is known without the table.

    Returns:
      a function that is true of a text that is one name.
    """
    listed: set[str] = set()
    alone: set[str] = set()
    joined: set[str] = set()
    for value in values:
        try:
            entries = _entries(value, "")
        except ValueError:
            continue
        if entries is not None:
            listed.update(strip(entry) for entry in entries if isinstance(entry, str))
        elif isinstance(value, str) and not is_empty(value):
            for part in _parts(strip(value)):
                weak = _COMMA.search(part) or _SLASH.search(part)
                (joined if weak else alone).add(part)
    beside = collections.Counter(
        strip(part) for cell in joined for part in set(_COMMA.split(cell)) if _COMMA.search(cell)
    )
    alone.update(part for part, cells in beside.items() if cells > 1)
    alone = {name for name in alone if not is_empty(name)}

    def one(name: str) -> bool:
        return known(name) or name in alone or name in listed

    joins = {name for name in alone if len(pieces := _joined(name)) > 1 and all(map(one, pieces))}
    alone -= joins
    return one


def _joined(name: str) -> list[str]:
    return [piece for piece in _JOIN.split(name) if piece]


def is_plainly_divided(cell: str) -> bool:
    """Tells whether a cell is a list by how it is written, whatever its names are.

    Args:
      cell: its text.
    """
    return cell.lstrip()[:1] in "[({" or _STRONG.search(cell) is not None


def _entries(value: Any, column: str) -> list[Any] | None:
    """The entries of a list, whether it is one or is written as one; None where it is none."""
    if isinstance(value, list | tuple):
        return _flat(list(value), column)
    if not isinstance(value, str):
        return None
    written = strip(value)
    if printed := _CONTAINER.fullmatch(written):
        written = strip(printed[1]) or "[]"
    opening, closing = written[:1], written[-1:]
    if opening + closing not in ("[]", "()", "{}") and opening != "[":
        return None
    try:
        read = ast.literal_eval(re.sub(r"""(['"])\s+(?=['"])""", r"\1, ", written))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        try:
            read = parse_json(written)
        except ValueError:
            if opening != "[":
                return None  # a name in brackets
            raise ValueError(f"{column}: not a list of names: {_short(written)}") from error
    if isinstance(read, set | frozenset):
        read = sorted(read, key=str)
    if isinstance(read, list | tuple):
        return _flat(list(read), column)
    if opening == "(":
        return None
    raise ValueError(f"{column}: not a list of names: {_short(written)}")


def _flat(entries: list[Any], column: str) -> list[Any]:
    for entry in entries:
        if not (entry is None or isinstance(entry, str | int | float)) or isinstance(entry, bool):
            raise ValueError(f"{column}: {_short(entry)} where text is wanted")
    return entries


def _divided(written: str, column: str, known: Callable[[str], bool]) -> Sequence[str]:
    if known(written):
        return [written]
    parts = _parts(written)
    plain = [part for part in map(strip, _STRONG.split(written)) if part]
    if any(known(part) for part in plain if _NUMBER.match(part)):
        parts = plain  # a class may be called "1. Mild"
    parts = [part if known(part) else _unquoted(part) for part in parts]
    alone = len(parts) == 1 and not _STRONG.search(written)
    return [name for part in parts for name in _divided_by_known(part, column, known, alone)]


def _parts(written: str) -> list[str]:
    """What strong separators, or the numbers of a list, divide a cell into."""
    marks = list(_NUMBER.finditer(written))
    numbers = [int(mark[1]) if mark[1] else ord(mark[2]) - ord("①") + 1 for mark in marks]
    if len(marks) > 1 and not marks[0].start() and numbers == list(range(1, len(marks) + 1)):
        ends = [*(mark.start() for mark in marks[1:]), len(written)]
        pieces = [
            written[mark.end() : end].strip(",，" + _BLANK)
            for mark, end in zip(marks, ends, strict=True)
        ]
        written = ";".join(pieces)
    return [part for part in map(strip, _STRONG.split(written)) if part]


def _divided_by_known(
    part: str, column: str, known: Callable[[str], bool], alone: bool
) -> Sequence[str]:
    """The known names that a part joins, else the part.

    Args:
      alone: no other separator stands in the cell, so that a comma may be one.
    """
    if known(part) or is_empty(part):
        return [part]
    for separator in (_COMMA, _SLASH, re.compile(f"{_COMMA.pattern}|{_SLASH.pattern}")):
        pieces = [_unquoted(piece) for piece in map(strip, separator.split(part)) if piece]
        if all(known(piece) or is_empty(piece) for piece in pieces):
            return pieces
    if alone and _COMMA.search(part):
        raise ValueError(
            f"{column}: {_short(part)} may be one name or several, and not all of them stand alone "
            'anywhere: put `;` between names, or write a list such as ["one, name"]'
        )
    pieces = _joined(part)
    if len(pieces) > 1 and all(map(known, pieces)):
        raise ValueError(
            f"{column}: {_short(part)} joins the names {' and '.join(map(repr, pieces))}: put `;` "
            "between them"
        )
    return [part]


def _check_name(name: str, column: str) -> None:
    # TFDS stores the names of labels in lines of text: a break in one would shift all others.
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise ValueError(f"{column}: a line break or control character in the name {name!r}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"


_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")
_NUMERIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")


def without_formula(value: Any) -> Any:
    """Makes a cell that no spreadsheet takes for a formula: text that begins like one gets a `'`.

    Numbers stay. Lone surrogates, as in file names that are no UTF-8, are written as escapes.

    Args:
      value: of the cell; what is no text is given back as it is.
    """
    if not isinstance(value, str):
        return value
    value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"'{value}" if _FORMULA.match(value) and not _NUMERIC.fullmatch(value) else value


def write_csv(file: IO[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table for people: a header and rows, no cell of which is a formula.

    Args:
      file: open for text.
      columns: names of the header.
      rows: their cells, in the order of `columns`.
    """
    writer = csv.writer(file)
    writer.writerow([without_formula(name) for name in columns])
    writer.writerows([without_formula(cell) for cell in row] for row in rows)
