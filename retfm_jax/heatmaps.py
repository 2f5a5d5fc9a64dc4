"""Heat maps of photographs: what is explained, and the maps that an image tower gives of it."""

import abc
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from retfm_jax.config import DataConfig, ImageConfig
from retfm_jax.data.device_augment import prepare
from retfm_jax.data.field_of_view import Square, disc_square
from retfm_jax.data.images import ImageError, fit
from retfm_jax.data.placement import onto_photograph
from retfm_jax.decisions import Decisions
from retfm_jax.errors import Unusable, UserError, did_you_mean, first_of
from retfm_jax.inputs import as_array, as_texts
from retfm_jax.knowledge.vocabulary import LANGUAGES, Condition, load_vocabulary
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.models.relevance import Way, ways
from retfm_jax.runtime.threads import cores, in_threads
from retfm_jax.zero_shot import (
    Embedding,
    ImageTextModel,
    check_finite,
    class_embeddings,
    finding_directions,
    model_prompts,
)

#: Scalars that are explained: (method, params, state, normalized images, arrays) -> (b, targets).
Score = Callable[[Method, Params, MethodState, Array, Any], Array]

#: The condition that findings are compared with.
NORMAL = "normal"

#: Bytes that the attention of one chunk of images may take.
_MEMORY = 1 << 29
_CHUNK = 32


