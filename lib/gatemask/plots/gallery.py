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
        truth: True masks, bool (height, width, classes).
        full_map: Averaged map at full size, uint8 (height, width, classes).
        mask: Final masks, bool (height, width, classes).
        dice: Dice of the final masks, averaged over classes.
        gate: Gate probability; of several gates, the highest.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    full_map: np.ndarray
    mask: np.ndarray
    dice: float
    gate: float


def class_color(index: int) -> str:
    """Return the color of a class's outlines, where there are several."""
    return style.CYCLE[index % len(style.CYCLE)]


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
    classes = shown.truth.shape[2]
    for ax, masks, color, title in (
        (axes[1], shown.truth, style.GREEN, "truth"),
        (axes[3], shown.mask, style.RED, "final mask"),
    ):
        ax.imshow(shown.image, cmap="gray", vmin=0, vmax=255)
        for index in range(classes):
            if masks[:, :, index].any():
                ax.contour(
                    masks[:, :, index], [0.5], colors=[color if classes == 1 else class_color(index)], linewidths=1.3
                )
        ax.set_title(f"{title}: {int(masks.sum())} px", fontsize=7)
    axes[2].imshow(shown.full_map.max(axis=2), cmap="magma", vmin=0, vmax=255)  # of the likeliest class
    axes[2].set_title(f"map; gate {shown.gate:.3f}", fontsize=7)
