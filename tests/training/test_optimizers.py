"""AdamW, its groups and its schedule are those of the published PyTorch recipe."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from toy_training import Toy, ToyConfig, flat, toy_config

from retfm_jax.errors import UserError
from retfm_jax.training.optimizers import (
    Partition,
    decay_mask,
    learning_rate_schedule,
    make_optimizer,
    name_beside_clipping,
)

METHOD = Toy(ToyConfig(width=8))
PARAMS = METHOD.init(jax.random.key(0))[0]


def test_decay_follows_published_names():
    decays = {path: bool(leaf) for path, leaf in flat(decay_mask(METHOD, PARAMS)).items()}
    spared = {path for path, leaf in decays.items() if not leaf}
    assert spared == {"['visual']['ln_bias']", "['text']['ln_bias']", "['logit_scale']"}


@pytest.mark.parametrize("decay", ["published", "all"])
def test_equals_torch_adamw_with_lambda_lr(decay):
    config = toy_config(
        1, weight_decay=0.3, warmup_steps=4, decay=decay, learning_rate=0.05, eps=1e-3
    ).optimizer
    schedule = learning_rate_schedule(config, horizon=12)
    optimizer = make_optimizer(config, METHOD, schedule)
    params, opt_state = PARAMS, optimizer.init(PARAMS)

    decays = flat(decay_mask(METHOD, PARAMS))
    theirs = {path: torch.nn.Parameter(torch.tensor(leaf)) for path, leaf in flat(PARAMS).items()}
    groups = [
        {"params": [p for path, p in theirs.items() if decays[path] or decay == "all"],
         "weight_decay": 0.3},
        {"params": [p for path, p in theirs.items() if not decays[path] and decay != "all"],
         "weight_decay": 0.0},
    ]  # fmt: skip
    torch_optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.05, betas=(0.9, 0.98), eps=1e-3
    )

    def rate(step):
        if step < 4:
            return (step + 1) / 4
        return 0.5 * (1 + math.cos(math.pi * (step - 4) / 8))

    scheduler = torch.optim.lr_scheduler.LambdaLR(torch_optimizer, rate)
    rng = np.random.default_rng(0)
    for step in range(12):
        gradients = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params
        )
        for path, gradient in flat(gradients).items():
            theirs[path].grad = torch.tensor(gradient)
        np.testing.assert_allclose(schedule(step), scheduler.get_last_lr()[0], rtol=2e-6)
        torch_optimizer.step()
        scheduler.step()
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    for path, leaf in flat(params).items():
        np.testing.assert_allclose(leaf, theirs[path].detach().numpy(), atol=2e-6, err_msg=path)


def test_schedule_ends_at_zero_and_stays():
    config = toy_config(1, warmup_steps=0, learning_rate=0.5).optimizer
    schedule = learning_rate_schedule(config, horizon=10)
    assert schedule(0) == 0.5
    np.testing.assert_allclose([schedule(10), schedule(30)], 0, atol=1e-12)


def test_clipping_bounds_the_global_norm():
    config = toy_config(1, clip_norm=1.0, weight_decay=0.0).optimizer
    optimizer = make_optimizer(config, METHOD, lambda step: 1.0)
    plain = make_optimizer(toy_config(1, weight_decay=0.0).optimizer, METHOD, lambda step: 1.0)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    clipped = jax.tree.map(lambda leaf: leaf / optax.tree.norm(gradients), gradients)
    ours, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    wanted, _ = plain.update(clipped, plain.init(PARAMS), PARAMS)
    for path, leaf in flat(ours).items():
        np.testing.assert_allclose(leaf, flat(wanted)[path], rtol=1e-5)


def test_frozen_and_unused_parameters_have_no_optimizer_state():
    config = toy_config(1, frozen=("visual", "text/blocks")).optimizer
    partition = Partition.of(METHOD, config, PARAMS)
    trainable, fixed = partition.split(PARAMS)
    assert set(flat(trainable)) == {"['text']['embed']", "['text']['ln_bias']", "['logit_scale']"}
    assert "['leftover']" in flat(fixed)
    assert flat(partition.merge(trainable, fixed)).keys() == flat(PARAMS).keys()
    opt_state = make_optimizer(config, METHOD, lambda step: 1.0).init(trainable)
    assert not any("visual" in path or "leftover" in path for path in flat(opt_state))


def test_a_prefix_ends_at_a_path_component():
    trainable, _ = Partition(("vis",)).split(PARAMS)
    assert "visual" in trainable


def test_frozen_names_what_exists():
    with pytest.raises(UserError, match=r"'visul'.*visual"):
        Partition.of(METHOD, toy_config(1, frozen=("visul",)).optimizer, PARAMS)
    everything = ("visual", "text", "logit_scale")
    with pytest.raises(UserError, match="nothing to train"):
        Partition.of(METHOD, toy_config(1, frozen=everything).optimizer, PARAMS)


def test_clipping_changes_nothing_in_the_state():
    """So a run that came to a loss that is not finite goes on with it."""
    plain, clipped = (
        make_optimizer(toy_config(1, clip_norm=norm).optimizer, METHOD, lambda step: 1.0).init(
            PARAMS
        )
        for norm in (None, 1.0)
    )
    assert jax.tree.structure(plain) == jax.tree.structure(clipped)
    assert name_beside_clipping("opt_state/0/mu/kernel") == "opt_state/1/mu/kernel"
    assert name_beside_clipping("opt_state/2/count") == "opt_state/3/count"
    assert name_beside_clipping("carry/momentum/text/0/1") == "carry/momentum/text/0/1"
