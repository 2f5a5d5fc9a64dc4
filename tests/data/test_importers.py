"""What a group brings in: what is taken, what is refused, and that both are said."""

import argparse
import base64
import csv
import errno
import io
import json
import pickle
import struct
import threading
import zlib
from collections import Counter
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from retfm_jax.cli import data_import
from retfm_jax.data.building.builder import PROBLEMS_FILE, SUMMARY_FILE, BuildOptions
from retfm_jax.data.building.rows import (
    Base64Slice,
    FilePicture,
    Unusable,
    by_language,
    compose_report,
)
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import importers, manifest, published
from retfm_jax.data.sources import open_dataset
from retfm_jax.errors import UserError


def photograph(seed: int, height: int = 40, width: int = 48, kind: str = "JPEG") -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind, quality=95)
    return buffer.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A valid header of a PNG of side x side pixels, with next to nothing behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 + 3 * side) * 4)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Images of twelve patients, a0.jpg and b0.jpg and so on."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        (folder / f"a{number}.jpg").write_bytes(photograph(2 * number))
        (folder / f"b{number}.jpg").write_bytes(photograph(2 * number + 1))
    return folder


def write_csv(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8") -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def patients(count: int = 12, **changes: dict[str, str]) -> list[dict[str, str]]:
    """Rows of a manifest; `p3={"left": "x.jpg"}` changes one."""
    return [
        {
            "patient_id": f"p{number}",
            "left": f"a{number}.jpg",
            "right": f"b{number}.jpg",
            "report": f"左眼玻璃膜疣 {number}" if number % 2 else f"drusen, left eye {number}",
            "labels": "drusen" if number % 2 else "none",
        }
        | changes.get(f"p{number}", {})
        for number in range(count)
    ]


def bring(table: Path, root: Path, data_dir: Path, **options) -> Path:
    problems = ProblemLog()
    rows, _ = manifest.read_manifest(table, root, problems)
    return importers.import_rows(rows, problems, "clinic", data_dir, BuildOptions(**options))


def everything(folder: Path) -> dict:
    found = {}
    for split in ("train", "validation", "test"):
        try:
            source = open_dataset(str(folder), split, ".")
        except UserError:
            continue
        for index in range(len(source)):
            record = source[index]
            assert record.record_id not in found
            found[record.record_id] = (split, record)
    return found


def problems_of(folder: Path) -> list[dict[str, str]]:
    with (folder / PROBLEMS_FILE).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def the_problem(folder: Path, kind: str) -> dict[str, str]:
    (problem,) = [problem for problem in problems_of(folder) if problem["kind"] == kind]
    return problem


def test_manifest_comes_in_whole(clinic, tmp_path):
    folder = bring(write_csv(tmp_path / "m.csv", patients()), clinic, tmp_path / "data")
    found = everything(folder)
    assert set(found) == {f"p{number}" for number in range(12)}
    assert problems_of(folder) == []
    record = found["p3"][1]
    assert record.left == (clinic / "a3.jpg").read_bytes()  # small originals keep their bytes
    assert record.right == (clinic / "b3.jpg").read_bytes()
    assert record.report == {"zh": "左眼玻璃膜疣 3", "en": ""}
    assert record.labels.tolist() == [1]
    assert found["p2"][1].report["en"] == "drusen, left eye 2"
    assert found["p2"][1].labels.tolist() == [0]  # "none": somebody looked
    assert (record.left_labels == -1).all()  # nobody labeled the eyes


def test_json_lines_say_the_same_as_csv(clinic, tmp_path):
    rows = patients()
    as_csv = write_csv(tmp_path / "m.csv", rows)
    as_json = tmp_path / "m.jsonl"
    for row in rows:
        row["labels"] = [] if row["labels"] == "none" else [row["labels"]]
    as_json.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    one, other = (
        manifest.read_manifest(path, clinic, ProblemLog())[0] for path in (as_csv, as_json)
    )
    ignored = {"file", "row"}
    fields = set(one[0].__dataclass_fields__) - ignored
    for a, b in zip(one, other, strict=True):
        assert {f: getattr(a, f) for f in fields} == {f: getattr(b, f) for f in fields}


def test_a_missing_eye_keeps_the_patient(clinic, tmp_path):
    table = write_csv(tmp_path / "m.csv", patients(p1={"left": ""}))
    folder = bring(table, clinic, tmp_path / "data")
    assert everything(folder)["p1"][1].left == b""
    assert problems_of(folder) == []  # an empty cell is a statement, not a fault


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (photograph(0)[:-100], "broken_image", "truncated"),
        (b"this is no photograph\n" * 20, "broken_image", "not a readable image"),
        (bomb(), "broken_image", "megapixels"),
        (None, "missing_image", "does not exist"),
    ],
    ids=["truncated", "text", "30000x30000", "absent"],
)
def test_a_broken_photograph_is_a_missing_eye(clinic, tmp_path, content, kind, words):
    if content is None:
        (clinic / "a5.jpg").unlink()
    else:
        (clinic / "a5.jpg").write_bytes(content)
    table = write_csv(tmp_path / "m.csv", patients())
    folder = bring(table, clinic, tmp_path / "data")
    found = everything(folder)
    assert found["p5"][1].left == b""
    assert found["p5"][1].right
    problem = the_problem(folder, kind)
    assert words in problem["what"]
    assert (problem["file"], problem["row"], problem["record"]) == (str(table), "7", "p5")
    assert problem["remedy"] == "left eye stored as missing"
    with pytest.raises(UserError, match=rf"1 {kind}.*row 7.*on_error skip"):
        bring(table, clinic, tmp_path / "other", on_error="refuse")
    assert not list((tmp_path / "other").glob("clinic/*"))
    assert words in (tmp_path / "other" / f"clinic-{PROBLEMS_FILE}").read_text(encoding="utf-8")


