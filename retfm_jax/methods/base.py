"""Interface that every method offers to training, evaluation and interop."""

import abc
import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from retfm_jax.decisions import Outcome
from retfm_jax.methods.outputs import Output
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.layers import STACKED, Tower, all_gather_params, unit
from retfm_jax.models.taps import Taps
from retfm_jax.models.word_search import Found
from retfm_jax.trees import flatten

Params = dict[str, Any]
Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]
#: What a method's `network` builds.
Network = TypeVar("Network", bound=nnx.Module)


class MethodState(NamedTuple):
    """State that a method keeps between steps beside its parameters.

    Attributes:
      batch_stats: running statistics of batch norms, as a nested dict ({} without any).
      carry: what the method itself carries: momentum parameters and queues ({} without any).
    """

    batch_stats: dict[str, Any]
    carry: dict[str, Any]


class Published(NamedTuple):
    """Description of a published system's weights.

    Attributes:
      title: the system, for messages.
      signature: patterns; a file is of this system where each matches the beginning of the name of
        some tensor.
      formats: foreign formats that hold the whole network; see `interop`.
    """

    title: str
    signature: tuple[str, ...]
    formats: tuple[str, ...] = ()


class Selected(NamedTuple):
    """Network that a weight file holds.

    Attributes:
      config: its sizes, an instance of the method's `config_class`.
      tensors: those of the network, by published name.
      image: entries of `config.data.image` that belong to the weights, where they differ from the
        method's default experiment.
      notes: sentences on what was found, guessed and passed over.
    """

    config: Any
    tensors: Mapping[str, np.ndarray]
    image: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()


class Stage(NamedTuple):
    """Part of a run, with a loss of its own.

    Attributes:
      method: whose `loss` is in force; of the network of all other stages, so that parameters,
        optimizer and state carry over.
      title: its number and what it minimizes, for messages; empty where a run has one stage.
      until: epochs of the run after which the next stage begins; None: the run's end.
    """

    method: "Method"
    title: str = ""
    until: float | None = None


#: Graph, parameters and batch statistics of the networks asked for last, by class and config.
_SHAPES: dict[tuple[type, Any], tuple[Any, Any, Any]] = {}
_SHAPES_KEPT = 16


def _shapes(method: "Method") -> tuple[Any, Any, Any]:
    """Graph, parameters and batch statistics of a network without values.

    One process asks for those of one network many times: to prepare, train, evaluate and load it.
    """
    asked = type(method), method.config
    try:
        hash(asked)
    except TypeError:  # a config with lists, of a method from outside
        return _traced(method)
    _SHAPES[asked] = found = _SHAPES.pop(asked, None) or _traced(method)
    for oldest in list(_SHAPES)[:-_SHAPES_KEPT]:
        _SHAPES.pop(oldest, None)
    return found


def _traced(method: "Method") -> tuple[Any, Any, Any]:
    abstract = nnx.eval_shape(lambda: method.network(nnx.Rngs(0)))
    graph, params, stats = nnx.split(abstract, nnx.Param, nnx.BatchStat)
    return graph, params, stats


