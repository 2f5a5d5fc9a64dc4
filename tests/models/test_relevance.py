"""Maps of towers against plain computations: layers in a list in PyTorch, stages one by one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from retfm_jax.methods import get_method_class
from retfm_jax.models import resnet, vit
from retfm_jax.models.relevance import relevance, roll_out, shared_relevance, ways

SIZES: dict[str, Any] = {
    "image_size": 16, "patch_size": 4, "width": 16, "layers": 3, "heads": 2, "mlp_width": 24,
}  # fmt: skip
PLAIN: dict[str, Any] = {"pre_norm": False, "patch_bias": True, "activation": "gelu"}
FORMS: dict[str, dict[str, Any]] = {
    "clip": {},
    "registers": {**PLAIN, "registers": 2, "layer_scale": True, "class_position": False},
    "rope": {**PLAIN, "positions": "rope", "registers": 3, "qkv_bias": False},
    "mean": {**PLAIN, "pooling": "mean"},
    "mean_norm": {**PLAIN, "pooling": "mean_norm"},
    "attention": {**PLAIN, "pooling": "attention", "class_token": False},
}
DIRECTION = np.random.default_rng(5).normal(size=1024).astype(np.float32)


def tower(config):
    """A network of this tower alone, its random parameters and its name-free method."""
    cls = get_method_class("vision")
    method = cls(cls.config_class(image=config))
    params, state = jax.eval_shape(method.init, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: (0.4 * rng.normal(size=x.shape)).astype(np.float32), params)
    state = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(x.dtype), state)
    return method, params, state


def images(config, count=3, size=16):
    return np.random.default_rng(2).normal(size=(count, size, size, 3)).astype(np.float32)


def maps_of(name, config, batch, score=None):
    """Maps of a way, and what the slots held."""
    method, params, state = tower(config)
    way = ways(config)[name]

    def total(taps):
        features = method.watched(taps).image_features(params, state, batch)
        wanted = (features @ DIRECTION[: features.shape[1]]).sum() if score is None else score
        return wanted + 0 * features.sum()

    found = jax.jit(jax.grad(total))(way.taps(config, batch.shape[1], len(batch)))
    slots = {place: tap.slot for place, tap in found.items()}
    return np.asarray(way.fold(slots, config)), slots


def norm(x, part, eps):
    return functional.layer_norm(x, x.shape[-1:], part["scale"], part["bias"], eps)


def linear(x, part):
    y = x @ part["kernel"]
    return y + part["bias"] if "bias" in part else y


def torch_attention(query, key, value, seen):
    """Attention of (b, h, n, d), whose probabilities keep their gradient."""
    weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
    weights.retain_grad()
    seen.append(weights)
    return (weights @ value).transpose(1, 2).flatten(2)


def turned(x, config):
    """Rotates the patches' queries or keys (b, h, n, d) by their place; see `vit.rotate`."""
    half = x.shape[-1] // 2
    angles = torch.as_tensor(vit._angles(config, (config.grid, config.grid)))
    before, patches = x[:, :, : config.prefix_tokens], x[:, :, config.prefix_tokens :]
    first, second = patches[..., :half], patches[..., half:]
    sine, cosine = angles.sin(), angles.cos()
    patches = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
    return torch.cat([before, patches], 2)


