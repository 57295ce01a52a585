"""Count the operations and outputs of a Keras network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gatemask.cost.devices import ForwardPass

if TYPE_CHECKING:
    import keras


def count_forward_pass(network: keras.Model) -> ForwardPass:
    """Return the work of a built network for one image."""
    import keras

    flops = outputs = 0
    for layer in network._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model) or not layer._inbound_nodes:
            continue
        values = int(np.prod(layer.output.shape[1:]))
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
