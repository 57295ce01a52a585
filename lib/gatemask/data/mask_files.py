"""Decide which pixels of an image file are mask, and report where the file leaves that open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from gatemask.data.pictures import gray_if_equal
from gatemask.data.stored import StoredImage
from gatemask.errors import GatemaskError

Kind = Literal["empty", "single", "soft", "numbers", "faint", "cut"]
# Share of the pixels between background and mask that lie in flat areas, from which they are classes, not soft edges.
FLAT = 0.25
NEARLY = 16  # difference of levels that JPEG compression adds to equal pixels
FEW = 8  # values named in messages
MANY = 32  # more values than this are not classes


@dataclass(frozen=True)
class MaskFacts:
    """What is worth reporting about a mask file.

    Args:
        kind: "empty" without any value above 0; "single" with one; "soft" with values up to the range's upper half;
            "numbers" with several small values of more than 8 bits; "faint" for soft edges of an object that never
            reach the upper half; "cut" where a threshold is set, or the mask is in doubt.
        value: The only value above 0, or the highest.
        half: Half of the file's range.
        between: Share of pixels that are neither 0 nor the highest value.
        border: Share of the outermost pixels that are mask.
        color: Color of the mask; None if it is gray or has several.
        doubt: Why it is not clear which pixels are mask; "" where it is.
    """

    kind: Kind
    value: float
    half: float
    between: float
    border: float
    color: tuple[int, ...] | None = None
    doubt: str = ""

    def error(self, where: object, count: str = "") -> GatemaskError:
        """Return the error for a file whose mask is in doubt.

        Args:
            where: The file.
            count: Number of such files. Default: not mentioned.
        """
        return GatemaskError(
            f"It is not clear which pixels of {count or 'a file'} are mask.",
            where=where,
            received=self.doubt,
            expected="0 for background and one value, such as 1 or 255, for the mask",
            do="If values are classes, objects, shares of annotators or ignored pixels, set labels.values, numbered, "
            "soft or ignore. Otherwise set labels.threshold: every pixel with a value above it, in any color, is mask; "
            "or convert the masks.",
        )


def interpret_mask(stored: StoredImage, threshold: int | None, where: Path) -> tuple[np.ndarray, MaskFacts]:
    """Return the mask of a file, bool (height, width), and facts about it.

    Args:
        stored: Pixels of the file.
        threshold: Value above which a pixel of any color is mask; None to decide by the values.
        where: The file, for errors.

    Raises:
        GatemaskError: A pixel is not a finite number.
    """
    pixels = stored.pixels
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise GatemaskError("A mask holds pixels that are not numbers.", where=where, received="NaN or infinite values")
    if pixels.ndim == 3:
        pixels = gray_if_equal(pixels)
    values = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    half = _half(stored, values)
    if threshold is not None:
        return _result(values > threshold, "cut", values, half)
    mask, kind, doubt = _decide(values, half, stored.lossy)
    color = None
    if pixels.ndim == 3 and mask.any():
        color = tuple(pixels[mask][values[mask].argmax()].tolist())
        doubt = doubt or _doubt_about_colors(pixels, mask, stored.lossy)
    doubt = doubt or _doubt_about_palette(mask, stored) or _doubt_about_transparency(mask, stored)
    return _result(mask, kind, values, half, doubt, None if stored.lossy else color)


def _half(stored: StoredImage, values: np.ndarray) -> float:
    """Return half of the file's range; floating-point masks reach from 0 to 1, or to 255."""
    if stored.limits is not None:
        return float(stored.limits[1] // 2)
    return 0.5 if values.max(initial=0) <= 1 else 127.0


def _result(
    mask: np.ndarray, kind: Kind, values: np.ndarray, half: float, doubt: str = "", color: tuple[int, ...] | None = None
) -> tuple[np.ndarray, MaskFacts]:
    highest = float(values.max(initial=0))
    between = np.count_nonzero((values != 0) & (values != highest)) / max(values.size, 1)
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return mask, MaskFacts(kind, highest, half, between, float(edge.mean()), color, doubt)


def _decide(values: np.ndarray, half: float, lossy: bool) -> tuple[np.ndarray, Kind, str]:
    """Return the mask of gray values, its kind, and a doubt."""
    mask = values > half
    lowest, highest = values.min(initial=0), values.max(initial=0)
    if lowest < 0:
        return mask, "cut", f"values from {lowest:g} to {highest:g}"
    if highest == 0:
        return mask, "empty", ""
    if lossy and highest <= half:
        return mask, "faint", ""
    between = (values > 0) & (values < highest)
    if not between.any():
        return values > 0, "single", ""
    distinct = np.unique(values[between])
    if highest <= half:
        soft = len(distinct) > FEW and not _is_flat(values, between, half, lossy)
        if half > 127 and values.dtype.kind != "f" and not (soft and highest == 255):  # more than 8 bits
            return values > 0, "numbers", ""
        if soft and half <= 127:
            return mask, "faint", ""
        return mask, "cut", f"values {_few(values)}, all in the lower half: classes, or numbers of objects?"
    classes = not lossy and distinct[-1] < MANY and len(distinct) <= FEW
    if classes or _is_flat(values, between, half, lossy):
        return mask, "cut", f"values {_few(values)} in areas of their own: classes, numbers, or ignored (void) pixels?"
    return mask, "soft", ""


def _is_flat(values: np.ndarray, between: np.ndarray, half: float, lossy: bool) -> bool:
    """Return whether pixels between background and mask form areas of their own instead of edges."""
    levels = (values * (127.0 / half)).astype(np.float32)
    if lossy:  # compression surrounds edges with values near both ends
        between = (levels > 2 * NEARLY) & (levels < 255 - 2 * NEARLY)
        if not between.any():
            return False
    kernel = np.ones((5, 5) if lossy else (3, 3), np.uint8)
    spread = cv2.dilate(levels, kernel) - cv2.erode(levels, kernel)
    flat = between & (spread <= (NEARLY if lossy else 0))
    return bool(np.count_nonzero(flat) >= FLAT * np.count_nonzero(between))


def _few(values: np.ndarray) -> str:
    distinct = np.unique(values)
    shown = ", ".join(f"{value:g}" for value in distinct[:FEW].tolist())
    return shown if len(distinct) <= FEW else f"{shown}, ... {distinct[-1]:g}"


def _doubt_about_colors(pixels: np.ndarray, mask: np.ndarray, lossy: bool) -> str:
    levels = pixels.astype(np.float32)
    hues = levels / np.maximum(levels.max(axis=2, keepdims=True), 1e-6)
    off = (np.abs(hues - np.median(hues[mask], axis=0)).max(axis=2) > (0.3 if lossy else 0.01)) & mask
    if lossy:  # colors blend at edges
        off = cv2.erode(off.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    if not off.any():
        return ""
    first = pixels[mask & ~off][0] if (mask & ~off).any() else pixels[mask][0]
    return f"several colors, such as {tuple(first.tolist())} and {tuple(pixels[off][0].tolist())}"


def _doubt_about_palette(mask: np.ndarray, stored: StoredImage) -> str:
    if stored.indices is None or np.array_equal(stored.indices != 0, mask):
        return ""
    return f"a palette: its entries {_few(stored.indices)} and their colors give different masks"


def _doubt_about_transparency(mask: np.ndarray, stored: StoredImage) -> str:
    alpha = stored.alpha
    if alpha is None or alpha.min() == alpha.max() or np.array_equal(alpha > stored.opaque / 2, mask):
        return ""
    return f"transparency that varies from {alpha.min():g} to {alpha.max():g} and differs from the colors"
