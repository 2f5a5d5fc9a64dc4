"""FLAIR's U-Net and UNETR's head are the published networks, and decode images of any size."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from golden_files import Golden, assert_gradients_near, assert_near, assert_same_bits

from retfm_jax.interop.state_dict import from_state_dict, to_state_dict
from retfm_jax.losses import segmentation as losses
from retfm_jax.methods.base import Method
from retfm_jax.methods.towers import image_names, infer_image_config, prefixed, relative
from retfm_jax.models import resnet, unet, unetr, vit
from retfm_jax.models.decoding import Upsample, resize_maps
from retfm_jax.models.resnet import Groups


class _Network(nnx.Module):
    def __init__(self, visual, decoder):
        self.visual, self.decoder = visual, decoder


class _Decoded(Method):
    """A tower and a decoder, by their goldens' names."""

    name = "decoded"

    def __init__(self, make, names):
        self._make, self._names = make, names
        super().__init__(types.SimpleNamespace())

    def network(self, rngs):
        return _Network(*self._make(rngs))

    @property
    def weight_names(self):
        return self._names

    def loss(self, *_, **__):
        raise NotImplementedError

    features = loss


def _flair(golden):
    sizes = golden.config
    config = resnet.ResNetConfig(tuple(sizes["layers"]), sizes["width"])

    def make(rngs):
        decoder = unet.Unet(unet.UnetConfig(), config.map_widths, sizes["classes"], rngs=rngs)
        return resnet.ResNet(config, rngs=rngs), decoder

    tower = prefixed(unet.tower_names(config), "", "visual/")
    return _Decoded(make, (*tower, *prefixed(unet.names(), "", "decoder/")))


def _unetr(golden):
    sizes = golden.config
    shapes = {name: value.shape for name, value in golden["state"].items()}
    config = infer_image_config(relative(shapes, "visual."))
    head = unetr.UnetrConfig(sizes["base_channel"])
    embed_dim = shapes["visual.proj"][1]

    def make(rngs):
        decoder = unetr.UnetrHead(head, config.width, sizes["classes"], rngs=rngs)
        return vit.ViT(config, embed_dim, rngs=rngs), decoder

    tower = image_names(config, "visual.", "visual/")
    return _Decoded(make, (*tower, *prefixed(unetr.names(), "decoder.", "decoder/")))


class _Case:
    """A golden and its network in our hands."""

    def __init__(self, name, make):
        self.golden = Golden(name)
        self.method = make(self.golden)
        self.params, self.state = from_state_dict(self.method, self.golden["state"])
        self.batch = self.golden.batch()

    def state_dict(self, params, state):
        return to_state_dict(self.method, params, state)


@pytest.fixture(scope="module")
def flair():
    return _Case("flair_unet.npz", _flair)


@pytest.fixture(scope="module")
def visionfm():
    return _Case("vit_unetr.npz", _unetr)


def _flair_outputs(case, params, train=False):
    images, masks = case.batch["image"], case.batch["mask"]
    network = case.method.bind(params, case.state.batch_stats)
    maps = network.visual.maps(images, train=train)
    groups = Groups(1, 1) if train else None
    last = network.decoder.decode(maps, images, groups=groups)
    logits = network.decoder.head(last)
    means = {f"map_{number}": x.mean((1, 2)) for number, x in enumerate(maps, 1)}
    loss = losses.dice_ce(logits, masks).mean()
    outputs = means | {
        "features": last.mean((1, 2)),
        "logits": jnp.moveaxis(logits, -1, 1),
        "loss_dice": losses.dice(logits, masks).mean(),
        "loss_total": loss,
    }
    return loss, (outputs, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)))


def test_flairs_unet_gives_the_published_outputs_and_gradients(flair):
    run = jax.jit(jax.grad(lambda params: _flair_outputs(flair, params), has_aux=True))
    gradient, (outputs, _) = run(flair.params)
    want = {k: v for k, v in flair.golden["out"].items() if not k.endswith("_train")}
    assert len(want) == 9
    assert_near(outputs, want, 2e-5)
    assert_gradients_near(flair.state_dict(gradient, flair.state), flair.golden)


