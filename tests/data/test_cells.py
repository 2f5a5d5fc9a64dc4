"""What a cell says: the spellings of nothing, of lists and of names, as programs write them."""

import csv
import io
import json
import time

import numpy as np
import pandas as pd
import pytest

from retfm_jax.data import cells
from retfm_jax.errors import UserError
from retfm_jax.knowledge.vocabulary import load_vocabulary
from retfm_jax.parsing import parse_json, read_yaml


def known(name: str) -> bool:
    return load_vocabulary().find(name) is not None


@pytest.mark.parametrize(
    "cell",
    [
        None, float("nan"), str(float("nan")), str(None), str(pd.NA), str(pd.NaT), str(np.nan),
        "", " ", "\t", "\u3000", "\u200b", "\ufeff", "\xa0", "NaN", "NULL", "null", "N/A", "n/a",
        "NA", "#N/A", "#VALUE!", "#REF!", "#DIV/0!", "#NAME?", "<NA>", "-", "--", "—", "–", "－",
        "...", "?", "/", "无", "空", "　无　", "ＮＡ", "None", "none", "nil", "\\N", "undefined",
        "\u200bnan\u200b", "#ｎ/ａ", "-1.#IND", "(null)",
    ],
)  # fmt: skip
def test_nothing_is_written_in_many_ways(cell):
    assert cells.is_empty(cell)
    assert cells.text(cell) == ""
    if cell != "none":
        assert cells.names(cell, "labels", known) is None


@pytest.mark.parametrize(
    "cell", ["0", "No", "no", "Off", "无异常", "无明显异常", "normal", "DR", "nanophthalmos",
             "空泡", "Nil significant", "none seen", "left", "1.0", "眼"]
)  # fmt: skip
def test_what_says_something_stays(cell):
    assert not cells.is_empty(cell)
    assert cells.text(cell) == cell


def test_blanks_take_no_time_wherever_they_stand():
    began = time.thread_time()  # of this thread alone: a busy machine fails nobody
    assert len(cells.text("a" + " \u3000" * 500_000 + "b" + "\u200b" * 500_000)) == 1_000_002
    assert time.thread_time() - began < 2
    assert not [chr(code) for code in range(0x110000)
                if chr(code).isspace() and cells.strip(chr(code))]  # fmt: skip


def test_nobody_looked_is_not_nothing_found():
    assert cells.names("none", "labels") == ()
    assert cells.names(" NONE ", "labels") == ()
    assert cells.names([], "labels") == cells.names("[]", "labels") == ()
    assert cells.names(["none"], "labels") == ()
    # str(None), as pandas writes a missing value.
    assert cells.names("None", "labels") is None
    assert cells.names([None], "labels") is cells.names(["nan", ""], "labels") is None


@pytest.mark.parametrize(
    "cell",
    [
        "drusen;amd", "drusen; amd;", "drusen|amd", "drusen | amd", "drusen,amd", "drusen, amd",
        "drusen，amd", "drusen；amd", "drusen｜amd", "drusen、amd", "drusen/amd", "drusen／amd",
        "drusen; amd; drusen", "drusen;;amd", "drusen;nan;amd", "drusen\namd", "drusen,amd,",
        '["drusen", "amd"]', "['drusen', 'amd']", "['drusen' 'amd']", "['drusen'\n 'amd']",
        "('drusen', 'amd')", '["drusen", null, "amd"]', "['drusen', 'nan', 'amd']",
        str(np.array(["drusen", "amd"])), str(["drusen", "amd"]), json.dumps(["drusen", "amd"]),
    ],
)  # fmt: skip
def test_lists_are_written_in_many_ways(cell):
    assert cells.names(cell, "labels", known) == ("drusen", "amd")


def test_a_set_is_read_in_an_order_that_stays():
    assert cells.names(str({"drusen", "amd", "edema"}), "labels") == ("amd", "drusen", "edema")


@pytest.mark.parametrize("cell", ["drusen+amd", "drusen & amd", "drusen and amd", "drusen amd",
                                  "drusen和amd", "drusen＋amd"])  # fmt: skip
def test_known_names_that_are_joined_are_no_name(cell):
    with pytest.raises(ValueError, match=r"labels: .* joins the names 'drusen' and 'amd'"):
        cells.names(cell, "labels", known)
    one = cells.knows_names([cell, "drusen", "amd"])
    with pytest.raises(ValueError, match="joins the names"):
        cells.names(cell, "labels", one)


