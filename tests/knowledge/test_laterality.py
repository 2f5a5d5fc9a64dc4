"""Sides: labeler, mirrored reports and names of files speak of the same eyes."""

import re
from pathlib import Path

import pytest
import yaml

from retfm_jax.knowledge.laterality import (
    BARE,
    EYES,
    IN_CAPITALS,
    IN_FILE_NAMES,
    IN_NAMES,
    OPPOSITE,
    both_eyes,
    exchange_sides,
    names_side,
)

REPORTS = [
    line.rsplit(" => ", 1)[0]
    for language in ("en", "zh")
    for block in yaml.safe_load(
        Path(__file__).with_name(f"reports_{language}.yaml").read_text(encoding="utf-8")
    ).values()
    for line in block.splitlines()
]
PAIRS = (*EYES, *(type(pair)(*(w.upper() for w in pair)) for pair in (*IN_CAPITALS, *EYES)))


def mirrored(statuses):
    exchanged = {OPPOSITE.get(scope, scope): said for scope, said in statuses.items()}
    return {scope: dict(said) for scope, said in exchanged.items()}


def test_a_mirrored_report_has_mirrored_labels(labeler):
    """The labeler and the exchange of sides read one vocabulary."""
    written = 0
    for report in REPORTS:
        other = exchange_sides(report)
        if other is None:
            continue
        written += 1
        assert exchange_sides(other) == report
        found = labeler.label(other).statuses
        assert {k: dict(v) for k, v in found.items()} == mirrored(labeler.label(report).statuses), (
            report,
            other,
        )
    assert written > 0.97 * len(REPORTS)


def test_a_report_whose_labels_have_a_side_names_one(labeler):
    for report in REPORTS:
        labels = labeler.label(report)
        if set(labels.statuses["left"].items()) != set(labels.statuses["right"].items()):
            assert names_side(report) or exchange_sides(report) is None, report


@pytest.mark.parametrize(
    "form", ["{}: {}.", "{} {}", "{} - {}", "{}：{}。", "{} eye".join(("", ": {}"))]
)
@pytest.mark.parametrize("finding", ["drusen", "no haemorrhage", "cataract?"])
def test_every_word_for_an_eye_is_read_and_exchanged(labeler, form, finding):
    for pair in PAIRS:
        left, right = (form.format(word, finding) for word in pair)
        assert exchange_sides(left) == right
        assert exchange_sides(right) == left
        assert names_side(left)
        for text, side in ((left, "left"), (right, "right")):
            statuses = labeler.label(text).statuses
            assert statuses[side], text
            assert not statuses[OPPOSITE[side]], text


@pytest.mark.parametrize("form", ["{}: drusen", "{}. drusen", "drusen in {}"])
def test_bare_words_are_sides_beside_what_has_sides(labeler, form):
    for pair in BARE:
        for change in (str, str.upper, str.capitalize):
            left, right = (form.format(change(word.rstrip("."))) for word in pair)
            for text, side in ((left, "left"), (right, "right")):
                if "{}." in form and len(change(pair.left).rstrip(".")) != 2:
                    continue  # "Left. Drusen" is two sentences
                if "in {}" in form and not text.isascii():
                    continue
                statuses = labeler.label(text).statuses
                assert statuses[side], text
                assert not statuses[OPPOSITE[side]], text
            assert exchange_sides(left) in (right, None)


def test_words_for_both_eyes_are_of_both(labeler):
    for word in both_eyes():
        for text in (f"drusen {word}", f"{word}: drusen"):
            statuses = labeler.label(text).statuses
            assert statuses["left"] == statuses["right"] == {"drusen": "present"}, text
            other = exchange_sides(text)
            if other is not None:
                assert labeler.label(other).statuses == labeler.label(text).statuses
                assert exchange_sides(other) == text


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Lefteye: drusen", "Righteye: drusen"),
        ("LEFTEYE drusen", "RIGHTEYE drusen"),
        ("left_eye: drusen", "right_eye: drusen"),
        ("L eye - drusen; R-eye normal", "R eye - drusen; L-eye normal"),
        ("Rt. eye drusen, Lt eye normal", "Lt. eye drusen, Rt eye normal"),
        ("O. D. 0.3", "O. S. 0.3"),
        ("L.E. drusen", "R.E. drusen"),
        ("ＯＤ：出血", "ＯＳ：出血"),
        ("drusen L>R", "drusen R>L"),
        ("C/D R 0.3 L 0.4", "C/D L 0.3 R 0.4"),
        ("the left-sided disc", "the right-sided disc"),
        ("左眼重于右眼", "右眼重于左眼"),
        ("杯盘比左右各0.3", "杯盘比左右各0.3"),
        ("R2M1, bright reflex", "R2M1, bright reflex"),
    ],
)
def test_sides_in_every_form(text, other):
    assert exchange_sides(text) == other
    assert exchange_sides(other) == text


@pytest.mark.parametrize(
    "text",
    [
        "haemorrhage at 3 o'clock",
        "tear at 10:30 clock hours",
        "出血位于3点钟位",
        "axis 90",
        "group L, drusen",
        "Drusen (R)",
    ],
)
def test_what_cannot_be_exchanged_surely_is_left(text):
    assert exchange_sides(text) is None


def test_names_of_columns_are_words_of_reports(labeler):
    """What a table calls an eye, a report may call it too."""
    for side, names in IN_NAMES.items():
        for name in set(names) - {"og"}:
            assert labeler.label(f"{name.upper()}: drusen").statuses[side], name
            assert re.fullmatch(IN_FILE_NAMES, name) or len(name) != 2 or name[0] in "lr左右"
