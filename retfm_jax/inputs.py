"""Checks of what users give to a model: images, texts, classes, batches.

A string is one text or one path, never a list of letters, and an array with two or three axes is
one image. Whatever is of the wrong type, shape, dtype or range is refused before anything is
computed, with what was found and what is wanted.
"""

import difflib
import os
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from PIL import Image

from retfm_jax.console import printable
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.kinds.base import Role
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.knowledge.normalize import fold
from retfm_jax.knowledge.vocabulary import LANGUAGES, Vocabulary, load_vocabulary
from retfm_jax.methods.base import Batch, Method

_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
_CLOSE = 0.7
#: Spaces, controls and marks of zero width: a text of these alone says nothing.
_UNSEEN = ("Zs", "Zl", "Zp", "Cc", "Cf")

#: Normalized pixels stay within a few units; further out they are something else.
_LARGEST_PIXEL = 30.0


def _many(values: Any, what: str, example: str) -> list[Any]:
    """The members of a sequence, a generator, a pandas column or an array."""
    if isinstance(values, Mapping | set | frozenset):
        raise UserError(f"give {what} as a list, {example}, not as a {type(values).__name__}")
    if hasattr(values, "columns") and hasattr(values, "iloc"):
        raise UserError(f"give one column of the table as {what}, table['name'], not the table")
    if hasattr(values, "read"):
        raise UserError(f"give {what} as a list, {example}, not as an open file: call its .read()")
    if not isinstance(values, Iterable) or getattr(values, "shape", None) == ():
        raise UserError(f"give {what} as a list, {example}, not as {_kind(values)}")
    return list(values)


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {printable(repr(value))[:60]}"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def as_array(value: Any, what: str = "an array") -> np.ndarray | None:
    """Converts an array of NumPy, JAX or PyTorch to NumPy; None for everything else.

    Args:
      value: of any type; bfloat16 becomes float32, all other dtypes and the shape are kept.
      what: how messages call it.

    Raises:
      UserError: it has no values here: a traced one, a sparse one, one of PyTorch's meta device; or
        some of them are masked.
    """
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise UserError(f"{what} has masked values: say what stands there, .filled(0)")
        return value.data
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if not all(hasattr(value, name) for name in ("__array__", "shape", "dtype")):
        return None
    if isinstance(value, Tracer):
        raise UserError(
            f"{what} is traced by jax.jit, jax.grad or jax.vmap, and has no values yet: give it "
            "from outside of them, or prepare a batch and call features"
        )
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if "bfloat16" in str(value.dtype) else value
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{what} has no values that NumPy can take: {_line(error)}") from error
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _line(error: Exception) -> str:
    return printable(next(iter(str(error).splitlines()), ""))[:200]


def as_images(images: Any, *, what: str = "images", missing: bool = False) -> list[Any]:
    """Turns one image or many into a list of paths, bytes, PIL images and arrays.

    Args:
      images: a path, bytes, a PIL image, an array of one image (h, w), (h, w, c) or of several
        (n, h, w, c), or a sequence of such images.
      what: how messages call them.
      missing: whether None or NaN may stand for a missing image; it becomes None.

    Raises:
      UserError: there is none, or one of them is no image.
    """
    if isinstance(images, _ONE_IMAGE):
        images = [images]
    array = None if hasattr(images, "iloc") else as_array(images, what)
    if array is not None and array.dtype.kind not in "OUST":
        if array.ndim in (2, 3):
            return [array]
        if array.ndim != 4:
            raise UserError(
                f"{what}: an array of one image is (height, width) or (height, width, channels), "
                f"of several (n, height, width, channels), not {array.shape}"
            )
        images = array
    found = _many(images, what, '["left.jpg", "right.jpg"]')
    if not found:
        raise UserError(f"there are no {what} to embed")
    for index, image in enumerate(found):
        if missing and _is_missing(image):
            found[index] = None
        elif isinstance(image, str) and not image.strip():
            raise UserError(f"{what}: number {index} is an empty path")
        elif not isinstance(image, _ONE_IMAGE):
            array = as_array(image, f"{what}: number {index}")
            if array is None or array.dtype.kind in "OUST":
                raise UserError(
                    f"{what}: number {index} is {_kind(image)}, and no path, bytes, PIL image or "
                    "array"
                )
            found[index] = array
    return found


