"""Count the operations and outputs of a Keras network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gatemask.cost.devices import ForwardPass

if TYPE_CHECKING:
    import keras


def count_forward_pass(network: keras.Model) -> ForwardPass:
    """Return the work of a built network for one image."""
    from gatemask.builders.step_memory import layer_outputs

    flops = outputs = 0
    for layer, values in layer_outputs(network):
        outputs += values
        flops += 2 * count_multiplications(layer, values)
    return ForwardPass(flops, outputs)


def count_multiplications(layer: keras.layers.Layer, outputs: int) -> int:
    """Return the multiplications of a layer for one image; 0 for anything but convolutions and matrix products.

    Args:
        layer: Built layer.
        outputs: Number of values that it outputs.
    """
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    if type(layer).__name__ == "Conv2DTranspose":  # each input pixel is multiplied with the whole kernel
        _, height, width, *_ = layer.input.shape
        return int(np.prod(kernel.shape) * height * width)
    if type(layer).__name__ == "DepthwiseConv2D":
        return outputs * int(np.prod(kernel.shape[:2]))
    return outputs * int(np.prod(kernel.shape[:-1]))
