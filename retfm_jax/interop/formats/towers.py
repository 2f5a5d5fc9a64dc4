"""Image towers, and heads behind them, under the names of other libraries."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from retfm_jax.config import ImageConfig
from retfm_jax.data.images import decode, fit
from retfm_jax.errors import UserError
from retfm_jax.files import read_json
from retfm_jax.interop.formats.base import PREPROCESSING, Exported
from retfm_jax.interop.formats.steps import entry
from retfm_jax.interop.huggingface import image_processor
from retfm_jax.interop.layouts import tower_method
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.methods import get_method_class
from retfm_jax.methods.base import MethodState
from retfm_jax.methods.outputs import CLASS_LOGITS, IMAGE_FEATURES, ImageTower, LinearMap
from retfm_jax.models.vit import ViTConfig


def image_tower_of(network: Exported) -> ImageTower:
    """The tower whose features a network gives.

    Args:
      network: whose outputs are told.
    """
    (output,) = (each for each in network.told(ImageTower) if each.name == IMAGE_FEATURES)
    assert isinstance(output.tower, ImageTower)
    return output.tower


def tower_tensors(
    network: Exported, layout: str | None, *, projection: bool = False
) -> dict[str, np.ndarray]:
    """Arrays of the image tower, as another library calls them.

    Args:
      network: whose outputs are told.
      layout: of a vision transformer, one of `models.vit_names.LAYOUTS`; None of others.
      projection: whether a vision transformer's projection is wanted, too.
    """
    tower = image_tower_of(network)
    params = dict(entry(network.params, tower.path))
    if tower.norm is not None:
        params["ln_post"] = entry(network.params, tower.norm)
    config, embed_dim = tower.config, None
    if isinstance(config, ViTConfig):
        kept = params.pop("projection", None)
        if projection and kept is not None:
            params["projection"], embed_dim = kept, kept.shape[1]
        # What training drops, or computes again, is not in the arrays.
        config = dataclasses.replace(config, drop_path=0.0, patch_dropout=0.0)
    cls = get_method_class(tower_method())
    sizes = {"image": config, "embed_dim": embed_dim}
    method = cls(cls.config_class(**sizes, **({} if layout is None else {"layout": layout})))
    statistics = network.state.batch_stats.get(tower.path)
    state = MethodState({} if statistics is None else {"visual": statistics}, {})
    return to_state_dict(method, {"visual": params}, state)


def classes_head(network: Exported) -> tuple[np.ndarray, np.ndarray]:
    """Weight (c, d) and bias (c,) of the head for classes behind the tower's features.

    They are divided by the temperature: the softmax, of findings the sigmoids, of what it gives
    are the calibrated probabilities.

    Args:
      network: with classes.

    Raises:
      UserError: it is more than a linear map.
    """
    assert network.decisions is not None
    (output,) = (each for each in network.method.outputs if each.name == CLASS_LOGITS)
    tower, *steps = output.steps
    own = "embedding" if isinstance(tower, ImageTower) and tower.projected else "features"
    if len(steps) != 1 or not isinstance(steps[0], LinearMap):
        raise UserError(
            "the head of this network sees its embedding with unit norm, and no head of that "
            "library does: export to torch or onnx"
        )
    head = entry(network.params, steps[0].path)
    temperature = np.float32(network.decisions.temperature)
    kernel = np.asarray(head["kernel"])
    projection = entry(network.params, output.tower.path).get("projection")
    if own == "embedding" and projection is not None:  # two linear maps are one
        kernel = np.asarray(projection, np.float64) @ kernel
    weight = (kernel / temperature).astype(np.float32).T
    return weight, np.asarray(head["bias"]) / temperature


def require_terms(network: Exported, library: str) -> None:
    """Refuses preprocessing that other libraries have no words for.

    Args:
      network: whose preprocessing it is.
      library: that is asked, for the message.

    Raises:
      UserError: it pads, looks for the lit disc or equalizes.
    """
    if image_processor(network.data.image) is None:
        image = network.data.image
        raise UserError(
            f"{library} has no terms for this network's preprocessing (resize {image.resize}, "
            f"field_of_view {image.field_of_view}, contrast {image.contrast}): export to torch or "
            "onnx"
        )


def pixels_of(folder: pathlib.Path, photographs: Sequence[bytes]) -> np.ndarray:
    """Normalized planes (n, 3, h, w) float32, as this package makes them.

    Args:
      folder: with `preprocessing.json`.
      photographs: encoded.
    """
    said = read_json(folder / PREPROCESSING)
    config = ImageConfig(**said)
    rows = np.stack([fit(decode(data, "photograph"), config) for data in photographs])
    mean, std = (np.array(said[name], np.float32) for name in ("mean", "std"))
    return ((rows.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2).copy()