def test_flairs_unet_gives_the_published_ones_by_the_statistics_of_the_batch(flair):
    golden = flair.golden
    run = jax.jit(jax.grad(lambda params: _flair_outputs(flair, params, train=True), has_aux=True))
    gradient, (outputs, stats) = run(flair.params)
    want = {name: golden["out"][f"{name}_train"] for name in ("logits", "loss_total")}
    assert_near(outputs, want, 1e-4)
    ours = flair.state_dict(gradient, flair.state)
    for name, norm in golden["grad_train_norm"].items():
        assert abs(np.linalg.norm(ours[name]) - norm) <= 1e-3 * norm, name
    assert_near(ours, golden["grad_train"], 2e-3)
    after = flair.state_dict(flair.params, flair.state._replace(batch_stats=stats))
    assert_near(after, golden["state_after"], 1e-4)


def test_unetrs_head_gives_the_published_outputs_and_gradients(visionfm):
    golden, batch = visionfm.golden, visionfm.batch
    levels = tuple(golden.config["levels"])

    def loss(params):
        network = visionfm.method.bind(params, visionfm.state.batch_stats)
        maps = network.visual.maps(batch["image"], levels)
        logits = network.decoder(maps, batch["image"])
        masks = batch["mask"].astype(jnp.int32)
        parts = {
            "loss_cross_entropy": losses.cross_entropy(logits, masks).mean(),
            "loss_dice": losses.softmax_dice(logits, masks).mean(),
        }
        total = sum(parts.values())
        means = {f"map_{k}": x.mean((1, 2)) for k, x in zip(levels, maps, strict=True)}
        logits = jnp.moveaxis(logits, -1, 1)
        return total, means | parts | {"loss_total": total, "logits": logits}

    gradient, outputs = jax.jit(jax.grad(loss, has_aux=True))(visionfm.params)
    assert_near(outputs, golden["out"], 2e-5)
    assert_gradients_near(visionfm.state_dict(gradient, visionfm.state), golden)


@pytest.mark.parametrize("name", ["flair", "visionfm"])
def test_the_state_dict_comes_back_with_its_bits(name, request):
    case = request.getfixturevalue(name)
    assert_same_bits(case.state_dict(case.params, case.state), case.golden["state"])


def test_a_narrow_bridge_is_a_quarter_of_the_published_one():
    """Of ResNet-50: the counts of the published network, and what is saved."""
    config = resnet.ResNetConfig()

    def count(bridge):
        make = lambda: unet.Unet(  # noqa: E731
            unet.UnetConfig(bridge), config.map_widths, 1, rngs=nnx.Rngs(0)
        )
        state = nnx.state(nnx.eval_shape(make), nnx.Param)
        sizes = {path[0]: 0 for path, _ in nnx.to_flat_state(state)}
        for path, leaf in nnx.to_flat_state(state):
            sizes[path[0]] += leaf.size
        return sum(sizes.values()), sizes["bridge1"] + sizes["bridge2"]

    tower = nnx.eval_shape(lambda: resnet.ResNet(config, rngs=nnx.Rngs(0)))
    whole = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(tower, nnx.Param)))
    published, bridge = count("published")
    assert round((published + whole) / 1e6, 1) == 147.8
    assert round(bridge / 1e6, 1) == 75.5
    assert round(count("narrow")[1] / 1e6, 1) == 18.9
    head = nnx.eval_shape(lambda: unetr.UnetrHead(unetr.UnetrConfig(), 768, 1, rngs=nnx.Rngs(0)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(head, nnx.Param)))
    assert round(parameters / 1e6, 1) == 2.0


def _random_maps(shapes):
    return [jax.random.normal(jax.random.key(i), (2, *shape)) for i, shape in enumerate(shapes)]


