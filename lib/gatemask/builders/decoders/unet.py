"""U-Net."""

from __future__ import annotations

import keras

from gatemask.builders.decoders.attention import attend
from gatemask.builders.decoders.blocks import Decoded, Features, by_stride, convolve, transpose
from gatemask.builders.tensor import Tensor
from gatemask.config import Model
from gatemask.config.names import DEFAULT_FILTERS


def unet(config: Model, features: Features) -> Decoded:
    """U-Net (Ronneberger 2015): at each level, the encoder's features are concatenated with the decoder's.

    Layers and their order are those of segmentation-models, so its weights fit.

    Args:
        config: The experiment's `model:`.
        features: Features of the encoder. A level that it lacks is enlarged without a skip connection.
    """
    levels: dict[int, Tensor] = {}
    x, stride = features[32], 32
    for stage, filters in enumerate(config.filters or DEFAULT_FILTERS[: config.enlargements]):
        stride //= 2
        name = f"decoder_stage{stage}"
        if config.block == "transpose":
            x = transpose(x, filters, f"{name}a")
        else:
            x = keras.layers.UpSampling2D(name=f"{name}_upsampling")(x)
        if stride in features:
            x = keras.layers.Concatenate(name=f"{name}_concat")([x, features[stride]])
        for letter in "b" if config.block == "transpose" else "ab":
            x = convolve(x, filters, f"{name}{letter}")
        levels[stride] = x = attend(x, config.attention, name)
    main = levels.pop(stride)
    return Decoded(main, by_stride(levels) if config.deep_supervision else {})
