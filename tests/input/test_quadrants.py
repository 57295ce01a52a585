"""Warping by quadrants gives the pixels of `cv2.warpAffine`, with a matrix that is rounded by less than a pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gatemask.config import Augment
from gatemask.input import augment, geometry, quadrants

SIZE = (256, 288)


def picture(channels: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return a smooth picture, uint8 (h, w, channels), or (h, w) for a single channel."""
    noise = np.random.default_rng(channels).normal(0, 255, (*size, channels)).astype(np.float32)
    return np.clip(128 + cv2.GaussianBlur(noise, (0, 0), 2), 0, 255).astype(np.uint8)


def matrices(size: tuple[int, int]) -> list[np.ndarray]:
    """Return rotations, shears, flips and zooms, including some that move most of the image out of view."""
    given = [
        (0.9, 0.1, -0.1, 0.9, 0, 0),
        (-1.3, 0.2, 0.1, 1.2, 40, -30),
        (0.8, 0.8, -0.8, 0.7, 0, 0),
        (0, 1, -1, 0, 5.4, 3.3),
        (1.1, 0, 0, 0.9, 200, -220),
        (1.0, 0.3, 0.0, 1.0, -900, 0),
    ]
    return [geometry.linear_map_about_center(size, *linear) for linear in given]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("stored", [SIZE, (256, 256), (200, 150)])
def test_pixels_are_those_of_one_warp(channels: int, stored: tuple[int, int]) -> None:
    image = picture(channels, stored)
    for matrix in matrices(SIZE):
        aligned = quadrants.align(matrix, SIZE)
        expected = cv2.warpAffine(image, aligned[:2], SIZE[::-1])
        out = np.full((*SIZE, channels) if channels > 1 else SIZE, 77, np.uint8)
        quadrants.warp(image, aligned, out)
        difference = np.abs(out.astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_rounding_keeps_the_center_and_moves_corners_by_less_than_a_pixel() -> None:
    used = 0
    for matrix in matrices(SIZE):
        aligned = quadrants.align(matrix, SIZE)
        ends = [(x, y, 1) for x in (0, SIZE[1] - 1) for y in (0, SIZE[0] - 1)]
        points = np.array([*ends, ((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 1)])
        before, after = (points @ np.linalg.inv(m)[:2].T for m in (matrix, aligned))
        moved = np.abs(after - before)
        assert moved.max() <= 1
        assert moved[-1].max() < 1e-9
        used += quadrants._grid(aligned, SIZE, SIZE) is not None
        assert np.allclose(quadrants.align(aligned, SIZE), aligned), "nothing is rounded twice"
    assert used >= 5


def test_other_matrices_and_sizes_are_warped_at_once() -> None:
    for size in ((255, 256), (256, 255), (128, 128)):
        assert all((quadrants.align(matrix, size) == matrix).all() for matrix in matrices(size))
    tenfold = geometry.linear_map_about_center(SIZE, 10, 0, 0, 10)
    assert (quadrants.align(tenfold, SIZE) == tenfold).all()
    image, matrix = picture(1), matrices(SIZE)[0]
    assert quadrants._grid(matrix, SIZE, SIZE) is None
    out = np.empty(SIZE, np.uint8)
    quadrants.warp(image, matrix, out)
    assert (out == cv2.warpAffine(image, matrix[:2], SIZE[::-1])).all()


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_large_images_and_masks_move_together(channels: int) -> None:
    image = np.zeros((*SIZE, channels), np.uint8)
    image[40:100, 60:200] = 200
    mask = (image[:, :, 0] > 0).astype(np.uint8)[None] * 255
    affine = {"rotate": 20, "shear": 0.1, "zoom": [0.8, 1.2], "shift": 0.05}
    steps = [Augment.model_validate(step) for step in ("hflip", {"affine": affine}, {"zoom_to_mask": {"p": 0.5}})]
    for seed in range(4):
        for size in (SIZE, (300, 340)):
            moved, moved_mask = augment.augment_image(image, mask, size, steps, np.random.default_rng(seed))
            assert ((moved >= 100) != (moved_mask > 0)).mean() < 0.003
            assert moved_mask.mean() > 0.03
            assert all((moved[:, :, :1] == moved[:, :, channel : channel + 1]).all() for channel in range(channels))
