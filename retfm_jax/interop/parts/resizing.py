"""Weights by which exported networks resize feature maps."""

import numpy as np


def linear_weights(old: int, new: int) -> np.ndarray:
    """Computes weights (new, old) float32 of linear interpolation, with antialiasing, along a side.

    Args:
      old, new: its length before and after, in pixels.
    """
    step = old / new
    centers = (np.arange(new) + 0.5) * step - 0.5
    distances = np.abs(np.arange(old) - centers[:, None]) / max(step, 1.0)
    weights = (1 - distances).clip(min=0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
