"""DICOM files are photographs like others, and nothing that tells a person leaves them."""

import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from retfm_jax.data import dicom, image_files, photographs
from retfm_jax.data.building.validation import prepare_image
from retfm_jax.data.images import ImageError, decode, pages

#: Files of other programs, which come with pydicom.
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
OPHTHALMIC = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
PERSON = "SecretName^Anna"


def written(pixels, kind, *, bits=None, syntax="1.2.840.10008.1.2.1", data=None, **tags):
    """A DICOM file of an ophthalmic photograph."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = OPHTHALMIC, "1.2.3"
    meta.TransferSyntaxUID = syntax
    file = Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = OPHTHALMIC, "1.2.3"
    file.PatientName, file.PatientID, file.PatientBirthDate = PERSON, "SECRET-ID", "19700101"
    samples = 3 if kind in ("RGB", "YBR_FULL") else 1
    rows = pixels.ndim - (3 if samples == 3 else 2)
    file.Rows, file.Columns = pixels.shape[rows : rows + 2]
    file.SamplesPerPixel, file.PhotometricInterpretation = samples, kind
    if samples == 3:
        file.PlanarConfiguration = 0
    if rows:
        file.NumberOfFrames = len(pixels)
    file.BitsAllocated = 8 * pixels.dtype.itemsize
    file.BitsStored = bits or file.BitsAllocated
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(file, name, value)
    raw = pixels.tobytes()
    file.PixelData = data if data is not None else raw + bytes(len(raw) % 2)
    if data is not None:
        file["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def picture(height=7, width=9, frames=(), dtype=np.uint8, high=256):
    rng = np.random.default_rng(0)
    return rng.integers(0, high, (*frames, height, width, 3), dtype)


def test_colors_come_as_they_are_stored():
    pixels = picture()
    np.testing.assert_array_equal(decode(written(pixels, "RGB"), "a.dcm"), pixels)
    planes = written(pixels.transpose(2, 0, 1).reshape(7, 9, 3), "RGB", PlanarConfiguration=1)
    np.testing.assert_array_equal(decode(planes, "a.dcm"), pixels)
    deep = picture(dtype=np.uint16, high=4096)
    np.testing.assert_array_equal(decode(written(deep, "RGB", bits=12), "a.dcm"), deep >> 4)


def test_of_several_frames_the_first_is_taken_and_they_are_counted():
    pixels = picture(frames=(3,))
    data = written(pixels, "RGB")
    np.testing.assert_array_equal(decode(data, "a.dcm"), pixels[0])
    assert pages(data) == 3
    remarks: list = []
    prepare_image(data, "a.dcm", 0, remarks)
    assert [kind for kind, _, _ in remarks] == ["several_pages"]


def test_gray_is_scaled_by_its_bits_or_by_its_window():
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    gray = decode(written(ramp, "MONOCHROME2", bits=12), "a.dcm")
    assert (gray[..., 0] == gray[..., 2]).all()
    np.testing.assert_array_equal(gray[..., 0], np.rint(ramp / 4095 * 255))
    inverted = decode(written(ramp, "MONOCHROME1", bits=12), "a.dcm")
    np.testing.assert_array_equal(inverted, 255 - gray)
    window = {"WindowCenter": [1024.5, 5], "WindowWidth": [1025, 2], "VOILUTFunction": "LINEAR"}
    seen = decode(written(ramp, "MONOCHROME2", bits=12, **window), "a.dcm")[..., 0]
    assert seen[ramp <= 512].max() == 0
    assert seen[ramp >= 1536].min() == 255
    np.testing.assert_allclose(seen[16], (ramp[16] - 512) / 1024 * 255, atol=0.51)
    rescaled = dict(window, RescaleSlope=2, RescaleIntercept=-100)
    twice = decode(written(ramp, "MONOCHROME2", bits=12, **rescaled), "a.dcm")[..., 0]
    assert twice[ramp == 306] == 0
    assert twice[ramp == 818] == 255
    signed = (ramp.astype(np.int16) - 2048).astype(np.int16)
    found = decode(written(signed, "MONOCHROME2", bits=12), "a.dcm")
    np.testing.assert_array_equal(found, gray)


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_dcmtk_+eb+cy+np.dcm",  # JPEG baseline, YBR
        "SC_rgb_dcmtk_+eb+cr.dcm",  # JPEG baseline, RGB
        "SC_rgb_jpeg_gdcm.dcm",  # JPEG lossless
        "SC_rgb_gdcm_KY.dcm",  # JPEG 2000
        "SC_rgb_jls_lossy_line.dcm",  # JPEG-LS
        "SC_rgb_rle_16bit.dcm",  # RLE, 16 bits
        "SC_ybr_full_422_uncompressed.dcm",
    ],
)
def test_other_programs_files_show_one_picture_however_compressed(name):
    wanted = decode((SAMPLES / "SC_rgb_rle.dcm").read_bytes(), "rle").astype(int)
    found = decode((SAMPLES / name).read_bytes(), name)
    assert np.abs(found - wanted).mean() < 4, name  # of blocks of pure colors


def test_an_indexed_picture_has_its_colors():
    data = (SAMPLES / "examples_palette.dcm").read_bytes()
    file = pydicom.dcmread(io.BytesIO(data))
    palette = [
        np.frombuffer(file[f"{color}PaletteColorLookupTableData"].value, np.uint16) >> 8
        for color in ("Red", "Green", "Blue")
    ]
    wanted = np.stack([each[file.pixel_array] for each in palette], axis=-1)
    np.testing.assert_array_equal(decode(data, "palette"), wanted)


@pytest.mark.parametrize(
    ("tags", "side"),
    [
        ({"ImageLaterality": "L"}, "left"),
        ({"Laterality": "R"}, "right"),
        ({"ImageLaterality": "R", "Laterality": "L"}, "right"),
        ({"ImageLaterality": "B"}, None),
        ({"ImageLaterality": "U", "Laterality": ""}, None),
        ({}, None),
    ],
)
def test_the_header_tells_the_eye(tags, side):
    assert dicom.laterality(written(picture(), "RGB", **tags)) == side


def test_functional_groups_tell_the_eye():
    anatomy, group = Dataset(), Dataset()
    anatomy.FrameLaterality = "L"
    group.FrameAnatomySequence = [anatomy]
    data = written(picture(), "RGB", SharedFunctionalGroupsSequence=[group])
    assert dicom.laterality(data) == "left"
    assert dicom.laterality(b"no file") is None
    assert dicom.laterality(data[:200]) is None


def test_nothing_that_tells_a_person_leaves_the_file(capfd):
    data = written(picture(), "RGB", ImageLaterality="L")
    assert b"SecretName" in data
    stored = prepare_image(data, "a.dcm", 0)
    assert stored.startswith(b"\xff\xd8")
    for secret in (b"SecretName", b"SECRET-ID", b"19700101"):
        assert secret not in stored
    said = []
    for damaged in (data[:-5], data[: len(data) // 2], data.replace(b"RGB ", b"XYZ ")):
        with pytest.raises(ImageError) as refused:
            decode(damaged, "a.dcm")
        said.append(str(refused.value))
    said += [*capfd.readouterr()]
    assert "Secret" not in "".join(said)
    assert "SECRET" not in "".join(said)


def frame_header(width, height):
    """A JPEG that states a size, and no more."""
    frame = struct.pack(">HHHBHHB", 0xFFD8, 0xFFC0, 11, 8, height, width, 1) + b"\1\x11\0"
    return encapsulate([frame + bytes(40)])


def rle_bomb():
    head = struct.pack("<16L", 1, 64, *[0] * 14)
    return encapsulate([head + b"\x81\0" * 4000])


JPEG, RLE, DEFLATED, MPEG2 = (
    f"1.2.840.10008.1.2.{each}" for each in ("4.50", "5", "1.99", "4.100")
)
SMALL = np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (written(SMALL, "MONOCHROME2", Rows=65535, Columns=65535), "megapixels"),
        (written(SMALL, "MONOCHROME2", Rows=0), "holds no picture"),
        (written(SMALL, "MONOCHROME2", Rows=100), "cannot be decoded"),
        (written(SMALL, "MONOCHROME2", syntax=JPEG, data=frame_header(65500, 65500)), "8 x 8"),
        (written(SMALL, "MONOCHROME2", syntax=RLE, data=rle_bomb()), "8 x 8"),
        (written(SMALL, "MONOCHROME2", SamplesPerPixel=9), "9 samples"),
        (written(SMALL, "MONOCHROME2", syntax=DEFLATED), "deflated"),
        (written(SMALL, "MONOCHROME2", syntax=MPEG2, data=frame_header(8, 8)), "which is not read"),
        ((SAMPLES / "test-SR.dcm").read_bytes(), "holds no picture"),
        (bytes(128) + b"DICM" + bytes(20), "holds no picture"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused_in_a_sentence(data, said):
    with pytest.raises(ImageError, match=said) as refused:
        decode(data, "a.dcm")
    assert str(refused.value).startswith("a.dcm: ")
    assert "\n" not in str(refused.value)


def test_without_pydicom_the_message_says_what_to_install(monkeypatch):
    data = written(picture(), "RGB")
    dicom._reader.cache_clear()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match=r"a\.dcm: DICOM files want `pip install .*"):
        decode(data, "a.dcm")


def test_without_its_decoder_the_message_names_the_package(monkeypatch):
    from pydicom.pixels.decoders import base

    class Missing:
        is_available = False

    monkeypatch.setattr(base, "get_decoder", lambda syntax: Missing())
    data = (SAMPLES / "SC_rgb_jpeg_gdcm.dcm").read_bytes()
    with pytest.raises(ImageError, match=r"JPEG Lossless.*`pip install pylibjpeg-libjpeg`"):
        decode(data, "a.dcm")


def test_a_folder_lists_dicom_by_content(tmp_path):
    for name in ("series/IM0001", "b.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(written(picture(), "RGB"))
    (tmp_path / "c.dcm").write_bytes(b"something else")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(20))
    found = photographs.find(tmp_path)
    assert found.photographs == ("b.dcm", "series/IM0001")
    assert found.broken == ("c.dcm",)
    path = os.fspath(tmp_path / "b.dcm")
    np.testing.assert_array_equal(decode(image_files.read(path), path), picture())
