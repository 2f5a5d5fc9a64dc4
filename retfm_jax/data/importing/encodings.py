"""Encodings of text files: which one a file is in, and whether a reading of it is a language.

Most bytes can be read in several encodings, and the wrong one gives characters that look like text:
"Retinopatía" in Windows-1252 is "Retinopat韆" in GB18030. So an encoding is offered only where its
reading looks like what people write, and a reading that does not is refused.
"""

import codecs
import functools
import re

#: Marks at the beginning of a file, the longer before those that begin like them.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: What spreadsheets write beside UTF-8. Others read almost any bytes, or are told apart by nothing.
_OFFERED = ("utf-8", "gb18030", "big5", "cp1252", "euc_kr", "shift_jis", "utf-16-le", "utf-16-be")

#: So many parts of a long text are judged, of so many characters.
_PARTS, _PART = 8, 1 << 15

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LOST = re.compile(r"[\ufffd\ue000-\uf8ff\x80-\x9f\ufffe\uffff]")
_HAN_IN_A_WORD = re.compile(
    r"(?<=[A-Za-z])[\u3400-\u9fff](?=[A-Za-z])|(?<=[a-z])[\u3400-\u9fff](?![\u3400-\u9fff])"
)
#: What Windows-1252 has beyond ASCII, in runs that no language of it writes.
_WESTERN = "\u00a1-\u00ff\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a"
_WESTERN_RUN = re.compile(rf"[{_WESTERN}\u20ac\u2122]{{2,}}")
_WESTERN_LETTER = re.compile(
    "[áéíóúñüöäßçàèùâêîôûëïãõåæøœìòÁÉÍÓÚÑÜÖÄÇÀÈÙÂÊÎÔÛËÏÃÕÅÆØŒÌÒªº¿¡]", re.IGNORECASE
)
_STRAY_IN_A_WORD = re.compile(
    r"(?<=[A-Za-z])[\u00a1-\u00b9\u00bb-\u00bf\u00d7\u00f7\u0192\u2013-\u2018\u201a-\u203a\u20ac"
    r"\u2122\u017d\u017e\u00fd\u00fe\u00f0\u00dd\u00de\u00d0](?=[A-Za-z])"
)
_CAPITAL_IN_A_WORD = re.compile(r"(?<=[a-z])[\u00c0-\u00d6\u00d8-\u00de](?=[a-z])")
_OTHER_LETTER = re.compile(
    r"[\u0100-\u0151\u0154-\u015f\u0162-\u0177\u0179-\u017c\u0370-\u06ff\u0900-\u1fff"
    r"\u3040-\u30ff\uac00-\ud7a3]"
)
_DEBRIS = (_LOST, _HAN_IN_A_WORD, _STRAY_IN_A_WORD, _CAPITAL_IN_A_WORD)
_HANGUL, _KANA = re.compile(r"[\uac00-\ud7a3]"), re.compile(r"[\u3040-\u30ff]")


def of_mark(data: bytes) -> str | None:
    """Finds the encoding that a file's byte order mark names; None without a mark.

    Args:
      data: the file, or its first four bytes.
    """
    return next((name for mark, name in _MARKS if data.startswith(mark)), None)


def judged(text: str) -> tuple[int, int]:
    """Counts the characters beyond ASCII that people write, and those that are debris.

    Args:
      text: of any length; of a long one eight samples are judged.

    Returns:
      the two counts.
    """
    text = _sample(text)
    debris = {match.start() for pattern in _DEBRIS for match in pattern.finditer(text)}
    for run in _WESTERN_RUN.finditer(text):
        if len(run[0]) > 2 or _is_utf8_read_as_western(run[0]):
            debris.update(range(run.start(), run.end()))
    letters = (_WESTERN_LETTER, _OTHER_LETTER)
    fine = {match.start() for pattern in letters for match in pattern.finditer(text)}
    for match in _HAN.finditer(text):
        (fine if is_common(match[0]) else debris).add(match.start())
    return len(fine - debris), len(debris)


def _sample(text: str) -> str:
    if len(text) <= _PARTS * _PART:
        return text
    starts = range(0, len(text), len(text) // _PARTS)
    return "\n".join(text[start : start + _PART] for start in starts)


@functools.cache
def is_common(han: str) -> bool:
    """Tells whether a Chinese character is among the common ones of GB2312 or Big5.

    Args:
      han: one Chinese character.
    """
    for encoding, first, last in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        try:
            code = han.encode(encoding)
        except UnicodeEncodeError:
            continue
        if first <= code[0] <= last:
            return True
    # Level two, where it is written in medicine.
    return han in "疣翳睑眦睫痣瘢胬黏骺痂疱"


def _is_utf8_read_as_western(run: str) -> bool:
    try:
        run.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return False
    return True


def is_debris(text: str) -> bool:
    """Tells whether most characters beyond ASCII, at least three, are none that anybody wrote.

    Args:
      text: as it was decoded.
    """
    fine, debris = judged(text)
    return debris > fine and debris >= 3


def misread(data: bytes, text: str, encoding: str) -> str | None:
    """Finds what is wrong with a text that was read in an encoding that somebody named.

    Args:
      data: the whole file.
      text: what it was decoded to.
      encoding: Python's name of the encoding that somebody named.

    Returns:
      the end of a message, None where nothing is wrong.
    """
    fine, debris = judged(text)
    better = offered(data)
    if better == encoding or not (fine or debris):
        return None
    is_utf8 = better == "utf-8" and sum(judged(data.decode())) >= 6
    if is_utf8 or (better and debris > 0.02 * fine):
        return f"it is {better}, not {encoding}"
    return None


def looks_like_a_language(text: str) -> bool:
    """Tells whether there are characters beyond ASCII, and they are what people write.

    Args:
      text: as it was decoded.
    """
    fine, debris = judged(text)
    return fine > 0 and debris <= 0.02 * fine


def offered(data: bytes) -> str | None:
    """Finds the likeliest encoding in which some bytes look like a language.

    Args:
      data: the whole file.

    Returns:
      Python's name of it; None where there is none.
    """
    for name in _OFFERED:
        try:
            text = _sample(data.decode(name))
        except UnicodeDecodeError:
            continue
        if "\0" in text or not looks_like_a_language(text):
            continue
        han, hangul, kana = (len(script.findall(text)) for script in (_HAN, _HANGUL, _KANA))
        unlikely = {
            "euc_kr": han > 0.1 * hangul,  # every other pair of bytes is one of those
            "shift_jis": not kana,
            "gb18030": hangul or _is_korean(data),
            "big5": hangul or _is_korean(data),
        }
        if not unlikely.get(name):
            return name
    return None


def _is_korean(data: bytes) -> bool:
    # The syllables of EUC-KR lie where GB2312 has its first characters.
    try:
        text = _sample(data.decode("euc_kr"))
    except UnicodeDecodeError:
        return False
    return len(_HANGUL.findall(text)) >= 6 and not _HAN.search(text)
