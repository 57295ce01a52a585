"""Losses on `keras.ops`, and their weighted sum as a YAML spells it: `loss: {bce: 1, dice: 1}`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from gatemask.config.schema import LossName


class Sum(keras.losses.Loss):
    """The weighted sum of named losses: of truth (0 or 1) and probabilities, same shape, one number an image.

    Args:
        weights: name to weight.
        label_smoothing: for the parts that are cross-entropies.
    """

    def __init__(self, weights: dict[LossName, float], label_smoothing: float = 0.0) -> None:
        # By sample weight: the images that pad the last batch of a validation count for nothing.
        super().__init__(name="sum", reduction="mean_with_sample_weight")
        self._parts = [(weight, LOSSES[name]) for name, weight in weights.items()]
        self._label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        truth = ops.cast(y_true, y_pred.dtype)
        return sum(weight * part(truth, y_pred, self._label_smoothing) for weight, part in self._parts)


def bce(truth: Any, probability: Any, label_smoothing: float) -> Any:
    """Binary cross-entropy, averaged over an image. Smoothing moves 0 and 1 to s/2 and 1 - s/2."""
    truth = truth * (1 - label_smoothing) + label_smoothing / 2
    return _per_image(ops.binary_crossentropy(truth, probability), ops.mean)


def focal(truth: Any, probability: Any, label_smoothing: float) -> Any:
    """Cross-entropy weighted by (1 - p of the truth)^2 (Lin 2017, gamma 2, no class weight)."""
    wrong = truth * (1 - probability) + (1 - truth) * probability
    truth = truth * (1 - label_smoothing) + label_smoothing / 2
    return _per_image(wrong**2 * ops.binary_crossentropy(truth, probability), ops.mean)


def dice(truth: Any, probability: Any, label_smoothing: float) -> Any:
    """1 - soft Dice of each image (Milletari 2016), with 1 pixel added above and below: an empty pair costs 0."""
    intersection = _per_image(truth * probability, ops.sum)
    total = _per_image(truth, ops.sum) + _per_image(probability, ops.sum)
    return 1 - (2 * intersection + 1) / (total + 1)


LOSSES: dict[str, Callable[[Any, Any, float], Any]] = {"bce": bce, "dice": dice, "focal": focal}


def _per_image(x: Any, reduce: Callable[..., Any]) -> Any:
    return reduce(ops.reshape(x, (keras.ops.shape(x)[0], -1)), axis=1)
