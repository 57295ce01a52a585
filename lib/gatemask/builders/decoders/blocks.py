"""What decoders take and return, and the blocks they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import keras

from gatemask.builders.bridge import layers
from gatemask.builders.tensor import Tensor

Features = Mapping[int, Tensor]
"""Features of an encoder, (b, h / stride, w / stride, f), by stride: 4, 8, 16, 32 and, of most encoders, 2."""


@dataclass(frozen=True)
class Decoded:
    """Features that heads turn into logits.

    Args:
        main: Features of the prediction, (b, h / s, w / s, f), at any stride s.
        deep: Features of the outputs that only deep supervision trains, by the name of their head, the most important
            one first. Default: none.
        averaged: Whether the prediction is the mean of all outputs, which then weigh the same. Default: False, `main`
            alone.
        kernel: Side of the heads' convolutions, in pixels. Default: 3.
    """

    main: Tensor
    deep: dict[str, Tensor] = field(default_factory=dict)
    averaged: bool = False
    kernel: int = 3

    def loss_weights(self) -> dict[str, float]:
        """Return the share of each output in the loss, by the name of its head; their sum is 1.

        Each output has half the weight of the one before it, as in nnU-Net (Isensee 2021).

        >>> Decoded(main=None, deep={"deep2": None, "deep4": None}).loss_weights()
        {'main': 0.5714285714285714, 'deep2': 0.2857142857142857, 'deep4': 0.14285714285714285}
        """
        weights = {name: 1.0 if self.averaged else 0.5**rank for rank, name in enumerate(("main", *self.deep))}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


def by_stride(levels: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Return features by the name of their head, finest first: "deep8" for those of stride 8."""
    return {f"deep{stride}": levels[stride] for stride in sorted(levels)}


def convolve(x: Tensor, filters: int, name: str, kernel: int = 3) -> Tensor:
    """Apply convolution, BatchNorm and ReLU.

    Args:
        x: Features, (b, h, w, f).
        filters: Number of features to return.
        name: Prefix of the layers' names.
        kernel: Side of the convolution, in pixels. Default: 3.
    """
    x = layers.Conv2D(
        filters, kernel, padding="same", use_bias=False, kernel_initializer="he_uniform", name=f"{name}_conv"
    )(x)
    return normalize(x, name)


def normalize(x: Tensor, name: str) -> Tensor:
    """Apply BatchNorm and ReLU."""
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_relu")(x)


def transpose(x: Tensor, filters: int, name: str, suffix: str = "_transpose") -> Tensor:
    """Double the side by a transposed convolution with BatchNorm and ReLU.

    Args:
        x: Features, (b, h, w, f).
        filters: Number of features to return.
        name: Prefix of the layers' names.
        suffix: End of the convolution's name.
    """
    x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False, name=f"{name}{suffix}")(x)
    return normalize(x, name)


def enlarge(x: Tensor, factor: int, name: str, dtype: str | None = None) -> Tensor:
    """Enlarge features by bilinear interpolation between the centers of pixels.

    Args:
        x: Features, (b, h, w, f).
        factor: Pixels to return per pixel, along a side; 1 changes nothing.
        name: Name of the layer.
        dtype: Precision of the interpolation. Default: that of all layers.
    """
    if factor == 1:
        return x
    return keras.layers.UpSampling2D(factor, interpolation="bilinear", name=name, dtype=dtype)(x)