def as_texts(texts: Any, *, what: str = "texts") -> list[str]:
    """Turns one text or many into a list of strings.

    Args:
      texts: a string, or a sequence, a generator, an array or a pandas column of strings.
      what: how messages call them.

    Raises:
      UserError: there is none, or one of them is missing, empty or no text.
    """
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, bytes | bytearray):
        raise UserError(f"{what} are strings, not bytes: decode them, text.decode('utf-8')")
    found = _many(texts, what, '["no diabetic retinopathy"]')
    if not found:
        raise UserError(f"there are no {what} to embed")
    for index, text in enumerate(found):
        if _is_missing(text) or not isinstance(text, str):
            raise UserError(f"{what}: number {index} is {_kind(text)}, and no text")
        if not any(unicodedata.category(letter) not in _UNSEEN for letter in text):
            raise UserError(f"{what}: number {index} is empty; leave out what has no text")
    return [str(text) for text in found]


def as_classes(
    classes: Any, language: Any, vocabulary: Vocabulary | None = None
) -> dict[str, tuple[str, ...] | None]:
    """Classes of a zero-shot comparison: their names, and the prompts that are given for them.

    Args:
      classes: ids or names of conditions; or a mapping from names to prompts of one's own, a text
        or several. None as prompts, or a condition in a list, means the vocabulary's prompts.
      language: of the vocabulary's prompts, "en" or "zh".
      vocabulary: where conditions are looked up; None for the bundled one.

    Returns:
      prompts by name; None where the vocabulary has them.

    Raises:
      UserError: fewer than two classes, one of them twice, an unknown one (the message names
        similar ones), prompts that are no texts, or an unknown language.
    """
    if language not in LANGUAGES:
        raise UserError(f"prompts exist in {' and '.join(LANGUAGES)}, not in {language!r}")
    vocabulary = vocabulary or load_vocabulary()
    if isinstance(classes, str):
        beside = "drusen" if classes == "normal" else "normal"
        raise UserError(
            f"zero-shot compares classes with each other: give at least two, "
            f'["{beside}", "{printable(classes)}"], not one string'
        )
    if isinstance(classes, Mapping):
        given = dict(classes)
    else:
        names = _many(classes, "classes", '["normal", "drusen"]')
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"classes: {', '.join(map(repr, twice))} occur twice")
        given = dict.fromkeys(names)
    found: dict[str, tuple[str, ...] | None] = {}
    conditions: dict[str, str] = {}
    for name, prompts in given.items():
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"classes: {_kind(name)} is no name of a class")
        if prompts is not None:
            found[str(name)] = tuple(as_texts(prompts, what=f"prompts of class {name!r}"))
            continue
        condition = vocabulary.find(name)
        if condition is None:
            raise UserError(_unknown(name, vocabulary))
        other = conditions.setdefault(condition.id, name)
        if other != name:
            raise UserError(f"classes: {other!r} and {name!r} are the same condition")
        found[str(name)] = None
    if len(found) < 2:
        raise UserError(
            "zero-shot compares classes with each other: give at least two, such as "
            f'"normal" beside {next(iter(found), "drusen")!r}'
        )
    return found


def _unknown(name: str, vocabulary: Vocabulary) -> str:
    terms = {
        fold(term): term
        for condition in vocabulary
        for term in (condition.id, *condition.terms(), *condition.abbreviations)
    }
    close = difflib.get_close_matches(fold(name), terms, n=3, cutoff=_CLOSE)
    found = [vocabulary.find(terms[term]) for term in close]
    meant = list(dict.fromkeys(condition.id for condition in found if condition is not None))
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    return (
        f"class {name!r} is no condition of the vocabulary{hint}"
        f"{'' if meant else '.'} A class of your own needs prompts: "
        f"{{{name!r}: 'a fundus photograph with {name.replace('_', ' ')}'}}"
    )


#: Axes of arrays by their role, the samples' included; others have that one alone.
_AXES = {
    "image": 4, "tokens": 2, "mask": 2, "labels": 2, "noise": 2, "structures": 4, "field": 3
}  # fmt: skip


def as_batch(method: Method, batch: Any, *, losses: bool = False) -> Batch:
    """Checks a prepared batch and turns it into arrays of JAX, int64 into int32.

    Args:
      method: the method that is to take the batch; it tells which arrays there are.
      batch: arrays by name, as `Method.encode` describes them.
      losses: whether the arrays that only the losses need must be there.

    Raises:
      UserError: an array is missing, unknown, or of the wrong shape, dtype or range.
    """
    kind = get_kind(method.sample_kind)
    known = kind.roles
    if not isinstance(batch, Mapping):
        raise UserError(f"a batch is a mapping of arrays ({', '.join(known)}), not {_kind(batch)}")
    for name in batch:
        if name not in known:
            meant = did_you_mean(name, known)
            raise UserError(
                f"batch: {method.name} knows no array {name!r}{meant} (known: {', '.join(known)})"
            )
    streams = [""]
    if kind.second is not None and any(map(kind.is_second, batch)):
        streams.append(kind.second)
    required = [prefix + name for prefix in streams for name in kind.required]
    if losses:
        required += kind.targets
    absent = [name for name in required if name not in batch]
    if absent:
        raise UserError(f"batch: {', '.join(absent)} missing; {method.name} needs "
                        f"{', '.join(required)}")  # fmt: skip
    arrays = {name: _as_jax(name, value) for name, value in batch.items()}
    for prefix in streams:
        stream = {name: a for name, a in arrays.items() if kind.is_second(name) == bool(prefix)}
        for name, array in stream.items():
            _check_array(method, name, known[name], array)
        _check_rows(stream, kind.rows)
        mask, tokens = stream.get(f"{prefix}attention_mask"), stream.get(f"{prefix}tokens")
        if mask is not None and tokens is not None and mask.shape != tokens.shape:
            raise UserError(
                f"batch: {prefix}attention_mask {mask.shape} is not like {prefix}tokens "
                f"{tokens.shape}"
            )
    return arrays