def test_a_unet_decodes_sizes_that_do_not_halve_evenly():
    config = resnet.ResNetConfig(stages=(1, 1, 1, 1), width=4)
    tower = resnet.ResNet(config, rngs=nnx.Rngs(0))
    decoder = unet.Unet(unet.UnetConfig("narrow"), config.map_widths, 3, rngs=nnx.Rngs(1))
    images = jax.random.normal(jax.random.key(0), (1, 45, 70, 3))
    logits = jax.jit(lambda images: decoder(tower.maps(images), images))(images)
    assert (logits.shape, logits.dtype) == ((1, 45, 70, 3), jnp.float32)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("size", "patch"), [((32, 48), 16), ((28, 42), 14), ((64, 32), 32), ((24, 40), 8)]
)
def test_a_head_decodes_patches_of_any_size(size, patch):
    head = unetr.UnetrHead(unetr.UnetrConfig(4), 8, 2, rngs=nnx.Rngs(0))
    grid = (size[0] // patch, size[1] // patch, 8)
    images = jax.random.normal(jax.random.key(9), (2, *size, 3))
    logits = jax.jit(lambda maps, images: head(maps, images))(_random_maps([grid] * 4), images)
    assert (logits.shape, logits.dtype) == ((2, *size, 2), jnp.float32)
    assert np.isfinite(logits).all()


def test_channels_are_dropped_as_a_whole_by_the_image_s_own_key():
    head = unetr.UnetrHead(unetr.UnetrConfig(8, dropout=0.5), 8, 4, rngs=nnx.Rngs(0))
    head.cls.kernel[...] = jnp.eye(4)[None, None]  # logits are the last map itself
    maps, images = _random_maps([(1, 1, 8)] * 4), jnp.ones((2, 16, 16, 3))
    keys = jax.random.split(jax.random.key(3), 2)
    run = jax.jit(lambda maps, images, keys: head(maps, images, keys=keys))
    dropped, whole = run(maps, images, keys), run(maps, images, None)
    kept = np.abs(dropped).max((1, 2)) > 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(dropped, 2 * whole * kept[:, None, None], atol=1e-5)
    alone = run([x[1:] for x in maps], images[1:], keys[1:])
    np.testing.assert_allclose(dropped[1:], alone, atol=1e-5)


def test_transposed_convolution_and_resizing_are_pytorchs():
    layer = Upsample(3, 5, rngs=nnx.Rngs(0))
    layer.bias[...] = jax.random.normal(jax.random.key(2), (5,))
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    weight = np.asarray(layer.kernel[...]).transpose(2, 3, 0, 1).copy()
    nchw = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    want = torch.nn.functional.conv_transpose2d(
        nchw, torch.from_numpy(weight), torch.from_numpy(np.array(layer.bias[...])), stride=2
    )
    np.testing.assert_allclose(layer(x), np.moveaxis(want.numpy(), 1, -1), atol=1e-5)
    for size in ((3, 5), (7, 9), (4, 6)):
        want = torch.nn.functional.interpolate(nchw, size, mode="bilinear", antialias=True)
        np.testing.assert_allclose(
            resize_maps(x, size), np.moveaxis(want.numpy(), 1, -1), atol=1e-5
        )


@pytest.mark.parametrize("kind", ["unet", "unetr"])
def test_bfloat16_gives_float32_logits_near_the_exact_ones(kind):
    def make(dtype):
        if kind == "unet":
            config = unet.UnetConfig()
            return unet.Unet(config, (4, 16, 32, 64, 128), 2, dtype=dtype, rngs=nnx.Rngs(0))
        return unetr.UnetrHead(unetr.UnetrConfig(8), 16, 2, dtype=dtype, rngs=nnx.Rngs(0))

    sizes = [(16, 16, 4), (8, 8, 16), (4, 4, 32), (2, 2, 64), (1, 1, 128)]
    maps = _random_maps(sizes if kind == "unet" else [(2, 2, 16)] * 4)
    images = jax.random.normal(jax.random.key(9), (2, 32, 32, 3))
    exact, rough = (jax.jit(make(dtype))(maps, images) for dtype in ("float32", "bfloat16"))
    assert rough.dtype == jnp.float32
    assert np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


def test_an_odd_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="channels 5 must be even"):
        unetr.UnetrConfig(5)
