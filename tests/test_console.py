"""What is printed stands there as it is, whole, whatever it holds and wherever it goes."""

import io
import subprocess
import sys

import pytest

from retfm_jax.cli.tables import Table
from retfm_jax.console import fitting, say


@pytest.mark.parametrize(
    "text",
    [
        "datasets[/x]/[bold]run[/] :smile:",
        "[/b]",
        "\\[red]",
        "$\\frac{a}{b}$",
        "右眼［］",
        "a" * 500,
    ],
)
def test_text_is_no_markup_and_is_not_cut(capsys, text):
    say(text, style="bold")
    table = Table(text, ["name", "auroc"])
    table.row(text, "0.980 ± 0.020", style="red")
    table.show()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == text
    assert text in lines
    assert sum(line.startswith(text) and line.endswith("0.980 ± 0.020") for line in lines) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\u2066left\u2069", "\\u2066left\\u2069"),
        ("\u200fright", "\\u200fright"),
        ("nor\u200bmal", "nor\\u200bmal"),
        ("\ufeffnormal", "\\ufeffnormal"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("\x1b[31m\x07", "\\x1b[31m\\x07"),
        ("شبكية טבעת 👩\u200d⚕ é", "شبكية טבעת 👩\u200d⚕ é"),
    ],
)
def test_marks_of_direction_and_of_nothing_are_seen(capsys, name, shown):
    say(name)
    assert capsys.readouterr().out == f"{shown}\n"


def test_a_narrow_terminal_cuts_nothing(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    table = Table("", ["class", *(f"recall\nat {k}" for k in range(12))])
    for name in ("non_proliferative_diabetic_retinopathy", "眼底出血"):
        table.row(name, *["0.123 (0.100-0.200)"] * 12)
    table.show()
    shown = capsys.readouterr().out
    assert shown.count("0.123 (0.100-0.200)") == 24
    assert "…" not in shown
    assert "non_proliferative_diabetic_retinopathy" in shown


def test_columns_stand_under_their_heads():
    table = Table("", ["class", "of\nall", "where"], words=["where"])
    table.row("黄斑", 7, "b")
    table.section()
    table.row("a", 1234, "longer")
    assert str(table).splitlines() == [
        "         of",
        "class   all  where",
        "───────────────────",
        "黄斑      7  b",
        "───────────────────",
        "a      1234  longer",
    ]
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        table.row("a", "b")


def test_control_characters_do_not_reach_the_terminal(capsys):
    say("red\x1b[31m", "bell\a", "back\rspace", "lone \udc80 surrogate", "two\nlines\tand a tab")
    table = Table("", ["name"])
    table.row("one\ncell")
    table.show()
    shown = capsys.readouterr().out
    assert "red\\x1b[31m\nbell\\x07\nback\\rspace\nlone \\udc80 surrogate\n" in shown
    assert "two\nlines\tand a tab" in shown
    assert "one\\ncell" in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_takes_every_text(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    for text in ("0.98 ± 0.02", "视盘", "–", "é", "a"):
        stream.write(fitting(text, stream))
    assert fitting("plain", stream) == "plain"
    assert fitting("0.98 ± 0.02 é", io.TextIOWrapper(io.BytesIO(), "ascii")) == "0.98 +- 0.02 \\xe9"


def test_a_table_in_ascii():
    code = (
        "from retfm_jax.cli.tables import Table; from retfm_jax.console import say\n"
        "table = Table('中文', ['name', 'value']); table.row('眼', '1 ± 2'); table.show()\n"
        "say('\\udcff', error=True)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "1 +- 2" in result.stdout
    assert "\\u773c" in result.stdout
