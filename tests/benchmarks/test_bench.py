"""The verb: what it refuses, and that table and JSON say the same."""

import json

import pytest

from retfm_jax.benchmarks.bench import Report
from retfm_jax.benchmarks.timing import Comparison, Measurement, Timing
from retfm_jax.cli import main
from retfm_jax.cli.bench import show


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "--against", "torch"], "--against torch goes with `retfm bench step`"),
        (["step", "--against", "published-data"], "goes with `retfm bench data`"),
        (["data", "--microbatches", "4"], "--microbatches goes with `retfm bench step`"),
        (["step", "--microbatches", "1"], "give 2 or more parts"),
        (["step", "--rounds", "0"], "--rounds must be at least 1"),
        (["checkpoint", "--folder", "no/such"], "--folder no/such is not a folder"),
        (["step", "--config.train.bach_size=4"], "config.train.batch_size"),
        (
            ["data", "--against", "published-data", "--config.method=vilref"],
            "take a config that trains on them",
        ),
    ],
)
def test_misuse_is_said(arguments: list[str], message: str, capsys):
    config = ["--config", "keepfit_resnet50" if "vilref" in arguments[-1] else "quickstart"]
    arguments = [text for text in arguments if "vilref" not in text]
    assert main(["bench", *arguments, *config]) == 1
    assert message in capsys.readouterr().err


def test_table_and_json_say_the_same(capsys):
    slow = Measurement("slow side", (Timing(8.0, 16.0), Timing(9.0, 17.0)), 4, "images")
    fast = Measurement("fast side", (Timing(2.0), Timing(3.0)), 4, "images", {"compile s": 41.5})
    about = {
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "cpu": {"name": "a CPU", "cores": 3},
    }
    report = Report(about, [slow, fast], [Comparison("slow / fast", slow, fast, "at least 3")])
    show(report)
    table = capsys.readouterr().out
    values = json.loads(json.dumps(report.to_dict()))
    for measured in values["measurements"]:
        (line,) = (line for line in table.splitlines() if line.strip().startswith(measured["name"]))
        assert f"{measured['median_seconds']:.3g}" in line
        assert f"{measured['per_second']:.3g} images" in line
        for name, fact in measured["facts"].items():
            assert f"{name} {fact:.3g}" in line
    (ratio,) = values["comparisons"]
    assert ratio["ratios"] == [4.0, 3.0]
    assert f"{ratio['median']:.2f} ({ratio['spread'][0]:.2f} .. {ratio['spread'][1]:.2f})" in table
    assert ratio["goal"] in table


def test_drawn_eyes_go_through_every_stage(tmp_path, capsys):
    out = tmp_path / "bench.json"
    small = ["--patients", "8", "--rounds", "2", "--config.train.batch_size=8"]
    small.append(f"--config.data.data_dir={tmp_path / 'nothing'}")
    assert main(["bench", "data", "--config", "quickstart", "--out", str(out), *small]) == 0
    values = json.loads(out.read_text())
    names = [measured["name"] for measured in values["measurements"]]
    for stage in ("read records", "decode", "batch assembly", "host to device"):
        assert stage in names
    assert names[-2:] == ["pipeline, to the host", "pipeline, to the device"]
    assert all(len(measured["seconds"]) == 2 for measured in values["measurements"])
    assert "synthetic eyes, 256 px" in capsys.readouterr().out
    assert values["config"]["train"]["batch_size"] == 8
