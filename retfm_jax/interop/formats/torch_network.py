"""A network's steps as text of a PyTorch module, and its arrays under the module's names."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from retfm_jax.interop.formats.base import Exported
from retfm_jax.interop.formats.steps import (
    BEHIND_MAPS,
    Dialect,
    decoder_sizes,
    entry,
    image_lines,
    output_lines,
    tower_sizes,
    towers_of,
)
from retfm_jax.methods.outputs import (
    AnyTower,
    ImageTower,
    LinearMap,
    PixelDecoder,
    ReportWriter,
    TextTower,
    TowerMaps,
)
from retfm_jax.models import resnet, unetr, vit
from retfm_jax.trees import flatten

_PARTS = "retfm_jax.interop.parts"
#: Lines of exported code keep to this width where they can.
_WIDTH = 88


def network_code(network: Exported) -> tuple[list[tuple[str, str]], str]:
    """Towers as (module, name) of their classes, and the text of the module `Network` of them.

    Args:
      network: whose outputs are told.
    """
    wanted = {_class(tower) for tower in towers_of(network).values()}
    behind = network.maps or network.writer
    if behind is not None:
        wanted.add(_decoder_class(behind[1]))
    return [(f"{_PARTS}.torch_layers", "unit"), *sorted(wanted)], _module(network)


def _module(network: Exported) -> str:
    size = network.data.image.size
    lines = [
        "class Network(nn.Module):",
        f'    """{network.title}: towers, and what follows them."""',
        "",
        "    def __init__(self):",
        "        super().__init__()",
        '        mean, std = (torch.tensor(PREPROCESSING[name]) for name in ("mean", "std"))',
        '        self.register_buffer("mean", mean[:, None, None], persistent=False)',
        '        self.register_buffer("std", std[:, None, None], persistent=False)',
    ]
    for path, tower in towers_of(network).items():
        made = (f"{name}={value!r}" for name, value in tower_sizes(tower, network).items())
        lines += _call_text(f"self.{_attribute(path)} = {_class(tower)[1]}", list(made))
    behind = network.maps or network.writer
    if behind is not None:
        decoder = behind[1]
        made = (f"{name}={value!r}" for name, value in decoder_sizes(network).items())
        called = f"self.{_attribute(decoder.path)} = {_decoder_class(decoder)[1]}"
        lines += _call_text(called, list(made))
    for path in _maps(network):
        weight, bias = _linear(network.params, path)
        outputs, inputs = weight.shape
        made = [str(inputs), str(outputs), f"bias={bias is not None}"]
        lines += _call_text(f"self.{_attribute(path)} = nn.Linear", made)
    lines += [
        "",
        "    def images(self, pixels):",
        f'        """Computes outputs by name from pixels (n, {size}, {size}, 3) uint8."""',
        "        images = pixels.permute(0, 3, 1, 2).float() / 255",
        "        return self.normalized_images((images - self.mean) / self.std)",
        "",
        "    def normalized_images(self, images):",
        f'        """Computes outputs by name from (n, 3, {size}, {size}) float32."""',
        *(_patch_lines(network) or image_lines(network, "images", _Torch(), 8)),
    ]
    if network.texts:
        lines += [
            "",
            "    def texts(self, tokens):",
            '        """Computes outputs by name from token ids (n, length), padded with 0."""',
            *output_lines(network, TextTower, "tokens", _Torch(), 8),
        ]
    return "\n".join(lines)


def _patch_lines(network: Exported) -> list[str]:
    """Lines that compute what a network that writes reports sees; none for others."""
    if network.writer is None:
        return []
    tower, _ = network.writer
    return [
        f"        (maps,) = {_Torch().maps(tower, 'images')}",
        '        return {"patch_features": maps.flatten(2).transpose(1, 2)}',
    ]


class _Torch(Dialect):
    """PyTorch, in methods of the module."""

    def tower(self, tower: ImageTower | TextTower, given: str) -> str:
        return f"self.{_attribute(tower.path)}({given})"

    def maps(self, tower: TowerMaps, given: str) -> str:
        return f"self.{_attribute(tower.path)}.maps({given}, {tower.levels!r})"

    def pixels(self, decoder: PixelDecoder, maps: str, images: str) -> str:
        return f"self.{_attribute(decoder.path)}({maps}, {images}).permute(0, 2, 3, 1)"

    def linear(self, path: str, value: str) -> str:
        return f"self.{_attribute(path)}({value})"

    def relu(self, value: str) -> str:
        return f"torch.relu({value})"

    def twice(self, value: str) -> str:
        return f"torch.cat([{value}, {value}], dim=-1)"

    def probabilities(self, scaled: str, findings: bool) -> str:
        return f"torch.sigmoid({scaled})" if findings else f"torch.softmax({scaled}, dim=-1)"


def _maps(network: Exported) -> list[str]:
    """Paths of the linear maps, each once."""
    steps = (step for output in network.method.outputs for step in output.steps)
    return list(dict.fromkeys(step.path for step in steps if isinstance(step, LinearMap)))


def _class(tower: AnyTower) -> tuple[str, str]:
    """Module and name of the class of a tower."""
    if isinstance(tower, TextTower):
        return f"{_PARTS}.torch_bert", "Bert"
    if isinstance(tower.config, vit.ViTConfig):
        return f"{_PARTS}.torch_vit", "ViT"
    clip = isinstance(tower.config, resnet.ClipResNetConfig)
    return f"{_PARTS}.torch_resnet", "ClipResNet" if clip else "ResNet"


def _decoder_class(decoder: PixelDecoder | ReportWriter) -> tuple[str, str]:
    """Module and name of the class of a decoder."""
    if isinstance(decoder, ReportWriter):
        return f"{_PARTS}.torch_captioner", "Captioner"
    head = isinstance(decoder.config, unetr.UnetrConfig)
    return f"{_PARTS}.torch_decoders", "UnetrHead" if head else "Unet"


def torch_tensors(network: Exported) -> dict[str, np.ndarray]:
    """Arrays under the names of the module `Network`, in PyTorch's layout.

    Args:
      network: whose outputs are told.
    """
    tensors: dict[str, np.ndarray] = {}
    parts: dict[str, AnyTower | PixelDecoder | ReportWriter] = {**towers_of(network)}
    behind = network.maps or network.writer
    if behind is not None:
        parts[behind[1].path] = behind[1]
    for path, tower in parts.items():
        arrays = flatten(entry(network.params, path))
        arrays |= flatten(network.state.batch_stats.get(path, {}))
        if isinstance(tower, TowerMaps):
            arrays = {
                leaf: value
                for leaf, value in arrays.items()
                if leaf.partition("/")[0] not in BEHIND_MAPS
            }
        if isinstance(tower, ImageTower) and tower.norm is not None:
            other = flatten(entry(network.params, tower.norm))
            arrays |= {f"ln_post/{leaf}": value for leaf, value in other.items()}
        if isinstance(tower, ReportWriter) and tower.places is not None:
            arrays["places"] = entry(network.params, tower.places)
        for leaf, value in arrays.items():
            for name, each in _tensors(leaf, np.asarray(value)):
                tensors[f"{_attribute(path)}.{name}"] = np.ascontiguousarray(each)
    for path in _maps(network):
        weight, bias = _linear(network.params, path)
        tensors[f"{_attribute(path)}.weight"] = np.ascontiguousarray(weight)
        if bias is not None:
            tensors[f"{_attribute(path)}.bias"] = bias
    return tensors


#: What PyTorch calls leaves of norms and tables.
_LEAVES = {
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "count": "num_batches_tracked",
}


def _tensors(leaf: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """PyTorch's names for a leaf of a tower, and their values."""
    before, blocks, behind = leaf.rpartition("blocks/")
    if blocks:
        for number, each in enumerate(value):
            for name, tensor in _tensors(behind, each):
                yield f"{before.replace('/', '.')}blocks.{number}.{name}", tensor
        return
    *parents, last = re.sub(r"(layer\d)/block(\d+)", r"\1/\2", leaf).split("/")
    if last == "kernel":
        last, value = "weight", value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
    elif parents:
        last = _LEAVES.get(last, last)
    # A count of 32 bits here is one of 64 there.
    yield ".".join([*parents, last]), value.astype(np.int64) if value.dtype.kind == "i" else value


def _linear(params: Mapping[str, Any], path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight (outputs, inputs) and bias of a linear map."""
    found = entry(params, path)
    if not isinstance(found, Mapping):
        return np.asarray(found).T, None
    bias = found.get("bias")
    return np.asarray(found["kernel"]).T, None if bias is None else np.asarray(bias)


def _attribute(path: str) -> str:
    return path.replace("/", "_")


def _call_text(called: str, arguments: list[str]) -> Iterator[str]:
    """A call, one argument a line where it would be too long."""
    line = f"        {called}({', '.join(arguments)})"
    if len(line) <= _WIDTH:
        yield line
        return
    yield f"        {called}("
    yield from (f"            {argument}," for argument in arguments)
    yield "        )"
