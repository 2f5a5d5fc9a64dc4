"""Tables as people have them: no row is swallowed, no text is taken for what nobody wrote."""

import csv
import io
import json
import random
import time

import pytest

from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import encodings, tables
from retfm_jax.errors import UserError

HEADER = "patient_id,left,right,report\n"


def read(tmp_path, content: str | bytes, name: str = "m.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems = ProblemLog()
    table = tables.read_csv(path, problems, **options)
    return table, problems.problems


def ids(table) -> list[str]:
    return [line.cells["patient_id"] for line in table.rows]


def row(number: int, report: str) -> str:
    return f"{number:03},{number}_l.jpg,{number}_r.jpg,{report}\n"


@pytest.mark.parametrize(
    ("faulty", "kept"),
    [
        ('"Right eye: cup 0.7, thin rim', False),  # never closed
        ('"Right eye""', False),  # closed by a doubled one
        ('Right eye "', True),  # within a cell: as it stands
        ('drusen of 5" size', True),
        ('"so-called "cotton wool" spots"', True),
        ('"drusen" in the left eye', True),
    ],
)
@pytest.mark.parametrize("behind", ["plain", "quoted", "quoted lines"])
@pytest.mark.parametrize("last", [False, True])
def test_a_wrong_quote_costs_no_other_row(tmp_path, faulty, kept, behind, last):
    report = {"plain": "fine", "quoted": '"fine, both"', "quoted lines": '"fine,\nboth, \nok"'}
    others = [row(number, report[behind]) for number in (3, 4, 5, 6)]
    rows = [row(1, "fine"), row(2, faulty)]
    text = HEADER + "".join(others + rows if last else rows + others)
    table, problems = read(tmp_path, text)
    found = ids(table)
    assert {"001", "003", "004", "005", "006"} <= set(found)
    assert ("002" in found) == kept
    line = 1 + (text[: text.index("002,")]).count("\n")
    if not kept:
        assert [(p.kind, p.row) for p in problems[:1]] == [("unreadable_row", line)]
        assert "quote" in problems[0].what
    assert all(p.row >= line for p in problems)


def test_reports_of_several_lines_stay_one_cell(tmp_path):
    reports = [
        "Left eye: drusen,\nfew, small, soft\nRight eye: normal",
        'a "quoted" word\r\nand, more',
        "1, 2, 3, 4\n5\n\n6",
        "a\rb",
        "x" * 100_000,
    ]
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["patient_id", "left", "right", "report"])
    writer.writerows([[f"p{n}", f"{n}_l.jpg", "", text] for n, text in enumerate(reports)])
    table, problems = read(tmp_path, file.getvalue())
    assert problems == []
    assert [line.cells["report"] for line in table.rows] == reports
    assert [line.row for line in table.rows] == [2, 5, 7, 11, 13]


def test_what_csv_writes_is_read_back(tmp_path):
    rng = random.Random(0)
    words = ["drusen", '"', '""', ",", "\n", "5", "；", "左眼", " ", ";", "'", "\r\n", "a, b"]
    rows = []
    for number in range(300):
        text = "".join(rng.choices(words, k=8)).strip()
        rows.append([f"p{number}", f"{number}.jpg", f"r{number}.jpg", text])
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([HEADER.strip().split(","), *rows])
    table, problems = read(tmp_path, file.getvalue())
    assert problems == []
    assert [list(line.cells.values()) for line in table.rows] == rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_ends_a_line(tmp_path, end):
    table, problems = read(tmp_path, (HEADER + row(1, "a") + row(2, "b")).replace("\n", end))
    assert (ids(table), problems) == (["001", "002"], [])
    assert [line.row for line in table.rows] == [2, 3]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_the_separator_is_told_from_the_rows(tmp_path, delimiter, name):
    columns = ["patient_id", "left", "report; and, more|so"]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    rows = [[f"p{n}", f"{n}.jpg", ", ".join("abcdef"[:n])] for n in range(1, 6)]
    writer.writerows([columns, *rows])
    table, problems = read(tmp_path, file.getvalue(), name)
    assert (table.columns, problems) == (tuple(columns), [])
    assert [list(line.cells.values()) for line in table.rows] == rows
    table, _ = read(tmp_path, f"sep={delimiter}\n" + file.getvalue(), name)
    assert table.columns == tuple(columns)
    assert table.rows[0].row == 3


def test_what_is_wrong_with_a_row_is_said_with_its_line(tmp_path):
    text = HEADER + row(1, "a") + "002,x\n" + "\n ,\n" + row(3, "a,b") + HEADER + row(4, "d,,,")
    table, problems = read(tmp_path, text)
    assert ids(table) == ["001", "004"]
    assert [(p.row, p.what) for p in problems] == [
        (3, "2 cells where the header names 4 columns"),
        (6, "5 cells where the header names 4 columns"),
        (7, "the header again"),
    ]


