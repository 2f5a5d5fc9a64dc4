"""A split is segmented photograph by photograph, and counted as it is drawn."""

import dataclasses

import jax.numpy as jnp
import mask_photographs as scenes
import numpy as np
import pytest

from retfm_jax.data.masks import EncodedMask
from retfm_jax.errors import UserError
from retfm_jax.evaluation import segmentation
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.methods.segmenter import shown


@pytest.fixture(scope="module")
def model():
    return scenes.reader()


@pytest.mark.parametrize("shape", [(60, 80), (20, 25), (32, 32)])
def test_probabilities_lie_on_the_photographs_own_pixels(model, shape):
    image, drawn = scenes.scene(*shape)
    found = model.segment(image)
    assert found.shape == (*shape, 3)
    assert found.dtype == np.float32
    wanted = np.stack([drawn[name] for name in model.structures], axis=-1)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(6.0 - image / 21.25)), atol=1e-5)
    np.testing.assert_array_equal(model.mask_decisions.masks(found), wanted)
    np.testing.assert_array_equal(found, model.segment(scenes.png(image)))


def test_a_photograph_seen_as_a_whole_keeps_its_size():
    image, drawn = scenes.scene(60, 80)
    found = scenes.reader(geometry="whole").segment(image)
    overlap = (found[..., 0] > 0.5) & (drawn["disc"] > 0)
    assert overlap.sum() > 0.9 * drawn["disc"].sum()


def test_exclusive_structures_show_the_last_one():
    model = scenes.reader(("disc", "cup"), "exclusive")
    assert model.segment(scenes.scene(60, 80)[0]).sum(-1).max() <= 1 + 1e-6
    source = scenes.segmented_source([scenes.record(0)], ("cup", "disc"))
    (found,) = segmentation.segmented(model, source, progress=False)
    _, drawn = scenes.scene(60, 80)
    np.testing.assert_array_equal(found.truth.masks[..., 1], drawn["cup"])
    np.testing.assert_array_equal(found.truth.masks[..., 0], drawn["disc"] - drawn["cup"])


def test_the_truth_of_exclusive_structures_is_that_of_training():
    masks = np.random.default_rng(0).choice([0, 1, 255], (6, 7, 3)).astype(np.uint8)
    found = segmentation._masks(masks, (0, 1, 2), True)
    labels = np.asarray(shown(jnp.asarray(masks)[None])[0])
    known = labels >= 0
    np.testing.assert_array_equal((found == 255).all(-1), ~known)
    np.testing.assert_array_equal((found * [1, 2, 3]).max(-1)[known], labels[known])
    assert (found.sum(-1)[known] <= 1).all()


def test_a_split_is_counted_by_patient(model):
    source = scenes.segmented_source([scenes.record(seed) for seed in range(3)])
    counted = segmentation.tally(
        model, source, thresholds=dict.fromkeys(model.structures, 0.5), progress=False
    )
    assert counted.groups == ["p0", "p0", "p1"]
    found = counted.measured(draws=10)
    assert found.images == 3
    for name in model.structures:
        assert found.classes[name]["dice"].value == 1
    assert found.classes["vessels"]["centerline_dice"].value == 1
    assert np.isnan(found.classes["disc"]["centerline_dice"].value)


def test_structures_are_found_by_name(model):
    source = scenes.segmented_source([scenes.record(0)], ("cup", "disc"))
    found = segmentation.tally(model, source, progress=False).measured(draws=2)
    assert [*found.classes] == ["disc", "cup"]
    assert found.left_out["vessels"] == "unknown in all 1 images"
    assert found.classes["cup"]["dice"].value == 1


def test_photographs_that_cannot_be_used_are_named_or_refused(model):
    good, other = scenes.record(0), scenes.record(1)
    broken = dataclasses.replace(other, image=other.image[:50])
    masked = dataclasses.replace(
        other, record_id="m", masks=(EncodedMask(b"no mask"), *other.masks[1:])
    )
    source = scenes.segmented_source([broken, good, masked])
    named: list[str] = []
    counted = segmentation.tally(model, source, unusable=named, progress=False)
    assert named == ["r1", "m"]
    assert counted.groups == ["p0"]
    with pytest.raises(UserError, match="1 images cannot be used: r1"):
        segmentation.tally(model, source, on_error="refuse", progress=False)
    with pytest.raises(UserError, match="no photograph can be used"):
        segmentation.tally(model, scenes.segmented_source([broken]), progress=False)


def test_what_does_not_fit_is_refused(model):
    source = scenes.segmented_source([scenes.record(0)], ("vessels",))
    with pytest.raises(UserError, match="of which none is"):
        segmentation.tally(scenes.reader(("disc",)), source, progress=False)
    with pytest.raises(UserError, match="all are needed"):
        segmentation.tally(scenes.reader(("disc", "vessels"), "exclusive"), source)
    with pytest.raises(UserError, match="call it for each"):
        model.segment([b"1", b"2"])


def test_the_model_keeps_its_mask_decisions(model, tmp_path):
    assert model.mask_decisions == MaskDecisions(model.structures, (0.5,) * 3)
    other = MaskDecisions(("cup",), (0.5,))
    with pytest.raises(UserError, match="the network finds disc, vessels, cup"):
        type(model)(model.method, {}, model.state, model.config, mask_decisions=other)
