"""Supports are drawn by patient, repeat with their seed, and say when they cannot be drawn."""

import numpy as np
import pytest
from colour_world import CLASSES, ColourModel, image

from retfm_jax.data.sources import Subset
from retfm_jax.errors import UserError
from retfm_jax.evaluation.protocols.few_shot import Shots, draw, embed_augmented, parse_shots

NAMES = ("a", "b", "c")


def world(count=90, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.eye(3, dtype=int)[generator.integers(0, 3, count)]
    return labels, generator.integers(0, count // 2, count)


def test_shots_are_of_different_patients_and_of_every_class():
    labels, patients = world()
    for seed in range(5):
        rows = draw(Shots(per_class=5), labels, patients, NAMES, seed)
        np.testing.assert_array_equal(labels[rows].sum(0), [5, 5, 5])
        assert len(set(patients[rows])) == 15


def test_folds_differ_and_equal_seeds_do_not():
    labels, patients = world()
    first, again, other = (
        draw(Shots(per_class=5), labels, patients, NAMES, seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_a_share_takes_whole_patients_and_every_class():
    labels, patients = world()
    rows = draw(Shots(share=0.2), labels, patients, NAMES, 0)
    chosen = set(patients[rows])
    assert len(chosen) == np.ceil(0.2 * len(set(patients)))
    np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(patients, list(chosen))))
    assert (labels[rows].sum(0) > 0).all()


def test_all_is_all():
    labels, patients = world()
    np.testing.assert_array_equal(draw(Shots(), labels, patients, NAMES, 0), np.arange(90))


def test_too_few_patients_of_a_class_are_said():
    labels = np.eye(3, dtype=int)[[0, 0, 1, 1, 2, 2]]
    with pytest.raises(UserError, match=r"class 'c' has 2 training images, too few .* 2 shots"):
        draw(Shots(per_class=2), labels, [1, 2, 3, 4, 5, 5], NAMES, 0)


def test_shots_as_they_are_written():
    assert [str(shots) for shots in parse_shots("1, 5,10%,all")] == [
        "1 shot",
        "5 shots",
        "10% of data",
        "all data",
    ]
    for wrong in ("9" * 5000, "0", "x", "120%", "1.5"):
        with pytest.raises(UserError, match="shots"):
            parse_shots(wrong)


def test_augmented_copies_differ_repeat_and_keep_their_class():
    records = _Records([image(number, CLASSES[number]) for number in range(3)])
    source = Subset(records, np.array([0, 2]), "two of them")
    model = ColourModel(0.9)
    arguments = (model.encode_images, model.data_config, source, (0, 1), 3)
    copies = embed_augmented(*arguments, seed=5)
    assert copies.shape == (3, 2, 16)
    np.testing.assert_array_equal(copies, embed_augmented(*arguments, seed=5))
    assert (copies[0] != copies[1]).any()
    np.testing.assert_array_equal((copies @ model.axes.T).argmax(-1), [[0, 2]] * 3)


class _Records(list):
    name, kind, split, label_names = "colors", "image", "train", CLASSES
    ordered = False
