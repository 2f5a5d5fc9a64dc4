"""Retinal vision-language foundation models in JAX."""

import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retfm_jax.model import RetinalModel, from_torch, load, to_torch

__version__ = importlib.metadata.version("retfm-jax")
__all__ = ["RetinalModel", "__version__", "from_torch", "load", "to_torch"]


def __getattr__(name: str) -> Any:
    # JAX takes a second to import; the command line answers without it.
    if name in ("RetinalModel", "from_torch", "load", "to_torch"):
        from retfm_jax import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
