"""Losses on `keras.ops`, and their weighted sum as a YAML writes it: `loss: {bce: 3, focal: {weight: 4, gamma: 2}}`.

Each loss takes truth and probabilities of one shape, float32 (b, outputs) or (b, h, w, outputs), and returns one value
per image, (b,). Truth lies between 0 and 1; lovasz cuts it at 0.5. No shape depends on data. `WeightedLoss` divides
soft masks, which batches hold as levels, by 255.

Losses that compare shapes are computed for each map and averaged over the maps of an image. Cross-entropies are
averaged over pixels and maps; where a softmax makes classes exclusive, that of classes and background is averaged over
pixels. Weights of classes, (outputs,), multiply the cost of each map. Ignored pixels have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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

    >>> truth, probability = np.array([[1.0], [0.0]], "float32"), np.array([[0.8], [0.8]], "float32")
    >>> print(np.round(ops.convert_to_numpy(bce(truth, probability)), 3))
    [0.223 1.609]
    """
    return _per_image(counted * ops.binary_crossentropy(_smooth(truth, smoothing), probability), ops.mean)


def focal(
    truth: Tensor, probability: Tensor, smoothing: float = 0.0, counted: Tensor | float = 1.0, gamma: float = 2.0
) -> Tensor:
    """Cross-entropy times |truth - probability|^gamma, without class weights (Lin 2017; for soft truth, Li 2020).

    >>> truth, probability = np.array([[1.0], [0.0]], "float32"), np.array([[0.8], [0.8]], "float32")
    >>> print(np.round(ops.convert_to_numpy(focal(truth, probability)), 3))
    [0.009 1.03 ]
    """
    cost = _focal_factor(ops.abs(truth - probability), gamma) * ops.binary_crossentropy(
        _smooth(truth, smoothing), probability
    )
    return _per_image(counted * cost, ops.mean)


def _focal_factor(wrong: Tensor, gamma: float) -> Tensor:
    # The gradient of a power below 1 is unbounded at 0.
    return ops.power(ops.maximum(wrong, TINY), gamma)


def topk(
    truth: Tensor, probability: Tensor, smoothing: float = 0.0, counted: Tensor | float = 1.0, share: float = 0.1
) -> Tensor:
    """Cross-entropy of the `share` of each map's pixels with the largest one, averaged per image (Wu 2016).

    >>> truth, probability = np.zeros((2, 2, 2, 1), "float32"), np.zeros((2, 2, 2, 1), "float32")
    >>> truth[0], probability[0, 0] = 1, 1  # four pixels, two of them found; the second image is empty
    >>> print(np.round(ops.convert_to_numpy(topk(truth, np.clip(probability, 0.1, 0.9))), 3))
    [2.303 0.105]
    """
    return _mean_of_largest(counted * ops.binary_crossentropy(_smooth(truth, smoothing), probability), share)


def _mean_of_largest(cost: Tensor, share: float) -> Tensor:
    maps = _count_maps(cost)
    count = max(1, round(share * math.prod(cost.shape[1:]) / maps))
    largest = ops.top_k(_rows(cost), count)[0]
    return ops.mean(ops.reshape(largest, (-1, maps * count)), axis=1)


