"""Objects: components, watershed, small ones dropped, borders between touching ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gatemask.masks.objects import keep_large, label_objects, number_objects, touching_borders


def discs(centers: list[tuple[int, int]], radius: int = 8, size: tuple[int, int] = (40, 64)) -> np.ndarray:
    """A map of discs, brightest in their middles; uint8."""
    y, x = np.mgrid[: size[0], : size[1]]
    strength = np.zeros(size)
    for cy, cx in centers:
        distance = np.hypot(y - cy, x - cx)
        strength = np.maximum(strength, np.clip(255 - distance * 155 / radius, 0, 255) * (distance <= radius))
    return strength.astype(np.uint8)


def test_components_are_objects_with_8_neighbors() -> None:
    mask = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    assert label_objects(mask, mask.astype(np.uint8) * 200).max() == 2
    assert label_objects(np.zeros((3, 3), bool), np.zeros((3, 3), np.uint8)).max() == 0


@pytest.mark.parametrize("count", [2, 3])
def test_the_watershed_splits_touching_discs_where_they_touch(count: int) -> None:
    centers = [(20, 12 + 15 * index) for index in range(count)]
    strength = discs(centers)
    mask = strength > 90
    assert label_objects(mask, strength).max() == 1
    label = label_objects(mask, strength, split=200)
    assert label.max() == count
    assert ((label > 0) == mask).all()
    for cy, cx in centers:
        own = label == label[cy, cx]
        others = [center for center in centers if center != (cy, cx)]
        y, x = np.nonzero(own)
        nearest = np.hypot(y - cy, x - cx)
        rivals = np.min([np.hypot(y - oy, x - ox) for oy, ox in others], axis=0)
        assert (nearest <= rivals + 2).all()


def test_components_without_seeds_or_with_one_stay_whole() -> None:
    strength = discs([(20, 12)]) + discs([(20, 45)]) // 2
    label = label_objects(strength > 40, strength, split=200)
    assert label.max() == 2
    assert len(np.unique(label[strength > 40])) == 2


def test_the_border_map_separates_seeds_of_a_flat_map() -> None:
    flat = np.full((10, 21), 220, np.uint8)
    border = np.zeros_like(flat)
    border[:, 10] = 255
    assert label_objects(flat > 0, flat, split=128).max() == 1
    label = label_objects(flat > 0, flat, split=128, border_map=border)
    assert label.max() == 2
    assert len(np.unique(label[:, :10])) == len(np.unique(label[:, 11:])) == 1
    assert (label > 0).all()


def test_small_objects_are_dropped_and_numbers_have_no_gaps() -> None:
    label = np.array([[3, 3, 0, 7, 9, 9]], np.int32)
    assert keep_large(label, 2).tolist() == [[1, 1, 0, 0, 2, 2]]
    mask = np.array([[1, 1, 0, 1]], bool)
    assert label_objects(mask, mask.astype(np.uint8), min_size=2).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("seed", range(10))
def test_borders_are_the_pixels_near_two_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = cv2.resize(rng.integers(0, 4, (5, 6)).astype(np.uint8), (18, 15), interpolation=cv2.INTER_NEAREST)
    expected = np.zeros(label.shape, bool)
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            near = label[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            expected[y, x] = len(set(near[near > 0].tolist())) > 1
    assert (touching_borders(label.astype(np.int32), 2) == expected).all()


def test_objects_are_numbered_in_order() -> None:
    left, middle = np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool)
    assert number_objects([left, middle], (1, 3)).tolist() == [[1, 2, 2]]
    assert number_objects([], (1, 3)).tolist() == [[0, 0, 0]]
