"""Crops are parts of what the whole input would show, and show a mask where they shall."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Augment, Experiment
from gatemask.data.example import Example
from gatemask.input.augment import CropOfInput, augment_into, augmentation_steps, draw_numbers
from gatemask.input.geometry import CROP_NUMBERS, Crop
from gatemask.input.layout import ONE_CLASS, Layout
from gatemask.input.pipeline import epoch_order, evaluation_batches, record_source, training_batches

WHOLE, CROP = (64, 96), (32, 64)


def picture(shape: tuple[int, int] = WHOLE, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a mask of one plane."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*shape, channels)).astype(np.uint8), (0, 0), 2)
    mask = np.zeros(shape, np.uint8)
    cv2.ellipse(mask, (shape[1] // 3, shape[0] // 2), (9, 6), 20, 0, 360, 255, -1)
    return image.reshape(*shape, channels), mask[None]


def whole_and_crop(
    image: np.ndarray,
    mask: np.ndarray | None,
    names: list[Any],
    rng: np.random.Generator,
    whole: tuple[int, int] = WHOLE,
    crop: Crop = Crop(CROP),
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image and mask of the whole input, then those of a crop, by the same random numbers."""
    steps = augmentation_steps([Augment.model_validate(name) for name in names])
    numbers, own = draw_numbers(steps, rng, 1)[0], rng.random(CROP_NUMBERS)
    planes = 1 if mask is None else len(mask)
    results = []
    for size, part in ((whole, None), (crop.size, CropOfInput(whole, crop, own))):
        out, out_mask = np.empty((*size, image.shape[2]), np.uint8), np.empty((*size, planes), np.uint8)
        augment_into(image, mask, steps, numbers, out, out_mask, crop=part)
        results += [out, out_mask]
    return results[0], results[1], results[2], results[3]


