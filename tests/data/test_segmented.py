"""A photograph and its masks are moved together, and windows hold what is rare."""

import dataclasses
import io
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from retfm_jax.config import AugmentConfig, DataConfig, ImageConfig, MasksConfig
from retfm_jax.data import geometry, masks, segmented
from retfm_jax.data.images import ImageError, augmented, decode_reduced, fit
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.masks import EncodedMask
from retfm_jax.data.pipeline import TrainIterator
from retfm_jax.data.records import SegmentedRecord
from retfm_jax.data.samples import Unusable
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError

STILL = AugmentConfig(crop_area=(1.0, 1.0), flip="none")
WILD = AugmentConfig(
    crop_area=(0.3, 0.9),
    flip="exchange",
    affine_probability=1.0,
    affine_degrees=40.0,
    affine_scale=(0.7, 1.4),
)


def scene(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A photograph whose red is one structure, whose green another and whose blue the field."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, count in (("red", 5), ("green", 3)):
        mask = np.zeros((height, width), np.uint8)
        for _ in range(count):
            center = rng.integers(0, (width, height)).tolist()
            axes = (rng.uniform(0.05, 0.16, 2) * width).astype(int).tolist()
            cv2.ellipse(mask, center, axes, rng.uniform(0, 180), 0, 360, 1, -1)
        drawn[name] = mask
    field = np.zeros((height, width), np.uint8)
    cv2.circle(field, (width // 2, height // 2), int(0.47 * width), 1, -1)
    planes = (drawn["red"], drawn["green"], field)
    return np.stack(planes, axis=-1) * np.uint8(255), {**drawn, "field": field}


def png(image: np.ndarray, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def record(height=300, width=400, seed=0, form="PNG", **options) -> SegmentedRecord:
    image, drawn = scene(height, width, seed)
    kept = [EncodedMask(masks.encode(drawn[name]), name=name) for name in ("red", "green")]
    return SegmentedRecord(
        record_id=f"r{seed}",
        patient_id=f"p{seed}",
        image=png(image, form, **options),
        caption={},
        categories=(),
        attributes=(),
        labels=np.zeros(0, np.int8),
        masks=(*kept, EncodedMask(b""), None),
        field=EncodedMask(masks.encode(drawn["field"])),
    )


def sample(of: SegmentedRecord, seed=0, size=96, augment=STILL, resize="squash", **chosen):
    config = DataConfig(
        image=ImageConfig(size=size, resize=resize), augment=augment, masks=MasksConfig(**chosen)
    )
    maker = get_kind("segmented_photograph").maker(config, ())
    return maker.training(of, np.random.default_rng(seed))


def agree(made: dict) -> bool:
    """Whether image, masks and field show the same, but for outlines."""
    for plane, mask in (
        (made["image"][..., 0], made["masks"][..., 0]),
        (made["image"][..., 1], made["masks"][..., 1]),
        (made["image"][..., 2], made["fov"]),
    ):
        kernel, seen = np.ones((5, 5), np.uint8), np.s_[2:-2, 2:-2]
        if (plane[seen][cv2.erode(mask, kernel)[seen] == 1] < 128).any():
            return False
        if (plane[seen][cv2.dilate(mask, kernel)[seen] == 0] > 127).any():
            return False
    return True


@pytest.mark.parametrize("resize", ["squash", "squash_bilinear", "pad"])
def test_a_whole_photograph_is_seen_as_evaluation_sees_it(resize):
    of = record()
    made = sample(of, resize=resize)
    expected = fit(scene(300, 400)[0], ImageConfig(size=96, resize=resize))
    assert np.abs(made["image"].astype(int) - expected).mean() < 4
    assert agree(made)
    assert made["image"][72:].any() != (resize == "pad")
    assert made["fov"][72:].any() != (resize == "pad")


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_crops_and_mirrors_are_those_of_photographs_alone(resize):
    of, augment = record(), dataclasses.replace(WILD, affine_probability=0.0)
    for seed in range(8):
        made = sample(of, seed, augment=augment, resize=resize)
        rng = np.random.default_rng(seed)
        mirror = rng.random() < augment.flip_probability
        alone = augmented(
            scene(300, 400)[0], ImageConfig(size=96, resize=resize), augment, rng, mirror=mirror
        )
        assert np.abs(made["image"].astype(int) - alone).mean() < 6


@pytest.mark.parametrize("chosen", [{"geometry": "whole"}, {"geometry": "windows"}])
@pytest.mark.parametrize("size", [64, 160])
def test_photograph_masks_and_field_stay_on_each_other(chosen, size):
    for seed in range(24):
        of = record(seed=seed, width=400 + seed % 3)
        assert agree(sample(of, seed, size, WILD, working_size=300 + 40 * seed, **chosen))


def test_mirroring_exchanges_sides_and_nothing_else():
    of = record()
    plain = sample(of)
    mirrored = sample(of, augment=dataclasses.replace(STILL, flip="exchange", flip_probability=1.0))
    for name in ("image", "masks", "fov"):
        np.testing.assert_allclose(mirrored[name][:, ::-1].astype(int), plain[name], atol=1)


def test_absent_is_0_and_unknown_255_everywhere_and_the_others_are_0_or_1():
    made = sample(record(), augment=WILD, geometry="windows")
    assert made["masks"].dtype == made["fov"].dtype == np.uint8
    assert made["masks"].shape == (96, 96, 4)
    assert (made["masks"][..., 2] == 0).all()
    assert (made["masks"][..., 3] == masks.UNKNOWN).all()
    assert set(np.unique(made["masks"][..., :2])) == {0, 1}
    assert set(np.unique(made["fov"])) <= {0, 1}


@pytest.mark.parametrize(("share", "at_least", "at_most"), [(1.0, 1.0, 1.0), (0.5, 0.4, 0.7)])
def test_so_many_windows_hold_what_is_rare(share, at_least, at_most):
    spot = np.zeros((300, 400), np.uint8)
    spot[290:292, 3:6] = 1
    of = dataclasses.replace(record(), masks=(EncodedMask(masks.encode(spot)), EncodedMask(b"")))
    made = [sample(of, seed, 64, geometry="windows", holding=share) for seed in range(60)]
    # A window that shrinks may step over a spot of two pixels.
    enlarged = [
        sample(of, s, 64, geometry="windows", holding=share, scale=(1, 2)) for s in range(60)
    ]
    holding = np.mean([each["masks"][..., 0].any() for each in enlarged])
    assert at_least <= holding <= at_most
    assert np.mean([each["masks"][..., 0].any() for each in made]) <= holding


def test_each_structure_of_a_photograph_is_held_equally_often():
    small, large = np.zeros((2, 300, 400), np.uint8)
    small[10:12, 380:382] = 1
    large[150:300, :200] = 1
    kept = tuple(EncodedMask(masks.encode(mask)) for mask in (small, large))
    of = dataclasses.replace(record(), masks=kept)
    made = [
        sample(of, seed, 48, geometry="windows", holding=1.0, scale=(1, 1))["masks"]
        for seed in range(80)
    ]
    assert 0.35 < np.mean([each[..., 0].any() for each in made]) < 0.65


def test_a_window_lies_inside_and_one_that_is_larger_shows_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix = geometry.window(300, 400, 64, 2.0, rng, (299.5, 0.5))
        left, top = matrix[:2, 2]
        assert 0 <= left <= 0.5 < left + 128 <= 400
        assert 0 <= top <= 299.5 < top + 128 <= 300
        matrix = geometry.window(300, 400, 640, 1.0, rng)
        left, top = matrix[:2, 2]
        assert left <= 0 <= 400 <= left + 640
        assert top <= 0 <= 300 <= top + 640
    made = sample(record(), size=640, geometry="windows", scale=(1, 1))
    assert made["fov"].sum() == scene(300, 400)[1]["field"].sum()


def test_windows_of_a_large_jpeg_are_decoded_at_the_size_that_is_needed():
    of = record(1203, 1601, form="JPEG", quality=95)
    for seed in range(6):
        made = sample(of, seed, 96, WILD, geometry="windows", working_size=200, scale=(0.5, 1))
        assert agree(made)
    pixels, shape = decode_reduced(of.image, "x", lambda long: 200)
    assert pixels.shape == (301, 401, 3)
    assert shape == (1203, 1601)


def test_a_turned_jpeg_has_the_shape_of_its_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png(scene(801, 1201)[0], "JPEG", exif=exif)
    pixels, shape = decode_reduced(data, "x", lambda long: 300)
    assert (shape, pixels.shape[:2]) == ((1201, 801), (601, 401))
    pixels, shape = decode_reduced(data, "x", lambda long: long)
    assert shape == pixels.shape[:2] == (1201, 801)


def test_around_the_disc_the_masks_go_along():
    image, drawn = scene(300, 400)
    wide = {name: np.pad(mask, ((0, 0), (150, 250))) for name, mask in drawn.items()}
    lit = np.pad(image, ((0, 0), (150, 250), (0, 0)))
    lit = np.where(wide["field"][..., None] == 1, np.maximum(lit, 90), 0).astype(np.uint8)
    kept = tuple(EncodedMask(masks.encode(wide[name])) for name in ("red", "green"))
    of = dataclasses.replace(
        record(), image=png(lit), masks=kept, field=EncodedMask(masks.encode(wide["field"]))
    )
    config = DataConfig(image=ImageConfig(size=96, field_of_view="crop"), augment=STILL)
    made = get_kind("segmented_photograph").maker(config, ()).training(of, np.random.default_rng(0))
    assert made["fov"].mean() > 0.65  # of the whole it has 0.33
    inside = cv2.erode(made["fov"], np.ones((5, 5), np.uint8)) == 1
    red = (made["image"][..., 0] > 172).astype(np.uint8)
    assert (red == made["masks"][..., 0])[inside].mean() > 0.98


def test_masks_are_scaled_down_by_one_pixel_of_many_or_by_what_half_of_the_area_shows():
    red = scene(300, 400)[1]["red"]
    blocks = red.reshape(100, 3, 100, 4)
    np.testing.assert_array_equal(
        sample(record(), size=100, resizing="area")["masks"][..., 0],
        blocks.mean((1, 3)) >= 0.5,
    )
    np.testing.assert_array_equal(sample(record(), size=100)["masks"][..., 0], blocks[:, 1, :, 2])


def test_an_operation_that_moves_the_photograph_alone_is_refused():
    with pytest.raises(UserError, match="rand_augment moves photographs and not their masks"):
        sample(record(), augment=dataclasses.replace(STILL, rand_augment=2))


def test_what_cannot_be_decoded_is_left_out_and_a_mask_that_does_not_fit_is_named():
    with pytest.raises(Unusable):
        sample(dataclasses.replace(record(), image=b"no photograph"))
    other = EncodedMask(masks.encode(np.ones((30, 40), np.uint8)), name="MA/r0.png")
    with pytest.raises(masks.MaskError, match=r"MA/r0.png has 40 x 30 pixels, and .* r0 has 400 x"):
        sample(dataclasses.replace(record(), masks=(other,)))
    empty = EncodedMask(masks.encode(np.zeros((300, 400), np.uint8)), name="r0_fov.png")
    with pytest.raises(masks.MaskError, match=r"r0_fov.png is an empty field of view"):
        sample(dataclasses.replace(record(), field=empty))


def test_a_field_of_view_that_is_not_given_is_found():
    _, drawn = scene(300, 400)
    lit = (np.full((300, 400, 3), 120) * drawn["field"][..., None]).astype(np.uint8)
    truth = segmented.truth_of(dataclasses.replace(record(), image=png(lit), field=None))
    assert (truth.field == drawn["field"]).mean() > 0.99
    assert truth.masks.shape == (300, 400, 4)
    np.testing.assert_array_equal(truth.masks[..., 0], drawn["red"])


def test_a_side_beyond_what_opencv_counts_is_one_message():
    with pytest.raises(ImageError, match="longer than 32,766 px"):
        geometry.warp_mask(np.ones((2, 40_000), np.uint8), geometry.scaled(1000.0, 1.0), 64)


class Few(RecordSource[SegmentedRecord]):
    """Three scenes, as a dataset."""

    name, split, kind, label_names = "few", "train", "image", ()

    def __init__(self):
        self._records = [record(seed=seed) for seed in range(3)]

    @property
    def structures(self):
        return ("red", "green", "absent", "unknown")

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self._records[int(index)]

    @property
    def identity(self):
        return {"dataset": "few"}


def test_batches_are_a_function_of_seed_and_index():
    config = DataConfig(
        image=ImageConfig(size=32), augment=WILD, masks=MasksConfig(geometry="windows"), threads=2
    )

    def batches():
        return TrainIterator(Few(), "segmented_photograph", config, batch_size=2, seed=5)

    first, again = batches(), batches()
    taken = [next(first) for _ in range(4)]
    again.restore(2)
    for expected, found in zip(taken[2:], again, strict=False):
        assert expected.record_ids == found.record_ids
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(array, found.arrays[name])
    assert taken[0].arrays["masks"].shape == (2, 32, 32, 4)
    assert taken[0].arrays["fov"].shape == (2, 32, 32)
    first.close()
    again.close()


def test_chosen_structures_are_the_masks_in_their_order():
    source = segmented.SegmentedSource(
        Few(), np.array([2, 0]), [1, 0], ["p2", "p0"], split="train", patients_known=True
    )
    assert source.structures == ("green", "red")
    assert [mask.name for mask in source[1].masks] == ["green", "red"]
    assert source[0].record_id == "r2"
    other = segmented.SegmentedSource(
        Few(), np.array([2, 0]), [0, 1], ["p2", "p0"], split="train", patients_known=True
    )
    assert source.identity != other.identity
    assert pickle.loads(pickle.dumps(source)).structures == ("green", "red")
