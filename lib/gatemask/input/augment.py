"""Augmentation on uint8 images with OpenCV: all geometry resampled once, image and mask together; then the tones.

Geometric steps act in the order of the YAML, tonal ones among themselves too. Each draws its numbers whether or not
its turn comes, so that a changed probability leaves the other steps as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gatemask.config import Augment
from gatemask.data.readers import resize_image
from gatemask.input import color
from gatemask.input import geometry as geometries
from gatemask.input.color import ColorChange
from gatemask.input.geometry import Geometry

BATCH_STEPS = ("mixup", "cutmix")  # whole batches: see mix.py
AugmentationSteps = list[tuple[str, Any]]


def augmentation_steps(steps: Sequence[Augment]) -> AugmentationSteps:
    """What `augment:` lists as (name, settings)."""
    given = ((name, getattr(step, name)) for step in steps for name in Augment.model_fields)
    return [(name, settings) for name, settings in given if settings is not None]


def augment_image(
    image: np.ndarray, mask: np.ndarray | None, size: int, steps: Sequence[Augment], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One image and its mask, changed at random and brought to `size`.

    Args:
        image: uint8 (h, w, channels).
        mask: uint8 (h, w), 0 or 255; None for an empty one.
        size: pixels of the square that comes out.
        steps: what `augment:` lists; mixup and cutmix, which need a batch, are passed over.
        rng: decides; the same state gives the same result.

    Returns:
        image uint8 (size, size, channels) and mask uint8 (size, size, 1), 0 or 1.
    """
    out = np.empty((size, size, image.shape[2]), np.uint8), np.empty((size, size, 1), np.uint8)
    augment_into(*shrink_to_size(image, mask, size), augmentation_steps(steps), rng, *out)
    return out


def shrink_to_size(image: np.ndarray, mask: np.ndarray | None, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The pair at `size` where that is smaller: a matrix alone would skip pixels, so average first, as evaluation and
    inference do."""
    if size >= min(image.shape[:2]):
        return image, mask
    return resize_image(image, size), None if mask is None else resize_image(mask[:, :, None], size)[:, :, 0]


def augment_into(
    image: np.ndarray,
    mask: np.ndarray | None,
    steps: AugmentationSteps,
    rng: np.random.Generator,
    out: np.ndarray,
    out_mask: np.ndarray | None,
) -> None:
    """`augment` of a pair that was shrunk already, into C-contiguous arrays; without `out_mask`, no mask is made."""
    where, how = draw_parameters(steps, geometries.resize_geometry(image.shape, len(out), mask), rng)
    geometries.resample(image, where, out)
    if out_mask is not None:
        geometries.resample_mask(mask, where, out_mask)
    color.apply_color(out, how)


def draw_parameters(
    steps: AugmentationSteps, where: Geometry, rng: np.random.Generator
) -> tuple[Geometry, ColorChange]:
    """Let `steps` decide what becomes of an image; adds to `where`."""
    how = ColorChange()
    for name, settings in steps:
        if name in geometries.GEOMETRY_STEPS:
            geometries.GEOMETRY_STEPS[name](where, settings, rng)
        elif name in color.COLOR_STEPS:
            color.COLOR_STEPS[name](how, settings, rng)
    return where, how
