"""Attention at the end of a decoder's blocks."""

from __future__ import annotations

from typing import Literal

import keras

from gatemask.builders.bridge import layers
from gatemask.builders.tensor import Tensor

REDUCTION = 2  # as in the paper


def attend(x: Tensor, attention: Literal["scse"] | None, name: str) -> Tensor:
    """Recalibrate features by channel and by pixel (scSE, Roy 2018).

    The channels are weighted by two dense layers of their means, the pixels by a convolution of 1 x 1, each with a
    sigmoid; the results are added.

    Args:
        x: Features, (b, h, w, f).
        attention: None for no change.
        name: Prefix of the layers' names.
    """
    if attention is None:
        return x
    filters = x.shape[-1]
    means = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_scse_mean")(x)
    hidden = layers.Dense(max(1, filters // REDUCTION), activation="relu", name=f"{name}_scse_squeeze")(means)
    channels = layers.Dense(filters, activation="sigmoid", name=f"{name}_scse_channels")(hidden)
    pixels = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_scse_pixels")(x)
    by_channel = keras.layers.Multiply(name=f"{name}_scse_by_channel")([x, channels])
    by_pixel = keras.layers.Multiply(name=f"{name}_scse_by_pixel")([x, pixels])
    return keras.layers.Add(name=f"{name}_scse")([by_channel, by_pixel])
