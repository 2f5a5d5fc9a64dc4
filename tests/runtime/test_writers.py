"""Metrics go on where a run resumes, and a full disk is said."""

import json
import os

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


def test_events_that_meet_a_full_disk_are_said_and_never_waited_for(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    (events,) = tmp_path.glob("events.out.tfevents.*")
    full = os.open("/dev/full", os.O_WRONLY)
    for link in os.listdir("/proc/self/fd"):
        if os.path.realpath(f"/proc/self/fd/{link}") == str(events.resolve()):
            os.dup2(full, int(link))
    os.close(full)
    with pytest.raises(UserError, match="No space left on device"):
        writer.write(1, {"loss": 1.0})
    writer.close()


LEFT_BY_A_POWER_CUT = {
    "half a line": b'{"step": 3, "lo',
    "zeros": b"\0" * 4096,
    "zeros behind a line": b'{"step": 3}\0\0\0',
    "no UTF-8": b'{"step": 3, "loss": "\xff\xfe"}\n',
    "no object": b"[1, 2]\n7\nnull\n",
    "no step": b'{"loss": 1.0}\n{"step": null}\n{"step": "3"}\n{"step": true}\n',
    "deep nesting": b"[" * 100_000,
    "a blank line": b"\n  \n",
    "an end of a line of Windows": b"\r\n",
}


@pytest.mark.parametrize("left", LEFT_BY_A_POWER_CUT.values(), ids=LEFT_BY_A_POWER_CUT)
def test_what_a_power_cut_leaves_does_not_stop_the_next_start(tmp_path, left):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n' + left)
    (tmp_path / "events.out.tfevents.1.host").write_bytes(left)
    writer = MetricWriter(tmp_path, 2)
    writer.write(3, {"loss": 1.0})
    writer.close()
    assert _steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"\0\0\0"])
def test_an_emptied_file_of_metrics_is_begun_anew(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    writer = MetricWriter(tmp_path, 2)
    writer.write(3, {"loss": 1.0})
    writer.close()
    assert _steps(tmp_path) == [3]


def test_lines_that_are_left_out_are_said_and_evaluations_known(tmp_path, capsys):
    lines = b'{"step": 1, "loss": 1}\n{"step": 1, "eval/auroc": 0.5}\n{"st\n'
    (tmp_path / "metrics.jsonl").write_bytes(lines)
    writer = MetricWriter(tmp_path, 1)
    writer.close()
    assert "damaged lines are left out (1)" in capsys.readouterr().err
    assert writer.evaluated == {1}


def test_each_start_has_its_own_events(tmp_path):
    for step in (0, 1):
        writer = MetricWriter(tmp_path, step)
        writer.write(step + 1, {"loss": 1.0})
        writer.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2
