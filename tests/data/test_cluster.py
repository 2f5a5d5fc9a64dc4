"""The parts of a build on a cluster that can be tried without Apache Beam."""

import dataclasses
import json
import sys

import pytest

from retfm_jax.data.building import beam as cluster
from retfm_jax.data.building.rows import FilePicture, PatientRow
from retfm_jax.data.building.validation import Problem, prepare_row
from retfm_jax.errors import UserError


def test_without_beam_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'apache-beam>=[\d.]+'"):
        cluster.BeamSettings("DirectRunner").pipeline_options()


def test_a_problem_travels_unchanged_and_its_file_goes(tmp_path, make_jpeg):
    (tmp_path / "a.jpg").write_bytes(make_jpeg(0))
    (tmp_path / "b.jpg").write_bytes(b"no image")
    pictures = (FilePicture(str(tmp_path), name) for name in ("a.jpg", "b.jpg"))
    row = PatientRow("病人", "f.csv", 3, *pictures, report={"en": "drusen"})
    result = prepare_row(row, 0)
    ((key, example),) = cluster._examples(result)
    assert key == example["record_id"] == "病人"
    lines = list(cluster._problem_lines(result))
    (tmp_path / "_problems_train-0").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "_problems_test-0").write_text("")
    assert list(cluster.collect_problems(tmp_path, "_problems_*")) == result[1]
    assert not list(tmp_path.glob("_problems_*"))
    assert Problem(**json.loads(lines[0])) == Problem(**dataclasses.asdict(result[1][0]))
