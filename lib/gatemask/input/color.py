"""Change gray levels and colors of an image: one lookup table for all tones, one HSV round trip, blur, dropout."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from gatemask.config import Blur, Dropout
from gatemask.input.step_kind import StepKind, always, between

HOLE_GRAY = 128  # level of the squares that dropout draws


@dataclass
class ColorChange:
    """Color parameters drawn for one image.

    Args:
        levels: New value of each gray level, float64 (256,); None for no change.
        hue: Shift of the hue, as a share of the color circle.
        saturation: Factor of the saturation.
        blur: Standard deviation of the Gaussian, in pixels; 0 for none.
        holes: Positions of hidden squares, (n, 2), x and y between 0 and 1; None for none.
        hole_side: Side of a hidden square, as a share of the image's shorter side.
    """

    levels: np.ndarray | None = None
    hue: float = 0.0
    saturation: float = 1.0
    blur: float = 0.0
    holes: np.ndarray | None = None
    hole_side: float = 0.0

    @property
    def is_identity(self) -> bool:
        has_arrays = self.levels is not None or self.holes is not None
        return not (has_arrays or self.hue or self.saturation != 1 or self.blur)


def _brightness_contrast(change: ColorChange, amount: float, numbers: np.ndarray) -> None:
    contrast, brightness = (between(-amount, amount, number) for number in numbers.tolist())
    change.levels = _levels(change) * (1 + contrast) + 255 * brightness / 2


def _gamma(change: ColorChange, powers: tuple[float, float], numbers: np.ndarray) -> None:
    change.levels = 255 * (np.clip(_levels(change), 0, 255) / 255) ** between(*powers, numbers[0])


def _levels(change: ColorChange) -> np.ndarray:
    return np.arange(256.0) if change.levels is None else change.levels


def _hue(change: ColorChange, amount: float, numbers: np.ndarray) -> None:
    change.hue += between(-amount, amount, numbers[0])


def _saturation(change: ColorChange, factors: tuple[float, float], numbers: np.ndarray) -> None:
    change.saturation *= between(*factors, numbers[0])


def _blur(change: ColorChange, settings: Blur, numbers: np.ndarray) -> None:
    if numbers[0] < settings.p:
        # Two Gaussians in sequence are one.
        change.blur = math.hypot(change.blur, between(*settings.sigma, numbers[1]))


def _coarse_dropout(change: ColorChange, settings: Dropout, numbers: np.ndarray) -> None:
    if numbers[0] < settings.p:
        change.holes, change.hole_side = numbers[1:].reshape(settings.holes, 2), settings.size


TONE_STEPS: dict[str, StepKind[ColorChange]] = {
    "brightness_contrast": StepKind(_brightness_contrast, always(2)),
    "gamma": StepKind(_gamma, always(1)),
    "hue": StepKind(_hue, always(1)),
    "saturation": StepKind(_saturation, always(1)),
}
COLOR_STEPS: dict[str, StepKind[ColorChange]] = {
    **TONE_STEPS,
    "blur": StepKind(_blur, always(2)),
    "coarse_dropout": StepKind(_coarse_dropout, lambda settings: 1 + 2 * settings.holes),
}


def apply_color(image: np.ndarray, change: ColorChange) -> None:
    """Change an image in place: tones, hue and saturation, blur, hidden squares, always in this order.

    Args:
        image: Image, uint8 (h, w, channels), C-contiguous.
        change: Parameters from `draw_parameters`. Hue and saturation apply to three channels only.
    """
    flat = image[:, :, 0] if image.shape[2] == 1 else image
    if change.levels is not None:
        cv2.LUT(flat, np.clip(change.levels, 0, 255).round().astype(np.uint8), dst=flat)
    if image.shape[2] == 3 and (change.hue or change.saturation != 1):
        _shift_hue_and_saturation(image, change)
    if change.blur:
        cv2.GaussianBlur(flat, (0, 0), change.blur, dst=flat)
    if change.holes is not None:
        height, width = image.shape[:2]
        side = max(1, round(change.hole_side * min(height, width)))
        for x, y in (change.holes * (width - side + 1, height - side + 1)).astype(int).tolist():
            image[y : y + side, x : x + side] = HOLE_GRAY


def _shift_hue_and_saturation(image: np.ndarray, change: ColorChange) -> None:
    levels, value = np.arange(256.0), np.arange(256)
    hue = np.round(levels + change.hue * 256).astype(int) % 256
    saturation = np.clip(levels * change.saturation, 0, 255).round()
    table = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)[None]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    cv2.cvtColor(cv2.LUT(hsv, table, dst=hsv), cv2.COLOR_HSV2RGB_FULL, dst=image)