def test_no_path_leaves_the_root(clinic, tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(photograph(99))
    (clinic / "link.jpg").symlink_to(secret)
    changes = {
        "p1": {"left": "../secret.jpg"},
        "p2": {"left": str(secret)},
        "p3": {"left": "link.jpg"},
        "p4": {"left": "a\0b.jpg"},
    }
    table = write_csv(tmp_path / "m.csv", patients(**changes))
    folder = bring(table, clinic, tmp_path / "data")
    kinds = Counter(problem["kind"] for problem in problems_of(folder))
    assert kinds == {"outside_root": 4}
    assert all(everything(folder)[name][1].left == b"" for name in changes)
    with pytest.raises(Unusable, match="leads outside the image root"):
        FilePicture(str(clinic), "../secret.jpg").read()


def test_a_patient_without_any_eye_is_left_out(clinic, tmp_path):
    table = write_csv(tmp_path / "m.csv", patients(p4={"left": "", "right": "gone.jpg"}))
    folder = bring(table, clinic, tmp_path / "data")
    assert "p4" not in everything(folder)
    assert the_problem(folder, "no_eye")["remedy"] == "patient left out"


def test_an_empty_report_is_said(clinic, tmp_path):
    changes = {"p4": {"report": " "}, "p6": {"report": "", "labels": ""}}
    folder = bring(write_csv(tmp_path / "m.csv", patients(**changes)), clinic, tmp_path / "data")
    found = everything(folder)
    assert "p4" in found
    assert "p6" not in found
    remedies = {problem["record"]: problem["remedy"] for problem in problems_of(folder)}
    assert remedies == {"p4": "kept for its labels", "p6": "patient left out"}


def test_duplicate_ids_keep_the_first(clinic, tmp_path):
    rows = [*patients(), patients()[2] | {"report": "another report"}]
    folder = bring(write_csv(tmp_path / "m.csv", rows), clinic, tmp_path / "data")
    assert everything(folder)["p2"][1].report["en"] == "drusen, left eye 2"
    problem = the_problem(folder, "duplicate_id")
    assert problem["row"] == "14"
    assert "row 4" in problem["what"]


def test_a_row_with_a_missing_cell_is_left_out(clinic, tmp_path):
    table = write_csv(tmp_path / "m.csv", patients())
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[3] = "p2,a2.jpg"
    table.write_text("\n".join(lines), encoding="utf-8")
    folder = bring(table, clinic, tmp_path / "data")
    assert set(everything(folder)) == {f"p{n}" for n in range(12) if n != 2}
    problem = the_problem(folder, "unreadable_row")
    assert problem["row"] == "4"
    assert "2 cells where the header names 5 columns" in problem["what"]


def test_a_missing_column_is_named_with_what_was_meant(clinic, tmp_path):
    rows = [{"patientid": "p0", "left": "a0.jpg", "right": "b0.jpg"}]
    with pytest.raises(UserError, match=r"no column 'patient_id'.*did you mean it by 'patientid'"):
        manifest.read_manifest(write_csv(tmp_path / "m.csv", rows), clinic, ProblemLog())


def test_another_encoding_is_said_and_can_be_named(clinic, tmp_path):
    table = write_csv(tmp_path / "m.csv", patients(), encoding="gb18030")
    with pytest.raises(UserError, match=r"m.csv row 3 is not utf-8.*encoding.*gb18030"):
        manifest.read_manifest(table, clinic, ProblemLog())
    rows, _ = manifest.read_manifest(table, clinic, ProblemLog(), encoding="gb18030")
    assert rows[1].report == {"zh": "左眼玻璃膜疣 1"}
    with pytest.raises(UserError, match="no such text encoding"):
        manifest.read_manifest(table, clinic, ProblemLog(), encoding="gb1803")


def test_a_full_disk_leaves_nothing(clinic, tmp_path, monkeypatch):
    from tensorflow_datasets.core import writer

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.ExampleWriter, "write", full)
    threads = threading.active_count()
    with pytest.raises(UserError, match=r"the disk of .*clinic.* is full; nothing was written"):
        bring(write_csv(tmp_path / "m.csv", patients()), clinic, tmp_path / "data")
    assert not list((tmp_path / "data").glob("clinic/*"))
    assert threading.active_count() <= threads + 1  # no reader is left; a progress bar's monitor


