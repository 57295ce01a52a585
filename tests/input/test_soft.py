"""Soft masks through augmentation: shares are interpolated like an image, and ignored pixels leave no trace in them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gatemask.config import Augment
from gatemask.data.example import Example
from gatemask.input.augment import augment_into, augmentation_steps, draw_numbers
from gatemask.input.layout import Layout
from gatemask.input.mix import ImageBatch, mix_batch
from gatemask.input.pipeline import evaluation_batches
from tests.input.test_planes import AFFINE, ALL, FLIPS, STEPS, experiment, png

SIDE = 64
GEOMETRY = [name for name in ALL if name in ("hflip", "vflip", "affine", "zoom_to_mask", "elastic", "grid")]
CHOICES = pytest.mark.parametrize("names", [[], FLIPS, AFFINE, GEOMETRY], ids=["plain", "flips", "affine", "all"])


def augmented(
    names: list[str], image: np.ndarray, mask: np.ndarray, layout: Layout, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    steps = augmentation_steps([Augment.model_validate({name: STEPS[name]}) for name in names])
    out, out_mask = np.empty((SIDE, SIDE, 1), np.uint8), np.empty((SIDE, SIDE, layout.planes), np.uint8)
    numbers = draw_numbers(steps, np.random.default_rng(seed), 1)[0]
    augment_into(image, mask, steps, numbers, out, out_mask, layout)
    return out, out_mask


def soft_disc(stored: int, radius: float = 0.15) -> np.ndarray:
    disc = np.zeros((stored, stored), np.uint8)
    cv2.circle(disc, (stored // 2, int(0.45 * stored)), int(radius * stored), 255, -1)
    return cv2.GaussianBlur(disc, (0, 0), stored / 20)


@CHOICES
@pytest.mark.parametrize("stored", [64, 96])
def test_shares_are_interpolated_like_an_image(names: list[str], stored: int) -> None:
    """An image that is its own mask stays its own mask."""
    levels, between = soft_disc(stored), 0
    for seed in range(6):
        image, mask = augmented(names, levels[:, :, None], levels[None], Layout(soft=True), seed)
        assert np.abs(image.astype(int) - mask).max() <= 1, "warping a bounding box rounds by one level"
        between += np.count_nonzero((mask > 0) & (mask < 255))
    assert between > 1000


@CHOICES
@pytest.mark.parametrize("stored", [64, 96])
def test_shares_are_cut_where_hard_masks_are(names: list[str], stored: int) -> None:
    hard = np.where(soft_disc(stored) > 90, 255, 0).astype(np.uint8)
    for seed in range(4):
        _, cut = augmented(names, hard[:, :, None], hard[None], Layout(), seed)
        _, levels = augmented(names, hard[:, :, None], hard[None], Layout(soft=True), seed)
        assert set(np.unique(cut)) == {0, 1} and (cut == (levels >= 128)).all()


@CHOICES
def test_ignored_pixels_stay_ignored_and_do_not_darken_their_neighbors(names: list[str]) -> None:
    void = soft_disc(96, 0.2) > 127
    planes = np.stack([np.where(void, 0, 200), np.where(void, 255, 0)]).astype(np.uint8)
    layout = Layout(soft=True, ignored=True)
    for seed in range(6):
        shown, mask = augmented(names, np.full((96, 96, 1), 255, np.uint8), planes, layout, seed)
        ignored, inside = mask[:, :, 1] > 0, cv2.erode(shown[:, :, 0], np.ones((5, 5), np.uint8)) == 255
        assert set(np.unique(mask[:, :, 1])) == {0, 255}
        assert (mask[:, :, 0][ignored] == 0).all()
        assert np.abs(mask[:, :, 0][~ignored & inside].astype(int) - 200).max() <= 10, (
            "a neighbor of black would be half as high"
        )


def test_shares_of_images_without_a_class_are_read() -> None:
    faint = (soft_disc(SIDE) // 3).astype(np.uint8)
    record = Example("a", png(np.zeros((SIDE, SIDE), np.uint8)), png(faint), 0)
    ((_, masks, _),) = evaluation_batches([record], experiment(), Layout(soft=True), 1)
    assert (masks[0, :, :, 0] == faint).all()


def test_cutmix_shows_a_class_from_half_on() -> None:
    levels = np.zeros((2, 8, 8, 1), np.uint8)
    levels[0], levels[1] = 127, 128
    batch = ImageBatch(np.zeros((2, 8, 8, 1), np.uint8), levels, np.array([[0], [1]], np.float32))
    steps = augmentation_steps([Augment.model_validate({"cutmix": {"p": 1.0, "alpha": 1.0}})])
    mixed = mix_batch(batch, steps, np.random.default_rng(0), Layout(soft=True))
    assert mixed.masks is not None
    assert mixed.labels[:, 0].tolist() == [float((mask >= 128).any()) for mask in mixed.masks]
    assert set(np.unique(mixed.masks[0])) == {127, 128}