def test_a_name_may_hold_what_separates_names():
    assert cells.names("Other diseases/abnormalities", "labels", known) == (
        "Other diseases/abnormalities",
    )
    assert cells.names('["AMD, dry", "N/A or so"]', "labels", known) == ("AMD, dry", "N/A or so")
    assert cells.names("AMD, dry; DR", "labels", known) == ("AMD, dry", "DR")
    assert cells.names("(mild)", "labels") == ("(mild)",)
    # An entry of a list shows that it is one name, wherever it stands afterwards.
    one = cells.knows_names(['["AMD, dry"]', "AMD", "dry"])
    assert cells.names("AMD, dry", "labels", one) == ("AMD, dry",)
    with pytest.raises(ValueError, match="may be one name or several"):
        cells.names("AMD, dry", "labels", known)


def test_commas_separate_names_that_other_cells_know():
    one = cells.knows_names(["foo", "bar", "foo, bar", "foo/bar"])
    assert cells.names("foo, bar", "labels", one) == ("foo", "bar")
    assert cells.names("foo/bar", "labels", one) == ("foo", "bar")
    beside = cells.knows_names(["foo,bar", "bar,baz", "baz,foo"])
    assert cells.names("foo,baz", "labels", beside) == ("foo", "baz")
    with pytest.raises(ValueError, match="may be one name or several"):
        cells.names("foo, qux", "labels", one)


@pytest.mark.parametrize(
    "cell", ["[drusen", "[drusen, amd]", '{"a": 1}', ["a", ["b"]], [True], [1.5], True, {"a": 1},
             ["a\rb"], ["a\nb"], ["a\u2028b"], ["a\x1cb"], "drusen;none", "[" * 5000]
)  # fmt: skip
def test_what_is_no_list_of_names_is_refused(cell):
    with pytest.raises(ValueError, match=r"labels|where text"):
        cells.names(cell, "labels", known)


def test_equal_ids_are_equal_in_every_form_of_unicode():
    assert cells.identifier("Jose\u0301 ") == cells.identifier("\ufeffJos\u00e9")
    assert cells.identifier(12) == "12"
    assert cells.names(["e\u0301", "\u00e9"], "labels") == ("\u00e9",)


def test_a_known_name_is_meant_as_it_is_written():
    names = ["No", "Yes", "None", "NA", "2", "-"]
    for name in names:
        assert cells.same_name(name, names) == name
    assert cells.same_name("YES ", names) == "Yes"
    assert cells.same_name("2.0", names) == cells.same_name("02", names) == "2"
    assert cells.same_name("nan", names) is None
    assert cells.same_name("", names) is None
    assert cells.same_name("a", ["A", "ａ"]) is None  # two could be meant


def test_yaml_is_taken_as_it_is_written(tmp_path):
    words = "yes no Yes No On Off y n true NULL None NA 1.0 01 1e3 0x1f 1_000 2024-01-02 12:30 .inf"
    path = tmp_path / "a.yaml"
    path.write_text("names: [" + words.replace(" ", ", ") + "]\nno: {on: ~, off: , e: null}\n")
    assert read_yaml(path) == {
        "names": words.split(),
        "no": {"on": None, "off": None, "e": None},
    }


def test_anchors_and_merges_of_yaml_work(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {image: x, label: y}\nb: {<<: *a, label: z}\n")
    assert read_yaml(path)["b"] == {"image": "x", "label": "z"}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]\n", "aliases"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("{" * 900, "nested too deeply"),
        ("- " * 5000 + "a", "nested too deeply"),
        ("? " * 5000 + "a", "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(900)), "nested too deeply"),
        ("# " + "x" * (1 << 22), "larger than 4 MiB"),
        ("a: 1\nb: 2\na: 3\n", "'a' occurs twice"),
        ('a: "\\ud800"\n', "half of a character"),
        ("!!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("a: [\n", "not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
        (b"a: \xff\xfe\xfd\n", "not valid YAML"),
        ("? [a]\n: b\n? {c: d}\n: e\n", "not valid YAML"),
        ("a: !!int x\n", "not valid YAML"),
    ],
)
def test_yaml_that_does_harm_is_named(tmp_path, content, words):
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words) as raised:
        read_yaml(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": "\\ud800"}', "half of a character"),
        ('{"\\udfff": 1}', "half of a character"),
        ("1" * 10_000, "integer"),
        ("{", "Expecting"),
    ],
)
def test_json_that_does_harm_is_named(source, words):
    with pytest.raises(ValueError, match=words):
        parse_json(source)
    assert parse_json('{"a": "\\ud83d\\ude00 眼"}') == {"a": "😀 眼"}


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "-x"]
)
def test_no_cell_that_we_write_is_a_formula(cell):
    file = io.StringIO(newline="")
    cells.write_csv(file, ["a", cell], [[cell, "b"]])
    written = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert written == [["a", f"'{cell}"], [f"'{cell}", "b"]]


