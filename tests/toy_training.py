"""A method small enough to train in a second, with everything that training must carry.

It has towers of stacked layers, dropout, a temperature, momentum copies and a queue. Run as a
script, it trains in a process of its own: `python toy_training.py WORKDIR --steps 20`.
"""

import argparse
import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from retfm_jax import files
from retfm_jax.config import ExperimentConfig, MeshConfig, OptimizerConfig, TrainConfig
from retfm_jax.methods.dual_encoder import DualEncoder
from retfm_jax.models.layers import dropout, split
from retfm_jax.runtime import distributed
from retfm_jax.runtime.mesh import place_batch
from retfm_jax.training import loop
from retfm_jax.training.padding import cut_padding

BATCH = 16
WIDTH = 64
QUEUE = 32


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """Sizes of the toy."""

    width: int = WIDTH
    dropout: float = 0.1


class _Tower(nnx.Module):
    def __init__(self, inputs, width, rngs):
        draw = nnx.initializers.normal(0.1)
        self.embed = nnx.Param(draw(rngs.params(), (inputs, width)))
        self.blocks = nnx.Module()
        self.blocks.kernel = nnx.Param(draw(rngs.params(), (2, width, width)))
        self.ln_bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x, rate, keys):
        x = x @ self.embed
        for kernel, layer_keys in zip(self.blocks.kernel, split(keys, 2), strict=True):
            x = dropout(x + jnp.tanh(x @ kernel), rate, layer_keys)
        x = x + self.ln_bias
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


class _Network(nnx.Module):
    def __init__(self, config, rngs):
        self.visual = _Tower(48, config.width, rngs)
        self.text = _Tower(12, config.width, rngs)
        self.logit_scale = nnx.Param(jnp.asarray(2.0))
        self.leftover = nnx.Param(jnp.ones(3))


def _words(tokens):
    """How often each word stands in a text; 0 is padding."""
    return (jax.nn.one_hot(tokens, 12) * (tokens != 0)[..., None]).sum(1) / 5


class Toy(DualEncoder):
    """InfoNCE between images and texts, with a queue of momentum text embeddings."""

    name = "toy"
    config_class = ToyConfig
    default_experiment = ""
    sample_kind = "image"
    untrained = ("leftover",)

    def network(self, rngs):
        return _Network(self.config, rngs)

    @property
    def weight_names(self):
        towers = [
            row
            for tower in ("visual", "text")
            for row in (
                (f"{tower}.embed.weight", f"{tower}/embed", "linear"),
                (f"{tower}.blocks.{{n}}.weight", f"{tower}/blocks/kernel", "linear"),
                (f"{tower}.ln_post.shift", f"{tower}/ln_bias", "copy"),
            )
        ]
        return (
            *towers,
            ("logit_scale", "logit_scale", "copy"),
            ("pooler.weight", "leftover", "copy"),
        )

    def init_carry(self, params, batch_stats):
        return {"momentum": {"text": params["text"]}, "queue": jnp.zeros((QUEUE, WIDTH))}

    def encode(self, params, state, batch, *, keys=None, train=False):
        network = self.bind(params, state.batch_stats)
        image_keys, text_keys = split(keys, 2)
        rate = self.config.dropout
        image = network.visual(batch["image"].reshape(-1, 48), rate, image_keys)
        text = network.text(_words(batch["tokens"]), rate, text_keys)
        params = params | {"text": state.carry["momentum"]["text"]}
        momentum = self.bind(params, state.batch_stats)
        later = momentum.text(_words(batch["tokens"]), rate, None)
        return {"image": image, "text": text, "momentum": later}, state.batch_stats

    def objective(self, params, state, embeddings, batch, *, key=None):
        texts = jnp.concatenate([embeddings["text"], state.carry["queue"]])
        logits = jnp.exp(params["logit_scale"]) * embeddings["image"] @ texts.T
        loss = -jnp.mean(jnp.diag(jax.nn.log_softmax(logits)))
        queue = jnp.concatenate([jax.lax.stop_gradient(embeddings["momentum"]), texts[BATCH:]])
        carry = state.carry | {"queue": queue[:QUEUE]}
        return loss, (
            {"accuracy": jnp.mean(jnp.argmax(logits, 1) == jnp.arange(BATCH))},
            state._replace(carry=carry),
        )

    def after_update(self, params, state):
        momentum = jax.tree.map(
            lambda old, new: 0.9 * old + 0.1 * new, state.carry["momentum"]["text"], params["text"]
        )
        params = params | {"logit_scale": jnp.clip(params["logit_scale"], 0, 2.1)}
        return params, state._replace(carry=state.carry | {"momentum": {"text": momentum}})

    def features(self, params, state, batch):
        return self.encode(params, state, batch)[0]

    def encode_images(self, params, state, images):
        raise NotImplementedError

    def encode_texts(self, params, state, tokens):
        raise NotImplementedError

    @classmethod
    def infer_config(cls, shapes, text_num_heads):
        return ToyConfig()