def test_nothing_is_overwritten_unasked(clinic, tmp_path):
    table = write_csv(tmp_path / "m.csv", patients())
    bring(table, clinic, tmp_path / "data")
    with pytest.raises(UserError, match="is there already; overwrite"):
        bring(table, clinic, tmp_path / "data")


def test_a_wrong_image_root_is_said_at_once(clinic, tmp_path):
    table = write_csv(tmp_path / "m.csv", patients())
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no usable record among 12 rows.*does not exist"):
        bring(table, empty, tmp_path / "data")
    with pytest.raises(UserError, match="is not a folder"):
        bring(table, tmp_path / "absent", tmp_path / "data")


def test_large_photographs_are_shrunk_and_originals_kept_on_request(clinic, tmp_path):
    original = photograph(7, 300, 400)
    (clinic / "a0.jpg").write_bytes(original)
    (clinic / "b0.jpg").write_bytes(photograph(8, 64, 64, "BMP"))
    table = write_csv(tmp_path / "m.csv", patients(p1={"left": ""}))
    record = everything(bring(table, clinic, tmp_path / "small", image_size=64))["p0"][1]
    stored = Image.open(io.BytesIO(record.left))
    assert (stored.format, stored.size) == ("JPEG", (85, 64))
    reference = Image.open(io.BytesIO(original)).resize((85, 64), Image.Resampling.BOX)
    difference = np.abs(np.asarray(stored, np.float32) - np.asarray(reference, np.float32))
    assert difference.mean() < 2
    assert record.right.startswith(b"\xff\xd8\xff")  # a format that readers need not know
    record = everything(bring(table, clinic, tmp_path / "whole", image_size=0))["p0"][1]
    assert record.left == original


def test_reports_of_eyes_make_the_report():
    left, right = {"en": "drusen.", "zh": "玻璃膜疣。"}, {"en": "normal"}
    assert compose_report(left, right) == {
        "en": "Left eye: drusen. Right eye: normal.",
        "zh": "左眼：玻璃膜疣。",
    }
    assert compose_report({}, {}) == {}
    assert by_language("  ") == {}


def test_given_splits_win_and_patients_stay_together(clinic, tmp_path):
    changes = {f"p{n}": {"split": "val" if n < 3 else "", "group": f"g{n // 2}"} for n in range(12)}
    changes["p5"]["split"] = "test"
    changes["p3"]["split"] = "train"  # of group g1, which p2 put into validation
    changes["p7"]["split"] = "holdout"
    folder = bring(write_csv(tmp_path / "m.csv", patients(**changes)), clinic, tmp_path / "data")
    split = {name: where for name, (where, _) in everything(folder).items()}
    assert split["p0"] == split["p1"] == split["p2"] == "validation"
    assert split["p4"] == split["p5"] == "test"  # p4 follows its group
    assert split["p8"] == split["p9"]
    assert "p3" not in split
    assert "p7" not in split
    kinds = {problem["record"]: problem["kind"] for problem in problems_of(folder)}
    assert kinds == {"p3": "patient_in_two_splits", "p7": "unreadable_row"}