def test_a_table_of_wrong_quotes_is_read_in_little_time(tmp_path):
    began = time.monotonic()
    for line in ('1,a.jpg,b.jpg,"""x\n', '1,a.jpg,b.jpg,"x\n'):
        read(tmp_path, HEADER + line * 5_000)
    assert time.monotonic() - began < 30


def test_a_header_that_is_no_header_is_said(tmp_path):
    with pytest.raises(UserError, match="the header: a quote is opened and never closed"):
        read(tmp_path, '"patient_id,left\n1,a.jpg\n')
    with pytest.raises(UserError, match="is empty"):
        read(tmp_path, "")
    with pytest.raises(UserError, match=r"'a' occurs twice"):
        read(tmp_path, "a,b,\ufeffa\n")


CHINESE = HEADER + row(1, "左眼玻璃膜疣，右眼视盘边界清。") + row(2, "双眼眼底未见明显异常")
TRADITIONAL = HEADER + row(1, "左眼視網膜出血，右眼視盤邊界清。") + row(2, "雙眼眼底未見明顯異常")
SPANISH = HEADER + row(1, "Retinopatía diabética leve") + row(2, "Excavación en ojo izquierdo")
GERMAN = (
    HEADER + row(1, "Netzhautablösung") + row(2, "große Exkavation, über Drüsen".replace(",", ""))
)
FRENCH = HEADER + row(1, "Œdème maculaire à gauche") + row(2, "décollement de rétine")
KOREAN = HEADER + row(1, "오른쪽 눈 망막 출혈") + row(2, "정상 소견입니다")
JAPANESE = HEADER + row(1, "右眼に出血を認める") + row(2, "網膜剥離の所見なし")
RUSSIAN = HEADER + row(1, "Левый глаз: друзы") + row(2, "отек макулы")
GREEK = HEADER + row(1, "αριστερό μάτι") + row(2, "φυσιολογικό")


@pytest.mark.parametrize(
    ("text", "encoding", "offer"),
    [
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE, "gbk", "gb18030"),
        (TRADITIONAL, "big5", "big5"),
        (SPANISH, "cp1252", "cp1252"),
        (SPANISH, "latin-1", "cp1252"),
        (GERMAN, "cp1252", "cp1252"),
        (FRENCH, "cp1252", "cp1252"),
        (KOREAN, "euc_kr", "euc_kr"),
        (JAPANESE, "shift_jis", "shift_jis"),
        (RUSSIAN, "cp1251", None),
        (GREEK, "cp1253", None),
        (SPANISH, "mac_roman", None),
        (CHINESE, "utf-16-le", "utf-16-le"),
        (CHINESE, "utf-16-be", "utf-16-be"),
    ],
)
def test_an_encoding_is_offered_where_its_reading_is_a_language(tmp_path, text, encoding, offer):
    with pytest.raises(UserError, match=r"m.csv row \d is not utf-8|m.csv holds more") as said:
        read(tmp_path, text.encode(encoding), encoding="utf-8")
    assert (f"name the encoding {offer}" if offer else "name its encoding") in str(said.value)
    if offer:
        table, _ = read(tmp_path, text.encode(encoding), encoding=offer)
        assert table.rows == read(tmp_path, text)[0].rows
    with pytest.raises(UserError, match="save it as UTF-8") as said:
        read(tmp_path, text.encode(encoding))  # a reader that cannot be told another one
    assert "its encoding" not in str(said.value)


@pytest.mark.parametrize(
    ("text", "written", "read_as"),
    [
        (SPANISH, "cp1252", "gb18030"),
        (CHINESE, "utf-8", "gb18030"),
        (CHINESE, "utf-8", "cp1251"),
        (CHINESE, "utf-8", "latin-1"),
        (CHINESE, "gb18030", "latin-1"),
        (CHINESE, "gb18030", "cp1252"),
        (TRADITIONAL, "big5", "gb18030"),
        (TRADITIONAL, "big5", "latin-1"),
        (SPANISH, "utf-8", "latin-1"),
        (GERMAN, "utf-8", "cp1252"),
        (FRENCH, "utf-8", "gb18030"),
        (RUSSIAN, "utf-8", "cp1251"),
        (JAPANESE, "shift_jis", "gb18030"),
        (GREEK, "cp1253", "gb18030"),
    ],
)
def test_a_named_encoding_that_is_not_the_files_is_refused(tmp_path, text, written, read_as):
    with pytest.raises(UserError, match=r"nobody writes|misread|is not gb18030|is not cp125"):
        read(tmp_path, text.encode(written), encoding=read_as)


