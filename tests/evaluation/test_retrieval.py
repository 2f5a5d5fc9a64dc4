"""Recall by hand, duplicates of a report, ties, and chunking."""

import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import EmbeddedSplit, View, same_report_groups
from retfm_jax.evaluation.metrics import retrieval
from retfm_jax.zero_shot import unit


def split_of(images, texts, reports, patients=None):
    count = len(images)
    view = View(
        images=np.asarray(images, np.float32),
        seen=np.linalg.norm(images, axis=1) > 0,
        labels=np.zeros((count, 0), np.int8),
        texts={"en": np.asarray(texts, np.float32)},
    )
    ids = tuple(map(str, patients or range(count)))
    return EmbeddedSplit({"patient": view}, (), ids, ids, {"en": tuple(reports)}, ())


def test_duplicates_of_a_report_are_right_by_hand_on_four_items():
    # Records 0 and 1 have the same report; image 0 is nearest to the report of record 1's twin.
    similarity = np.array(
        [
            [0.1, 0.9, 0.5, 0.0],  # image 0: first is 1, a duplicate of 0: rank 1
            [0.2, 0.1, 0.9, 0.0],  # image 1: 2 is wrong, then 0: rank 2
            [0.9, 0.8, 0.1, 0.7],  # image 2: three wrong ones before it: rank 4
            [0.0, 0.0, 0.0, 0.9],  # image 3: rank 1
        ]
    )
    images, texts = similarity, np.eye(4)
    groups = same_report_groups(["Drusen.", " drusen. ", "normal", "haze"])
    assert groups[0] == groups[1]
    np.testing.assert_array_equal(retrieval.ranks(images, texts, groups), [1, 2, 4, 1])
    # Report to image: columns. 0: image 2 (wrong), then 1 (0.2); 1: image 0, a duplicate, first;
    # 2: images 1 and 0 are wrong, 2 third; 3: first.
    np.testing.assert_array_equal(retrieval.ranks(texts, images, groups), [2, 1, 3, 1])


def test_equal_embeddings_of_everything_are_not_rewarded():
    rows = np.ones((6, 3)) / np.sqrt(3)
    np.testing.assert_array_equal(retrieval.ranks(rows, rows, np.arange(6)), np.full(6, 6))


def test_chunks_give_the_same_ranks_as_the_whole_matrix(monkeypatch):
    generator = np.random.default_rng(0)
    images = unit(generator.normal(size=(23, 8)).astype(np.float32))
    texts = unit(images + 0.5 * generator.normal(size=(23, 8)).astype(np.float32))
    groups = generator.integers(0, 15, 23)
    similarity = images @ texts.T
    same = groups[:, None] == groups
    best = np.where(same, similarity, -np.inf).max(1)
    expected = 1 + (~same & (similarity >= best[:, None])).sum(1)
    np.testing.assert_array_equal(retrieval.ranks(images, texts, groups), expected)
    monkeypatch.setattr(retrieval, "QUERY_CHUNK", 5)
    monkeypatch.setattr(retrieval, "GALLERY_CHUNK", 7)
    np.testing.assert_array_equal(retrieval.ranks(images, texts, groups), expected)


def test_perfect_embeddings_recall_all_and_random_ones_about_k_in_n():
    generator = np.random.default_rng(1)
    rows = unit(generator.normal(size=(400, 16)))
    other = unit(generator.normal(size=(400, 16)))
    reports = [str(i) for i in range(400)]
    perfect = retrieval.retrieve(split_of(rows, rows, reports), "en")
    for recalls in perfect.recalls.values():
        found = recalls["recall_at_1"]
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.low == pytest.approx(0.025 ** (1 / 400))  # 400 of 400, Clopper and Pearson
    random = retrieval.retrieve(split_of(rows, other, reports), "en")
    recall = random.recalls["image_to_report"]["recall_at_10"]
    assert recall.value == pytest.approx(10 / 400, abs=0.02)
    assert recall.low < 10 / 400 < recall.high
    assert random.to_json()["expected_recall_at_1_of_guessing"] == 1 / 400


def test_records_without_image_or_report_are_left_out_and_counted():
    rows = np.eye(4)
    images = rows.copy()
    images[1] = 0
    result = retrieval.retrieve(split_of(images, rows, ["a", "b", "", "d"]), "en")
    np.testing.assert_array_equal(result.rows, [0, 3])
    assert result.skipped == 2
    assert result.to_json()["counts"] == {
        "records": 2,
        "distinct_reports": 2,
        "without_image_or_report": 2,
    }


def test_a_language_without_reports_is_said():
    with pytest.raises(UserError, match="report in 'zh'; the split has 0"):
        retrieval.retrieve(split_of(np.eye(2), np.eye(2), ["a", "b"]), "zh")


def test_best_answers_name_a_report_once():
    gallery = np.eye(4)
    answers = retrieval.best_answers(
        np.array([0.4, 0.3, 0.2, 0.1]), gallery, np.array([0, 0, 1, 2]), 3
    )
    assert answers == [0, 2, 3]
