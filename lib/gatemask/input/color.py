"""Change gray levels and colors of an image: tones and colors in one pass, CLAHE, blur, noise, JPEG, dropout.

Saturation scales the difference of a pixel from its gray, hue rotates it. Both keep the pixel's brightness, with the
weights of Rec. 601, and leave gray pixels unchanged. With brightness and contrast they are one matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from gatemask.config import Blur, Clahe, Dropout, Jpeg, Noise
from gatemask.input.step_kind import StepKind, always, between

HOLE_GRAY = 128  # level of the squares that dropout draws
# Gray and two axes of color, of Rec. 601 and NTSC.
YIQ_FROM_RGB = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
RGB_FROM_YIQ = np.linalg.inv(YIQ_FROM_RGB)


@dataclass
class ColorChange:
    """Color parameters drawn for one image.

    Args:
        gain: Factor of all gray levels, applied after `levels`.
        offset: Change of all gray levels, of 255, applied after `gain`.
        levels: New value of each gray level, float64 (256,); None for no change.
        hue: Rotation of the hue, as a share of the color circle.
        saturation: Factor of the saturation.
        clip: Clip limit of CLAHE, a multiple of the mean bin of a histogram; 0 for no CLAHE.
        clahe_cells: Number of cells of CLAHE along a side.
        blur: Standard deviation of the Gaussian, in pixels; 0 for none.
        noise: Standard deviation of the noise, in gray levels of 255; 0 for none.
        noise_seed: Seed of the noise.
        quality: Quality of a JPEG, from 1 to 100; 0 for none.
        holes: Positions of hidden squares, (n, 2), x and y between 0 and 1; None for none.
        hole_side: Side of a hidden square, as a share of the image's shorter side.
    """

    gain: float = 1.0
    offset: float = 0.0
    levels: np.ndarray | None = None
    hue: float = 0.0
    saturation: float = 1.0
    clip: float = 0.0
    clahe_cells: int = 1
    blur: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0
    quality: int = 0
    holes: np.ndarray | None = None
    hole_side: float = 0.0

    @property
    def is_identity(self) -> bool:
        has_arrays = self.levels is not None or self.holes is not None
        has_filters = self.clip or self.blur or self.noise or self.quality
        return not (has_arrays or self.is_scaled or self.changes_colors or has_filters)

    @property
    def is_scaled(self) -> bool:
        return (self.gain, self.offset) != (1, 0)

    @property
    def changes_colors(self) -> bool:
        return self.hue != 0 or self.saturation != 1


def _brightness_contrast(change: ColorChange, amount: float, numbers: np.ndarray) -> None:
    contrast, brightness = (between(-amount, amount, number) for number in numbers.tolist())
    change.gain, change.offset = change.gain * (1 + contrast), change.offset * (1 + contrast) + 255 * brightness / 2


def _gamma(change: ColorChange, powers: tuple[float, float], numbers: np.ndarray) -> None:
    levels = np.arange(256.0) if change.levels is None else change.levels
    levels = np.clip(levels * change.gain + change.offset, 0, 255)
    change.levels, change.gain, change.offset = 255 * (levels / 255) ** between(*powers, numbers[0]), 1.0, 0.0


def _hue(change: ColorChange, amount: float, numbers: np.ndarray) -> None:
    change.hue += between(-amount, amount, numbers[0])


def _saturation(change: ColorChange, factors: tuple[float, float], numbers: np.ndarray) -> None:
    change.saturation *= between(*factors, numbers[0])


def _blur(change: ColorChange, settings: Blur, numbers: np.ndarray) -> None:
    if numbers[0] < settings.p:
        # Two Gaussians in sequence are one.
        change.blur = math.hypot(change.blur, between(*settings.sigma, numbers[1]))


def _clahe(change: ColorChange, settings: Clahe, numbers: np.ndarray) -> None:
    if numbers[0] < settings.p:
        change.clip, change.clahe_cells = between(*settings.clip, numbers[1]), settings.cells


def _noise(change: ColorChange, settings: Noise, numbers: np.ndarray) -> None:
    if numbers[0] < settings.p:
        # The sum of two independent Gaussians is one.
        change.noise = math.hypot(change.noise, between(*settings.sigma, numbers[1]))
        change.noise_seed = int(numbers[2] * 2**53)  # all bits of the number


def _jpeg(change: ColorChange, settings: Jpeg, numbers: np.ndarray) -> None:
    if numbers[0] < settings.p:
        low, high = settings.quality
        change.quality = int(between(low, high + 1, numbers[1]))


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
    "clahe": StepKind(_clahe, always(2)),
    "blur": StepKind(_blur, always(2)),
    "noise": StepKind(_noise, always(3)),
    "jpeg": StepKind(_jpeg, always(2)),
    "coarse_dropout": StepKind(_coarse_dropout, lambda settings: 1 + 2 * settings.holes),
}


def apply_color(image: np.ndarray, change: ColorChange) -> None:
    """Change an image in place: tones, hue and saturation, CLAHE, blur, noise, JPEG, hidden squares, in this order.

    Args:
        image: Image, uint8 (h, w, channels), C-contiguous.
        change: Parameters from `draw_parameters`. Hue and saturation apply to three channels only.
    """
    flat = image[:, :, 0] if image.shape[2] == 1 else image
    if change.levels is not None:
        levels = np.clip(change.levels * change.gain + change.offset, 0, 255)
        cv2.LUT(flat, levels.round().astype(np.uint8), dst=flat)
    if image.shape[2] == 3 and change.changes_colors:
        cv2.transform(image, _color_matrix(change), dst=image)
    elif change.levels is None and change.is_scaled:
        cv2.addWeighted(flat, change.gain, flat, 0, change.offset, dst=flat)
    if change.clip:
        _equalize(image, change.clip, change.clahe_cells)
    if change.blur:
        cv2.GaussianBlur(flat, (0, 0), change.blur, dst=flat)
    if change.noise:
        _add_noise(image, change.noise, change.noise_seed)
    if change.quality:
        _compress(image, change.quality)
    if change.holes is not None:
        height, width = image.shape[:2]
        side = max(1, round(change.hole_side * min(height, width)))
        for x, y in (change.holes * (width - side + 1, height - side + 1)).astype(int).tolist():
            image[y : y + side, x : x + side] = HOLE_GRAY


def _equalize(image: np.ndarray, clip: float, cells: int) -> None:
    """Equalize contrast within cells (CLAHE, Zuiderveld 1994): the luminance of three channels, else each channel."""
    clahe = cv2.createCLAHE(clip, (cells, cells))
    if image.shape[2] != 3:
        for channel in range(image.shape[2]):
            image[:, :, channel] = clahe.apply(np.ascontiguousarray(image[:, :, channel]))
        return
    luminance = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # Luminance is the weighted mean of the channels: the same change of all three changes it alone, not the color.
    difference = clahe.apply(luminance).astype(np.int16) - luminance
    np.clip(image + difference[:, :, None], 0, 255, out=image, casting="unsafe")


def _add_noise(image: np.ndarray, sigma: float, seed: int) -> None:
    """Add independent Gaussian noise to each pixel and channel."""
    noise = np.random.default_rng(seed).standard_normal(image.size, np.float32)
    noise *= sigma
    flat = image.reshape(-1)
    flat[:] = cv2.add(flat, noise, dtype=cv2.CV_8U)[:, 0]  # rounds, and cuts off at 0 and 255


def _compress(image: np.ndarray, quality: int) -> None:
    """Replace an image by its JPEG: three channels as a color image, of half as many color samples, else each one."""
    if image.shape[2] == 3:
        image[:] = _through_jpeg(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality, cv2.IMREAD_COLOR_RGB)
        return
    for channel in range(image.shape[2]):
        gray = np.ascontiguousarray(image[:, :, channel])
        image[:, :, channel] = _through_jpeg(gray, quality, cv2.IMREAD_GRAYSCALE)


def _through_jpeg(image: np.ndarray, quality: int, flag: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, flag))


def _color_matrix(change: ColorChange) -> np.ndarray:
    """Matrix, (3, 4), of saturation and hue, and of brightness and contrast unless the lookup table has them."""
    angle = 2 * math.pi * change.hue
    cos, sin = change.saturation * math.cos(angle), change.saturation * math.sin(angle)
    in_yiq = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    gain, offset = (change.gain, change.offset) if change.levels is None else (1.0, 0.0)
    matrix = np.full((3, 4), offset)
    matrix[:, :3] = gain * (RGB_FROM_YIQ @ in_yiq @ YIQ_FROM_RGB)
    return matrix
