"""Logs get lines, screens get bars."""

import pytest

from retfm_jax import progress
from retfm_jax.progress import progress_bar


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)


def test_a_log_has_whole_lines_and_the_end_once(capsys):
    assert list(progress_bar(range(4), desc="embedding", unit="image", miniters=1)) == [0, 1, 2, 3]
    said = capsys.readouterr().err
    lines = said.split("\n")
    assert [line.partition(" [")[0] for line in lines] == [
        *(f"embedding: {done}/4 image" for done in range(5)),
        "",
    ]
    assert "\r" not in said


def test_half_a_minute_lies_between_two_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 30.0)
    for _ in progress_bar(range(1000), desc="labels", unit="record"):
        pass
    assert [line.partition(" [")[0] for line in capsys.readouterr().err.splitlines()] == [
        "labels: 0/1000 record",
        "labels: 1000/1000 record",
    ]


def test_work_of_unknown_length_is_counted(capsys):
    with progress_bar(desc="largest batch", unit="compilation") as bar:
        bar.update()
    assert capsys.readouterr().err.splitlines()[-1].startswith("largest batch: 1/? compilation")


def test_what_is_disabled_says_nothing(capsys):
    assert list(progress_bar(range(3), disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_screen_has_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    list(progress_bar(range(3), desc="embedding"))
    said = capsys.readouterr().err
    assert "\r" in said
    assert "100%|" in said
