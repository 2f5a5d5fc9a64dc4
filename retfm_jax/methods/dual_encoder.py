"""Methods that embed images and texts in one space and compare them over the whole batch."""

import abc
import dataclasses
from typing import Annotated, Any, ClassVar, Literal, Protocol, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from retfm_jax.errors import UserError
from retfm_jax.methods.base import Batch, Method, MethodState, Metrics, Network, Params
from retfm_jax.methods.outputs import (
    TEXT_EMBEDDING,
    LinearMap,
    Output,
    Step,
    TextTower,
    Unit,
    image_outputs,
)
from retfm_jax.methods.towers import (
    ImageTower,
    ImageTowerConfig,
    embed_eyes,
    image_names,
    image_tower,
    text_names,
)
from retfm_jax.models import bert, vit
from retfm_jax.models.layers import Linear, split, unit
from retfm_jax.ranges import Positive, Range, Section

Embeddings = dict[str, Array]


class ImageTextNetwork(Protocol):
    """The network that the default encoding of `DualEncoder` takes.

    Attributes:
      visual: image tower, images -> (embedding, features).
    """

    visual: ImageTower

    def text(
        self, tokens: Int[Array, "b n"], *, keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b d"]:
        """Embeds texts; the embeddings (b, d) are not normalized.

        Args:
          tokens: token ids (b, n) int32, padded with 0.
          keys: randomness of dropout, one key for each text; None drops nothing.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TwoTowersConfig(Section):
    """Sizes of `TwoTowers`.

    Attributes:
      image: sizes of the image tower, whose type chooses it.
      text: sizes of the text tower.
      embed_dim: width of the embeddings.
      dtype: compute type of the towers; parameters stay float32.
      initial_scale: factor on cosines before the first step, the inverse of the temperature.
    """

    image: ImageTowerConfig = dataclasses.field(default_factory=vit.ViTConfig)
    text: bert.BertConfig = dataclasses.field(default_factory=bert.BertConfig)
    embed_dim: Positive = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    initial_scale: Annotated[float, Range(above=0)] = 1 / 0.07


class TwoTowers(nnx.Module):
    """Both towers, a linear projection of the text's first token, and a log-temperature.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: TwoTowersConfig, *, rngs: nnx.Rngs):
        dim, width = config.embed_dim, config.text.width
        self.visual = image_tower(config.image, dim, dtype=config.dtype, rngs=rngs)
        self.bert = bert.Bert(config.text, dtype=config.dtype, rngs=rngs)
        self.text_projection = Linear(width, dim, std=width**-0.5, bias=False, rngs=rngs)
        self.log_scale = nnx.Param(jnp.log(config.initial_scale))

    def text(
        self, tokens: Int[Array, "b n"], *, keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b d"]:
        """Embeds texts, (b, embed_dim) float32, not normalized.

        Args:
          tokens: token ids (b, n) int32, padded with 0, which takes no part.
          keys: randomness of dropout, one key for each text; None drops nothing.
        """
        hidden, _ = self.bert(tokens, keys=keys)
        return self.text_projection(hidden[:, 0].astype(jnp.float32))


def split_keys(
    key: PRNGKeyArray | None, batch: Batch
) -> tuple[Key[Array, " b"] | None, PRNGKeyArray | None]:
    """Splits a step's key into a key for each sample's encoding, (b,), and the objective's.

    Args:
      key: the step's PRNG key; None gives None for both.
      batch: arrays with the sample axis first, of b samples.
    """
    if key is None:
        return None, None
    encode_key, objective_key = jax.random.split(key)
    samples = jnp.arange(len(next(iter(batch.values()))))
    return jax.vmap(jax.random.fold_in, (None, 0))(encode_key, samples), objective_key


class DualEncoder(Method[Network]):
    """A method whose loss is an objective over the embeddings of all samples of a batch.

    `loss` is `objective` after `encode`; the two are separate so that gradient caching can encode a
    large batch in microbatches and still compute one objective over all of it.

    A method may replace any of these. By default its network is `TwoTowers`; the encoding takes any
    `ImageTextNetwork` whose parameters hold a `log_scale`.

    Attributes:
      image_prefix, text_prefix: under which the towers stand among the published names.
    """

    image_prefix: ClassVar[str] = "visual."
    text_prefix: ClassVar[str] = "bert."

    def network(self, rngs: nnx.Rngs) -> Network:
        """Builds `TwoTowers` of the configured sizes, a `TwoTowersConfig`.

        Args:
          rngs: streams of random numbers for the initial parameters.
        """
        return cast(Network, TwoTowers(self.config, rngs=rngs))

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        """Rows as `Method.weight_names` has; by default `visual` and `bert` go by their tables."""
        towers = (
            *image_names(self.config.image, self.image_prefix, "visual/"),
            *text_names(self.text_prefix, "bert/"),
            ("logit_scale", "log_scale", "copy"),
        )
        return (*towers, *self.own_weight_names(towers))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Embeddings and features, by default of `TwoTowers`; see `Method.outputs`."""
        text: tuple[Step, ...] = (TextTower(self.config.text), LinearMap("text_projection"), Unit())
        return (*image_outputs(self.config.image), Output(TEXT_EMBEDDING, text))

    def encode(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Embeddings, dict[str, Any]]:
        """Embeds every sample of a batch or of a microbatch.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          batch: the method's arrays, images NHWC float32 normalized, sample axis first.
          keys: randomness of dropout and patch dropping, one for each sample (`split_keys`), so
            that a sample is computed alike in every microbatch; None computes without any.
          train: batch norms use and update the statistics of the batch.

        Returns:
          the embeddings, sample axis first, and the new batch statistics. By default unit-norm
          `image` and `text`, (b, d) float32, of pairs or of patients, whose image embedding is
          the mean of their eyes'.
        """
        network = cast(ImageTextNetwork, self.bind(params, state.batch_stats))
        image_keys, text_keys = split(keys, 2)
        if "image" in batch:
            image, _ = network.visual(batch["image"], keys=image_keys, train=train)
        else:
            image = embed_eyes(network.visual, batch, image_keys, train).mean(1)
        text = network.text(batch["tokens"], keys=text_keys)
        stats = nnx.to_pure_dict(nnx.state(cast(nnx.Module, network), nnx.BatchStat))
        return {"image": unit(image), "text": unit(text)}, stats

    def _visual(self, params: Params, state: MethodState) -> ImageTower:
        return cast(ImageTextNetwork, self.bind(params, state.batch_stats)).visual

    @abc.abstractmethod
    def objective(
        self,
        params: Params,
        state: MethodState,
        embeddings: Embeddings,
        batch: Batch,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """Computes the loss over the global batch from its embeddings.

        Args:
          params: all parameters, of which the objective reads its own (temperatures, heads).
          state: batch statistics after the encoding, and what the method carries.
          embeddings: what `encode` returned for the whole batch.
          batch: the method's arrays, sample axis first; the objective reads what it needs beside
            the embeddings, such as labels, categories, or which eyes there are.
          key: randomness of the objective itself; None computes without any.

        Returns:
          the loss, () float32, and a pair: its parts by name, each () float32, and the state after
          it.
        """

    def loss(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        key: PRNGKeyArray | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """Computes the `objective` of `encode`; see `Method.loss`."""
        keys, objective_key = split_keys(key, batch)
        embeddings, stats = self.encode(params, state, batch, keys=keys, train=train)
        state = state._replace(batch_stats=stats)
        return self.objective(params, state, embeddings, batch, key=objective_key)

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes embeddings and `scale` under their public names, without dropout."""
        return self.encode(params, state, batch)[0] | {"scale": self.scale(params)}

    def encode_images(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds single images with unit norm, (b, d), comparable with `encode_texts`.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          images: normalized images, NHWC float32.
          keys: see `Method.encode_images`.
        """
        return unit(self._visual(params, state)(images, keys=keys)[0])

    def image_features(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b width"]:
        """Computes the image tower's features of single images, before any projection.

        Returns:
          the features, (b, w) float32, not normalized.
        """
        return self._visual(params, state)(images, keys=keys)[1].astype(jnp.float32)

    def encode_texts(
        self, params: Params, state: MethodState, tokens: Int[Array, "b n"]
    ) -> Float[Array, "b d"]:
        """Embeds tokenized texts with unit norm, (b, d), comparable with `encode_images`.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          tokens: token ids (b, n) int32, padded with 0.
        """
        network = cast(ImageTextNetwork, self.bind(params, state.batch_stats))
        return unit(network.text(tokens))

    def encode_patients(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Embeds the images of patients, of both eyes and of each.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          batch: `image_left`, `image_right` (b, h, w, 3) float32 normalized and, where eyes are
            missing, `has_left`, `has_right` (b,) bool; see `towers.embed_eyes`.

        Returns:
          unit-norm `image_patient`, `image_left`, `image_right`, each (b, d).
        """
        eyes = embed_eyes(self._visual(params, state), batch, None, False)
        levels = {"patient": eyes.mean(1), "left": eyes[:, 0], "right": eyes[:, 1]}
        return {f"image_{level}": unit(embedding) for level, embedding in levels.items()}

    def encode_reports(
        self, params: Params, state: MethodState, tokens: Int[Array, "b n"]
    ) -> dict[str, Array]:
        """Embeds patients' reports for comparison with `encode_patients`.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          tokens: token ids (b, n) int32 of the patients' reports, padded with 0.

        Returns:
          unit-norm `text_patient`, `text_left`, `text_right`, each (b, d).
        """
        text = self.encode_texts(params, state, tokens)
        return dict.fromkeys(("text_patient", "text_left", "text_right"), text)

    def scale(self, params: Params) -> Float[Array, ""]:
        """Factor () on cosines of `encode_images` and `encode_texts` before a softmax.

        Args:
          params: all parameters, a nested dict.
        """
        return jnp.exp(params["log_scale"])


def as_dual_encoder(method: Method, what: str) -> DualEncoder:
    """Returns the method itself where it embeds images and texts.

    Args:
      method: any method.
      what: name of what needs such a method, as a sentence begins; for the message.

    Raises:
      UserError: the method is no `DualEncoder`.
    """
    if not isinstance(method, DualEncoder):
        raise UserError(f"{what} takes a method that embeds images and texts, not {method.name}")
    return method
