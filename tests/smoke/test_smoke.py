"""Every method from synthetic patients to exported weights, as a user goes, on any Python.

It runs with every other test, and alone where dependencies are the newest that an interpreter gets:
no PyTorch, no libtpu, no constraints. So it asks little of each part, and something of every part.
"""

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import retfm_jax
from retfm_jax import cli
from retfm_jax.runtime import mesh
from retfm_jax.training import loop

_TEXT = '{"width": 32, "heads": 2, "mlp_width": 32, "layers": 2, "positions": 24}'
_TINY = [
    f"--config.model.text={_TEXT}",
    "--config.model.embed_dim=16",
    "--config.data.image.size=32",
    "--config.data.text.context_length=16",
    "--config.data.prefetch=1",
    "--config.train.batch_size=8",
    "--config.train.steps=5",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=3",
]
_CONFIGS = {
    "retclip": ["quickstart", "--config.model.image.image_size=32"],
    "vilref": ["vilref_synthetic", "--config.model.image.image_size=32"],
    "keepfit": ["keepfit_synthetic"],
}


@pytest.fixture(scope="module", autouse=True)
def _compiled_for_one_device():
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda config: mesh.make_mesh(config, first))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = str(tmp_path_factory.mktemp("datasets"))
    build = ["data", "build", "synthetic_fundus", "--data_dir", data, "--image_size", "32"]
    assert cli.main([*build, "--patients", "60", "--workers", "1"]) == 0
    return data


@pytest.fixture(scope="module", params=_CONFIGS)
def trained(request, data, tmp_path_factory):
    """Five steps of a method; the last two again, from the checkpoint before them."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    train = ["train", *_config(request.param, data), "--workdir", str(workdir)]
    assert cli.main(train) == 0
    losses = _losses(workdir)
    shutil.rmtree(workdir / "checkpoints" / "5")
    assert cli.main(train) == 0
    assert _losses(workdir) == losses
    return request.param, workdir


def _rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _losses(workdir):
    return {row["step"]: row["loss"] for row in _rows(workdir) if "loss" in row}


def _config(method, data):
    return ["--config", *_CONFIGS[method], *_TINY, f"--config.data.data_dir={data}"]


def test_training_goes_on_and_is_measured(trained):
    _, workdir = trained
    losses = _losses(workdir)
    assert sorted(losses) == [1, 2, 3, 4, 5]
    assert np.isfinite(list(losses.values())).all()
    # The counter of FLOPs works with this version of JAX.
    assert _rows(workdir)[-1]["model_flops_per_second"] > 0


def test_evaluation_writes_its_report(trained, tmp_path):
    _, workdir = trained
    out = tmp_path / "report.json"
    evaluate = ["evaluate", "--workdir", str(workdir), "--split", "test", "--draws", "10"]
    assert cli.main([*evaluate, "--task", "zero_shot,retrieval", "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["zero_shot"]
    assert document["retrieval"]
    assert out.with_suffix(".html").stat().st_size > 1000
    assert out.with_suffix(".png").is_file()


def test_exported_weights_come_back(trained, tmp_path):
    method, workdir = trained
    out, again = tmp_path / "weights.safetensors", tmp_path / "again"
    assert cli.main(["export", "--workdir", str(workdir), "--to", method, "--out", str(out)]) == 0
    bring = ["import", str(out), "--method", method, "--workdir", str(again)]
    assert cli.main([*bring, "--text_num_heads", "2"]) == 0
    ours, theirs = (retfm_jax.to_torch(retfm_jax.load(folder)) for folder in (workdir, again))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_plan_counts_the_step(data, tmp_path):
    out = tmp_path / "plan.json"
    plan = ["plan", *_config("retclip", data), "--topology", "gpu:h100", "--out", str(out)]
    assert cli.main(plan) == 0
    counted = json.loads(out.read_text())["flops"]
    assert counted["program"] >= counted["model"] > 1e6


def test_help_needs_no_accelerator():
    environment = os.environ | {"JAX_PLATFORMS": "none such"}
    command = [sys.executable, "-m", "retfm_jax.cli", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout


def test_every_module_can_be_imported():
    """With what every installation has; what compares with PyTorch, or is a part of a program that
    runs elsewhere, may want what runs it."""
    for module in pkgutil.walk_packages(retfm_jax.__path__, "retfm_jax."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name in ("torch", "onnxruntime"), module.name  # noqa: PT017
