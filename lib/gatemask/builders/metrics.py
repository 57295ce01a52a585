"""Validate without a threshold: histograms on the device show what each of 256 thresholds would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from gatemask.builders.tensor import Tensor
from gatemask.input.layout import ONE_CLASS, Layout
from gatemask.masks.metrics import dice_score
from gatemask.masks.rule import LEVELS


class BestThresholdDice(keras.metrics.Metric):
    """Mean Dice per image, at the best of 255 thresholds; the mean of several classes, each at its own threshold.

    Each update builds histograms of the predicted levels, as uint8, of all pixels and of mask pixels. Cumulated from
    above, they give area and intersection at every threshold. The state is one sum of scores per class and level,
    however large the validation set is. Ignored pixels do not count, nor does the map of borders. Of soft masks, pixels
    count as mask from half on.

    Args:
        positives_only: Whether to count only images with a mask of the class. A class that no image shows is left out
            of the mean. Default: False.
        name: Name of the metric. Default: "dice".
        layout: Planes of the masks. Default: one class.
        with_threshold: Whether to report the best threshold too, as "threshold"; for one class only. Default: False.
        kwargs: Options of every Keras metric.

    >>> metric = BestThresholdDice(with_threshold=True)
    >>> metric.update_state([[[[1.0], [0.0]]]], ops.convert_to_tensor([[[[0.6], [0.2]]]]))
    >>> {name: round(float(value), 2) for name, value in metric.result().items()}
    {'dice': 1.0, 'threshold': 0.4}
    """

    def __init__(
        self,
        positives_only: bool = False,
        name: str = "dice",
        layout: Layout = ONE_CLASS,
        with_threshold: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.positives_only, self.layout, self.with_threshold = positives_only, layout, with_threshold
        self.sums = self.add_weight(name="sums", shape=(layout.classes, LEVELS), initializer="zeros")
        self.count = self.add_weight(name="count", shape=(layout.classes,), initializer="zeros")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        images, classes = y_pred.shape[0] or ops.shape(y_pred)[0], self.layout.classes
        planes = ops.cast(y_true, "float32")
        if self.layout.soft:
            planes = ops.cast(planes >= self.layout.half, "float32")
        truth = self._rows(planes, images)
        levels = _to_levels(self._rows(y_pred, images))
        counted = ops.ones_like(truth)
        if self.layout.ignored:
            kept = 1 - planes[..., -1:]
            counted = ops.repeat(ops.reshape(kept, (images, -1)), classes, axis=0)
            truth = truth * counted
        area = _sum_from_level(levels, counted)
        intersection = _sum_from_level(levels, truth)
        truth_area = ops.sum(truth, axis=1, keepdims=True)
        weight = ops.ones((images,)) if sample_weight is None else ops.reshape(sample_weight, (images, -1))[:, 0]
        weight = ops.repeat(ops.cast(weight, "float32"), classes)
        if self.positives_only:
            weight = weight * ops.cast(truth_area[:, 0] > 0, "float32")
        scores = dice_score(intersection, area, truth_area) * weight[:, None]
        self.sums.assign(self.sums + ops.sum(ops.reshape(scores, (images, classes, LEVELS)), axis=0))
        self.count.assign(self.count + ops.sum(ops.reshape(weight, (images, classes)), axis=0))

    def _rows(self, planes: Tensor, images: Tensor | int) -> Tensor:
        """Pixels of each image and class: (images * classes, pixels)."""
        classes = self.layout.classes
        if planes.shape[-1] != classes:
            planes = planes[..., :classes]
        if classes > 1:
            planes = ops.transpose(planes, (0, 3, 1, 2))
        return ops.reshape(planes, (images * classes, -1))

    def result(self) -> Tensor | dict[str, Tensor]:
        best = ops.max(self.sums[:, 1:], axis=1) / ops.maximum(self.count, 1.0)
        score = _mean_where(best, self.count > 0)
        return {self.name: score, "threshold": self._best_threshold()} if self.with_threshold else score

    def _best_threshold(self) -> Tensor:
        """Return the threshold of the first class; of equally good ones, the middle one."""
        sums = self.sums[0, 1:]
        best = ops.cast(sums >= ops.max(sums) * (1 - 1e-6), "int32")
        middle = ops.argmax(ops.cumsum(best) > ops.sum(best) // 2)
        return (ops.cast(middle, "float32") + 1.0) / 255.0


def _mean_where(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of the values that count, (n,); 0 if none does."""
    weights = ops.cast(counts, "float32")
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1.0)


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
    sensitivity + specificity - 1 (Youden 1950). Of a gate per class, each is the mean over the classes that have both
    kinds of images. Without both kinds, all three are 0.

    Args:
        name: Name of the metric. Default: "gate".
        labels: Number of probabilities per image. Default: 1.
        kwargs: Options of every Keras metric.

    >>> metric = GateCurve()
    >>> metric.update_state([[1.0], [1.0], [0.0]], ops.convert_to_tensor([[0.9], [0.3], [0.4]]))
    >>> {name: round(float(value), 2) for name, value in metric.result().items()}
    {'auc': 0.5, 'sensitivity': 0.5, 'specificity': 1.0}
    """

    def __init__(self, name: str = "gate", labels: int = 1, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.labels = labels
        self.counts = self.add_weight(name="counts", shape=(2 * labels, LEVELS), initializer="zeros")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        truth = ops.cast(ops.cast(ops.reshape(y_true, (-1, self.labels)), "float32") > 0.5, "int32")
        levels = _to_levels(ops.reshape(y_pred, (-1, self.labels)))
        weight = ops.ones_like(levels, dtype="float32")
        if sample_weight is not None:
            weight = weight * ops.cast(ops.reshape(sample_weight, (-1, 1)), "float32")
        bins = (2 * ops.arange(self.labels, dtype="int32")[None] + truth) * LEVELS + levels
        segments = 2 * self.labels * LEVELS
        counts = ops.segment_sum(ops.reshape(weight, (-1,)), ops.reshape(bins, (-1,)), num_segments=segments)
        self.counts.assign(self.counts + ops.reshape(counts, (2 * self.labels, LEVELS)))

    def result(self) -> dict[str, Tensor]:
        counts = ops.reshape(_cumulate_from_above(self.counts), (self.labels, 2, LEVELS))
        has_both_kinds = ops.min(counts[:, :, 0], axis=1) > 0
        shares = counts / ops.maximum(counts[:, :, :1], 1.0)
        false_positives, true_positives = shares[:, 0], shares[:, 1]
        padded_false, padded_true = (ops.pad(values, ((0, 0), (0, 1))) for values in (false_positives, true_positives))
        widths, heights = padded_false[:, :-1] - padded_false[:, 1:], padded_true[:, :-1] + padded_true[:, 1:]
        best = ops.argmax(true_positives - false_positives, axis=1)[:, None]
        sensitivity, missed = (
            ops.take_along_axis(values, best, axis=1)[:, 0] for values in (true_positives, false_positives)
        )
        values = {"auc": ops.sum(widths * heights / 2, axis=1), "sensitivity": sensitivity, "specificity": 1 - missed}
        return {name: _mean_where(value, has_both_kinds) for name, value in values.items()}


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


def build_metrics(task: str, layout: Layout = ONE_CLASS, labels: int = 1) -> list[keras.metrics.Metric]:
    """Return the metrics of a task, for `compile(weighted_metrics=...)`.

    Args:
        task: "gate" for auc, sensitivity and specificity; "mask" for dice, dice_positives and, of one class, the
            threshold of dice. `evaluate` with `return_dict=True` reports them under these names.
        layout: Planes of the masks. Default: one class.
        labels: Number of probabilities per image of a gate. Default: 1.
    """
    if task == "gate":
        return [GateCurve(labels=labels)]
    return [
        BestThresholdDice(name="dice", layout=layout, with_threshold=layout.classes == 1),
        BestThresholdDice(positives_only=True, name="dice_positives", layout=layout),
    ]
