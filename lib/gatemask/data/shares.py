"""Combine the soft masks of several annotators."""

from __future__ import annotations

from typing import Literal

import numpy as np


class Shares:
    """Shares of the masks of one image: the mean, or the largest, over the files that know a pixel.

    Args:
        size: Height and width of the image, in pixels.
        classes: Number of classes.
        combine: "mean", or "union" for the largest share.

    >>> shares = Shares((1, 2), 1, "mean")
    >>> shares.add(np.array([[[1.0], [1.0]]]), np.array([[True, False]]))
    >>> shares.add(np.array([[[0.0], [0.2]]]), np.array([[True, True]]))
    >>> shares.levels.tolist(), shares.known.tolist()
    ([[[128], [51]]], [[True, True]])
    """

    def __init__(self, size: tuple[int, int], classes: int, combine: Literal["union", "mean"]) -> None:
        self._combine = combine
        self._sum = np.zeros((*size, classes), np.float32)
        self._files, self._count = np.zeros(size, np.uint16), 0

    def add(self, shares: np.ndarray, known: np.ndarray) -> None:
        """Add a file.

        Args:
            shares: Shares from 0 to 1, float32 (height, width, classes).
            known: Pixels that the file does not ignore, bool (height, width).
        """
        shares = shares * known[:, :, None]
        self._sum = np.maximum(self._sum, shares) if self._combine == "union" else self._sum + shares
        self._files += known
        self._count += 1

    @property
    def levels(self) -> np.ndarray:
        """Shares of 255, uint8 (height, width, classes); 0 where no file knows the pixel."""
        count = np.maximum(self._files, 1)[:, :, None] if self._combine == "mean" else 1
        return np.minimum(np.floor(255 * (self._sum / count) + 0.5), 255).astype(np.uint8)

    @property
    def known(self) -> np.ndarray:
        """Pixels that some file knows, bool (height, width); for the union, those that every file knows."""
        return self._files == self._count if self._combine == "union" else self._files > 0
