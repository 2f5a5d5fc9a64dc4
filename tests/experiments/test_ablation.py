"""ViLReF as a user meets it: trained on synthetic patients, its variants compared, exported."""

import json
import shutil

import numpy as np
import pytest
from golden_files import assert_same_bits

import retfm_jax
from retfm_jax import cli
from retfm_jax.config import load_config
from retfm_jax.errors import UserError
from retfm_jax.experiments import ablation
from retfm_jax.experiments.ablation import compare
from retfm_jax.interop.weights import read_tensors

TINY = [
    '--config.model.image={"image_size": 32, "patch_size": 8, "width": 64, "layers": 1}',
    *("--config.model.text.width=64", "--config.model.text.layers=1"),
    *("--config.model.text.heads=1", "--config.model.text.mlp_width=64"),
    *("--config.model.embed_dim=16", "--config.model.queue_size=12", "--config.data.image.size=32"),
    *("--config.data.text.context_length=16", "--config.train.batch_size=8"),
    "--config.train.steps=3",
]


@pytest.fixture(scope="module")
def folder(one_device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    data = str(folder / "datasets")
    build = ["data", "build", "synthetic_fundus", "--data_dir", data, "--image_size", "32"]
    build += ["--population", "repetitive", "--patients", "60", "--workers", "1"]
    assert cli.main(build) == 0
    ablate = ["ablate", "--config", "vilref_synthetic", "--workdir", str(folder / "runs"), *TINY]
    ablate += ["--variants", "plain InfoNCE,all", "--seeds", "0,1", "--split", "train[:20]"]
    assert cli.main([*ablate, f"--config.data.data_dir={data}"]) == 0
    return folder


def test_the_table_holds_every_variant_and_seed(folder):
    found = json.loads((folder / "runs" / "ablation.json").read_text())
    assert (found["split"], found["seeds"]) == ("train[:20]", [0, 1])
    plain, full = found["variants"]["plain InfoNCE"], found["variants"]["all"]
    assert (plain["config"]["model"]["use_labels"], full["config"]["model"]["queue_size"]) == (
        False,
        12,
    )
    for metric, ours in full["metrics"].items():
        first = plain["metrics"][metric]
        assert len(ours["values"]) == 2
        np.testing.assert_allclose(ours["mean"], np.mean(ours["values"]))
        gains = np.subtract(ours["values"], first["values"])
        np.testing.assert_allclose(ours["gain_over_first"]["values"], gains)
        assert first["gain_over_first"]["mean"] == 0
    assert {"zero_shot/en/eye/auroc", "zero_shot/zh/eye/auroc"} <= full["metrics"].keys()
    assert (folder / "runs" / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_task_compares_what_is_trained_by_its_accuracy(folder, tmp_path):
    runs = shutil.copytree(folder / "runs" / "all", tmp_path / "all")
    ablate = ["ablate", "--config", "vilref_synthetic", "--workdir", str(tmp_path), *TINY]
    ablate += ["--variants", "all", "--seeds", "1", "--dataset", "synthetic_held_out"]
    ablate += ["--split", "train", "--prompts", "name,knowledge"]
    assert cli.main([*ablate, f"--config.data.data_dir={folder / 'datasets'}"]) == 0
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert found["dataset"] == "synthetic_held_out"
    metrics = found["variants"]["all"]["metrics"]
    for style in ("name", "knowledge"):
        (aca,) = metrics[f"zero_shot/en/image/{style}/aca"]["values"]
        assert 0 <= aca <= 1
    assert sorted(path.name for path in runs.iterdir()) == ["seed_0", "seed_1"]


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_was_trained_goes_out_and_comes_back(folder, tmp_path, name):
    workdir, out = folder / "runs" / "all" / "seed_0", tmp_path / name
    export = ["export", "--workdir", str(workdir), "--out", str(out)]
    assert cli.main([*export, "--to", "vilref"]) == 0
    bring = ["import", str(out), "--method", "vilref", "--workdir", str(tmp_path / "again")]
    assert cli.main([*bring, "--text_num_heads", "1"]) == 0
    ours = retfm_jax.to_torch(retfm_jax.load(workdir))
    assert_same_bits(retfm_jax.to_torch(retfm_jax.load(tmp_path / "again")), ours)
    theirs = read_tensors(out)
    assert {key.removeprefix("module.") for key in theirs} == ours.keys()


def test_transformers_opens_the_folder(folder, tmp_path):
    from transformers import ChineseCLIPModel

    workdir, out = folder / "runs" / "all" / "seed_1", tmp_path / "chinese_clip"
    export = ["export", "--workdir", str(workdir), "--to", "chinese_clip", "--out", str(out)]
    assert cli.main(export) == 0
    theirs = ChineseCLIPModel.from_pretrained(out)
    scale = retfm_jax.load(workdir).logit_scale
    assert theirs.logit_scale.exp().item() == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "everything"], "no variant 'everything' (it has plain InfoNCE,"),
        (["--seeds", "one"], "give whole numbers"),
        (["--seeds", "1,1"], "a seed occurs twice"),
        (["--seeds", "0,-1"], "numbers from 0 to 4294967295"),
        (["--seeds", "0,4294967296"], "numbers from 0 to 4294967295"),
        (["--config.train.batch_size=7", "--config.mesh.data=7"], "data=7 fsdp=1 does not fit"),
        (["--split", "exam"], "no split 'exam'"),
        (["--dataset", "exam"], "dataset 'exam' is not built"),
        (["--prompts", "poem"], "give some of report, name, knowledge"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(folder, tmp_path, capsys, arguments, message):
    ablate = ["ablate", "--config", "vilref_synthetic", "--workdir", str(tmp_path), *arguments]
    data = f"--config.data.data_dir={folder / 'datasets'}"
    assert cli.main([*ablate, data]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [["small", "Small"], ["a b", "a-b"], ["全部"]])
def test_variants_never_share_a_folder(tmp_path, names):
    variants = dict.fromkeys(names, load_config("vilref_synthetic"))
    with pytest.raises(UserError, match="has no folder of its own"):
        ablation.ablate(variants, [0], tmp_path)


def test_a_run_that_a_signal_stopped_is_not_measured(folder, tmp_path, monkeypatch):
    config = load_config(str(folder / "runs" / "all" / "seed_0" / "config.json"))
    monkeypatch.setattr(ablation, "run_training", lambda config, workdir: False)
    with pytest.raises(UserError, match=r"stopped in .*all/seed_7; the same command resumes"):
        ablation.ablate({"all": config}, [7], tmp_path, split="test")
    assert not (tmp_path / "ablation.json").exists()


def test_nothing_to_measure_is_said():
    with pytest.raises(UserError, match="neither labels nor reports"):
        compare({"first": [{}]})
