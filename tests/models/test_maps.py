"""Feature maps at levels: the towers' own activations, of images of any size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from golden_files import Golden
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from retfm_jax.interop.state_dict import resize_positions
from retfm_jax.methods import make_method
from retfm_jax.methods.image_tower import TowerConfig
from retfm_jax.models import resnet, vit

VIT = vit.ViTConfig(
    image_size=32, patch_size=8, width=32, layers=6, heads=2, activation="gelu", pre_norm=False,
)  # fmt: skip
#: By what stands before the patches and how they are pooled.
FORMS = {
    "class": {},
    "registers": {"registers": 4, "class_position": False, "pooling": "mean"},
    "mean_norm": {"pooling": "mean_norm"},
    "attention": {"class_token": False, "pooling": "attention"},
    "rope": {"positions": "rope", "registers": 2, "pooling": "mean"},
    "clip": {"pre_norm": True},
}
RESNETS = (
    resnet.ResNetConfig(stages=(1, 1, 1, 1), width=4),
    resnet.ClipResNetConfig(stages=(1, 1, 1, 1), width=4, image_size=64),
)


def vit_of(**changes):
    return vit.ViT(dataclasses.replace(VIT, **changes), None, rngs=nnx.Rngs(0))


def resnet_of(config):
    if isinstance(config, resnet.ClipResNetConfig):
        return resnet.ClipResNet(config, 8, rngs=nnx.Rngs(0))
    return resnet.ResNet(config, rngs=nnx.Rngs(0))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _run(graphdef, state, images, levels, keys):
    tower = nnx.merge(graphdef, state)
    return tower.maps(images, levels, keys=keys), tower(images, keys=keys)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _maps(graphdef, state, images, levels):
    return nnx.merge(graphdef, state).maps(images, levels)


def run(tower, images, levels=None, keys=None):
    """Maps, and what the tower itself gives."""
    maps, given = _run(*nnx.split(tower), images, levels, keys)
    return maps, given[1] if isinstance(given, tuple) else given


def maps_of(tower, images, levels=None):
    return _maps(*nnx.split(tower), images, levels)


def photographs(*size, seed=1):
    return jax.random.normal(jax.random.key(seed), (2, *size, 3))


@pytest.mark.parametrize("form", FORMS)
def test_pooled_the_last_map_of_a_vision_transformer_is_its_features(form):
    tower, images = vit_of(**FORMS[form]), photographs(32, 32)
    (last,), features = run(tower, images, (5,))
    flat = last.reshape(2, 16, 32)
    tokens = tower.tokens(tower.patches(images))
    match tower.config.pooling:
        case "mean":
            pooled = flat.mean(1)
        case "attention":
            pooled = tower.pooling(flat)
        case _:  # what is pooled is no map, but stands beside it in the same tokens
            pooled = tower.pool(tokens)
    np.testing.assert_allclose(pooled, features, atol=1e-6)
    behind = tower.ln_post(tokens[:, tower.config.prefix_tokens :])
    np.testing.assert_allclose(flat, behind, atol=1e-6)


@pytest.mark.parametrize("config", RESNETS, ids=["torchvision", "clip"])
def test_pooled_the_last_map_of_a_residual_network_is_its_features(config):
    tower, images = resnet_of(config), photographs(64, 64)
    maps, features = run(tower, images)
    clip = isinstance(tower, resnet.ClipResNet)
    pooled = tower.attnpool(maps[-1]) if clip else maps[-1].mean((1, 2))
    np.testing.assert_allclose(pooled, features, rtol=1e-5, atol=1e-6)
    assert [x.shape[1:] for x in maps] == [
        (64 >> level, 64 >> level, width)
        for level, width in zip(config.map_levels, config.map_widths, strict=True)
    ]
    wide = maps_of(tower, photographs(32, 96), (1, 5))
    assert [x.shape[1:3] for x in wide] == [(16, 48), (1, 3)]


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_map_is_what_a_tower_of_so_many_blocks_gives(remat):
    tower, images = vit_of(remat=remat), photographs(32, 32)
    found = maps_of(tower, images, (3, 0, 3))
    np.testing.assert_array_equal(found[0], found[2])
    for level, got in zip((3, 0), found[:2], strict=True):
        short = vit_of(layers=level + 1)
        graphdef, _ = nnx.split(short)
        long = nnx.state(tower)
        long["blocks"] = jax.tree.map(lambda leaf, n=level + 1: leaf[:n], long["blocks"])
        short = nnx.merge(graphdef, long)
        np.testing.assert_allclose(got, maps_of(short, images, (level,))[0], atol=1e-5)


def test_dropped_branches_are_those_of_the_whole_tower():
    tower, images = vit_of(drop_path=0.5, pooling="mean"), photographs(32, 32)
    keys = jax.random.split(jax.random.key(2), 2)
    maps, features = run(tower, images, (1, 2, 5), keys)
    np.testing.assert_allclose(maps[-1].mean((1, 2)), features, atol=1e-5, rtol=1e-5)
    assert not np.allclose(maps[-1], maps_of(tower, images, (5,))[0], atol=1e-3)


@pytest.mark.parametrize("form", ["class", "clip", "attention"])
def test_positions_are_resized_as_a_tower_of_that_size_would_have_them(form):
    """What `maps` resizes as it runs is what `interop` resizes in a file."""
    tower = vit_of(**FORMS[form])
    images = photographs(48, 48)
    found = maps_of(tower, images)
    config = dataclasses.replace(tower.config, image_size=48)
    graphdef, _ = nnx.split(vit.ViT(config, None, rngs=nnx.Rngs(0)))
    state = nnx.state(tower)
    positions = state["position_embedding"]
    table = resize_positions(
        np.asarray(positions[...]), config.position_rows, aligned=config.pre_norm
    )
    positions.set_value(jnp.asarray(table))
    larger = nnx.merge(graphdef, state)
    for ours, theirs in zip(found, maps_of(larger, images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
def test_positions_of_a_grid_that_is_no_square_are_pytorchs(aligned):
    tower = vit_of(pre_norm=aligned, class_token=False, pooling="mean", activation="gelu")
    grid = np.asarray(tower.position_embedding[...]).reshape(1, 4, 4, 32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(np.moveaxis(grid, -1, 1).copy()),
        (2, 7),
        mode="bicubic",
        align_corners=aligned,
    )
    dark = tower._embed(jnp.zeros((1, 16, 56, 3)))[0].reshape(2, 7, 32)
    np.testing.assert_allclose(dark, np.moveaxis(want.numpy()[0], 0, -1), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_wide_picture_has_a_wide_map(form):
    tower = vit_of(**FORMS[form])
    maps = maps_of(tower, photographs(24, 56))
    assert [x.shape for x in maps] == [(2, 3, 7, 32)] * 4
    assert all(np.isfinite(x).all() for x in maps)


def test_patches_of_fourteen_pixels():
    tower = vit_of(patch_size=14, image_size=56)
    assert maps_of(tower, photographs(70, 42))[0].shape == (2, 5, 3, 32)


def test_levels_by_default_are_the_published_ones_and_quarters():
    levels = {layers: vit.ViTConfig(layers=layers).map_levels for layers in (1, 4, 6, 12, 24, 32)}
    assert levels == {
        1: (0, 0, 0, 0), 4: (0, 1, 2, 3), 6: (1, 2, 4, 5), 12: (3, 5, 7, 11),
        24: (5, 11, 17, 23), 32: (7, 15, 23, 31),
    }  # fmt: skip


def test_a_map_in_bfloat16_is_near_that_in_float32():
    exact = maps_of(vit_of(), photographs(32, 32))
    tower = vit.ViT(VIT, None, dtype="bfloat16", rngs=nnx.Rngs(0))
    for ours, theirs in zip(maps_of(tower, photographs(32, 32)), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        assert np.abs(np.asarray(ours, np.float32) - theirs).max() < 0.1


def _sharded(tower, images):
    """Maps of a batch and parameters that are sharded over devices, and the gradient's norm."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    graphdef, state = nnx.split(tower)

    def place(leaf, stacked):
        axes = [axis for axis in range(int(stacked), leaf.ndim) if leaf.shape[axis] % 4 == 0]
        spec = [None] * leaf.ndim
        if axes and leaf.dtype == jnp.float32:
            spec[axes[-1]] = "fsdp"
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    placed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: place(leaf, "blocks" in jax.tree_util.keystr(path)), state
    )
    rows = jax.device_put(images, NamedSharding(mesh, PartitionSpec(("data",))))
    with jax.set_mesh(mesh):
        return _maps_and_gradient(graphdef, placed, rows)


