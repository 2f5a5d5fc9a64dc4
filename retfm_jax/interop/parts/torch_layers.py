"""Layers of exported PyTorch networks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unit(x: Tensor) -> Tensor:
    """Divides vectors by their Euclidean norm.

    Args:
      x: vectors (n, d).
    """
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def heads_first(x: Tensor, heads: int) -> Tensor:
    """Splits tokens among heads, (n, tokens, d) -> (n, heads, tokens, d / heads).

    Args:
      x: tokens.
      heads: their number.
    """
    return x.reshape(x.shape[0], -1, heads, x.shape[2] // heads).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None) -> Tensor:
    """Computes softmax attention, `softmax(q k^T / sqrt(w)) v`, (n, tokens, heads w).

    Args:
      query, key, value: (n, heads, tokens, w).
      seen: which keys may be seen, (n, tokens) bool; None: all.
    """
    mask = None if seen is None else seen[:, None, None, :]
    x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return x.transpose(1, 2).flatten(2)


class Gelu(nn.Module):
    """The exact GELU, by the error function."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes it.

        Args:
          x: any values.
        """
        return F.gelu(x)


class TanhGelu(nn.Module):
    """GELU by the hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes it.

        Args:
          x: any values.
        """
        return F.gelu(x, approximate="tanh")


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), as in CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes it.

        Args:
          x: any values.
        """
        return x * torch.sigmoid(1.702 * x)


class SwiGlu(nn.Module):
    """One half of the channels, by its SiLU, times the other half."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes it.

        Args:
          x: (..., 2 d).
        """
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


ACTIVATIONS = {"gelu": Gelu, "gelu_tanh": TanhGelu, "quick_gelu": QuickGelu, "swiglu": SwiGlu}
