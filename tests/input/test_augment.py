"""What a step does to an image and its mask: together, once, in the order of the YAML, the same for the same seed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gatemask.config import Augment
from gatemask.data.readers import resize_image
from gatemask.input import color, geometry
from gatemask.input.augment import BATCH_STEPS, augment_image
from gatemask.input.mix import mix_batch

SIZE = 64


def square(size: int = SIZE, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((size, size, channels), np.uint8)
    image[8:24, 32:56] = 200
    return image, (image[:, :, 0] > 0).astype(np.uint8) * 255


def step(name: str, settings: object = None) -> Augment:
    return Augment.model_validate(name if settings is None else {name: settings})


def changed(steps: list[Augment], seed: int, size: int = SIZE, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return augment_image(*square(channels=channels), size, steps, np.random.default_rng(seed))


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
    "blur": {"p": 1.0},
    "coarse_dropout": {"p": 1.0},
}


def test_every_step_of_the_schema_is_carried_out_somewhere() -> None:
    assert {*geometry.GEOMETRY_STEPS, *color.COLOR_STEPS, *BATCH_STEPS} == set(Augment.model_fields)
    assert set(GEOMETRY) == set(geometry.GEOMETRY_STEPS)
    assert set(COLOR) == set(color.COLOR_STEPS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_moves_image_and_mask_together(name: str, seed: int) -> None:
    for steps in ([step(name, GEOMETRY[name])], [step(name, GEOMETRY[name]), step("affine"), step("hflip")]):
        for size in (SIZE, 96, 48):
            image, mask = changed(steps, seed, size)
            assert image.shape == mask.shape == (size, size, 1)
            assert image.dtype == mask.dtype == np.uint8
            assert mask.any()
            assert ((image >= 100) != (mask > 0)).mean() < 0.01
    assert (changed([step(name, GEOMETRY[name])], seed)[0] != square()[0]).any()


@pytest.mark.parametrize("name", [*GEOMETRY, *COLOR])
def test_the_same_state_gives_the_same_bytes_and_another_one_others(name: str) -> None:
    steps = [step(name, {**GEOMETRY, **COLOR}[name])]
    one, two = (changed(steps, 3, channels=3) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    if name not in ("hflip", "vflip"):
        grey = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        seen = {augment_image(grey, None, SIZE, steps, np.random.default_rng(n))[0].tobytes() for n in range(9)}
        assert len(seen) > 2


@pytest.mark.parametrize("name", COLOR)
def test_colour_changes_the_image_alone(name: str) -> None:
    image, mask = square(channels=3)
    image[..., 1] //= 2
    found, same = augment_image(image, mask, SIZE, [step(name, COLOR[name])], np.random.default_rng(1))
    assert (found != image).any()
    assert (same[:, :, 0] * 255 == mask).all()


@pytest.mark.parametrize("name", ["hue", "saturation"])
def test_grey_has_no_hue(name: str) -> None:
    assert (changed([step(name)], 1)[0] == square()[0]).all()


def test_hue_turns_round_and_saturation_fades() -> None:
    red = np.zeros((SIZE, SIZE, 3), np.uint8)
    red[..., 0] = 200
    faded, _ = augment_image(red, None, SIZE, [step("saturation", [0.5, 0.5])], np.random.default_rng(0))
    assert faded[0, 0].tolist() == pytest.approx([200, 100, 100], abs=3)
    turned = {
        augment_image(red, None, SIZE, [step("hue", 0.5)], np.random.default_rng(n))[0].tobytes() for n in range(9)
    }
    assert len(turned) == 9


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128])
def test_without_geometry_an_image_is_resized_just_as_inference_does(size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 1)).astype(np.uint8)
    for steps in ([], [step("affine", {"p": 0, "rotate": 9})], [step("hflip", 1.0)] * 2, [step("elastic", {"p": 0})]):
        ours, _ = augment_image(image, image[:, :, 0], size, steps, np.random.default_rng(0))
        assert (ours == resize_image(image, size)).all()


def test_mirrors_and_turns_move_pixels_and_change_none() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    for seed in range(20):
        steps = [step("turn", 1.0), step("hflip"), step("vflip"), step("turn")]
        found, mask = augment_image(image, image[:, :, 0], SIZE, steps, np.random.default_rng(seed))
        assert any((found == np.rot90(one, n)).all() for one in (image, image[:, ::-1]) for n in range(4))
        assert (mask == (found[..., :1] >= 128)).all()


def test_steps_are_composed_before_anything_is_resampled() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 1)).astype(np.uint8)
    there = step("affine", {"rotate": 0, "zoom": [1.25, 1.25]})
    back = step("affine", {"rotate": 0, "zoom": [0.8, 0.8]})
    found, _ = augment_image(image, None, SIZE, [back, there], np.random.default_rng(0))
    assert np.abs(found.astype(int) - image).max() <= 1, "small and large again: nothing was lost on the way"


def test_the_order_of_the_yaml_counts() -> None:
    shift, flip = step("affine", {"shift": 0.3, "rotate": 0}), step("hflip", 1.0)
    one, _ = augment_image(*square(), SIZE, [shift, flip], np.random.default_rng(2))
    other, _ = augment_image(*square(), SIZE, [flip, shift], np.random.default_rng(2))
    assert (one != other).any()


def test_zooming_to_the_mask_keeps_it_in_sight() -> None:
    image, mask = np.zeros((SIZE, SIZE, 1), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    mask[2:9, 50:60] = 255
    large = np.zeros_like(mask)
    cv2.ellipse(large, (32, 32), (30, 30), 0, 0, 360, 255, 2)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        zoomed = augment_image(
            image, mask, SIZE, [step("affine"), step("zoom_to_mask", {"p": 1, "zoom": [2, 3]})], rng
        )[1]
        assert zoomed.sum() >= 0.9 * 4 * (mask > 0).sum() * 0.8, "all of it, where it fits"
        assert augment_image(image, large, SIZE, [step("zoom_to_mask", {"p": 1, "zoom": [3, 4]})], rng)[1].any()


def test_an_empty_image_is_zoomed_at_a_random_place() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 1)).astype(np.uint8)
    steps = [step("zoom_to_mask", {"p": 1, "zoom": [2, 2]})]
    found = [augment_image(image, None, SIZE, steps, np.random.default_rng(n)) for n in range(5)]
    assert len({one.tobytes() for one, _ in found}) == 5
    assert not any(mask.any() for _, mask in found)
    # Nothing from outside comes into sight.
    white, _ = augment_image(np.full_like(image, 255), None, SIZE, steps, np.random.default_rng(0))
    assert white.min() == 255


@pytest.mark.parametrize("name", ["elastic", "grid"])
def test_distortion_is_smooth_and_goes_no_farther_than_it_may(name: str) -> None:
    where = geometry.resize_geometry((128, 128), 128)
    settings = getattr(step(name, {"p": 1, "amount": 0.05}), name)
    geometry.GEOMETRY_STEPS[name](where, settings, np.random.default_rng(0))
    assert where.displacement is not None
    assert 2 < np.abs(where.displacement).max() < 0.05 * 128 * 1.5
    assert max(np.abs(np.diff(where.displacement, axis=axis)).max() for axis in (0, 1)) < 1, "no folds, no tears"


def test_brightness_saturates_and_keeps_the_order_of_greys() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64, 1)
    for seed in range(20):
        steps = [step("brightness_contrast", 0.4), step("gamma", [0.5, 2])]
        found, _ = augment_image(ramp, ramp[:, :, 0], 64, steps, np.random.default_rng(seed))
        assert (np.diff(found.ravel().astype(int)) >= 0).all()


def test_dropout_hides_so_many_squares() -> None:
    image = np.zeros((100, 100, 1), np.uint8)
    steps = [step("coarse_dropout", {"p": 1, "holes": 3, "size": 0.1})]
    found, _ = augment_image(image, None, 100, steps, np.random.default_rng(0))
    assert 100 < (found > 0).sum() <= 300


# --- mixing ------------------------------------------------------------------------------------------------


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four plain images of different greys; the first has a mask on the left, the second one on the right."""
    images = np.stack([np.full((SIZE, SIZE, 1), grey, np.uint8) for grey in (10, 60, 110, 160)])
    masks = np.zeros_like(images)
    masks[0, :, :8], masks[1, :, -8:] = 1, 1
    return images, masks, np.array([[1], [1], [0], [0]], np.float32)


