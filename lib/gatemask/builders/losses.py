"""Losses on `keras.ops`, and their weighted sum as a YAML spells it: `loss: {bce: 3, focal: {weight: 4, gamma: 2}}`.

Each takes truth (0 or 1; cross-entropies take what lies between too) and probabilities of one shape, float32
(b, ...), and gives one number an image, (b,). No shape in here depends on data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import keras
from keras import ops

from gatemask.config import CROSS_ENTROPIES, LossName, LossPart

TINY = 1e-7  # probabilities are kept so far from 0 and 1 where a logarithm is taken


def bce(truth: Any, probability: Any, smoothing: float = 0.0) -> Any:
    """Binary cross-entropy, averaged over an image; label_smoothing s moves 0 and 1 to s/2 and 1 - s/2."""
    return _per_image(ops.binary_crossentropy(_smooth(truth, smoothing), probability), ops.mean)


def focal(truth: Any, probability: Any, smoothing: float = 0.0, gamma: float = 2.0) -> Any:
    """Cross-entropy times (1 - probability of the truth)^gamma, without class weights (Lin 2017)."""
    wrong = truth * (1 - probability) + (1 - truth) * probability
    # The gradient of a power below 1 has no bound at 0.
    factor = ops.power(ops.maximum(wrong, TINY), gamma)
    return _per_image(factor * ops.binary_crossentropy(_smooth(truth, smoothing), probability), ops.mean)


def dice(truth: Any, probability: Any) -> Any:
    """1 - soft Dice of each image (Milletari 2016), with 1 pixel added above and below: an empty pair costs 0."""
    intersection = _per_image(truth * probability, ops.sum)
    total = _per_image(truth, ops.sum) + _per_image(probability, ops.sum)
    return 1 - (2 * intersection + 1) / (total + 1)


def dice_batch(truth: Any, probability: Any, sample_weight: Any = None) -> Any:
    """1 - soft Dice of the whole batch as one image, with 1 pixel added; the same number for each image."""
    intersection = _per_image(truth * probability, ops.sum)
    total = _per_image(truth, ops.sum) + _per_image(probability, ops.sum)
    weight = ops.ones_like(total) if sample_weight is None else sample_weight
    cost = 1 - (2 * ops.sum(weight * intersection) + 1) / (ops.sum(weight * total) + 1)
    return cost * ops.ones_like(total)


def tversky(truth: Any, probability: Any, alpha: float = 0.3, beta: float = 0.7) -> Any:
    """1 - TP / (TP + alpha FP + beta FN) of each image (Salehi 2017), with 1 pixel added above and below."""
    hit = _per_image(truth * probability, ops.sum)
    false_positive = _per_image(probability, ops.sum) - hit
    false_negative = _per_image(truth, ops.sum) - hit
    return 1 - (hit + 1) / (hit + alpha * false_positive + beta * false_negative + 1)


def lovasz(truth: Any, probability: Any) -> Any:
    """Lovász hinge of each image (Berman 2018), on the logits of the probabilities.

    As in the paper's code, an image without truth costs its worst pixel's hinge.
    """
    p = ops.clip(probability, TINY, 1 - TINY)
    logits = _flat(ops.log(p) - ops.log(1 - p))
    labels = ops.cast(_flat(truth) > 0.5, logits.dtype)
    errors = 1 - logits * (2 * labels - 1)
    order = ops.argsort(-errors, axis=1)
    errors, labels = ops.take_along_axis(errors, order, axis=1), ops.take_along_axis(labels, order, axis=1)
    positives = ops.sum(labels, axis=1, keepdims=True)
    intersection = positives - ops.cumsum(labels, axis=1)
    union = positives + ops.cumsum(1 - labels, axis=1)
    jaccard = 1 - intersection / union
    steps = ops.concatenate([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], axis=1)
    return ops.sum(ops.relu(errors) * ops.stop_gradient(steps), axis=1)


LOSSES: dict[LossName, Callable[..., Any]] = {name: globals()[name] for name in get_args(LossName)}


class WeightedLoss(keras.losses.Loss):
    """The weighted sum of named losses, of truth and probabilities of one shape.

    Args:
        weights: name to weight, or to a LossPart with options.
        label_smoothing: for the parts that are cross-entropies.
    """

    def __init__(self, weights: Mapping[LossName, float | LossPart], label_smoothing: float = 0.0) -> None:
        super().__init__(name="sum")
        self._parts = [
            (name, *_with_options(name, part if isinstance(part, LossPart) else LossPart(weight=part), label_smoothing))
            for name, part in weights.items()
        ]

    def call(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """One number an image, (b,); weights only matter to parts that look at the whole batch."""
        truth, total = ops.cast(y_true, y_pred.dtype), 0.0
        for name, weight, part in self._parts:
            options = {"sample_weight": sample_weight} if name == "dice_batch" else {}
            total = total + weight * part(truth, y_pred, **options)
        return total

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """One number: the mean by sample weight (b,), so that images that pad a batch count for nothing.

        On several devices of TensorFlow, this device's share of it: Keras adds up the devices' gradients.
        """
        y_pred = ops.cast(ops.convert_to_tensor(y_pred), "float32")
        if sample_weight is None:
            return ops.mean(self.call(y_true, y_pred)) / replica_count()
        weight = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
        weight = ops.reshape(weight, (y_pred.shape[0] or ops.shape(y_pred)[0], -1))[:, 0]
        mean = ops.divide_no_nan(ops.sum(weight * self.call(y_true, y_pred, weight)), ops.sum(weight))
        return mean / replica_count()


def replica_count() -> int:
    """Devices whose gradients Keras adds up: those of a strategy of TensorFlow; on JAX there is one program for all."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _with_options(name: LossName, part: LossPart, label_smoothing: float) -> tuple[float, Callable[..., Any]]:
    options = part.model_dump(exclude={"weight"}, exclude_none=True)
    if name in CROSS_ENTROPIES:
        options["smoothing"] = label_smoothing
    return part.weight, partial(LOSSES[name], **options)


def _smooth(truth: Any, smoothing: float) -> Any:
    return truth * (1 - smoothing) + smoothing / 2


def _flat(x: Any) -> Any:
    return ops.reshape(x, (x.shape[0] or ops.shape(x)[0], -1))


def _per_image(x: Any, reduce: Callable[..., Any]) -> Any:
    return reduce(_flat(x), axis=1)
