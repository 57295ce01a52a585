"""Competition metrics, from counts of pixels. The Dice formula serves numpy arrays and tensors alike.

A metric is a function: counts of each image and class in, a pair (worth, weight) of the same shape out. The score is
the sum of worths over the sum of weights, averaged over classes. Written so, any metric here can be tuned on threshold
tables, cross-fitted and bootstrapped by the same few lines: resampling images only reweighs two sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gatemask.config import METRIC_TITLES

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def dice(intersection: Any, area: Any, truth: Any) -> Any:
    """Dice of each image from pixel counts: 2 |truth and mask| / (|truth| + |mask|), and 1 where both are empty.

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


def mean_dice(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As SIIM-ACR counts: empty on both sides scores 1, on one side 0 (by the formula itself)."""
    found = dice(intersection, area, truth)
    return found, np.ones_like(found)


def dice_positives(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean Dice of the images that have a mask; the others do not count."""
    present = (truth > 0).astype(float)
    return present * dice(intersection, area, truth), present


def global_dice(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One Dice over the pixels of all images together."""
    return 2.0 * intersection, area + truth


def mean_iou(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union of each image; empty on both sides scores 1."""
    union = area + truth - intersection
    both_empty = union == 0
    found = (intersection + both_empty) / (union + both_empty)
    return found, np.ones_like(found)


def mean_precision(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As TGS Salt counted, one object an image: the share of IoU thresholds 0.5, 0.55, ... 0.95 that are exceeded."""
    union = area + truth - intersection
    # In twentieths, so that an IoU of exactly one half is not above one half.
    hits = [(20 * intersection > (10 + step) * union) for step in range(10)]
    found = np.where(union == 0, 1.0, np.mean(hits, axis=0))
    return found, np.ones_like(found)


# What a competition.yaml may name as `metric`: the function of that name, and how it is shown.
TITLES = METRIC_TITLES
METRICS: dict[str, Metric] = {name: globals()[name] for name in METRIC_TITLES}


def total(worth: np.ndarray, weight: np.ndarray) -> float:
    """The score of many images.

    Args:
        worth: float (n, classes).
        weight: the same shape.

    Returns:
        Sum of worths over sum of weights, averaged over the classes; 1 where nothing has weight, since nothing was
        there to be found, and nothing was.
    """
    return float(np.mean(ratio(worth.sum(axis=0), weight.sum(axis=0))))


def ratio(worth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """worth / weight, and 1 where there is no weight."""
    nothing = weight == 0
    return (worth + nothing) / (weight + nothing)
