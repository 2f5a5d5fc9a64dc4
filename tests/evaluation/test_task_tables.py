"""Classes of a task are what its file and its tables call them, letter by letter."""

import numpy as np
import openpyxl
import pytest
from colour_world import photograph

from retfm_jax.data import tasks
from retfm_jax.data.building import patients
from retfm_jax.errors import UserError


def task_of(folder, names, cells, suffix=".csv"):
    """A task with a class for every name, and a table with a row for every cell."""
    folder.mkdir(exist_ok=True)
    rows = [["image", "grade"], *([f"{n}.png", cell] for n, cell in enumerate(cells))]
    for number in range(len(cells)):
        (folder / f"{number}.png").write_bytes(photograph("drusen", np.random.default_rng(number)))
    if suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(folder / "t.xlsx")
    else:
        (folder / "t.csv").write_text("".join(f"{image},{cell}\n" for image, cell in rows))
    classes = "".join(f"  class_{n}: {name}\n" for n, name in enumerate(names))
    table = f"{{file: t{suffix}, images: ., image: image, label: grade}}"
    (folder / "own.yaml").write_text(f"classes:\n{classes}tables:\n  test: {table}\n")
    source = tasks.open_task(str(folder / "own.yaml"), "test", str(folder))
    return [int(np.flatnonzero(source[index].labels)[0]) for index in range(len(source))]


@pytest.mark.parametrize(
    "names",
    [
        ["No", "Yes"], ["no", "yes"], ["On", "Off"], ["y", "n"], ["true", "false"],
        ["None", "NA"], ["N/A", "nan"], ["NULL", "Null"], ["01", "02"], ["1.0", "2.0"],
        ["0", "1"], ["1e3", "0x1f"], ["2024-01-02", "12:30:45"], ["1_000", ".5"], ["N", "A"],
        ["-1", "+1"], ["'-'", "'+'"],
    ],
)  # fmt: skip
def test_names_of_classes_are_taken_as_written(tmp_path, names):
    written = [name.strip("'") for name in names]
    assert task_of(tmp_path, names, written * 2) == [0, 1, 0, 1]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_numbers_of_a_spreadsheet_are_grades(tmp_path, suffix):
    assert task_of(tmp_path / "a", ["0", "1", "2"], [0.0, 2.0, 1], suffix) == [0, 2, 1]
    # Rows without a grade are no rows; a name that is no class is.
    assert task_of(tmp_path / "b", ["No", "Yes"], ["YES", "nan", "", "no", "-"], suffix) == [1, 0]
    with pytest.raises(UserError, match=r"row 3: 'Maybe' is none of No, Yes"):
        task_of(tmp_path / "c", ["No", "Yes"], ["No", "Maybe"], suffix)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("classes: {a: null, b: x}\nfiles: {test: {a: '*', b: '*'}}\n", "'a' is None: put"),
        ("classes: {a: [x], b: x}\nfiles: {test: {a: '*', b: '*'}}\n", "'a' is .*: put"),
        ("classes: {a: x, a: y}\nfiles: {test: {a: '*'}}\n", "the key 'a' occurs twice"),
        (
            "classes: {a: x, b: y}\nfiles: {test: {a: '*', b: '*'}}\nshares: {train: many}\n",
            "shares",
        ),
        ("classes: {a: x, b: y}\ndataset: d\nper_class: x\n", "`per_class` is a number"),
        ("classes: {a: x, b: y}\ndataset: d\nalone: maybe\n", "`alone` is true or false"),
        ("[" * 1000, "nested too deeply"),
    ],
)
def test_what_a_task_gets_wrong_is_said(tmp_path, task, words):
    path = tmp_path / "own.yaml"
    path.write_text(task)
    with pytest.raises(UserError, match=words) as said:
        tasks.open_task(str(path), "test", str(tmp_path))
    assert str(path) in str(said.value)


def test_an_empty_cell_is_nobodys_eye_and_no_patient(tmp_path):
    (tmp_path / "pairs.csv").write_text("left,right\na.jpg,nan\nb.jpg,nan\nc.jpg,d.jpg\nNone,\n")
    found = patients.read_pairs(tmp_path / "pairs.csv")
    assert found["a.jpg"] != found["b.jpg"]
    assert found["c.jpg"] == found["d.jpg"]
    assert set(found) == {"a", "a.jpg", "b", "b.jpg", "c", "c.jpg", "d", "d.jpg"}
    (tmp_path / "pairs.csv").unlink()
    (tmp_path / "t.csv").write_text("image,patient_id\na.jpg,p1\nb.jpg,NULL\nnan,p2\nc.jpg,p1 \n")
    assert patients.read_tables(tmp_path)[0].items() >= {"a.jpg": "p1", "c.jpg": "p1"}.items()
    assert "b.jpg" not in patients.read_tables(tmp_path)[0]