@pytest.mark.parametrize(
    ("text", "written", "read_as"),
    [(CHINESE, "utf-8", "gb18030"), (SPANISH, "utf-8", "cp1252"), (CHINESE, "gb18030", "latin-1"),
     (SPANISH, "cp1252", "gb18030")],
)  # fmt: skip
def test_text_that_was_damaged_before_is_refused(tmp_path, text, written, read_as):
    damaged = text.encode(written).decode(read_as, "replace")
    with pytest.raises(UserError, match="damaged when it was saved in another encoding"):
        read(tmp_path, damaged)
    with pytest.raises(UserError, match="damaged when it was saved in another encoding"):
        read(tmp_path, text.encode("ascii", "replace").replace(b"?", "\ufffd".encode()))


def test_letters_that_became_question_marks_are_said(tmp_path):
    lost = CHINESE.encode("ascii", "replace").decode()
    with pytest.raises(UserError, match="column 'report' holds question marks in place"):
        read(tmp_path, lost)
    table, problems = read(tmp_path, HEADER + row(1, "???glaucoma") + row(2, "?") + row(3, "???"))
    assert (len(table.rows), problems) == (3, [])


def test_a_row_with_characters_that_were_lost_is_named(tmp_path):
    text = CHINESE + row(3, "左眼\ufffd璃膜疣")
    table, (problem,) = read(tmp_path, text)
    assert len(table.rows) == 3
    assert (problem.kind, problem.row, problem.record) == ("damaged_text", 4, "003")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("named", [None, "utf-8", "gb18030"])
def test_a_mark_says_the_encoding(tmp_path, encoding, named):
    table, problems = read(tmp_path, CHINESE.encode(encoding), encoding=named)
    assert table.columns[0] == "patient_id"
    assert (table.rows, problems) == (read(tmp_path, CHINESE)[0].rows, [])


@pytest.mark.parametrize("text", [CHINESE, TRADITIONAL, SPANISH, GERMAN, FRENCH, KOREAN, JAPANESE,
                                  RUSSIAN, GREEK, HEADER + row(1, "5° µm ≥ “drusen” – ok… 王喆"),
                                  HEADER + row(1, "C/D比0.5，OCT示IOL在位VA0.5")])  # fmt: skip
def test_text_in_utf8_is_taken_in_every_language(tmp_path, text):
    table, problems = read(tmp_path, text)
    assert problems == []
    assert not encodings.is_debris(text)
    assert table.rows


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04xx", b"\xd0\xcf\x11\xe0\xa1\xb1", b"\x1f\x8b\x08\0", b"\0" * 100]
)
def test_what_is_no_text_is_said(tmp_path, content):
    with pytest.raises(UserError, match=r"not text|holds more than text"):
        read(tmp_path, content)
    with pytest.raises(UserError, match=r"cannot read .*absent"):
        tables.read_csv(tmp_path / "absent.csv", ProblemLog())
    with pytest.raises(UserError, match="is a folder, not a file"):
        tables.read_csv(tmp_path, ProblemLog())


@pytest.mark.parametrize("name", ["none", "base64", "rot13", "idna", "a\0b", ""])
def test_an_encoding_that_is_none_is_said(tmp_path, name):
    with pytest.raises(UserError, match=r"encoding|not idna"):
        read(tmp_path, SPANISH, encoding=name or "x")


def test_lines_of_json_that_do_harm_cost_themselves_only(tmp_path):
    lines = [
        '{"patient_id": "a", "report": "x"}',
        '{"patient_id": "b", "report": "\\ud800"}',
        '{"patient_id": "c", "patient_id": "d"}',
        '{"patient_id": ' + "[" * 100_000,
        '{"patient_id": ' + "9" * 5000 + "}",
        "[1]",
        '{"patient_id": "e", "report": "\\ud83d\\ude00"}',
    ]
    path = tmp_path / "m.jsonl"
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(end.join(lines).encode())
        problems = ProblemLog()
        table = tables.read_jsonl(path, problems)
        assert [line.cells["patient_id"] for line in table.rows] == ["a", "e"]
        assert table.rows[1].cells["report"] == "😀"
        assert [p.row for p in problems.problems] == [2, 3, 4, 5, 6]
    path.write_text(json.dumps([{"patient_id": "a"}], indent=1))
    with pytest.raises(UserError, match="is a JSON list; write JSON Lines"):
        tables.read_jsonl(path, ProblemLog())
