"""Augmentation on uint8 images with OpenCV: all geometry in one matrix, resampled once, image and mask together."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from gatemask.config.schema import Affine, Augment
from gatemask.data.readers import resize_image


def augment(
    image: np.ndarray, mask: np.ndarray, size: int, steps: Sequence[Augment], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One image and its mask, changed at random and brought to `size`.

    Args:
        image: uint8 (h, w, channels).
        mask: uint8 (h, w), 0 or 255.
        size: pixels of the square that comes out.
        steps: what `augment:` lists.
        rng: decides; the same state gives the same result.

    Returns:
        image uint8 (size, size, channels) and mask uint8 (size, size, 1), 0 or 1.
    """
    if size < min(image.shape[:2]):
        # Shrinking by a matrix alone would skip pixels: average first, as evaluation and inference do.
        image, mask = resize_image(image, size), resize_image(mask[:, :, None], size)[:, :, 0]
    matrix = _scale(size / image.shape[1], size / image.shape[0])
    plain = matrix.copy()
    gain, offset = 1.0, 0.0
    for step in steps:
        if step.hflip is not None and rng.random() < step.hflip:
            matrix = np.array([[-1, 0, size - 1], [0, 1, 0], [0, 0, 1.0]]) @ matrix
        if step.affine is not None:
            matrix = _affine(step.affine, size, rng) @ matrix
        if step.brightness_contrast is not None:
            gain *= 1 + rng.uniform(-1, 1) * step.brightness_contrast
            offset += 255 * rng.uniform(-1, 1) * step.brightness_contrast / 2
    mask = mask[:, :, None]
    if np.array_equal(matrix, plain):
        image, mask = resize_image(image, size), resize_image(mask, size)
    else:
        image, mask = warp(image, matrix, size), warp(mask, matrix, size)
    if (gain, offset) != (1.0, 0.0):
        levels = np.clip(np.arange(256) * gain + offset, 0, 255).round().astype(np.uint8)
        image = cv2.LUT(image, levels).reshape(image.shape)
    return image, (mask >= 128).astype(np.uint8)


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Resample once by a 3 x 3 matrix that maps source to target pixels; what comes from outside is 0."""
    warped = cv2.warpAffine(image, matrix[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return warped.reshape(size, size, image.shape[2])


def _scale(fx: float, fy: float) -> np.ndarray:
    """Resizing with pixel centres kept in place, as cv2.resize does it."""
    return np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1.0]])


def _affine(settings: Affine, size: int, rng: np.random.Generator) -> np.ndarray:
    """Rotation, shear, zoom and shift about the centre of the image."""
    angle = np.deg2rad(rng.uniform(-settings.rotate, settings.rotate))
    shear = rng.uniform(-settings.shear, settings.shear)
    zoom = rng.uniform(*settings.zoom)
    shift = rng.uniform(-settings.shift, settings.shift, 2) * size
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = zoom * rotate @ np.array([[1, shear], [0, 1]])
    centre = np.full(2, (size - 1) / 2)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre + shift - linear @ centre
    return matrix