def write_published(folder: Path, count: int = 6) -> tuple[Path, Path]:
    images, texts = folder / "train_imgs.tsv", folder / "train_texts.jsonl"
    lines, reports = [], []
    for number in range(count):
        eyes = (base64.urlsafe_b64encode(photograph(2 * number + eye)).decode() for eye in (0, 1))
        lines.append("\t".join([f"{100 + number}", *eyes]))
        report = {"text_id": number, "text": f"双眼玻璃膜疣 {number}", "image_ids": [100 + number]}
        reports.append(json.dumps(report, ensure_ascii=False))
    images.write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts.write_text("\n".join(reports) + "\n", encoding="utf-8")
    return images, texts


def write_lmdb(folder: Path, images: Path, texts: Path, extra: dict[str, bytes] | None = None):
    """As the published tool does it: the pickles of its tuples under the keys of its choice."""
    for part in ("imgs", "pairs"):
        (folder / part).mkdir(parents=True)
    with lmdb.open(str(folder / "imgs"), map_size=1 << 24) as store, store.begin(write=True) as t:
        lines = images.read_text(encoding="utf-8").splitlines()
        for line in lines:
            patient, left, right = line.split("\t")
            t.put(patient.encode(), pickle.dumps((left, right)))
        for key, value in (extra or {}).items():
            t.put(key.encode(), value)
        t.put(b"num_images", str(len(lines)).encode())
    with lmdb.open(str(folder / "pairs"), map_size=1 << 24) as store, store.begin(write=True) as t:
        lines = texts.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            report = json.loads(line)
            pair = (report["image_ids"][0], report["text_id"], report["text"])
            t.put(str(number).encode(), pickle.dumps(pair))
        t.put(b"num_samples", str(len(lines)).encode())


def test_tsv_and_lmdb_hold_the_same_patients(tmp_path):
    images, texts = write_published(tmp_path)
    write_lmdb(tmp_path / "lmdb" / "train", images, texts)
    problems = ProblemLog()
    from_tsv = published.rows_of_tsv(images, texts, problems)
    from_lmdb = published.rows_of_lmdb(tmp_path / "lmdb", problems)
    assert problems.problems == []
    assert len(from_tsv) == len(from_lmdb) == 6
    for number, (one, other) in enumerate(zip(from_tsv, from_lmdb, strict=True)):
        assert one.record_id == other.record_id == f"{100 + number}"
        assert one.left.read() == other.left.read() == photograph(2 * number)
        assert one.right.read() == other.right.read() == photograph(2 * number + 1)
        assert one.report == other.report == {"zh": f"双眼玻璃膜疣 {number}"}
        assert one.split == other.split == "train"


def test_published_containers_report_their_faults(tmp_path):
    images, texts = write_published(tmp_path)
    with images.open("a", encoding="utf-8") as file:
        file.write("106\tonly one eye\n107\t!!!!\t\n")
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"text_id": 9, "text": "normal", "image_ids": [999]}\n')
        file.write('{"text_id": 1}\nno json\n')
        file.write('{"text_id": 9, "text": "正常", "image_ids": [100]}\n')
    problems = ProblemLog()
    rows = published.rows_of_tsv(images, texts, problems)
    said = sorted((Path(p.file).name, p.row, p.kind) for p in problems.problems)
    assert said == [
        ("train_imgs.tsv", 7, "unreadable_row"),
        ("train_texts.jsonl", 7, "unreadable_row"),
        ("train_texts.jsonl", 8, "unreadable_row"),
        ("train_texts.jsonl", 9, "unreadable_row"),
        ("train_texts.jsonl", 10, "second_report"),
    ]
    assert rows[-1].right is None
    assert isinstance(rows[-1].left, Base64Slice)
    with pytest.raises(Unusable, match="107 left is not valid base64"):
        rows[-1].left.read()
    with pytest.raises(UserError, match="one --texts for every --tsv"):
        data_import.run(parsed(tsv=["a", "b"], texts=["c"]))


def parsed(**given) -> argparse.Namespace:
    """Options of the verb, for a dataset called clinic."""
    parser = argparse.ArgumentParser()
    data_import.add(parser.add_subparsers())
    args = parser.parse_args(["import", "--name", "clinic"])
    vars(args).update(given)
    return args


