"""A network as StableHLO, by `jax.export`: for CPUs, GPUs and TPUs, with any batch."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export  # no attribute of jax until somebody imports it
import jax.numpy as jnp
import numpy as np

from retfm_jax.data.device_augment import prepare
from retfm_jax.interop.formats.arrays import arrays_of, network_of, write_arrays
from retfm_jax.interop.formats.base import PROGRAM, Exported, Form
from retfm_jax.interop.formats.programs import program_text, run_program, usage
from retfm_jax.methods.dual_encoder import as_dual_encoder
from retfm_jax.methods.outputs import (
    CLASS_LOGITS,
    CLASS_PROBABILITIES,
    IMAGE_EMBEDDING,
    IMAGE_FEATURES,
    PIXEL_LOGITS,
    PIXEL_PROBABILITIES,
    TEXT_EMBEDDING,
)
from retfm_jax.models import target

IMAGES, TEXTS, WEIGHTS = "image.stablehlo", "text.stablehlo", "weights.npz"
PLATFORMS = ("cpu", "cuda", "tpu")
_LOAD = '''
def load(folder=None):
    """Opens the networks that lie beside this file, and makes a program of them.

    They run on JAX's first device.

    Args:
      folder: where they lie; None: where this file lies.
    """
    folder = pathlib.Path(__file__).parent if folder is None else pathlib.Path(folder)
    weights = read_weights(folder / "weights.npz")
    images = on_exported(folder / "image.stablehlo", weights){texts}
    return {program}
'''


class StableHlo(Form):
    """`image.stablehlo`, `text.stablehlo`, `weights.npz` and a program for JAX and NumPy."""

    name, library = "stablehlo", "jax"
    copies = 1.1

    def check(self, network: Exported) -> None:
        """See `Form.check`: every network has this form."""

    def write(self, folder: pathlib.Path, network: Exported, photographs: Sequence[bytes]) -> None:
        """See `Form.write`."""
        texts = ""
        if network.texts:
            texts = '\n    texts = on_exported(folder / "text.stablehlo", weights)'
        names = ("read_weights", "on_exported")
        roots = [("retfm_jax.interop.parts.jax_program", name) for name in names]
        text = program_text(network, "JAX", roots, "", _LOAD.replace("{texts}", texts))
        (folder / PROGRAM).write_text(text, encoding="utf-8")
        write_arrays(folder / WEIGHTS, network)
        size, length = network.data.image.size, network.data.text.context_length
        (folder / IMAGES).write_bytes(
            _serialized(image_function(network), network, f"n, {size}, {size}, 3", jnp.uint8)
        )
        if network.texts:
            (folder / TEXTS).write_bytes(
                _serialized(text_function(network), network, f"n, {length}", jnp.int32)
            )

    def run(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """See `Form.run`."""
        return run_program(folder, photographs, texts)

    def readme(self, network: Exported, measured: Mapping[str, Any]) -> list[str]:
        """See `Form.readme`."""
        return [
            *usage(network),
            "",
            "`model.py` needs `jax`, `flatbuffers`, `numpy`, `pillow` and "
            f"`opencv-python-headless`, and nothing else. `{IMAGES}` is read by "
            f"`jax.export.deserialize` and takes the arrays of `{WEIGHTS}` by name, and pixels "
            f"(n, {network.data.image.size}, {network.data.image.size}, 3) uint8, any n; it was "
            f"lowered for {', '.join(PLATFORMS)}"
            ", in full float32 precision. JAX reads such files for six months at least after the "
            "version that wrote them.",
        ]


def image_function(network: Exported) -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    """Makes the function of arrays by name and pixels that gives all outputs of photographs.

    Args:
      network: of any method.
    """
    method, decisions = network.method, network.decisions
    functions = {IMAGE_EMBEDDING: method.encode_images, IMAGE_FEATURES: method.image_features}
    if network.mask_decisions is not None:
        functions = {PIXEL_LOGITS: method.pixel_logits}
    if decisions is not None:
        functions[CLASS_LOGITS] = method.class_logits

    def images(arrays: Mapping[str, Any], pixels: Any) -> dict[str, Any]:
        params, state = network_of(network, arrays)
        with jax.default_matmul_precision("highest"):
            given = prepare({"image": pixels}, network.data.image)["image"]
            found: dict[str, Any] = {}
            for name, function in functions.items():
                try:
                    found[name] = function(params, state, given)
                except NotImplementedError:  # networks differ in what they have
                    continue
        if network.mask_decisions is not None:
            found[PIXEL_PROBABILITIES] = method.probabilities(found[PIXEL_LOGITS])
        if decisions is not None:
            scaled = found[CLASS_LOGITS] / decisions.temperature
            findings = decisions.outcome == "findings"
            probabilities = jax.nn.sigmoid(scaled) if findings else jax.nn.softmax(scaled)
            found[CLASS_PROBABILITIES] = probabilities
        return found

    return images


def text_function(network: Exported) -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    """Makes the function of arrays by name and token ids that gives the embedding of texts.

    Args:
      network: that embeds texts.
    """
    encoder = as_dual_encoder(network.method, "an export of texts")

    def texts(arrays: Mapping[str, Any], tokens: Any) -> dict[str, Any]:
        params, state = network_of(network, arrays)
        with jax.default_matmul_precision("highest"):
            return {TEXT_EMBEDDING: encoder.encode_texts(params, state, tokens)}

    return texts


def _serialized(function: Callable[..., Any], network: Exported, shape: str, dtype: Any) -> bytes:
    arrays = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype)
        for name, value in arrays_of(network).items()
    }
    given = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), dtype)
    # One program for all platforms has the kernels of none.
    with target.assumed("cpu"):
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(arrays, given)
    return bytes(exported.serialize())


FORM = StableHlo()
