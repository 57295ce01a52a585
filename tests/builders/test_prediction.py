"""Prediction: views of an image, each undone before they are averaged, and bytes that round half up."""

from __future__ import annotations

import numpy as np
import pytest

from gatemask.config import Augment, View
from gatemask.masks.rule import as_uint8, build_views, predict_averaged, predict_per_view

SIZE = 64


class Left:
    """A stand-in for a model whose map is the image itself, darkened on the right half."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        out = images[..., :1].astype(np.float32) / 255
        out[:, :, out.shape[2] // 2 :] /= 2
        return out


class Echo:
    """A model whose map is the image; keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        self.seen.append(images.copy())
        return images[..., :1].astype(np.float32) / 255


class Brightness:
    """A gate."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        return images.astype(np.float32).mean((1, 2)) / 255


def blobs(count: int = 2) -> np.ndarray:
    """Smooth images, so that a warp and its inverse lose little."""
    y, x = np.mgrid[:SIZE, :SIZE]
    spots = [np.exp(-((x - 20 - 8 * n) ** 2 + (y - 28) ** 2) / 60) for n in range(count)]
    return (np.stack(spots)[..., None] * 250).astype(np.uint8)


def test_hflip_averages_the_mirrored_prediction_mirrored_back() -> None:
    images = np.full((1, 2, 4, 1), 255, np.uint8)
    assert predict_averaged(Left(), images)[0, 0, :, 0].tolist() == [1, 1, 0.5, 0.5]
    seen = build_views([View(hflip=True)], [], 4)
    assert predict_averaged(Left(), images, seen)[0, 0, :, 0].tolist() == [0.75] * 4


def test_the_plain_view_comes_first_and_flips_are_exact() -> None:
    model, images = Echo(), np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.uint8)
    found = predict_averaged(model, images, build_views([View(hflip=True), View(hflip=True, vflip=True)], [], SIZE))
    assert (model.seen[0] == images).all()
    assert (model.seen[1] == images[:, :, ::-1]).all()
    assert (model.seen[2] == images[:, ::-1, ::-1]).all()
    assert np.abs(found - images / np.float32(255)).max() < 1e-6


RANDOM = [
    Augment(hflip=0.5),
    Augment(affine={"rotate": 20, "zoom": [0.8, 1.2], "shift": 0.1}),
    Augment(zoom_to_mask={"p": 1}),
    Augment(elastic={"p": 1}),
    Augment(coarse_dropout={"p": 1, "size": 0.5}),
]


@pytest.mark.parametrize(
    "tta", [[View(scale=1.25)], [View(scale=0.8)], [View(scale=1.1, hflip=True, vflip=True)], [View(random=5)]], ids=str
)
def test_maps_come_back_to_their_own_pixels(tta: list[View]) -> None:
    images, model = blobs(), Echo()
    found = predict_averaged(model, images, build_views(tta, RANDOM, SIZE))
    assert all(batch.shape == images.shape for batch in model.seen)
    assert np.abs(model.seen[1].astype(int) - images).max() > 20, "the view shows something else"
    assert np.abs(found - images / 255).max() < 0.05


def test_what_a_view_does_not_show_does_not_count() -> None:
    images = np.full((1, SIZE, SIZE, 1), 255, np.uint8)
    found = predict_averaged(Echo(), images, build_views([View(scale=2.0), View(scale=1.5)], [], SIZE))
    assert found.min() > 0.999, "the border, which neither shows, is as the plain view says"


def test_random_views_are_the_same_whatever_the_batch() -> None:
    steps = [*RANDOM, Augment(brightness_contrast=0.3), Augment(gamma=(0.5, 2))]
    images = blobs(4)
    together = predict_averaged(Echo(), images, build_views([View(random=3)], steps, SIZE))
    alone = [predict_averaged(Echo(), images[n : n + 1], build_views([View(random=3)], steps, SIZE)) for n in range(4)]
    assert (together == np.concatenate(alone)).all()
    assert len(build_views([View(random=3), View(hflip=True)], steps, SIZE)) == 5


def test_tones_leave_the_batch_as_it_was() -> None:
    images = blobs()
    before = images.copy()
    predict_averaged(Echo(), images, build_views([View(random=2)], [Augment(brightness_contrast=0.5)], SIZE))
    assert (images == before).all()


def test_a_gate_takes_the_mean_over_views() -> None:
    images = np.full((2, SIZE, SIZE, 1), 200, np.uint8)
    found = predict_averaged(Brightness(), images, build_views([View(hflip=True), View(scale=0.5)], [], SIZE))
    assert found.shape == (2, 1)
    assert found[0, 0] == pytest.approx(200 / 255 * (1 + 1 + 0.25) / 3, abs=0.01)


def test_bytes_round_half_up() -> None:
    assert as_uint8(np.array([0, 0.49 / 255, 0.5 / 255, 1])).tolist() == [0, 0, 1, 255]


def test_views_apart_are_those_that_are_averaged() -> None:
    images = blobs()
    seen = build_views([View(hflip=True), View(scale=0.8)], [], SIZE)
    averaged, apart = predict_per_view(Left(), images, seen)
    assert (averaged == predict_averaged(Left(), images, seen)).all()
    assert apart.shape == (2, SIZE, SIZE, 3)
    for number, one in enumerate(seen):
        assert np.allclose(apart[..., number : number + 1], predict_averaged(Left(), images, [one]), atol=1e-6)


def test_views_count_by_their_weights() -> None:
    images, tta = blobs(), [View(hflip=True), View(vflip=True)]
    _, apart = predict_per_view(Left(), images, build_views(tta, [], SIZE))
    weighed = predict_averaged(Left(), images, build_views(tta, [], SIZE, [0.2, 0.6, 0.2]))
    assert np.allclose(weighed[..., 0], apart @ np.array([0.2, 0.6, 0.2], np.float32), atol=1e-6)
    assert len(build_views(tta, [], SIZE, [0, 1, 0])) == 1
    with pytest.raises(ValueError, match="argument"):
        build_views(tta, [], SIZE, [1, 1])
