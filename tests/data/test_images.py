"""Decoding refuses what is no photograph; resizing meets the published pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from golden_files import golden_path
from PIL import Image

from retfm_jax.config import CLIP_MEAN, CLIP_STD, AugmentConfig, ImageConfig
from retfm_jax.data import images
from retfm_jax.data.images import (
    ImageError,
    decode,
    fit,
    resize_pad,
    squash,
    thumbnail,
    training_image,
)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_squash_meets_the_golden():
    with np.load(golden_path("preprocess.npz")) as golden:
        pixels = squash(golden["image"], 224).astype(np.float32) / 255
        ours = (pixels - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
        np.testing.assert_allclose(ours, golden["clip_224"], atol=1e-6)


def test_resize_pad_meets_the_golden():
    with np.load(golden_path("preprocess.npz")) as golden:
        ours = resize_pad(golden["image"], 256)
        np.testing.assert_allclose(ours, golden["keepfit_256"], atol=2e-5)
        # As bytes for the device: half a gray level away at most.
        as_bytes = fit(golden["image"], ImageConfig(size=256, resize="pad"))
        np.testing.assert_allclose(as_bytes / 255, golden["keepfit_256"], atol=2e-3)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_decoding_equals_pillow(mode: str, options: dict):
    data = encoded(smooth(61, 83).convert(mode), quality=90, **options)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data, "x"), want)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_other_formats_are_read(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    image = smooth(20, 30)
    np.testing.assert_array_equal(decode(encoded(image, kind, **options), "x"), np.asarray(image))


def test_sixteen_bit_gray_is_scaled_not_clipped():
    gray = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    decoded = decode(encoded(Image.fromarray(gray), "PNG"), "x")
    np.testing.assert_array_equal(decoded[..., 0], gray >> 8)


@pytest.mark.parametrize("min_side", [None, 16])
def test_exif_orientation_is_applied(min_side: int | None):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    image = smooth(40, 64)
    turned = decode(encoded(image, exif=exif, quality=95), "x", min_side=min_side)
    upright = decode(encoded(image, quality=95), "x", min_side=min_side)
    np.testing.assert_allclose(turned, np.rot90(upright, -1), atol=2)


def test_reduced_decoding_keeps_enough_pixels():
    data = encoded(smooth(256, 400), quality=95)
    sizes = {side: decode(data, "x", min_side=side).shape[:2] for side in (300, 129, 128, 64, 10)}
    assert sizes == {
        300: (256, 400),
        129: (256, 400),
        128: (128, 200),
        64: (64, 100),
        10: (32, 50),
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Patient 12, both eyes", "not a readable image"),
        (b"", "not a readable image"),
        (encoded(smooth(64, 64))[:-200], "truncated or damaged"),
        (encoded(smooth(64, 64))[:20], "readable image|truncated"),
        (encoded(smooth(64, 64), "PNG")[:-60], "truncated or damaged"),
        (png_header(30_000, 30_000), "megapixels"),
        (png_header(10_000, 9_000), "10000 x 9000 pixels"),
    ],
)
def test_unusable_bytes_are_named(data: bytes, message: str):
    with pytest.raises(ImageError, match=message) as error:
        decode(data, "p17/left.jpg")
    assert "p17/left.jpg" in str(error.value)


def test_a_jpeg_that_claims_too_many_pixels_is_not_decoded():
    data = bytearray(encoded(smooth(16, 16)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 30_000, 30_000)
    with pytest.raises(ImageError, match="30000 x 30000 pixels"):
        decode(bytes(data), "x")


def test_training_image_without_augmentation_is_near_the_evaluation_image():
    data = encoded(smooth(70, 80), quality=95)
    still = AugmentConfig(crop_area=(1.0, 1.0))
    rng = np.random.default_rng(0)
    for resize in ("squash", "pad"):
        config = ImageConfig(size=64, resize=resize)
        plain = training_image(data, "x", config, still, rng, mirror=False)
        exact = fit(decode(data, "x"), config)
        assert np.abs(plain.astype(int) - exact).mean() < 1
        mirrored = training_image(data, "x", config, still, rng, mirror=True)
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_crops_keep_the_share_of_the_area_that_is_asked_for():
    # Columns and rows count up, so that a crop's corners tell where it was cut.
    size = 200
    y, x = np.mgrid[:size, :size]
    image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    data = encoded(image, "PNG")
    config = ImageConfig(size=200)
    rng = np.random.default_rng(0)
    for _ in range(50):
        crop = training_image(
            data, "x", config, AugmentConfig(crop_area=(0.5, 0.6)), rng, mirror=False
        )
        spans = np.ptp(crop[..., :2].astype(float), axis=(0, 1)) + 1
        assert 0.48 <= np.prod(spans) / size**2 <= 0.62
        assert 0.7 <= spans[0] / spans[1] <= 1.4


def test_affine_turns_about_the_center():
    image = np.zeros((65, 65, 3), np.uint8)
    image[30:35, 30:35] = 255
    data = encoded(Image.fromarray(image), "PNG")
    augment = AugmentConfig(crop_area=(1.0, 1.0), affine_probability=1.0, affine_degrees=45.0)
    rng = np.random.default_rng(1)
    turned = training_image(data, "x", ImageConfig(size=65), augment, rng, mirror=False)
    center = np.argwhere(turned[..., 0] > 128).mean(0)
    np.testing.assert_allclose(center, 32, atol=0.3)
    assert not np.array_equal(turned, image)


RAMP = np.linspace(0, 1, 64 * 64, dtype=np.float64).reshape(64, 64)


def tiff(values: np.ndarray, **options) -> bytes:
    return encoded(Image.fromarray(values), "TIFF", **options)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("16 bits", tiff((RAMP * 65535).astype(np.uint16))),
        ("14 bits in 16", tiff((RAMP * 16383).astype(np.uint16))),
        ("12 bits in 16", tiff((RAMP * 4095).astype(np.uint16))),
        ("12 bits in a 16-bit PNG", encoded(Image.fromarray((RAMP * 4095).astype("u2")), "PNG")),
        ("10 bits in 16", tiff((RAMP * 1023).astype(np.uint16))),
        ("8 bits in 16", tiff((RAMP * 255).astype(np.uint16))),
        ("16 bits in 32", tiff((RAMP * 65535).astype(np.int32))),
        ("31 bits", tiff((RAMP * (2**31 - 1)).astype(np.int32))),
        ("float 0..1", tiff(RAMP.astype(np.float32))),
        ("float 0..255", tiff((RAMP * 255).astype(np.float32))),
        ("float 0..65535", tiff((RAMP * 65535).astype(np.float32))),
    ],
)
def test_every_depth_shows_the_same_picture(name, data):
    decoded = decode(data, name)
    np.testing.assert_allclose(decoded[..., 0], RAMP * 255, atol=1.1)
    assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(RAMP < 0.5, np.nan, RAMP), "2048 pixels are infinite or not a number"),
        (np.where(RAMP < 0.5, np.inf, RAMP), "infinite"),
        (RAMP * 4, "from 0 to 4, neither 0 to 1 nor"),
        (RAMP - 0.5, "negative values"),
        (RAMP * 1e12, "neither 0 to 1 nor"),
        (-(RAMP * 100).astype(np.int32), "negative values"),
    ],
)
def test_values_that_mean_no_brightness_are_refused(values, message):
    values = values if values.dtype == np.int32 else values.astype(np.float32)
    with pytest.raises(ImageError, match=message) as error:
        decode(tiff(values), "p1.tif")
    assert "p1.tif" in str(error.value)


def deep_png(pixels: np.ndarray) -> bytes:
    import cv2

    order = [2, 1, 0, 3][: pixels.shape[2]]
    return cv2.imencode(".png", pixels[..., order])[1].tobytes()


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_deep_color(bits, alpha):
    top = 2**bits - 1
    pixels = np.stack([RAMP, RAMP[::-1], RAMP.T] + [np.ones_like(RAMP)] * alpha, -1)
    values = np.rint(pixels * top).astype(np.uint16)
    if alpha:
        values[..., 3] = 65535
    decoded = decode(deep_png(values), "x")
    np.testing.assert_allclose(decoded, pixels[..., :3] * 255, atol=1.1)


def transparent(mode: str) -> Image.Image:
    """White where it is transparent: the left half."""
    image = smooth(16, 16).convert("RGBA")
    pixels = np.array(image)
    pixels[:, :8] = (255, 255, 255, 0)
    image = Image.fromarray(pixels)
    if mode == "P":
        return image.quantize(64)
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "TIFF")]
)
def test_what_is_transparent_lies_on_black(mode, kind):
    decoded = decode(encoded(transparent(mode), kind), "x")
    assert decoded[:, :8].max() <= 1
    assert decoded[:, 8:].max() > 100


def test_transparency_that_hides_everything_is_none():
    image = smooth(16, 16)
    image.putalpha(0)
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), "x"), np.asarray(smooth(16, 16)))


def test_other_modes_are_read():
    gray = Image.fromarray((RAMP * 255).astype(np.uint8))
    assert set(np.unique(decode(encoded(gray.convert("1"), "PNG"), "x"))) == {0, 255}
    assert set(np.unique(decode(encoded(gray.convert("1"), "TIFF"), "x"))) == {0, 255}
    cmyk = decode(encoded(smooth(32, 32).convert("CMYK"), "JPEG", quality=98), "x")
    np.testing.assert_allclose(cmyk, np.asarray(smooth(32, 32)), atol=12)
    np.testing.assert_array_equal(decode(encoded(gray, "PPM"), "x")[..., 0], np.asarray(gray))


def test_the_orientation_of_a_deep_image_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = (RAMP[:32] * 65535).astype(np.uint16)
    turned = decode(encoded(Image.fromarray(values), "PNG", exif=exif), "x")
    np.testing.assert_array_equal(turned[..., 0], np.rot90(values >> 8, -1))


def test_pages_are_counted_and_the_first_is_taken():
    first, second = smooth(16, 16), smooth(16, 24)
    data = encoded(first, "TIFF", save_all=True, append_images=[second, second])
    assert images.pages(data) == 3
    np.testing.assert_array_equal(decode(data, "x"), np.asarray(first))
    assert images.pages(encoded(first)) == images.pages(b"text") == 1


def test_one_value_everywhere_is_seen():
    assert images.is_flat(np.full((9, 9, 3), 7, np.uint8))
    nearly = np.full((99, 99, 3), 7, np.uint8)
    nearly[50, 51, 2] = 8
    assert not images.is_flat(nearly)


def two_headed(side: int) -> bytes:
    """A JPEG of side x side pixels in which a careless reader finds a frame header of 32 x 32."""
    whole = encoded(Image.new("L", (side, side), 128), quality=5)
    payload = bytearray(0xFFF0 - 2)
    fake = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 32, 32, 1) + bytes(9)
    offset = 4 + 0xEFFF - 2 - 6
    payload[offset : offset + len(fake)] = fake
    # FF FF EF: a fill byte and APP15 to the standard, a segment FF of length EFFF to the careless.
    return b"\xff\xd8" + b"\xff\xff\xef\xff\xf0" + bytes(payload) + whole[2:]


def test_the_size_is_that_of_the_decoder():
    assert decode(two_headed(64), "x").shape == (64, 64, 3)
    with pytest.raises(ImageError, match="10000 x 10000 pixels"):
        decode(two_headed(10_000), "x")


def test_no_error_of_opencv_escapes(monkeypatch):
    import cv2

    def fails(*_):
        raise cv2.error("too large")

    monkeypatch.setattr(cv2, "imdecode", fails)
    data = encoded(smooth(20, 30))
    assert decode(data, "x").shape == (20, 30, 3)


@pytest.mark.parametrize(("height", "width"), [(30, 20), (600, 900), (224, 100)])
def test_a_thumbnail_has_its_long_side_whatever_the_photograph_has(height, width):
    pixels = np.full((height, width, 3), 90, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    found = thumbnail(buffer.getvalue(), "a", 224)
    assert max(found.shape) == 224
    assert found.shape[0] / found.shape[1] == pytest.approx(height / width, abs=0.02)
    assert np.ptp(found) == 0
