"""Fine-tuning: the image tower of any method and a linear head, at two learning rates.

The tower is trained as a whole, the first layers slower where asked for, or by low-rank updates.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from retfm_jax.data.device_augment import prepare
from retfm_jax.data.images import decode, fit, training_image
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.options import FineTuneConfig, Options
from retfm_jax.evaluation.protocols.adapters import batches, classification_loss, scores
from retfm_jax.evaluation.protocols.few_shot import Shots
from retfm_jax.evaluation.protocols.supervised import SupervisedProtocol, supervised
from retfm_jax.evaluation.study import Study
from retfm_jax.methods.base import Method, Params
from retfm_jax.models.vit import ViTConfig
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.threads import cores, in_threads
from retfm_jax.training.optimizers import Partition, layer_factors, scale_layers
from retfm_jax.trees import flatten

#: Batches of images that are made ready ahead of the step.
_AHEAD = 4


class _Fixed(NamedTuple):
    """What training does not move.

    Attributes:
      params: parameters that stay.
      kernels: those that low-rank updates are added to.
    """

    params: Params
    kernels: Params


class FineTuning:
    """A network with a linear head over its image embedding, compiled once for all folds.

    The head works on `Method.encode_images`, times the model's logit scale so that its unit-norm
    input spans as much as the classes' texts do. Batch norms keep their running statistics: the
    support can be a handful of images.
    """

    def __init__(self, model: Any, config: FineTuneConfig, classes: int, exclusive: bool):
        """Makes the compiled functions.

        Args:
          model: a `RetinalModel`.
          config: the recipe.
          classes: outputs of the head.
          exclusive: trains a softmax, else a sigmoid for each class.

        Raises:
          UserError: branches are to be left out of a network that has none.
        """
        self._model, self._config, self._exclusive = model, config, exclusive
        self._classes = classes
        self._data, self._scale = model.data_config, model.logit_scale
        self._method = model.method
        if config.drop_path is not None:
            self._method = _dropping(model.method, config.drop_path)
        self._optimizer = optax.chain(
            optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay)
        )
        self._step = jax.jit(self._update, donate_argnums=(0, 1))
        self._logits = jax.jit(lambda p, fixed, images: self._forward(p, fixed, images, None))

    def _forward(
        self, params: Any, fixed: "_Fixed", images: Array, key: Array | None
    ) -> Float[Array, "b classes"]:
        augment = None if key is None else self._data.augment
        pixels = prepare({"image": images}, self._data.image, augment, key)["image"]
        partition = self._partition
        trained = partition.low_rank.effective(params["backbone"], {"base": fixed.kernels})
        backbone = partition.merge(trained, fixed.params)
        random = {}
        if key is not None and self._config.drop_path is not None:
            random["keys"] = jax.random.split(jax.random.fold_in(key, 1), len(images))
        features = self._method.encode_images(backbone, self._model.state, pixels, **random)
        return self._scale * features @ params["kernel"] + params["bias"]

    @property
    def _embedded(self) -> jax.ShapeDtypeStruct:
        """Shape of one image's embedding, (1, d)."""
        size = self._data.image.size
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        encode = self._model.method.encode_images
        return jax.eval_shape(encode, self._model.params, self._model.state, image)

    @functools.cached_property
    def _used(self) -> frozenset[str]:
        """Paths of the parameters that image embeddings depend on: the others have no gradient."""
        size = self._data.image.size
        noise = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)

        @jax.jit
        def gradient(params: Any) -> Any:
            def total(params: Any) -> Array:
                found = self._model.method.encode_images(params, self._model.state, noise)
                return (found * jnp.arange(1.0, found.shape[1] + 1)).sum()

            return jax.tree.map(lambda leaf: jnp.any(leaf != 0), jax.grad(total)(params))

        moved = flatten(gradient(self._model.params))
        return frozenset(path for path, moves in moved.items() if moves)

    @functools.cached_property
    def _partition(self) -> Partition:
        """Which parameters are trained: those of the image side alone, or updates of them."""
        params = self._model.params
        partition = Partition(tuple(path for path in flatten(params) if path not in self._used))
        lora = self._config.lora
        return partition if lora is None else partition.with_low_rank(lora, params)

    @property
    def _fixed(self) -> "_Fixed":
        params = self._model.params
        return _Fixed(self._partition.split(params)[1], self._partition.low_rank.base(params))

    def _update(
        self,
        params: Any,
        state: Any,
        fixed: "_Fixed",
        batch: tuple[Array, ...],
        key: Array,
        progress: Float[Array, ""],
    ) -> tuple[Any, Any, Array]:
        """One step of AdamW; `progress` runs from 0 to 1 over the training."""
        images, labels, weights = batch

        def loss(params: Any) -> Array:
            logits = self._forward(params, fixed, images, key)
            return classification_loss(logits, labels, weights, self._exclusive)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = self._optimizer.update(gradient, state, params)
        updates, decay = cast(dict[str, Any], updates), self._config.layer_decay
        if decay is not None:
            backbone = updates["backbone"]
            factors = layer_factors(self._method, backbone, decay)
            updates = updates | {"backbone": scale_layers(backbone, factors)}
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        head = self._config.head_learning_rate * cosine
        rates = {
            "backbone": self._config.backbone_learning_rate * cosine,
            "kernel": head,
            "bias": head,
        }
        moved = {
            part: jax.tree.map(
                lambda p, u, rate=rates[part]: p - rate * u, params[part], part_updates
            )
            for part, part_updates in updates.items()
        }
        return moved, state, value

    def fit(
        self,
        source: RecordSource,
        rows: Sequence[int],
        labels: Int[np.ndarray, "n classes"],
        seed: int = 0,
        progress: bool = True,
    ) -> dict[str, Any]:
        """Trains backbone and head from the model's weights on.

        Args:
          source: of single images.
          rows: positions of the support's images in the source (n).
          labels: of these, multi-hot (n, classes) integers, -1 where unknown.
          seed: of the order and the augmentation.
          progress: whether a progress bar is shown.

        Returns:
          the trained parameters, for `predict`: `backbone`, `kernel` and `bias`.
        """
        config = self._config
        order, weights = batches(len(rows), config.epochs, config.batch_size, seed)
        key = jax.random.key(seed)
        fixed, low_rank = self._fixed, self._partition.low_rank
        adapters = low_rank.init(jax.random.split(key)[0], self._model.params)
        backbone = self._partition.variables(self._model.params, adapters)
        width = self._embedded.shape[1]
        params = {
            "backbone": jax.tree.map(jnp.array, backbone),
            "kernel": jnp.zeros((width, self._classes)),
            "bias": jnp.zeros(self._classes),
        }
        state = self._optimizer.init(params)
        make = functools.partial(self._augmented, source, rows, order, seed)
        with in_threads(make, range(len(order)), threads=cores(), ahead=_AHEAD) as pictures:
            bar = progress_bar(
                pictures, "fine-tuning", len(order), unit="step", disable=not progress
            )
            for step, images in enumerate(bar):
                batch = images, labels[order[step]], weights[step]
                step_key = jax.random.fold_in(key, step)
                params, state, loss = self._step(
                    params, state, fixed, batch, step_key, step / len(order)
                )
                if step % 10 == 0:
                    bar.set_postfix(loss=f"{float(loss):.3f}")
        return params

    def _augmented(
        self, source: RecordSource, rows: Sequence[int], order: np.ndarray, seed: int, step: int
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Decoded and augmented images of a step."""
        pictures = []
        for position, row in enumerate(order[step]):
            generator = np.random.default_rng((seed, step, position))
            record = source[int(rows[row])]
            augment = self._data.augment
            mirror = augment.flip != "none" and generator.random() < 0.5
            pictures.append(
                training_image(
                    record.image,
                    record.record_id,
                    self._data.image,
                    augment,
                    generator,
                    mirror=bool(mirror),
                )
            )
        return np.stack(pictures)

    def predict(self, params: dict[str, Any], source: RecordSource) -> Float[np.ndarray, "n c"]:
        """Scores every image of a source.

        Args:
          params: as `fit` returns them.
          source: of single images, at least one.

        Returns:
          probabilities where classes exclude each other, else logits, (n, classes).
        """
        size = self._config.batch_size

        def make(batch: int) -> np.ndarray:
            pictures = []
            for row in range(batch * size, min((batch + 1) * size, len(source))):
                record = source[row]
                image = decode(record.image, record.record_id)
                pictures.append(fit(image, self._data.image))
            return np.stack(pictures + pictures[-1:] * (size - len(pictures)))

        count, fixed = -(-len(source) // size), self._fixed
        with in_threads(make, range(count), threads=cores(), ahead=_AHEAD) as pictures:
            logits = [self._logits(params, fixed, images) for images in pictures]
        return scores(jnp.concatenate(logits)[: len(source)], self._exclusive)


def _dropping(method: Method, rate: float) -> Method:
    """The method whose image tower leaves out branches where it gets keys, and no patches."""
    image = method.config.image
    if not isinstance(image, ViTConfig):
        raise UserError(
            f"drop_path: the image tower of {method.name} has no branches that could be left out; "
            "only vision transformers have"
        )
    image = dataclasses.replace(image, drop_path=rate, patch_dropout=0.0)
    return type(method)(dataclasses.replace(method.config, image=image))


def fine_tuning(study: Study) -> FineTuning:
    """Makes the network of a study, which is compiled once for all shots and folds.

    Args:
      study: with labels to learn from.
    """
    shared = study.once(supervised)
    recipe = study.options.fine_tune
    return FineTuning(shared.model, recipe, len(shared.names), shared.exclusive)


class FineTune(SupervisedProtocol):
    """Full fine-tuning of the image tower, scored without augmentation."""

    name, title = "fine_tune", "fine-tuning"

    def folds(self, study: Study, shots: Shots) -> Iterator[tuple[int, Predictions]]:
        shared, network = study.once(supervised), study.once(fine_tuning)
        for seed, rows in shared.folds(shots, study.options.folds):
            chosen = [shared.train.rows[row] for row in rows]
            params = network.fit(shared.train.source, chosen, shared.train.labels[rows], seed)
            scores = network.predict(params, shared.test.chosen)
            yield len(rows), shared.predictions(scores)

    def settings(self, options: Options) -> Mapping[str, Any]:
        return {**super().settings(options), "fine_tune": dataclasses.asdict(options.fine_tune)}
