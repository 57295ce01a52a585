"""Build the model to train: a network's heads, and the loss over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import keras
from keras import ops

from gatemask.builders.losses import WeightedLoss
from gatemask.builders.models import Network
from gatemask.builders.tensor import Tensor
from gatemask.config import Experiment
from gatemask.input.layout import ONE_CLASS, Layout

GATE_HEAD_LOSS = WeightedLoss({"bce": 1.0})


class TrainingModel(keras.Model):
    """Model from images to all heads. Its truth is one array for any number of heads; compile it without a loss."""

    def set_loss(
        self, mask_loss: WeightedLoss, head_weights: Mapping[str, float], gate_weight: float, layout: Layout = ONE_CLASS
    ) -> TrainingModel:
        """Set the loss, and return the model.

        Args:
            mask_loss: Loss of the main and deep heads.
            head_weights: Weight of that loss, by head.
            gate_weight: Weight of the gate head's cross-entropy.
            layout: Planes of the masks; those of the classes make an image positive. Default: one class.
        """
        self._mask_loss, self._gate_weight, self._layout = mask_loss, gate_weight, layout
        self._head_weights = dict(head_weights)
        return self

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: dict[str, Tensor] | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            x: Unused.
            y: Truth, uint8 or float32: (b, 1) or (b, classes) for a gate, (b, h, w, planes) for a mask network.
            y_pred: Probabilities of each head, as in `Network.heads`.
            sample_weight: Weights, (b,). Default: equal weights.
            training: Unused.
        """
        assert y_pred is not None
        total = sum(
            weight * self._mask_loss(y, y_pred[name], sample_weight) for name, weight in self._head_weights.items()
        )
        if "gate" in y_pred:
            classes, lowest = self._layout.classes, self._layout.half
            shown = y if y.shape[-1] == classes else y[..., :classes]
            is_positive = ops.any(ops.reshape(shown, (ops.shape(y)[0], -1)) >= lowest, axis=1, keepdims=True)
            total = total + self._gate_weight * GATE_HEAD_LOSS(is_positive, y_pred["gate"], sample_weight)
        return total


def training_model(
    network: Network, exp: Experiment, layout: Layout = ONE_CLASS, class_weights: Sequence[float] = ()
) -> TrainingModel:
    """Return the model to `compile(optimizer=...)` and to `fit` on images, truth and optional weights.

    Its loss is `exp.loss`, summed over the main and deep heads with `network.loss_weights`, plus `exp.gate_loss` times
    the cross-entropy of the gate head, whose truth is whether any pixel belongs to a class. It shares its layers with
    `network.model`.

    Args:
        network: Network from `build_network`.
        exp: Experiment.
        layout: Planes of the masks. Default: one class.
        class_weights: Weight of each class in the loss, (classes,). Default: 1 each.
    """
    model = TrainingModel(network.model.input, dict(network.heads))
    layout = replace(layout, soft=layout.soft or exp.has_soft_masks)
    loss = WeightedLoss(exp.loss, exp.label_smoothing, layout, class_weights)
    return model.set_loss(loss, network.loss_weights, exp.gate_loss, layout)