def _as_jax(name: str, value: Any) -> jax.Array:
    if isinstance(value, jax.Array):
        return value
    array = as_array(value, f"batch: {name}")
    try:
        array = np.asarray(value) if array is None else array
    except (TypeError, ValueError) as error:
        raise UserError(f"batch: {name} is no array: {error}") from error
    if array.dtype.kind not in "biuf" and array.dtype != jnp.bfloat16:
        raise UserError(f"batch: {name} is no array of numbers, but of {array.dtype}")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
        if array.size and (array.max() > np.iinfo(np.int32).max or array.min() < -(2**31)):
            raise UserError(f"batch: {name} has values from {array.min()} to {array.max()}")
        array = array.astype(np.int32)
    return jnp.asarray(array)


def _check_rows(stream: Mapping[str, jax.Array], of_a_sample: Mapping[str, int]) -> None:
    rows = {name: len(array) / of_a_sample.get(name, 1) for name, array in stream.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {count:g}" for name, count in rows.items())
        raise UserError(f"batch: the arrays are of different numbers of samples: {listed}")
    if 0 in rows.values():
        raise UserError("batch: it holds no sample")


def _check_array(method: Method, name: str, role: Role, array: jax.Array) -> None:
    several = get_kind(method.sample_kind).several and role in ("image", "flag")
    axes = _AXES.get(role, 1) + several
    if array.ndim != axes:
        raise UserError(f"batch: {name} must have {axes} axes, not the shape {array.shape}")
    if role == "image":
        _check_images(method, name, array)
    elif role == "tokens":
        _check_tokens(method, name, array)
    elif role in ("structures", "field") and jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"batch: {name} must be integers, not {array.dtype}")
    elif role in ("mask", "flag"):
        if jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"batch: {name} is true or false, not {array.dtype}")
    elif role in ("category", "epoch") and not jnp.issubdtype(array.dtype, jnp.integer):
        raise UserError(f"batch: {name} must be integers, not {array.dtype}")


def _check_images(method: Method, name: str, array: jax.Array) -> None:
    high, wide, channels = array.shape[-3:]
    if channels != 3:
        before = "n, images" if array.ndim == 5 else "n"
        hint = ": transpose(0, 2, 3, 1) brings channels last"
        hint = hint if high == 3 and array.ndim == 4 else ""
        raise UserError(
            f"batch: {name} must be ({before}, height, width, 3), not {array.shape}{hint}"
        )
    size = method.image_size
    if size is not None and (high, wide) != (size, size):
        raise UserError(
            f"batch: {name} has images of {high} x {wide} pixels, the network takes {size} x {size}"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(
            f"batch: {name} must be normalized float32, not {array.dtype}; encode_images takes "
            "pixels as they are"
        )
    if isinstance(array, Tracer) or not array.size:
        return
    low, high = float(array.min()), float(array.max())
    if not np.isfinite((low, high)).all():
        raise UserError(f"batch: {name} has values that are not finite (NaN or infinite)")
    if max(-low, high) > _LARGEST_PIXEL:
        raise UserError(
            f"batch: {name} has values from {low:g} to {high:g} and is not normalized: "
            "(pixels / 255 - mean) / std, with config.data.image's mean and std"
        )


def _check_tokens(method: Method, name: str, array: jax.Array) -> None:
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise UserError(f"batch: {name} must be integers, not {array.dtype}")
    positions, ids = method.longest_report, method.vocabulary
    if method.text is not None:
        positions, ids = method.text.positions, method.text.vocab_size
    if not 1 <= array.shape[1] <= positions:
        raise UserError(
            f"batch: {name} has {array.shape[1]} tokens a text, the network's texts have "
            f"{positions} positions"
        )
    if isinstance(array, Tracer) or not array.size:
        return
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= ids:
        raise UserError(
            f"batch: {name} has ids from {low} to {high}, the network's vocabulary ends at "
            f"{ids - 1}: they are of another tokenizer"
        )