def test_numbers_and_other_text_are_written_as_they_are():
    file = io.StringIO(newline="")
    row = [-0.5, 3, "-0.5", "+1e-3", "-.5", "a=b", '眼, "x"\ny', "", None, "x\udcff"]
    cells.write_csv(file, ["a"], [row])
    written = list(csv.reader(io.StringIO(file.getvalue(), newline="")))[1]
    assert written == ["-0.5", "3", "-0.5", "+1e-3", "-.5", "a=b", '眼, "x"\ny', "", "", r"x\udcff"]


def few(name: str) -> bool:
    return name in ("drusen", "glaucoma", "糖网", "青光眼", "近视伴弧形斑")


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("1、糖网 2、青光眼", ("糖网", "青光眼")),
        ("①糖网②青光眼", ("糖网", "青光眼")),
        ("(1) drusen (2) glaucoma", ("drusen", "glaucoma")),
        ("1.drusen;2.glaucoma", ("drusen", "glaucoma")),
        ("糖网。青光眼。", ("糖网", "青光眼")),
        ("drusen•glaucoma", ("drusen", "glaucoma")),
        ("drusen¦glaucoma", ("drusen", "glaucoma")),
        ("drusen﹔glaucoma", ("drusen", "glaucoma")),
        ("drusen､glaucoma", ("drusen", "glaucoma")),
        ("drusen﹐glaucoma", ("drusen", "glaucoma")),
        ("“drusen”，“glaucoma”", ("drusen", "glaucoma")),
        ("'drusen';'glaucoma'", ("drusen", "glaucoma")),
        ("array(['drusen', 'glaucoma'], dtype=object)", ("drusen", "glaucoma")),
        ("frozenset({'drusen'})", ("drusen",)),
        ("set()", ()),
        ("近视伴弧形斑", ("近视伴弧形斑",)),
        ("1. Mild", ("1. Mild",)),
        ("Stargardt's disease", ("Stargardt's disease",)),
    ],
)
def test_lists_as_people_number_quote_and_print_them(cell, wanted):
    assert cells.names(cell, "labels", few) == wanted


@pytest.mark.parametrize(
    "cell",
    ["drusen·glaucoma", "drusen<br>glaucoma", "drusen->glaucoma", "drusen with glaucoma",
     "糖网伴青光眼", "糖网合并青光眼", "糖网或青光眼", "drusen:glaucoma"],
)  # fmt: skip
def test_a_name_made_of_known_ones_is_a_problem(cell):
    with pytest.raises(ValueError, match="joins the names"):
        cells.names(cell, "labels", few)


@pytest.mark.parametrize("cell", ["drusen:1;glaucoma:0", "drusen=0", "drusen (1)", "糖网：否"])
def test_names_with_values_are_a_problem(cell):
    with pytest.raises(ValueError, match="a name with a value"):
        cells.names(cell, "labels", few)


def test_numbered_classes_stay_numbered():
    one = cells.knows_names(["1. Mild", "2. Moderate", "1. Mild; 2. Moderate"])
    assert cells.names("1. Mild; 2. Moderate", "labels", one) == ("1. Mild", "2. Moderate")


@pytest.mark.parametrize(
    "cell", ["#WERT!", "#NV", "#¡REF!", "#¿NOMBRE?", "#ZAHL!", '"NaN"', "'NA'", "No report", "k.A.",
             "未拍", "暂无报告", "なし", "N\\A"]
)  # fmt: skip
def test_nothing_in_other_languages_and_quotes_is_nothing(cell):
    assert cells.is_empty(cell)


@pytest.mark.parametrize("cell", ["#1!", "No reported lesions", "'n'a'", "未见出血", "#DR 2!"])
def test_what_only_begins_like_nothing_is_something(cell):
    assert not cells.is_empty(cell)
