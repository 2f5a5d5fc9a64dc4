"""The segmenter is FLAIR's U-Net and UNETR's head, and learns from masks in the one loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import Golden, assert_gradients_near, assert_near, assert_same_bits

import retfm_jax
from retfm_jax.config import MeshConfig, from_dict, load_config
from retfm_jax.data.device_augment import prepare
from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.methods import make_method
from retfm_jax.methods.segmenter import Segmenter, shown
from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training.setup import Setup


def config_of(image, size, **model):
    structures = ("disc", "cup")
    return from_dict(
        {
            "method": "segmenter",
            "model": {"image": image, "structures": structures, **model},
            "data": {"image": {"size": size}, "augment": {"erasing_probability": 0.0}},
            "train": {"batch_size": 8},
            "optimizer": {"learning_rate": 3e-2, "warmup_steps": 0, "decay": "matrices"},
        }
    )


VIT = config_of(
    {"kind": "vit", "image_size": 32, "width": 16, "layers": 2, "heads": 2, "pre_norm": False},
    32,
    decoder={"kind": "unetr", "channels": 4, "dropout": 0.0},
)
RESNET = config_of({"kind": "resnet", "stages": (1, 1, 1, 1), "width": 4}, 32)
CLIP = config_of({"kind": "clip_resnet", "stages": (1, 1, 1, 1), "width": 4, "image_size": 32}, 32)


@pytest.fixture(scope="module")
def flair():
    golden = Golden("flair_unet.npz")
    return golden, retfm_jax.from_torch(golden["state"])


@pytest.fixture(scope="module")
def visionfm():
    """With the golden's levels, which no tensor tells."""
    golden = Golden("vit_unetr.npz")
    model = retfm_jax.from_torch(golden["state"])
    config = dataclasses.replace(model.config.model, levels=tuple(golden.config["levels"]))
    model.method = Segmenter(config)
    return golden, model


def _batch(golden):
    batch = golden.batch()
    masks = batch.pop("mask")
    if masks.ndim == 3:  # a class map: what it shows, one mask for each
        masks = (masks[..., None] == jnp.arange(1, golden.config["classes"])).astype(jnp.uint8)
    return batch | {"masks": masks, "fov": jnp.ones(masks.shape[:3], jnp.uint8)}


@pytest.mark.parametrize(("name", "count"), [("flair", 9), ("visionfm", 8)])
def test_outputs_losses_and_gradients_are_the_published_ones(name, count, request):
    golden, model = request.getfixturevalue(name)
    method, state, batch = model.method, model.state, _batch(golden)
    found = model.features(batch) | model.losses(batch)
    found["logits"] = np.moveaxis(np.asarray(found["logits"]), -1, 1)
    want = {key: value for key, value in golden["out"].items() if not key.endswith("_train")}
    assert len(want) == count
    assert_near(found, want, 2e-5)
    gradient = jax.jit(jax.grad(lambda params: method.loss(params, state, batch)[0]))
    assert_gradients_near(to_state_dict(method, gradient(model.params), state), golden)


@pytest.mark.parametrize("name", ["flair", "visionfm"])
def test_the_state_dict_comes_back_with_its_bits(name, request):
    golden, model = request.getfixturevalue(name)
    assert model.method.name == "segmenter"
    assert_same_bits(retfm_jax.to_torch(model), golden["state"])
    said = " ".join(model.notes)
    assert "called by their number" in said


@pytest.mark.parametrize("config", [VIT, RESNET, CLIP], ids=["vit", "resnet", "clip"])
def test_every_tower_goes_out_and_comes_back(config):
    method = make_method(config.method, config.model)
    params, state = jax.jit(method.init)(jax.random.key(0))
    tensors = to_state_dict(method, params, state)
    model = retfm_jax.from_torch(tensors)
    assert model.method.config.form == dataclasses.replace(
        method.config.form, **({"dropout": 0.3} if config is VIT else {})
    )
    assert_same_bits(retfm_jax.to_torch(model), tensors)


def batch_of(config, rows=8):
    """Discs with cups, which a network can see."""
    size, rng = config.data.image.size, np.random.default_rng(0)
    down, across = np.mgrid[:size, :size]
    images = rng.integers(0, 60, (rows, size, size, 3)).astype(np.uint8)
    masks = np.zeros((rows, size, size, 2), np.uint8)
    for row in range(rows):
        y, x = rng.uniform(10, size - 10, 2)
        distance = np.hypot(down - y, across - x)
        masks[row, ..., 0], masks[row, ..., 1] = distance < 8, distance < 4
        images[row, distance < 8] += 90
        images[row, distance < 4] += 90
    fov = np.ones((rows, size, size), np.uint8)
    fov[:, :, -2:] = 0
    masks[0, ..., 1] = 255
    return {"image": images, "masks": masks, "fov": fov}


def trained(config, steps=3, data=1, fsdp=1, microbatches=1):
    method = make_method(config.method, config.model)
    mesh = make_mesh(MeshConfig(data, fsdp), jax.devices()[: data * fsdp])
    setup = Setup.of(config, method, mesh, horizon=1000)
    step = setup.jit(setup.step(lambda batch, key: prepare(batch, config.data.image), microbatches))
    state, losses = setup.create(), []
    before = jax.tree.map(np.asarray, state.batch_stats)
    batch = place_batch(batch_of(config), mesh)
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, before, state


