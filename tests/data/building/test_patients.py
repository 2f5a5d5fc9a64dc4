"""Who the patient of a photograph is: columns, pairs, regular expressions, names of eyes."""

import pytest

from retfm_jax.data.building import patients
from retfm_jax.data.building.rows import FilePicture, ImageRow, PatientRow
from retfm_jax.data.building.splits import with_patients
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.errors import UserError


def groups(*names: str) -> list[set[str]]:
    """Photographs of one patient, as sets of names, in the order of the first of each."""
    found: dict[str, set[str]] = {}
    for name, patient in patients.identify(names).ids.items():
        found.setdefault(patient, set()).add(name)
    return list(found.values())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10_left.jpeg", "10_right.jpeg"),
        ("0/10_left.jpeg", "3/10_right.jpeg"),
        ("10_LEFT.JPG", "10_right.jpg"),
        ("RET002OD.jpg", "RET002OS.jpg"),
        ("265_l1.jpg", "265_r2.jpg"),
        ("Image_01L.jpg", "Image_01R.jpg"),
        ("left_12.png", "right_12.png"),
        ("P12_L_macula.png", "P12_R_disc.png"),
        ("p7-OD-2020.png", "p7-OS-2021.png"),
        ("patient 7 left eye.jpg", "patient 7 right eye (2).jpg"),
        ("normal/left/7.png", "normal/right/7.png"),
        ("CNV-1016042-1.jpeg", "CNV-1016042-2.jpeg"),
        ("患者3_左眼.jpg", "患者3_右眼.jpg"),
        ("张三左眼.jpg", "张三右眼.jpg"),
        ("pat12_RE.png", "pat12_LE.png"),
        ("51030 RF2 LE S.jpg", "51030 RF2 RE S.jpg"),
        ("R001.jpg", "L001.jpg"),
        ("left001.jpg", "right001.jpg"),
        ("smithOD.jpg", "smithOS.jpg"),
        ("001_OI.jpg", "001_OD.jpg"),
        ("7_links.jpg", "7_rechts.jpg"),
        ("7_LA.jpg", "7_RA.jpg"),
        ("001 (OD).jpg", "001 (OS).jpg"),
        ("001(L).jpg", "001(R).jpg"),
        ("train/P001/OD.jpg", "train/P001/OS.jpg"),
        ("P001/L.jpg", "P001/R.jpg"),
    ],
)
def test_eyes_in_names_are_of_one_patient(one, other):
    assert groups(one, other, "other_99.png") == [{one, other}, {"other_99.png"}]
    assert "a guess" in patients.identify([one, other]).how


@pytest.mark.parametrize(
    "names",
    [
        ("method.png", "period.png"),
        ("1_A.png", "1_N.png"),
        ("IDRiD_001.jpg", "IDRiD_002.jpg"),
        ("12_L.jpg", "13_L.jpg"),  # no pair: a letter says nothing
        ("12_LE.jpg", "13_RE.jpg", "P1/L.jpg", "P2/R.jpg"),
        ("periOS.png", "methOD.png"),
        ("20051020_43808_0100_PP.png", "20051020_43832_0100_PP.png"),
        tuple(f"clinic_left_{number}.jpg" for number in range(40)),  # no patient has so many
    ],
)
def test_names_that_say_nothing_of_eyes_are_by_image(names):
    found = patients.identify(names)
    assert (len(set(found.ids.values())), found.known) == (len(names), False)
    assert "by image" in found.sentence


def test_numbers_that_begin_anew_in_each_split_are_other_patients():
    names = [
        f"{split}/{n}_{eye}.png" for split in "ab" for n in range(9) for eye in ("left", "right")
    ]
    assert len(groups(*names)) == 18


