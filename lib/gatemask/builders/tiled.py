"""Predict an input by overlapping tiles of the size that a network was trained on, inside one Keras model.

Tiles are cut, and their maps blended, as those of large images are: the positions and weights are those of
`gatemask.masks.tiling`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from gatemask.builders.tensor import Tensor
from gatemask.masks.tiling import Origin, blending_weight, input_tiles


def by_tiles(network: keras.Model, size: tuple[int, int]) -> keras.Model:
    """Return a model that predicts a whole input by the tiles of a mask network, and shares its layers.

    All tiles of an image are predicted in one step.

    Args:
        network: Model of `build_network` for square images of the size of a tile, uint8 (b, tile, tile, channels).
        size: Height and width of the whole input, in pixels.

    Returns:
        Model from images, uint8 (b, height, width, channels), to probabilities, float32 (b, height, width, outputs).
    """
    _, tile, _, channels = network.input.shape
    origins = input_tiles(size, tile)
    images = keras.Input((*size, channels), dtype="uint8", name="whole_images")
    maps = network(CutTiles(origins, tile, name="cut_tiles")(images))
    blended = BlendTiles(origins, tile, size, name="blend_tiles")(maps)
    return keras.Model(images, blended, name=f"{network.name}_by_tiles")


class CutTiles(keras.layers.Layer):
    """Layer from images, (b, height, width, c), to their tiles, (b * tiles, tile, tile, c), image by image.

    Args:
        origins: Positions of the tiles.
        tile: Side of a tile, in pixels.
    """

    def __init__(self, origins: list[Origin], tile: int, **kwargs: Any) -> None:
        super().__init__(dtype="uint8", autocast=False, **kwargs)
        self.origins, self.tile = origins, tile

    def call(self, images: Tensor) -> Tensor:
        tile = self.tile
        parts = [images[:, y : y + tile, x : x + tile] for y, x in self.origins]
        return ops.reshape(ops.stack(parts, axis=1), (-1, tile, tile, images.shape[-1]))


class BlendTiles(keras.layers.Layer):
    """Layer from the maps of tiles, (b * tiles, tile, tile, o), to those of whole inputs, (b, height, width, o).

    Each map counts by a Gaussian about the middle of its tile.

    Args:
        origins: Positions of the tiles.
        tile: Side of a tile, in pixels.
        size: Height and width of the whole input, in pixels.
    """

    def __init__(self, origins: list[Origin], tile: int, size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.origins, self.tile, self.size = origins, tile, size
        weight, total = blending_weight(tile), np.zeros(size)
        for y, x in origins:
            total[y : y + tile, x : x + tile] += weight
        # Shares of each tile at its pixels: their sum is 1 at each pixel of the input.
        self.shares = [(weight / total[y : y + tile, x : x + tile])[..., None].astype(np.float32) for y, x in origins]

    def call(self, maps: Tensor) -> Tensor:
        tile, outputs = self.tile, maps.shape[-1]
        maps = ops.reshape(maps, (-1, len(self.origins), tile, tile, outputs))
        whole = 0.0
        for index, (y, x) in enumerate(self.origins):
            below, right = self.size[0] - y - tile, self.size[1] - x - tile
            part = maps[:, index] * self.shares[index]
            whole = whole + ops.pad(part, ((0, 0), (y, below), (x, right), (0, 0)))
        return whole