def torch_maps(config, batch):
    """Chefer's relevance with full matrices, and rollout, of a tower, layer by layer."""
    _, params, _ = tower(config)
    p = jax.tree.map(lambda x: torch.tensor(x, requires_grad=True), params)["visual"]
    act = {"gelu": functional.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}
    act, eps, grid = act[config.activation], config.norm_eps, config.grid
    x = torch.as_tensor(batch).unfold(1, 4, 4).unfold(2, 4, 4)  # b, g, g, 3, p, p
    x = x.permute(0, 1, 2, 4, 5, 3).flatten(1, 2).flatten(2)
    x = x @ p["patch"]["kernel"].reshape(-1, config.width)
    x = x + p["patch"]["bias"] if config.patch_bias else x
    if config.positions == "learned":
        x = x + p["position_embedding"][-(grid**2) :]
    before = []
    if config.class_token:
        first = p["class_embedding"]
        if config.positions == "learned" and config.class_position:
            first = first + p["position_embedding"][0]
        before.append(first[None])
    before += [p["registers"]] if config.registers else []
    x = torch.cat([*(part.expand(len(x), *part.shape) for part in before), x], 1)
    x = norm(x, p["ln_pre"], eps) if config.pre_norm else x
    seen = []
    for layer in range(config.layers):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        qkv = linear(norm(x, block["ln_1"], eps), block["qkv"])
        q, k, v = (y.unflatten(2, (2, -1)).transpose(1, 2) for y in qkv.chunk(3, -1))
        if config.positions == "rope":
            q, k = turned(q, config), turned(k, config)
        y = linear(torch_attention(q, k, v, seen), block["out"])
        x = x + (y * block["scale_1"] if config.layer_scale else y)
        y = linear(act(linear(norm(x, block["ln_2"], eps), block["fc"])), block["proj"])
        x = x + (y * block["scale_2"] if config.layer_scale else y)
    after, last = norm(x, p["ln_post"], eps), config.prefix_tokens
    if config.pooling == "class":
        features = after[:, 0]
    elif config.pooling == "attention":
        part = p["pooling"]
        qkv = part["qkv"]
        query = part["query"].expand(len(x), 1, -1)
        q, k, v = (
            (y @ kernel + bias).unflatten(2, (2, -1)).transpose(1, 2)
            for y, kernel, bias in zip(
                (query, after, after), qkv["kernel"].chunk(3, 1), qkv["bias"].chunk(3), strict=True
            )
        )
        y = linear(torch_attention(q, k, v, seen)[:, 0], part["out"])
        features = y + linear(act(linear(norm(y, part["norm"], eps), part["fc"])), part["proj"])
    else:
        weights = torch.full((len(x), 1, 1, grid**2), grid**-2.0, requires_grad=True)
        seen.append(weights)
        tokens = after if config.pooling == "mean" else x
        features = (weights[:, 0, 0, :, None] * tokens[:, last:]).sum(1)
        features = norm(features, p["ln_post"], eps) if config.pooling == "mean_norm" else features
    (features @ torch.as_tensor(DIRECTION[: config.width])).sum().backward()
    eye = torch.eye(x.shape[1])
    rollout, chefer = eye, eye.expand(len(x), -1, -1)
    for weights in seen[: config.layers]:
        rollout = (weights.mean(1) + eye) / 2 @ rollout
        raising = (weights * weights.grad).clamp(min=0).mean(1)
        if config.pooling != "class":
            raising = raising / raising.sum(-1, keepdim=True).clamp(min=1e-30)
        chefer = chefer + raising @ chefer
    if config.pooling == "class":
        rows = torch.zeros(len(x), 1, x.shape[1])
        rows[:, :, 0] = 1
        kinds = rows, rows
    else:
        pool = seen[-1]
        kinds = (pool * pool.grad).clamp(min=0).mean(1), pool.mean(1)
        kinds = [functional.pad(row, (x.shape[1] - row.shape[-1], 0)) for row in kinds]
    found = {"relevance": kinds[0] @ chefer, "rollout": kinds[1] @ rollout}
    return {
        name: row[:, 0, last:].detach().reshape(-1, grid, grid).numpy()
        for name, row in found.items()
    }


@pytest.mark.parametrize("form", FORMS)
def test_maps_of_transformers_are_those_of_layers_one_by_one(form):
    config = vit.ViTConfig(**SIZES, **FORMS[form])
    batch = images(config)
    wanted = torch_maps(config, batch)
    for name in ("relevance", "rollout"):
        found, _ = maps_of(name, config, batch)
        assert found.max() > 0
        np.testing.assert_allclose(found, wanted[name], rtol=2e-4, atol=1e-5 * found.max())


