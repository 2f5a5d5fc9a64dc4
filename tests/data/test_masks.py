"""A mask is read as its file means it, whatever its format, and never interpolated."""

import io

import numpy as np
import pytest
from PIL import Image

from retfm_jax.data import masks, record_features, records
from retfm_jax.data.field_of_view import lit_field, minimum_cross_entropy
from retfm_jax.data.masks import BINARY, STORED, UNKNOWN, Codes, Interval, MaskError
from retfm_jax.errors import UserError

DRAWN = (np.random.default_rng(0).random((23, 17)) < 0.3).astype(np.uint8)


def encoded(picture: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def gray(top: int, dtype=np.uint8) -> Image.Image:
    return Image.fromarray(DRAWN.astype(dtype) * dtype(top))


def paletted(*colors: tuple[int, int, int]) -> Image.Image:
    picture = Image.fromarray(DRAWN).convert("P")
    picture.putdata(DRAWN.ravel().tolist())
    picture.putpalette([part for color in colors for part in color])
    return picture


BLACK, WHITE, RED, BLUE = (0, 0, 0), (255, 255, 255), (128, 0, 0), (0, 0, 200)
FILES = {
    "one bit, TIFF of fax": encoded(gray(255).convert("1"), "TIFF", compression="group4"),
    "one bit, PNG": encoded(gray(255).convert("1"), "PNG"),
    "one bit, PBM": encoded(gray(255).convert("1"), "PPM"),
    "0 and 1, PNG": encoded(gray(1), "PNG"),
    "0 and 255, BMP": encoded(gray(255), "BMP"),
    "0 and 255, PGM": encoded(gray(255), "PPM"),
    "0 and 255, GIF": encoded(gray(255), "GIF"),
    "gray in three channels, PPM": encoded(gray(255).convert("RGB"), "PPM"),
    "gray with transparency": encoded(gray(255).convert("LA"), "PNG"),
    "16 bits": encoded(gray(65535, np.uint16), "PNG"),
    "floats of 0 and 1": encoded(gray(1, np.float32), "TIFF"),
    "palette of grays": encoded(paletted(BLACK, WHITE), "PNG"),
    "palette of two colors": encoded(paletted(RED, BLUE), "PNG"),
    "palette of black and a color": encoded(paletted(BLACK, RED), "PNG"),
    "palette as GIF": encoded(paletted(BLACK, WHITE), "GIF"),
    "black and red": encoded(paletted(BLACK, RED).convert("RGB"), "TIFF"),
    "red on black with transparency": encoded(paletted(BLACK, RED).convert("RGBA"), "PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_mask_is_what_was_drawn_in_every_format(name):
    np.testing.assert_array_equal(masks.decode(FILES[name], name), DRAWN)


def test_a_palette_of_grays_that_begins_with_white_counts_by_its_grays():
    np.testing.assert_array_equal(
        masks.decode(encoded(paletted(WHITE, BLACK), "PNG"), "x"), 1 - DRAWN
    )


def test_gray_codes_are_thresholds_and_what_nobody_knows_is_unknown():
    codes = np.array([[0, 128, 255], [0, 150, 151]], np.uint8)
    refuge = encoded(Image.fromarray(codes), "BMP")
    disc = masks.decode(refuge, "g0001.bmp", Codes(Interval(0, 150)))
    cup = masks.decode(refuge, "g0001.bmp", Codes(Interval(0, 100)))
    np.testing.assert_array_equal(disc, [[1, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(cup, [[1, 0, 0], [1, 0, 0]])
    guided = Codes(Interval(200, 255), Interval(127, 128))
    np.testing.assert_array_equal(masks.decode(refuge, "x", guided), [[0, UNKNOWN, 1], [0, 0, 0]])


def test_an_empty_and_a_full_mask_are_masks():
    for value, top in ((0, 255), (1, 1), (1, 255)):
        data = encoded(Image.fromarray(np.full((4, 5), value * top, np.uint8)), "PNG")
        assert (masks.decode(data, "x") == value).all()


def test_a_mask_is_turned_upright_as_its_photograph_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = masks.decode(encoded(gray(255), "PNG", exif=exif), "x")
    np.testing.assert_array_equal(turned, np.rot90(DRAWN, -1))


PHOTOGRAPH = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8))


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (encoded(PHOTOGRAPH, "PNG"), "mask_values", "MA/1.png is a color picture"),
        (encoded(PHOTOGRAPH.convert("L"), "PNG"), "mask_values", "MA/1.png holds the values "),
        (encoded(gray(7), "PNG"), "mask_values", "holds the values 0, 7, and a mask holds 0 and 1"),
        (encoded(gray(0.5, np.float32), "TIFF"), "mask_values", "holds fractions"),
        (encoded(gray(-1, np.float32), "TIFF"), "mask_values", "values below 0"),
        (b"no picture", "broken_mask", "MA/1.png: not a readable mask"),
        (encoded(gray(255), "BMP")[:300], "broken_mask", "MA/1.png: not a readable mask"),
    ],
)
def test_what_is_no_mask_is_one_message_that_names_the_file(data, kind, said):
    with pytest.raises(MaskError, match=said) as found:
        masks.decode(data, "MA/1.png", BINARY)
    assert found.value.kind == kind
    assert "MA/1.png" in str(found.value)


def test_a_deep_mask_with_codes_of_8_bits_is_refused():
    with pytest.raises(MaskError, match="holds the value 300, and its codes end at 255"):
        masks.decode(encoded(gray(300, np.uint16), "PNG"), "x", Codes(Interval(1, 255)))


def test_a_mask_that_claims_too_many_pixels_is_refused_before_it_is_decoded():
    huge = b"P5\n20000 20000\n255\n" + b"\0" * 64
    with pytest.raises(MaskError, match="at most 89 megapixels") as found:
        masks.decode(huge, "huge.pgm")
    assert found.value.kind == "broken_mask"


def test_another_size_and_an_empty_field_name_the_file():
    with pytest.raises(MaskError, match=r"a.png has 17 x 23 pixels, .* b.jpg has 34 x 46") as found:
        masks.require_size(DRAWN.shape, "a.png", (46, 34, 3), "b.jpg")
    assert found.value.kind == "mask_size"
    masks.require_size(DRAWN.shape, "a.png", (23, 17, 3), "b.jpg")
    with pytest.raises(MaskError, match=r"f.gif is an empty field of view") as found:
        masks.require_field(np.zeros((3, 3), np.uint8), "f.gif")
    assert found.value.kind == "empty_field"
    masks.require_field(DRAWN, "f.gif")


def test_encoding_and_decoding_give_a_mask_back():
    half = DRAWN.copy()
    half[:5, :5] = UNKNOWN
    for mask in (DRAWN, half, np.zeros_like(DRAWN), np.ones_like(DRAWN)):
        np.testing.assert_array_equal(masks.decode(masks.encode(mask), "x", STORED), mask)
    assert masks.size_of(io.BytesIO(masks.encode(DRAWN)), "x") == DRAWN.shape


@pytest.mark.parametrize("how", ["nearest", "area"])
def test_scaling_keeps_values_and_places(how):
    mask = np.zeros((40, 60), np.uint8)
    mask[8:24, 12:36] = 1
    mask[24:40, 36:60] = UNKNOWN
    scaled = masks.resized(mask, 10, 15, how)
    np.testing.assert_array_equal(scaled, mask[::4, ::4])
    np.testing.assert_array_equal(masks.resized(mask, 80, 120, how), mask.repeat(2, 0).repeat(2, 1))


def test_a_line_of_two_pixels_survives_areas_of_three():
    mask = np.zeros((30, 30), np.uint8)
    mask[:, 13:15] = 1
    assert masks.resized(mask, 10, 10, "area")[:, 4].all()


@pytest.mark.parametrize("text", ["", "256", "150-0", "a", "1-2-3", "-1"])
def test_an_interval_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="masks: disc"):
        masks.interval(text, "masks: disc")


def test_intervals_are_read():
    assert masks.interval("0-150", "x") == (0, 150)
    assert masks.interval(" 127 ", "x") == (127, 127)


def fundus(height: int, width: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
    noise = np.random.default_rng(0).integers(0, 12, (height, width, 3))
    picture = (noise + inside[..., None] * np.array([150, 80, 40])).astype(np.uint8)
    picture[height // 2 - 9 : height // 2, width // 2 : width // 2 + 9] = 0  # a dark hole
    picture[2:8, 2:30] = 255  # a mark in the corner
    return picture, inside


@pytest.mark.parametrize("size", [(120, 160), (1400, 2100)])
def test_the_field_of_view_is_the_lit_disc_without_holes_and_marks(size):
    picture, inside = fundus(*size, radius=0.45 * min(size))
    field = lit_field(picture)
    assert field.shape == size
    assert (field == inside).mean() > 0.99
    assert field[size[0] // 2 - 5, size[1] // 2 + 4] == 1
    assert field[4, 10] == 0


def test_a_photograph_without_a_dark_surround_is_all_field():
    rows, columns = np.mgrid[:80, :90]
    picture = np.stack([90 + rows + columns // 2, rows, 0 * rows], axis=-1).astype(np.uint8)
    assert lit_field(picture).all()
    picture[:, :20] = picture[:, 70:] = 3
    assert lit_field(picture)[:, 20:70].all()
    assert lit_field(picture).mean() == pytest.approx(5 / 9)


def test_a_picture_of_one_value_is_all_field():
    assert lit_field(np.full((20, 30, 3), 90, np.uint8)).all()


def test_lis_threshold_has_the_least_cross_entropy():
    # Brute force over all thresholds, of the entropy that Li and Lee define (1993).
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(40, 12, 4000), rng.normal(170, 25, 2000)])
    values = values.clip(0, 255).astype(np.uint8).reshape(60, 100)
    shifted = values.astype(float) + 1

    def entropy(threshold: int) -> float:
        low, high = shifted[values <= threshold], shifted[values > threshold]
        return -low.sum() * np.log(low.mean()) - high.sum() * np.log(high.mean())

    least = min(range(int(values.min()), int(values.max())), key=entropy)
    assert abs(minimum_cross_entropy(values) - least) <= 1.5


def test_counting_values_agrees_with_numpy():
    for dtype, top in ((np.uint8, 256), (np.uint16, 65536)):
        values = np.random.default_rng(0).integers(0, top, (31, 13)).astype(dtype)
        np.testing.assert_array_equal(
            masks._counts(values), np.bincount(values.ravel(), minlength=top)
        )


def test_a_record_with_masks_is_stored_and_read_as_it_was():
    features = record_features.image_features(["normal"], ["vessels", "disc", "drusen"])
    stored = {"vessels": masks.encode(DRAWN), "disc": b"", "drusen": None}
    field = masks.encode(np.ones_like(DRAWN))
    example = records.image_example("1.png", image=FILES["0 and 255, GIF"], labels=["normal"])
    encoded_example = features.encode_example(example | records.mask_fields(stored, field))
    record = records.parse_record(features.serialize_example(encoded_example), 1)
    assert isinstance(record, records.SegmentedRecord)
    vessels, disc, drusen = record.masks
    np.testing.assert_array_equal(masks.decode(*vessels[:1], "x", vessels.codes), DRAWN)
    assert (disc.data, drusen) == (b"", None)
    assert masks.decode(record.field.data, "x", record.field.codes).all()
    assert (record.record_id, record.labels.tolist()) == ("1.png", [1])


def test_a_photograph_without_masks_is_stored_as_before():
    features = record_features.image_features(["normal"])
    assert "field" not in features
    example = features.encode_example(records.image_example("1.png", image=b"\xff\xd8\xff"))
    record = records.parse_record(features.serialize_example(example), 1)
    assert type(record) is records.ImageRecord