def mixed(name: str, seed: int, settings: dict | None = None, data: tuple | None = None) -> tuple:
    given = getattr(step(name, {"p": 1, "alpha": 1, **(settings or {})}), name)
    return mix_batch(*(data or batch()), [(name, given)], np.random.default_rng(seed))


@pytest.mark.parametrize("name", BATCH_STEPS)
def test_a_mixed_batch_repeats_by_its_seed_and_leaves_what_it_was_made_from(name: str) -> None:
    data = batch()
    before = [array.copy() for array in data]
    one, two = mixed(name, 1, data=data), mixed(name, 1, data=data)
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert all((a == b).all() for a, b in zip(before, data, strict=True))
    assert (mixed(name, 2)[0] != one[0]).any()
    assert [array.dtype for array in one] == [np.uint8, np.uint8, np.float32]
    nothing = mixed(name, 1, {"p": 0})
    assert all((a == b).all() for a, b in zip(before, nothing, strict=True))


def test_mixup_blends_images_and_labels_by_the_same_share() -> None:
    images, _, labels = batch()
    for seed in range(10):
        found = mixed("mixup", seed)
        for one in range(4):
            grey, label = float(found.images[one].mean()), float(found.labels[one, 0])
            fits = []
            for other in set(range(4)) - {one}:
                share = (grey - images[other].mean()) / (images[one].mean() - images[other].mean())
                fits.append(abs(share * labels[one, 0] + (1 - share) * labels[other, 0] - label) < 0.02)
            assert any(fits)


def test_cutmix_labels_say_whether_a_mask_can_be_seen() -> None:
    images, masks, labels = batch()
    seen = set()
    for seed in range(40):
        found = mixed("cutmix", seed)
        for one in range(4):
            assert found.labels[one, 0] == found.masks[one].any()
            pasted = found.images[one] != images[one]
            for other in set(range(4)) - {one}:
                if pasted.any() and (found.images[one][pasted] == images[other][pasted]).all():
                    assert (found.masks[one][pasted] == masks[other][pasted]).all()
            seen.add((labels[one, 0], found.labels[one, 0]))
    assert len(seen) == 4, "masks were lost and won"


def test_cutmix_leaves_alone_what_it_cannot_know() -> None:
    images, masks, labels = batch()
    masks[1] = 0  # vanished: somewhere, no one knows where, there was one
    for seed in range(10):
        found = mixed("cutmix", seed, data=(images, masks, labels))
        assert (found.images[1] == images[1]).all()
        assert found.labels[1, 0] == 1
        assert all((found.images[one] != 60).all() for one in (0, 2, 3)), "nor is it pasted into others"


def test_an_image_is_mixed_once_at_most() -> None:
    steps = [(name, getattr(step(name, {"p": 1}), name)) for name in BATCH_STEPS]
    both = mix_batch(*batch(), steps, np.random.default_rng(0))
    first = mix_batch(*batch(), steps[:1], np.random.default_rng(0))
    assert (both.images == first.images).all()
