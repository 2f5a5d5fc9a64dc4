"""Forty steps of RET-CLIP go the way of the published optimizer, step by step."""

import dataclasses

import jax
import numpy as np
from golden_files import Golden, assert_near, to_batch

from retfm_jax.config import ExperimentConfig, MeshConfig, OptimizerConfig, TrainConfig
from retfm_jax.interop import state_dict as interop
from retfm_jax.losses.tripartite import LEVELS
from retfm_jax.runtime.mesh import make_mesh
from retfm_jax.training.setup import Setup


def test_published_trajectory():
    golden = Golden("retclip_trajectory.npz")
    method, params, state = golden.network("retclip", golden.config["text_num_attention_heads"])
    # The golden was made without dropout.
    text = dataclasses.replace(method.config.text, dropout=0.0)
    method = type(method)(dataclasses.replace(method.config, text=text))
    recipe = golden.config["optimizer"]
    optimizer = OptimizerConfig(
        learning_rate=recipe["lr"],
        warmup_steps=recipe["warmup_steps"],
        weight_decay=recipe["weight_decay"],
        b1=recipe["betas"][0],
        b2=recipe["betas"][1],
        eps=recipe["eps"],
    )
    batches = [
        {name: to_batch(value[index]) for name, value in golden["in"].items()} for index in range(4)
    ]
    train = TrainConfig(batch_size=len(batches[0]["tokens"]))
    config = ExperimentConfig("retclip", method.config, optimizer=optimizer, train=train)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    setup = Setup.of(config, method, mesh, horizon=recipe["total_steps"])
    train_state = setup.create((params, state.batch_stats))
    step = setup.jit(setup.step(lambda batch, key: batch))
    losses, rates, scales = [], [], []
    for index in range(recipe["total_steps"]):
        train_state, metrics = step(train_state, batches[index % 4])
        losses.append(float(metrics["loss"]))
        rates.append(float(metrics["learning_rate"]))
        scales.append([float(train_state.params["log_scale"][level]) for level in LEVELS])

    np.testing.assert_allclose(losses, golden["out"]["loss"], rtol=5e-5)
    np.testing.assert_allclose(rates, golden["out"]["learning_rate"], rtol=1e-5, atol=1e-10)
    assert_near({"log_scales": np.array(scales)}, {"log_scales": golden["out"]["log_scales"]}, 2e-5)
    tensors = interop.to_state_dict(method, train_state.params, train_state.method_state)
    for name, norm in golden["final_norm"].items():
        np.testing.assert_allclose(np.linalg.norm(tensors[name]), norm, rtol=1e-3, err_msg=name)
