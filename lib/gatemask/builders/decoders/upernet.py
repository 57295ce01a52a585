"""UPerNet."""

from __future__ import annotations

import keras

from gatemask.builders.decoders.blocks import Decoded, Features, by_stride, convolve, enlarge
from gatemask.builders.decoders.resample import Resample
from gatemask.builders.tensor import Tensor
from gatemask.config import Model
from gatemask.config.names import DEFAULT_WIDTH

BINS = (1, 2, 3, 6)


def upernet(config: Model, features: Features) -> Decoded:
    """UPerNet (Xiao 2018): a feature pyramid whose deepest level also sees means of large regions (Zhao 2017).

    Levels of strides 4 to 32 are brought to a quarter of the input size and joined.

    Args:
        config: The experiment's `model:`.
        features: Features of the encoder.
    """
    width = config.width or DEFAULT_WIDTH
    x = _pool(features[32], width)
    levels = {32: x}
    for stride in (16, 8, 4):
        lateral = convolve(features[stride], width, f"lateral{stride}", kernel=1)
        x = keras.layers.Add(name=f"pyramid{stride}_add")([lateral, enlarge(x, 2, f"pyramid{stride}_up")])
        levels[stride] = x
    for stride in (16, 8, 4):
        levels[stride] = convolve(levels[stride], width, f"pyramid{stride}")
    joined = [enlarge(levels[stride], stride // 4, f"fusion_up{stride}") for stride in (4, 8, 16, 32)]
    x = convolve(keras.layers.Concatenate(name="fusion_concat")(joined), width, "fusion")
    return Decoded(x, by_stride(levels) if config.deep_supervision else {}, kernel=1)


def _pool(x: Tensor, width: int) -> Tensor:
    """Join features with their means over 1, 2, 3 and 6 regions along each side."""
    _, rows, columns, _ = x.shape
    joined = [x]
    for bins in BINS:
        pooled = convolve(Resample(bins, bins, "mean", name=f"pool{bins}_mean")(x), width, f"pool{bins}", kernel=1)
        joined.append(Resample(rows, columns, "bilinear", name=f"pool{bins}_up")(pooled))
    return convolve(keras.layers.Concatenate(name="pool_concat")(joined), width, "pool")