def test_identity_does_not_depend_on_how_a_disk_spells_names():
    spellings = [
        "A/Caf\u00e9_1.JPG",
        "a/cafe\u0301_1.jpg",
        "a\\caf\u00e9_1.jpg",
        "./A//caf\u00e9_1.jpg",
    ]
    assert len({patients.identity(name) for name in spellings}) == 1


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        (r"^([0-9]+)_", {"1", "2"}),
        (r"(?P<patient>\d+)_(\d)", {"1", "2"}),
        (r"^[0-9]+", {"1", "2"}),
        (r"set/(\d)", {"1", "2"}),
    ],
)
def test_a_regular_expression_finds_patients(regex, expected):
    found = patients.identify(["set/1_0.png", "set/1_1.png", "set/2_0.png"], regex=regex)
    assert set(found.ids.values()) == expected
    assert regex in found.sentence.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        ("([0-9]+", "no regular expression"),
        ("(a)(b)", "has 2 groups"),
        ("^patient", "matches none of 1 names, such as '1_0.png'"),
    ],
)
def test_a_regular_expression_of_no_use_is_one_message(regex, message):
    with pytest.raises(UserError, match=message):
        patients.identify(["x/1_0.png"], regex=regex)


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_table_of_pairs(tmp_path, separator):
    rows = (("left", "right"), ("a.png", "B.PNG"), ("c.png", ""), ("b.png", "d.png"))
    table = tmp_path / "pairs.csv"
    table.write_text("".join(separator.join(row) + "\n" for row in rows))
    pairs = patients.read_pairs(table)
    found = patients.identify(
        ["x/a.png", "x/b.png", "x/c.jpg", "x/d.png", "x/e.png"], pairs=pairs, pairs_from="pairs.csv"
    )
    first = found.ids["x/a.png"]
    assert [found.ids[f"x/{name}"] == first for name in ("b.png", "d.png")] == [True, True]
    assert len(set(found.ids.values())) == 3
    assert found.how.startswith("patients are known by the pairs of pairs.csv (4 of 5")


def test_a_column_wins_over_all_guesses():
    names = ["1_left.png", "1_right.png"]
    found = patients.identify(names, given={"1_left.png": "p", "1_right.png": "q"})
    assert found.ids == {"1_left.png": "p", "1_right.png": "q"}


def test_patients_on_both_sides_are_counted_and_named():
    said = patients.on_both_sides({"train": ["a", "b", "b"], "test": ["b", "c"]})
    assert said == "1 patients have photographs in test and train (b)"
    assert not patients.on_both_sides({"train": ["a"], "test": ["b"]})


def image(name: str, split: str | None = None, group: str = "") -> ImageRow:
    return ImageRow(name, "t.csv", 2, FilePicture("root", name), split=split, group=group)


def test_imported_photographs_get_their_patients():
    problems = ProblemLog()
    rows = with_patients(
        [image("1_left.png"), image("1_right.png"), image("x.png")], None, problems
    )
    assert [row.group for row in rows] == ["1", "1", ""]
    assert "a guess" in problems.notes[0]
    problems = ProblemLog()
    assert with_patients([image("x.png")], None, problems)[0].group == ""
    assert "by image" in problems.notes[0]


def test_a_guess_moves_nobody_out_of_a_given_split():
    problems = ProblemLog()
    rows = [image("1_left.png", "train"), image("1_right.png", "test"), image("2_left.png", "test")]
    assert [row.group for row in with_patients(rows, None, problems)] == ["", "", "2"]
    assert "1 patients have photographs in test and train (1)" in problems.notes


def test_visits_of_a_person_by_a_regular_expression():
    rows = [PatientRow(f"p1-{visit}", "t.csv", visit) for visit in (1, 2)]
    problems = ProblemLog()
    assert with_patients(rows, None, problems) == rows
    found = with_patients(rows, r"^(p\d+)-", problems)
    assert [row.group for row in found] == ["p1", "p1"]
    assert not problems.notes


def test_the_number_behind_the_side_is_the_patients_where_all_begin_alike():
    names = [f"Fundus_{side}_{number}.jpg" for number in (7, 12) for side in ("Left", "Right")]
    assert groups(*names) == [set(names[:2]), set(names[2:])]
    # Names of patients differ: then the number is the shot's.
    shots = [f"{who}_{side}_{n}.jpg" for who in ("kim", "lee") for side in ("OD", "OS")
             for n in (1, 2)]  # fmt: skip
    assert groups(*shots) == [set(shots[:4]), set(shots[4:])]


def test_a_table_of_patients_is_read_under_other_names_and_its_broken_rows_are_said(tmp_path):
    (tmp_path / "p.csv").write_text("File Name;Patient ID\na.jpg;7\nb.jpg;7\n")
    found, said_by = patients.read_tables(tmp_path)
    assert found["a.jpg"] == found["b.jpg"] == "7"
    assert said_by == "p.csv"
    (tmp_path / "p.csv").write_text('image,patient_id\na.jpg,7\nb.jpg,"7\n')
    with pytest.raises(UserError, match="row 3: a quote is opened and never closed"):
        patients.read_tables(tmp_path)
    (tmp_path / "p.csv").write_text("#LEFT;Right\na.jpg;b.jpg\n")
    assert len(set(patients.read_pairs(tmp_path / "p.csv").values())) == 1
