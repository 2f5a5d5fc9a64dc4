"""Which files of a folder count as photographs, and where a named file is found."""

import io
import os
import socket

import numpy as np
import pytest
from PIL import Image

from retfm_jax.data import image_files, photographs
from retfm_jax.errors import UserError


def picture(seed: int = 0, mode: str = "RGB", size: int = 24) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(root, relative: str, data: bytes) -> None:
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [
        ("a.jpg", "JPEG", "RGB"),
        ("a.JPG", "JPEG", "RGB"),
        ("a.jfif", "JPEG", "L"),
        ("a.b.c..JPG", "JPEG", "CMYK"),
        ("a.ppm", "PPM", "RGB"),
        ("a.pgm", "PPM", "L"),
        ("a.gif", "GIF", "L"),
        ("a.jp2", "JPEG2000", "RGB"),
        ("a.tif", "TIFF", "RGB"),
        ("a.bmp", "BMP", "RGB"),
        ("a.webp", "WEBP", "RGB"),
        ("no_suffix", "PNG", "RGB"),
        ("wrong.txt", "PNG", "RGB"),
        ("眼底.png", "PNG", "RGBA"),
    ],
)
def test_content_decides(tmp_path, name, kind, mode):
    put(tmp_path, name, encoded(picture(mode=mode), kind))
    assert photographs.find(tmp_path).photographs == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "._a.jpg", ".hidden.png", ".ipynb_checkpoints/a.jpg", "__MACOSX/x/a.jpg", "Thumbs.db",
        "desktop.ini", "@eaDir/a.jpg/thumb.jpg", "sub/.git/a.png", "$RECYCLE.BIN/a.jpg",
    ],
)  # fmt: skip
def test_what_is_hidden_never_is_a_photograph(tmp_path, name):
    put(tmp_path, name, encoded(picture(), "JPEG"))
    put(tmp_path, "b.jpg", encoded(picture(), "JPEG"))
    found = photographs.find(tmp_path)
    assert found.photographs == ("b.jpg",)
    assert list(found.passed_over) == ["hidden"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("labels.csv", b"image,grade\n1,0\n", "other"),
        ("readme", b"P2 is the second patient", "other"),
        ("bmi.csv", b"BMI,age of the patients\n20,30\n", "other"),
        ("x.jpg", b"x", "broken"),
        ("empty.png", b"", "broken"),
        ("page.JPEG", b"<html>Not found</html>", "broken"),
        ("scan.dcm", b"no preamble", "broken"),
        ("phone.jpg", b"\0\0\0\x18ftypheic" + bytes(20), "foreign"),
    ],
)
def test_what_is_passed_over_is_counted_by_reason(tmp_path, name, data, reason):
    put(tmp_path, name, data)
    put(tmp_path, "sub/b.png", encoded(picture(), "PNG"))
    found = photographs.find(tmp_path)
    assert found.photographs == ("sub/b.png",)
    assert found.passed_over == {reason: (name,)}
    said = photographs.sentence(found.passed_over)
    assert said == f"passed over: 1 {photographs.REASONS[reason]} ({name})"


