"""Competition metrics, computed from pixel counts. The Dice formula serves numpy arrays and tensors alike.

A metric is a function from the counts of each image and class to a pair (worth, weight) of the same shape. The score is
the sum of worths over the sum of weights, averaged over classes. In this form any metric can be tuned on threshold
tables, cross-fitted and bootstrapped by the same few lines: resampling images only reweighs two sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gatemask.config import COUNTED_METRICS

Worths = tuple[np.ndarray, np.ndarray]  # worth and weight, float (n, classes)
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], Worths]


def dice_score(intersection: Any, area: Any, truth: Any) -> Any:
    """Return the Dice score from pixel counts: 2 |truth and mask| / (|truth| + |mask|), and 1 where both are empty.

    Args:
        intersection: Number of pixels in both truth and mask, float, any shape.
        area: Number of pixels in the mask, same shape.
        truth: Number of pixels in the truth, broadcastable to it.

    Returns:
        Scores in [0, 1]. Plain arithmetic, so numpy arrays and tensors of any backend are accepted.

    >>> dice_score(np.array([2.0, 0.0]), np.array([4.0, 0.0]), np.array([4.0, 0.0])).tolist()
    [0.5, 1.0]
    """
    total = area + truth
    both_empty = 0.0**total  # 1 where there are no pixels, else 0; arithmetic that every backend supports
    return (2.0 * intersection + both_empty) / (total + both_empty)


def dice_of_masks(truth: np.ndarray, mask: np.ndarray) -> float:
    """Return the Dice score of one image.

    Args:
        truth: bool (height, width).
        mask: bool (height, width).

    >>> dice_of_masks(np.array([[True, True, False]]), np.array([[False, True, True]]))
    0.5
    """
    return float(dice_score(float((truth & mask).sum()), float(mask.sum()), float(truth.sum())))


def mean_dice(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> Worths:
    """Return the mean Dice: an image empty on both sides scores 1, on one side 0.

    >>> mean_dice(np.array([0.0, 3.0]), np.array([0.0, 3.0]), np.array([0.0, 9.0]))[0].tolist()
    [1.0, 0.5]
    """
    scores = dice_score(intersection, area, truth)
    return scores, np.ones_like(scores)


def dice_positives(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> Worths:
    """Return the mean Dice of the positive images; the others have weight 0.

    >>> dice_positives(np.array([0.0, 3.0]), np.array([0.0, 3.0]), np.array([0.0, 9.0]))[1].tolist()
    [0.0, 1.0]
    """
    positive = (truth > 0).astype(float)
    return positive * dice_score(intersection, area, truth), positive


def global_dice(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> Worths:
    """Return one Dice over the pixels of all images together.

    >>> total(*global_dice(np.array([[1.0], [3.0]]), np.array([[1.0], [5.0]]), np.array([[1.0], [9.0]])))
    0.5
    """
    return 2.0 * intersection, area + truth


def mean_iou(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> Worths:
    """Return the mean intersection over union; an image empty on both sides scores 1.

    >>> mean_iou(np.array([2.0]), np.array([3.0]), np.array([3.0]))[0].tolist()
    [0.5]
    """
    union = area + truth - intersection
    both_empty = union == 0
    scores = (intersection + both_empty) / (union + both_empty)
    return scores, np.ones_like(scores)


def mean_precision(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> Worths:
    """Return the share of IoU thresholds 0.5, 0.55, ... 0.95 exceeded: one object per image.

    >>> mean_precision(np.array([11.0]), np.array([11.0]), np.array([20.0]))[0].tolist()
    [0.1]
    """
    union = area + truth - intersection
    # In twentieths, so that an IoU of exactly one half does not exceed one half.
    exceeded = [(20 * intersection > (10 + step) * union) for step in range(10)]
    scores = np.where(union == 0, 1.0, np.mean(exceeded, axis=0))
    return scores, np.ones_like(scores)


def pixel_f05(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> Worths:
    """Return one F-beta over the pixels of all images together, with beta 0.5: a false pixel weighs more.

    >>> total(*pixel_f05(np.array([[1.0]]), np.array([[1.0]]), np.array([[5.0]])))
    0.5555555555555556
    """
    return _f_beta(0.5, intersection, area, truth)


def pixel_f2(intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> Worths:
    """Return one F-beta over the pixels of all images together, with beta 2: a missed pixel weighs more.

    >>> total(*pixel_f2(np.array([[1.0]]), np.array([[6.0]]), np.array([[1.0]])))
    0.5
    """
    return _f_beta(2.0, intersection, area, truth)


def _f_beta(beta: float, intersection: np.ndarray, area: np.ndarray, truth: np.ndarray) -> Worths:
    """(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP): precision and recall, recall counting b times as much."""
    return (1 + beta**2) * intersection, beta**2 * truth + area


# Values of `metric` in competition.yaml that pixel counts decide, and the functions of the same names.
METRICS: dict[str, Metric] = {name: globals()[name] for name in COUNTED_METRICS}


def guide(metric: str) -> str:
    """Return the counted metric that guides a search: the metric itself, or the mean Dice where masks decide it.

    >>> guide("global_dice"), guide("surface_dice")
    ('global_dice', 'mean_dice')
    """
    return metric if metric in METRICS else "mean_dice"


def total(worth: np.ndarray, weight: np.ndarray) -> float:
    """Return the score of many images.

    Args:
        worth: float (n, classes).
        weight: float (n, classes).

    Returns:
        Sum of worths over sum of weights, averaged over classes. A class without weight scores 1: it had nothing to
        find, and nothing was missed.

    >>> total(np.array([[1.0], [0.5]]), np.array([[1.0], [1.0]]))
    0.75
    """
    return float(np.mean(ratio(worth.sum(axis=0), weight.sum(axis=0))))


def ratio(worth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return worth / weight, and 1 where there is no weight.

    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
    [0.5, 1.0]
    """
    weightless = weight == 0
    quotient: np.ndarray = (worth + weightless) / (weight + weightless)
    return quotient
