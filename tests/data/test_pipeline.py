"""What an epoch shows: shares as asked for, the same for the same seed, image and mask moved together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gatemask.config.schema import Augment, Experiment, Sampling
from gatemask.data.augment import augment
from gatemask.data.pipeline import evaluation_batches, sample, training_batches
from gatemask.data.readers import resize_image
from gatemask.data.records import Example
from gatemask.errors import GatemaskError

LABELS = np.array([1] * 20 + [0] * 80)


@pytest.mark.parametrize(
    ("sampling", "epoch", "count", "share"),
    [
        (Sampling(), 0, 100, 0.2),
        (Sampling(drop_negatives=0.5), 0, 60, 1 / 3),
        (Sampling(positives=1.0), 0, 20, 1.0),
        (Sampling(positives=0.5), 3, 40, 0.5),
        (Sampling(positives=(0.8, 0.4)), 0, 25, 0.8),
        (Sampling(positives=(0.8, 0.4)), 9, 50, 0.4),
        (Sampling(positives=0.5, epoch=200), 0, 200, 0.5),
        (Sampling(epoch=30), 0, 30, None),
    ],
)
def test_shares_of_positives(sampling: Sampling, epoch: int, count: int, share: float | None) -> None:
    chosen = sample(LABELS, sampling, epoch, 10, np.random.default_rng(0))
    assert len(chosen) == count
    if share is not None:
        assert LABELS[chosen].mean() == pytest.approx(share, abs=0.02)
    if count <= 100:
        assert len(set(chosen)) == count, "nothing comes twice before everything came once"


def test_a_share_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(GatemaskError, match="cannot be met"):
        sample(np.zeros(9, int), Sampling(positives=0.5), 0, 1, np.random.default_rng(0))


def square(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((size, size, 1), np.uint8)
    image[8:24, 32:56] = 200
    return image, (image[:, :, 0] > 0).astype(np.uint8) * 255


@pytest.mark.parametrize("seed", range(6))
def test_geometry_moves_image_and_mask_together(seed: int) -> None:
    steps = [Augment(hflip=0.5), Augment(affine={"rotate": 20, "shear": 0.1, "zoom": [0.8, 1.2], "shift": 0.1})]
    image, mask = augment(*square(), 64, steps, np.random.default_rng(seed))
    assert image.shape == mask.shape == (64, 64, 1)
    assert ((image >= 100) != (mask > 0)).mean() < 0.01


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128])
def test_without_geometry_an_image_is_resized_just_as_inference_does(size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 1)).astype(np.uint8)
    ours, _ = augment(image, image[:, :, 0], size, [], np.random.default_rng(0))
    assert (ours == resize_image(image, size)).all()


def test_brightness_saturates_and_keeps_the_order_of_greys() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64, 1)
    for seed in range(20):
        changed, _ = augment(ramp, ramp[:, :, 0], 64, [Augment(brightness_contrast=0.4)], np.random.default_rng(seed))
        assert (np.diff(changed.ravel().astype(int)) >= 0).all()


def test_brightness_changes_the_image_alone() -> None:
    image, mask = square()
    changed, same = augment(image, mask, 64, [Augment(brightness_contrast=0.4)], np.random.default_rng(1))
    assert (changed != image).any()
    assert (same[:, :, 0] * 255 == mask).all()


def examples(count: int) -> list[Example]:
    image, mask = (cv2.imencode(".png", array)[1].tobytes() for array in square())
    return [Example(f"i{n}", image, mask, int(n % 4 == 0)) for n in range(count)]


def experiment(task: str) -> Experiment:
    model = {"gate": "gate", "mask": "unet"}[task]
    return Experiment.model_validate(
        {
            "name": "e",
            "task": task,
            "model": {"name": model, "encoder": "efficientnetb0"},
            "input": {"size": 32},
            "loss": {"bce": 1},
            "epochs": 2,
            "augment": ["hflip"],
        }
    )


def test_batches_have_static_shapes_and_repeat_by_seed_and_epoch() -> None:
    exp = experiment("mask")
    one, two, other = (
        [tuple(map(np.array, pair)) for pair in training_batches(examples(10), exp, 1, 4, epoch, seed=5)]
        for epoch in (0, 0, 1)
    )
    assert [images.shape for images, _ in one] == [(4, 32, 32, 1)] * 2
    assert one[0][1].dtype == np.uint8
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(one, two, strict=True))
    assert any((a[0] != b[0]).any() for a, b in zip(one, other, strict=True))


def test_fewer_images_than_a_batch_are_repeated() -> None:
    batches = list(training_batches(examples(3), experiment("gate"), 1, 8, 0, 0))
    assert [target.shape for _, target in batches] == [(8, 1)]


def test_evaluation_shows_each_image_once_and_pads_with_weight_0() -> None:
    found = list(evaluation_batches(examples(10), experiment("gate"), 1, 4))
    assert [images.shape[0] for images, _, _ in found] == [4, 4, 4]
    weights = np.concatenate([weights for _, _, weights in found])
    assert weights.tolist() == [1] * 10 + [0, 0]
    targets = np.concatenate([targets for _, targets, _ in found])[:, 0]
    assert targets[weights > 0].tolist() == [e.label for e in examples(10)]
