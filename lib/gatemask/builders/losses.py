"""Losses on `keras.ops`, and their weighted sum as a YAML writes it: `loss: {bce: 3, focal: {weight: 4, gamma: 2}}`.

Each loss takes truth and probabilities of one shape, float32 (b, outputs) or (b, h, w, outputs), and returns one value
per image, (b,). Truth is 0 or 1; cross-entropies also accept values in between. No shape depends on data.

Losses that compare shapes are computed for each map and averaged over the maps of an image. Cross-entropies are
averaged over pixels and maps; where a softmax makes classes exclusive, that of classes and background is averaged over
pixels. Ignored pixels have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import keras
import numpy as np
from keras import ops

from gatemask.builders.tensor import Tensor
from gatemask.config import CROSS_ENTROPIES, LossName, LossPart
from gatemask.input.layout import ONE_CLASS, Layout

TINY = 1e-7  # distance from 0 and 1 that probabilities keep before a logarithm


def bce(truth: Tensor, probability: Tensor, smoothing: float = 0.0, counted: Tensor | float = 1.0) -> Tensor:
    """Cross-entropy, averaged per image; `label_smoothing` s moves 0 and 1 to s/2 and 1 - s/2.

    Of exclusive classes, it is the categorical cross-entropy of classes and background.
    """
    return _per_image(counted * ops.binary_crossentropy(_smooth(truth, smoothing), probability), ops.mean)


def focal(
    truth: Tensor, probability: Tensor, smoothing: float = 0.0, counted: Tensor | float = 1.0, gamma: float = 2.0
) -> Tensor:
    """Cross-entropy times (1 - probability of the truth)^gamma, without class weights (Lin 2017)."""
    wrong = truth * (1 - probability) + (1 - truth) * probability
    cost = _focal_factor(wrong, gamma) * ops.binary_crossentropy(_smooth(truth, smoothing), probability)
    return _per_image(counted * cost, ops.mean)


def _focal_factor(wrong: Tensor, gamma: float) -> Tensor:
    # The gradient of a power below 1 is unbounded at 0.
    return ops.power(ops.maximum(wrong, TINY), gamma)


def exclusive_bce(truth: Tensor, probability: Tensor, smoothing: float = 0.0, counted: Tensor | float = 1.0) -> Tensor:
    """Categorical cross-entropy of the classes, (b, h, w, classes), and the background, averaged per image.

    `label_smoothing` s moves 0 and 1 to s/n and 1 - s + s/n, where n counts the classes and the background.
    """
    truth, probability = _with_background(truth), _with_background(probability)
    return _per_image(counted * _categorical(truth, probability, smoothing), ops.mean)


def exclusive_focal(
    truth: Tensor, probability: Tensor, smoothing: float = 0.0, counted: Tensor | float = 1.0, gamma: float = 2.0
) -> Tensor:
    """Categorical cross-entropy times (1 - probability of the truth)^gamma."""
    truth, probability = _with_background(truth), _with_background(probability)
    wrong = 1 - ops.sum(truth * probability, axis=-1, keepdims=True)
    cost = _focal_factor(wrong, gamma) * _categorical(truth, probability, smoothing)
    return _per_image(counted * cost, ops.mean)


def _with_background(x: Tensor) -> Tensor:
    """Shares of classes, (..., classes), and of what they leave to the background: (..., classes + 1), of sum 1."""
    total = ops.sum(x, axis=-1, keepdims=True)
    # Masks that overlap after resizing share their pixels.
    return ops.concatenate([x / ops.maximum(total, 1.0), ops.maximum(1 - total, 0.0)], axis=-1)


def _categorical(truth: Tensor, probability: Tensor, smoothing: float) -> Tensor:
    truth = truth * (1 - smoothing) + smoothing / truth.shape[-1]
    return -ops.sum(truth * ops.log(ops.clip(probability, TINY, 1.0)), axis=-1, keepdims=True)


def dice(truth: Tensor, probability: Tensor) -> Tensor:
    """1 - soft Dice per image (Milletari 2016), with 1 added to numerator and denominator: an empty pair costs 0."""
    intersection = _sums(truth * probability)
    total = _sums(truth) + _sums(probability)
    return _mean_over_maps(1 - (2 * intersection + 1) / (total + 1))


def dice_batch(truth: Tensor, probability: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """1 - soft Dice of the whole batch as if it were one image, with 1 added to numerator and denominator."""
    intersection = _sums(truth * probability)
    total = _sums(truth) + _sums(probability)
    weight = ops.ones_like(total) if sample_weight is None else sample_weight
    weight = weight[:, None] if len(total.shape) > len(weight.shape) else weight
    cost = 1 - (2 * ops.sum(weight * intersection, axis=0) + 1) / (ops.sum(weight * total, axis=0) + 1)
    return _mean_over_maps(cost * ops.ones_like(total))


def tversky(truth: Tensor, probability: Tensor, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
    """1 - TP / (TP + alpha FP + beta FN) per image (Salehi 2017), with 1 added to numerator and denominator."""
    true_positive = _sums(truth * probability)
    false_positive = _sums(probability) - true_positive
    false_negative = _sums(truth) - true_positive
    cost = 1 - (true_positive + 1) / (true_positive + alpha * false_positive + beta * false_negative + 1)
    return _mean_over_maps(cost)


def lovasz(truth: Tensor, probability: Tensor) -> Tensor:
    """Lovász hinge per image (Berman 2018), on the logits of the probabilities.

    As in the paper's code, an image without truth costs the hinge of its worst pixel.
    """
    clipped = ops.clip(probability, TINY, 1 - TINY)
    logits = _rows(ops.log(clipped) - ops.log(1 - clipped))
    labels = ops.cast(_rows(truth) > 0.5, logits.dtype)
    errors = 1 - logits * (2 * labels - 1)
    order = ops.argsort(-errors, axis=1)
    errors, labels = ops.take_along_axis(errors, order, axis=1), ops.take_along_axis(labels, order, axis=1)
    positives = ops.sum(labels, axis=1, keepdims=True)
    intersection = positives - ops.cumsum(labels, axis=1)
    union = positives + ops.cumsum(1 - labels, axis=1)
    jaccard = 1 - intersection / union
    steps = ops.concatenate([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], axis=1)
    cost = ops.sum(ops.relu(errors) * ops.stop_gradient(steps), axis=1)
    maps = _count_maps(truth)
    return cost if maps == 1 else _mean_over_maps(ops.reshape(cost, (-1, maps)))


LossFunction = Callable[..., Tensor]
LOSSES: dict[LossName, LossFunction] = {name: globals()[name] for name in get_args(LossName)}
EXCLUSIVE_LOSSES: dict[LossName, LossFunction] = {"bce": exclusive_bce, "focal": exclusive_focal}


class WeightedLoss(keras.losses.Loss):
    """Weighted sum of named losses.

    Args:
        weights: Weight of each loss, or its weight and options as a `LossPart`.
        label_smoothing: Label smoothing of the cross-entropies among them. Default: 0.
        layout: Planes of the masks. Default: one class.
    """

    def __init__(
        self, weights: Mapping[LossName, float | LossPart], label_smoothing: float = 0.0, layout: Layout = ONE_CLASS
    ) -> None:
        super().__init__(name="sum")
        self._layout = layout
        self._parts = [
            (name, *_options_of(name, part if isinstance(part, LossPart) else LossPart(weight=part), label_smoothing))
            for name, part in weights.items()
        ]

    def call(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return one value per image, (b,).

        Args:
            y_true: Truth, of the shape of `y_pred`; masks with a last plane of ignored pixels have one plane more.
            y_pred: Probabilities, float32 (b, ...).
            sample_weight: Weights, (b,); only losses of a whole batch use them. Default: equal weights.
        """
        truth, counted, total = ops.cast(y_true, y_pred.dtype), 1.0, 0.0
        if self._layout.ignored and len(y_pred.shape) == 4:
            truth, counted = truth[..., :-1], 1 - truth[..., -1:]
            truth, y_pred = truth * counted, y_pred * counted
        for name, weight, options in self._parts:
            if name in CROSS_ENTROPIES:
                cost = self._cross_entropy(name, truth, y_pred, {**options, "counted": counted})
            elif name == "dice_batch":
                cost = dice_batch(truth, y_pred, sample_weight)
            else:
                cost = LOSSES[name](truth, y_pred, **options)
            total = total + weight * cost
        return total

    def _cross_entropy(
        self, name: LossName, truth: Tensor, probability: Tensor, options: dict[str, Tensor | float]
    ) -> Tensor:
        """Cross-entropy of all maps; of exclusive classes, the categorical one, plus that of borders."""
        if not self._layout.exclusive or len(probability.shape) != 4:
            return LOSSES[name](truth, probability, **options)
        classes, borders = np.s_[..., : self._layout.classes], np.s_[..., self._layout.classes :]
        cost = EXCLUSIVE_LOSSES[name](truth[classes], probability[classes], **options)
        if self._layout.border:
            cost = cost + LOSSES[name](truth[borders], probability[borders], **options)
        return cost

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the mean over images, weighted by `sample_weight`, (b,): images that pad a batch do not count.

        On several devices of TensorFlow, this is the device's share of the mean: Keras sums the devices' gradients.
        """
        y_pred = ops.cast(ops.convert_to_tensor(y_pred), "float32")
        if sample_weight is None:
            return ops.mean(self.call(y_true, y_pred)) / replica_count()
        weight = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
        weight = ops.reshape(weight, (y_pred.shape[0] or ops.shape(y_pred)[0], -1))[:, 0]
        mean = ops.divide_no_nan(ops.sum(weight * self.call(y_true, y_pred, weight)), ops.sum(weight))
        return mean / replica_count()


def replica_count() -> int:
    """Return the number of devices whose gradients Keras sums: those of a TensorFlow strategy, and 1 on JAX."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _options_of(name: LossName, part: LossPart, label_smoothing: float) -> tuple[float, dict[str, float]]:
    """Weight and options of a loss."""
    options: dict[str, float] = part.model_dump(exclude={"weight"}, exclude_none=True)
    if name in CROSS_ENTROPIES:
        options["smoothing"] = label_smoothing
    return part.weight, options


def _smooth(truth: Tensor, smoothing: float) -> Tensor:
    return truth * (1 - smoothing) + smoothing / 2


def _flatten(x: Tensor) -> Tensor:
    return ops.reshape(x, (x.shape[0] or ops.shape(x)[0], -1))


def _per_image(x: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    return reduce(_flatten(x), axis=1)


def _count_maps(x: Tensor) -> int:
    return x.shape[-1] if len(x.shape) == 4 else 1


def _sums(x: Tensor) -> Tensor:
    """Sums over pixels: (b,) of a single map, (b, maps) of several."""
    return _per_image(x, ops.sum) if _count_maps(x) == 1 else ops.sum(x, axis=(1, 2))


def _rows(x: Tensor) -> Tensor:
    """Pixels of each image and map: (b * maps, pixels)."""
    if _count_maps(x) == 1:
        return _flatten(x)
    images, maps = x.shape[0] or ops.shape(x)[0], x.shape[-1]
    return ops.reshape(ops.transpose(x, (0, 3, 1, 2)), (images * maps, -1))


def _mean_over_maps(cost: Tensor) -> Tensor:
    return cost if len(cost.shape) == 1 else ops.mean(cost, axis=1)
