"""Predict the memory of a training step from the layers of its network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Memory per image as a share of all layers' outputs, as measured: XLA fuses layers, so it holds fewer values.
HELD_SHARE = {"jax": 0.62, "tensorflow": 1.0}
# The layers around a swish, such as squeeze and excitation, hold more; as a share of the outputs of swish layers.
SWISH_SHARE = {"jax": 1.0, "tensorflow": 3.0}


@dataclass(frozen=True)
class StepMemory:
    """Predicted memory of a training step on one device. docs/explanation/training_speed.md lists the measured errors.

    Args:
        fixed: Bytes for any number of images: weights, gradients and the optimizer's variables.
        per_image: Bytes per image: outputs of layers that are held for their gradients.
    """

    fixed: float
    per_image: float

    def needed(self, images: int) -> float:
        """Return the bytes that a step of so many images needs."""
        return self.fixed + images * self.per_image

    def largest(self, limit: float, most: int) -> int:
        """Return the largest power of two, at least 1 and at most `most`, whose step fits into `limit` bytes."""
        images = 1
        while 2 * images <= most and self.needed(2 * images) <= limit:
            images *= 2
        return images


@dataclass(frozen=True)
class StepValues:
    """Numbers of values that decide the memory of a training step.

    Args:
        held: Values for any number of images: weights, gradients and the optimizer's variables.
        outputs: Values that all layers output for one image.
        swish: Those of the layers whose activation is swish.
    """

    held: int
    outputs: int
    swish: int = 0


def predict_step_memory(values: StepValues, precision: str, backend: str) -> StepMemory:
    """Return the memory of a training step.

    Args:
        values: Values of the step.
        precision: Precision of the layers.
        backend: "tensorflow" or "jax".
    """
    per_image = HELD_SHARE[backend] * values.outputs + SWISH_SHARE[backend] * values.swish
    return StepMemory(4.0 * values.held, per_image * VALUE_BYTES[precision])


def count_step_values(network: keras.Model, optimizer: keras.optimizers.Optimizer) -> StepValues:
    """Return the numbers of values that decide the memory of a training step.

    Args:
        network: Built network.
        optimizer: Optimizer, built for its trainable variables.
    """
    held = [*network.variables, *network.trainable_variables, *optimizer.variables]
    outputs = list(layer_outputs(network))
    swish = [values for layer, values in outputs if _activation(layer) in ("silu", "swish")]
    return StepValues(
        held=sum(int(np.prod(variable.shape)) for variable in held),
        outputs=sum(values for _, values in outputs),
        swish=sum(swish),
    )


def _activation(layer: keras.layers.Layer) -> str:
    return getattr(getattr(layer, "activation", None), "__name__", "")


def layer_outputs(network: keras.Model) -> Iterator[tuple[keras.layers.Layer, int]]:
    """Yield each layer of a built network, nested ones included, and the number of values it outputs for one image."""
    import keras

    for layer in network._flatten_layers(include_self=False):
        if not isinstance(layer, keras.Model) and layer._inbound_nodes:
            yield layer, int(np.prod(layer.output.shape[1:]))
