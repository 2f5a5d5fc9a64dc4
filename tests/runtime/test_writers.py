"""Metrics go on where a run resumes, and a full disk is said."""

import json

import pytest

from retfm_jax.errors import UserError
from retfm_jax.runtime.writers import MetricWriter


def _steps(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_lines_beyond_the_restored_step_are_written_anew(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in range(1, 7):
        writer.write(step, {"loss": float(step)})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "los')
    writer = MetricWriter(tmp_path, 4)
    assert _steps(tmp_path) == [1, 2, 3, 4]
    writer.write(5, {"loss": 0.5})
    writer.close()
    assert _steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_full_disk_is_a_clear_message(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    writer = MetricWriter(tmp_path, 0)
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        writer.write(1, {"loss": 1.0})
