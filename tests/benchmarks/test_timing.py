"""Ratios are of runs that took turns; the other process answers, refuses and fails in words."""

import pytest

from retfm_jax.benchmarks.timing import Comparison, Measurement, Partner, Timing, take_turns
from retfm_jax.errors import UserError


def test_sides_take_turns_and_warm_up_does_not_count():
    calls = []

    def side(name):
        def run():
            calls.append(name)
            return Timing(float(len(calls)))

        return run

    taken = take_turns({"a": side("a"), "b": side("b")}, rounds=2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert [timing.seconds for timing in taken["a"]] == [3, 5]
    assert [timing.seconds for timing in taken["b"]] == [4, 6]


def test_a_ratio_is_of_equal_work_turn_by_turn():
    slow = Measurement("slow", (Timing(8.0), Timing(9.0), Timing(40.0)), amount=4)
    fast = Measurement("fast", (Timing(2.0), Timing(3.0), Timing(10.0)), amount=2)
    values = Comparison("slow / fast", slow, fast).to_dict()
    assert values["ratios"] == [2.0, 1.5, 2.0]
    assert (values["median"], values["spread"]) == (2.0, [1.5, 2.0])


def test_rates_follow_from_the_median_run():
    runs = (Timing(2.0, 4.0), Timing(1.0, 3.0), Timing(30.0, 5.0))
    measured = Measurement("m", runs, amount=8, unit="images").to_dict()
    assert measured["per_second"] == 8 / 2.0
    assert measured["per_cpu_second"] == 8 / 4.0
    assert measured["spread_seconds"] == [1.0, 30.0]
    unknown = Measurement("m", (Timing(2.0, 4.0), Timing(1.0)), amount=8)
    assert unknown.to_dict()["per_cpu_second"] is None


def test_the_other_process_answers_and_fails_in_words():
    partner = Partner("fractions:Fraction", numerator=7, denominator=20)
    try:
        assert str(partner.call("limit_denominator", 3)) == "1/3"
        with pytest.raises(RuntimeError, match="no attribute 'nonsense'"):
            partner.call("nonsense")
        assert str(partner.call("limit_denominator", 2)) == "1/2"
    finally:
        partner.close()
    refusing = Partner("retfm_jax.config:load_config", name_or_path="quickstrt")
    try:
        with pytest.raises(UserError, match="did you mean 'quickstart'"):
            refusing.call("anything")
    finally:
        refusing.close()
