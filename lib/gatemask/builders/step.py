"""The model that is trained: a network's heads, and the loss over all of them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from gatemask.builders import losses
from gatemask.builders.models import Network
from gatemask.config import Experiment


class TrainingModel(keras.Model):
    """Images to heads; the truth is one array, whatever the number of heads. Compiled with an optimizer alone."""

    def set_loss(self, main: losses.WeightedLoss, gate_weight: float) -> TrainingModel:
        """The loss of the main and deep heads, and the weight of the gate head's cross-entropy."""
        self._main, self._gate_weight = main, gate_weight
        return self

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """One number.

        Args:
            x: unused.
            y: the truth, uint8 or float32: (b, 1) of gates, else (b, s, s, classes).
            y_pred: name to probabilities, as Network.heads.
            sample_weight: (b,) or nothing.
            training: unused.
        """
        shown = [head for name, head in y_pred.items() if name != "gate"]
        total = sum(self._main(y, head, sample_weight) for head in shown) / len(shown)
        if "gate" in y_pred:
            anything = ops.any(ops.reshape(y, (ops.shape(y)[0], -1)) > 0, axis=1, keepdims=True)
            total = total + self._gate_weight * GATE(anything, y_pred["gate"], sample_weight)
        return total


GATE = losses.WeightedLoss({"bce": 1.0})


def training_model(network: Network, exp: Experiment) -> TrainingModel:
    """The model to `compile(optimizer=...)` and `fit` on (images, truth) or (images, truth, weights).

    Its loss: exp.loss averaged over the main and deep heads, and exp.gate_loss times the cross-entropy of the
    gate head, whose truth is whether any pixel is mask. It shares its layers with `network.predict`.
    """
    model = TrainingModel(network.predict.input, dict(network.heads))
    return model.set_loss(losses.WeightedLoss(exp.loss, exp.label_smoothing), exp.gate_loss)
