"""Several classes, ignored pixels, any number of channels and oblong inputs, each like one class in a square."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Augment, Experiment
from gatemask.data.example import Example
from gatemask.errors import GatemaskError
from gatemask.input import augment, color, geometry
from gatemask.input.decoding import decode_example
from gatemask.input.layout import ONE_CLASS, Layout
from gatemask.input.mix import ImageBatch, mix_batch
from gatemask.input.pipeline import epoch_order, evaluation_batches, training_batches

SIDE = 64
STEPS: dict[str, Any] = {
    "hflip": 0.5,
    "vflip": 0.5,
    "affine": {"rotate": 20, "shear": 0.1, "zoom": [0.8, 1.2], "shift": 0.1},
    "zoom_to_mask": {"p": 0.7},
    "elastic": {"p": 1.0, "amount": 0.04},
    "grid": {"p": 1.0, "amount": 0.04},
    "brightness_contrast": 0.3,
    "hue": 0.2,
    "clahe": {"p": 0.5},
    "blur": {"p": 0.5},
    "jpeg": {"p": 0.5},
    "coarse_dropout": {"p": 0.5},
}
FLIPS, AFFINE, ALL = ["hflip", "vflip"], ["hflip", "affine", "zoom_to_mask"], list(STEPS)


def experiment(task: str = "mask", steps: Sequence[str] = (), per_class: bool = False, **more: Any) -> Experiment:
    model = {"name": "gate" if task == "gate" else "unet", "encoder": "resnet18", "per_class": per_class}
    given = {"name": "e", "task": task, "model": model, "input": {"size": SIDE}, "loss": {"bce": 1}, "epochs": 2}
    return Experiment.model_validate({**given, "augment": [{name: STEPS[name]} for name in steps], **more})


def png(stacked: np.ndarray) -> bytes:
    return cv2.imencode(".png", stacked)[1].tobytes()


def ellipse(size: tuple[int, int], x: int, y: int, width: int, height: int) -> np.ndarray:
    plane = np.zeros(size, np.uint8)
    cv2.ellipse(plane, (x, y), (width, height), 20, 0, 360, 255, -1)
    return plane


def examples(channels: int = 1, size: tuple[int, int] = (SIDE, SIDE)) -> list[tuple[Example, np.ndarray]]:
    """Images with a mask of three planes: a class, a class inside it, and ignored pixels beside them."""
    rng, found = np.random.default_rng(0), []
    for number in range(8):
        noise = rng.integers(0, 256, (size[0] // 4, size[1] // 4, channels)).astype(np.uint8)
        image = np.stack([cv2.resize(noise[:, :, c], size[::-1]) for c in range(channels)])
        x, y = (int(rng.integers(side // 3, 2 * side // 3)) for side in (size[1], size[0]))
        outer, inner = ellipse(size, x, y, 12, 9), ellipse(size, x, y, 6, 4)
        planes = np.stack([outer, inner, ellipse(size, 5, 5, 9, 4)]) * np.uint8(number % 3 > 0)
        planes[2] = ellipse(size, 5, 5, 9, 4)
        encoded = png(image[0] if channels == 1 else image.reshape(-1, size[1]))
        found.append((Example(f"i{number}", encoded, png(planes.reshape(-1, size[1])), 3 * (number % 3 > 0)), planes))
    return found


def batches_of(records: list[Example], exp: Experiment, layout: Layout) -> list[np.ndarray]:
    """Images and targets of an epoch, then those of an evaluation."""
    order = epoch_order(records, exp, 4, 0, 1)
    training = [tuple(map(np.array, batch)) for batch in training_batches(records, exp, layout, order, 4, 0, 1)]
    evaluation = [batch[:2] for batch in evaluation_batches(records, exp, layout, 4)]
    return [np.concatenate(arrays) for arrays in zip(*training, *evaluation, strict=True)]


@pytest.mark.parametrize("stored", [64, 96])
@pytest.mark.parametrize("steps", [[], FLIPS, AFFINE, ALL], ids=["plain", "flips", "affine", "all"])
def test_each_plane_is_changed_as_if_it_were_the_only_one(steps: list[str], stored: int) -> None:
    several = examples(size=(stored, stored))
    exp, layout = experiment(steps=steps), Layout(classes=2, ignored=True)
    images, masks = batches_of([example for example, _ in several], exp, layout)
    assert masks.shape[-1] == 3
    # The union of the classes, which zoom_to_mask looks at, is the first class.
    alone = [example._replace(mask=png(planes[0]), label=example.label and 1) for example, planes in several]
    plain_images, plain_masks = batches_of(alone, exp, ONE_CLASS)
    assert np.array_equal(images, plain_images)
    assert np.array_equal(masks[..., :1], plain_masks)
    first_and_ignored = [
        example._replace(mask=png(planes[[0, 2]].reshape(-1, stored)), label=example.label and 1)
        for example, planes in several
    ]
    assert np.array_equal(masks[..., [0, 2]], batches_of(first_and_ignored, exp, Layout(ignored=True))[1])
    if "zoom_to_mask" not in steps:
        second = [example._replace(mask=png(planes[1]), label=example.label and 1) for example, planes in several]
        assert np.array_equal(masks[..., 1:2], batches_of(second, exp, ONE_CLASS)[1])


def test_ignored_pixels_of_images_without_a_class_are_kept() -> None:
    records = [example for example, _ in examples()]
    _, masks = batches_of(records, experiment(), Layout(classes=2, ignored=True))
    assert masks[..., 2].any(axis=(1, 2)).all()
    assert masks[..., :2].any(axis=(1, 2, 3)).sum() < len(masks)


@pytest.mark.parametrize("steps", [[], FLIPS, AFFINE, ALL], ids=["plain", "flips", "affine", "all"])
def test_each_channel_is_changed_as_if_it_were_the_only_one(steps: list[str]) -> None:
    steps = [name for name in steps if name not in ("hue", "coarse_dropout")]
    several = [example._replace(mask=png(planes[0])) for example, planes in examples(channels=6)]
    images, _ = batches_of(several, experiment(steps=steps), Layout(channels=6))
    assert images.shape[-1] == 6
    for channel in (0, 3, 5):
        one = [
            example._replace(image=png(decode_example(example, Layout(6), with_mask=False).image[:, :, channel]))
            for example in several
        ]
        alone, _ = batches_of(one, experiment(steps=steps), ONE_CLASS)
        assert np.array_equal(images[..., channel : channel + 1], alone)


OBLONG = (48, 96)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in geometry.GEOMETRY_STEPS if name != "turn"])
def test_oblong_images_and_masks_move_together(name: str, seed: int) -> None:
    image = np.zeros((*OBLONG, 1), np.uint8)
    image[10:30, 40:75] = 200
    steps = [Augment.model_validate({name: {**STEPS[name], "p": 1.0} if isinstance(STEPS[name], dict) else 1.0})]
    for size in (OBLONG, (32, 64), (96, 128)):
        mask = (image[:, :, 0] > 0).astype(np.uint8)[None] * 255
        moved, moved_mask = augment.augment_image(image, mask, size, steps, np.random.default_rng(seed))
        assert moved.shape == moved_mask.shape == (*size, 1)
        assert moved_mask.any()
        assert ((moved >= 100) != (moved_mask > 0)).mean() < 0.01


def test_flips_of_oblong_images_are_exact_and_shifts_are_shares_of_each_side() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*OBLONG, 1)).astype(np.uint8)
    flip = [Augment.model_validate({"hflip": 1.0}), Augment.model_validate({"vflip": 1.0})]
    flipped, _ = augment.augment_image(image, None, OBLONG, flip, np.random.default_rng(0))
    assert np.array_equal(flipped, image[::-1, ::-1])
    start = geometry.resize_geometry(OBLONG, OBLONG)
    affine = Augment.model_validate({"affine": {"shift": 0.2}}).affine
    geometry.GEOMETRY_STEPS["affine"].add(start, affine, np.array([0, 0, 0, 0, 0.75, 0.125]))
    assert start.matrix[:2, 2] == pytest.approx([96 * 0.1, 48 * -0.15])


def test_dropout_in_oblong_images_reaches_all_of_them() -> None:
    image = np.zeros((32, 96, 1), np.uint8)
    change = color.ColorChange(holes=np.array([[0.999, 0.999], [0.0, 0.0]]), hole_side=0.25)
    color.apply_color(image, change)
    assert image[-8:, -8:].min() == image[:8, :8].min() == color.HOLE_GRAY
    assert (image > 0).sum() == 2 * 8 * 8


def test_oblong_batches_have_the_shape_of_the_input() -> None:
    records = [example for example, _ in examples(size=(64, 128))]
    exp = experiment(steps=AFFINE, input={"size": [32, 96]})
    images, masks = batches_of(records, exp, Layout(classes=2, ignored=True))
    assert (images.shape[1:], masks.shape[1:]) == ((32, 96, 1), (32, 96, 3))


# --- labels ------------------------------------------------------------------------------------------------


def test_gates_get_a_label_for_any_class_or_one_for_each() -> None:
    records = [example._replace(label=label) for (example, _), label in zip(examples(), (0, 1, 2, 3) * 2, strict=True)]
    layout = Layout(classes=2, ignored=True)
    any_class, each = (
        next(iter(evaluation_batches(records, experiment("gate", per_class=per_class), layout, 8)))[1]
        for per_class in (False, True)
    )
    assert any_class.tolist() == [[0], [1], [1], [1]] * 2
    assert each.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]] * 2
    sampled = experiment("gate", sampling={"positives": 1.0})
    assert sorted(epoch_order(records, sampled, 2, 0, 0).tolist()) == [1, 2, 3, 5, 6, 7], "any class is positive"


def class_batch() -> ImageBatch:
    """Four plain images: with the first class on the left, the second on the right, both, and none."""
    images = np.stack([np.full((SIDE, SIDE, 1), gray, np.uint8) for gray in (10, 60, 110, 160)])
    masks = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    masks[0, :, :8, 0], masks[1, :, -8:, 1], masks[2, :, :8, 0], masks[2, :, -8:, 1] = 1, 1, 1, 1
    masks[..., 2] = 1  # ignored everywhere: not a class
    return ImageBatch(images, masks, np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32))


def mixing(name: str) -> list[augment.AugmentationStep]:
    return augment.augmentation_steps([Augment.model_validate({name: {"p": 1, "alpha": 1}})])


def test_mixup_blends_the_labels_of_each_class() -> None:
    batch, seen = class_batch(), set()
    for seed in range(10):
        mixed = mix_batch(batch, mixing("mixup"), np.random.default_rng(seed), layout=Layout(classes=2))
        for index in range(4):
            gray = float(mixed.images[index].mean())
            shares = [(gray - 10 - 50 * p) / (50 * (index - p)) for p in range(4) if p != index]
            blends = [
                share * batch.labels[index] + (1 - share) * batch.labels[p]
                for share, p in zip(shares, [p for p in range(4) if p != index], strict=True)
            ]
            assert any(np.abs(blend - mixed.labels[index]).max() < 0.03 for blend in blends)
            seen.add(tuple((mixed.labels[index] > 0).tolist()))
    assert len(seen) > 2


@pytest.mark.parametrize("labels", [1, 2])
def test_cutmix_looks_at_the_masks_of_the_classes_alone(labels: int) -> None:
    batch = class_batch()
    if labels == 1:
        batch = batch._replace(labels=batch.labels.max(axis=1, keepdims=True))
    changed = set()
    for seed in range(30):
        mixed = mix_batch(batch, mixing("cutmix"), np.random.default_rng(seed), layout=Layout(classes=2))
        assert mixed.masks is not None
        visible = mixed.masks[..., :2].any(axis=(1, 2))
        expected = visible if labels == 2 else visible.any(axis=1, keepdims=True)
        assert np.array_equal(mixed.labels, expected)
        changed |= {tuple(row) for row in np.argwhere(mixed.labels != batch.labels).tolist()}
    assert changed, "some images lost or gained a class"


def test_cutmix_skips_images_of_which_one_class_vanished() -> None:
    batch = class_batch()
    assert batch.masks is not None
    batch.masks[2, :, :, 1] = 0
    for seed in range(10):
        mixed = mix_batch(batch, mixing("cutmix"), np.random.default_rng(seed), layout=Layout(classes=2))
        assert (mixed.images[2] == 110).all()
        assert all((mixed.images[index] != 110).all() for index in (0, 1, 3))


# --- records -----------------------------------------------------------------------------------------------


def test_stacked_channels_and_planes_come_apart() -> None:
    channels = np.random.default_rng(0).integers(0, 256, (4, 6, 8)).astype(np.uint8)
    planes = np.array([0, 255, 0], np.uint8)[:, None, None].repeat(6, 1).repeat(8, 2)
    example = Example("a", png(channels.reshape(24, 8)), png(planes.reshape(18, 8)), 2)
    image, mask = decode_example(example, Layout(4, 2, border=True))
    assert image.flags.c_contiguous
    assert np.array_equal(image, np.moveaxis(channels, 0, 2))
    assert np.array_equal(mask, planes)


@pytest.mark.parametrize(("layout", "field"), [(Layout(5, 3), "image"), (Layout(4, 4), "mask")])
def test_records_of_other_planes_are_rejected(layout: Layout, field: str) -> None:
    example = Example("a", png(np.zeros((24, 8), np.uint8)), png(np.zeros((18, 8), np.uint8)), 2)
    with pytest.raises(GatemaskError, match=rf"{field} of a record[\s\S]*where: +a[\s\S]*records make"):
        decode_example(example, layout)
