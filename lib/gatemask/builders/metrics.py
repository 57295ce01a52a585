"""Validate without a threshold: histograms on the device show what each of 256 thresholds would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from gatemask.builders.tensor import Tensor
from gatemask.masks.metrics import dice_score
from gatemask.masks.rule import LEVELS


class BestThresholdDice(keras.metrics.Metric):
    """Mean Dice per image, at the best of 255 thresholds.

    Each update builds histograms of the predicted levels, as uint8, of all pixels and of mask pixels. Cumulated from
    above, they give area and intersection at every threshold. The state is one sum of scores per level, however large
    the validation set is.

    Args:
        positives_only: Whether to count only images with a mask. Default: False.
        name: Name of the metric. Default: "dice".
        kwargs: Options of every Keras metric.
    """

    def __init__(self, positives_only: bool = False, name: str = "dice", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.positives_only = positives_only
        self.sums = self.add_weight(name="sums", shape=(LEVELS,), initializer="zeros")
        self.count = self.add_weight(name="count", shape=(), initializer="zeros")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        images = y_pred.shape[0] or ops.shape(y_pred)[0]
        truth = ops.cast(ops.reshape(y_true, (images, -1)), "float32")
        levels = _to_levels(ops.reshape(y_pred, (images, -1)))
        area = _sum_from_level(levels, ops.ones_like(truth))
        intersection = _sum_from_level(levels, truth)
        truth_area = ops.sum(truth, axis=1, keepdims=True)
        weight = ops.ones((images,)) if sample_weight is None else ops.reshape(sample_weight, (images, -1))[:, 0]
        weight = ops.cast(weight, "float32")
        if self.positives_only:
            weight = weight * ops.cast(truth_area[:, 0] > 0, "float32")
        scores = dice_score(intersection, area, truth_area)
        self.sums.assign(self.sums + ops.sum(scores * weight[:, None], axis=0))
        self.count.assign(self.count + ops.sum(weight))

    def result(self) -> Tensor:
        return ops.max(self.sums[1:]) / ops.maximum(self.count, 1.0)


def _to_levels(probabilities: Tensor) -> Tensor:
    return ops.cast(ops.floor(probabilities * 255.0 + 0.5), "int32")


def _sum_from_level(levels: Tensor, weights: Tensor) -> Tensor:
    """Sum the weights of the pixels at or above each level, per image: (images, 256)."""
    images = levels.shape[0] or ops.shape(levels)[0]
    bins = ops.arange(images, dtype="int32")[:, None] * LEVELS + levels
    flat = ops.segment_sum(ops.reshape(weights, (-1,)), ops.reshape(bins, (-1,)), num_segments=images * LEVELS)
    return _cumulate_from_above(ops.reshape(flat, (images, LEVELS)))


def _cumulate_from_above(histograms: Tensor) -> Tensor:
    return ops.flip(ops.cumsum(ops.flip(histograms, axis=1), axis=1), axis=1)


class GateCurve(keras.metrics.Metric):
    """Area under a gate's ROC curve (`auc`), and `sensitivity` and `specificity` at its best threshold.

    The state is a histogram of the probabilities, rounded to 256 levels, of images with and without a mask. The area is
    that under the curve through all levels (trapezoids, so ties count half). The best threshold has the largest
    sensitivity + specificity - 1 (Youden 1950). Without both kinds of images, all three are 0.

    Args:
        name: Name of the metric. Default: "gate".
        kwargs: Options of every Keras metric.
    """

    def __init__(self, name: str = "gate", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.counts = self.add_weight(name="counts", shape=(2, LEVELS), initializer="zeros")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        truth = ops.cast(ops.cast(ops.reshape(y_true, (-1,)), "float32") > 0.5, "int32")
        levels = _to_levels(ops.reshape(y_pred, (-1,)))
        ones = ops.ones_like(levels, dtype="float32")
        weight = ones if sample_weight is None else ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        counts = ops.segment_sum(weight, truth * LEVELS + levels, num_segments=2 * LEVELS)
        self.counts.assign(self.counts + ops.reshape(counts, (2, LEVELS)))

    def result(self) -> dict[str, Tensor]:
        counts = _cumulate_from_above(self.counts)
        has_both_kinds = ops.cast(ops.min(counts[:, 0]) > 0, "float32")
        shares = counts / ops.maximum(counts[:, :1], 1.0) * has_both_kinds
        false_positives, true_positives = shares[0], shares[1]
        padded_false, padded_true = ops.pad(false_positives, (0, 1)), ops.pad(true_positives, (0, 1))
        area = ops.sum((padded_false[:-1] - padded_false[1:]) * (padded_true[:-1] + padded_true[1:]) / 2)
        best = ops.argmax(true_positives - false_positives)
        specificity = (1 - ops.take(false_positives, best)) * has_both_kinds
        return {"auc": area, "sensitivity": ops.take(true_positives, best), "specificity": specificity}


class MeanLoss(keras.metrics.Mean):
    """Mean of a loss over images. Keras's own mean over batches would count a padded batch like a full one.

    Args:
        loss: Function from truth, probabilities and sample weights to one value per image, as `WeightedLoss.call`.
        name: Name of the metric. Default: "val_loss".
        kwargs: Options of every Keras metric.
    """

    def __init__(self, loss: Callable[..., Tensor], name: str = "val_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._loss_per_image = loss

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        weight = None if sample_weight is None else ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        super().update_state(self._loss_per_image(y_true, y_pred, weight), sample_weight=weight)


def build_metrics(task: str) -> list[keras.metrics.Metric]:
    """Return the metrics of a task, for `compile(weighted_metrics=...)`.

    Args:
        task: "gate" for auc, sensitivity and specificity; "mask" for dice and dice_positives. `evaluate` with
            `return_dict=True` reports them under these names, which are those that `monitor:` accepts.
    """
    if task == "gate":
        return [GateCurve()]
    return [BestThresholdDice(name="dice"), BestThresholdDice(positives_only=True, name="dice_positives")]