@pytest.mark.parametrize("form", ["clip", "attention", "mean"])
def test_rows_of_rollout_sum_to_one(form):
    config = vit.ViTConfig(**SIZES, **FORMS[form])
    _, slots = maps_of("rollout", config, images(config))
    np.testing.assert_allclose(slots["blocks"].sum(-1), 1, atol=1e-5)
    tokens = slots["blocks"].shape[-1]
    for token in (0, tokens - 1):
        row = jnp.zeros((3, tokens)).at[:, token].set(1)
        np.testing.assert_allclose(roll_out(row, slots["blocks"]).sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("through", [relevance, shared_relevance])
def test_a_block_that_attends_to_nothing_relevant_changes_nothing(through):
    row = jnp.array([[0.2, 0.3, 0.5]])
    nothing = jnp.zeros((4, 1, 3, 3))
    np.testing.assert_array_equal(through(row, nothing), row)


def test_shared_relevance_has_the_same_ratios_whatever_the_score_is_multiplied_by():
    row = jnp.array([[0.2, 0.3, 0.5]])
    attentions = jax.random.uniform(jax.random.key(0), (4, 1, 3, 3))
    found = shared_relevance(row, attentions)
    np.testing.assert_allclose(shared_relevance(row, 1e-4 * attentions), found, rtol=1e-5)
    np.testing.assert_allclose(shared_relevance(10 * row, attentions), 10 * found, rtol=1e-5)


CASES = [
    (vit.ViTConfig(**SIZES), "relevance"),
    (resnet.ResNetConfig((1, 1, 1, 1), 4), "hires_cam_stage3"),
    (resnet.ClipResNetConfig((1, 1, 1, 1), 4, image_size=64), "hires_cam_stage3"),
]


@pytest.mark.parametrize(("config", "name"), CASES)
def test_permuted_images_have_permuted_maps(config, name):
    batch = images(config, 4, getattr(config, "image_size", 64))
    order = np.array([2, 0, 3, 1])
    whole, _ = maps_of(name, config, batch)
    permuted, _ = maps_of(name, config, batch[order])
    assert whole.max() > 0
    np.testing.assert_allclose(permuted, whole[order], rtol=1e-4, atol=1e-5 * whole.max())


@pytest.mark.parametrize(("config", "name"), CASES)
def test_a_constant_has_no_map(config, name):
    batch = images(config, 2, getattr(config, "image_size", 64))
    found, slots = maps_of(name, config, batch, score=jnp.float32(3.0))
    assert all(not np.asarray(slot).any() for slot in slots.values())
    assert not found.any() or name == "relevance"


@pytest.mark.parametrize("config", [case[0] for case in CASES[1:]])
@pytest.mark.parametrize("stage", [3, 4])
def test_activation_maps_of_residual_networks_are_those_of_stages_one_by_one(config, stage):
    method, params, state = tower(config)
    batch = jnp.asarray(images(config, 2, 64))
    network = method.bind(params, state.batch_stats).visual

    def run(x, first, last):
        for number in range(first, last):
            x = getattr(network, f"layer{number}")(x, groups=None)
        return x

    def stem(x):
        """Until the first stage, as the tower's own stages see it."""
        caught = []

        class Stop(Exception):
            pass

        def stop(x, *, groups):
            caught.append(x)
            raise Stop

        layer = network.layer1
        network.layer1 = stop
        with pytest.raises(Stop):
            network(x)
        network.layer1 = layer
        return caught[0]

    def rest(maps):
        x = run(maps, stage + 1, 5)
        pooled = network.attnpool(x) if hasattr(network, "attnpool") else x.mean((1, 2))
        return (pooled @ DIRECTION[: pooled.shape[1]]).sum()

    maps = run(stem(batch), 1, stage + 1)
    gradient = np.asarray(jax.grad(rest)(maps))
    maps = np.asarray(maps)
    weights = gradient.mean((1, 2))
    wanted = {
        "grad_cam": np.maximum(sum(maps[..., c] * weights[:, None, None, c] for c in
                                   range(maps.shape[-1])), 0),
        "hires_cam": np.maximum((maps * gradient).sum(-1), 0),
    }  # fmt: skip
    for name, plain in wanted.items():
        found, _ = maps_of(name if stage == 4 else f"{name}_stage3", config, np.asarray(batch))
        np.testing.assert_allclose(found, plain, rtol=1e-3, atol=1e-4 * (plain.max() or 1))
