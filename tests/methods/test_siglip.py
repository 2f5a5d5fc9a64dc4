"""SigLIP trains by what every method has: kinds of samples, Setup, gradient caching, meshes."""

import textwrap

import jax
import numpy as np
import pytest
from toy_training import flat

from retfm_jax.benchmarks.step import Trainer
from retfm_jax.config import MeshConfig, load_config
from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.interop.state_dict import from_state_dict, normalize, to_state_dict
from retfm_jax.methods import get_method_class, make_method
from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition
from retfm_jax.training.setup import Setup

TINY = [
    'model.image={"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "heads": 2}',
    'model.text={"vocab_size": 60, "width": 16, "layers": 1, "heads": 2, "mlp_width": 16}',
    *("model.embed_dim=8", "model.dtype=float32", "data.image.size=32", "train.batch_size=16"),
    *("data.text.context_length=6", "train.steps=10", "optimizer.learning_rate=1e-2"),
    "optimizer.warmup_steps=1",
]


def tiny(samples="pair", *more):
    config = load_config("siglip_vit_b16", [*TINY, f"model.samples={samples}", *more])
    return config, make_method(config.method, config.model)


def batch_of(config, method):
    """A batch as the step takes it, of whose patients some have one eye."""
    arrays = get_kind(method.sample_kind).random_batch(config, 16, seed=0)
    for name in arrays:
        if name.startswith("image"):
            arrays[name] = (arrays[name] / 128 - 1).astype(np.float32)
    if "has_left" in arrays:
        arrays["has_left"][3] = arrays["has_right"][5] = False
    return arrays


def test_three_steps_on_a_mesh_equal_those_on_one_device():
    states, losses = [], []
    for sizes in ((1, 1), (4, 2)):
        config, method = tiny("patient", f"model.groups={sizes[0] * sizes[1]}")
        mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: sizes[0] * sizes[1]])
        setup = Setup.of(config, method, mesh, horizon=10)
        state, step = setup.create(), setup.jit(setup.step(lambda batch, key: batch))
        batch = place_batch(batch_of(config, method), mesh)
        losses.append([])
        for _ in range(3):
            state, metrics = step(state, batch)
            losses[-1].append(float(metrics["loss"]))
        states.append(flat(jax.device_get(state.params)))
    assert losses[0][2] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    # Adam divides by the gradient's size, so that an entry of rounding alone moves as any other.
    moved = np.concatenate([(states[1][path] - states[0][path]).ravel() for path in states[0]])
    assert np.mean(np.abs(moved) > 1e-4) < 0.01


def test_microbatches_equal_the_whole():
    config, method = tiny()
    params, state = jax.jit(method.init)(jax.random.key(0))
    batch = batch_of(config, method)

    def compute(parts):
        arguments = method, Partition(), params, state, batch, jax.random.key(1), parts
        return jax.jit(lambda: loss_and_gradients(*arguments)[::3])()

    for ours, theirs in zip(map(flat, compute(4)), map(flat, compute(1)), strict=True):
        for path, leaf in theirs.items():
            np.testing.assert_allclose(ours[path], leaf, atol=1e-5, err_msg=path)


def test_a_missing_eye_changes_nothing_and_a_patient_is_the_mean_of_the_eyes():
    config, method = tiny("patient")
    params, state = jax.jit(method.init)(jax.random.key(0))
    batch = batch_of(config, method)
    embedded, _ = method.encode(params, state, batch)
    other = batch | {"image_left": batch["image_left"].copy()}
    other["image_left"][3] = 7
    again, _ = method.encode(params, state, other)
    np.testing.assert_array_equal(again["image"], embedded["image"])
    levels = method.encode_patients(params, state, batch)
    np.testing.assert_allclose(levels["image_patient"], embedded["image"], atol=1e-6)
    np.testing.assert_allclose(levels["image_left"][3], levels["image_right"][3], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedded["text"], axis=1), 1, atol=1e-6)


def test_weights_go_out_and_come_back_with_towers_under_published_names():
    _, method = tiny()
    params, state = jax.jit(method.init)(jax.random.key(0))
    tensors = to_state_dict(method, params, state)
    assert {"visual.conv1.weight", "bert.embeddings.word_embeddings.weight"} <= tensors.keys()
    assert {"text_projection.weight", "logit_scale", "bias"} <= tensors.keys()
    back, _ = from_state_dict(method, normalize(tensors))
    for path, leaf in flat(params).items():
        np.testing.assert_array_equal(flat(back)[path], leaf, err_msg=path)


def test_the_bench_measures_it():
    config, _ = tiny("patient")
    trainer = Trainer(config, devices=jax.devices()[:1])
    assert trainer.kind.unit == "patients"
    assert np.isfinite(trainer.run(trainer.compile().compiled))
    assert trainer.model_flops() > 0


def test_a_method_from_outside_the_package_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(
        textwrap.dedent(
            """
            from retfm_jax.methods.siglip import Siglip

            class Softer(Siglip):
                name = "softer"

                def objective(self, *arguments, **options):
                    loss, more = super().objective(*arguments, **options)
                    return loss / 2, more

            other = 1
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config("siglip_vit_b16", [*TINY, "method=my_lab:Softer"])
    method = make_method(config.method, config.model)
    _, plain = tiny()
    params, state = jax.jit(method.init)(jax.random.key(0))
    batch = batch_of(config, method)
    ours, theirs = (each.loss(params, state, batch)[0] for each in (method, plain))
    np.testing.assert_allclose(2 * ours, theirs, rtol=1e-6)
    for name, said in (
        ("my_lab:Harder", "no class 'Harder'"),
        ("my_lab:other", "no class 'other'"),
        ("no_lab:Softer", "cannot be imported"),
        (":Softer", "cannot be imported"),
        ("siglop", "did you mean 'siglip'"),
    ):
        with pytest.raises(UserError, match=said):
            get_method_class(name)
