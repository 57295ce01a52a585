"""Validation without a threshold: histograms on the device tell what each of 256 thresholds would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from gatemask.masks.metrics import dice
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


class GateCurve(keras.metrics.Metric):
    """What a gate's probabilities are worth: `auc`, and `sensitivity` and `specificity` at the best threshold.

    The state is a histogram of the probabilities, rounded to 256 levels, of images with and without a mask. AUC
    is the area under the curve through all levels (trapezoids, so that ties count half); the best threshold
    is that of the largest sensitivity + specificity - 1 (Youden 1950). Without both kinds of images all are 0.
    """

    def __init__(self, name: str = "gate", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.counts = self.add_weight(name="counts", shape=(2, LEVELS), initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        truth = ops.cast(ops.cast(ops.reshape(y_true, (-1,)), "float32") > 0.5, "int32")
        levels = ops.cast(ops.floor(ops.reshape(y_pred, (-1,)) * 255.0 + 0.5), "int32")
        ones = ops.ones_like(levels, dtype="float32")
        weight = ones if sample_weight is None else ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        counts = ops.segment_sum(weight, truth * LEVELS + levels, num_segments=2 * LEVELS)
        self.counts.assign(self.counts + ops.reshape(counts, (2, LEVELS)))

    def result(self) -> dict[str, Any]:
        reached = ops.flip(ops.cumsum(ops.flip(self.counts, axis=1), axis=1), axis=1)
        shares = reached / ops.maximum(reached[:, :1], 1.0)
        shares = shares * ops.cast(ops.min(reached[:, 0]) > 0, "float32")
        false, true = shares[0], shares[1]
        padded_false, padded_true = ops.pad(false, (0, 1)), ops.pad(true, (0, 1))
        area = ops.sum((padded_false[:-1] - padded_false[1:]) * (padded_true[:-1] + padded_true[1:]) / 2)
        best = ops.argmax(true - false)
        specificity = (1 - ops.take(false, best)) * ops.cast(ops.min(reached[:, 0]) > 0, "float32")
        return {"auc": area, "sensitivity": ops.take(true, best), "specificity": specificity}


class MeanLoss(keras.metrics.Mean):
    """The mean of a loss over images. Keras's own mean over batches would take a padded one for a whole one.

    Args:
        loss: truth, probabilities and weights to one number an image, as losses.WeightedLoss.call.
    """

    def __init__(self, loss: Callable[..., Any], name: str = "val_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._of_images = loss

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        weight = None if sample_weight is None else ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        super().update_state(self._of_images(y_true, y_pred, weight), sample_weight=weight)


def build_metrics(task: str) -> list[keras.metrics.Metric]:
    """The metrics of a task. `evaluate(..., return_dict=True)` gives what `monitor:` may say.

    Of gates: auc, sensitivity, specificity; of masks: dice, dice_positives.
    """
    if task == "gate":
        return [GateCurve()]
    return [BestThresholdDice(name="dice"), BestThresholdDice(positives_only=True, name="dice_positives")]
