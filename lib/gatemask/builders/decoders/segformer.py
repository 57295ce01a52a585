"""SegFormer's head."""

from __future__ import annotations

import keras

from gatemask.builders.bridge import layers
from gatemask.builders.decoders.blocks import Decoded, Features, by_stride, convolve, enlarge
from gatemask.config import Model
from gatemask.config.names import DEFAULT_WIDTH


def segformer(config: Model, features: Features) -> Decoded:
    """SegFormer's head of linear layers (Xie 2021): levels of strides 4 to 32, joined at a quarter of the input size.

    Args:
        config: The experiment's `model:`.
        features: Features of the encoder.
    """
    width = config.width or DEFAULT_WIDTH
    levels = {stride: layers.Conv2D(width, 1, name=f"linear{stride}")(features[stride]) for stride in (32, 16, 8, 4)}
    joined = [enlarge(x, stride // 4, f"linear{stride}_up") for stride, x in levels.items()]
    x = convolve(keras.layers.Concatenate(name="fusion_concat")(joined), width, "fusion", kernel=1)
    return Decoded(x, by_stride(levels) if config.deep_supervision else {}, kernel=1)
