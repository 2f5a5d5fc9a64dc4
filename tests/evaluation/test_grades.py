"""Which classes are grades: what states it, what is a guess, and what has no order."""

import pytest

from retfm_jax.evaluation.metrics.grades import class_order


def test_a_task_states_its_order():
    order = class_order(["a", "c", "b"], stated=True)
    assert order.of(["b", "a"]) == (2, 0)
    assert not order.guessed
    assert order.to_json() == {
        "classes": ["a", "c", "b"],
        "known_from": "the task",
        "guessed": False,
    }


@pytest.mark.parametrize(
    "names",
    [
        ["mild_npdr", "moderate_npdr", "no_diabetic_retinopathy", "pdr", "severe_npdr"],
        ["PDR", "mild NPDR", "normal"],
        ["high_macular_oedema_risk", "low_macular_oedema_risk", "no_macular_oedema_risk"],
    ],
)
def test_classes_of_a_published_scale_are_known_whatever_order_their_folders_have(names):
    order = class_order(names)
    assert not order.guessed
    assert [order.classes.index(name) for name in order.classes] == list(range(len(names)))
    lowest = {"no_diabetic_retinopathy", "normal", "no_macular_oedema_risk"}
    assert order.classes[0] in lowest


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (["0", "1", "2", "3", "4"], (0, 1, 2, 3, 4)),
        (["1", "10", "2"], (1, 10, 2)),
        (["grade 0", "grade 2", "grade 1"], (0, 2, 1)),
        (["Stage_1", "Stage_2", "Stage_3"], (1, 2, 3)),
        (["0级", "1级", "2级"], (0, 1, 2)),
        (["Mild", "Moderate", "No_DR", "Proliferate_DR", "Severe"], (1, 2, 0, 4, 3)),
        (["轻度非增殖期", "中度非增殖期", "重度非增殖期", "增殖期"], (1, 2, 3, 4)),
        (["mild glaucoma", "severe glaucoma", "normal"], (1, 3, 0)),
    ],
)
def test_numbers_and_degrees_of_severity_are_a_guess_and_called_one(names, positions):
    order = class_order(names)
    assert order.of(names) == positions
    assert order.guessed
    assert order.known_from.startswith("a guess")


@pytest.mark.parametrize(
    "names",
    [
        ["amd", "diabetic_retinopathy", "glaucoma", "normal"],
        ["normal", "drusen", "cataract"],
        ["class 1", "class 2", "class 3"],
        ["0_normal", "1_glaucoma", "2_amd"],
        ["mild", "cataract", "normal"],
        ["mild", "mild myopia", "severe"],
        ["no_glaucoma", "glaucoma"],
        ["0", "1"],
        ["2", "02", "1"],
        [],
    ],
)
def test_other_classes_have_no_order(names):
    assert class_order(names) is None
