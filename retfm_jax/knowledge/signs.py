"""Signs that say whether a finding is there: (-), （＋）, ±, "DR -", "-ve", "出血：－".

They are told from the hyphens, bullets and plus signs of a text by where they stand, before the
text is normalized, and replaced by marks of their own that no report contains.
"""

import re

#: One character each, in place of every character of a sign.
ABSENT_MARK, PRESENT_MARK, UNCERTAIN_MARK, DENIAL_MARK = "\ue000", "\ue001", "\ue002", "\ue003"
MARKS = (ABSENT_MARK, PRESENT_MARK, UNCERTAIN_MARK, DENIAL_MARK)

#: Every character that is written for a minus: keyboards and input methods offer many.
DASHES = (
    "-\u00ad\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u207b\u208b\u2212\u2500\u2796\u30fc"
    "\ufe58\ufe63\uff0d"
)

_D, _P = f"[{DASHES}]", "[+＋➕]"
_EITHER = rf"±|{_P}\s?[/／]?\s?{_D}|{_D}\s?[/／]?\s?{_P}"
_GRADED = rf"{_P}{{1,4}}|[1-4]{_P}|{_P}[1-4]"
_VE = r"\s?[vV][eE]\b"
_END = r"(?=\s*(?:[,，、;；.。!！)）\]】?？/]|$))"

_SIGN = re.compile(
    # (-), （－）, [+], 【阴】. 一 is typed for a dash.
    rf"[(（\[【〔［{{｛]\s*(?:(?P<absent_in>{_D}{{1,3}}|一|{_D}{_VE}|阴性?|[Nn0ØøF×✗✘✕]|[Nn]eg\.?|NEG)"
    rf"|(?P<present_in>{_GRADED}|{_P}{_VE}|阳性?|[YyT√✓✔☑]|[Pp]os\.?|POS)"
    rf"|(?P<uncertain_in>{_EITHER}))\s*[)）\]】〕］}}｝]"
    # "-ve for drusen"
    rf"|(?P<denial>{_D}{_VE}(?=\s+for\b)\s+for\b)"
    # "DR -", "DR: +", "DR -ve", at the end of what is said of it.
    rf"|(?<=[\w:：=＝])[ \u3000]?(?:(?P<uncertain>{_EITHER}){_END}"
    rf"|(?P<absent>{_D}{{1,3}}{_END}|{_D}{_VE})|(?P<present>(?:{_GRADED}){_END}|{_P}{_VE}))"
    # "DR: N", "DR = 0"
    rf"|(?<=[:：=＝])\s?(?:(?P<no>N|0|F|[Ff]alse|[Nn]eg|否){_END}|(?P<yes>Y|T|[Tt]rue|[Pp]os|是){_END})"
)
# "DR+ ME-", "+drusen -DR": a minus is a sign where a plus is one.
_GLUED_PLUS = re.compile(rf"[A-Za-z\u4e00-\u9fff]{_P}+(?=[\s,，;；]|$)")
_GLUED = re.compile(
    rf"(?<=[A-Za-z\u4e00-\u9fff])(?:(?P<present>{_P}{{1,4}})|(?P<absent>{_D}))(?=\s)"
)
_LEADING_PLUS = re.compile(rf"(?:^|[\s,，;；]){_P}(?=[A-Za-z\u4e00-\u9fff])")
_LEADING = re.compile(
    rf"(?:(?<=^)|(?<=[\s,，;；]))(?:(?P<present>{_P})|(?P<absent>{_D}))(?=[A-Za-z\u4e00-\u9fff])"
)
# Most sentences have nothing of the kind, and one set of characters tells.
_SUSPECT = re.compile(
    rf"[{DASHES}+＋➕±(（\[【〔［{{｛:：=＝](?:(?<=[+＋➕±])|(?<={_D})(?:{_END}|\s?[vV][eE]\b|\s?[/／])"
    rf"|(?<=[(（\[【〔［{{｛])\s*(?:{_D}|[1-4一阴阳NnYyTØøFPp0×✗✘✕√✓✔☑])"
    rf"|(?<=[:：=＝])\s?(?:{_D}|[NFTY0](?![A-Za-z0-9.])|[Ff]alse|[Tt]rue|[Nn]eg|[Pp]os|[否是]))"
)
_MARK_OF = {
    "absent": ABSENT_MARK, "absent_in": ABSENT_MARK, "no": ABSENT_MARK, "denial": DENIAL_MARK,
    "present": PRESENT_MARK, "present_in": PRESENT_MARK, "yes": PRESENT_MARK,
    "uncertain": UNCERTAIN_MARK, "uncertain_in": UNCERTAIN_MARK,
}  # fmt: skip


def mark_signs(sentence: str) -> str:
    """A sentence of the same length with marks in place of its signs.

    Args:
      sentence: as the report has it.
    """
    if not _SUSPECT.search(sentence):
        return sentence
    marked = _SIGN.sub(_mark, sentence)
    if _GLUED_PLUS.search(sentence):
        marked = _GLUED.sub(_mark, marked)
    if _LEADING_PLUS.search(sentence):
        marked = _LEADING.sub(_mark, marked)
    return marked


def _mark(match: re.Match[str]) -> str:
    return _MARK_OF[match.lastgroup or ""] * len(match.group())
