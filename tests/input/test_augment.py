"""Each augmentation step changes image and mask together, in the order of the YAML, reproducibly by seed."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import scipy.stats

from gatemask.config import Augment
from gatemask.input import augment, color, geometry
from gatemask.input.augment import BATCH_STEPS, AugmentationStep, augmentation_steps, draw_numbers
from gatemask.input.layout import Layout
from gatemask.input.mix import ImageBatch, mix_batch
from gatemask.masks.frame import resize

SIZE = 64


def square(channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((SIZE, SIZE, channels), np.uint8)
    image[8:24, 32:56] = 200
    return image, (image[:, :, 0] > 0).astype(np.uint8) * 255


def noise(channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, channels)).astype(np.uint8)


def step(name: str, settings: object = None) -> Augment:
    return Augment.model_validate(name if settings is None else {name: settings})


def augment_image(
    image: np.ndarray, mask: np.ndarray | None, size: int, steps: list[Augment], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Augment an image with a mask of one plane, (h, w), to a square."""
    return augment.augment_image(image, None if mask is None else mask[None], (size, size), steps, rng)


def augmented_square(
    steps: list[Augment], seed: int, size: int = SIZE, channels: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    return augment_image(*square(channels), size, steps, np.random.default_rng(seed))


GEOMETRY = {
    "hflip": 1.0,
    "vflip": 1.0,
    "turn": 1.0,
    "affine": {"rotate": 20, "shear": 0.1, "zoom": [0.8, 1.2], "shift": 0.1},
    "zoom_to_mask": {"p": 1.0},
    "elastic": {"p": 1.0, "amount": 0.04},
    "grid": {"p": 1.0, "amount": 0.04},
}
COLOR = {
    "brightness_contrast": 0.4,
    "gamma": [0.5, 0.7],
    "hue": 0.3,
    "saturation": [0.2, 0.4],
    "clahe": {"p": 1.0, "cells": 2},
    "blur": {"p": 1.0},
    "noise": {"p": 1.0},
    "jpeg": {"p": 1.0},
    "coarse_dropout": {"p": 1.0},
}


def test_every_step_of_the_schema_is_implemented() -> None:
    assert {*geometry.GEOMETRY_STEPS, *color.COLOR_STEPS, *BATCH_STEPS} == set(Augment.model_fields)
    assert set(GEOMETRY) == set(geometry.GEOMETRY_STEPS)
    assert set(COLOR) == set(color.COLOR_STEPS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_moves_image_and_mask_together(name: str, seed: int) -> None:
    for steps in ([step(name, GEOMETRY[name])], [step(name, GEOMETRY[name]), step("affine"), step("hflip")]):
        for size in (SIZE, 96, 48):
            image, mask = augmented_square(steps, seed, size)
            assert image.shape == mask.shape == (size, size, 1)
            assert image.dtype == mask.dtype == np.uint8
            assert mask.any()
            assert ((image >= 100) != (mask > 0)).mean() < 0.01
    assert (augmented_square([step(name, GEOMETRY[name])], seed)[0] != square()[0]).any()


@pytest.mark.parametrize("name", [*GEOMETRY, *COLOR])
def test_the_result_depends_on_the_state_of_the_generator_alone(name: str) -> None:
    steps = [step(name, {**GEOMETRY, **COLOR}[name])]
    first, again = (augmented_square(steps, 3, channels=3) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    if name not in ("hflip", "vflip"):
        rngs = [np.random.default_rng(seed) for seed in range(9)]
        assert len({augment_image(noise(3), None, SIZE, steps, rng)[0].tobytes() for rng in rngs}) > 2


@pytest.mark.parametrize("name", [name for name in (*GEOMETRY, *COLOR) if name not in color.TONE_STEPS])
def test_a_step_takes_its_share_of_the_numbers_even_if_it_is_not_applied(name: str) -> None:
    settings = {**GEOMETRY, **COLOR}[name]
    never = step(name, {**settings, "p": 0.0} if isinstance(settings, dict) else 0.0)
    others = [step("affine"), step("gamma")]
    with_it, without = (augmentation_steps(steps) for steps in ([never, *others], others))
    numbers = draw_numbers(with_it, np.random.default_rng(0), 3)[1]
    taken = len(numbers) - draw_numbers(without, np.random.default_rng(0), 1).shape[1]
    assert taken == draw_numbers(augmentation_steps([step(name, settings)]), np.random.default_rng(0), 1).shape[1] > 0
    results = []
    for steps, share in ((with_it, numbers), (without, numbers[taken:])):
        image = np.empty((SIZE, SIZE, 3), np.uint8)
        augment.augment_into(noise(3), None, steps, share, image, None)
        results.append(image)
    assert (results[0] == results[1]).all()
    assert (results[0] != noise(3)).any()


def test_numbers_are_uniform_and_rows_differ() -> None:
    steps = augmentation_steps([step("elastic", {"cells": 9}), step("coarse_dropout", {"holes": 60})])
    numbers = draw_numbers(steps, np.random.default_rng(0), 8)
    assert numbers.shape == (8, 1 + 2 * 10 * 10 + 1 + 2 * 60)
    assert 0 <= numbers.min() < 0.05
    assert 0.95 < numbers.max() < 1
    assert len({row.tobytes() for row in numbers}) == 8
    assert draw_numbers([], np.random.default_rng(0), 8).shape == (8, 0)


@pytest.mark.parametrize("name", COLOR)
def test_color_changes_only_the_image(name: str) -> None:
    image, mask = square(channels=3)
    image[..., 1] //= 2
    new_image, new_mask = augment_image(image, mask, SIZE, [step(name, COLOR[name])], np.random.default_rng(1))
    assert (new_image != image).any()
    assert (new_mask[:, :, 0] * 255 == mask).all()


def test_hue_and_saturation_leave_gray_unchanged() -> None:
    grays = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64, 1).repeat(3, axis=2)
    for seed in range(20):
        changed, _ = augment_image(
            grays, None, SIZE, [step("hue", 0.5), step("saturation")], np.random.default_rng(seed)
        )
        assert (changed == grays).all()


def test_hue_varies_and_saturation_fades() -> None:
    red = np.zeros((SIZE, SIZE, 3), np.uint8)
    red[..., 0] = 200
    faded, _ = augment_image(red, None, SIZE, [step("saturation", [0.5, 0.5])], np.random.default_rng(0))
    gray = 0.299 * 200
    assert faded[0, 0].tolist() == pytest.approx([(200 + gray) / 2, gray / 2, gray / 2], abs=1)
    rngs = [np.random.default_rng(seed) for seed in range(9)]
    assert len({augment_image(red, None, SIZE, [step("hue", 0.5)], rng)[0].tobytes() for rng in rngs}) == 9


def test_hue_turns_colors_around_gray() -> None:
    muted = np.full((SIZE, SIZE, 3), (140, 120, 100), np.uint8)
    weights, grays, seen = np.array([0.299, 0.587, 0.114]), [], set()
    for number in (0.0, 0.25, 0.5, 0.75):
        change = color.ColorChange()
        color.COLOR_STEPS["hue"].add(change, 0.5, np.array([number]))
        image = muted.copy()
        color.apply_color(image, change)
        grays.append(image[0, 0] @ weights)
        seen.add(tuple(image[0, 0].tolist()))
    assert max(grays) - min(grays) < 1, "brightness stays"
    assert len(seen) == 4
    opposite = min(seen, key=lambda pixel: pixel[0])
    gray = muted[0, 0] @ weights
    assert opposite == pytest.approx((2 * gray - muted[0, 0]).tolist(), abs=1), "half a turn"


@pytest.mark.parametrize("gamma", [None, 0.7])
def test_tones_and_colors_in_one_pass_are_those_in_sequence(gamma: float | None) -> None:
    image = (80 + noise(3) // 4).astype(np.uint8)  # nothing is cut off at 0 or 255
    tones = [step("brightness_contrast", 0.1), *([] if gamma is None else [step("gamma", [gamma, gamma])])]
    tones += [step("brightness_contrast", 0.1)]
    both = [*tones, step("hue", 0.1), step("saturation")]
    numbers = draw_numbers(augmentation_steps(both), np.random.default_rng(5), 1)[0]
    at_once, tone, in_sequence = (np.empty_like(image) for _ in range(3))
    augment.augment_into(image, None, augmentation_steps(both), numbers, at_once, None)
    augment.augment_into(image, None, augmentation_steps(tones), numbers[:-2], tone, None)
    augment.augment_into(tone, None, augmentation_steps(both[-2:]), numbers[-2:], in_sequence, None)
    assert np.abs(at_once.astype(int) - in_sequence).max() <= 2
    assert (np.abs(at_once.astype(int) - tone).max(axis=2) > 2).mean() > 0.5
    contrast, brightness, again, *rest = (0.1 * (2 * numbers - 1)).tolist()
    level = image[0, 0, 0] / 255 * (1 + contrast) + brightness / 2
    if gamma is not None:
        level **= gamma
        again = rest.pop(0)
    level = level * (1 + again) + rest[0] / 2
    assert tone[0, 0, 0] == pytest.approx(255 * level, abs=1)


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128])
def test_without_geometry_an_image_is_resized_as_in_inference(size: int) -> None:
    image = noise()
    for steps in ([], [step("affine", {"p": 0, "rotate": 9})], [step("hflip", 1.0)] * 2, [step("elastic", {"p": 0})]):
        resized, _ = augment_image(image, image[:, :, 0], size, steps, np.random.default_rng(0))
        assert (resized == resize(image, (size, size))).all()


def test_flips_and_turns_move_pixels_without_interpolation() -> None:
    image = noise(3)
    for seed in range(20):
        steps = [step("turn", 1.0), step("hflip"), step("vflip"), step("turn")]
        new_image, mask = augment_image(image, image[:, :, 0], SIZE, steps, np.random.default_rng(seed))
        arrangements = [np.rot90(start, turns) for start in (image, image[:, ::-1]) for turns in range(4)]
        assert any((new_image == arrangement).all() for arrangement in arrangements)
        assert (mask == (new_image[..., :1] >= 128)).all()


def test_steps_are_composed_before_resampling() -> None:
    image = noise()
    enlarge = step("affine", {"rotate": 0, "zoom": [1.25, 1.25]})
    shrink = step("affine", {"rotate": 0, "zoom": [0.8, 0.8]})
    new_image, _ = augment_image(image, None, SIZE, [shrink, enlarge], np.random.default_rng(0))
    assert np.abs(new_image.astype(int) - image).max() <= 1, "shrinking and enlarging again loses nothing"


def test_the_order_of_the_yaml_matters() -> None:
    shift, flip = step("affine", {"shift": 0.3, "rotate": 0}), step("hflip", 1.0)
    shifted_first, _ = augment_image(*square(), SIZE, [shift, flip], np.random.default_rng(2))
    flipped_first, _ = augment_image(*square(), SIZE, [flip, shift], np.random.default_rng(2))
    assert (shifted_first != flipped_first).any()


def test_zooming_to_the_mask_keeps_it_visible() -> None:
    image, mask = np.zeros((SIZE, SIZE, 1), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    mask[2:9, 50:60] = 255
    large_mask = np.zeros_like(mask)
    cv2.ellipse(large_mask, (32, 32), (30, 30), 0, 0, 360, 255, 2)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        steps = [step("affine"), step("zoom_to_mask", {"p": 1, "zoom": [2, 3]})]
        zoomed = augment_image(image, mask, SIZE, steps, rng)[1]
        assert zoomed.sum() >= 0.9 * 4 * (mask > 0).sum() * 0.8, "all of a mask that fits"
        assert augment_image(image, large_mask, SIZE, [step("zoom_to_mask", {"p": 1, "zoom": [3, 4]})], rng)[1].any()


def test_an_empty_image_is_zoomed_at_a_random_place() -> None:
    steps = [step("zoom_to_mask", {"p": 1, "zoom": [2, 2]})]
    results = [augment_image(noise(), None, SIZE, steps, np.random.default_rng(seed)) for seed in range(5)]
    assert len({image.tobytes() for image, _ in results}) == 5
    assert not any(mask.any() for _, mask in results)
    white, _ = augment_image(np.full_like(noise(), 255), None, SIZE, steps, np.random.default_rng(0))
    assert white.min() == 255, "the window stays inside the image"


@pytest.mark.parametrize("name", ["elastic", "grid"])
def test_distortion_is_smooth_and_bounded(name: str) -> None:
    distorted = geometry.resize_geometry((128, 128), (128, 128))
    settings = getattr(step(name, {"p": 1, "amount": 0.05}), name)
    numbers = draw_numbers([AugmentationStep(name, settings)], np.random.default_rng(0), 1)[0]
    geometry.GEOMETRY_STEPS[name].add(distorted, settings, numbers)
    field = distorted.displacement
    assert field is not None
    assert 2 < np.abs(field).max() < 0.05 * 128 * 1.5
    assert max(np.abs(np.diff(field, axis=axis)).max() for axis in (0, 1)) < 1, "no folds, no tears"


def test_tones_saturate_and_keep_the_order_of_gray_levels() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64, 1)
    for seed in range(20):
        steps = [step("brightness_contrast", 0.4), step("gamma", [0.5, 2])]
        toned, _ = augment_image(ramp, ramp[:, :, 0], 64, steps, np.random.default_rng(seed))
        assert (np.diff(toned.ravel().astype(int)) >= 0).all()


def test_dropout_hides_the_requested_number_of_squares() -> None:
    image = np.zeros((100, 100, 1), np.uint8)
    steps = [step("coarse_dropout", {"p": 1, "holes": 3, "size": 0.1})]
    hidden, _ = augment_image(image, None, 100, steps, np.random.default_rng(0))
    assert 100 < (hidden > 0).sum() <= 300


# --- CLAHE, noise, JPEG ------------------------------------------------------------------------------------


def changed(image: np.ndarray, **parameters: float) -> np.ndarray:
    result = image.copy()
    color.apply_color(result, color.ColorChange(**parameters))  # type: ignore[arg-type]
    return result


def reference_clahe(gray: np.ndarray, clip: float, cells: int) -> np.ndarray:
    """CLAHE as Zuiderveld describes it: clipped histograms per cell, interpolated between the centers of cells."""
    side = gray.shape[0] // cells
    limit, tables = max(1, int(clip * side * side / 256)), np.empty((cells, cells, 256))
    for row, column in np.ndindex(cells, cells):
        cell = gray[row * side : (row + 1) * side, column * side : (column + 1) * side]
        counts = np.bincount(cell.ravel(), minlength=256)
        excess = int(np.maximum(counts - limit, 0).sum())
        counts = np.minimum(counts, limit) + excess // 256
        if rest := excess % 256:
            counts[np.arange(0, 256, max(256 // rest, 1))[:rest]] += 1
        tables[row, column] = np.cumsum(counts) * 255 / side**2
    position = (np.arange(gray.shape[0]) + 0.0) / side - 0.5
    low = np.floor(position).astype(int)
    share = position - low
    first, second = np.clip(low, 0, cells - 1), np.clip(low + 1, 0, cells - 1)
    levels = tables.round()

    def along_row(rows: np.ndarray) -> np.ndarray:
        left, right = (levels[rows[:, None], columns[None, :], gray] for columns in (first, second))
        return left * (1 - share) + right * share

    return along_row(first) * (1 - share[:, None]) + along_row(second) * share[:, None]


@pytest.mark.parametrize(("clip", "cells"), [(1.0, 4), (2.5, 8), (40.0, 2), (3.0, 1)])
def test_clahe_is_that_of_zuiderveld(clip: float, cells: int) -> None:
    ramp = np.add.outer(np.arange(SIZE), np.arange(SIZE)) % 90 + 60
    gray = ramp.astype(np.uint8)[..., None]
    equalized = changed(gray, clip=clip, clahe_cells=cells)
    assert np.abs(equalized[..., 0] - reference_clahe(gray[..., 0], clip, cells)).max() <= 1
    assert (equalized != gray).any()


def test_clahe_of_colors_changes_luminance_alone() -> None:
    image = (90 + noise(3) // 4).astype(np.uint8)
    luminance = (image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    equalized = changed(image, clip=2.0, clahe_cells=4).astype(int)
    difference = equalized - image
    inside = (equalized > 0) & (equalized < 255)
    same = (difference == difference[..., :1])[inside.all(axis=2)]
    assert same.all(), "all channels change alike, so their differences stay"
    expected = reference_clahe(luminance, 2.0, 4)
    error = np.abs(equalized @ np.array([0.299, 0.587, 0.114]) - expected)[inside.all(axis=2)]
    assert np.median(error) <= 1
    assert inside.all(axis=2).mean() > 0.5


def test_noise_has_the_standard_deviation_of_the_yaml() -> None:
    gray = np.full((200, 200, 3), 128, np.uint8)
    noisy = changed(gray, noise=12.0, noise_seed=7)
    error = noisy.astype(float) - 128
    assert error.std() == pytest.approx(math.hypot(12, 1 / math.sqrt(12)), rel=0.01)
    assert abs(error.mean()) < 0.2
    assert (
        scipy.stats.kstest(
            (error + np.random.default_rng(0).uniform(-0.5, 0.5, error.shape)).ravel(), "norm", (0, 12)
        ).pvalue
        > 1e-3
    )
    for first, second in ((0, 1), (0, 2)):
        assert abs(np.corrcoef(error[..., first].ravel(), error[..., second].ravel())[0, 1]) < 0.02
    assert (noisy == changed(gray, noise=12.0, noise_seed=7)).all()
    assert (noisy != changed(gray, noise=12.0, noise_seed=8)).any()


def test_noise_is_cut_off_at_black_and_white() -> None:
    image = np.zeros((64, 64, 5), np.uint8)
    image[:32] = 255
    noisy = changed(image, noise=20.0, noise_seed=1).astype(int)
    assert 0.45 < (noisy[:32] == 255).mean() < 0.55
    assert 0.45 < (noisy[32:] == 0).mean() < 0.55
    assert noisy[:32].min() > 128 > noisy[32:].max()


def test_noise_twice_is_stronger() -> None:
    change = color.ColorChange()
    for sigma in (3.0, 4.0):
        settings = Augment.model_validate({"noise": {"p": 1, "sigma": [sigma, sigma]}}).noise
        color.COLOR_STEPS["noise"].add(change, settings, np.array([0.0, 0.5, 0.25]))
    assert change.noise == pytest.approx(5)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_jpeg_has_the_quality_of_the_yaml(channels: int) -> None:
    smooth = cv2.GaussianBlur(noise(channels), (0, 0), 3).reshape(SIZE, SIZE, channels)
    for quality in (30, 90):
        expected = np.empty_like(smooth)
        if channels == 3:
            file = io.BytesIO()
            PIL.Image.fromarray(smooth).save(file, "JPEG", quality=quality)
            expected = np.asarray(PIL.Image.open(file))
        else:
            for channel in range(channels):
                file = io.BytesIO()
                PIL.Image.fromarray(smooth[..., channel]).save(file, "JPEG", quality=quality)
                expected[..., channel] = np.asarray(PIL.Image.open(file))
        assert np.abs(changed(smooth, quality=quality).astype(int) - expected).mean() < 0.5
    errors = [np.abs(changed(smooth, quality=quality).astype(int) - smooth).mean() for quality in (5, 30, 95)]
    assert errors == sorted(errors, reverse=True)


def test_qualities_are_drawn_from_the_range_alone() -> None:
    settings, drawn = step("jpeg", {"p": 1, "quality": [60, 63]}).jpeg, set()
    for number in np.linspace(0, 1, 400, endpoint=False):
        change = color.ColorChange()
        color.COLOR_STEPS["jpeg"].add(change, settings, np.array([0.0, number]))
        drawn.add(change.quality)
    assert drawn == {60, 61, 62, 63}


def test_order_is_clahe_blur_noise_jpeg() -> None:
    image = noise()
    at_once = changed(image, clip=2.0, clahe_cells=4, blur=1.0, noise=5.0, noise_seed=3, quality=50)
    step_by_step = changed(image, clip=2.0, clahe_cells=4)
    for parameters in ({"blur": 1.0}, {"noise": 5.0, "noise_seed": 3}, {"quality": 50}):
        step_by_step = changed(step_by_step, **parameters)
    assert (at_once == step_by_step).all()


# --- mixing ------------------------------------------------------------------------------------------------


def plain_batch() -> ImageBatch:
    """Four plain images of different grays; the first has a mask on the left, the second on the right."""
    images = np.stack([np.full((SIZE, SIZE, 1), gray, np.uint8) for gray in (10, 60, 110, 160)])
    masks = np.zeros_like(images)
    masks[0, :, :8], masks[1, :, -8:] = 1, 1
    return ImageBatch(images, masks, np.array([[1], [1], [0], [0]], np.float32))


def mixing(name: str, p: float = 1.0, **settings: object) -> list[AugmentationStep]:
    return augmentation_steps([step(name, {"p": p, **({} if name == "copy_paste" else {"alpha": 1}), **settings})])


def equal(first: ImageBatch, second: ImageBatch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", BATCH_STEPS)
def test_mixing_repeats_by_seed_and_leaves_the_batch_unchanged(name: str) -> None:
    batch = plain_batch()
    first, again = (mix_batch(batch, mixing(name), np.random.default_rng(1)) for _ in range(2))
    assert equal(first, again)
    assert equal(batch, plain_batch())
    assert (mix_batch(batch, mixing(name), np.random.default_rng(2)).images != first.images).any()
    assert [array.dtype for array in first if array is not None] == [np.uint8, np.uint8, np.float32]
    assert equal(mix_batch(batch, mixing(name, p=0), np.random.default_rng(1)), batch)


def test_mixup_blends_images_and_labels_by_the_same_share() -> None:
    batch = plain_batch()
    for seed in range(10):
        mixed = mix_batch(batch, mixing("mixup"), np.random.default_rng(seed))
        for index in range(4):
            gray, label = float(mixed.images[index].mean()), float(mixed.labels[index, 0])
            fits = []
            for partner in set(range(4)) - {index}:
                difference = batch.images[index].mean() - batch.images[partner].mean()
                share = (gray - batch.images[partner].mean()) / difference
                expected = share * batch.labels[index, 0] + (1 - share) * batch.labels[partner, 0]
                fits.append(abs(expected - label) < 0.02)
            assert any(fits)


def test_cutmix_labels_follow_the_visible_masks() -> None:
    batch = plain_batch()
    assert batch.masks is not None
    label_changes = set()
    for seed in range(40):
        mixed = mix_batch(batch, mixing("cutmix"), np.random.default_rng(seed))
        assert mixed.masks is not None
        for index in range(4):
            assert mixed.labels[index, 0] == mixed.masks[index].any()
            pasted = mixed.images[index] != batch.images[index]
            for partner in set(range(4)) - {index}:
                if pasted.any() and (mixed.images[index][pasted] == batch.images[partner][pasted]).all():
                    assert (mixed.masks[index][pasted] == batch.masks[partner][pasted]).all()
            label_changes.add((batch.labels[index, 0], mixed.labels[index, 0]))
    assert len(label_changes) == 4, "some images lost a mask, others gained one"


def test_cutmix_skips_images_whose_mask_vanished() -> None:
    batch = plain_batch()
    assert batch.masks is not None
    batch.masks[1] = 0  # label 1, but the mask is too small to be visible at this size
    for seed in range(10):
        mixed = mix_batch(batch, mixing("cutmix"), np.random.default_rng(seed))
        assert (mixed.images[1] == batch.images[1]).all()
        assert mixed.labels[1, 0] == 1
        assert all((mixed.images[index] != 60).all() for index in (0, 2, 3)), "nor is it pasted into others"


def test_an_image_is_mixed_at_most_once() -> None:
    steps = [mixing(name)[0] for name in BATCH_STEPS]
    assert len(steps) == 3
    by_both = mix_batch(plain_batch(), steps, np.random.default_rng(0))
    by_the_first = mix_batch(plain_batch(), steps[:1], np.random.default_rng(0))
    assert (by_both.images == by_the_first.images).all()


def test_cutmix_of_masks_is_that_of_images() -> None:
    batch = plain_batch()
    images = batch.masks * np.array([10, 60, 110, 160], np.uint8)[:, None, None, None]  # type: ignore[operator]
    batch = batch._replace(images=images)
    for seed in range(10):
        mixed = mix_batch(batch, mixing("cutmix"), np.random.default_rng(seed))
        assert ((mixed.images > 0) == (mixed.masks == 1)).all()


def test_mixup_blends_masks_by_the_share_of_the_images() -> None:
    batch = plain_batch()
    assert batch.masks is not None
    halves = 0
    for seed in range(10):
        mixed = mix_batch(batch, mixing("mixup"), np.random.default_rng(seed), soft_masks=True)
        assert mixed.masks is not None and mixed.masks.dtype == np.uint8
        for index in range(4):
            fits = []
            for partner in set(range(4)) - {index}:
                own, other = batch.images[index].mean(), batch.images[partner].mean()
                share = (mixed.images[index].mean() - other) / (own - other)
                expected = share * batch.masks[index] + (1 - share) * batch.masks[partner]
                fits.append(np.abs(mixed.masks[index] / 255 - expected).max() < 0.02)
            assert any(fits)
            halves += ((mixed.masks[index] > 25) & (mixed.masks[index] < 230)).any()
    assert halves > 5
    unmixed = mix_batch(batch, mixing("mixup", p=0), np.random.default_rng(0), soft_masks=True)
    assert np.array_equal(unmixed.masks, batch.masks * 255)
    alone = ImageBatch(*(array[:1] for array in batch))  # type: ignore[index]
    mixed_alone = mix_batch(alone, mixing("mixup"), np.random.default_rng(0), soft_masks=True)
    assert np.array_equal(mixed_alone.masks, batch.masks[:1] * 255)


def test_pixels_that_either_image_ignores_are_ignored_after_mixup() -> None:
    batch = plain_batch()
    masks = np.zeros((4, SIZE, SIZE, 3), np.uint8)
    masks[..., :1] = batch.masks
    for index in range(4):
        masks[index, 10 * index : 10 * index + 5, :, 2] = 1
    layout = Layout(classes=2, ignored=True)
    mixed = mix_batch(batch._replace(masks=masks), mixing("mixup"), np.random.default_rng(3), layout, soft_masks=True)
    assert mixed.masks is not None
    for index in range(4):
        ignored = mixed.masks[index, :, :, 2]
        assert set(np.unique(ignored)) == {0, 255}
        partners = set(range(4)) - {index}
        assert any((ignored == 255 * (masks[index, :, :, 2] | masks[partner, :, :, 2])).all() for partner in partners)


def test_copy_paste_pastes_what_a_mask_shows() -> None:
    batch = plain_batch()
    assert batch.masks is not None
    seen = set()
    for seed in range(20):
        mixed = mix_batch(batch, mixing("copy_paste"), np.random.default_rng(seed))
        assert mixed.masks is not None
        for index in range(4):
            gray = batch.images[index, 0, 0, 0]
            pasted = mixed.images[index] != gray
            partners = [partner for partner in (0, 1) if partner != index]
            fits = [
                partner
                for partner in partners
                if (pasted == batch.masks[partner]).all() and (mixed.images[index][pasted] == (10, 60)[partner]).all()
            ]
            assert len(fits) == 1, "from images with a mask only, and never from itself"
            assert (mixed.masks[index] == np.maximum(batch.masks[index], batch.masks[fits[0]])).all()
            assert mixed.labels[index, 0] == 1
            seen.add((index, fits[0]))
    assert seen == {(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)}


def test_copy_paste_mirrors_what_it_pastes() -> None:
    batch = plain_batch()
    assert batch.masks is not None
    batch.masks[0, SIZE // 2 :] = 0
    batch.masks[1] = 0
    batch.labels[1] = 0
    for settings, place in (
        ({}, np.s_[: SIZE // 2, :8]),
        ({"hflip": 1.0}, np.s_[: SIZE // 2, -8:]),
        ({"vflip": 1.0}, np.s_[SIZE // 2 :, :8]),
    ):
        mixed = mix_batch(batch, mixing("copy_paste", **settings), np.random.default_rng(0))
        expected = np.zeros((SIZE, SIZE), np.uint8)
        expected[place] = 1
        assert mixed.masks is not None
        for index in (1, 2, 3):
            assert (mixed.masks[index, :, :, 0] == expected).all()
        assert (mixed.images[0] == batch.images[0]).all(), "the only image with a mask has no partner"


def test_copy_paste_replaces_all_planes_inside_what_it_pastes() -> None:
    batch = plain_batch()
    rng = np.random.default_rng(0)
    masks = (rng.random((4, SIZE, SIZE, 4)) < 0.3).astype(np.uint8)  # two classes, borders, ignored pixels
    batch = batch._replace(masks=masks, labels=np.ones((4, 2), np.float32))
    mixed = mix_batch(
        batch, mixing("copy_paste"), np.random.default_rng(1), Layout(classes=2, border=True, ignored=True)
    )
    assert mixed.masks is not None
    for index in range(4):
        fits = []
        for partner in set(range(4)) - {index}:
            region = masks[partner, :, :, :3].any(axis=2, keepdims=True)
            expected = np.where(region, masks[partner], masks[index])
            image = np.where(region, batch.images[partner], batch.images[index])
            fits.append((mixed.masks[index] == expected).all() and (mixed.images[index] == image).all())
        assert sum(fits) == 1


def test_feathered_edges_blend_into_the_image_and_leave_the_mask_sharp() -> None:
    batch = plain_batch()
    for seed in range(5):
        sharp, soft = (
            mix_batch(batch, mixing("copy_paste", feather=sigma), np.random.default_rng(seed)) for sigma in (0, 2.0)
        )
        assert np.array_equal(sharp.masks, soft.masks)
        share = scipy.ndimage.gaussian_filter(
            (sharp.masks[2, :, :, 0] > 0).astype(float),  # type: ignore[index]
            2.0,
            mode="mirror",
            truncate=6,
        )
        gray = sharp.images[2][sharp.masks[2] > 0].max()  # type: ignore[index]
        assert np.abs(soft.images[2, :, :, 0] - (110 + share * (float(gray) - 110))).max() <= 1
