"""Counts of masks give the metrics of their tally, and those of any resample of patients."""

import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics import paired
from retfm_jax.evaluation.metrics.mask_counts import METRICS, MaskCounts, sample_facts
from retfm_jax.evaluation.metrics.segmentation import RANKED, Tally

NAMES = ("vessels", "lesions", "nowhere")
THRESHOLDS = {"vessels": 100 / 255, "lesions": 0.5, "nowhere": 0.5}


def images(count=5, quality=2.0, seed=0):
    """Probabilities and masks; an image knows nothing of lesions, and one has none."""
    world = np.random.default_rng(7)
    truth = (world.random((count, 12, 10, 3)) < 0.3).astype(np.uint8)
    truth[..., 2] = 0
    truth[0, ..., 1], truth[1, ..., 1] = 255, 0
    noise = np.random.default_rng(seed).normal(size=truth.shape)
    return 1 / (1 + np.exp(-(noise + quality * (truth == 1) - 1))), truth


def tally(p, truth, order=None):
    found = Tally(NAMES)
    for i in range(len(p)) if order is None else order:
        found.add(f"image {i}", p[i], truth[i], group=f"patient {i // 2}")
    return found


def counts(p, truth, order=None):
    found = tally(p, truth, order)
    return MaskCounts.of(found, THRESHOLDS, tuple(range(len(found.groups))))


@pytest.fixture(scope="module")
def world():
    return images()


def value(counts, metric):
    return float(counts.statistic(metric)(np.ones((len(counts.patients), 1), np.float32))[0])


def test_metrics_are_those_of_the_tally(world):
    ours, measured = counts(*world), tally(*world).measured(THRESHOLDS, draws=1)
    assert ours.shown == tuple(measured.classes) == ("vessels", "lesions")
    for name in METRICS:
        # The tally's areas under curves have 2^16 bins, those that are kept 2,048.
        near = {"abs": 2e-3} if name in RANKED else {"rel": 1e-9}
        theirs = name if name in RANKED else f"best_{name}"
        assert value(ours, name) == pytest.approx(measured.macro[theirs].value, **near), name
        for structure in ours.shown:
            found = value(ours, f"{structure}/{name}")
            expected = measured.classes[structure][theirs].value
            assert found == pytest.approx(expected, **near), name


@pytest.mark.parametrize("metric", ["average_precision", "dice", "image_dice", "lesions/mcc"])
def test_weights_are_images_taken_so_often(world, metric):
    weights = np.array([[1, 0, 2, 0, 3], [0, 2, 1, 1, 0]], np.float32).T
    found = counts(*world).statistic(metric)(weights)
    for draw, one in enumerate(weights.T):
        order = np.repeat(np.arange(5), one.astype(int))
        assert found[draw] == pytest.approx(value(counts(*world, order), metric), rel=1e-9)


def test_a_resample_without_a_structure_goes_without_it(world):
    only_the_unknown = np.array([[1, 0, 0, 0, 0]], np.float32).T
    ours = counts(*world)
    (of_vessels,) = ours.statistic("vessels/dice")(only_the_unknown)
    assert ours.statistic("dice")(only_the_unknown) == pytest.approx(of_vessels)
    assert np.isnan(ours.statistic("lesions/dice")(only_the_unknown)).all()


def test_a_better_network_is_told_apart_on_the_same_masks():
    p, truth = images(12)
    good, poor = (counts(images(12, quality)[0], truth) for quality in (3.0, 0.5))
    found = paired.compare(
        {n: [of.statistic("image_dice")] for n, of in (("good", good), ("poor", poor))},
        good.patients,
        draws=100,
    )
    assert found.difference("good", "poor").p < 0.01
    facts = {"good": sample_facts(good), "poor": sample_facts(poor)}
    paired.check_same(facts)
    truth[3, 0, 0, 0] = 1 - truth[3, 0, 0, 0]
    facts["poor"] = sample_facts(counts(p, truth))
    with pytest.raises(UserError, match="good and poor were measured on different masks"):
        paired.check_same(facts)


@pytest.mark.parametrize("metric", ["auro", "vessels/", "nothing/dice"])
def test_a_metric_that_masks_have_not_is_refused(world, metric):
    with pytest.raises(UserError, match=f"have no {metric}; there are average_precision, auroc"):
        counts(*world).statistic(metric)
