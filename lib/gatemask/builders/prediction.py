"""Predict batches with test-time augmentation: the one path for out-of-fold and test predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gatemask.config import Augment, View
from gatemask.config.base import both_sides
from gatemask.input import color, geometry
from gatemask.input.augment import AugmentationStep, augmentation_steps, draw_numbers, draw_parameters
from gatemask.input.color import ColorChange

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SEED = 20200902  # random views are the same for out-of-fold and test, in every run
# Steps that can be undone and keep the whole image visible.
REVERSIBLE_STEPS = ("hflip", "vflip", "turn", "affine", *color.TONE_STEPS)


class BatchPredictor(Protocol):
    """The part of a Keras model that prediction uses."""

    def predict_on_batch(self, images: np.ndarray) -> ArrayLike: ...


@dataclass(frozen=True, eq=False)
class ImageView:
    """One view (TTA variant) of an image: how to change it before the model sees it.

    Args:
        mirror_x: Whether the view is mirrored left to right.
        mirror_y: Whether the view is mirrored top to bottom.
        quarters: Number of quarter turns, counterclockwise, before it is mirrored: 0 to 3. Default: 0.
        matrix: Matrix from pixels of the image to pixels of the view, (3, 3); None for no warp.
        color_change: Tones of the view. Default: unchanged.
        weight: Weight in the average over views. Default: 1.
    """

    mirror_x: bool = False
    mirror_y: bool = False
    quarters: int = 0
    matrix: np.ndarray | None = None
    color_change: ColorChange = field(default_factory=ColorChange)
    weight: float = 1.0


PLAIN_VIEW = ImageView()


def build_views(
    tta: Sequence[View], augment: Sequence[Augment], size: int | tuple[int, int], weights: Sequence[float] | None = None
) -> list[ImageView]:
    """Return the views that `tta:` lists, after the unchanged image.

    Args:
        tta: The experiment's `tta:`.
        augment: The experiment's `augment:`. Random views are drawn from its flips, turns, affine steps and tones, with
            a fixed seed: all images of all runs have the same views.
        size: Size of the network's input, in pixels: a side, or height and width.
        weights: Weights of the views, the unchanged image first; views of weight 0 are left out. Default: equal
            weights.
    """
    views, rng, shape = [PLAIN_VIEW], np.random.default_rng(SEED), both_sides(size)
    steps = [step for step in augmentation_steps(augment) if step.name in REVERSIBLE_STEPS]
    for entry in tta:
        if entry.random:
            views += [_draw_view(steps, shape, rng) for _ in range(entry.random)]
            continue
        scale = entry.scale or 1.0
        matrix = None if scale == 1 else geometry.linear_map_about_center(shape, scale, 0, 0, scale)
        views.append(ImageView(entry.hflip, entry.vflip, (entry.rotate or 0) // 90, matrix))
    if weights is None:
        return views
    return [replace(view, weight=weight) for view, weight in zip(views, weights, strict=True) if weight]


def _draw_view(steps: Sequence[AugmentationStep], size: tuple[int, int], rng: np.random.Generator) -> ImageView:
    numbers = draw_numbers(steps, rng, 1)[0]
    drawn, color_change = draw_parameters(steps, geometry.resize_geometry(size, size), numbers)
    matrix = None if np.array_equal(drawn.motion, np.eye(3)) else drawn.motion
    return ImageView(matrix=matrix, color_change=color_change)


def predict_averaged(
    model: BatchPredictor, images: np.ndarray, views: Sequence[ImageView] = (PLAIN_VIEW,)
) -> np.ndarray:
    """Return the probabilities of one batch, averaged over views.

    Args:
        model: Network from `build_network`, or anything with its `predict_on_batch`. It is called with batches of the
            shape of `images` only.
        images: Images, uint8 (b, h, w, channels). A constant b avoids tracing the model again.
        views: Views from `build_views`; the first must show the whole image. Default: the unchanged image.

    Returns:
        Probabilities, float32: (b, 1) or (b, classes) of a gate, (b, h, w, outputs) of a mask network. Maps are
        brought back to the pixels of the image; a view counts only at the pixels it shows.
    """
    total: np.ndarray | float = 0.0
    weight: np.ndarray | float = 0.0
    for view in views:
        probabilities, coverage = _predict_view(model, images, view)
        total, weight = total + view.weight * probabilities, weight + view.weight * coverage
    return np.asarray(total / weight, np.float32)


def predict_per_view(
    model: BatchPredictor, images: np.ndarray, views: Sequence[ImageView]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of one batch, averaged as in `predict_averaged` and per view.

    Args:
        model: Mask network.
        images: Images, uint8 (b, h, w, channels).
        views: Views that all show the whole image.

    Returns:
        The average, float32 (b, h, w, outputs), and the maps of all views, float32 (b, h, w, views * outputs), view
        after view.
    """
    parts = [_predict_view(model, images, view) for view in views]
    total = sum(view.weight * maps for view, (maps, _) in zip(views, parts, strict=True))
    weight = sum(view.weight * coverage for view, (_, coverage) in zip(views, parts, strict=True))
    per_view = np.concatenate([maps / coverage for maps, coverage in parts], axis=3)
    return np.asarray(total / weight, np.float32), np.asarray(per_view, np.float32)


def _predict_view(model: BatchPredictor, images: np.ndarray, view: ImageView) -> tuple[np.ndarray, np.ndarray | float]:
    """Probabilities of one view, brought back to the pixels of the image, and the share of each pixel it shows."""
    probabilities = np.asarray(model.predict_on_batch(_apply_view(images, view)), np.float32)
    if probabilities.ndim != 4:
        return probabilities, 1.0
    maps = np.rot90(_mirror(probabilities, view), -view.quarters, axes=(1, 2))
    if view.matrix is None:
        return maps, 1.0
    inverse, ones = np.linalg.inv(view.matrix), np.ones((*maps.shape[1:3], 1), np.float32)
    return np.stack([geometry.warp(image_map, inverse) for image_map in maps]), geometry.warp(ones, inverse)


def _apply_view(images: np.ndarray, view: ImageView) -> np.ndarray:
    if view.matrix is not None:
        images = np.stack([geometry.warp(image, view.matrix) for image in images])
    if not view.color_change.is_identity:
        images = images.copy() if view.matrix is None else images
        for image in images:
            color.apply_color(image, view.color_change)
    return np.ascontiguousarray(_mirror(np.rot90(images, view.quarters, axes=(1, 2)), view))


def _mirror(batch: np.ndarray, view: ImageView) -> np.ndarray:
    return batch[:, :: -1 if view.mirror_y else 1, :: -1 if view.mirror_x else 1]
