"""MAE is the published network, and its masks belong to the photographs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from golden_files import Golden, assert_gradients_near, assert_near, assert_same_bits

import retfm_jax
from retfm_jax.config import InitConfig, MeshConfig, from_dict
from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.interop.initial import initial_network
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.losses.masked_image import masked_error, patchify, split_patches
from retfm_jax.methods import make_method
from retfm_jax.models import vit
from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training.optimizers import decay_mask
from retfm_jax.training.setup import Setup
from retfm_jax.trees import flatten

CONFIG = from_dict(
    {
        "method": "mae",
        "model": {
            "image": {
                "size": "MAE-B/16", "image_size": 32, "patch_size": 8, "width": 32, "layers": 2,
                "heads": 2, "pooling": "mean",
            },
            "decoder": {"width": 16, "layers": 1, "heads": 2},
        },
        "data": {"image": {"size": 32}},
        "train": {"batch_size": 8},
        "optimizer": {"decay": "matrices", "weight_decay": 0.05},
    }
)  # fmt: skip
METHOD = make_method(CONFIG.method, CONFIG.model)


@pytest.fixture(scope="module")
def golden():
    return Golden("mae_vit.npz")


@pytest.fixture(scope="module")
def model(golden):
    return retfm_jax.from_torch(golden["state"], "mae", text_num_heads=golden.config["heads"])


def test_sizes_come_from_the_tensors(golden, model):
    config, want = model.config.model, golden.config
    assert config.image.grid == want["image_size"] // want["patch_size"]
    assert (config.image.width, config.image.layers) == (want["width"], want["depth"])
    assert dataclasses.astuple(config.decoder)[:3] == (
        want["decoder_width"], want["decoder_depth"], want["decoder_heads"],
    )  # fmt: skip


def test_outputs_and_losses_are_the_published_ones(golden, model):
    found = model.features(golden.batch()) | model.losses(golden.batch())
    named = {name: value for name, value in golden["out"].items() if name in found}
    assert len(named) == 8
    assert_near(found, named, 2e-5)


def test_gradients_are_the_published_ones(golden, model):
    method, state, batch = model.method, model.state, golden.batch()
    gradient = jax.jit(jax.grad(lambda params: method.loss(params, state, batch)[0]))
    assert_gradients_near(to_state_dict(method, gradient(model.params), state), golden)


def test_the_state_dict_comes_back_with_its_bits(golden, model):
    assert_same_bits(retfm_jax.to_torch(model), golden["state"])


def test_positions_are_the_published_sines_and_cosines(golden):
    grid = golden.config["image_size"] // golden.config["patch_size"]
    for name, width in (("", "width"), ("decoder_", "decoder_width")):
        ours = vit.sine_cosine_positions(grid, golden.config[width], class_row=True)
        np.testing.assert_allclose(ours, golden["out"][f"sincos_{name}pos_embed"], atol=2e-6)


def test_features_of_whole_images_are_those_of_the_norm_that_follows(golden, model):
    pooled = model.method.image_features(model.params, model.state, golden.batch()["image"])
    assert_near({"a": np.asarray(pooled)}, {"a": golden["out"]["features_global"]}, 2e-5)


def _batch():
    pixels = get_kind(METHOD.sample_kind).random_batch(CONFIG, 8, seed=0)["image"]
    return {"image": (pixels / 128 - 1).astype(np.float32)}


def test_a_mask_belongs_to_its_photograph():
    params, state = jax.jit(METHOD.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 8)
    losses = jax.jit(lambda b, k: METHOD.sample_losses(params, state, b, keys=k)["loss_total"])
    whole = losses(_batch(), keys)
    order = np.random.default_rng(0).permutation(8)
    turned = losses({"image": _batch()["image"][order]}, keys[order])
    np.testing.assert_allclose(turned, whole[order], rtol=1e-5)
    assert not np.allclose(losses(_batch(), keys[order]), whole)


def test_only_visible_patches_are_encoded():
    params, state = jax.jit(METHOD.init)(jax.random.key(0))
    batch = _batch() | {"noise": np.random.default_rng(0).random((8, 16)).astype(np.float32)}
    found = METHOD.features(params, state, batch)
    assert found["latent"].shape == (8, 1 + 4, 32)
    hidden = np.asarray(found["mask"], bool)
    assert (hidden.sum(1) == 12).all()
    images = np.array(batch["image"])
    for index in range(8):
        row, column = divmod(int(np.flatnonzero(hidden[index])[0]), 4)
        images[index, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 9.0
    other = METHOD.features(params, state, batch | {"image": images})
    np.testing.assert_array_equal(other["latent"], found["latent"])


def _trained(microbatches, data, fsdp):
    mesh = make_mesh(MeshConfig(data, fsdp), jax.devices()[: data * fsdp])
    setup = Setup.of(CONFIG, METHOD, mesh, horizon=10)
    step = setup.jit(setup.step(lambda batch, key: batch, microbatches))
    state, losses = setup.create(), []
    before = jax.tree.map(np.asarray, state.params)
    for _ in range(3):
        state, metrics = step(state, place_batch(_batch(), mesh))
        losses.append(float(metrics["loss"]))
    return losses, before, jax.tree.map(np.asarray, state.params)


def test_microbatches_and_meshes_change_nothing_and_positions_stay():
    losses, before, after = _trained(1, 1, 1)
    assert losses[2] < losses[0]
    np.testing.assert_allclose(_trained(2, 2, 2)[0], losses, rtol=1e-4)
    before, after = flatten(before), flatten(after)
    stays = {name for name in before if np.array_equal(before[name], after[name])}
    assert stays == {"visual/position_embedding", "decoder/position_embedding"}


def test_matrices_are_decayed_and_biases_norms_and_scales_are_not():
    params, _ = jax.eval_shape(METHOD.init, jax.random.key(0))
    decayed = flatten(decay_mask(METHOD, params, "matrices"))
    for name, decays in decayed.items():
        token = name.endswith(("class_embedding", "mask_token", "position_embedding"))
        assert decays == (name.endswith("kernel") or token), name


def test_the_error_is_its_equation():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    hidden = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], np.float32)
    want = [
        np.mean([np.mean((p - t) ** 2) for p, t, h in zip(ps, ts, hs, strict=True) if h])
        for ps, ts, hs in zip(prediction, target, hidden, strict=True)
    ]
    np.testing.assert_allclose(masked_error(prediction, target, hidden), want, rtol=1e-5)


@pytest.mark.wrong_arguments
def test_shapes_that_do_not_fit_together_are_named():
    with pytest.raises(UserError, match="hidden"):
        masked_error(jnp.ones((3, 5, 4)), jnp.ones((3, 5, 4)), jnp.ones((2, 5)))


def test_patches_are_cut_row_by_row_and_split_by_their_noise():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    patches = patchify(images, 2)
    np.testing.assert_array_equal(patches[1, 2], images[1, 2:, :2].ravel())
    noise = jnp.asarray([[0.3, 0.1, 0.9, 0.2]])
    kept, restore, hidden = split_patches(noise, 2)
    np.testing.assert_array_equal(kept, [[1, 3]])
    np.testing.assert_array_equal(restore, [[2, 0, 3, 1]])
    np.testing.assert_array_equal(hidden, [[1, 0, 1, 0]])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"positions": "rope"}, "needs positions"),
        ({"registers": 2}, "takes no registers"),
        ({"patch_dropout": 0.1}, "takes no registers or patch_dropout"),
    ],
)
def test_forms_without_published_counterpart_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG.model, image=dataclasses.replace(CONFIG.model.image, **image))


@pytest.mark.parametrize("decoder", [True, False], ids=["whole", "encoder alone"])
def test_a_pretraining_file_is_continued(golden, model, tmp_path, decoder):
    """As RETFound's: the decoder goes on where the file has it, and begins anew where not."""
    state = {
        name: torch.from_numpy(np.array(value))
        for name, value in golden["state"].items()
        if not name.startswith("fc_norm")
        and (decoder or not name.startswith(("decoder_", "mask_token")))
    }
    path = tmp_path / "pretrained.pth"
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 799}, path)
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(model.config.model, fc_norm=False),
        init=InitConfig(**{"weights" if decoder else "image": str(path)}),
    )
    method = make_method(config.method, config.model)
    continued = to_state_dict(method, *initial_network(config, method))
    assert_same_bits(
        {name: continued[name] for name in state},
        {name: value.numpy() for name, value in state.items()},
    )
    assert any(name.startswith("decoder_blocks.") for name in continued)
