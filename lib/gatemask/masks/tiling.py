"""Cut scaled images into tiles, and blend the maps of tiles to the map of an image: the only copy of both.

Tiles overlap, and each map counts most in its middle, where the network saw the surroundings of a pixel on all sides:
the weight is a Gaussian whose standard deviation is an eighth of the side, as in nnU-Net (Isensee 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gatemask.config import Tiles
from gatemask.errors import GatemaskError
from gatemask.masks.frame import resize, resize_map
from gatemask.masks.rule import as_uint8

DEVIATION = 1 / 8  # of the weight, as a share of the side


class Origin(NamedTuple):
    """Position of a tile's first pixel in the scaled image.

    Args:
        y: Row.
        x: Column.
    """

    y: int
    x: int


def scaled_size(image_size: tuple[int, int], tiles: Tiles) -> tuple[int, int]:
    """Return height and width of an image after scaling, in pixels.

    >>> scaled_size((1001, 400), Tiles(scale=0.5))
    (500, 200)
    """
    height, width = (max(1, round(side * tiles.scale)) for side in image_size)
    return height, width


def tile_origins(size: tuple[int, int], tile: int, overlap: int) -> list[Origin]:
    """Return the positions of all tiles, row by row: as few as overlap enough, evenly spread, flush with the edges.

    Args:
        size: Height and width of the scaled image, in pixels.
        tile: Side of a tile, in pixels.
        overlap: Pixels that neighbors share at least.

    >>> [tuple(origin) for origin in tile_origins((64, 150), tile=64, overlap=8)]
    [(0, 0), (0, 43), (0, 86)]
    """
    rows, columns = (_positions(side, tile, overlap) for side in size)
    return [Origin(y, x) for y in rows for x in columns]


def input_tiles(size: tuple[int, int], tile: int) -> list[Origin]:
    """Return the positions of the tiles by which an input is predicted: neighbors share at least a quarter of a side.

    Args:
        size: Height and width of the input, in pixels.
        tile: Side of a tile, in pixels.

    >>> [tuple(origin) for origin in input_tiles((64, 96), 64)]
    [(0, 0), (0, 32)]
    """
    return tile_origins(size, tile, tile // 4)


def _positions(side: int, tile: int, overlap: int) -> list[int]:
    if side <= tile:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(index * (side - tile) / (count - 1)) for index in range(count)]


def scale_image(image: np.ndarray, tiles: Tiles) -> np.ndarray:
    """Return an image, uint8 (height, width, channels), after scaling."""
    return resize(image, scaled_size((image.shape[0], image.shape[1]), tiles))


def cut_tile(scaled: np.ndarray, origin: Origin, tile: int) -> np.ndarray:
    """Return a tile; pixels beyond the image are 0.

    Args:
        scaled: Scaled image or mask, (height, width, planes).
        origin: Position of the tile.
        tile: Side of the tile, in pixels.

    Returns:
        C-contiguous (tile, tile, planes), of the same dtype.

    >>> cut_tile(np.ones((2, 3, 1), np.uint8), Origin(0, 1), 3)[:, :, 0].tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    part = scaled[origin.y : origin.y + tile, origin.x : origin.x + tile]
    if part.shape[:2] == (tile, tile):
        return np.ascontiguousarray(part)
    padded = np.zeros((tile, tile, scaled.shape[2]), scaled.dtype)
    padded[: part.shape[0], : part.shape[1]] = part
    return padded


@lru_cache(maxsize=8)
def blending_weight(tile: int) -> np.ndarray:
    """Return the weight of each pixel of a tile, float32 (tile, tile); read-only.

    >>> weight = blending_weight(8)
    >>> bool(weight[3, 3] > weight[0, 0] > 0)
    True
    """
    line = np.exp(-0.5 * ((np.arange(tile) - (tile - 1) / 2) / (DEVIATION * tile)) ** 2)
    weight: np.ndarray = np.outer(line, line).astype(np.float32)
    weight.setflags(write=False)
    return weight


def blend_tiles(
    size: tuple[int, int], tile: int, origins: Iterable[Origin], maps: Iterable[np.ndarray], outputs: int
) -> np.ndarray:
    """Return the map of an image from the maps of its tiles.

    Sums are kept only for the rows that tiles still reach, so the memory beside the result is that of one row of tiles.

    Args:
        size: Height and width of the scaled image, in pixels.
        tile: Side of a tile, in pixels.
        origins: Positions of the tiles, as `tile_origins` orders them.
        maps: Probabilities of each tile, float32 (h, w, outputs), in the same order; of another size than the tile's
            where the network's input is smaller.
        outputs: Number of maps.

    Returns:
        uint8 (height, width, outputs), as maps are stored.

    Raises:
        GatemaskError: Tiles are missing.

    >>> maps = (np.full((4, 4, 1), 0.5, np.float32) for _ in range(2))
    >>> blend_tiles((4, 6), 4, tile_origins((4, 6), 4, 1), maps, 1)[:, :, 0].tolist()[0]
    [128, 128, 128, 128, 128, 128]
    """
    result = np.zeros((*size, outputs), np.uint8)
    done = 0
    for first, rows in finished_rows(size, tile, origins, maps, outputs):
        result[first : first + len(rows)] = rows
        done = first + len(rows)
    if done < size[0]:
        raise GatemaskError("Maps of tiles are missing.", received=f"{done} rows", expected=f"{size[0]} rows")
    return result


def finished_rows(
    size: tuple[int, int], tile: int, origins: Iterable[Origin], maps: Iterable[np.ndarray], outputs: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield rows that no further tile reaches, uint8 (rows, width, outputs), with the number of the first.

    Arguments as for `blend_tiles`. The rows depend on the positions only, so the maps of several members can be blended
    side by side.
    """
    weight = blending_weight(tile)
    total, weights = np.zeros((tile, size[1], outputs), np.float32), np.zeros((tile, size[1], 1), np.float32)
    top, height = 0, 0  # of the rows in `total`
    for origin, tile_map in zip(origins, maps, strict=True):
        if origin.y > top:
            finished = origin.y - top
            yield top, _mean(total[:finished], weights[:finished])
            for sums in (total, weights):
                sums[: tile - finished] = sums[finished:].copy()
                sums[tile - finished :] = 0
            top = origin.y
        height, width = min(tile, size[0] - origin.y), min(tile, size[1] - origin.x)
        if tile_map.shape[:2] != (tile, tile):
            tile_map = resize_map(tile_map, (tile, tile))
        share, place = weight[:height, :width, None], np.s_[:height, origin.x : origin.x + width]
        total[place] += share * tile_map[:height, :width]
        weights[place] += share
    if height:
        yield top, _mean(total[:height], weights[:height])


def _mean(total: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return as_uint8(total / weights)
