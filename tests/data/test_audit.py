"""Copies are found whatever was done to them, and evaluation keeps what training gives up."""

import csv
import io
import json
import shutil

import cv2
import numpy as np
import pytest
from golden_files import Golden
from PIL import Image

import retfm_jax
from retfm_jax.cli import main
from retfm_jax.data.audit import fingerprints, relations
from retfm_jax.data.audit.audit import audit
from retfm_jax.data.audit.candidates import NEAR
from retfm_jax.data.audit.comparison import compare, tiled_score
from retfm_jax.data.audit.embedded import Embedder
from retfm_jax.data.audit.fingerprints import BITS, Window, fingerprint, mirrored
from retfm_jax.data.audit.groups import groups
from retfm_jax.data.audit.index import Index
from retfm_jax.data.tasks import open_task
from retfm_jax.errors import UserError


def eye(seed, side=160):
    """A disc on black with vessels of its own: random curves from the optic disc outwards."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side, 3), np.uint8)
    middle = side // 2
    cv2.circle(picture, (middle, middle), middle - 4, (150, 80, 40), -1)
    start = np.array([side * rng.uniform(0.25, 0.75), side * rng.uniform(0.4, 0.6)])
    cv2.circle(picture, tuple(int(c) for c in start), side // 14, (230, 190, 120), -1)
    for _ in range(14):
        angle, place = rng.uniform(0, 2 * np.pi), start.copy()
        points = [place.copy()]
        for _ in range(14):
            angle += rng.normal(0, 0.35)
            place = place + side / 16 * np.array([np.cos(angle), np.sin(angle)])
            points.append(place.copy())
        curve = np.round(points).astype(np.int32)[None]
        cv2.polylines(picture, curve, False, (90, 30, 20), 2, cv2.LINE_AA)
    for _ in range(20):
        spot = rng.uniform(0.2, 0.8, 2) * side
        cv2.circle(picture, tuple(int(c) for c in spot), 2, (240, 220, 130), -1)
    inside = np.zeros((side, side), np.uint8)
    cv2.circle(inside, (middle, middle), middle - 4, 1, -1)
    noise = rng.normal(0, 3, picture.shape)
    return (np.clip(picture + noise, 0, 255) * inside[:, :, None]).astype(np.uint8)


def encoded(pixels, form="JPEG", quality=95):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, form, quality=quality)
    return buffer.getvalue()


def half(pixels):
    side = pixels.shape[0] // 2
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def brighter(pixels, factor):
    return np.clip(pixels * factor, 0, 255).astype(np.uint8)


COPIES = {
    "resized": lambda pixels: encoded(half(pixels)),
    "jpeg": lambda pixels: encoded(pixels, quality=50),
    "cropped": lambda pixels: encoded(pixels[2:-6, 5:-3]),
    "mirrored": lambda pixels: encoded(pixels[:, ::-1]),
    "darker": lambda pixels: encoded(brighter(pixels, 0.8)),
    "brighter": lambda pixels: encoded(brighter(pixels, 1.2)),
    "format": lambda pixels: encoded(pixels, "PNG"),
}


def write(folder, split, label, name, data):
    path = folder / split / label / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """`one`: 12 eyes to train on, 6 to test; `two`: copies of test eyes, one a kind, and others."""
    root = tmp_path_factory.mktemp("sets")
    for number in range(18):
        split, label = ("train", "test")[number >= 12], "ab"[number % 2]
        write(root / "one", split, label, f"{number}_left.jpg", encoded(eye(number)))
    for place, (kind, make) in enumerate(COPIES.items()):
        original = 12 + place % 6
        label = "ab"[original % 2] if kind != "format" else "b"
        write(root / "two", "train", label, f"{kind}.img", make(eye(original)))
    for number in range(20, 24):
        write(root / "two", "train", "ab"[number % 2], f"{number}.jpg", encoded(eye(number)))
    write(root / "two", "train", "a", "twin.jpg", encoded(eye(20)))
    write(
        root / "two", "train", "b", "flat.png", encoded(np.full((90, 90, 3), 120, np.uint8), "PNG")
    )
    write(root / "two", "train", "b", "broken.jpg", encoded(eye(30))[:600])
    return root


@pytest.fixture(scope="module")
def audited(sets):
    document = audit([str(sets / "one"), str(sets / "two")], "", sets / "out")
    return document, json.loads((sets / "out" / "audit.json").read_text())


@pytest.mark.parametrize("kind", COPIES)
def test_every_kind_of_copy_is_found(audited, kind):
    _, written = audited
    found = [
        pair for pair in written["pairs"]
        if pair["second"]["photograph"].endswith(f"{kind}.img") and pair["verdict"] == "same"
        and pair["first"]["set"] == "one"
    ]  # fmt: skip
    original = 12 + list(COPIES).index(kind) % 6
    assert [pair["first"]["photograph"] for pair in found] == [
        f"test/{'ab'[original % 2]}/{original}_left.jpg"
    ]
    assert found[0]["mirror"] == (kind == "mirrored")


def test_nothing_else_is_a_copy(audited):
    _, written = audited
    same = [pair for pair in written["pairs"] if pair["verdict"] == "same"]
    across = [pair for pair in same if pair["first"]["set"] != pair["second"]["set"]]
    assert len(across) == len(COPIES)
    (equal,) = [pair for pair in same if pair["how"] == "bytes"]
    assert {equal[side]["photograph"] for side in ("first", "second")} == {
        "train/a/20.jpg", "train/a/twin.jpg",
    }  # fmt: skip
    splits = written["splits"]["two, train"]
    assert (splits["plain"], splits["broken"]) == (1, 1)


def test_labels_of_copies_that_differ_are_counted(audited):
    _, written = audited
    conflicts = [pair for pair in written["pairs"] if pair["labels_conflict"]]
    named = {tuple(pair[side]["photograph"] for side in ("first", "second")) for pair in conflicts}
    assert named == {
        ("test/a/12_left.jpg", "train/b/format.img"), ("train/a/resized.img", "train/b/format.img"),
    }  # fmt: skip
    assert written["label_conflicts"] == 2


def test_training_gives_way_to_the_test_and_the_list_is_honored(audited, sets):
    with (sets / "out" / "exclusions.csv").open() as file:
        rows = list(csv.DictReader(file))
    named = [row for row in rows if row["record"]]
    assert {row["set"] for row in named} == {"two"}
    left_out = {row["record"].split("/")[-1].split(".")[0]: row["reason"] for row in named}
    assert left_out == dict.fromkeys(COPIES, "copy in evaluation") | {"twin": "repeated"}
    from retfm_jax.data.class_files import Reading

    listed = Reading(exclude=str(sets / "out" / "exclusions.csv"))
    before = open_task(str(sets / "two"), "train", "")
    after = open_task(str(sets / "two"), "train", "", listed)
    assert set(before.record_ids) - set(after.record_ids) == {row["record"] for row in named}
    assert len(open_task(str(sets / "one"), "test", "", listed)) == 6


def test_the_page_shows_pairs_and_counts_what_it_leaves_out(audited, sets, monkeypatch):
    text = (sets / "out" / "audit.html").read_text()
    assert text.count("<figure>") >= len(COPIES) + 1
    assert 'src="http' not in text
    from retfm_jax.data.audit import page

    monkeypatch.setattr(page, "_SHOWN", 2)
    audit([str(sets / "one"), str(sets / "two")], "", sets / "out")
    text = (sets / "out" / "audit.html").read_text()
    assert (
        f"{len(COPIES)} pairs, the least alike first; 2 are shown, the other {len(COPIES) - 2} are "
        "in audit.json" in text
    )


def test_names_on_the_page_are_escaped(tmp_path):
    for number in range(4):
        name = f"<b>{number}.jpg"
        write(tmp_path / "odd", "train", "ab"[number % 2], name, encoded(eye(number % 2)))
    audit([str(tmp_path / "odd")], "", tmp_path / "out")
    text = (tmp_path / "out" / "audit.html").read_text()
    assert "<b>" not in text
    assert "&lt;b&gt;0.jpg" in text


def test_a_killed_audit_goes_on_and_finds_the_same(sets, tmp_path, monkeypatch):
    from retfm_jax.data.audit import parts

    names = [str(sets / "one"), str(sets / "two")]
    whole = audit(names, "", sets / "out")
    made = []

    def one_and_no_more(data, name):
        made.append(name)
        if len(made) > 15:
            raise KeyboardInterrupt
        return fingerprint(data, name)

    monkeypatch.setattr(parts, "fingerprint", one_and_no_more)
    monkeypatch.setattr(parts, "RECORDS", 6)
    monkeypatch.setattr(parts, "cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        audit(names, "", tmp_path / "out")
    there = len(list((tmp_path / "out" / "parts").rglob("*.npz")))
    assert there == 2
    made.clear()
    monkeypatch.setattr(parts, "fingerprint", lambda *each: made.append(each) or fingerprint(*each))
    assert audit(names, "", tmp_path / "out") == whole
    photographs = sum(split["records"] for split in whole["splits"].values())
    assert len(made) == photographs - 6 * there


def test_patients_on_both_sides_leave_training(tmp_path):
    for number in range(6):
        split = "test" if number == 1 else "train"
        side = ("left", "right")[number % 2]
        write(tmp_path / "eyes", split, "a", f"{number // 2}_{side}.jpg", encoded(eye(number)))
        write(tmp_path / "eyes", split, "b", f"{9 - number}_left.jpg", encoded(eye(40 + number)))
    document = audit([str(tmp_path / "eyes")], "", tmp_path / "out")
    torn = document["patients_in_several_splits"]
    assert torn["first"] == [{"train": "train/a/0_left.jpg", "test": "test/a/0_right.jpg"}]
    with (tmp_path / "out" / "exclusions.csv").open() as file:
        named = [row for row in csv.DictReader(file) if row["record"]]
    assert [(row["record"], row["reason"]) for row in named] == [
        ("train/a/0_left.jpg", "patient in evaluation")
    ]


def test_the_hash_of_a_mirror_image_needs_no_pixels():
    plane = np.random.default_rng(0).integers(-120, 120, (96, 96)).astype(np.int8)
    straight, flipped = (fingerprints.hash_of(each) for each in (plane, plane[:, ::-1]))
    differ = np.bitwise_count(mirrored(straight) ^ flipped).sum()
    assert differ <= 1  # a coefficient that is zero but for rounding


def test_the_index_finds_what_comparing_all_finds():
    rng = np.random.default_rng(0)
    bits = rng.random((500, BITS)) < 0.5
    near = bits[:50] ^ (rng.random((50, BITS)) < 0.06)
    items, queries = fingerprints.packed(bits), fingerprints.packed(near)
    found = Index(items).near(queries, 100)
    distance = np.bitwise_count(queries[:, None] ^ items[None]).sum(-1)
    expected = {(q, i) for q, i in np.argwhere(distance <= 100).tolist()}
    assert set(zip(found.query.tolist(), found.item.tolist(), strict=True)) == expected
    assert (distance[found.query, found.item] == found.distance).all()


def test_a_strip_that_is_cut_off_leaves_no_edge_that_could_be_a_vessel():
    cut = fingerprints.plane(
        eye(3)[:-10]
    )  # in a square again, 3 of 96 rows are dark on either side
    lit = cut != fingerprints.UNLIT
    last = np.flatnonzero(lit.any(axis=1))[-1]
    assert last <= 96 - 1 - 3
    assert np.abs(cut[last][lit[last]].astype(int)).mean() < 30  # an edge would have 125 everywhere


def test_two_eyes_with_one_reflection_in_common_are_not_alike():
    first, second = np.random.default_rng(0).normal(size=(2, 96, 96)).astype(np.float32)
    first, second = (cv2.GaussianBlur(values, (0, 0), 2) for values in (first, second))
    both = np.ones((96, 96), bool)
    assert tiled_score(first, 3 * first + 1, both) == pytest.approx(1, abs=1e-3)
    assert abs(tiled_score(first, second, both)) < 0.2
    reflection = np.zeros((96, 96), np.float32)
    cv2.circle(reflection, (48, 48), 12, 1, -1)
    overall = np.corrcoef((first + reflection).ravel(), (second + reflection).ravel())[0, 1]
    assert overall > 0.7
    assert tiled_score(first + reflection, second + reflection, both) < 0.25
    nothing = np.zeros((96, 96), np.float32)
    assert tiled_score(nothing, nothing, both) == 0


def test_the_registration_finds_the_window_of_a_copy():
    whole = eye(5, 240)
    planes = [fingerprints.plane(pixels) for pixels in (whole, whole[12:-12, 12:-12])]
    found = compare(*planes, Window(1.0, 0.0, 0.0), False)
    begun = compare(*planes, Window(0.9, 0.0, 0.0), False)
    assert found.score > 0.9
    assert begun.score == pytest.approx(found.score, abs=0.05)
    assert begun.scale == pytest.approx(232 / 216, abs=0.02)  # the disc has 232 pixels
    flipped = np.ascontiguousarray(planes[1][:, ::-1])
    assert compare(planes[0], flipped, Window(0.9, 0.0, 0.0), True) == begun


def test_copies_of_copies_are_one_group():
    assert groups([(1, 5), (7, 8), (5, 9)]) == [[1, 5, 9], [7, 8]]


def test_known_relations_are_found_under_every_name():
    assert [str(each) for each in relations.related("RETFound_MESSIDOR2", "Messidor-1")] == [
        "messidor2 contains messidor1 (its pairs of eyes, 1,058 of 1,200)"
    ]
    assert relations.set_name("ODIR-5K") == relations.set_name("odir5k") == "odir5k"
    assert relations.related("idrid", "aptos2019") == ()
    assert {each.of for each in relations.relations_of(["MuReD"])} >= {"stare", "rfmid"}


def test_one_eye_that_is_in_two_sets_of_a_third_is_related():
    first, second = relations.related("eyeq", "rldr")
    assert {first.of, second.of} == {"eyepacs"}


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["nowhere"], "nowhere"),
        (["{root}/one", "{root}/one"], "two sets are called 'one'"),
        (["{root}/blind"], "none of 4 photographs of blind, train can be decoded"),
    ],
)
def test_sets_that_cannot_be_audited_are_refused(sets, tmp_path, capsys, names, what):
    for number in range(4):
        data = encoded(eye(number))[:400]
        write(sets / "blind", "train", "ab"[number % 2], f"{number}.jpg", data)
    given = [name.format(root=sets) for name in names]
    arguments = ["data", "audit", *given, "--data_dir", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main(arguments) == 1
    assert what in capsys.readouterr().err
    assert not (tmp_path / "o" / "audit.json").exists()


@pytest.mark.parametrize("which", ["one*/*.npz", "one*/*.planes", "candidates/*/*.npz"])
def test_a_damaged_part_is_named_and_made_anew(sets, tmp_path, which):
    whole = audit([str(sets / "one")], "", tmp_path / "out")
    part = next((tmp_path / "out" / "parts").glob(which))
    part.write_bytes(part.read_bytes()[:50])
    if part.suffix == ".planes":  # they are read to look pairs up, which is done already
        shutil.rmtree(tmp_path / "out" / "parts" / "candidates")
    with pytest.raises(UserError, match="remove it, and the same command makes it anew"):
        audit([str(sets / "one")], "", tmp_path / "out")
    part.unlink()
    assert audit([str(sets / "one")], "", tmp_path / "out") == whole


@pytest.fixture
def hidden(tmp_path):
    """Six eyes to test on; to train on, a crop and its mirror image that no hash proposes."""
    for number in range(6):
        data = encoded(eye(number, 240))
        write(tmp_path / "one", "test", "ab"[number % 2], f"{number}.jpg", data)
    cut = eye(1, 240)[27:-27, 27:-27]
    write(tmp_path / "two", "train", "b", "cut.jpg", encoded(cut))
    write(tmp_path / "two", "train", "b", "turned.jpg", encoded(cut[:, ::-1]))
    write(tmp_path / "two", "train", "a", "other.jpg", encoded(eye(9, 240)))
    return tmp_path


def by_sight(images):
    """An embedding that knows crops and mirror images: sorted shares of the colors inside."""
    pixels = [cv2.imdecode(np.frombuffer(each, np.uint8), 1) for each in images]
    squares = [each[len(each) // 2 - 60 :, len(each) // 2 - 60 :][:120, :120] for each in pixels]
    seen = np.stack([np.bincount(each[..., 1].ravel() // 8, minlength=32) for each in squares])
    seen = np.sqrt(seen.astype(np.float32))
    return seen / np.linalg.norm(seen, axis=1, keepdims=True)


def test_embeddings_propose_copies_that_hashes_do_not(hidden):
    names = [str(hidden / "one"), str(hidden / "two")]
    before = audit(names, "", hidden / "out")
    plain = (hidden / "out" / "audit.json").read_bytes()
    found = audit(names, "", hidden / "out", embedder=Embedder(by_sight, "sight", "1"))
    written = json.loads((hidden / "out" / "audit.json").read_text())
    added = [pair for pair in written["pairs"] if pair["how"] == "embedded"]
    assert {(p["first"]["photograph"], p["second"]["photograph"], p["mirror"]) for p in added} == {
        ("test/b/1.jpg", "train/b/cut.jpg", False), ("test/b/1.jpg", "train/b/turned.jpg", True),
    }  # fmt: skip
    assert all(pair["bits"] > NEAR and pair["verdict"] == "same" for pair in added)
    assert found["copies"]["pairs"] == before["copies"]["pairs"] + 2
    assert written["embeddings"]["same"] == 2
    assert written["embeddings"]["added"] == found["compared_pairs"] - before["compared_pairs"]
    assert (hidden / "out" / "audit.html").read_text().count("found by embeddings") >= 2
    assert audit(names, "", hidden / "out") == before  # without a network nothing is different
    assert (hidden / "out" / "audit.json").read_bytes() == plain


@pytest.mark.parametrize("killed_in", ["embedding", "neighbors", "comparing"])
def test_a_killed_audit_by_embeddings_goes_on(hidden, monkeypatch, killed_in):
    from retfm_jax.data.audit import compared, embedded

    names = [str(hidden / "one"), str(hidden / "two")]
    whole = audit(names, "", hidden / "whole", embedder=Embedder(by_sight, "sight", "1"))
    embeddings = []

    def counted(images):
        if killed_in == "embedding" and embeddings:
            raise KeyboardInterrupt
        embeddings.extend(images)
        return by_sight(images)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if killed_in == "neighbors":
            patched.setattr(embedded._Blocks, "_nearest", interrupt)
        elif killed_in == "comparing":
            patched.setattr(compared, "compare", interrupt)
        with pytest.raises(KeyboardInterrupt):
            audit(names, "", hidden / "out", embedder=Embedder(counted, "sight", "1"))
    killed_in = ""
    assert audit(names, "", hidden / "out", embedder=Embedder(counted, "sight", "1")) == whole
    assert len(embeddings) == 9  # each once
    for file in ("audit.json", "exclusions.csv"):
        there, expected = (hidden / folder / file for folder in ("out", "whole"))
        assert there.read_bytes() == expected.read_bytes()


def test_the_nearest_across_blocks_are_those_of_all_at_once(hidden, monkeypatch):
    from retfm_jax.data.audit import embedded, parts

    names = [str(hidden / "one"), str(hidden / "two")]
    whole = audit(names, "", hidden / "whole", embedder=Embedder(by_sight, "sight", "1"))
    for module, name, value in (
        (parts, "RECORDS", 2), (embedded, "RECORDS", 2), (embedded, "_AT_ONCE", 1),
        (embedded, "_PARTS", 2), (embedded, "_PAIRS", 3),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    assert audit(names, "", hidden / "out", embedder=Embedder(by_sight, "sight", "1")) == whole


def test_a_model_that_cannot_be_loaded_is_said(hidden, capsys):
    arguments = ["data", "audit", str(hidden / "one"), "--out", str(hidden / "out")]
    assert main([*arguments, "--model", str(hidden / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not (hidden / "out" / "audit.json").exists()


def test_the_verb_embeds_by_a_network(hidden, capsys):
    state = Golden("vilref_vit.npz")["state"]
    retfm_jax.from_torch(state, "vilref", text_num_heads=4).save(hidden / "network")
    arguments = ["data", "audit", str(hidden / "one"), "--out", str(hidden / "out")]
    assert main([*arguments, "--model", str(hidden / "network")]) == 0
    written = json.loads((hidden / "out" / "audit.json").read_text())
    assert written["embeddings"]["model"] == str(hidden / "network")
    assert 0 < written["embeddings"]["added"] <= 6 * 5 / 2
    assert "pairs to the comparisons" in capsys.readouterr().out