def _maps_and_gradient(graphdef, state, images):
    def loss(parameters):
        maps = nnx.merge(graphdef, parameters).maps(images, (0, 1))
        return sum(jnp.square(x).sum() for x in maps), maps

    gradient, maps = jax.jit(jax.grad(loss, has_aux=True))(state)
    return maps, [np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradient)]


def test_maps_and_gradients_of_a_mesh_are_those_of_one_device():
    tower, images = vit_of(layers=2), photographs(32, 64)
    maps, norms = _maps_and_gradient(*nnx.split(tower), images)
    there, norms_there = _sharded(tower, images)
    for ours, theirs in zip(there, maps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(norms_there, norms, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "levels", "message"),
    [
        ((33, 32), None, "33 x 32 are no multiple of the patches of 8"),
        ((32, 32), (6,), "none of the blocks 0 to 5"),
        ((32, 32), (-1,), "none of the blocks 0 to 5"),
        ((32, 32), (), "none of the blocks 0 to 5"),
    ],
)
def test_maps_that_no_transformer_has_are_refused(size, levels, message):
    with pytest.raises(ValueError, match=message):
        vit_of().maps(photographs(*size), levels)


def test_maps_that_no_residual_network_has_are_refused():
    with pytest.raises(ValueError, match=r"levels \[0, 6\] are none of \[1, 2, 3, 4, 5\]"):
        resnet_of(RESNETS[0]).maps(photographs(32, 32), (0, 6))


@pytest.mark.parametrize("name", ["retclip_vit", "vilref_rn", "keepfit_resnet"])
def test_every_method_with_an_image_tower_gives_its_maps(name):
    golden = Golden(f"{name}.npz")
    method, params, state = golden.network(name.split("_")[0], golden.config.get("heads", 1))
    images = next(value for key, value in golden.batch().items() if key.startswith("image"))
    maps = jax.jit(method.image_maps)(params, state, images)
    assert len(maps) == len(method.config.image.map_levels)
    assert all(x.ndim == 4 and len(x) == len(images) for x in maps)
    if name == "keepfit_resnet":
        features = method.image_features(params, state, images)
        np.testing.assert_allclose(maps[-1].mean((1, 2)), features, rtol=1e-5, atol=1e-6)


def test_a_tower_alone_gives_its_maps():
    method = make_method("vision", TowerConfig(dataclasses.replace(VIT, pooling="mean")))
    params, state = method.init(jax.random.key(0))
    images = photographs(32, 32)
    (last,) = jax.jit(method.image_maps, static_argnums=3)(params, state, images, (5,))
    features = jax.jit(method.image_features)(params, state, images)
    np.testing.assert_allclose(last.mean((1, 2)), features, atol=1e-5)
