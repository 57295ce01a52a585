"""Draw out-of-fold masks: image, truth, averaged map, final mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatemask.plots import style

COLUMNS = 4


@dataclass(frozen=True)
class GalleryImage:
    """One image of the gallery.

    Args:
        name: Id of the image.
        image: Pixels, uint8 (height, width) or (height, width, 3).
        truth: True mask, bool (height, width).
        full_map: Averaged map at full size, uint8 (height, width).
        mask: Final mask, bool (height, width).
        dice: Dice of the final mask.
        gate: Gate probability.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    full_map: np.ndarray
    mask: np.ndarray
    dice: float
    gate: float


def draw_gallery(images: Sequence[GalleryImage]) -> Figure:
    """Draw up to four images, one per column."""
    figure, axes = style.new_figure(2.1 * COLUMNS, 2.15 * 4, 4, COLUMNS, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    for column, image in enumerate(images):
        _draw_column(axes[:, column], image)
    return figure


def _draw_column(axes: Any, shown: GalleryImage) -> None:
    axes[0].imshow(shown.image, cmap="gray", vmin=0, vmax=255)
    axes[0].set_title(f"{shown.name[-22:]}\nDice {shown.dice:.3f}", fontsize=7, parse_math=False)
    for ax, outline, color, title in (
        (axes[1], shown.truth, style.GREEN, "truth"),
        (axes[3], shown.mask, style.RED, "final mask"),
    ):
        ax.imshow(shown.image, cmap="gray", vmin=0, vmax=255)
        if outline.any():
            ax.contour(outline, [0.5], colors=[color], linewidths=1.3)
        ax.set_title(f"{title}: {int(outline.sum())} px", fontsize=7)
    axes[2].imshow(shown.full_map, cmap="magma", vmin=0, vmax=255)
    axes[2].set_title(f"map; gate {shown.gate:.3f}", fontsize=7)
