"""An exported PyTorch network as functions of arrays."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn


def on_arrays(
    function: Callable[[Tensor], Mapping[str, Tensor]], network: nn.Module
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Makes a function of tensors one of arrays, without gradients.

    Args:
      function: of the network.
      network: whose device is used.
    """

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        device = next(network.parameters()).device
        with torch.inference_mode():
            found = function(torch.from_numpy(np.ascontiguousarray(values)).to(device))
        return {name: value.float().cpu().numpy() for name, value in found.items()}

    return run
