"""An image as its file stores it, and the way from there to 8 bits: window, gray or color, orientation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from gatemask.config import Percentiles
from gatemask.errors import GatemaskError

Window = Literal["full", "file"] | tuple[float, float] | Percentiles
Range = tuple[float, float]


@dataclass(frozen=True)
class StoredImage:
    """Pixels as a file stores them, before any window or rotation.

    Args:
        pixels: Levels or numbers, (height, width) if gray, (height, width, 3) if red, green, blue.
        limits: Lowest and highest value the file could hold; None for floating point, which has no such limits.
        alpha: Opacity, (height, width); None without transparency.
        opaque: Value of `alpha` at which nothing shines through. Default: 255.
        indices: Entries of the palette, (height, width); None without a palette.
        orientation: EXIF orientation, 1 to 8. Default: 1, upright.
        lossy: Whether compression changes values a little, as JPEG does. Default: False.
    """

    pixels: np.ndarray
    limits: Range | None
    alpha: np.ndarray | None = None
    opaque: float = 255
    indices: np.ndarray | None = None
    orientation: int = 1
    lossy: bool = False


@dataclass(frozen=True)
class ImageFacts:
    """What is worth reporting about an image file.

    Args:
        limits: Lowest and highest value the file could hold, in the units of a window; None for floating point.
        lowest: Lowest value that occurs.
        highest: Highest value that occurs.
        orientation: EXIF orientation, 1 to 8. Default: 1, upright.
        transparent: Whether some pixels are transparent. Default: False.
    """

    limits: Range | None
    lowest: float
    highest: float
    orientation: int = 1
    transparent: bool = False


def facts_of(stored: StoredImage) -> ImageFacts:
    """Return what is worth reporting about a stored image."""
    transparent = stored.alpha is not None and bool((stored.alpha < stored.opaque).any())
    lowest, highest = float(stored.pixels.min()), float(stored.pixels.max())
    return ImageFacts(stored.limits, lowest, highest, stored.orientation, transparent)


def show(stored: StoredImage, channels: int, window: Window, where: Path) -> np.ndarray:
    """Return a stored image as uint8, (height, width) or (height, width, 3); transparency is ignored.

    Args:
        stored: Pixels of the file.
        channels: 1 turns color to gray; 3 keeps what is stored.
        window: Levels that become 0 to 255; "file" is "full", since only DICOM files have a window of their own.
        where: The file, for errors.

    Raises:
        GatemaskError: A pixel is not a finite number, or floating-point pixels have no window.
    """
    pixels = stored.pixels
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise GatemaskError(
            "An image holds pixels that are not numbers.",
            where=where,
            received=f"{np.count_nonzero(~np.isfinite(pixels))} NaN or infinite values",
            expected="finite numbers",
            do="Replace them in the file.",
        )
    if channels == 1 and pixels.ndim == 3:
        exact = pixels.dtype in (np.uint8, np.uint16)
        pixels = cv2.cvtColor(pixels if exact else pixels.astype(np.float32), cv2.COLOR_RGB2GRAY)
    if not isinstance(window, str):
        return scale(pixels, *edges(window, pixels))
    if stored.limits is None:
        raise GatemaskError(
            "An image of floating-point numbers needs a window.",
            where=where,
            received=f"{pixels.dtype} from {pixels.min():.6g} to {pixels.max():.6g}, image.window '{window}'",
            expected="image.window: [center, width], or {percentiles: [low, high]}",
            do="Set image.window in competition.yaml.",
        )
    if pixels.dtype == np.uint16 and stored.limits == (0, 65535):
        return (pixels // 257).astype(np.uint8)
    return scale(pixels, *stored.limits)


def edges(window: tuple[float, float] | Percentiles, levels: np.ndarray) -> Range:
    """Return the levels that a window maps to 0 and 255.

    Args:
        window: Center and width, or percentiles.
        levels: Levels of the image's pixels, of any shape, from which percentiles are taken.
    """
    if isinstance(window, Percentiles):
        low, high = (float(level) for level in np.percentile(levels, window.percentiles))
        return low, high
    center, width = window
    return center - width / 2, center + width / 2


def scale(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to `high` linearly to 0 to 255, clipped; pixels already in that range are returned unchanged."""
    if (low, high) == (0, 255) and pixels.dtype == np.uint8:
        return pixels
    if low >= high:  # percentiles of an image of one level: there is nothing to show
        return np.zeros(pixels.shape, np.uint8)
    # Half of the range of 32-bit integers has more digits than float32.
    precise = np.float64 if pixels.dtype.itemsize > 2 else np.float32
    if pixels.dtype == np.uint16 and pixels.size > 1 << 16:  # by a table of all values: large images stay small
        return np.take(scale(np.arange(1 << 16, dtype=np.uint16), low, high), pixels)
    levels: np.ndarray = pixels.astype(precise)
    return np.clip((levels - low) * (255.0 / (high - low)), 0, 255).round().astype(np.uint8)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels as a viewer shows them.

    Args:
        pixels: Array (height, width) or (height, width, channels).
        orientation: EXIF orientation, 1 to 8.
    """
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