def mask(values, mode: str = "L", size: int = 64) -> Image.Image:
    pixels = np.full((size, size), values[0], np.uint8)
    for index, value in enumerate(values[1:]):
        pixels[10 + 5 * index : 40, 20:50] = value
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("kind", ["BMP", "PNG", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("values", [(0, 255), (255, 128, 0), (0, 1, 2), (0, 1)])
def test_few_gray_levels_are_a_mask(tmp_path, kind, values):
    put(tmp_path, "x", encoded(mask(values), kind))
    assert photographs.find(tmp_path).passed_over == {"annotation": ("x",)}


def test_masks_of_other_modes(tmp_path):
    put(tmp_path, "one_bit.tif", encoded(mask((0, 255), "1"), "TIFF", compression="group4"))
    put(tmp_path, "rgb.png", encoded(mask((0, 255), "RGB"), "PNG"))
    red = np.zeros((64, 64, 3), np.uint8)
    red[20:40, 20:40, 0] = 255
    put(tmp_path, "red.tif", encoded(Image.fromarray(red), "TIFF"))
    put(tmp_path, "sixteen.png", encoded(Image.fromarray((red[..., 0] // 255).astype("u2")), "PNG"))
    assert photographs.find(tmp_path).photographs == ()


def test_a_flat_or_smooth_photograph_is_no_mask(tmp_path):
    put(tmp_path, "flat.png", encoded(Image.new("L", (64, 64), 255), "PNG"))
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    put(tmp_path, "ramp.png", encoded(Image.fromarray(ramp), "PNG"))
    blocks = picture(size=4).resize((512, 512), Image.Resampling.NEAREST)
    put(tmp_path, "blocks.png", encoded(blocks, "PNG"))
    put(tmp_path, "few.png", encoded(mask((20, 90, 200)), "PNG"))
    assert len(photographs.find(tmp_path).photographs) == 4


@pytest.mark.parametrize(
    ("name", "annotation"),
    [
        ("Annotation-Training400/Disc_Cup_Masks/Glaucoma/g1.jpg", True),
        ("train/Ground truth/1_A.jpg", True),
        ("GroundTruth/1.jpg", True),
        ("GT/1.jpg", True),
        ("expert/01_dr_mask.jpg", True),
        ("lesion_segmentation/train/image/1.jpg", False),
        ("A. Segmentation/1. Original Images/1.jpg", False),
        ("mask.jpg", False),
        ("GTA/1.jpg", False),
    ],
)
def test_names_of_annotations(tmp_path, name, annotation):
    put(tmp_path, name, encoded(picture(), "JPEG"))
    assert photographs.find(tmp_path).photographs == (() if annotation else (name,))
    # The folder that is looked through may be called as it likes.
    (tmp_path / "masks").mkdir()
    put(tmp_path / "masks", "1.jpg", encoded(picture(), "JPEG"))
    assert photographs.find(tmp_path / "masks").photographs == ("1.jpg",)


def test_pipes_sockets_and_loops_of_links_end(tmp_path):
    put(tmp_path, "a/1.jpg", encoded(picture(), "JPEG"))
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.jpg"))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "link.jpg").symlink_to("a/1.jpg")
    (tmp_path / "null.png").symlink_to("/dev/null")
    found = photographs.find(tmp_path)
    assert found.photographs == ("a/1.jpg", "link.jpg")
    assert set(found.passed_over["special"]) == {"a/pipe.jpg", "s.jpg", "null.png"}
    assert set(found.passed_over["link"]) == {"a/loop", "self.jpg", "gone.jpg"}


def test_links_leave_the_folder_only_where_they_may(tmp_path):
    put(tmp_path, "disk/1.jpg", encoded(picture(), "JPEG"))
    put(tmp_path, "images/0.jpg", encoded(picture(), "JPEG"))
    (tmp_path / "images" / "1.jpg").symlink_to(tmp_path / "disk" / "1.jpg")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "images" / "2.jpg").symlink_to("0.jpg")
    inside = photographs.find(tmp_path / "images", links_leave=False)
    assert inside.photographs == ("0.jpg", "2.jpg")
    assert inside.passed_over == {"link": ("1.jpg", "more")}
    everywhere = photographs.find(tmp_path / "images")
    assert everywhere.photographs == ("0.jpg", "1.jpg", "2.jpg", "more/1.jpg")


def test_glob_patterns():
    matches = {
        "**/Glaucoma/*": (["Glaucoma/1.jpg", "x/GLAUCOMA/1"], ["x/Non-Glaucoma/1", "Glaucoma/x/1"]),
        "train/*_A.png": (["train/1_A.PNG"], ["train/1_B.png", "train/x/1_A.png", "a/1_A.png"]),
        "Im???_[!g]*.jpg": (["Im001_ACRIMA.jpg"], ["Im001_g_ACRIMA.jpg", "Im01_ACRIMA.jpg"]),
        "a.b/**/*": (["a.b/1", "a.b/c/1"], ["aXb/1"]),
        "café/*": (["cafe\u0301/1"], ["cafe/1"]),
    }  # fmt: skip
    for pattern, (right, wrong) in matches.items():
        match = photographs.matcher(pattern)
        assert all(map(match, right)), pattern
        assert not any(map(match, wrong)), pattern


def test_many_files_are_looked_at_by_their_first_bytes(tmp_path, monkeypatch):
    put(tmp_path, "0.png", encoded(picture(size=256), "PNG"))
    for number in range(1, 500):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("a photograph was decoded"))
    assert len(photographs.find(tmp_path).photographs) == 500


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("b.jpg", "B.JPG"),
        ("IMAGES/b.jpg", "images/b.jpg"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("Images\\1\\1_l1.jpg", "Images/1/1_l1.jpg"),
        ("./x.jpg", "x.JPG"),
    ],
)
def test_the_one_file_of_another_spelling_is_taken_and_said(tmp_path, written, file):
    put(tmp_path, file, b"1")
    found = image_files.locate(tmp_path, written)
    assert (found.path, found.spelled) == (tmp_path / file, file)
    assert image_files.read(found.path) == b"1"
    assert repr(file) in image_files.respelled([(written, found.spelled)])


def test_a_file_that_is_there_is_not_another(tmp_path):
    put(tmp_path, "b.jpg", b"1")
    put(tmp_path, "B.JPG", b"2")
    assert image_files.locate(tmp_path, "b.jpg") == image_files.Found(tmp_path / "b.jpg")
    with pytest.raises(UserError, match=r"b.Jpg does not exist; close by: '(b.jpg|B.JPG)'"):
        image_files.locate(tmp_path, "b.Jpg")


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("b.jpg", "b.png"),
        ("b", "b.jpeg"),
        ("b.jpg", "sub/b.jpg"),
        ("b.jpg", "sub/B.JPG"),
        ("other/b.jpg", "b.jpg"),
        ("IDRiD_001", "x/y/IDRiD_001.jpg"),
        ("patient_0012.jpg", "patient_012.jpg"),
        ("b.jpg.jpg", "b.jpg"),
    ],
)
def test_a_missing_file_says_what_is_close_by(tmp_path, written, file):
    put(tmp_path, file, b"1")
    with pytest.raises(UserError, match="does not exist; close by: ") as error:
        image_files.locate(tmp_path, written)
    assert repr(file) in str(error.value)


@pytest.mark.parametrize("name", ["../b.jpg", "sub/../../b.jpg", "/etc/hostname", "a\0b"])
def test_names_do_not_leave_their_root(tmp_path, name):
    put(tmp_path, "b.jpg", b"1")
    (tmp_path / "root").mkdir()
    for follow_links in (False, True):
        with pytest.raises(UserError) as error:
            image_files.locate(tmp_path / "root", name, follow_links=follow_links)
        assert error.value.kind == "outside_root"


def test_links_out_of_the_root_are_followed_by_a_switch(tmp_path):
    put(tmp_path, "disk/b.jpg", b"1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "b.jpg").symlink_to("../disk/b.jpg")
    (tmp_path / "root" / "disk").symlink_to("../disk")
    for name in ("b.jpg", "disk/b.jpg", "B.jpg"):
        with pytest.raises(UserError, match=r"symbolic link .* follow_links"):
            image_files.locate(tmp_path / "root", name)
        found = image_files.locate(tmp_path / "root", name, follow_links=True)
        assert image_files.read(found.path) == b"1"


def test_links_that_lead_nowhere_are_said(tmp_path):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nothing.jpg")
    with pytest.raises(UserError, match="run in a loop"):
        image_files.locate(tmp_path, "loop.jpg", follow_links=True)
    with pytest.raises(UserError, match="link to a file that does not exist"):
        image_files.locate(tmp_path, "gone.jpg")


def test_a_root_behind_a_link_is_a_root(tmp_path):
    put(tmp_path, "disk/b.jpg", b"1")
    (tmp_path / "root").symlink_to("disk")
    for name in ("b.jpg", str(tmp_path / "disk" / "b.jpg"), str(tmp_path / "root" / "b.jpg")):
        assert image_files.read(image_files.locate(tmp_path / "root", name).path) == b"1"


def test_nothing_but_files_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
    for name, what in (("pipe.jpg", "a named pipe"), ("socket.jpg", "a socket"), (".", "a folder")):
        with pytest.raises(UserError, match=f"is {what}, not an image file"):
            image_files.read(tmp_path / name)
    with pytest.raises(UserError, match="is a device"):
        image_files.read("/dev/null")
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"has 1,099,511,627,776 bytes; images have at most"):
        image_files.read(tmp_path / "sparse.png")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "annotation") for name in (
            "x_mask_1.jpg", "mask_x.jpg", "mask1/q.jpg", "x_GT1.jpg", "labels/q.jpg",
            "Annots/q.jpg",
            "1st_manual/q.jpg", "x_fov.jpg", "gradcam/q.jpg", "máscaras/q.jpg", "掩码/q.jpg",
            "标注/q.jpg", "眼底_掩膜.jpg",
        )),
        *((name, "copy") for name in (
            "thumbs/a.jpg", "Thumbnails/a.jpg", "a_thumb.jpg", "thumb-a.jpg", "a.jpg.bak", "a.jpg~",
            "a.jpg.part", "缩略图/a.jpg",
        )),
        *((name, "") for name in (
            "unmasked/a.jpg", "A. Segmentation/1. Original Images/a.jpg", "label_0/a.jpg",
            "已标注/a.jpg", "thumbless.jpg", "OD/a.jpg", "12.jpg", "mask.jpg", "nav/a.jpg",
        )),
    ],
)  # fmt: skip
def test_names_of_masks_and_of_copies_in_their_habits(tmp_path, name, reason):
    put(tmp_path, name, encoded(picture(), "JPEG"))
    assert photographs.reason_against(tmp_path / name, name) == reason


