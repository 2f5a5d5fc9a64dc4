"""Rows of images whose source names cases: their reports are joined, and their faults said."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from retfm_jax.data.building.rows import ImageRow, PatientRow, Row
from retfm_jax.data.building.validation import LEFT_OUT, ProblemLog
from retfm_jax.data.words import STOP, clean
from retfm_jax.errors import first_of

#: Longer reports are named: most are a table's wrong quotes.
_LONG = 1000
_KNOWN_LETTERS = re.compile(r"[A-Za-z\u00aa-\u024f\u1e00-\u1eff\u3400-\u9fff\uf900-\ufaff]")
_NAMED = 5

#: The group and the name of a case, which is one among those of its group.
CaseName = tuple[str, str]


def grouped(rows: Sequence[Row], problems: ProblemLog) -> list[Row]:
    """Copies rows, each case of which nobody names the patient as a group of its own.

    Args:
      rows: of patients or images, of all splits.
      problems: takes a note where there are such cases.
    """
    alone = {row.case for row in rows if isinstance(row, ImageRow) and row.case and not row.group}
    if alone:
        problems.notes.append(
            f"{len(alone)} cases name no patient: each counts as one, and those of one person may "
            "be in different splits"
        )
    return [
        dataclasses.replace(row, group=row.case)
        if isinstance(row, ImageRow) and row.case and not row.group
        else row
        for row in rows
    ]


def joined(rows: Sequence[Row], problems: ProblemLog) -> list[Row]:
    """Gives every image of a case the report of the case, where the source names cases.

    A report may stand beside one image of a case only. Of several reports of a case the first one
    stays; a case without any is one problem, and its images are kept for their labels.

    Args:
      rows: of patients or images, of all splits, their groups known.
      problems: takes second and missing reports.

    Returns:
      the rows that are left, in their order.
    """
    members: dict[CaseName, list[ImageRow]] = {}
    named = False
    for row in rows:
        named = named or (isinstance(row, ImageRow) and row.case is not None)
        if isinstance(row, ImageRow) and row.case:
            members.setdefault((row.group, row.case), []).append(row)
    if not named:
        return list(rows)
    reports = {name: _report(name[1], of_case, problems) for name, of_case in members.items()}
    _note_ambiguous(members, problems)
    kept: list[Row] = []
    for row in rows:
        if not isinstance(row, ImageRow) or not row.case:
            kept.append(dataclasses.replace(row, case="") if isinstance(row, ImageRow) else row)
            continue
        report = reports[row.group, row.case]
        if report or not row.wants_report or _has_labels(row):
            kept.append(dataclasses.replace(row, caption=report, wants_report=False))
    return kept


def _report(case: str, members: Sequence[ImageRow], problems: ProblemLog) -> dict[str, str]:
    found: dict[str, tuple[str, ImageRow]] = {}
    for row in members:
        for code, text in row.caption.items():
            said, first = found.setdefault(code, (text, row))
            if said != text:
                what = f"another report of case {case!r} than in row {first.row} of {first.file}"
                problems.add("second_report", row, what, "the first report stays")
    if not found and members[0].wants_report:
        kept = any(map(_has_labels, members))
        remedy = "images with labels are kept" if kept else f"its {len(members)} images left out"
        problems.add("empty_report", members[0], f"case {case!r} has no report", remedy)
    return {code: text for code, (text, _) in found.items() if text}


def _has_labels(row: ImageRow) -> bool:
    return row.labels is not None or bool(row.categories)


def _note_ambiguous(names: Iterable[CaseName], problems: ProblemLog) -> None:
    groups: dict[str, set[str]] = collections.defaultdict(set)
    for group, case in names:
        groups[case].add(group)
    several = [case for case, of_case in groups.items() if len(of_case) > 1]
    if several:
        problems.notes.append(
            f"{len(several)} names of cases come with several patients, each of whom has a case of "
            f"that name: {first_of(several, _NAMED)}"
        )


def note_reports(rows: Iterable[Row], problems: ProblemLog) -> None:
    """Names reports that are suspiciously long, or in a language that nothing here reads.

    Args:
      rows: of patients or images.
      problems: takes one problem for a row of the source.
    """
    seen: set[tuple[str, int]] = set()
    for row in rows:
        if (row.file, row.row) in seen:
            continue
        seen.add((row.file, row.row))
        texts = row.report if isinstance(row, PatientRow) else row.caption
        for text in texts.values():
            if len(text) > _LONG and (words := _count(text)) > _LONG:
                what = f"a report of {words:,} words: does it hold those of other rows?"
                problems.add("long_report", row, what, "kept; training cuts it")
            if not text.isascii() and _is_of_other_letters(text):
                what = "a report in letters that are neither Latin nor Chinese"
                problems.add("unknown_language", row, what, "kept; nothing here finds conditions")


def _count(text: str) -> int:
    return sum(word != STOP for word in clean(text))


def _is_of_other_letters(text: str) -> bool:
    known = len(_KNOWN_LETTERS.findall(text))
    return sum(map(str.isalpha, text)) > 2 * known


def images_of(rows: Iterable[Row]) -> dict[CaseName, list[str]]:
    """Lists the images of every case.

    Args:
      rows: of patients or images.

    Returns:
      case -> the record ids of its images, of rows whose source names cases.
    """
    images: dict[CaseName, list[str]] = {}
    for row in rows:
        if isinstance(row, ImageRow) and row.case:
            images.setdefault((row.group, row.case), []).append(row.record_id)
    return images


def note_lost(images: Mapping[CaseName, Sequence[str]], problems: ProblemLog) -> None:
    """Notes the cases of which no image can be read.

    Args:
      images: as `images_of` lists them.
      problems: those of all images; takes the note.
    """
    gone = {each.record for each in problems.problems if each.remedy == LEFT_OUT}
    lost = [name[1] for name, of_case in images.items() if gone.issuperset(of_case)]
    if lost:
        problems.notes.append(
            f"{len(lost)} of {len(images)} cases have no readable image and are left out: "
            f"{first_of(lost, _NAMED)}"
        )
