"""Losses on `keras.ops`, and their weighted sum as a YAML writes it: `loss: {bce: 3, focal: {weight: 4, gamma: 2}}`.

Each loss takes truth and probabilities of one shape, float32 (b, ...), and returns one value per image, (b,). Truth is
0 or 1; cross-entropies also accept values in between. No shape depends on data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

import keras
from keras import ops

from gatemask.builders.tensor import Tensor
from gatemask.config import CROSS_ENTROPIES, LossName, LossPart

TINY = 1e-7  # distance from 0 and 1 that probabilities keep before a logarithm


def bce(truth: Tensor, probability: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy, averaged per image; `label_smoothing` s moves 0 and 1 to s/2 and 1 - s/2."""
    return _per_image(ops.binary_crossentropy(_smooth(truth, smoothing), probability), ops.mean)


def focal(truth: Tensor, probability: Tensor, smoothing: float = 0.0, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times (1 - probability of the truth)^gamma, without class weights (Lin 2017)."""
    wrong = truth * (1 - probability) + (1 - truth) * probability
    # The gradient of a power below 1 is unbounded at 0.
    factor = ops.power(ops.maximum(wrong, TINY), gamma)
    return _per_image(factor * ops.binary_crossentropy(_smooth(truth, smoothing), probability), ops.mean)


def dice(truth: Tensor, probability: Tensor) -> Tensor:
    """1 - soft Dice per image (Milletari 2016), with 1 added to numerator and denominator: an empty pair costs 0."""
    intersection = _per_image(truth * probability, ops.sum)
    total = _per_image(truth, ops.sum) + _per_image(probability, ops.sum)
    return 1 - (2 * intersection + 1) / (total + 1)


def dice_batch(truth: Tensor, probability: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """1 - soft Dice of the whole batch as if it were one image, with 1 added to numerator and denominator."""
    intersection = _per_image(truth * probability, ops.sum)
    total = _per_image(truth, ops.sum) + _per_image(probability, ops.sum)
    weight = ops.ones_like(total) if sample_weight is None else sample_weight
    cost = 1 - (2 * ops.sum(weight * intersection) + 1) / (ops.sum(weight * total) + 1)
    return cost * ops.ones_like(total)


def tversky(truth: Tensor, probability: Tensor, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
    """1 - TP / (TP + alpha FP + beta FN) per image (Salehi 2017), with 1 added to numerator and denominator."""
    true_positive = _per_image(truth * probability, ops.sum)
    false_positive = _per_image(probability, ops.sum) - true_positive
    false_negative = _per_image(truth, ops.sum) - true_positive
    return 1 - (true_positive + 1) / (true_positive + alpha * false_positive + beta * false_negative + 1)


def lovasz(truth: Tensor, probability: Tensor) -> Tensor:
    """Lovász hinge per image (Berman 2018), on the logits of the probabilities.

    As in the paper's code, an image without truth costs the hinge of its worst pixel.
    """
    clipped = ops.clip(probability, TINY, 1 - TINY)
    logits = _flatten(ops.log(clipped) - ops.log(1 - clipped))
    labels = ops.cast(_flatten(truth) > 0.5, logits.dtype)
    errors = 1 - logits * (2 * labels - 1)
    order = ops.argsort(-errors, axis=1)
    errors, labels = ops.take_along_axis(errors, order, axis=1), ops.take_along_axis(labels, order, axis=1)
    positives = ops.sum(labels, axis=1, keepdims=True)
    intersection = positives - ops.cumsum(labels, axis=1)
    union = positives + ops.cumsum(1 - labels, axis=1)
    jaccard = 1 - intersection / union
    steps = ops.concatenate([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], axis=1)
    return ops.sum(ops.relu(errors) * ops.stop_gradient(steps), axis=1)


LossFunction = Callable[..., Tensor]
LOSSES: dict[LossName, LossFunction] = {name: globals()[name] for name in get_args(LossName)}


class WeightedLoss(keras.losses.Loss):
    """Weighted sum of named losses.

    Args:
        weights: Weight of each loss, or its weight and options as a `LossPart`.
        label_smoothing: Label smoothing of the cross-entropies among them. Default: 0.
    """

    def __init__(self, weights: Mapping[LossName, float | LossPart], label_smoothing: float = 0.0) -> None:
        super().__init__(name="sum")
        self._parts = [
            (name, *_with_options(name, part if isinstance(part, LossPart) else LossPart(weight=part), label_smoothing))
            for name, part in weights.items()
        ]

    def call(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return one value per image, (b,).

        Args:
            y_true: Truth, of the shape of `y_pred`.
            y_pred: Probabilities, float32 (b, ...).
            sample_weight: Weights, (b,); only losses of a whole batch use them. Default: equal weights.
        """
        truth, total = ops.cast(y_true, y_pred.dtype), 0.0
        for name, weight, loss in self._parts:
            options = {"sample_weight": sample_weight} if name == "dice_batch" else {}
            total = total + weight * loss(truth, y_pred, **options)
        return total

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


def _with_options(name: LossName, part: LossPart, label_smoothing: float) -> tuple[float, LossFunction]:
    options = part.model_dump(exclude={"weight"}, exclude_none=True)
    if name in CROSS_ENTROPIES:
        options["smoothing"] = label_smoothing
    return part.weight, partial(LOSSES[name], **options)


def _smooth(truth: Tensor, smoothing: float) -> Tensor:
    return truth * (1 - smoothing) + smoothing / 2


def _flatten(x: Tensor) -> Tensor:
    return ops.reshape(x, (x.shape[0] or ops.shape(x)[0], -1))


def _per_image(x: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    return reduce(_flatten(x), axis=1)