def exclusive_bce(
    truth: Tensor,
    probability: Tensor,
    smoothing: float = 0.0,
    counted: Tensor | float = 1.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Categorical cross-entropy of the classes, (b, h, w, classes), and the background, averaged per image.

    `label_smoothing` s moves 0 and 1 to s/n and 1 - s + s/n, where n counts the classes and the background.
    """
    truth, probability = _with_background(truth), _with_background(probability)
    return _per_image(counted * _categorical(truth, probability, smoothing, class_weights), ops.mean)


def exclusive_focal(
    truth: Tensor,
    probability: Tensor,
    smoothing: float = 0.0,
    counted: Tensor | float = 1.0,
    class_weights: Tensor | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Categorical cross-entropy times the gamma-th power of half the sum of |truth - probability|.

    For truth of 0 and 1, that is 1 - the probability of the truth.
    """
    truth, probability = _with_background(truth), _with_background(probability)
    wrong = ops.sum(ops.abs(truth - probability), axis=-1, keepdims=True) / 2
    cost = _focal_factor(wrong, gamma) * _categorical(truth, probability, smoothing, class_weights)
    return _per_image(counted * cost, ops.mean)


def exclusive_topk(
    truth: Tensor,
    probability: Tensor,
    smoothing: float = 0.0,
    counted: Tensor | float = 1.0,
    class_weights: Tensor | None = None,
    share: float = 0.1,
) -> Tensor:
    """Categorical cross-entropy of the `share` of pixels with the largest one."""
    truth, probability = _with_background(truth), _with_background(probability)
    return _mean_of_largest(counted * _categorical(truth, probability, smoothing, class_weights), share)


def _with_background(x: Tensor) -> Tensor:
    """Shares of classes, (..., classes), and of what they leave to the background: (..., classes + 1), of sum 1."""
    total = ops.sum(x, axis=-1, keepdims=True)
    # Masks that overlap after resizing share their pixels.
    return ops.concatenate([x / ops.maximum(total, 1.0), ops.maximum(1 - total, 0.0)], axis=-1)


def _categorical(truth: Tensor, probability: Tensor, smoothing: float, class_weights: Tensor | None) -> Tensor:
    truth = truth * (1 - smoothing) + smoothing / truth.shape[-1]
    if class_weights is not None:
        truth = truth * ops.concatenate([class_weights, ops.ones((1,))])  # the background counts once
    return -ops.sum(truth * ops.log(ops.clip(probability, TINY, 1.0)), axis=-1, keepdims=True)


def dice(truth: Tensor, probability: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """1 - soft Dice per image (Milletari 2016), with 1 added to numerator and denominator: an empty pair costs 0.

    >>> truth, probability = np.zeros((2, 2, 2, 1), "float32"), np.zeros((2, 2, 2, 1), "float32")
    >>> truth[0], probability[0, 0] = 1, 1  # four pixels, two of them found; the second image is empty
    >>> print(np.round(ops.convert_to_numpy(dice(truth, probability)), 3))
    [0.286 0.   ]
    """
    intersection = _intersection(truth, probability)
    total = _sums(truth) + _sums(probability)
    return _mean_over_maps(1 - (2 * intersection + 1) / (total + 1), class_weights)


def dice_batch(
    truth: Tensor, probability: Tensor, sample_weight: Tensor | None = None, class_weights: Tensor | None = None
) -> Tensor:
    """1 - soft Dice of the whole batch as if it were one image, with 1 added to numerator and denominator.

    >>> truth, probability = np.zeros((2, 2, 2, 1), "float32"), np.zeros((2, 2, 2, 1), "float32")
    >>> truth[0], probability[0, 0] = 1, 1  # four pixels, two of them found; the second image is empty
    >>> print(np.round(ops.convert_to_numpy(dice_batch(truth, probability)), 3))
    [0.286 0.286]
    """
    intersection = _intersection(truth, probability)
    total = _sums(truth) + _sums(probability)
    weight = ops.ones_like(total) if sample_weight is None else sample_weight
    weight = weight[:, None] if len(total.shape) > len(weight.shape) else weight
    cost = 1 - (2 * ops.sum(weight * intersection, axis=0) + 1) / (ops.sum(weight * total, axis=0) + 1)
    return _mean_over_maps(cost * ops.ones_like(total), class_weights)


def tversky(
    truth: Tensor, probability: Tensor, alpha: float = 0.3, beta: float = 0.7, class_weights: Tensor | None = None
) -> Tensor:
    """1 - TP / (TP + alpha FP + beta FN) per image (Salehi 2017), with 1 added to numerator and denominator.

    >>> truth, probability = np.zeros((2, 2, 2, 1), "float32"), np.zeros((2, 2, 2, 1), "float32")
    >>> truth[0], probability[0, 0] = 1, 1  # four pixels, two of them found; the second image is empty
    >>> print(np.round(ops.convert_to_numpy(tversky(truth, probability)), 3))
    [0.318 0.   ]
    """
    return _mean_over_maps(_tversky_of_maps(truth, probability, alpha, beta), class_weights)


def focal_tversky(
    truth: Tensor,
    probability: Tensor,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The cost of tversky to the power of 1 / gamma, per image (Abraham 2018).

    >>> truth, probability = np.zeros((2, 2, 2, 1), "float32"), np.zeros((2, 2, 2, 1), "float32")
    >>> truth[0], probability[0, 0] = 1, 1  # four pixels, two of them found; the second image is empty
    >>> print(np.round(ops.convert_to_numpy(focal_tversky(truth, probability)), 3))
    [0.424 0.   ]
    """
    cost = _tversky_of_maps(truth, probability, alpha, beta)
    # The gradient of a power below 1 is unbounded at 0.
    return _mean_over_maps(ops.power(ops.maximum(cost, TINY), 1 / gamma), class_weights)


def _tversky_of_maps(truth: Tensor, probability: Tensor, alpha: float, beta: float) -> Tensor:
    true_positive = _intersection(truth, probability)
    false_positive = _sums(probability) - true_positive
    false_negative = _sums(truth) - true_positive
    return 1 - (true_positive + 1) / (true_positive + alpha * false_positive + beta * false_negative + 1)


def _intersection(truth: Tensor, probability: Tensor) -> Tensor:
    """Sums of the smaller value: the product for truth of 0 and 1; for any other truth, largest at equality.

    With products, a truth of 0.7 would be met best by a probability of 1 (Wang 2023, Dice semimetric losses).
    """
    return _sums(ops.minimum(truth, probability))


def lovasz(truth: Tensor, probability: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Lovász hinge per image (Berman 2018), on the logits of the probabilities.

    As in the paper's code, an image without truth costs the hinge of its worst pixel.

    >>> truth, probability = np.zeros((2, 2, 2, 1), "float32"), np.zeros((2, 2, 2, 1), "float32")
    >>> truth[0], probability[0, 0] = 1, 0.9  # four pixels, two of them found; the second image is empty
    >>> print(np.round(ops.convert_to_numpy(lovasz(truth, probability + 0.05)), 2))
    [1.97 0.  ]
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
    return cost if maps == 1 else _mean_over_maps(ops.reshape(cost, (-1, maps)), class_weights)


def cldice(truth: Tensor, probability: Tensor, iterations: int = 10, class_weights: Tensor | None = None) -> Tensor:
    """1 - soft clDice per image (Shit 2021), for thin structures: Dice of each skeleton with the other mask.

    1 is added to numerators and denominators. `iterations` is half of the largest width, in pixels.

    >>> truth, probability = np.zeros((2, 2, 2, 1), "float32"), np.zeros((2, 2, 2, 1), "float32")
    >>> truth[0], probability[0, 0] = 1, 1  # four pixels, two of them found; the second image is empty
    >>> print(np.round(ops.convert_to_numpy(cldice(truth, probability)), 3))
    [0. 0.]
    """
    skeleton, true_skeleton = (_soft_skeleton(maps, iterations) for maps in (probability, ops.stop_gradient(truth)))
    precision = (_sums(skeleton * truth) + 1) / (_sums(skeleton) + 1)
    sensitivity = (_sums(true_skeleton * probability) + 1) / (_sums(true_skeleton) + 1)
    return _mean_over_maps(1 - 2 * precision * sensitivity / (precision + sensitivity), class_weights)


def _soft_skeleton(maps: Tensor, iterations: int) -> Tensor:
    """Return what morphological opening removes from maps, (b, h, w, maps), at each of the erosions."""
    skeleton = ops.relu(maps - _soft_opening(maps))
    for _ in range(iterations):
        maps = _soft_erosion(maps)
        skeleton = skeleton + (1 - skeleton) * ops.relu(maps - _soft_opening(maps))
    return skeleton


def _soft_opening(maps: Tensor) -> Tensor:
    return ops.max_pool(_soft_erosion(maps), (3, 3), (1, 1), padding="same", data_format="channels_last")


def _soft_erosion(maps: Tensor) -> Tensor:
    columns, rows = (
        -ops.max_pool(-maps, size, (1, 1), padding="same", data_format="channels_last") for size in ((3, 1), (1, 3))
    )
    return ops.minimum(columns, rows)


LossFunction = Callable[..., Tensor]
LOSSES: dict[LossName, LossFunction] = {name: globals()[name] for name in get_args(LossName)}
EXCLUSIVE_LOSSES: dict[LossName, LossFunction] = {
    "bce": exclusive_bce,
    "focal": exclusive_focal,
    "topk": exclusive_topk,
}


class WeightedLoss(keras.losses.Loss):
    """Weighted sum of named losses.

    Args:
        weights: Weight of each loss, or its weight and options as a `LossPart`.
        label_smoothing: Label smoothing of the cross-entropies among them. Default: 0.
        layout: Planes of the masks. Default: one class.
        class_weights: Weight of each class, (classes,); borders count once. Default: 1 each.

    >>> truth, probability = np.zeros((2, 2, 2, 1), "float32"), np.zeros((2, 2, 2, 1), "float32")
    >>> truth[0], probability[0, 0] = 1, 1  # four pixels, two of them found; the second image is empty
    >>> loss = WeightedLoss({"bce": 1, "dice": LossPart(weight=2)})
    >>> round(float(loss(truth, np.clip(probability, 0.1, 0.9))), 3)
    1.226
    """

    def __init__(
        self,
        weights: Mapping[LossName, float | LossPart],
        label_smoothing: float = 0.0,
        layout: Layout = ONE_CLASS,
        class_weights: Sequence[float] = (),
    ) -> None:
        super().__init__(name="sum")
        self._layout = layout
        self._class_weights = tuple(class_weights)
        self._parts = [
            (name, *_options_of(name, part if isinstance(part, LossPart) else LossPart(weight=part), label_smoothing))
            for name, part in weights.items()
        ]

    def call(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return one value per image, (b,).

        Args:
            y_true: Truth, of the shape of `y_pred`; masks with a last plane of ignored pixels have one plane more. Soft
                masks are levels from 0 to 255.
            y_pred: Probabilities, float32 (b, ...).
            sample_weight: Weights, (b,); only losses of a whole batch use them. Default: equal weights.
        """
        truth, counted, total = ops.cast(y_true, y_pred.dtype), 1.0, 0.0
        weights = self._weights_of_maps(y_pred.shape[-1])
        if self._layout.soft and len(y_pred.shape) == 4:
            truth = truth / self._layout.full
        if self._layout.ignored and len(y_pred.shape) == 4:
            truth, counted = truth[..., :-1], 1 - truth[..., -1:]
            truth, y_pred = truth * counted, y_pred * counted
        for name, weight, options in self._parts:
            if name in CROSS_ENTROPIES:
                cost = self._cross_entropy(name, truth, y_pred, weights, {**options, "counted": counted})
            elif name == "dice_batch":
                cost = dice_batch(truth, y_pred, sample_weight, weights)
            else:
                cost = LOSSES[name](truth, y_pred, **options, class_weights=weights)
            total = total + weight * cost
        return total

    def _weights_of_maps(self, maps: int) -> Tensor | None:
        """Return the weight of each map, float32 (maps,): those of the classes, and 1 for borders; None without any."""
        if not self._class_weights:
            return None
        return ops.convert_to_tensor([*self._class_weights, 1.0][:maps], "float32")

    def _cross_entropy(
        self,
        name: LossName,
        truth: Tensor,
        probability: Tensor,
        weights: Tensor | None,
        options: dict[str, Tensor | float],
    ) -> Tensor:
        """Cross-entropy of all maps; of exclusive classes, the categorical one, plus that of borders."""
        if not self._layout.exclusive or len(probability.shape) != 4:
            if weights is not None:
                options["counted"] = options["counted"] * weights
            return LOSSES[name](truth, probability, **options)
        classes, borders = np.s_[..., : self._layout.classes], np.s_[..., self._layout.classes :]
        own = None if weights is None else weights[: self._layout.classes]
        cost = EXCLUSIVE_LOSSES[name](truth[classes], probability[classes], **options, class_weights=own)
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


def _mean_over_maps(cost: Tensor, class_weights: Tensor | None) -> Tensor:
    if len(cost.shape) == 1:
        return cost
    return ops.mean(cost if class_weights is None else cost * class_weights, axis=1)
