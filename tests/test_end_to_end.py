"""From synthetic patients to a PyTorch checkpoint, as a user goes: every verb on a tiny network."""

import json

import numpy as np
import pytest
import torch
import torch_networks
from golden_files import assert_same_bits

import retfm_jax
from retfm_jax import cli
from retfm_jax.data.sources import open_dataset
from retfm_jax.interop.weights import read_tensors

TINY = [
    '--config.model.image={"image_size": 32, "patch_size": 8, "width": 64, "layers": 1}',
    "--config.model.text.width=64",
    "--config.model.text.layers=1",
    "--config.data.image.size=32",
    "--config.data.text.context_length=24",
    "--config.train.batch_size=8",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=2",
]


@pytest.fixture(scope="module")
def folder(one_device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = str(folder / "datasets")
    build = ["data", "build", "synthetic_fundus", "--data_dir", data, "--image_size", "32"]
    assert cli.main([*build, "--patients", "60", "--workers", "1"]) == 0
    train = ["train", "--config", "quickstart", "--workdir", str(folder / "run"), *TINY]
    train += [f"--config.data.data_dir={data}", "--config.train.evaluate_every=4"]
    assert cli.main([*train, "--config.train.steps=4"]) == 0
    return folder


def test_the_workdir_holds_what_it_should(folder):
    run = folder / "run"
    assert json.loads((run / "config.json").read_text())["method"] == "retclip"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    assert any("auroc" in name for row in rows for name in row)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"2", "4"}


def test_export_computes_the_same_in_torch(folder):
    out = folder / "export.pt"
    assert (
        cli.main(["export", "--workdir", str(folder / "run"), "--to", "retclip", "--out", str(out)])
        == 0
    )
    model = retfm_jax.load(folder / "run")
    state_dict = torch.load(out, weights_only=True)["state_dict"]
    tensors = {name.removeprefix("module."): value for name, value in state_dict.items()}
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 3, 32, 32, 3)).astype(np.float32)
    tokens = rng.integers(1, 100, (3, 24))
    tokens[1, 12:] = 0
    ours = model.features({"image_left": left, "image_right": right, "tokens": tokens})
    theirs = torch_networks.retclip(
        tensors,
        torch.from_numpy(left).permute(0, 3, 1, 2),
        torch.from_numpy(right).permute(0, 3, 1, 2),
        torch.from_numpy(tokens),
        image_heads=model.method.config.image.num_heads,
        text_heads=model.method.config.text.num_heads,
    )
    for name, want in theirs.items():
        np.testing.assert_allclose(ours[name], want, atol=2e-5)


def test_import_brings_the_export_back(folder):
    weights, again = folder / "bare.safetensors", folder / "imported"
    assert (
        cli.main(
            ["export", "--workdir", str(folder / "run"), "--to", "retclip", "--out", str(weights)]
        )
        == 0
    )
    heads = retfm_jax.load(folder / "run").method.config.text.num_heads
    assert (
        cli.main(
            [
                "import",
                str(weights),
                "--method",
                "retclip",
                "--workdir",
                str(again),
                "--text_num_heads",
                str(heads),
            ]
        )
        == 0
    )
    assert_same_bits(retfm_jax.to_torch(retfm_jax.load(again)), read_tensors(weights))


def test_saved_model_is_the_same_model(folder, tmp_path):
    model = retfm_jax.load(folder / "run")
    model.save(tmp_path / "saved")
    again = retfm_jax.load(tmp_path / "saved")
    texts = ["正常眼底", "drusen"]
    np.testing.assert_array_equal(again.encode_texts(texts), model.encode_texts(texts))


def test_embed_equals_encode_images(folder, tmp_path):
    record = open_dataset("synthetic_fundus", "test", folder / "datasets")[0]
    pictures = [image for image in (record.left, record.right) if image]
    for index, image in enumerate(pictures):
        (tmp_path / f"{index}.jpg").write_bytes(image)
    expected = retfm_jax.load(folder / "run").encode_images(pictures)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    for name in ("out.npz", "out.parquet"):
        out = tmp_path / name
        assert (
            cli.main(
                [
                    "embed",
                    "--workdir",
                    str(folder / "run"),
                    "--images",
                    str(tmp_path),
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
        if name.endswith("npz"):
            embedding = np.load(out)["embedding"]
        else:
            import pandas as pd

            embedding = np.stack(pd.read_parquet(out)["embedding"])
        np.testing.assert_allclose(embedding, expected, atol=1e-6)


def test_evaluate_writes_numbers_and_a_picture(folder, tmp_path):
    for task in ("zero_shot", "retrieval"):
        out = tmp_path / f"{task}.json"
        assert (
            cli.main(
                [
                    "evaluate",
                    "--workdir",
                    str(folder / "run"),
                    "--task",
                    task,
                    "--split",
                    "test",
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
        assert json.loads(out.read_text())
        assert list(tmp_path.glob(f"{task}*.png"))


def test_zero_shot_gives_probabilities(folder):
    record = open_dataset("synthetic_fundus", "test", folder / "datasets")[1]
    image = record.left or record.right
    model = retfm_jax.load(folder / "run")
    for language in ("en", "zh"):
        rows = model.zero_shot([image, image], ["normal", "drusen", "laser_scars"], language)
        assert rows.shape == (2, 3)
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--workdir", "nowhere", "--out", "x.json"], "does not exist"),
        (["export", "--workdir", "RUN", "--to", "vilref", "--out", "x.pt"], "retclip network"),
        (["export", "--workdir", "RUN", "--to", "retclip", "--out", "x.onnx"], "written as"),
        (["embed", "--workdir", "RUN", "--images", "nothing", "--out", "x.npz"], "no such folder"),
        (["embed", "--workdir", "RUN", "--images", "RUN", "--out", "x.npz"], "no image in it"),
        (["embed", "--workdir", "RUN", "--images", "RUN", "--out", "x.txt"], "are written as"),
        (["import", "x.pt", "--method", "retclip", "--workdir", "RUN"], "is not empty"),
    ],
)
def test_bad_input_gets_one_message(folder, capsys, arguments, message):
    arguments = [str(folder / "run") if text == "RUN" else text for text in arguments]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