class Method(abc.ABC, Generic[Network]):
    """A trainable system: its network, what it takes for a sample, its loss.

    All methods are pure: parameters and state go in as nested dicts of arrays and come out again.

    Args:
      config: its sizes and objective, an instance of `config_class`.

    Attributes:
      name: that of its file (`retfm_jax/methods/<name>.py`).
      config_class: dataclass of `config.model`.
      default_experiment: the bundled config whose preprocessing belongs to the published weights.
      sample_kind: what one training sample is, by name; see `data.kinds`.
      ignores_padding: whether padding behind a text has no effect on its embedding, so that it may
        be cut.
      published: how weights of the published system are known; None without any.
      takes_towers: whether any image tower's weights can be read as this method's, by the names
        that they have in their file.
      needs_head: whether such weights are none of this method's without a head for classes.
      untrained: path prefixes of parameters that published files hold but no loss depends on.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    default_experiment: ClassVar[str]
    sample_kind: str
    ignores_padding: bool = False
    published: ClassVar[Published | None] = None
    takes_towers: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    untrained: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any):
        self.config = config
        self._taps: Taps | None = None
        self._graphdef, self._abstract_params, self._abstract_stats = _shapes(self)

    @abc.abstractmethod
    def network(self, rngs: nnx.Rngs) -> Network:
        """Builds the towers and heads with random parameters.

        Args:
          rngs: streams of random numbers for the initial parameters.
        """

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        """Rows of (published name, our path, transform); see `interop.state_dict`.

        By default parameters go by their own paths, as `own_weight_names` says.
        """
        return self.own_weight_names(())

    def own_weight_names(
        self, others: Iterable[tuple[str, str, str]]
    ) -> tuple[tuple[str, str, str], ...]:
        """Names parameters that no published system named, in rows as `weight_names` has.

        They are called as PyTorch would call them: "head/kernel" is "head.weight" and is
        transposed, all others have "." for "/".

        Args:
          others: rows (published name, our path, transform) of all other parameters.
        """
        named = {path for _, path, _ in others}
        rows = []
        for tree in (self._abstract_params, self._abstract_stats):
            for path, leaf in flatten(nnx.to_pure_dict(tree)).items():
                parent, _, last = path.rpartition("/")
                if path in named:
                    continue
                if last == "kernel" and parent and leaf.ndim == 2:
                    rows.append((f"{parent.replace('/', '.')}.weight", path, "linear"))
                else:
                    rows.append((path.replace("/", "."), path, "copy"))
        return tuple(rows)

    @property
    def towers(self) -> dict[str, Tower]:
        """Towers of the network, without values, by the path under which their parameters stand."""
        network = nnx.merge(self._graphdef, self._abstract_params, self._abstract_stats)
        return {
            "/".join(map(str, path)): module
            for path, module in nnx.iter_modules(network)
            if isinstance(module, Tower)
        }

    @property
    def text(self) -> BertConfig | None:
        """Sizes of the text tower; None: there is none."""
        return getattr(self.config, "text", None)

    @property
    def image_size(self) -> int | None:
        """Height and width that the network is made for; None: any."""
        return getattr(self.config.image, "image_size", None)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the network tells apart, in their order; () without a head."""
        return ()

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures whose pixels the network finds, in their order; () without."""
        return ()

    @property
    def exclusive_structures(self) -> bool:
        """Whether a pixel shows one structure at most, of several in a mask the last one."""
        return False

    @property
    def vocabulary(self) -> int:
        """Number of ids that the reports of the network consist of; 0: it writes none."""
        return 0

    @property
    def most_images(self) -> int | None:
        """How many images of a case the network takes at most; None: any number."""
        return None

    @property
    def longest_report(self) -> int:
        """Number of words that a report of the network has at most."""
        return 0

    @property
    def outcome(self) -> Outcome | None:
        """What the classes are to each other; None: the network has no classes of its own."""
        return None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What other programs can compute of photographs and texts; () where it is not told."""
        return ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages of a run, one after the other; by default one, of the method itself."""
        return (Stage(self),)

    def init(self, key: PRNGKeyArray) -> tuple[Params, MethodState]:
        """Initializes random parameters and the state before the first step.

        Args:
          key: PRNG key of the random parameters.
        """
        _, params, stats = nnx.split(self.network(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        params = nnx.to_pure_dict(params)
        stats = nnx.to_pure_dict(stats)
        return params, MethodState(stats, self.init_carry(params, stats))

    def init_carry(self, params: Params, batch_stats: dict[str, Any]) -> dict[str, Any]:
        """Makes what the method carries before its first step; by default {}.

        Args:
          params: the initial parameters, a nested dict of float32 arrays.
          batch_stats: the initial statistics of batch norms, a nested dict ({} without any).
        """
        return {}

    def bind(self, params: Params, batch_stats: dict[str, Any]) -> Network:
        """Builds the network as a module that holds the given arrays.

        Args:
          params: all parameters, a nested dict of arrays, as `init` makes them.
          batch_stats: statistics of batch norms, a nested dict ({} without any).
        """
        # Stacked layers are all-gathered one at a time, when they run.
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: (
                leaf if jax.tree_util.DictKey(STACKED) in path else all_gather_params(leaf)
            ),
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
        network = nnx.merge(self._graphdef, params_state, stats_state)
        if self._taps is not None:
            cast(Any, network).visual.taps = nnx.data(dict(self._taps))
        return network

    def watched(self, taps: Taps) -> "Method[Network]":
        """Returns this method with an image tower that is looked into.

        Args:
          taps: of the tower, which every network has as its attribute `visual`; see `models.taps`.
        """
        other = copy.copy(self)
        other._taps = taps
        return other

    @abc.abstractmethod
    def loss(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        key: PRNGKeyArray | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """Computes the loss over the global batch.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          batch: the method's arrays, images NHWC float32 normalized, sample axis first.
          key: randomness of dropout and patch dropping; None computes without any.
          train: batch norms use and update the statistics of the batch.

        Returns:
          the loss, () float32, and a pair: its parts by name, each () float32, and the state after
          it.
        """

    def losses(self, params: Params, state: MethodState, batch: Batch) -> Metrics:
        """Computes losses by their public names, without dropout; by default the parts of `loss`.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          batch: arrays as for `loss`, sample axis first.

        Returns:
          each loss by name, () float32.
        """
        return self.loss(params, state, batch)[1][0]

    def after_update(self, params: Params, state: MethodState) -> tuple[Params, MethodState]:
        """Applies what follows the optimizer's step: clamps, momentum updates; by default nothing.

        Args:
          params: all parameters after the optimizer's step, a nested dict.
          state: the state that `loss` returned.
        """
        return params, state

    @abc.abstractmethod
    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes embeddings and scales under their public names, without dropout.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          batch: arrays as for `loss`, sample axis first; what only the objective reads may be
            absent.
        """

    def encode_images(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds single images with unit norm.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          images: normalized images, NHWC float32.
          keys: randomness of dropped branches and patches in fine-tuning, one for each image; None
            drops none.

        Returns:
          unit-norm embeddings, (b, d) float32; by default of `image_features`.

        Raises:
          NotImplementedError: the method embeds no images.
        """
        return unit(self.image_features(params, state, images, keys=keys))

    def scale(self, params: Params) -> Float[Array, ""]:
        """Factor () on unit-norm embeddings before a softmax; by default CLIP's first, 1 / 0.07.

        Args:
          params: all parameters, a nested dict.
        """
        return jnp.asarray(1 / 0.07)

    def image_features(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b width"]:
        """Computes the image tower's features of single images, before any projection.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          images: normalized images, NHWC float32.
          keys: randomness of dropped branches and patches in fine-tuning, one for each image; None
            drops none.

        Returns:
          the features, (b, w) float32, not normalized.

        Raises:
          NotImplementedError: the method has no such features.
        """
        raise NotImplementedError(f"{self.name} has no features before a projection")

    def image_maps(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        levels: Sequence[int] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b _h _w _d"], ...]:
        """Computes feature maps of single images at levels of the image tower, `visual`.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          images: normalized images, NHWC float32, of any size whose sides are multiples of a vision
            transformer's patches.
          levels: blocks of a vision transformer, from 0; for a residual network 1, the stem, to 5,
            the last stage; None: the tower's `map_levels`.
          keys: randomness of dropped branches in fine-tuning, one for each image; None drops none.

        Returns:
          the map of each level (b, h, w, d), in the tower's compute type.

        Raises:
          NotImplementedError: the method has no image tower.
          ValueError: no such level, or images that are no whole number of patches.
        """
        tower = getattr(self.bind(params, state.batch_stats), "visual", None)
        if tower is None:
            raise NotImplementedError(f"{self.name} has no image tower with feature maps")
        return tower.maps(images, levels, keys=keys)

    def class_logits(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits of `classes` for single images.

        Their softmax, or for findings their sigmoids, are probabilities, as trained: what was
        fitted on validation is applied by whoever has it.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          images: normalized images, NHWC float32.
          keys: randomness of dropped branches, patches and entries, one for each image; None drops
            none.

        Returns:
          the logits, (b, c) float32.

        Raises:
          NotImplementedError: the method has no classes.
        """
        raise NotImplementedError(f"{self.name} has no classes of its own")

    def pixel_probabilities(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Computes the probabilities of `structures` at every pixel of single images.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          images: normalized images, NHWC float32.
          keys: randomness, one for each image; None drops none.

        Returns:
          the probabilities, (b, h, w, c) float32.

        Raises:
          NotImplementedError: the method finds no structures.
        """
        return self.probabilities(self.pixel_logits(params, state, images, keys=keys))

    def pixel_logits(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w k"]:
        """Computes the logits of every pixel of single images, of which `probabilities` follow.

        Args:
          params, state, images, keys: as of `pixel_probabilities`.

        Returns:
          (b, h, w, k) float32; how many there are of a pixel is the method's choice.

        Raises:
          NotImplementedError: the method finds no structures.
        """
        raise NotImplementedError(f"{self.name} finds no structures in images")

    def probabilities(self, logits: Float[Array, "... k"]) -> Float[Array, "... c"]:
        """Computes the probabilities of `structures` from logits of pixels, each for itself.

        Args:
          logits: as `pixel_logits` gives them, (..., k) floats, also resized.

        Returns:
          the probabilities, (..., c) float32.

        Raises:
          NotImplementedError: the method finds no structures.
        """
        raise NotImplementedError(f"{self.name} finds no structures in images")

    def decode(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b v h w 3"],
        has_image: Bool[Array, "b v"] | None = None,
        *,
        beams: int = 3,
        length: int = 90,
        length_penalty: float = 0.0,
        block_trigrams: bool = False,
    ) -> Found:
        """Writes the reports of cases.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          images: of each case, normalized, float32.
          has_image: which of them there are; None: all.
          beams, length, length_penalty, block_trigrams: see `word_search.search`; one beam is
            greedy.

        Returns:
          the reports of each case, (b, beams, length) int32 ids, the best first, and their scores.

        Raises:
          NotImplementedError: the method writes no reports.
        """
        raise NotImplementedError(f"{self.name} writes no reports")

    def report_losses(
        self, params: Params, state: MethodState, batch: Batch
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """Computes how unlikely the reports of cases are, without dropout.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          batch: arrays as for `loss`, sample axis first.

        Returns:
          of each report the mean of -ln p over its words, and their number, (b,) float32.

        Raises:
          NotImplementedError: the method writes no reports.
        """
        raise NotImplementedError(f"{self.name} writes no reports")

    @classmethod
    def select(
        cls, tensors: Mapping[str, np.ndarray], text_num_heads: int | None = None
    ) -> Selected:
        """Finds this method's network among the tensors of a file; by default it is all of them.

        Args:
          tensors: by plain published name.
          text_num_heads: see `infer_config`.

        Raises:
          NotImplementedError: see `infer_config`.
          ValueError: sizes that no such network has.
        """
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return Selected(cls.infer_config(shapes, text_num_heads), tensors)

    @classmethod
    def infer_config(cls, shapes: Mapping[str, tuple[int, ...]], text_num_heads: int | None) -> Any:
        """Infers the configuration of the network that published tensors of these shapes belong to.

        Args:
          shapes: shape of each published tensor by its name.
          text_num_heads: attention heads of the text tower, which no shape tells; None means one
            for every 64 of its width.

        Returns:
          an instance of `config_class`.

        Raises:
          NotImplementedError: the method has no published weights.
        """
        raise NotImplementedError(f"{cls.name} has no published weights")