class ExplainedModel(ImageTextModel, Protocol):
    """The part of a model that heat maps need; `retfm_jax.RetinalModel` has it.

    Attributes:
      params, state: arrays of the network.
    """

    params: Params
    state: MethodState

    @property
    @abc.abstractmethod
    def data_config(self) -> DataConfig:
        """Configuration of the preprocessing."""

    @property
    @abc.abstractmethod
    def decisions(self) -> Decisions | None:
        """Decisions of the network's own classes; None where it has none."""

    @abc.abstractmethod
    def decode(self, image: Any, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes an image of any form to RGB.

        Args:
          image: a path, encoded bytes, a PIL image or an array.
          name: of the image, for messages.
        """


class Targets(NamedTuple):
    """What is explained: one scalar or several of every image.

    Attributes:
      names: of the scalars, as they were given.
      kinds: how each was understood: "class", "condition ID", "text", "vector".
      score: computes them; differentiable, and a function of each image alone.
      arrays: what it computes with.
      single: whether one was given, not a list.
      hints: sentences on names that may have meant something else.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    score: Score
    arrays: Any
    single: bool
    hints: tuple[str, ...] = ()


class HeatMap(NamedTuple):
    """Maps of one photograph, over the network's input.

    Attributes:
      maps: one for each target, (k, rows, columns) float32, at least 0, in units of the way that
        made them.
      scores: the scalars that they explain (k,) float32.
      height, width: of the photograph in pixels.
      square: of it that the network saw; None: all of it.
    """

    maps: Float32[np.ndarray, "k rows columns"]
    scores: Float32[np.ndarray, " k"]
    height: int
    width: int
    square: Square | None = None

    def onto_photograph(
        self, config: ImageConfig, shown: tuple[int, int] | None = None
    ) -> Float32[np.ndarray, "k h w"]:
        """Lays the maps onto the photograph, each scaled so that its largest value is 1.

        Args:
          config: preprocessing of the photograph.
          shown: height and width of the result; None: those of the photograph.

        Returns:
          maps (k, h, w) float32 from 0 to 1; one without any positive value is 0 everywhere.
        """
        peaks = self.maps.max((1, 2), keepdims=True)
        scaled = np.divide(self.maps, peaks, out=np.zeros_like(self.maps), where=peaks > 0)
        return onto_photograph(scaled, self.height, self.width, config, shown, self.square)


def cosines(
    method: Method,
    params: Params,
    state: MethodState,
    images: Float[Array, "b h w 3"],
    directions: Float[Array, "k d"],
) -> Float[Array, "b k"]:
    """Computes products of images' unit-norm embeddings with vectors, cosines with unit ones.

    Args:
      method, params, state: the network.
      images: normalized, NHWC float32.
      directions: vectors (k, d) in the space of `encode_images`.
    """
    return method.encode_images(params, state, images) @ directions.T


def class_log_odds(
    method: Method,
    params: Params,
    state: MethodState,
    images: Float[Array, "b h w 3"],
    arrays: tuple[Float[Array, "k c"], Float[Array, ""]],
) -> Float[Array, "b k"]:
    """Computes log(p / (1 - p)) of classes that exclude each other: each against all the others.

    With logits z over the temperature it is `z_k - log sum_{j != k} exp(z_j)`.

    Args:
      method, params, state: the network, which has classes.
      images: normalized, NHWC float32.
      arrays: a row for each class that is asked for, 1 in its column, else 0; and the temperature.
    """
    chosen, temperature = arrays
    logits = method.class_logits(params, state, images) / temperature
    others = jnp.where(chosen > 0, -jnp.inf, logits[:, None, :])
    return logits @ chosen.T - jax.nn.logsumexp(others, -1)


def finding_log_odds(
    method: Method,
    params: Params,
    state: MethodState,
    images: Float[Array, "b h w 3"],
    arrays: tuple[Float[Array, "k c"], Float[Array, ""]],
) -> Float[Array, "b k"]:
    """Computes log(p / (1 - p)) of findings, their logits over the temperature.

    Args:
      method, params, state, images, arrays: see `class_log_odds`.
    """
    chosen, temperature = arrays
    return method.class_logits(params, state, images) / temperature @ chosen.T


def _first_entry(
    method: Method, params: Params, state: MethodState, images: Array, arrays: Any
) -> Array:
    """Any scalar, for maps that do not depend on it."""
    del arrays
    return method.encode_images(params, state, images)[:, :1]


def read_targets(model: ExplainedModel, target: Any, language: str = "en") -> Targets:
    """Finds out what is to be explained.

    Args:
      model: whose images and texts are compared.
      target: of a network with classes one of them; of one with texts a condition's id or name, or
        any other text; or several of them; or a vector (d,) or vectors (k, d) in the space of
        `encode_images`, such as another photograph's embedding; None: nothing, for maps of the
        tower alone.
      language: of the prompts of conditions, "en" or "zh".

    Returns:
      scores: of a class, the logarithm of its odds; of a condition, how much nearer an image is to
      its prompts than to those of a normal eye (`zero_shot.finding_directions`), which leaves out
      what an image has in common with every text; of the normal eye and of a text, the cosine; of
      vectors, products with them.

    Raises:
      UserError: the network has no such class and no texts, or a target is empty, no text, or of
        another width.
    """
    if target is None:
        return Targets(("attention",), ("tower",), _first_entry, (), True)
    array = as_array(target, "target")
    if array is not None and array.dtype.kind in "fiu":
        return _of_vectors(model, array)
    texts = as_texts(target, what="targets")
    if model.decisions is not None:
        return _of_classes(model.decisions, texts, isinstance(target, str))
    if model.method.text is None:
        raise UserError(
            f"a {model.method.name} network has no texts that a target could be: give a vector of "
            "the space of encode_images (another photograph's embedding), or no target where a "
            "way needs none (rollout of a vision transformer)"
        )
    if language not in LANGUAGES:
        raise UserError(f"prompts exist in {' and '.join(LANGUAGES)}, not in {language!r}")
    vocabulary, theirs = load_vocabulary(), model_prompts(model)
    conditions = {text: vocabulary.find(text) for text in texts}
    prompts = {
        text: [text] if found is None else theirs(found.id, language, None)
        for text, found in conditions.items()
    }
    names = tuple(conditions)
    directions = class_embeddings(
        model, names, language, lambda name, *_: prompts[name], ("image",)
    )["image"]
    directions = _against_normal(model, directions, list(conditions.values()), language)
    kinds = tuple("text" if c is None else f"condition {c.id}" for c in conditions.values())
    known = [term for c in vocabulary for term in (c.id, *c.terms())]
    hints = tuple(
        f"target {text!r} is no condition of the vocabulary and taken as a text{meant}"
        for text, found in conditions.items()
        if found is None and (meant := did_you_mean(text, known))
    )
    return Targets(names, kinds, cosines, directions, isinstance(target, str), hints)


def _of_classes(decisions: Decisions, names: Sequence[str], single: bool) -> Targets:
    classes = decisions.classes
    for name in names:
        if name not in classes:
            raise UserError(
                f"target {name!r}: the network tells {first_of(classes, 8)} apart, and no other "
                f"class{did_you_mean(name, classes)}"
            )
    names = tuple(dict.fromkeys(names))
    chosen = np.eye(len(classes), dtype=np.float32)[[classes.index(name) for name in names]]
    score = finding_log_odds if decisions.outcome == "findings" else class_log_odds
    arrays = (chosen, np.float32(decisions.temperature))
    return Targets(names, ("class",) * len(names), score, arrays, single)


def _against_normal(
    model: ExplainedModel,
    embeddings: Embedding,
    conditions: Sequence[Condition | None],
    language: str,
) -> Embedding:
    """Directions of findings as zero-shot scores them; texts and the normal eye stay."""
    normal = class_embeddings(model, [NORMAL], language, model_prompts(model), ("image",))["image"]
    findings = [c is not None and c.id != NORMAL for c in conditions]
    return np.stack(
        [
            finding_directions(np.stack([each, normal[0]]), 1)[0] if finding else each
            for each, finding in zip(embeddings, findings, strict=True)
        ]
    )


def _of_vectors(model: ExplainedModel, array: np.ndarray) -> Targets:
    directions = np.atleast_2d(array.astype(np.float32))
    size = model.data_config.image.size
    width = jax.eval_shape(
        model.method.encode_images,
        model.params,
        model.state,
        jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
    ).shape[1]
    if directions.ndim != 2 or directions.shape[1] != width or not len(directions):
        raise UserError(
            f"target: vectors must be ({width},) or (k, {width}), as encode_images gives them, not "
            f"{array.shape}"
        )
    names = tuple(f"vector {index}" for index in range(len(directions)))
    check_finite(directions, names, "the target")
    return Targets(names, ("vector",) * len(names), cosines, directions, array.ndim == 1)


def choose_way(config: Any, method: str | None, targeted: bool) -> tuple[str, Way]:
    """Chooses the way to make maps.

    Args:
      config: sizes of the image tower.
      method: its name; None: the tower's default, without a target one that needs none.
      targeted: whether there is a target.

    Returns:
      its name, and the way.

    Raises:
      UserError: the tower has no such way, or it needs a target and there is none.
    """
    known = ways(config)
    if method is None:
        fitting = [name for name, way in known.items() if targeted or not way.needs_target]
        method = next(iter(fitting or known))
    if method not in known:
        raise UserError(
            f"method {method!r}: heat maps of such an image tower are made by "
            f"{' or '.join(known)}{did_you_mean(method, known)}"
        )
    if known[method].needs_target and not targeted:
        raise UserError(f"{method} explains a target, and there is none: give one")
    return method, known[method]


def heat_maps(
    model: ExplainedModel,
    images: Sequence[Any],
    targets: Targets,
    way: Way,
    *,
    unusable: list[tuple[int, str]] | None = None,
) -> Iterator[HeatMap | None]:
    """Makes maps of photographs, a chunk at a time.

    Args:
      model: that is explained.
      images: paths, encoded bytes, PIL images or arrays.
      targets: what is explained.
      way: how.
      unusable: list that gets the index of every image that cannot be read or decoded, and the
        reason; None raises at the first one.

    Yields:
      the maps of every image in order; None for one that cannot be used.

    Raises:
      UserError: an image cannot be used, or a score is no finite number.
    """
    config = model.data_config.image
    size = _chunk(way, model.method.config.image, config.size, len(images))
    read = functools.partial(_row, model, unusable is not None)
    with in_threads(read, enumerate(images), threads=cores(), ahead=2 * size) as rows:
        for start in range(0, len(images), size):
            chunk = [next(rows) for _ in range(min(size, len(images) - start))]
            yield from _of_chunk(model, targets, way, chunk, start, size, unusable)


#: A photograph's input, its size and what of it is seen, or the reason why there is none.
_Row = tuple[np.ndarray, int, int, Square | None] | str


def _row(model: ExplainedModel, skip: bool, image: tuple[int, Any]) -> _Row:
    position, given = image
    try:
        pixels = model.decode(given, f"image {position}")
    except (ImageError, Unusable) as error:
        if not skip:
            raise
        return str(error)
    config = model.data_config.image
    square = disc_square(pixels) if config.field_of_view == "crop" else None
    return fit(pixels, config), *pixels.shape[:2], square


def _of_chunk(
    model: ExplainedModel,
    targets: Targets,
    way: Way,
    chunk: Sequence[_Row],
    start: int,
    size: int,
    unusable: list[tuple[int, str]] | None,
) -> Iterator[HeatMap | None]:
    config = model.data_config.image
    pictures = np.zeros((size, config.size, config.size, 3), np.uint8)
    for index, row in enumerate(chunk):
        if not isinstance(row, str):
            pictures[index] = row[0]
    scores, maps = _computed(
        model.method, config, way, targets.score, model.params, model.state, pictures,
        targets.arrays,
    )  # fmt: skip
    scores, maps = np.asarray(scores), np.asarray(maps)
    for index, row in enumerate(chunk):
        if isinstance(row, str):
            assert unusable is not None, "the reading raises without the list"
            unusable.append((start + index, row))
            yield None
            continue
        check_finite(scores[index][None], (f"number {start + index}",), "the image")
        yield HeatMap(maps[index], scores[index], *row[1:])


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _computed(
    method: Method,
    image_config: ImageConfig,
    way: Way,
    score: Score,
    params: Params,
    state: MethodState,
    pictures: Array,
    arrays: Any,
) -> tuple[Float[Array, "b k"], Float[Array, "b k rows columns"]]:
    """Scores and maps of uint8 images: one forward pass, and a backward pass for each target."""
    images = prepare({"image": pictures}, image_config)["image"]
    config = method.config.image
    taps = way.taps(config, image_config.size, len(images))

    def scores(taps: Mapping[str, Any]) -> Array:
        return score(method.watched(taps), params, state, images, arrays)

    values, backward = jax.vjp(scores, taps)

    def of_target(column: Float[Array, " k"]) -> Array:
        (found,) = backward(jnp.broadcast_to(column, values.shape))
        return way.fold({place: tap.slot for place, tap in found.items()}, config)

    maps = jax.lax.map(of_target, jnp.eye(values.shape[1], dtype=values.dtype))
    return values, maps.swapaxes(0, 1)


def _chunk(way: Way, config: Any, size: int, images: int) -> int:
    """Images of a chunk: slots, their gradients and one layer's attention stay in memory.

    It is a power of two, so that few photographs do not pay for many, nor every number compiles.
    """
    slots = sum(int(np.prod(shape)) for shape in way.places(config, size, 1).values())
    heads = getattr(config, "num_heads", 1) * slots // getattr(config, "layers", 1)
    fitting = min(_MEMORY // (4 * (2 * slots + 4 * heads)), 2 * images - 1, _CHUNK)
    return 1 << max(0, int(fitting).bit_length() - 1)
