"""`retfm label`: files of reports in, files of labels out."""

import argparse
import json

import pytest

from retfm_jax.cli import label
from retfm_jax.errors import UserError
from retfm_jax.experiments.labeling import LabelCounts, draw
from retfm_jax.knowledge.labeler import Labeler


def write(folder, *lines):
    path = folder / "in.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def row(**texts):
    return json.dumps(texts, ensure_ascii=False).encode()


@pytest.fixture
def run_label():
    def call(source, out, vocabulary=None, extend=None):
        label.run(argparse.Namespace(input=source, out=out, vocabulary=vocabulary, extend=extend))
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    return call


def test_a_row_of_labels_for_a_row_of_texts(tmp_path, run_label, capsys):
    source = write(
        tmp_path,
        row(report="Left eye: possible drusen. Right eye: normal fundus."),
        row(left="微血管瘤", right=None, note="not read"),
        row(report="nothing to tell"),
    )
    out = tmp_path / "labels" / "out.jsonl"
    rows = run_label(source, out)
    assert [list(r) for r in rows] == [["patient", "left", "right", "uncertain", "evidence"]] * 3
    assert rows[0]["patient"] == rows[0]["left"] == rows[0]["uncertain"] == ["drusen"]
    assert rows[0]["right"] == ["normal"]
    assert rows[0]["evidence"][0] == {
        "condition": "drusen", "side": "left", "status": "uncertain",
        "start": 19, "end": 25, "text": "drusen", "source": "report",
    }  # fmt: skip
    assert rows[1]["left"] == ["microaneurysms"]
    assert rows[2]["patient"] == []
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "3 reports labeled, 1 of them" in capsys.readouterr().out


def test_reports_that_are_empty_cells_are_counted(tmp_path, run_label, capsys):
    empty = [row(report=None), row(report="nan"), row(report="无"), row(left="-", right="N/A")]
    source = write(tmp_path, row(report="drusen"), *empty, row(left="drusen", right=None, text="x"))
    found = run_label(source, tmp_path / "out.jsonl")
    assert [len(labels["patient"]) for labels in found] == [1, 0, 0, 0, 0, 1]
    assert "6 reports labeled, 4 of them say nothing that the vocabulary knows (4 are empty)" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_ones_own_vocabulary(tmp_path, run_label):
    own = tmp_path / "own.yaml"
    own.write_text("- id: blue_dot\n  name: {en: blue dot}\n", encoding="utf-8")
    source = write(tmp_path, row(report="Blue dots and drusen."))
    out = tmp_path / "out.jsonl"
    assert run_label(source, out, vocabulary=own)[0]["patient"] == ["blue_dot"]
    assert run_label(source, out, extend=own)[0]["patient"] == ["drusen", "blue_dot"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected an object"),
        (b'{"text": "drusen"}', "none of 'report', 'left', 'right' is there; found 'text'"),
        (b"{}", "an empty object"),
        (b'{"report": 3}', "'report' must be text, not 3"),
        (b'{"report": "\xff"}', "not UTF-8"),
        (b'{"report": "mild \\ud800 NPDR"}', "half of a character"),
        (b'{"report": "x", "y": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"report": "x", "report": "y"}', "'report' occurs twice"),
        (b'{"report": "x", "n": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"Report": "drusen"}', "found 'Report' .did you mean 'report'"),
        (b'{"left": "drusen", "right_eye": "cataract"}', "'right_eye' .did you mean 'right'"),
        (b'{"report": ["drusen"]}', "'report' must be text"),
        (b'{"report": "' + b"x" * (1 << 24) + b'"}', "more than 16 MiB"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(tmp_path, run_label, line, message):
    source, out = write(tmp_path, row(report="drusen"), b"", line), tmp_path / "out.jsonl"
    with pytest.raises(UserError, match=message) as raised:
        run_label(source, out)
    assert f"{source}, line 3" in str(raised.value)
    assert list(tmp_path.iterdir()) == [source]


def test_files_that_cannot_be_used(tmp_path, run_label):
    with pytest.raises(UserError, match=r"cannot read .*absent"):
        run_label(tmp_path / "absent.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="holds no reports"):
        run_label(write(tmp_path, b""), tmp_path / "out.jsonl")


def test_counts_of_labels_and_pairs():
    labeler = Labeler()
    counts = LabelCounts(labeler.vocabulary)
    for report in ("Drusen, macular hole.", "Possible drusen.", "Drusen.", "?"):
        counts.add(labeler.label(report))
    assert (counts.reports, counts.unknown) == (4, 1)
    assert (counts.present["drusen"], counts.uncertain["drusen"]) == (3, 1)
    assert counts.pairs["drusen", "macular_hole"] == counts.pairs["macular_hole", "drusen"] == 1
    assert counts.most_common(1) == ["drusen"]
    figure = draw(counts)
    assert len(figure.axes) == 3


def test_a_picture_of_nothing_is_drawn():
    draw(LabelCounts(Labeler().vocabulary))
