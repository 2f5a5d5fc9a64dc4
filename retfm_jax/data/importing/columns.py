"""Columns that mean something under a name that is not quite theirs: `right_eye`, `Label`, 右眼."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from retfm_jax.knowledge.laterality import IN_NAMES

#: What people call the columns of a manifest, beside spellings and plurals of their own names.
OTHER_NAMES: Mapping[str, Sequence[str]] = {
    "patient_id": ("patient", "pid", "subject", "subject id", "patient no", "patient number",
                   "患者", "患者id", "患者编号", "患者号", "病人", "病人id", "病人编号", "病人号",
                   "病历号"),
    "left": (*IN_NAMES["left"], "左图", "左眼图像", "左眼图片", "左眼照片",
             "左眼眼底", "左眼眼底图", "左眼文件"),
    "right": (*IN_NAMES["right"], "右图", "右眼图像", "右眼图片", "右眼照片",
              "右眼眼底", "右眼眼底图", "右眼文件"),
    "image": ("img", "picture", "photo", "photograph", "fundus", "file", "filename", "path", "图像",
              "图片", "照片", "图像路径", "文件", "文件名", "路径"),
    "case_id": ("case", "case no", "case number", "study id", "study uid", "exam", "exam id",
                "examination", "examination id", "accession", "accession number", "accession no",
                "病例", "病例id", "病例号", "病例编号", "检查号", "检查id", "检查编号"),
    "visit": ("visit id", "visit no", "visit number", "visit date", "exam date", "study date",
              "session", "就诊号", "就诊id", "就诊日期", "检查日期"),
    "report": ("report text", "text", "caption", "findings", "impression", "报告", "报告内容",
               "检查报告", "诊断报告", "影像报告", "眼底报告", "检查所见", "影像所见", "所见",
               "描述", "影像描述", "诊断", "诊断意见", "印象", "结论"),
    "caption": ("text", "report", "description", "描述", "报告", "说明"),
    "left_report": ("left text", "report left", "os report", "左眼报告", "左眼描述", "左眼诊断"),
    "right_report": ("right text", "report right", "od report", "右眼报告", "右眼描述", "右眼诊断"),
    "report_en": ("english report", "report english", "英文报告"),
    "report_zh": ("chinese report", "report chinese", "report cn", "中文报告"),
    "labels": ("class", "category", "标签", "类别", "分类", "病种", "疾病标签", "诊断标签"),
    "left_labels": ("labels left", "left class", "左眼标签", "左眼类别"),
    "right_labels": ("labels right", "right class", "右眼标签", "右眼类别"),
    "categories": ("class", "类别", "分类"),
    "split": ("subset", "partition", "划分", "数据集划分", "子集"),
    "group": ("group id", "分组", "组别"),
}  # fmt: skip

#: What may be a patient's id where nothing else is one.
_MAY_BE_IDS = ("id", "case_id", "case", "mrn", "name", "编号", "姓名", "住院号", "门诊号", "检查号")

#: Words that say of an eye or an image that it is one.
_OF_PICTURES = frozenset(
    ["eye", "image", "img", "picture", "photo", "photograph", "fundus", "path", "file", "filename",
     "name", "jpg", "png"]
)  # fmt: skip


def meant(column: str, known: Iterable[str]) -> str | None:
    """Finds the known column of which a strange one is a spelling, plural or common name.

    Args:
      column: its name in a table.
      known: names to compare with, in order of preference.

    Returns:
      its known name; None where it is none.
    """
    said = _words(column)
    if not said:
        return None
    for name in known:
        names = [_words(other) for other in (name, *OTHER_NAMES.get(name, ()))]
        if said in names or _plain(said) in map(_plain, names):
            return name
        of_picture = [word for word in said if word not in _OF_PICTURES]
        if name in ("left", "right") and of_picture in names:
            return name
        if name == "image" and not of_picture:
            return name
        if _is_misspelled("".join(said), "".join(names[0])):
            return name
    return None


def closest(column: str, columns: Sequence[str]) -> str | None:
    """Finds the column that may be meant by a wanted one that is not there.

    Args:
      column: the wanted name.
      columns: names that a table has.

    Returns:
      its name in the table; None where none is close.
    """
    spelled = next((name for name in columns if meant(name, [column])), None)
    if spelled is None and column == "patient_id":
        spelled = next((name for name in columns if name.casefold() in _MAY_BE_IDS), None)
    if spelled:
        return spelled
    close = difflib.get_close_matches(column.casefold(), [n.casefold() for n in columns], n=1)
    return next((name for name in columns if close and name.casefold() == close[0]), None)


def _words(name: str) -> list[str]:
    """The words of a name in small letters, plurals without their s."""
    name = unicodedata.normalize("NFKC", name)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W_]+", name.casefold())
    return [word[:-1] if re.fullmatch(r"\w{2,}[^sui]s", word) else word for word in words]


def _plain(words: list[str]) -> str:
    joined = "".join(words)
    return {"categorie": "category", "classe": "class"}.get(joined, joined)


def _is_misspelled(said: str, name: str) -> bool:
    if len(name) < 4 or said[:1] != name[:1]:
        return False
    exchanged = sorted(said) == sorted(name)
    return exchanged or difflib.SequenceMatcher(None, said, name).ratio() > 0.87
