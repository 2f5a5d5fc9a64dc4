"""Division by patient: nobody on two sides, stable as others come and go, folds cover all once."""

import pytest

from retfm_jax.data.division import UNDIVIDED, Division, said_of
from retfm_jax.errors import UserError

PATIENTS = [f"P{number // 2}" for number in range(400)]


def sides(parts, **entries):
    """Patients by the split that a division gives their records."""
    assigned = Division(**entries).assign(parts)
    found = {}
    for part, splits in assigned.items():
        for patient, split in zip(parts[part], splits, strict=True):
            found.setdefault(split, []).append(patient)
    return found


def test_a_patient_is_on_one_side_and_stays_there():
    found = sides({UNDIVIDED: PATIENTS})
    assert set(found) == {"train", "validation", "test"}
    assert sum(map(len, found.values())) == 400
    for split, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not set(found[split]) & set(found[other])
    assert 0.6 < len(found["train"]) / 400 < 0.8
    fewer = sides({UNDIVIDED: PATIENTS[:100]})
    assert all(set(fewer[split]) <= set(found[split]) for split in fewer)


def test_what_the_source_divides_stays_and_validation_is_made_of_training():
    official = {"train": PATIENTS, "test": ["P7", "P8"]}
    found = sides(official)
    assert found["test"] == ["P7", "P8"]
    assert 0.05 < len(found["validation"]) / 400 < 0.2
    whole = {"train": PATIENTS, "validation": ["P7"]}
    assert sides(whole) == whole


@pytest.mark.parametrize("official", [{}, {"test": ["T1", "T2"]}], ids=["undivided", "with test"])
def test_folds_cover_every_patient_once(official):
    held = "validation" if official else "test"
    parts = (
        {"train": PATIENTS[:300], "validation": PATIENTS[300:]}
        if official
        else {UNDIVIDED: PATIENTS}
    )
    seen = []
    for number in range(7):
        found = sides(parts | official, fold=(number, 7))
        assert not set(found["train"]) & set(found[held])
        assert len(set(found[held])) in (28, 29)
        seen += set(found[held])
        if official:
            assert found["test"] == official["test"]
    assert sorted(seen) == sorted(set(PATIENTS))


def test_a_split_that_is_there_and_not_asked_for_is_not_made():
    assert Division().assign({"train": PATIENTS}, ["validation"]) == {
        "train": ["train"] * len(PATIENTS)
    }
    folded = Division(fold=(0, 3)).assign({"train": PATIENTS}, ["test"])["train"]
    assert set(folded) == {"train", "validation"}


@pytest.mark.parametrize(
    ("parts", "fold", "message"),
    [
        ({UNDIVIDED: PATIENTS}, (0, 2), "3 folds or more"),
        ({UNDIVIDED: ["A", "B"]}, (0, 3), "2 patients cannot be divided into 3 folds"),
    ],
)
def test_too_few_for_folds_is_said(parts, fold, message):
    with pytest.raises(UserError, match=message):
        Division(fold=fold).assign(parts)


def test_a_fold_is_one_of_its_folds():
    with pytest.raises(UserError, match="fold 3 of 3"):
        Division(fold=(3, 3))


def test_what_is_divided_is_said():
    assert "70/10/20%" in said_of(Division(), [UNDIVIDED])
    assert "12.5% of training" in said_of(Division(), ["train", "test"])
    assert said_of(Division(), ["train", "validation", "test"]) == ""
    assert "fold 1 is validation" in said_of(Division(fold=(1, 4)), ["train", "test"])
