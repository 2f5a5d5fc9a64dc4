"""The page takes photographs of a reasonable size, a few at a time, and forgets them."""

import io
import threading
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image

from retfm_jax.experiments.demo import words
from retfm_jax.experiments.demo.guard import Kept, Limits, Refused, Turns, photograph

TOO_MANY = words.TOO_MANY_PIXELS.filled(most=0.1)
LIMITS = Limits(file_bytes=2_000_000, pixels=100_000, kept_bytes=100, kept_seconds=10.0)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def encoded(kind="PNG", pixels=NOISE, **more):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **more)
    return buffer.getvalue()


def gif(frames):
    # Of one channel: to find a palette of each frame takes seconds.
    pictures = [Image.fromarray(np.roll(NOISE[..., 0], n, 0)) for n in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def bomb():
    """A PNG of a few bytes whose header states a billion pixels."""
    data = bytearray(encoded())
    data[16:24] = (40_000).to_bytes(4, "big") + (30_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_photograph_is_what_its_content_is(kind):
    np.testing.assert_array_equal(photograph(encoded(kind), LIMITS), NOISE)


def test_a_gif_of_one_frame_is_a_photograph():
    assert photograph(gif(1), LIMITS).shape == (40, 50, 3)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", words.EMPTY),
        (b"\0" * 10, words.NO_IMAGE),
        (b"\0" * 2_000_001, words.TOO_LARGE.filled(megabytes=2)),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", words.NO_IMAGE),
        (b"%PDF-1.7 " + b"\0" * 100, words.NO_IMAGE),
        (b"#!/bin/sh\nrm -rf /\n", words.NO_IMAGE),
        (encoded()[:-400], words.DAMAGED),
        (encoded("JPEG")[:-300], words.DAMAGED),
        (gif(300), words.SEVERAL_FRAMES),
        (encoded("TIFF", save_all=True, append_images=[Image.fromarray(NOISE)]),
         words.SEVERAL_FRAMES),
        (encoded(pixels=np.zeros((40, 50, 3), np.uint8)), words.FLAT),
        (encoded(pixels=NOISE[:20]), words.TOO_SMALL.filled(width=50, height=20)),
        (encoded(pixels=np.resize(NOISE, (300, 400, 3)), compress_level=0)[:100_000],
         TOO_MANY),
    ],
)  # fmt: skip
def test_what_is_no_photograph_is_refused_in_both_languages(data, said):
    with pytest.raises(Refused) as refused:
        photograph(data, LIMITS)
    assert refused.value.said == said
    assert said.en in str(refused.value)
    assert said.zh in str(refused.value)


def test_a_small_file_that_states_a_billion_pixels_is_not_decoded():
    with pytest.raises(Refused) as refused:
        photograph(bomb(), LIMITS)
    assert refused.value.said == TOO_MANY


def dicom(frames):
    """A DICOM file of one or several color frames, and of somebody."""
    pictures = np.stack([NOISE] * frames)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.PatientName = "SECRET"
    dataset.Rows, dataset.Columns = NOISE.shape[:2]
    dataset.NumberOfFrames, dataset.SamplesPerPixel, dataset.PlanarConfiguration = frames, 3, 0
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = pictures.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def test_a_dicom_file_is_its_one_picture():
    np.testing.assert_array_equal(photograph(dicom(1), LIMITS), NOISE)
    for data, said in ((dicom(3), words.SEVERAL_FRAMES), (dicom(1)[:-900], words.DAMAGED)):
        with pytest.raises(Refused) as refused:
            photograph(data, LIMITS)
        assert refused.value.said == said


def test_photographs_are_kept_for_a_while_and_the_oldest_make_room():
    now = [0.0]
    kept = Kept(LIMITS, lambda: now[0])
    first, second = kept.put(b"a" * 60), kept.put(b"b" * 40)
    assert kept.get(first) == b"a" * 60
    third = kept.put(b"c" * 30)
    with pytest.raises(Refused) as refused:
        kept.get(first)
    assert refused.value.said == words.FORGOTTEN
    now[0] = 9.9
    assert (kept.get(second), kept.get(third)) == (b"b" * 40, b"c" * 30)
    fourth = kept.put(b"d")
    now[0] = 10.1
    assert kept.expire() == 1
    assert kept.get(fourth) == b"d"
    kept.drop(fourth)
    kept.drop(fourth)
    assert kept.expire() == 0


def test_nobody_can_guess_a_key():
    kept = Kept(LIMITS)
    keys = {kept.put(b"same") for _ in range(20)}
    assert len(keys) == 20
    assert min(map(len, keys)) >= 24


def test_one_computes_some_wait_and_the_rest_is_told_so():
    turns, entered, leave = Turns(waiting=2), threading.Semaphore(0), threading.Event()
    inside, most, refused, done = [], [], [], []

    def request():
        try:
            with turns.turn():
                inside.append(1)
                most.append(len(inside))
                entered.release()
                leave.wait(10)
                inside.pop()
                done.append(1)
        except Refused as error:
            refused.append(error.said)
            if len(refused) == 17:
                leave.set()

    threads = [threading.Thread(target=request) for _ in range(20)]
    for thread in threads:
        thread.start()
    entered.acquire()
    for thread in threads:
        thread.join(20)
    assert max(most) == 1
    assert len(done) == 3
    assert refused == [words.BUSY] * 17
    with turns.turn():
        pass


def test_whoever_fails_leaves_the_turn_to_the_next():
    turns = Turns(waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), turns.turn():
            raise ZeroDivisionError
