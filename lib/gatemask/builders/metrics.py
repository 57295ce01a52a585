"""Validation without a threshold: the Dice that the best threshold would give, counted on the device."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from gatemask.masks.metric import dice
from gatemask.masks.rule import LEVELS


class BestThresholdDice(keras.metrics.Metric):
    """Mean Dice per image at each of 256 levels; the result is the best of them.

    Each update adds up histograms of the predicted probabilities, as uint8, for all pixels and for those of
    truth; cumulated from above they give area and intersection at every threshold. The state is one sum of
    scores per level, whatever the size of the validation set.

    Args:
        positives_only: count only images with a mask.
    """

    def __init__(self, positives_only: bool = False, name: str = "dice", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.positives_only = positives_only
        self.sums = self.add_weight(name="sums", shape=(LEVELS,), initializer="zeros")
        self.count = self.add_weight(name="count", shape=(), initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        images = y_pred.shape[0] or ops.shape(y_pred)[0]
        truth = ops.cast(ops.reshape(y_true, (images, -1)), "float32")
        levels = ops.cast(ops.floor(ops.reshape(y_pred, (images, -1)) * 255.0 + 0.5), "int32")
        area = _reached(levels, ops.ones_like(truth))
        intersection = _reached(levels, truth)
        per_image = ops.sum(truth, axis=1, keepdims=True)
        weight = ops.ones((images,)) if sample_weight is None else ops.reshape(sample_weight, (images, -1))[:, 0]
        weight = ops.cast(weight, "float32")
        if self.positives_only:
            weight = weight * ops.cast(per_image[:, 0] > 0, "float32")
        scores = dice(intersection, area, per_image)
        self.sums.assign(self.sums + ops.sum(scores * weight[:, None], axis=0))
        self.count.assign(self.count + ops.sum(weight))

    def result(self) -> Any:
        return ops.max(self.sums[1:]) / ops.maximum(self.count, 1.0)


def _reached(levels: Any, weights: Any) -> Any:
    """Per image, the weight of the pixels at or above each level: (images, 256)."""
    images = levels.shape[0] or ops.shape(levels)[0]
    bins = ops.arange(images, dtype="int32")[:, None] * LEVELS + levels
    flat = ops.segment_sum(ops.reshape(weights, (-1,)), ops.reshape(bins, (-1,)), num_segments=images * LEVELS)
    histogram = ops.reshape(flat, (images, LEVELS))
    return ops.flip(ops.cumsum(ops.flip(histogram, axis=1), axis=1), axis=1)


def build(task: str) -> list[keras.metrics.Metric]:
    """The metrics of a task; their names are what `monitor:` may say."""
    if task == "gate":
        return [keras.metrics.AUC(name="auc")]
    return [BestThresholdDice(name="dice"), BestThresholdDice(positives_only=True, name="dice_positives")]
