"""Metrics of masks are those of scikit-learn on all pixels, computed image by image."""

import json
import time
import tracemalloc

import numpy as np
import pytest
from golden_files import Golden
from sklearn import metrics as sk

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics import segmentation, shapes
from retfm_jax.evaluation.metrics.segmentation import Tally

GOLDEN = Golden("segmentation_losses.npz")
OUT = GOLDEN["out"]


def _images(count=4, size=(8, 8), classes=2, seed=0):
    """Probabilities that know something, masks and fields of view."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, *size, classes)) < 0.3).astype(np.uint8)
    p = 1 / (1 + np.exp(-(2 * rng.normal(size=truth.shape) + 2 * truth - 1)))
    fov = (rng.random((count, *size)) < 0.8).astype(np.uint8)
    return p.astype(np.float32), truth, fov


def _tally(p, truth, fov=None, **options):
    tally = Tally([f"class {k}" for k in range(truth.shape[-1])], **options)
    for i in range(len(p)):
        tally.add(f"image {i}", p[i], truth[i], None if fov is None else fov[i])
    return tally


def _vessels(fov=None):
    p, truth = (np.moveaxis(GOLDEN["in"][f"vessel_{x}"], 1, -1) for x in ("probability", "mask"))
    fovs = None if fov is None else [fov, fov]
    return _tally(p, truth.astype(np.int8), fovs, centerlines={"class 0": 0.5})


def test_published_metrics_of_all_pixels_are_met():
    row = _vessels().measured(draws=10).classes["class 0"]
    assert row["dice"].value == pytest.approx(float(OUT["flair_dice"]), abs=1e-12)
    assert row["iou"].value == pytest.approx(float(OUT["iou"]), abs=1e-12)
    assert row["trapezoid_aupr"] == pytest.approx(float(OUT["flair_auprc"]), abs=1e-4)
    assert row["eleven_aupr"] == pytest.approx(float(OUT["m2mrf_aupr"]), abs=1e-12)
    assert row["centerline_dice"].value == pytest.approx(float(OUT["cldice"].mean()), abs=1e-12)


def test_published_metrics_within_the_field_of_view_are_met():
    tally = _vessels(GOLDEN["in"]["fov"])
    chosen = tally.best_thresholds()
    assert chosen["class 0"] == pytest.approx(float(OUT["fov_threshold"]), abs=1e-12)
    row = tally.measured(chosen, draws=10).classes["class 0"]
    for name in ("dice", "mcc", "specificity", "sensitivity", "accuracy"):
        assert row[f"best_{name}"].value == pytest.approx(float(OUT[f"fov_{name}"]), abs=1e-9), name
    assert row["auroc"].value == pytest.approx(float(OUT["fov_auroc"]), abs=1e-4)
    assert row["average_precision"].value == pytest.approx(
        float(OUT["fov_average_precision"]), abs=1e-4
    )


def test_skeletons_are_the_published_ones():
    masks = GOLDEN["in"]["vessel_mask"][:, 0]
    predicted = GOLDEN["in"]["vessel_probability"][:, 0] > 0.5
    for index in range(len(masks)):
        np.testing.assert_array_equal(shapes.skeleton(masks[index]), OUT["skeleton_mask"][index])
        np.testing.assert_array_equal(
            shapes.skeleton(predicted[index]), OUT["skeleton_prediction"][index]
        )
        value = shapes.centerline_dice(predicted[index], masks[index])
        assert value == pytest.approx(float(OUT["cldice"][index]), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.5, 64 / 255])
def test_every_metric_is_that_of_all_pixels_by_brute_force(threshold):
    p, truth, fov = _images()
    p = ((np.round(p * 198) + 1) / 200).astype(np.float32)  # what differs is in different bins
    truth[1, ..., 1] = 255
    truth[2, :3, :, 0] = 255
    thresholds = {"class 0": threshold, "class 1": threshold}
    found = _tally(p, truth, fov).measured(thresholds, draws=10)
    for k in range(2):
        row = found.classes[f"class {k}"]
        counted = (fov > 0) & (truth[..., k] <= 1)
        labels, scores = truth[..., k][counted], p[..., k][counted].astype(np.float64)
        predicted = scores > threshold
        want = {
            "average_precision": sk.average_precision_score(labels, scores),
            "auroc": sk.roc_auc_score(labels, scores),
            "best_dice": sk.f1_score(labels, predicted),
            "best_iou": sk.jaccard_score(labels, predicted),
            "best_sensitivity": sk.recall_score(labels, predicted),
            "best_specificity": sk.recall_score(1 - labels, ~predicted),
            "best_precision": sk.precision_score(labels, predicted),
            "best_accuracy": sk.accuracy_score(labels, predicted),
            "best_mcc": sk.matthews_corrcoef(labels, predicted),
        }
        precision, recall, _ = sk.precision_recall_curve(labels, scores)
        assert row["trapezoid_aupr"] == pytest.approx(sk.auc(recall, precision), abs=1e-9)
        each = [
            sk.f1_score(truth[i, ..., k][counted[i]], p[i, ..., k][counted[i]] > threshold)
            for i in range(4)
            if counted[i].any()
        ]
        want["best_image_dice"] = np.mean(each)
        for name, value in want.items():
            assert row[name].value == pytest.approx(float(value), abs=1e-9), name
        assert row["pixels"] == counted.sum()
        assert row["images"] == len(each)
    for name, value in found.macro.items():
        both = [found.classes[f"class {k}"][name].value for k in range(2)]
        assert value.value == pytest.approx(float(np.nanmean(both)), abs=1e-12)


@pytest.mark.parametrize(
    "scores",
    [
        lambda rng, t: 1 / (1 + np.exp(-(3 * rng.normal(size=t.shape) + 4 * t - 8))),  # rare, low
        lambda rng, t: rng.beta(0.05 + 0.4 * t, 0.05, t.shape),  # nearly all are 0 or 1
        lambda rng, t: np.round(rng.random(t.shape), 2),  # tied
    ],
    ids=["low", "saturated", "tied"],
)
def test_areas_of_a_million_pixels_are_exact_to_a_ten_thousandth(scores):
    rng = np.random.default_rng(0)
    truth = (rng.random((1000, 1000, 1)) < 0.01).astype(np.int8)
    p = scores(rng, truth).astype(np.float32)
    row = _tally(p[None], truth[None]).measured(draws=2).classes["class 0"]
    labels, flat = truth.ravel(), p.ravel()
    want = sk.average_precision_score(labels, flat)
    assert row["average_precision"].value == pytest.approx(want, abs=1e-4)
    assert row["auroc"].value == pytest.approx(sk.roc_auc_score(labels, flat), abs=1e-4)


def test_an_interval_resamples_patients_with_all_of_their_images():
    p, truth, _ = _images(count=12, classes=1, seed=3)
    tally, alone = Tally(["class 0"]), Tally(["class 0"])
    for i in range(12):
        tally.add(f"image {i}", p[i], truth[i], group=f"patient {i // 2}")
        alone.add(f"image {i}", p[i], truth[i], group=f"patient {i}")
    patients = np.arange(12) // 2
    rng = np.random.default_rng(0)
    values = []
    for _ in range(500):
        picked = np.concatenate([np.flatnonzero(patients == k) for k in rng.integers(6, size=6)])
        values.append(sk.average_precision_score(truth[picked].ravel(), p[picked].ravel()))
    found = tally.measured(draws=500).classes["class 0"]["average_precision"]
    assert found.low == pytest.approx(np.percentile(values, 2.5), abs=0.03)
    assert found.high == pytest.approx(np.percentile(values, 97.5), abs=0.03)
    assert found.low < found.value < found.high
    again = tally.measured(draws=500).classes["class 0"]["average_precision"]
    assert again == found
    assert alone.measured(draws=500).classes["class 0"]["average_precision"] != found


def test_an_image_without_the_class_counts_as_one_where_none_is_predicted():
    p, truth, _ = _images(count=3, classes=1)
    truth[0] = truth[1] = 0
    p[0] = 0.1
    p[1, 0, 0] = 0.9
    truth[2, 0, 0] = 1
    tally = _tally(p, truth)
    dices = tally.by_image()["class 0"]
    assert dices[0] == 1
    assert dices[1] == 0
    row = tally.measured(draws=10).classes["class 0"]
    assert row["image_dice"].value == pytest.approx(float(dices.mean()))
    assert (row["images"], row["images_with_it"]) == (3, 1)
    assert row["images_empty_and_so_predicted"] == 1


def test_a_class_that_is_nowhere_is_left_out_with_the_reason():
    p, truth, _ = _images(classes=3)
    truth[..., 1], truth[..., 2] = 0, 255
    found = _tally(p, truth).measured(draws=10)
    assert set(found.classes) == {"class 0"}
    assert found.left_out == {
        "class 1": "not a pixel in 4 images", "class 2": "unknown in all 4 images"
    }  # fmt: skip
    assert json.loads(json.dumps(found.to_json()))["images"] == 4
    assert _tally(p[..., 1:], truth[..., 1:]).measured(draws=10).classes == {}


def test_the_order_of_images_changes_nothing():
    p, truth, fov = _images(count=5)
    one, other = _tally(p, truth, fov), _tally(p[::-1], truth[::-1], fov[::-1])
    values = [
        {name: estimate.value for name, estimate in tally.measured(draws=2).macro.items()}
        for tally in (one, other)
    ]
    assert values[0] == pytest.approx(values[1])


def test_a_photograph_of_a_camera_is_counted_in_bounded_memory():
    size = (2848, 4288)
    rng = np.random.default_rng(0)
    p = rng.random((*size, 1), dtype=np.float32)
    truth = (p > 0.9).astype(np.int8)
    tally = Tally(["class 0"])
    tracemalloc.start()
    began = time.perf_counter()
    tally.add("photograph", p, truth)
    seconds = time.perf_counter() - began
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120 << 20
    assert kept < 4 << 20
    assert seconds < 60


def test_shapes_of_a_disc_and_of_vessels():
    disc, cup = np.zeros((2, 20, 20), np.uint8)
    disc[2:12, 3:13] = 1
    cup[4:9, 5:8] = 1
    assert shapes.vertical_cup_disc_ratio(disc, cup) == 0.5
    assert shapes.vertical_cup_disc_ratio(disc, 0 * cup) == 0
    assert np.isnan(shapes.vertical_cup_disc_ratio(0 * disc, cup))
    assert shapes.cup_disc_ratios(disc, cup) == (0.5, 0.3)
    assert shapes.extent(0 * disc) == (0, 0)
    assert len(shapes.parts(0 * disc)) == 0
    stray = disc.copy()
    stray[19, 19] = stray[12, 13] = 1  # alone, and at a corner of the disc
    assert shapes.parts(stray)[:, -1].tolist() == [101, 1]
    assert shapes.extent(stray) == (11, 11)
    assert shapes.density(disc) == 0.25
    assert shapes.density(cup, disc) == 0.15
    assert np.isnan(shapes.density(cup, 0 * disc))
    errors = np.array([0.1, 0.3, np.nan, 0.2])
    found = segmentation.mean_absolute_error(errors, np.zeros(4), ["a", "b", "c", "d"], draws=200)
    assert found.value == pytest.approx(0.2)
    assert 0.1 <= found.low < found.high <= 0.3
    nothing = segmentation.mean_absolute_error(errors[2:3], np.zeros(1), ["c"])
    assert np.isnan(nothing.value)


def test_disc_and_cup_are_known_by_name():
    assert shapes.disc_and_cup(("vessels", "optic_cup", "optic_disc")) == (2, 1)
    assert shapes.disc_and_cup(("Disk", "cup 1")) == (0, 1)
    assert shapes.disc_and_cup(("disc", "vessels", "")) is None
    assert shapes.disc_and_cup(("disc", "cup", "large cup")) is None
    assert shapes.disc_and_cup(("discs", "cupping")) is None


def test_a_skeleton_is_one_pixel_wide_and_keeps_the_pieces():
    import cv2

    mask = np.zeros((60, 80), np.uint8)
    cv2.line(mask, (5, 5), (70, 50), 1, 7)
    cv2.line(mask, (5, 50), (40, 30), 1, 5)
    cv2.circle(mask, (65, 15), 8, 1, 3)
    mask[0, :10] = 1
    thin = shapes.skeleton(mask)
    assert (thin <= mask).all()
    for before, after in zip(
        cv2.connectedComponents(mask), cv2.connectedComponents(thin.astype(np.uint8)), strict=True
    ):
        if isinstance(before, int):
            assert before == after
    blocks = thin[:-1, :-1] & thin[1:, :-1] & thin[:-1, 1:] & thin[1:, 1:]
    assert blocks.sum() <= 2
    np.testing.assert_array_equal(shapes.skeleton(thin), thin)
    assert not shapes.skeleton(np.zeros((4, 5))).any()
    assert shapes.centerline_dice(thin, mask) > 0.99
    assert shapes.centerline_dice(0 * mask, 0 * mask) == 1
    assert shapes.centerline_dice(0 * mask, mask) == 0


@pytest.mark.wrong_arguments
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t, f: (p[:, :4], t, f), "image 0: its prediction has the shape"),
        (lambda p, t, f: (p, t[..., :1], f), "image 0: its mask has the shape"),
        (lambda p, t, f: (p, t, f[:4]), "image 0: its field of view has the shape"),
        (lambda p, t, f: (p, t, 0 * f), "image 0: its field of view is empty"),
        (lambda p, t, f: (p, t * 127, f), "other values than 0, 1 and 255"),
        (lambda p, t, f: (p, t.astype(float), f), "other values than 0, 1 and 255"),
        (lambda p, t, f: (p * np.nan, t, f), "not all numbers from 0 to 1"),
        (lambda p, t, f: (p + 1, t, f), "not all numbers from 0 to 1"),
    ],
)
def test_what_cannot_be_counted_is_named_by_its_image(change, message):
    p, truth, fov = _images(count=1)
    tally = Tally(["class 0", "class 1"])
    with pytest.raises(UserError, match=message):
        tally.add("image 0", *change(p[0], truth[0], fov[0]))
    with pytest.raises(UserError, match="no image was segmented"):
        tally.measured()


def test_a_threshold_at_which_nothing_was_counted_is_refused():
    p, truth, _ = _images()
    with pytest.raises(ValueError, match="is neither 0"):
        _tally(p, truth).by_image(0.123)


def test_thresholds_that_a_score_passes_are_told_at_them_and_beside_them():
    edges = segmentation._EDGES
    beside = [edges, *(np.nextafter(edges, to) for to in (0, 1)), edges.astype(np.float32)]
    scores = np.concatenate([*beside, np.random.default_rng(0).random(10_000)])
    np.testing.assert_array_equal(
        segmentation._passed(scores), np.searchsorted(edges, scores, side="left")
    )
