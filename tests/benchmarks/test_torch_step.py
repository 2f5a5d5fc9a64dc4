"""What is compared with PyTorch is the same training: loss by loss, optimizer included."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from retfm_jax.benchmarks import step
from retfm_jax.benchmarks.torch_step import TorchStep
from retfm_jax.config import load_config
from retfm_jax.errors import UserError

_TEXT = {
    "vocab_size": 60,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "mlp_width": 48,
    "dropout": 0.0,
    "remat": "none",
}
_VIT = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "heads": 2, "remat": "none"}
_METHODS = {
    "retclip": ("retclip_vit_b16", {"image": _VIT}),
    "vilref": ("vilref_vit_b16", {"image": _VIT, "num_labels": 7, "queue_size": 9}),
    "keepfit": (
        "keepfit_resnet50",
        {"image": {"stages": [1, 1, 1, 1], "width": 4}, "attention_dropout": 0.0},
    ),
}


def _config(method: str, *overrides: str):
    name, model = _METHODS[method]
    model = model | {"text": _TEXT, "embed_dim": 16, "dtype": "float32"}
    entries = [
        f"model.{section}.{key}={value!r}".replace("'", '"')
        for section, values in model.items()
        if isinstance(values, dict)
        for key, value in values.items()
    ]
    entries += [f"model.{key}={value}" for key, value in model.items() if type(value) is not dict]
    entries += [
        "data.image.size=32",
        "data.text.context_length=6",
        "train.batch_size=4",
        "optimizer.learning_rate=0.01",
        "optimizer.warmup_steps=2",
        "optimizer.weight_decay=0.1",
    ]
    return load_config(name, [*entries, *overrides])


def _both(method: str, folder: Path) -> tuple[step.Trainer, TorchStep]:
    # Networks this small gain nothing from threads, which wait for one another actively.
    torch.set_num_threads(1)
    trainer = step.one_device(_config(method))
    return trainer, TorchStep(**step.torch_arguments(trainer, folder, steps=4))


@pytest.mark.parametrize("method", ["retclip", "vilref"])
def test_training_goes_the_same_way(method: str, tmp_path):
    trainer, theirs = _both(method, tmp_path)
    first = theirs.first_loss()
    compiled = trainer.compile().compiled
    ours = [trainer.run(compiled) for _ in range(4)]
    assert abs(ours[0] - ours[3]) > 1e-2  # the optimizer moved it
    np.testing.assert_allclose(first, ours[0], rtol=1e-5)
    np.testing.assert_allclose([theirs.step()[1] for _ in range(4)], ours, rtol=1e-3)


def test_the_residual_network_is_the_same(tmp_path):
    trainer, theirs = _both("keepfit", tmp_path)
    ours = trainer.loss()
    np.testing.assert_allclose(theirs.first_loss(), ours, rtol=1e-5)
    np.testing.assert_allclose(theirs.step()[1], ours, rtol=1e-5)  # the first look changed nothing


def test_different_losses_are_refused():
    with pytest.raises(UserError, match=r"first loss is 1\.0+ here and 2\.0+ in PyTorch"):
        step._check_losses({"ours": 1.0, "torch": 2.0}, "float32")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.image.patch_dropout=0.5", "patch_dropout=0"),
        ('optimizer.frozen=["visual"]', r"frozen=\[\]"),
        (
            'model.image={"image_size": 32, "stages": [1, 1, 1, 1], "width": 8}',
            "no modified residual network",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused(override: str, message: str):
    with pytest.raises(UserError, match=message):
        step._check_comparable(_config("retclip", override))


def test_without_pytorch_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install 'torch>=[\d.]+'"):
        step.check_torch()
