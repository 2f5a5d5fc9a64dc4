"""A network as arrays by name, and a program that computes it in plain NumPy."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from retfm_jax.interop.formats.arrays import write_arrays
from retfm_jax.interop.formats.base import PROGRAM, Exported, Form
from retfm_jax.interop.formats.programs import program_text, run_program, usage
from retfm_jax.interop.formats.steps import (
    Dialect,
    image_lines,
    output_lines,
    tower_sizes,
    towers_of,
)
from retfm_jax.methods.outputs import AnyTower, ImageTower, PixelDecoder, TextTower, TowerMaps
from retfm_jax.models import resnet, unetr, vit

WEIGHTS = "weights.npz"
_LAYERS, _TOWERS, _DECODERS = (
    f"retfm_jax.interop.parts.numpy_{part}" for part in ("layers", "towers", "decoders")
)
_LOAD = '''
def load(folder=None):
    """Reads the arrays that lie beside this file, and makes a program of them.

    Args:
      folder: where they lie; None: where this file lies.
    """
    folder = pathlib.Path(__file__).parent if folder is None else pathlib.Path(folder)
    with np.load(folder / "weights.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def images(pixels):
        return image_outputs(arrays, pixels)
{texts}
    return {program}
'''
_TEXTS = """
    def texts(tokens):
        return text_outputs(arrays, tokens)
"""


class SavedNpz(Form):
    """`weights.npz`, and `model.py`, which needs NumPy, Pillow and OpenCV."""

    name, library = "saved_npz", "numpy"
    copies = 1.1

    def check(self, network: Exported) -> None:
        """See `Form.check`."""
        network.require_told(self.name)

    def write(self, folder: pathlib.Path, network: Exported, photographs: Sequence[bytes]) -> None:
        """See `Form.write`."""
        names = {_function(tower) for tower in towers_of(network).values()}
        roots = [(_LAYERS, name) for name in ("linear", "unit", "softmax", "sigmoid")]
        roots += [(_TOWERS, name) for name in sorted(names)]
        if network.maps is not None:
            roots.append((_DECODERS, _decoder(network.maps[1])))
        load = _LOAD.replace("{texts}", _TEXTS if network.texts else "")
        text = program_text(network, "NumPy", roots, "\n".join(_functions(network)), load)
        (folder / PROGRAM).write_text(text, encoding="utf-8")
        write_arrays(folder / WEIGHTS, network)

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
            f"`{WEIGHTS}` holds every array of the network by its path, uncompressed, in float32. "
            "`model.py` computes the network from them with `numpy`, `pillow` and "
            "`opencv-python-headless`, and nothing else. It is meant to be read and to check other "
            "programs by, and is slower than they are.",
        ]


class _NumPy(Dialect):
    """NumPy, in functions of arrays by path."""

    def tower(self, tower: ImageTower | TextTower, given: str) -> str:
        called = self._called(tower, given)
        if isinstance(tower, ImageTower) and isinstance(tower.config, vit.ViTConfig):
            called += f", {tower.norm or f'{tower.path}/ln_post'!r}"
        return f"{called})"

    def maps(self, tower: TowerMaps, given: str) -> str:
        return f"{self._called(tower, given)}, {tower.levels!r})"

    def pixels(self, decoder: PixelDecoder, maps: str, images: str) -> str:
        return f"{_decoder(decoder)}(arrays, {decoder.path!r}, {maps}, {images})"

    def _called(self, tower: AnyTower, given: str) -> str:
        path = tower.path
        return f"{_function(tower)}(arrays, {path!r}, {_constant(path)}, {given}"

    def linear(self, path: str, value: str) -> str:
        return f"linear(arrays, {path!r}, {value})"

    def relu(self, value: str) -> str:
        return f"np.maximum({value}, 0)"

    def twice(self, value: str) -> str:
        return f"np.concatenate([{value}, {value}], -1)"

    def probabilities(self, scaled: str, findings: bool) -> str:
        return f"sigmoid({scaled})" if findings else f"softmax({scaled})"


def _functions(network: Exported) -> Iterator[str]:
    for path, tower in towers_of(network).items():
        yield f"{_constant(path)} = {{"
        for name, value in tower_sizes(tower, network).items():
            yield f"    {name!r}: {value!r},"
        yield "}"
    size = network.data.image.size
    yield from (
        "",
        "",
        "def image_outputs(arrays, pixels):",
        f'    """Computes outputs by name from pixels (n, {size}, {size}, 3) uint8."""',
        '    mean, std = (np.array(PREPROCESSING[name], np.float32) for name in ("mean", "std"))',
        "    images = (pixels.astype(np.float32) / np.float32(255) - mean) / std",
        *image_lines(network, "images", _NumPy(), 4),
    )
    if network.texts:
        yield from (
            "",
            "",
            "def text_outputs(arrays, tokens):",
            '    """Computes outputs by name from token ids (n, length), padded with 0."""',
            *output_lines(network, TextTower, "tokens", _NumPy(), 4),
        )


def _function(tower: AnyTower) -> str:
    """The function of a tower."""
    if isinstance(tower, TextTower):
        return "bert"
    clip = isinstance(tower.config, resnet.ClipResNetConfig)
    name = "clip_resnet" if clip else "resnet"
    if isinstance(tower.config, vit.ViTConfig):
        name = "vit"
    return f"{name}_maps" if isinstance(tower, TowerMaps) else name


def _decoder(decoder: PixelDecoder) -> str:
    """The function of a decoder."""
    return "unetr" if isinstance(decoder.config, unetr.UnetrConfig) else "unet"


def _constant(path: str) -> str:
    return path.replace("/", "_").upper()


FORM = SavedNpz()
