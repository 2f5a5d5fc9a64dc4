"""Steps of a network's outputs as lines of code, in whatever dialect of Python."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.interop.formats.base import Exported
from retfm_jax.methods.outputs import (
    CLASS_LOGITS,
    CLASS_PROBABILITIES,
    PIXEL_LOGITS,
    PIXEL_PROBABILITIES,
    AnyTower,
    ImageTower,
    LinearMap,
    PixelDecoder,
    Relu,
    Scale,
    Step,
    TextTower,
    TowerMaps,
    Twice,
    Unit,
)
from retfm_jax.models import resnet, unetr, vit

#: Parts of towers that make vectors of feature maps.
BEHIND_MAPS = ("projection", "pooling", "attnpool")


class Dialect(abc.ABC):
    """How a library says the steps; `unit` is a function in all of them."""

    @abc.abstractmethod
    def tower(self, tower: ImageTower | TextTower, given: str) -> str:
        """Calls a tower.

        Args:
          tower: that is called.
          given: name of its input.
        """

    @abc.abstractmethod
    def maps(self, tower: TowerMaps, given: str) -> str:
        """Calls a tower for its feature maps.

        Args:
          tower: that is called.
          given: name of its input.
        """

    @abc.abstractmethod
    def pixels(self, decoder: PixelDecoder, maps: str, images: str) -> str:
        """Calls a decoder, whose logits come as (n, h, w, k).

        Args:
          decoder: that is called.
          maps, images: names of its inputs.
        """

    @abc.abstractmethod
    def linear(self, path: str, value: str) -> str:
        """Calls a linear map.

        Args:
          path: of its parameters.
          value: name of its input.
        """

    @abc.abstractmethod
    def relu(self, value: str) -> str:
        """The larger one of a value and 0.

        Args:
          value: its name.
        """

    @abc.abstractmethod
    def twice(self, value: str) -> str:
        """A vector beside itself.

        Args:
          value: its name.
        """

    @abc.abstractmethod
    def probabilities(self, scaled: str, findings: bool) -> str:
        """Probabilities of scaled logits.

        Args:
          scaled: an expression.
          findings: whether classes are present or absent each on its own.
        """


def image_lines(network: Exported, given: str, dialect: Dialect, indent: int) -> Iterator[str]:
    """Lines that compute all outputs of photographs, and return them by name.

    Args:
      network: whose outputs are told.
      given: name of the photographs, normalized.
      dialect: of the lines.
      indent: spaces before each.
    """
    if network.maps is None:
        yield from output_lines(network, ImageTower, given, dialect, indent)
        return
    (tower, decoder), space = network.maps, " " * indent
    said = dialect.probabilities(PIXEL_LOGITS, not decoder.exclusive)
    yield f"{space}maps = {dialect.maps(tower, given)}"
    yield f"{space}{PIXEL_LOGITS} = {dialect.pixels(decoder, 'maps', given)}"
    if decoder.exclusive:  # before the structures stands the background
        said += "[..., 1:]"
    yield f"{space}{PIXEL_PROBABILITIES} = {said}"
    yield from _returned((PIXEL_LOGITS, PIXEL_PROBABILITIES), space)


def output_lines(
    network: Exported, kind: type, given: str, dialect: Dialect, indent: int
) -> Iterator[str]:
    """Lines that compute all outputs of a tower, and return them by name.

    Args:
      network: whose outputs are told.
      kind: of the tower, `outputs.ImageTower` or `outputs.TextTower`.
      given: name of the tower's input.
      dialect: of the lines.
      indent: spaces before each.
    """
    space = " " * indent
    outputs, names = network.told(kind), []
    tower = outputs[0].tower
    assert not isinstance(tower, TowerMaps)
    left = "embedding, features" if isinstance(tower, ImageTower) else "text"
    yield f"{space}{left} = {dialect.tower(tower, given)}"
    for output in outputs:
        first, *steps = output.steps
        value = "text"
        if isinstance(first, ImageTower):
            value = "embedding" if first.projected else "features"
        for step in steps:
            yield f"{space}{output.name} = {_step(step, value, network, dialect)}"
            value = output.name
        if not steps:
            yield f"{space}{output.name} = {value}"
        names.append(output.name)
        if output.name == CLASS_LOGITS:
            assert network.decisions is not None
            scaled = f"{output.name} / {network.decisions.temperature!r}"
            findings = network.decisions.outcome == "findings"
            said = dialect.probabilities(scaled, findings)
            yield f"{space}{CLASS_PROBABILITIES} = {said}"
            names.append(CLASS_PROBABILITIES)
    yield from _returned(names, space)


def _returned(names: Sequence[str], space: str) -> Iterator[str]:
    yield f"{space}return {{"
    yield from (f'{space}    "{name}": {name},' for name in names)
    yield f"{space}}}"


def _step(step: Step, value: str, network: Exported, dialect: Dialect) -> str:
    match step:
        case LinearMap(path):
            return dialect.linear(path, value)
        case Relu():
            return dialect.relu(value)
        case Unit():
            return f"unit({value})"
        case Twice():
            return dialect.twice(value)
        case Scale(factor):
            return f"{_factor(network.params, factor)!r} * {value}"
    raise ValueError(f"{step} stands behind a tower")


def _factor(params: Mapping[str, Any], factor: float | str) -> float:
    if isinstance(factor, str):
        return float(np.exp(np.asarray(entry(params, factor), np.float64)))
    return factor


def towers_of(network: Exported) -> dict[str, AnyTower]:
    """Towers of a network by the path of their parameters.

    Args:
      network: whose outputs are told.
    """
    return {output.tower.path: output.tower for output in network.method.outputs}


def tower_sizes(tower: AnyTower, network: Exported) -> dict[str, Any]:
    """Sizes of a tower by name, as the towers of `interop.parts` take them.

    Args:
      tower: of the network.
      network: whose parameters tell what the tower's configuration does not.
    """
    if isinstance(tower, TextTower):
        config = tower.config
        return {
            "vocab_size": config.vocab_size,
            "positions": config.positions,
            "types": config.types,
            "width": config.width,
            "layers": config.layers,
            "heads": config.num_heads,
            "hidden": config.mlp_width,
            "states": tower.states,
            "pooling": tower.tokens,
        }
    config, own = tower.config, entry(network.params, tower.path)
    if isinstance(tower, TowerMaps):  # without what makes vectors of maps
        own = {name: each for name, each in own.items() if name not in BEHIND_MAPS}
    if isinstance(config, vit.ViTConfig):
        projection = own.get("projection")
        return {
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "width": config.width,
            "layers": config.layers,
            "heads": config.num_heads,
            "hidden": config.hidden_width,
            "activation": config.activation,
            "eps": config.norm_eps,
            "pre_norm": config.pre_norm,
            "patch_bias": config.patch_bias,
            "qkv_bias": config.qkv_bias,
            "layer_scale": config.layer_scale,
            "class_token": config.class_token,
            "registers": config.registers,
            "rope": config.positions == "rope",
            "class_position": config.class_position,
            "pooling": "mean" if isinstance(tower, TowerMaps) else config.pooling,
            "embed_dim": None if projection is None else projection.shape[1],
        }
    sizes: dict[str, Any] = {"stages": config.stages, "width": config.width}
    if isinstance(config, resnet.ClipResNetConfig):
        pool = own.get("attnpool")
        embed_dim = None if pool is None else pool["out"]["kernel"].shape[1]
        sizes |= {"image_size": config.image_size, "embed_dim": embed_dim}
    return sizes


def decoder_sizes(network: Exported) -> dict[str, Any]:
    """Sizes of a network's decoder by name, as the decoders of `interop.parts` take them.

    Args:
      network: that finds structures, or writes reports.
    """
    if network.writer is not None:
        _, writer = network.writer
        places = None if writer.places is None else entry(network.params, writer.places)
        return {
            "features": entry(network.params, f"{writer.path}/embed/kernel").shape[0],
            "vocabulary": writer.vocabulary,
            "width": writer.config.width,
            "hidden": writer.config.mlp_width,
            "layers": writer.config.layers,
            "heads": writer.config.heads,
            "positions": writer.config.positions,
            "places": None if places is None else places.shape[0],
        }
    assert network.maps is not None
    tower, decoder = network.maps
    if isinstance(decoder.config, unetr.UnetrConfig):
        assert isinstance(tower.config, vit.ViTConfig)
        sizes = {"width": tower.config.width, "channels": decoder.config.channels}
    else:
        assert isinstance(tower.config, resnet.ResNetConfig)
        inside = entry(network.params, f"{decoder.path}/bridge1/conv/kernel").shape[-1]
        sizes = {"widths": tower.config.map_widths, "inside": inside}
    return sizes | {"outputs": decoder.outputs}


def entry(params: Mapping[str, Any], path: str) -> Any:
    """Parameter, or parameters, at a path.

    Args:
      params: all parameters, a nested dict.
      path: parts joined by "/".

    Raises:
      UserError: there is none: the method tells of something else than it has.
    """
    found: Any = params
    for part in path.split("/"):
        if not isinstance(found, Mapping) or part not in found:
            raise UserError(
                f"the method tells of {path} in its outputs, and the network has no such parameter"
            )
        found = found[part]
    return found
