"""Draw out-of-fold masks as layers of the same size: image, truth, averaged map, final mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from gatemask.plots import style

SIDE = 384  # longer side of a layer, in pixels
LAYERS = ("image", "truth", "map", "mask")


@dataclass(frozen=True)
class GalleryImage:
    """One image of the gallery.

    Args:
        name: Id of the image.
        fold: Fold in which it was predicted.
        image: Pixels, uint8 (height, width) or (height, width, 3).
        truth: True masks, bool (height, width, classes).
        full_map: Averaged map at full size, uint8 (height, width, classes).
        mask: Final masks, bool (height, width, classes).
        dice: Dice of the final masks, averaged over classes.
        gate: Gate probability, of several gates the highest; None where no gate decides.
    """

    name: str
    fold: int
    image: np.ndarray
    truth: np.ndarray
    full_map: np.ndarray
    mask: np.ndarray
    dice: float
    gate: float | None


def class_color(index: int) -> str:
    """Return the color of a class's outlines, where there are several."""
    colors = [color for color in style.CYCLE if color != "#000000"]  # invisible on a dark image
    return colors[index % len(colors)]


def draw_layers(shown: GalleryImage, side: int = SIDE) -> dict[str, np.ndarray]:
    """Return the layers of an image, ready to be laid over each other.

    Args:
        shown: The image.
        side: Longer side of the layers, in pixels. Default: SIDE.

    Returns:
        By name: the image, uint8 (height, width, 3), and three layers with transparency, (height, width, 4), all in
        OpenCV's order of channels. The layer of the final mask also has the outline of a single class's truth.
    """
    classes = shown.truth.shape[2]
    single = classes == 1
    size = _size(shown.truth.shape[0], shown.truth.shape[1], side)
    image = _resized(shown.image, size)
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
    by_class = [class_color(index) for index in range(classes)]
    truth = _masks(shown.truth, size, [style.GREEN] if single else by_class)
    mask = _masks(shown.mask, size, [style.RED] if single else by_class)
    if single:
        _outline(mask, _small(shown.truth[:, :, 0], size), style.GREEN)
    return {"image": image, "truth": truth, "map": _heat(shown.full_map.max(axis=2), size), "mask": mask}


def crop_to_masks(shown: GalleryImage, least: int = SIDE) -> GalleryImage:
    """Return the part of a large image around its masks; the image as it is where they fill it, or where none is.

    Args:
        shown: The image.
        least: Smallest side of the part, in pixels. Default: SIDE.
    """
    marked = (shown.truth | shown.mask).any(axis=2)
    if not marked.any():
        return shown
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    size = max(least, int(1.5 * max(np.ptp(rows), np.ptp(columns)) + 1))
    window = tuple(
        _span(int(found[0] + found[-1]) // 2, size, length)
        for found, length in ((rows, marked.shape[0]), (columns, marked.shape[1]))
    )
    parts = {name: getattr(shown, name)[window] for name in ("image", "truth", "full_map", "mask")}
    return GalleryImage(shown.name, shown.fold, **parts, dice=shown.dice, gate=shown.gate)


def _span(middle: int, size: int, length: int) -> slice:
    start = max(0, min(middle - size // 2, length - size))
    return slice(start, min(length, start + size))


def _size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return width and height of the layers; small images are enlarged, so that outlines are thin."""
    factor = side / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] < pixels.shape[1]
    resized: np.ndarray = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return resized


def _small(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask at the size of the layers, uint8; of a shrunk one, a pixel of any coverage stays visible."""
    coverage = _resized(mask.astype(np.uint8) * 255, size)
    half = (coverage >= 128).astype(np.uint8)
    return half if half.any() or not mask.any() else (coverage > 0).astype(np.uint8)


def _masks(masks: np.ndarray, size: tuple[int, int], colors: Sequence[str]) -> np.ndarray:
    layer = np.zeros((size[1], size[0], 4), np.uint8)
    for index, color in enumerate(colors):
        small = _small(masks[:, :, index], size)
        layer[small > 0] = (*_bgr(color), 90)
        _outline(layer, small, color)
    return layer


def _outline(layer: np.ndarray, small: np.ndarray, color: str) -> None:
    contours = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    cv2.drawContours(layer, contours, -1, (*_bgr(color), 255), 2)


def _heat(full_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a map in colors from black to yellow; low probabilities let the image through."""
    small = _resized(full_map, size)
    colors = cv2.applyColorMap(small, cv2.COLORMAP_INFERNO)
    return np.dstack([colors, np.maximum(170, small)])


def _bgr(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return blue, green, red
