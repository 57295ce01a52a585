"""Tiles cover images without gaps, and their maps blend to the map of the image."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gatemask.config import Tiles
from gatemask.errors import GatemaskError
from gatemask.masks.rule import as_uint8
from gatemask.masks.tiling import Origin, blend_tiles, blending_weight, cut_tile, scale_image, scaled_size, tile_origins


@pytest.mark.parametrize("seed", range(20))
def test_tiles_cover_every_pixel_and_overlap_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tile = int(rng.choice([32, 64, 96]))
    overlap, size = int(rng.integers(0, tile // 2 + 1)), tuple(rng.integers(1, 400, 2).tolist())
    origins = tile_origins(size, tile, overlap)
    assert origins == sorted(origins)
    for axis in range(2):
        starts = sorted({origin[axis] for origin in origins})
        assert starts[0] == 0
        assert starts[-1] == max(0, size[axis] - tile)
        assert all(after - before <= tile - overlap for before, after in pairwise(starts))
        fewest = 1 if size[axis] <= tile else -(-(size[axis] - overlap) // (tile - overlap))
        assert len(starts) == fewest


@pytest.mark.parametrize("size", [(100, 70), (32, 200), (20, 25), (64, 64)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_blending_is_the_weighted_mean_of_the_tiles(size: tuple[int, int], outputs: int) -> None:
    rng, tile = np.random.default_rng(0), 32
    origins = tile_origins(size, tile, 8)
    maps = rng.random((len(origins), tile, tile, outputs)).astype(np.float32)
    total, weights = np.zeros((*size, outputs)), np.zeros((*size, 1))
    for origin, tile_map in zip(origins, maps, strict=True):
        for y in range(min(tile, size[0] - origin.y)):
            for x in range(min(tile, size[1] - origin.x)):
                share = float(blending_weight(tile)[y, x])
                total[origin.y + y, origin.x + x] += share * tile_map[y, x]
                weights[origin.y + y, origin.x + x] += share
    blended = blend_tiles(size, tile, origins, iter(maps), outputs)
    assert np.abs(blended.astype(int) - as_uint8(total / weights).astype(int)).max() <= 1


def test_tiles_of_a_map_give_the_map_back() -> None:
    whole = np.random.default_rng(1).random((150, 90, 2)).astype(np.float32)
    origins = tile_origins((150, 90), 64, 16)
    tiles = (cut_tile(whole, origin, 64) for origin in origins)
    assert np.array_equal(blend_tiles((150, 90), 64, origins, tiles, 2), as_uint8(whole))


def test_maps_of_a_smaller_input_are_enlarged() -> None:
    origins = tile_origins((64, 64), 64, 8)
    small = np.zeros((32, 32, 1), np.float32)
    small[:16] = 1
    blended = blend_tiles((64, 64), 64, origins, [small], 1)
    assert blended[:30].min() == 255
    assert blended[34:].max() == 0


def test_missing_tiles_are_an_error() -> None:
    origins = tile_origins((100, 32), 32, 0)
    with pytest.raises(GatemaskError, match=r"Maps of tiles are missing"):
        blend_tiles((100, 32), 32, origins[:2], [np.zeros((32, 32, 1), np.float32)] * 2, 1)


def test_scaling_keeps_at_least_one_pixel() -> None:
    tiles = Tiles(size=32, overlap=0, scale=0.25)
    assert scaled_size((10, 1), tiles) == (2, 1)
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert scale_image(image, tiles).shape == (2, 2, 1)
    assert cut_tile(image, Origin(4, 4), 32)[:4, :4, 0].tolist() == image[4:, 4:, 0].tolist()
