"""Grey levels and hsv: tones in one table, hue and saturation in one round trip, then blur, then what hides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from gatemask.config import Blur, Dropout

GRAY = 128


@dataclass
class ColorChange:
    """What was drawn for one image.

    Args:
        levels: (256,) where each grey level goes; None for where it was.
        hue: shift, as a share of the circle.
        saturation: factor.
        blur: sigma of the Gaussian in pixels, 0 for none.
        holes: (n, 2), x and y between 0 and 1 of the squares that are hidden.
        hole: their side, as a share of the image's.
    """

    levels: np.ndarray | None = None
    hue: float = 0.0
    saturation: float = 1.0
    blur: float = 0.0
    holes: np.ndarray | None = None
    hole: float = 0.0

    @property
    def changes(self) -> bool:
        toned = self.levels is not None or self.holes is not None
        return toned or bool(self.hue or self.saturation != 1 or self.blur)


def _brightness_contrast(to: ColorChange, amount: float, rng: np.random.Generator) -> None:
    gain, offset = 1 + rng.uniform(-1, 1) * amount, 255 * rng.uniform(-1, 1) * amount / 2
    to.levels = _levels(to) * gain + offset


def _gamma(to: ColorChange, powers: tuple[float, float], rng: np.random.Generator) -> None:
    to.levels = 255 * (np.clip(_levels(to), 0, 255) / 255) ** rng.uniform(*powers)


def _levels(to: ColorChange) -> np.ndarray:
    return np.arange(256.0) if to.levels is None else to.levels


def _hue(to: ColorChange, amount: float, rng: np.random.Generator) -> None:
    to.hue += rng.uniform(-amount, amount)


def _saturation(to: ColorChange, factors: tuple[float, float], rng: np.random.Generator) -> None:
    to.saturation *= rng.uniform(*factors)


def _blur(to: ColorChange, settings: Blur, rng: np.random.Generator) -> None:
    drawn, sigma = rng.random(), rng.uniform(*settings.sigma)
    if drawn < settings.p:
        to.blur = float(np.hypot(to.blur, sigma))  # two Gaussians make one


def _coarse_dropout(to: ColorChange, settings: Dropout, rng: np.random.Generator) -> None:
    drawn, holes = rng.random(), rng.random((settings.holes, 2))
    if drawn < settings.p:
        to.holes, to.hole = holes, settings.size


DrawColor = Callable[[ColorChange, Any, np.random.Generator], None]
TONE_STEPS: dict[str, DrawColor] = {
    "brightness_contrast": _brightness_contrast,
    "gamma": _gamma,
    "hue": _hue,
    "saturation": _saturation,
}
COLOR_STEPS: dict[str, DrawColor] = {**TONE_STEPS, "blur": _blur, "coarse_dropout": _coarse_dropout}


def apply_color(image: np.ndarray, by: ColorChange) -> None:
    """Change an image, uint8 (s, s, channels), C-contiguous, in place: tones, hsv, blur, and what hides it, in this
    order whatever the order of the steps."""
    flat = image[:, :, 0] if image.shape[2] == 1 else image
    if by.levels is not None:
        cv2.LUT(flat, np.clip(by.levels, 0, 255).round().astype(np.uint8), dst=flat)
    if image.shape[2] == 3 and (by.hue or by.saturation != 1):
        _shift_hue_and_saturation(image, by)
    if by.blur:
        cv2.GaussianBlur(flat, (0, 0), by.blur, dst=flat)
    if by.holes is not None:
        size = len(image)
        side = max(1, round(by.hole * size))
        for x, y in (by.holes * (size - side + 1)).astype(int).tolist():
            image[y : y + side, x : x + side] = GRAY


def _shift_hue_and_saturation(image: np.ndarray, by: ColorChange) -> None:
    circle, value = np.arange(256.0), np.arange(256)
    hue = np.round(circle + by.hue * 256).astype(int) % 256
    saturation = np.clip(circle * by.saturation, 0, 255).round()
    table = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)[None]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    cv2.cvtColor(cv2.LUT(hsv, table, dst=hsv), cv2.COLOR_HSV2RGB_FULL, dst=image)
