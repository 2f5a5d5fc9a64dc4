"""The division into splits depends on the patient and the seed, and on nothing else."""

import pytest

from retfm_jax.data.building.rows import PatientRow
from retfm_jax.data.building.splits import DEFAULT_SHARES, assign_splits, hashed_split, parse_shares
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.errors import UserError


def rows(names: list[str]) -> list[PatientRow]:
    return [PatientRow(name, "f", number) for number, name in enumerate(names)]


def test_others_come_and_go_but_a_patient_stays():
    names = [f"patient {number}" for number in range(200)]
    few = assign_splits(rows(names[:50]), DEFAULT_SHARES, 0, ProblemLog())
    many = assign_splits(rows(names[::-1]), DEFAULT_SHARES, 0, ProblemLog())
    for split, members in few.items():
        assert {row.record_id for row in members} <= {row.record_id for row in many[split]}


def test_shares_are_met_and_the_seed_matters():
    shares = {"train": 0.6, "validation": 0.0, "test": 0.4}
    found = [hashed_split(str(number), shares, 0) for number in range(5000)]
    assert found.count("validation") == 0
    assert abs(found.count("test") / 5000 - 0.4) < 0.025
    other = [hashed_split(str(number), shares, 1) for number in range(5000)]
    assert 0.4 < sum(a == b for a, b in zip(found, other, strict=True)) / 5000 < 0.65


@pytest.mark.parametrize("text", ["0.8,0.2", "0.8,0.1,0.2", "a,b,c", "1.2,-0.1,-0.1"])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="three numbers that sum to 1"):
        parse_shares(text)
