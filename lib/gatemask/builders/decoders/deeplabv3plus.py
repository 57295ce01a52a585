"""DeepLabV3+."""

from __future__ import annotations

import keras

from gatemask.builders.bridge import layers
from gatemask.builders.decoders.blocks import Decoded, Features, convolve, enlarge, normalize
from gatemask.builders.tensor import Tensor
from gatemask.config import Model
from gatemask.config.names import DEFAULT_WIDTH

RATES = (3, 6, 9)  # at stride 32; they reach as far as the paper's 6, 12 and 18 at stride 16
LOW_LEVEL_FILTERS = 48


def deeplabv3plus(config: Model, features: Features) -> Decoded:
    """DeepLabV3+ (Chen 2018): atrous convolutions at stride 32, joined with the encoder's features of stride 4.

    The encoders have no atrous convolutions, so the pyramid is at their stride of 32 rather than the paper's 16. All
    convolutions of 3 x 3 are separable.

    Args:
        config: The experiment's `model:`.
        features: Features of the encoder.
    """
    width = config.width or DEFAULT_WIDTH
    pyramid = _pyramid(features[32], width)
    low = convolve(features[4], LOW_LEVEL_FILTERS, "low_level", kernel=1)
    x = keras.layers.Concatenate(name="decoder_concat")([enlarge(pyramid, 8, "pyramid_up"), low])
    for letter in "ab":
        x = _separable(x, width, 1, f"decoder_{letter}")
    return Decoded(x, {"deep32": pyramid} if config.deep_supervision else {}, kernel=1)


def _pyramid(x: Tensor, width: int) -> Tensor:
    """Join features, atrous convolutions of three rates, and the mean over the whole image."""
    _, rows, columns, _ = x.shape
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pyramid_mean")(x)
    mean = convolve(mean, width, "pyramid_mean", kernel=1)
    joined = [
        convolve(x, width, "pyramid_rate0", kernel=1),
        *(_separable(x, width, rate, f"pyramid_rate{rate}") for rate in RATES),
        keras.layers.UpSampling2D((rows, columns), name="pyramid_mean_up")(mean),
    ]
    return convolve(keras.layers.Concatenate(name="pyramid_concat")(joined), width, "pyramid", kernel=1)


def _separable(x: Tensor, filters: int, rate: int, name: str) -> Tensor:
    """Convolve each feature by itself, at a distance of `rate` pixels, then all of them at each pixel."""
    x = layers.DepthwiseConv2D(3, dilation_rate=rate, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    return convolve(normalize(x, f"{name}_depthwise"), filters, name, kernel=1)
