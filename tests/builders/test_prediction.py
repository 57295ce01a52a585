"""Prediction undoes each view before views are averaged."""

from __future__ import annotations

import numpy as np
import pytest

from gatemask.builders.prediction import build_views, predict_averaged, predict_per_view
from gatemask.config import Augment, View

SIZE = 64


class DarkenRight:
    """A model whose map is the image itself, darkened in the right half."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        out = images[..., :1].astype(np.float32) / 255
        out[:, :, out.shape[2] // 2 :] /= 2
        return out


class Echo:
    """A model whose map is the image; records its inputs."""

    def __init__(self) -> None:
        self.inputs: list[np.ndarray] = []

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        self.inputs.append(images.copy())
        return images[..., :1].astype(np.float32) / 255


class BrightnessGate:
    """A gate whose probability is the mean of the image."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        return images.astype(np.float32).mean((1, 2)) / 255


def blobs(count: int = 2) -> np.ndarray:
    """Smooth images, which a warp and its inverse change little."""
    y, x = np.mgrid[:SIZE, :SIZE]
    spots = [np.exp(-((x - 20 - 8 * n) ** 2 + (y - 28) ** 2) / 60) for n in range(count)]
    return (np.stack(spots)[..., None] * 250).astype(np.uint8)


def test_hflip_averages_the_mirrored_prediction_mirrored_back() -> None:
    images = np.full((1, 2, 4, 1), 255, np.uint8)
    assert predict_averaged(DarkenRight(), images)[0, 0, :, 0].tolist() == [1, 1, 0.5, 0.5]
    views = build_views([View(hflip=True)], [], 4)
    assert predict_averaged(DarkenRight(), images, views)[0, 0, :, 0].tolist() == [0.75] * 4


def test_the_unchanged_image_comes_first_and_flips_are_exact() -> None:
    model, images = Echo(), np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.uint8)
    maps = predict_averaged(model, images, build_views([View(hflip=True), View(hflip=True, vflip=True)], [], SIZE))
    assert (model.inputs[0] == images).all()
    assert (model.inputs[1] == images[:, :, ::-1]).all()
    assert (model.inputs[2] == images[:, ::-1, ::-1]).all()
    assert np.abs(maps - images / np.float32(255)).max() < 1e-6


TURNS = [View(rotate=90), View(rotate=180), View(rotate=270), View(rotate=90, hflip=True), View(rotate=90, vflip=True)]


def test_turns_are_exact_and_counterclockwise() -> None:
    model, images = Echo(), np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.uint8)
    maps = predict_averaged(model, images, build_views(TURNS, [], SIZE))
    top_right = images[:, 0, -1]
    assert (model.inputs[1][:, 0, 0] == top_right).all(), (
        "a quarter turn to the left moves the right corner to the left"
    )
    for number, (quarters, mirror) in enumerate([(1, ""), (2, ""), (3, ""), (1, "x"), (1, "y")], start=1):
        expected = np.stack([np.rot90(image, quarters) for image in images])
        expected = expected[:, :, ::-1] if mirror == "x" else expected[:, ::-1] if mirror == "y" else expected
        assert (model.inputs[number] == expected).all()
    assert np.abs(maps - images / np.float32(255)).max() < 1e-6
    assert len({batch.tobytes() for batch in model.inputs}) == 6


def test_each_turn_is_undone_by_itself() -> None:
    """A model that only sees the top left corner shows where each view's map comes from."""

    class Corner:
        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            out = np.zeros((*images.shape[:3], 1), np.float32)
            out[:, 0, 0] = 1
            return out

    images = np.zeros((1, 4, 4, 1), np.uint8)
    corners = {90: (0, -1), 180: (-1, -1), 270: (-1, 0)}
    for degrees, corner in corners.items():
        (_, view) = build_views([View.model_validate({"rotate": degrees})], [], 4)
        maps = predict_averaged(Corner(), images, [view])
        assert maps[0, corner[0], corner[1], 0] == maps.sum() == 1


def test_half_turns_need_no_square() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 1)).astype(np.uint8)
    model = Echo()
    maps = predict_averaged(model, images, build_views([View(rotate=180)], [], (32, 64)))
    assert (model.inputs[1] == images[:, ::-1, ::-1]).all()
    assert np.abs(maps - images / np.float32(255)).max() < 1e-6