def test_masks_of_sixteen_bits_and_of_floats_are_masks(tmp_path):
    mask = np.zeros((24, 24), np.uint8)
    mask[8:16, 8:16] = 1
    deep, floats = mask.astype(np.uint16) * 65535, mask.astype(np.float32)
    for name, values in (("a.png", deep), ("b.tif", floats)):
        Image.fromarray(values).save(tmp_path / name)
        assert photographs.reason_against(tmp_path / name, name) == "annotation"
    Image.fromarray(mask * np.float32(0.3)).save(tmp_path / "c.tif")
    assert photographs.reason_against(tmp_path / "c.tif", "c.tif") == ""


def test_a_link_to_a_folder_above_is_a_loop(tmp_path):
    put(tmp_path, "test/a/1.jpg", encoded(picture(), "JPEG"))
    put(tmp_path, "test/b/2.jpg", encoded(picture(1), "JPEG"))
    (tmp_path / "test/a/up").symlink_to(tmp_path / "test")
    found = photographs.find(tmp_path / "test/a")
    assert (found.photographs, found.passed_over) == (("1.jpg",), {"link": ("up",)})


def test_copies_are_files_of_equal_bytes_whatever_they_are_called(tmp_path):
    data = bytes(9000)
    contents = {"a": data, "b": data, "c": b"1" + data[1:], "d": data[:-1], "e": b"", "f": b""}
    for name, content in contents.items():
        put(tmp_path, name, content)
    os.mkfifo(tmp_path / "g")
    named = {name: tmp_path / name for name in (*contents, "g", "missing")}
    assert photographs.copies(named) == [("a", "b")]


def test_paths_come_in_order_one_after_another(tmp_path):
    names = ["a-b/1.png", "a.png", "a/2.png", "a/b/3.png", "a0.png", "b.png", "z/4.png"]
    for name in reversed(names):
        put(tmp_path, name, encoded(picture(), "PNG"))
    (tmp_path / "c").symlink_to(tmp_path / "z")
    with photographs.looked_through(tmp_path) as found:
        there = [path for path, reason in found if not reason]
    assert there == sorted(there) == [*names[:6], "c/4.png"]


def test_a_tally_counts_all_names_and_keeps_some():
    tally = photographs.Tally()
    for number in range(1000):
        tally.add(f"{number}.txt")
    assert len(tally) == 1000
    assert len(list(tally)) == 50
    assert "3.txt" in tally
    said = photographs.sentence({"other": tally})
    assert said == "passed over: 1000 no images (0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...)"
