"""Draw a contact sheet of augmented images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatemask.plots import style


@dataclass(frozen=True)
class Tile:
    """One image of the sheet.

    Args:
        image: Pixels, uint8 (side, side, channels).
        mask: Mask, (side, side).
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
    image = tile.image[:, :, 0] if tile.image.shape[2] == 1 else tile.image
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    if 0 < tile.mask.mean() < 1:
        ax.contour(tile.mask, [0.5], colors=[style.GREEN], linewidths=1)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_xlabel(tile.caption, fontsize=6.5, parse_math=False)