class _Armed:
    """A pickle of this runs a command when a careless reader loads it."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_malicious_pickle_is_refused_unexecuted(tmp_path):
    mark = tmp_path / "executed"
    armed = pickle.dumps((_Armed(mark), "right"))
    images, texts = write_published(tmp_path)
    write_lmdb(tmp_path / "lmdb" / "train", images, texts, {"200": armed})
    problems = ProblemLog()
    rows = published.rows_of_lmdb(tmp_path / "lmdb" / "train", problems)
    with pytest.raises(UserError, match=r"'200'.*may be meant to run code and was not loaded"):
        importers.import_rows(rows, problems, "clinic", tmp_path / "data")
    assert not mark.exists()
    assert not list((tmp_path / "data").glob("clinic/*"))
    pickle.loads(armed)
    assert mark.exists()  # the weapon was loaded: only the reader kept it from firing


@pytest.mark.parametrize(
    "value", [["a"], {"a": 1}, ("a", None), ("a", 1.5), (("a",), "b"), {"a"}, "a", bytearray(b"a")]
)
def test_only_tuples_of_text_are_unpickled(value):
    assert published.load_plain(pickle.dumps(("a", b"b", 3)), "k") == ("a", b"b", 3)
    for protocol in (0, 2, 4):
        with pytest.raises(UserError):
            published.load_plain(pickle.dumps(value, protocol), "k")


def test_a_pickle_cut_short_costs_its_row_only():
    data = pickle.dumps(("left", "right"))
    with pytest.raises(Unusable, match="not a readable pickle"):
        published.load_plain(data[:-5], "k")


def test_the_verb_imports_and_says_what_it_left_out(clinic, tmp_path, capsys):
    (clinic / "a5.jpg").write_bytes(b"no image")
    rows = [row | {"age": "60"} for row in patients()]
    args = parsed(
        manifest=str(write_csv(tmp_path / "m.csv", rows)),
        images=str(clinic),
        data_dir=str(tmp_path / "data"),
        shares="0.5,0.25,0.25",
        seed=1,
    )
    data_import.run(args)
    said = capsys.readouterr().out
    assert "columns that mean nothing here: age" in said
    assert "1 broken_image" in said
    summary = json.loads((tmp_path / "data/clinic/1.0.0" / SUMMARY_FILE).read_text())
    assert summary["options"]["shares"] == {"train": 0.5, "validation": 0.25, "test": 0.25}
    assert sum(summary["records"].values()) == 12
    args.overwrite, args.name = True, "Clinic 1"
    with pytest.raises(UserError, match="small letters"):
        data_import.run(args)


def test_an_lmdb_that_was_copied_by_half_is_said(tmp_path):
    images, texts = write_published(tmp_path, count=40)
    write_lmdb(tmp_path / "lmdb" / "train", images, texts)
    for part in ("imgs", "pairs"):
        file = tmp_path / "lmdb" / "train" / part / "data.mdb"
        whole = file.read_bytes()
        for size in (0, 100, 4096, 8192, len(whole) // 2, len(whole) - 4096 * 3):
            file.write_bytes(whole[:size])
            published._environment.cache_clear()
            with pytest.raises(UserError, match=r"data.mdb is a damaged LMDB .*copied by half"):
                published.rows_of_lmdb(tmp_path / "lmdb", ProblemLog())
        file.write_bytes(whole)
    published._environment.cache_clear()
    assert len(published.rows_of_lmdb(tmp_path / "lmdb", ProblemLog())) == 40


def test_words_for_nothing_are_no_eye_and_no_report(tmp_path):
    images, texts = write_published(tmp_path, count=3)
    with images.open("a", encoding="utf-8") as file:
        file.write("\ufeff103\tNone\tnull\nnan\tAAAA\tAAAA\n")
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"text_id": 9, "text": "nan", "image_ids": [103, null]}\n')
        file.write('{"text_id": 9, "text": "x", "image_ids": [1.5]}\n')
        file.write('{"text_id": 9, "text": "\\ud800", "image_ids": [100]}\n')
    problems = ProblemLog()
    rows = published.rows_of_tsv(images, texts, problems)
    assert (rows[-1].record_id, rows[-1].left, rows[-1].right) == ("103", None, None)
    assert not rows[-1].report
    assert sorted((Path(p.file).name, p.row) for p in problems.problems) == [
        ("train_imgs.tsv", 5), ("train_texts.jsonl", 5), ("train_texts.jsonl", 6)
    ]  # fmt: skip


def test_ids_and_files_that_are_nearly_the_same_are_said(clinic, tmp_path):
    changes = {
        "p1": {"patient_id": "00123"}, "p2": {"patient_id": "123"}, "p3": {"patient_id": "123.0"},
        "p4": {"patient_id": "Jose\u0301"}, "p5": {"patient_id": "JOS\u00c9"},
        "p6": {"patient_id": "P0"}, "p7": {"patient_id": "1.2E+05"}, "p8": {"patient_id": "NA"},
        "p9": {"left": "./a0.jpg"}, "p10": {"left": "A1.jpg"},
    }  # fmt: skip
    folder = bring(write_csv(tmp_path / "m.csv", patients(**changes)), clinic, tmp_path / "data")
    found = everything(folder)
    # Nobody knows whether they are one: they stay two, and are said.
    assert {"00123", "123", "123.0", "Jos\u00e9", "JOS\u00c9", "p0", "P0"} <= set(found)
    said = Counter((problem["kind"], problem["row"]) for problem in problems_of(folder))
    assert {row for kind, row in said if kind == "similar_id"} == {"4", "5", "7", "8"}
    assert {row for kind, row in said if kind == "similar_file"} == {"11", "12"}
    assert {row for kind, row in said if kind == "unreadable_row"} == {"9", "10"}


def test_empty_cells_of_every_column_are_empty(clinic, tmp_path):
    changes = {
        "p1": {"left": "nan", "report": "N/A", "labels": "NaN", "group": "NULL", "split": "-"},
        "p2": {"left": "None", "report": "无", "labels": "drusen", "group": "\u3000"},
        "p3": {"right": "#N/A", "report": "drusen", "labels": "None"},
    }
    problems = ProblemLog()
    table = write_csv(tmp_path / "m.csv", patients(**changes))
    rows, _ = manifest.read_manifest(table, clinic, problems)
    assert (rows[1].left, rows[1].report, rows[1].labels, rows[1].split) == (None, {}, None, None)
    assert rows[1].group == rows[2].group == ""
    assert (rows[2].left, rows[2].report, rows[2].labels) == (None, {}, ("drusen",))
    assert (rows[3].right, rows[3].labels) == (None, None)
    assert rows[4].labels == ()  # none: looked, nothing found
    (note,) = problems.notes
    assert note.startswith("read as empty cells: 1 x 'nan' in left")
    assert note.endswith("and 4 more")


def test_lists_of_labels_are_read_however_they_are_written(clinic, tmp_path):
    spelled = [
        "drusen;amd",
        "drusen|amd",
        "drusen, amd",
        "drusen；amd",
        "drusen、amd",
        "drusen/amd",
        "['drusen', 'amd']",
        '["drusen", "amd"]',
        "drusen",
        "amd",
        "AMD, dry",
        "drusen+amd",
    ]
    changes = {f"p{number}": {"labels": labels} for number, labels in enumerate(spelled)}
    problems = ProblemLog()
    table = write_csv(tmp_path / "m.csv", patients(**changes))
    rows, _ = manifest.read_manifest(table, clinic, problems)
    assert [row.labels for row in rows] == [("drusen", "amd")] * 8 + [("drusen",), ("amd",)]
    assert [(p.row, p.record) for p in problems.problems] == [(12, "p10"), (13, "p11")]
    assert problems.notes == [
        "labels: 2 cells such as 'drusen, amd' are read as several names, because each of them "
        "stands elsewhere, too; a list keeps a name whole"
    ]


def test_the_list_of_problems_holds_no_formula(clinic, tmp_path):
    changes = {"p1": {"patient_id": "=HYPERLINK(1)", "left": "gone.jpg"}}
    folder = bring(write_csv(tmp_path / "m.csv", patients(**changes)), clinic, tmp_path / "data")
    assert "=HYPERLINK(1)" in everything(folder)
    assert the_problem(folder, "missing_image")["record"] == "'=HYPERLINK(1)"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"manifest": "m.csv", "images": "i", "lmdb": "l"}, "--manifest and --lmdb are two source"),
        ({"tsv": ["a"], "texts": ["b"], "lmdb": "l"}, "--tsv and --lmdb are two sources"),
        ({"lmdb": "l", "images": "i"}, "--images goes with --manifest, not with --lmdb"),
        ({"manifest": "m.csv", "images": "i", "texts": ["t"]}, "--texts goes with --tsv"),
        ({"manifest": "m.csv", "images": "i", "name": "Clinic"}, "small letters"),
        ({"manifest": "m.csv", "images": "i", "shares": "0.9,0.1"}, "that sum to 1"),
        ({"manifest": "m.csv", "images": "i", "shares": "nan,0,1"}, "that sum to 1"),
        ({"manifest": "m.csv", "images": "i", "beam_options": "a=b"}, "wants --beam_runner"),
    ],
)
def test_what_contradicts_itself_is_said_before_a_table_is_read(given, why):
    with pytest.raises(UserError, match=why):
        data_import.run(parsed(**given))