def errors_of(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Largest difference between a part of an image and the whole, at each position."""
    height, width = part.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(whole.astype(np.int16), (height, width), axis=(0, 1))
    differences: np.ndarray = np.abs(windows - np.moveaxis(part.astype(np.int16), 2, 0)).max(axis=(2, 3, 4))
    return differences


@pytest.mark.parametrize("stored", [WHOLE, (96, 144)])
@pytest.mark.parametrize(
    "steps",
    [[], [{"hflip": 1.0}], ["hflip", {"vflip": 1.0}], [{"brightness_contrast": 0.3}]],
    ids=["plain", "mirrored", "mirrored twice", "tones"],
)
def test_a_crop_is_a_part_of_the_whole_to_the_last_bit(steps: list[Any], stored: tuple[int, int]) -> None:
    rng, places = np.random.default_rng(1), set()
    for channels in (1, 3, 6):
        for _ in range(8):
            whole, whole_mask, part, part_mask = whole_and_crop(*picture(stored, channels), steps, rng)
            ((y, x),) = np.argwhere(errors_of(part, whole) == 0).tolist()
            places.add((y, x))
            window = np.s_[y : y + CROP[0], x : x + CROP[1]]
            assert (part_mask == whole_mask[window]).all()
    assert len(places) > 15


@pytest.mark.parametrize(
    "step",
    [
        {"affine": {"rotate": 20, "shear": 0.1, "zoom": [0.8, 1.2], "shift": 0.1}},
        {"zoom_to_mask": {"p": 1.0}},
        {"elastic": {"p": 1.0, "amount": 0.04}},
        {"grid": {"p": 1.0, "amount": 0.04}},
    ],
    ids=str,
)
def test_a_moved_crop_is_a_part_of_the_moved_whole(step: Any) -> None:
    rng = np.random.default_rng(2)
    for _ in range(6):
        whole, whole_mask, part, part_mask = whole_and_crop(*picture(), ["hflip", step], rng)
        # Interpolation rounds positions to 1/32 pixel, and the mask's box has edges of its own.
        errors = errors_of(part, whole)
        y, x = divmod(int(errors.argmin()), errors.shape[1])
        assert errors[y, x] <= 6
        differs = part_mask != whole_mask[y : y + CROP[0], x : x + CROP[1]]
        assert differs.mean() < 0.004


@pytest.mark.parametrize("name", ["affine", "elastic"])
def test_large_crops_move_image_and_mask_together(name: str) -> None:
    """From 256 pixels on, matrices are rounded to make warping faster."""
    image, mask = np.zeros((512, 512, 1), np.uint8), np.zeros((1, 512, 512), np.uint8)
    image[100:380, 160:420], mask[:, 100:380, 160:420] = 200, 255
    steps: list[Any] = [{name: {"p": 1.0, **({"rotate": 20, "zoom": [0.9, 1.1]} if name == "affine" else {})}}]
    for seed in range(4):
        crop, rng = Crop((320, 320), positives=1.0), np.random.default_rng(seed)
        _, _, part, part_mask = whole_and_crop(image, mask, steps, rng, (512, 512), crop)
        assert part_mask.any()
        assert ((part >= 100) != (part_mask > 0)).mean() < 0.01


def test_every_position_is_equally_likely() -> None:
    rng, whole, crop = np.random.default_rng(3), (8, 8), Crop((4, 6))
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    counts = np.zeros((5, 3), int)
    for _ in range(3000):
        part = whole_and_crop(image, None, [], rng, whole, crop)[2]
        y, x = divmod(int(part[0, 0, 0]), 8)
        counts[y, x] += 1
    assert counts.min() > 140
    assert counts.max() < 260


@pytest.mark.parametrize(
    "steps", [[], ["hflip", "affine"], [{"elastic": {"p": 1.0}}]], ids=["plain", "affine", "elastic"]
)
def test_the_chosen_share_of_crops_shows_a_mask(steps: list[Any]) -> None:
    image, mask = picture()
    mask[:] = 0
    mask[0, 5:8, 3:7] = 255  # a small one near a corner, which few random crops show
    shares = []
    for positives in (0.0, 0.5, 1.0):
        rng, crop = np.random.default_rng(4), Crop(CROP, positives)
        shown = [whole_and_crop(image, mask, steps, rng, crop=crop)[3].any() for _ in range(200)]
        shares.append(np.mean(shown))
    assert shares[2] == 1
    assert shares[0] < 0.6
    assert shares[1] == pytest.approx((shares[0] + 1) / 2, abs=0.08)


def test_crops_that_show_a_mask_vary_in_where_they_show_it() -> None:
    image, mask = picture()
    mask[:] = 0
    mask[0, 30, 50] = 255
    rng, crop = np.random.default_rng(5), Crop((32, 32), 1.0)
    places = np.array([np.argwhere(whole_and_crop(image, mask, [], rng, crop=crop)[3][..., 0])[0] for _ in range(300)])
    assert places.min() >= 2, "a margin"
    assert places.max() <= 29
    assert len(np.unique(places[:, 0])) > 20
    assert len(np.unique(places[:, 1])) > 20


def test_planes_beside_the_classes_place_no_crop() -> None:
    image, mask = picture()
    planes = np.concatenate([np.zeros_like(mask), mask])
    planes[1] = 0
    planes[1, :4, :4] = 255
    steps, own = augmentation_steps([]), np.array([0.0, 0.5, 0.99, 0.99])
    out, out_mask = np.empty((*CROP, 1), np.uint8), np.empty((*CROP, 2), np.uint8)
    crop = CropOfInput(WHOLE, Crop(CROP, 1.0), own)
    augment_into(image, planes, steps, np.empty(0), out, out_mask, Layout(classes=1, ignored=True), crop)
    assert not out_mask.any(), "the ignored corner is far from the last position"
    augment_into(image, planes, steps, np.empty(0), out, out_mask, Layout(classes=2), crop)
    assert out_mask[..., 1].any()


# --- batches -------------------------------------------------------------------------------------------------


def experiment(**settings: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "e",
            "task": "mask",
            "model": {"name": "unet", "encoder": "resnet18"},
            "loss": {"bce": 1},
            "epochs": 2,
            "runtime": {"workers": 0},
            **settings,
        }
    )


def examples(layout: Layout = ONE_CLASS) -> list[Example]:
    found = []
    for number in range(12):
        image, mask = picture()
        planes = np.repeat(np.roll(mask, 4 * number, axis=2), layout.planes, axis=0)
        encoded = [cv2.imencode(".png", array)[1].tobytes() for array in (image, planes.reshape(-1, WHOLE[1]))]
        found.append(Example(f"i{number}", encoded[0], encoded[1], int(number % 3 == 0)))
    return found


def test_training_sees_crops_and_validation_the_whole() -> None:
    size = {"size": list(WHOLE), "crop": list(CROP), "crop_positives": 1.0}
    exp, records = experiment(input=size, augment=["hflip", {"mixup": {"p": 0.5}}]), examples()
    order = epoch_order(records, exp, 4, 0, 1)
    batches = list(training_batches(records, exp, ONE_CLASS, order, 4, 0, 1))
    for images, masks in batches:
        assert tuple(images.shape) == tuple(masks.shape) == (4, *CROP, 1)
    again = list(training_batches(records, exp, ONE_CLASS, order, 4, 0, 1, 1))
    for (image, mask), (other_image, other_mask) in zip(batches[1:], again, strict=True):
        assert np.array_equal(image, other_image)
        assert np.array_equal(mask, other_mask)
    for images, masks, _ in evaluation_batches(records, exp, ONE_CLASS, 4):
        assert images.shape == masks.shape == (4, *WHOLE, 1)


def test_steps_are_drawn_as_without_crops() -> None:
    cropped = experiment(input={"size": list(WHOLE), "crop": list(CROP)}, augment=["hflip", "vflip"])
    plain, records = experiment(input={"size": list(WHOLE)}, augment=["hflip", "vflip"]), examples()
    filled = []
    for exp in (plain, cropped):
        source = record_source(records, exp, ONE_CLASS, exp.augment, crops=True)
        batch = source.allocate(8)
        source.fill(batch, range(8), range(8), (1, 2, 3))
        filled.append(batch)
    for whole, part in zip(filled[0].images, filled[1].images, strict=True):
        assert (errors_of(part, whole) == 0).any()
