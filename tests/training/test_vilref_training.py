"""ViLReF in training: queues, momentum and batch norms keep faith over meshes and interruptions."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from toy_training import flat

from retfm_jax.config import MeshConfig, load_config
from retfm_jax.data_builders.synthetic_fundus import synthetic_fundus_dataset_builder as drawn
from retfm_jax.methods.vilref import Vilref
from retfm_jax.runtime import mesh as meshes
from retfm_jax.training import loop
from retfm_jax.training.setup import Setup

#: A queue that no batch divides; 60 patients make 13 batches of an epoch.
TINY = [
    'model.image={"image_size": 32, "stages": [1, 1, 1, 1], "width": 8}',
    *("model.text.width=32", "model.text.heads=2", "model.text.mlp_width=32"),
    *("model.text.layers=1", "model.embed_dim=16", "model.queue_size=20", "model.momentum=0.9"),
    *("data.image.size=32", "data.text.context_length=16", "data.prefetch=1"),
    *("optimizer.learning_rate=1e-4", "optimizer.warmup_steps=2"),
    *("train.batch_size=8", "train.steps=7", "train.checkpoint_every=3", "train.log_every=1"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    drawn.build(folder, patients=60, image_size=32, population="repetitive", processes=1)
    return load_config("vilref_synthetic", [*TINY, f"data.data_dir={folder}"])


def test_a_run_resumed_in_the_middle_of_an_epoch_ends_with_the_same_bits(
    config, tmp_path, monkeypatch
):
    first = jax.devices()[:1]
    monkeypatch.setattr(loop, "make_mesh", lambda config: meshes.make_mesh(config, first))
    whole = loop.train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for step in ("6", "7"):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / step)
    resumed = loop.train(config, tmp_path / "resumed")
    assert int(whole.step) == 7
    queue = whole.carry["queue"]
    assert (int(queue["filled"]), int(queue["cursor"])) == (20, 56 % 20)
    assert np.all(queue["labels"].sum(1) > 0)
    for path, leaf in flat(whole).items():
        np.testing.assert_array_equal(flat(resumed)[path], leaf, err_msg=path)


def _states(config, sizes, steps=3):
    """The state after each step on a mesh of these sizes."""
    config = dataclasses.replace(config, mesh=MeshConfig(*sizes))
    mesh = meshes.make_mesh(config.mesh, jax.devices()[: sizes[0] * sizes[1]])
    method = Vilref(config.model)
    data = loop.TrainingData.of(config, method)
    setup = Setup.of(config, method, mesh, horizon=config.train.steps)
    state = setup.create()
    step = setup.jit(setup.step(data.prepare))
    batches = data.open(0, mesh)
    for _, batch in zip(range(steps), batches, strict=False):
        state, _ = step(state, batch.arrays)
        yield jax.device_get(state)
    batches.close()


def test_eight_devices_equal_one(config):
    """Batch norms see the global batch, in the encoders and in the momentum encoders."""
    pairs = zip(_states(config, (1, 1)), _states(config, (4, 2)), strict=True)
    for number, (one, eight) in enumerate(pairs):
        parts = {"carry": one.carry, "batch_stats": one.batch_stats, "params": one.params}
        for name, part in parts.items():
            theirs = flat(getattr(eight, name))
            for path, leaf in flat(part).items():
                np.testing.assert_allclose(
                    theirs[path], leaf, rtol=1e-4, atol=1e-4, err_msg=f"{number} {name} {path}"
                )
    assert int(one.carry["queue"]["cursor"]) == 24 % 20
