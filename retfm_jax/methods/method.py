"""What every published system offers to training, evaluation and interop."""

import abc
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PRNGKeyArray

from retfm_jax.models.layers import gathered

Params = dict[str, Any]
Batch = dict[str, Array]
Embeddings = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]
#: What a method's `network` builds.
Network = TypeVar("Network", bound=nnx.Module)


class MethodState(NamedTuple):
    """What a method keeps between steps beside its parameters.

    Attributes:
      batch_stats: running statistics of batch norms, as a nested dict ({} without any).
      carry: what the method itself carries: momentum parameters and queues ({} without any).
    """

    batch_stats: dict[str, Any]
    carry: dict[str, Any]


def split_key(
    key: PRNGKeyArray | None, batch: Batch
) -> tuple[Key[Array, " b"] | None, PRNGKeyArray | None]:
    """A step's key -> a key for each sample's encoding, and the objective's; None passes on."""
    if key is None:
        return None, None
    encode_key, objective_key = jax.random.split(key)
    samples = jnp.arange(len(next(iter(batch.values()))))
    return jax.vmap(jax.random.fold_in, (None, 0))(encode_key, samples), objective_key


class Method(abc.ABC, Generic[Network]):
    """A published system: its network, the batch it eats, its objective and its tensor names.

    All methods are pure: parameters and state go in as nested dicts of arrays and come out again.
    `loss` is `objective` after `encode`; the two are separate so that gradient caching can divide
    the encoding of a large batch and still compute one objective over all of it.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    #: The bundled experiment whose preprocessing belongs to the published weights.
    default_experiment: ClassVar[str]
    #: What one training sample is; "category" has an expert stream beside it.
    sample_kind: ClassVar[Literal["patient", "image", "category"]]
    #: Under which prefixes the towers stand among the published names.
    image_prefix: ClassVar[str] = "visual."
    text_prefix: ClassVar[str] = "bert."
    #: Path prefixes of parameters that exist in published files but take no part in any loss.
    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any):
        self.config = config
        abstract = nnx.eval_shape(lambda: self.network(nnx.Rngs(0)))
        self._graphdef, self._abstract_params, self._abstract_stats = nnx.split(
            abstract, nnx.Param, nnx.BatchStat
        )

    @abc.abstractmethod
    def network(self, rngs: nnx.Rngs) -> Network:
        """Builds the towers and heads with random parameters."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[tuple[str, str, str], ...]:
        """Rows of (published name, our path, transform); see `interop.state_dict`."""

    @property
    def ignores_padding(self) -> bool:
        """Whether padding behind a text takes no part in its embedding, so that it may be cut."""
        return False

    @property
    def image_size(self) -> int | None:
        """Height and width that the network is made for; None: any."""
        return getattr(self.config.image, "image_size", None)

    def init(self, key: PRNGKeyArray) -> tuple[Params, MethodState]:
        """Draws random parameters and an empty state."""
        _, params, stats = nnx.split(self.network(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        params = nnx.to_pure_dict(params)
        stats = nnx.to_pure_dict(stats)
        return params, MethodState(stats, self.init_carry(params, stats))

    def init_carry(self, params: Params, batch_stats: dict[str, Any]) -> dict[str, Any]:
        """What the method carries before its first step."""
        return {}

    def bind(self, params: Params, batch_stats: dict[str, Any]) -> Network:
        """The network as a module that holds the given arrays."""
        # Stacked layers are gathered one at a time, when they run.
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if jax.tree_util.DictKey("blocks") in path else gathered(leaf),
            params,
        )
        # New variables at every call: batch norms update theirs under the caller's trace.
        params_state, stats_state = (
            jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(arrays))
            for abstract, arrays in (
                (self._abstract_params, params),
                (self._abstract_stats, batch_stats),
            )
        )
        return nnx.merge(self._graphdef, params_state, stats_state)

    @abc.abstractmethod
    def encode(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Embeddings, dict[str, Any]]:
        """Embeds every sample of a batch, or of a part of one.

        Args:
          batch: the method's arrays, images NHWC float32 normalised, sample axis first.
          keys: randomness of dropout and patch dropping, one for each sample (`split_key`), so
            that a sample is computed alike in every part; None computes without any.
          train: batch norms use and update the statistics of the batch.

        Returns:
          the embeddings, sample axis first, and the new batch statistics.
        """

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
        """The loss over the global batch, its parts by name, and the state after it."""

    def loss(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        key: PRNGKeyArray | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """`objective` of `encode`."""
        keys, objective_key = split_key(key, batch)
        embeddings, stats = self.encode(params, state, batch, keys=keys, train=train)
        state = state._replace(batch_stats=stats)
        return self.objective(params, state, embeddings, batch, key=objective_key)

    def after_update(self, params: Params, state: MethodState) -> tuple[Params, MethodState]:
        """What follows the optimiser's step: clamps, momentum updates."""
        return params, state

    @abc.abstractmethod
    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Embeddings and scales under their public names, without dropout."""

    @abc.abstractmethod
    def encode_images(
        self, params: Params, state: MethodState, images: Float[Array, "b h w 3"]
    ) -> Float[Array, "b d"]:
        """Unit-norm embeddings of single images, comparable with `encode_texts`."""

    def image_features(
        self, params: Params, state: MethodState, images: Float[Array, "b h w 3"]
    ) -> Float[Array, "b w"]:
        """What the image tower says of single images before any projection, not normalised."""
        raise NotImplementedError(f"{self.name} has no features before a projection")

    @abc.abstractmethod
    def encode_texts(
        self, params: Params, state: MethodState, tokens: Array
    ) -> Float[Array, "b d"]:
        """Unit-norm embeddings of tokenised texts; token id 0 is padding."""

    def scale(self, params: Params) -> Float[Array, ""]:
        """The factor on cosines of `encode_images` and `encode_texts` before a softmax."""
        return jnp.exp(params["log_scale"])

    def encode_patients(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Image embeddings of patients, `image_patient`, `image_left`, `image_right`.

        Only methods whose samples are patients have it, and `encode_reports`.
        """
        raise NotImplementedError(f"{self.name} has no patient level")

    def encode_reports(self, params: Params, state: MethodState, tokens: Array) -> dict[str, Array]:
        """Text embeddings of patients' reports, `text_patient`, `text_left`, `text_right`."""
        raise NotImplementedError(f"{self.name} has no patient level")

    @classmethod
    @abc.abstractmethod
    def infer_config(cls, shapes: dict[str, tuple[int, ...]], text_num_heads: int | None) -> Any:
        """The configuration of the network that published tensors of these shapes belong to."""