class Batch(NamedTuple):
    """What the pipeline's iterator yields."""

    arrays: dict[str, np.ndarray]
    record_ids: list[str]
    index: int


def batches(start: int, bad: int | None = None) -> Iterator[Batch]:
    """This process's part of the global batches; images of the batch `bad` are not finite."""
    index = start
    while True:
        rng = np.random.default_rng(index)
        arrays = {
            "image": rng.normal(size=(BATCH, 4, 4, 3)).astype(np.float32),
            "tokens": rng.integers(1, 12, (BATCH, 6)).astype(np.int32),
        }
        # All texts are short, but for the last one of every other batch.
        arrays["tokens"][: BATCH - index % 2, 3:] = 0
        if index == bad:
            arrays["image"][3] = np.nan
        part = slice(
            jax.process_index() * BATCH // jax.process_count(),
            (jax.process_index() + 1) * BATCH // jax.process_count(),
        )
        ids = [f"patient-{index}-{row}" for row in range(BATCH)]
        yield Batch({name: array[part] for name, array in arrays.items()}, ids[part], index)
        index += 1


def prepare(batch, key):
    """A little noise, as augmentation on the device makes it."""
    noise = 0.01 * jax.random.normal(key, batch["image"].shape)
    return batch | {"image": batch["image"] + noise}


def toy_data(bad: int | None = None, signals: dict[int, str] | None = None) -> loop.TrainingData:
    """The toy's data.

    Args:
      bad: index of a batch whose images are not finite.
      signals: by index of a batch, a signal that the process gets before that batch.
    """

    def opened(start, mesh):
        placed = (
            batch._replace(arrays=place_batch(batch.arrays, mesh)) for batch in batches(start, bad)
        )
        for batch in cut_padding(placed, 3):
            if batch.index in (signals or {}):
                os.kill(os.getpid(), signal.Signals[signals[batch.index]])
            yield batch

    return loop.TrainingData(
        open=opened,
        prepare=prepare,
        identity={"source": "toy"},
        steps_in=lambda epochs: 10 * epochs,
    )


def toy_config(
    steps: int, mesh: tuple[int, int] = (-1, 1), microbatches: int = 1, every: int = 5, **optimizer
) -> ExperimentConfig:
    """An experiment with the toy."""
    return ExperimentConfig(
        method="toy",
        model=ToyConfig(),
        optimizer=OptimizerConfig(
            **{"learning_rate": 1e-2, "warmup_steps": 3, "weight_decay": 0.1} | optimizer
        ),
        mesh=MeshConfig(*mesh),
        train=TrainConfig(
            batch_size=BATCH,
            steps=steps,
            microbatches=microbatches,
            log_every=1,
            evaluate_every=0,
            checkpoint_every=every,
        ),
    )


def toy_run(workdir: Path, config: ExperimentConfig, bad=None, signals=None, evaluate=None):
    """Trains the toy."""
    data = toy_data(bad, signals)
    return loop.run(config, workdir, Toy(config.model), data, evaluate=evaluate)


def flat(tree) -> dict[str, np.ndarray]:
    """Leaves by path, on the host."""
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=files.as_path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--signal", default="SIGKILL")
    arguments = parser.parse_args()
    distributed.start(timeout=60)
    config = toy_config(arguments.steps, every=3)
    data = toy_data(signals={arguments.kill_at: arguments.signal})
    state = loop.run(config, arguments.workdir, Toy(config.model), data)
    if jax.process_index() == 0:
        with files.atomic_write(arguments.workdir / "final.npz", "wb") as file:
            np.savez(file, **flat(jax.device_get(state.params)))


if __name__ == "__main__":
    _main()