@pytest.fixture(scope="module")
def learned():
    return trained(VIT, 60)


def test_a_disc_is_found_after_some_steps(learned):
    losses, _, state = learned
    assert losses[-1] < 0.6 * losses[0]
    method = make_method(VIT.method, VIT.model)
    host = batch_of(VIT)
    images = prepare(host, VIT.data.image)["image"]
    params, stats = jax.device_get((state.params, state.batch_stats))
    network_state = jax.jit(method.init)(jax.random.key(0))[1]._replace(batch_stats=stats)
    p = jax.jit(method.pixel_probabilities)(params, network_state, images)
    truth = host["masks"] == 1
    assert p.shape == truth.shape
    assert 0 <= p.min() <= p.max() <= 1
    found = np.asarray(p)[..., 0] > 0.5
    overlap = 2 * (found & truth[..., 0]).sum() / (found.sum() + truth[..., 0].sum())
    assert overlap > 0.6


def test_batch_norms_of_the_decoder_learn_and_those_of_the_tower_stay():
    _, before, state = trained(RESNET, 1)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, state.batch_stats)
    assert all(jax.tree.leaves(moved["decoder"]))
    assert not any(jax.tree.leaves(moved["visual"]))


def test_meshes_change_nothing(learned):
    losses = trained(VIT, 2, data=2, fsdp=2)[0]
    np.testing.assert_allclose(losses, learned[0][:2], rtol=1e-3)
    with pytest.raises(UserError, match="microbatches"):
        trained(VIT, microbatches=2)


@pytest.mark.parametrize("loss", ["dice_ce", "dice_cldice", "exclusive"])
def test_what_is_unknown_or_outside_has_no_gradient(loss):
    config = dataclasses.replace(RESNET.model, loss=loss, erosions=2)
    method = Segmenter(config)
    batch = batch_of(RESNET, rows=2)
    logits = jax.random.normal(jax.random.key(0), (2, 32, 32, config.logits))
    gradient = jax.jit(
        jax.grad(lambda x: method._losses(x, batch["masks"], batch["fov"])["loss_total"].sum())
    )(logits)
    assert (np.asarray(gradient)[:, :, -2:] == 0).all()
    assert np.abs(gradient).max() > 0
    unknown = np.asarray(gradient)[0] if loss == "exclusive" else np.asarray(gradient)[0, ..., 1]
    assert (unknown == 0).all()


def test_the_field_of_view_counts_where_it_is_asked_for():
    batch = prepare(batch_of(RESNET), RESNET.data.image)
    half = batch | {"fov": np.where(np.arange(32)[:, None] < 16, 0, batch["fov"])}
    for within in (True, False):
        method = Segmenter(dataclasses.replace(RESNET.model, loss_within_fov=within))
        params, state = jax.jit(method.init)(jax.random.key(0))
        loss = jax.jit(lambda batch, m=method, p=params, s=state: m.loss(p, s, batch)[0])
        assert (loss(half) != loss(batch)) == within


def test_exclusive_structures_are_numbered_by_the_last_that_is_shown():
    masks = np.array([[[[0, 0], [1, 0], [0, 1], [1, 1], [0, 255], [1, 255]]]], np.uint8)
    np.testing.assert_array_equal(shown(jnp.asarray(masks)), [[[0, 1, 2, 2, -1, -1]]])
    method = Segmenter(dataclasses.replace(RESNET.model, loss="exclusive"))
    p = method.probabilities(jnp.array([[4.0, 0.0, 0.0]]))
    np.testing.assert_allclose(p, [[1 / (np.exp(4) + 2)] * 2], rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (VIT, {"decoder": {"kind": "unet"}}, "decoder unet does not fit this tower, unetr does"),
        (RESNET, {"decoder": {"kind": "unetr"}}, "decoder unetr does not fit this tower"),
        (VIT, {"levels": (0, 1, 1, 2)}, "levels must be four blocks from 0 to 1"),
        (VIT, {"levels": (0, 1)}, "levels must be four blocks"),
        (RESNET, {"levels": (0, 1, 1, 1)}, "levels are those of a vision transformer"),
        (VIT, {"structures": ("disc", "disc")}, "structures names disc twice"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config, changes, message):
    image = dataclasses.asdict(config.model.image)
    image["kind"] = config.model.image.kind
    with pytest.raises(UserError, match=message):
        config_of(image, 32, **changes)


def test_a_file_without_a_decoder_is_no_segmenter(visionfm):
    tower = {k: v for k, v in visionfm[0]["state"].items() if k.startswith("visual.")}
    with pytest.raises(UserError, match="no decoder is found"):
        retfm_jax.from_torch(tower, "segmenter")


def test_the_bundled_config_takes_windows_of_photographs():
    config = load_config("segment")
    method = make_method(config.method, config.model)
    assert method.config.map_levels == (3, 5, 7, 11)
    arrays = get_kind(method.sample_kind).arrays(config)
    assert arrays["masks"].shape == (512, 512, 1)
    assert config.data.masks.geometry == "windows"
    assert config.data.augment.erasing_probability == 0
