"""The methods' networks and objectives in PyTorch, with transformers' towers, to measure against.

A twin is found by its method's name, `NETWORK` in a file of that name, and imports no JAX. There
are those whose towers transformers has: the vision transformer, BERT, torchvision's residual
network.
"""

import importlib
import pkgutil
from typing import Any


def twin_names() -> list[str]:
    """Methods that have a twin."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if name != "towers")


def network_of(method: str) -> Any:
    """The class of a method's network: an `nn.Module` of a batch, made from `config.model`.

    It returns the loss, and `after_update` does what follows the optimizer's step.
    """
    return importlib.import_module(f"{__name__}.{method}").NETWORK
