"""Decoding refuses what is no photograph; resizing meets the published pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from golden_files import golden_path
from PIL import Image

from retfm_jax.config import CLIP_MEAN, CLIP_STD, AugmentConfig, ImageConfig
from retfm_jax.data.images import ImageError, decode, fit, resize_pad, squash, training_image


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
        # As bytes for the device: half a grey level away at most.
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


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    decoded = decode(encoded(Image.fromarray(grey), "PNG"), "x")
    np.testing.assert_array_equal(decoded[..., 0], grey >> 8)


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


def test_affine_turns_about_the_centre():
    image = np.zeros((65, 65, 3), np.uint8)
    image[30:35, 30:35] = 255
    data = encoded(Image.fromarray(image), "PNG")
    augment = AugmentConfig(crop_area=(1.0, 1.0), affine_probability=1.0, affine_degrees=45.0)
    rng = np.random.default_rng(1)
    turned = training_image(data, "x", ImageConfig(size=65), augment, rng, mirror=False)
    centre = np.argwhere(turned[..., 0] > 128).mean(0)
    np.testing.assert_allclose(centre, 32, atol=0.3)
    assert not np.array_equal(turned, image)
