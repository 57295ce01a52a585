"""Count the tiles that images are cut into: networks see tiles, not images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gatemask.config import Competition
from gatemask.masks.tiling import scaled_size, tile_origins


def count_tiles(images: pd.DataFrame, comp: Competition) -> np.ndarray:
    """Return the number of tiles of each image, int (n,); 1 where images are not tiled.

    Args:
        images: Rows of the manifest, with `height` and `width`.
        comp: Competition.
    """
    tiles = comp.tiles
    if tiles is None:
        return np.ones(len(images), int)
    sizes = list(zip(images["height"].astype(int), images["width"].astype(int), strict=True))
    count_of = {
        size: len(tile_origins(scaled_size(size, tiles), tiles.size, tiles.overlap)) for size in dict.fromkeys(sizes)
    }
    return np.array([count_of[size] for size in sizes], int)
