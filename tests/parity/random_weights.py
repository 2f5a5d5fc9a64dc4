"""Random values for every parameter of a network of PyTorch."""

import torch


def randomize(network: torch.nn.Module) -> None:
    """Gives every parameter random values of a size at which each matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            spread = 0.1 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            parameter.copy_(is_scale + spread * torch.randn_like(parameter))
