"""Spreadsheets: what their cells show, and what they do not show."""

import datetime

import openpyxl
import pytest

from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import manifest, tables
from retfm_jax.errors import UserError


def write(tmp_path, *rows, change=lambda book: None):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    change(book)
    path = tmp_path / "m.xlsx"
    book.save(path)
    return path


def read(path):
    problems = ProblemLog()
    table = tables.read_xlsx(path, problems)
    return [list(line.cells.values()) for line in table.rows], problems


def test_cells_are_the_text_that_they_show(tmp_path):
    def zeros(book):
        book.active["A3"].number_format = "00000"

    path = write(
        tmp_path,
        ["patient_id", " left ", None],
        [123, "a.jpg"],
        [123, "b.jpg"],
        [123.0, 0.5],
        ["00123", "#N/A"],
        [12345678901234567, True],
        [],
        [datetime.datetime(2020, 1, 2), "　c.jpg "],
        change=zeros,
    )
    rows, problems = read(path)
    assert rows == [
        ["123", "a.jpg"], ["00123", "b.jpg"], ["123", "0.5"], ["00123", "#N/A"],
        ["1.23456789012346E+16", "True"], ["2020-01-02", "c.jpg"],
    ]  # fmt: skip
    assert "1 dates in column 'patient_id'" in problems.notes[0]


def test_what_is_not_shown_is_said(tmp_path):
    def change(book):
        sheet = book.active
        sheet.merge_cells("A2:A3")
        sheet.row_dimensions[4].hidden = True
        book.create_sheet("notes")

    head = ["patient_id", "left"]
    path = write(tmp_path, head, ["p1", "a"], [None, "b"], ["p2", "c"], ["p3", '=A2&".jpg"'],
                 ["p4", "d", "e"], change=change)  # fmt: skip
    rows, problems = read(path)
    assert rows == [["p1", "a"], ["p1", "b"], ["p2", "c"]]
    assert [(p.row, p.what[:24]) for p in problems.problems] == [
        (5, "the value of the formula"), (6, "3 cells where the header")
    ]  # fmt: skip
    for words in ("1 hidden rows", "1 merged cells", "1 other sheets"):
        assert words in problems.notes[0]


def test_a_manifest_may_be_a_spreadsheet(tmp_path):
    rows = [["patient_id", "left", "report", "labels"], [7, "a.jpg", "左眼玻璃膜疣", "drusen"]]
    found, unread = manifest.read_manifest(write(tmp_path, *rows), tmp_path, ProblemLog())
    assert (found[0].record_id, found[0].report, found[0].labels, unread) == (
        "7", {"zh": "左眼玻璃膜疣"}, ("drusen",), []
    )  # fmt: skip


def test_what_is_no_spreadsheet_is_said(tmp_path):
    path = tmp_path / "m.xlsx"
    for content in (b"", b"PK\x03\x04", b"patient_id,left\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"m.xlsx cannot be read as a spreadsheet"):
            read(path)
    with pytest.raises(UserError, match="is empty"):
        read(write(tmp_path))
    with pytest.raises(UserError, match="'a' occurs twice"):
        read(write(tmp_path, ["a", "a"]))


def test_titles_cover_sheets_and_escapes_of_excel(tmp_path):
    def change(book):
        book.active["A1"] = "read me first"
        data = book.create_sheet("data")
        data.append(["Patients of 2020"])
        data.merge_cells("A1:C1")
        data.append(["patient_id", "left", "report"])
        data.append([1, "a.jpg", "one_x000D_\ntwo _x005F_"])

    rows, problems = read(write(tmp_path, change=change))
    assert rows == [["1", "a.jpg", "one\r\ntwo _"]]
    assert "1 rows above its header (passed over)" in problems.notes[0]
    assert "1 other sheets (passed over)" in problems.notes[0]
