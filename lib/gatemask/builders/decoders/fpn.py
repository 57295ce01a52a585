"""Feature pyramid."""

from __future__ import annotations

import keras

from gatemask.builders.bridge import layers
from gatemask.builders.decoders.blocks import Decoded, Features, by_stride, convolve, enlarge
from gatemask.builders.tensor import Tensor
from gatemask.config import Model

PYRAMID_FILTERS, SEGMENTATION_FILTERS = 256, 128


def fpn(config: Model, features: Features) -> Decoded:
    """Feature pyramid (Lin 2017, Kirillov 2019): all levels are brought to half the input size and joined.

    Layers and their order are those of segmentation-models, so its weights fit. An `output_stride` of 4 brings the
    levels to a quarter of the input size instead, as an encoder without features of stride 2 does.

    Args:
        config: The experiment's `model:`.
        features: Features of the encoder.
    """
    finest = max(min(features), config.output_stride or 1)
    x, levels = features[32], {}
    for stage, stride in zip((5, 4, 3, 2), (16, 8, 4, 2), strict=True):
        if stride >= finest:
            x = _join(x, features[stride], f"fpn_stage_p{stage}")
            levels[stride] = x
    for stage, stride in zip((5, 4, 3, 2), levels, strict=False):
        for letter in "ab":
            levels[stride] = convolve(levels[stride], SEGMENTATION_FILTERS, f"segm_stage{stage}{letter}")
    joined = [
        _repeat(levels[stride], stride // finest, f"upsampling_stage{stage}")
        for stage, stride in zip((2, 3, 4, 5), (2, 4, 8, 16), strict=True)
        if stride >= finest
    ]
    x = keras.layers.Concatenate(name="aggregation_concat")(joined)
    x = convolve(x, SEGMENTATION_FILTERS, "final_stage")
    x = enlarge(x, finest // (config.output_stride or 1), "final_upsampling")
    return Decoded(x, by_stride(levels) if config.deep_supervision else {})


def _join(x: Tensor, skip: Tensor, name: str) -> Tensor:
    """Enlarge features by repetition and add the encoder's, both brought to the same number of filters."""
    if x.shape[-1] != PYRAMID_FILTERS:
        x = _project(x, f"{name}_pre_conv")
    skip = _project(skip, f"{name}_conv")
    return keras.layers.Add(name=f"{name}_add")([keras.layers.UpSampling2D(name=f"{name}_upsampling")(x), skip])


def _project(x: Tensor, name: str) -> Tensor:
    return layers.Conv2D(PYRAMID_FILTERS, 1, kernel_initializer="he_uniform", name=name)(x)


def _repeat(x: Tensor, factor: int, name: str) -> Tensor:
    return x if factor == 1 else keras.layers.UpSampling2D(factor, name=name)(x)
