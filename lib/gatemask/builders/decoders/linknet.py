"""LinkNet."""

from __future__ import annotations

import keras

from gatemask.builders.decoders.blocks import Decoded, Features, by_stride, convolve, transpose
from gatemask.builders.tensor import Tensor
from gatemask.config import Model

LAST_FILTERS = 16


def linknet(config: Model, features: Features) -> Decoded:
    """LinkNet (Chaurasia 2017): the encoder's features are added to the decoder's; only the last filter is free.

    Layers and their order are those of segmentation-models, so its weights fit.

    Args:
        config: The experiment's `model:`.
        features: Features of the encoder. A level that it lacks is enlarged to half as many filters, and not added to.
    """
    levels: dict[int, Tensor] = {}
    x, stride = features[32], 32
    for stage in range(config.enlargements):
        stride //= 2
        x = levels[stride] = _block(x, features.get(stride), config, stage)
    main = levels.pop(stride)
    return Decoded(main, by_stride(levels) if config.deep_supervision else {})


def _block(x: Tensor, skip: Tensor | None, config: Model, stage: int) -> Tensor:
    """Double the side with a quarter of the filters, and add the encoder's features."""
    name, inner = f"decoder_stage{stage}", x.shape[-1] // 4
    if skip is not None:
        filters = skip.shape[-1]
    elif stage == 4:
        filters = config.filters[-1] if config.filters else LAST_FILTERS
    else:
        filters = x.shape[-1] // 2
    x = convolve(x, inner, f"{name}a", kernel=1)
    if config.block == "transpose":
        x = transpose(x, inner, f"{name}b")
    else:
        x = keras.layers.UpSampling2D(name=f"{name}_upsampling")(x)
        x = convolve(x, inner, f"{name}b")
    x = convolve(x, filters, f"{name}c", kernel=1)
    return x if skip is None else keras.layers.Add(name=f"{name}_add")([x, skip])
