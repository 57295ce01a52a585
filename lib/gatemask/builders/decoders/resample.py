"""Resize features by any factor, with the same result on every backend."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import numpy as np

from gatemask.builders.tensor import Tensor


class Resample(keras.layers.Layer):
    """Layer from features, (b, h, w, f), to those of another size, (b, height, width, f).

    Each axis is multiplied by a constant matrix, so shapes are static and no backend's rules for borders matter.

    Args:
        height: Height to return, in pixels.
        width: Width to return, in pixels.
        by: "mean" over the pixels that a new pixel covers at least in part, as in adaptive pooling; "bilinear"
            interpolation between the centers of pixels.
    """

    def __init__(self, height: int, width: int, by: Literal["mean", "bilinear"], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.height, self.width, self.by = height, width, by

    def call(self, x: Tensor) -> Tensor:
        _, height, width, filters = x.shape
        matrix = means if self.by == "mean" else interpolation
        rows = keras.ops.convert_to_tensor(matrix(height, self.height), x.dtype)
        columns = keras.ops.convert_to_tensor(matrix(width, self.width), x.dtype)
        x = keras.ops.matmul(rows, keras.ops.reshape(x, (-1, height, width * filters)))
        return keras.ops.matmul(columns, keras.ops.reshape(x, (-1, self.height, width, filters)))


def means(size: int, bins: int) -> np.ndarray:
    """Return the matrix, (bins, size), that averages an axis in overlapping bins.

    >>> means(3, 2)
    array([[0.5, 0.5, 0. ],
           [0. , 0.5, 0.5]], dtype=float32)
    """
    matrix = np.zeros((bins, size), np.float32)
    for number in range(bins):
        start, stop = number * size // bins, math.ceil((number + 1) * size / bins)
        matrix[number, start:stop] = 1 / (stop - start)
    return matrix


def interpolation(size: int, length: int) -> np.ndarray:
    """Return the matrix, (length, size), that interpolates an axis linearly; beyond the last centers it is constant.

    >>> interpolation(2, 4)
    array([[1.  , 0.  ],
           [0.75, 0.25],
           [0.25, 0.75],
           [0.  , 1.  ]], dtype=float32)
    """
    centers = (np.arange(length) + 0.5) * size / length - 0.5
    distances = np.abs(np.clip(centers, 0, size - 1)[:, None] - np.arange(size))
    return np.maximum(0, 1 - distances).astype(np.float32)