RANDOM = [
    Augment(hflip=0.5),
    Augment(affine={"rotate": 20, "zoom": [0.8, 1.2], "shift": 0.1}),
    Augment(zoom_to_mask={"p": 1}),
    Augment(elastic={"p": 1}),
    Augment(coarse_dropout={"p": 1, "size": 0.5}),
]


@pytest.mark.parametrize(
    "tta",
    [
        [View(scale=1.25)],
        [View(scale=0.8)],
        [View(scale=1.1, hflip=True, vflip=True)],
        [View(random=5)],
        [View(scale=0.9, rotate=270)],
        [View(scale=1.2, rotate=90, vflip=True)],
    ],
    ids=str,
)
def test_maps_are_brought_back_to_the_pixels_of_the_image(tta: list[View]) -> None:
    images, model = blobs(), Echo()
    maps = predict_averaged(model, images, build_views(tta, RANDOM, SIZE))
    assert all(batch.shape == images.shape for batch in model.inputs)
    assert np.abs(model.inputs[1].astype(int) - images).max() > 20, "the view differs from the image"
    assert np.abs(maps - images / 255).max() < 0.05


def test_a_view_counts_only_where_it_shows_the_image() -> None:
    images = np.full((1, SIZE, SIZE, 1), 255, np.uint8)
    maps = predict_averaged(Echo(), images, build_views([View(scale=2.0), View(scale=1.5)], [], SIZE))
    assert maps.min() > 0.999, "the border, which neither enlarged view shows, is that of the unchanged image"


def test_random_views_do_not_depend_on_the_batch() -> None:
    steps = [*RANDOM, Augment(brightness_contrast=0.3), Augment(gamma=(0.5, 2))]
    images = blobs(4)
    together = predict_averaged(Echo(), images, build_views([View(random=3)], steps, SIZE))
    alone = [predict_averaged(Echo(), images[n : n + 1], build_views([View(random=3)], steps, SIZE)) for n in range(4)]
    assert (together == np.concatenate(alone)).all()
    assert len(build_views([View(random=3), View(hflip=True)], steps, SIZE)) == 5


def test_tones_do_not_modify_the_batch() -> None:
    images = blobs()
    original = images.copy()
    predict_averaged(Echo(), images, build_views([View(random=2)], [Augment(brightness_contrast=0.5)], SIZE))
    assert (images == original).all()


def test_the_probability_of_a_gate_is_the_mean_over_views() -> None:
    images = np.full((2, SIZE, SIZE, 1), 200, np.uint8)
    probabilities = predict_averaged(
        BrightnessGate(), images, build_views([View(hflip=True), View(scale=0.5), View(rotate=90)], [], SIZE)
    )
    assert probabilities.shape == (2, 1)
    assert probabilities[0, 0] == pytest.approx(200 / 255 * (1 + 1 + 0.25 + 1) / 4, abs=0.01)


def test_maps_per_view_are_those_that_are_averaged() -> None:
    images = blobs()
    views = build_views([View(hflip=True), View(scale=0.8)], [], SIZE)
    averaged, per_view = predict_per_view(DarkenRight(), images, views)
    assert (averaged == predict_averaged(DarkenRight(), images, views)).all()
    assert per_view.shape == (2, SIZE, SIZE, 3)
    for index, view in enumerate(views):
        maps = predict_averaged(DarkenRight(), images, [view])
        assert np.allclose(per_view[..., index : index + 1], maps, atol=1e-6)


def test_views_count_by_their_weights() -> None:
    images, tta = blobs(), [View(hflip=True), View(vflip=True)]
    _, per_view = predict_per_view(DarkenRight(), images, build_views(tta, [], SIZE))
    weighted = predict_averaged(DarkenRight(), images, build_views(tta, [], SIZE, [0.2, 0.6, 0.2]))
    assert np.allclose(weighted[..., 0], per_view @ np.array([0.2, 0.6, 0.2], np.float32), atol=1e-6)
    assert len(build_views(tta, [], SIZE, [0, 1, 0])) == 1
    with pytest.raises(ValueError, match="argument"):
        build_views(tta, [], SIZE, [1, 1])
