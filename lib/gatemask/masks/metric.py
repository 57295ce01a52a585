"""The competition's metric, from counts of pixels. One formula for numpy arrays and for tensors.

Mean Dice as SIIM-ACR counts it: 2 |truth and mask| / (|truth| + |mask|) for each image; an image whose truth
and mask are both empty scores 1, and one where just one of the two is empty scores 0 by the formula itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def dice(intersection: Any, area: Any, truth: Any) -> Any:
    """Dice of each image from pixel counts.

    Args:
        intersection: pixels in both truth and mask, any shape, float.
        area: pixels in the mask, same shape.
        truth: pixels in the truth, broadcastable.

    Returns:
        Scores in 0 to 1. Plain arithmetic, so it takes numpy arrays and the tensors of any backend.
    """
    total = area + truth
    both_empty = 0.0**total  # 1 where there is no pixel, else 0; arithmetic that every backend knows
    return (2.0 * intersection + both_empty) / (total + both_empty)


def dice_of_masks(truth: np.ndarray, mask: np.ndarray) -> float:
    """Dice of one image from two boolean masks (height, width)."""
    return float(dice(float((truth & mask).sum()), float(mask.sum()), float(truth.sum())))


# What a competition.yaml may name as `metric`: per-image, per-class scores in, one number out.
METRICS: dict[str, Callable[[np.ndarray], float]] = {"mean_dice": lambda scores: float(scores.mean())}
