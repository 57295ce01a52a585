"""What a built model says of a batch, test-time augmentation averaged in: one path for out-of-fold and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import cv2
import numpy as np

from gatemask.config import Augment, View
from gatemask.input import color, geometry
from gatemask.input.augment import augmentation_steps, draw_parameters
from gatemask.input.color import ColorChange

SEED = 20200902  # the same views for out-of-fold and test, in every run
# What can be undone, and leaves all of the image to be seen.
KEPT = ("hflip", "vflip", "turn", "affine", *color.TONE_STEPS)


class BatchPredictor(Protocol):
    """All that is asked of a model."""

    def predict_on_batch(self, images: Any) -> Any: ...


@dataclass(frozen=True, eq=False)
class ImageView:
    """One view of an image: how it is changed before the model sees it.

    Args:
        columns, rows: mirrored left and right, up and down, which costs and loses nothing.
        matrix: 3 x 3, from the image's pixels to the view's; None where nothing is warped.
        colour: tones.
        weight: in the average over views.
    """

    columns: bool = False
    rows: bool = False
    matrix: np.ndarray | None = None
    color: ColorChange = field(default_factory=ColorChange)
    weight: float = 1.0


PLAIN = ImageView()


def build_views(
    tta: Sequence[View], augment: Sequence[Augment], size: int, weights: Sequence[float] | None = None
) -> list[ImageView]:
    """What `tta:` asks for, as it is done to images of `size` pixels; the image as it is comes first.

    Args:
        tta: of the experiment.
        augment: of the experiment: random views are drawn from its flips, turns, affine steps and tones, with a seed
            of their own, so that every image, and every run, has the same ones.
        size: of the input.
        weights: of the views, the image as it is first; those of 0 are left out. Equal where there are none.
    """
    found, rng = [PLAIN], np.random.default_rng(SEED)
    steps = [(name, settings) for name, settings in augmentation_steps(augment) if name in KEPT]
    for view in tta:
        if view.random:
            found += [_drawn(steps, size, rng) for _ in range(view.random)]
            continue
        scale = view.scale or 1.0
        matrix = None if scale == 1 else geometry.linear_map_about_center(size, scale, 0, 0, scale)
        found.append(ImageView(view.hflip, view.vflip, matrix))
    if weights is None:
        return found
    return [replace(view, weight=weight) for view, weight in zip(found, weights, strict=True) if weight]


def _drawn(steps: list[tuple[str, Any]], size: int, rng: np.random.Generator) -> ImageView:
    where, how = draw_parameters(steps, geometry.resize_geometry((size, size), size), rng)
    return ImageView(matrix=None if np.array_equal(where.moves, np.eye(3)) else where.moves, color=how)


def predict_averaged(model: BatchPredictor, images: np.ndarray, seen: Sequence[ImageView] = (PLAIN,)) -> np.ndarray:
    """Probabilities of one batch, averaged over views.

    Args:
        model: of `builders.models.build`; only ever sees batches of the shape of `images`.
        images: uint8 (b, s, s, channels); keep b the same, or the model is traced again.
        seen: of `build_views`; the first one must show the whole image.

    Returns:
        float32, (b, 1) for a gate, (b, s, s, classes) for masks. Maps are brought back to the image's own pixels; a
        view counts only where it shows the pixel.
    """
    total: Any = 0.0
    weight: Any = 0.0
    for view in seen:
        found, covered = _by_view(model, images, view)
        total, weight = total + view.weight * found, weight + view.weight * covered
    return np.asarray(total / weight, np.float32)


def predict_per_view(
    model: BatchPredictor, images: np.ndarray, seen: Sequence[ImageView]
) -> tuple[np.ndarray, np.ndarray]:
    """Maps of one batch, averaged over views as `predict` does, and those of each view.

    Args:
        seen: views that all show the whole image.

    Returns:
        float32 (b, s, s, classes), and (b, s, s, views * classes), a view after the other.
    """
    parts = [_by_view(model, images, view) for view in seen]
    total = sum(view.weight * found for view, (found, _) in zip(seen, parts, strict=True))
    weight = sum(view.weight * covered for view, (_, covered) in zip(seen, parts, strict=True))
    apart = np.concatenate([found / covered for found, covered in parts], axis=3)
    return np.asarray(total / weight, np.float32), np.asarray(apart, np.float32)


def _by_view(model: BatchPredictor, images: np.ndarray, view: ImageView) -> tuple[np.ndarray, Any]:
    """What the model says of one view, brought back to the image's own pixels, and how much of each the view showed."""
    found = np.asarray(model.predict_on_batch(_show(images, view)), np.float32)
    if found.ndim != 4:
        return found, 1.0
    found = _mirror(found, view)
    if view.matrix is None:
        return found, 1.0
    back, ones = np.linalg.inv(view.matrix), np.ones(found.shape[1:3], np.float32)
    return np.stack([_warp(one, back) for one in found]), _warp(ones[:, :, None], back)


def _show(images: np.ndarray, view: ImageView) -> np.ndarray:
    """The batch as a view shows it; tones before mirrors, which is the same."""
    if view.matrix is not None:
        images = np.stack([_warp(image, view.matrix) for image in images])
    if view.color.changes:
        images = images.copy() if view.matrix is None else images
        for image in images:
            color.apply_color(image, view.color)
    return np.ascontiguousarray(_mirror(images, view))


def _mirror(batch: np.ndarray, view: ImageView) -> np.ndarray:
    return batch[:, :: -1 if view.rows else 1, :: -1 if view.columns else 1]


def _warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Resampled once; what comes from outside is 0."""
    size = image.shape[:2]
    return cv2.warpAffine(image, matrix[:2], size[::-1], flags=cv2.INTER_LINEAR).reshape(image.shape)
