"""Draw a contact sheet of augmented images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatemask.plots import style

# Of a single class, as of the first, green.
COLORS = [style.GREEN, *(color for color in style.CYCLE if color != style.GREEN)]


@dataclass(frozen=True)
class Tile:
    """One image of the sheet.

    Args:
        image: Pixels, uint8 (height, width, channels); of other than 1 or 3 channels the middle one is shown.
        mask: Masks, (height, width, planes); each plane has its own color.
        caption: Text below it.
    """

    image: np.ndarray
    mask: np.ndarray
    caption: str


def draw_contact_sheet(rows: Sequence[Sequence[Tile]]) -> Figure:
    """Draw a grid of images with the outlines of their masks.

    Args:
        rows: Tiles, one row per image and one column per version, all rows of the same length.
    """
    columns = len(rows[0])
    figure, axes = style.new_figure(1.7 * columns, 1.85 * len(rows), len(rows), columns, squeeze=False)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            _draw_tile(axes[row, column], tile)
    return figure


def _draw_tile(ax: Any, tile: Tile) -> None:
    channels = tile.image.shape[2]
    image = tile.image if channels == 3 else tile.image[:, :, channels // 2]
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    for index in range(tile.mask.shape[2]):
        plane = tile.mask[:, :, index]
        if 0 < plane.mean() < 1:
            ax.contour(plane, [0.5], colors=[COLORS[index % len(COLORS)]], linewidths=1)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_xlabel(tile.caption, fontsize=6.5, parse_math=False)
