"""Augment uint8 images and their masks with OpenCV.

All geometric steps of an image are composed and resampled once; color steps follow. Each kind acts in the order of the
YAML. Random numbers are drawn for a whole batch at once. Every step takes its fixed share of them whether or not it is
applied, so changing one step's probability leaves the other steps as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gatemask.config import Augment
from gatemask.input import color, geometry
from gatemask.input.color import ColorChange
from gatemask.input.geometry import Crop, Geometry
from gatemask.input.layout import Layout
from gatemask.masks.frame import finish_levels, resize

BATCH_STEPS = ("mixup", "cutmix", "copy_paste")  # act on batches, see mix.py


class AugmentationStep(NamedTuple):
    """One step of `augment:`, by name.

    Args:
        name: Field of `config.Augment`.
        settings: Value of that field: a number, a range, or a section such as `config.Affine`.
    """

    name: str
    settings: Any


class CropOfInput(NamedTuple):
    """A crop of the input, by its random numbers.

    Args:
        whole: Height and width of the whole input, in pixels.
        crop: Size of the crop, and share of those that show a mask.
        numbers: Random numbers, float64 (`geometry.CROP_NUMBERS`,), uniform in [0, 1).
    """

    whole: tuple[int, int]
    crop: Crop
    numbers: np.ndarray


def augmentation_steps(augment: Sequence[Augment]) -> list[AugmentationStep]:
    """Return the steps that an experiment's `augment:` lists, in order."""
    fields = (AugmentationStep(name, getattr(entry, name)) for entry in augment for name in Augment.model_fields)
    return [step for step in fields if step.settings is not None]


def draw_numbers(steps: Sequence[AugmentationStep], rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw the random numbers of several images.

    Args:
        steps: Steps of `augment:`.
        rng: Random generator.
        count: Number of images.

    Returns:
        Numbers from a uniform distribution in [0, 1), float64 (count, n): one row per image. How many a row has follows
        from the names and settings of the steps alone.
    """
    return rng.random((count, sum(map(_share, steps))))


def _share(step: AugmentationStep) -> int:
    """Number of random numbers that a step takes per image. Steps on batches have a generator of their own."""
    kind = geometry.GEOMETRY_STEPS.get(step.name) or color.COLOR_STEPS.get(step.name)
    return kind.count(step.settings) if kind else 0


def augment_image(
    image: np.ndarray,
    mask: np.ndarray | None,
    size: tuple[int, int],
    augment: Sequence[Augment],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Change one image and its mask at random and bring both to the input size.

    Args:
        image: Image, uint8 (h, w, channels).
        mask: Mask, uint8 (planes, h, w), 0 or 255; None for an empty one of one plane.
        size: Height and width of the output, in pixels.
        augment: The experiment's `augment:`; steps that need a batch, such as `mixup`, are skipped.
        rng: Random generator; the same state gives the same result.

    Returns:
        The image, uint8 (height, width, channels), and the mask, uint8 (height, width, planes), 0 or 1.
    """
    planes = 1 if mask is None else len(mask)
    out, out_mask = np.empty((*size, image.shape[2]), np.uint8), np.empty((*size, planes), np.uint8)
    steps = augmentation_steps(augment)
    augment_into(*shrink_to_size(image, mask, size), steps, draw_numbers(steps, rng, 1)[0], out, out_mask)
    return out, out_mask


def shrink_to_size(
    image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resize image and mask to `size` (height, width) if neither side grows; return them unchanged otherwise.

    Warping by a matrix would skip pixels of a larger image. Resizing averages them, as evaluation and inference do.
    """
    height, width = image.shape[:2]
    if size == (height, width) or size[0] > height or size[1] > width:
        return image, mask
    if mask is None or len(mask) == 1:
        return resize(image, size), None if mask is None else resize(mask[0][:, :, None], size)[:, :, 0][None]
    return resize(image, size), np.stack([resize(plane[:, :, None], size)[:, :, 0] for plane in mask])


def augment_into(
    image: np.ndarray,
    mask: np.ndarray | None,
    steps: Sequence[AugmentationStep],
    numbers: np.ndarray,
    out: np.ndarray,
    out_mask: np.ndarray | None,
    layout: Layout | None = None,
    crop: CropOfInput | None = None,
) -> None:
    """Augment an image that `shrink_to_size` returned, into existing arrays.

    Args:
        image: Image, uint8 (h, w, channels).
        mask: Mask, uint8 (planes, h, w), 0 or 255, or levels between if it is soft; None for an empty one.
        steps: Steps to apply.
        numbers: Random numbers of the image, a row of `draw_numbers`.
        out: Receives the image, uint8 (height, width, channels), C-contiguous.
        out_mask: Receives the mask, uint8 (height, width, planes), 0 or 1, or 0 to 255 if it is soft; None to make no
            mask.
        layout: Planes of the mask. Default: masks are 0 or 1, and `zoom_to_mask` and crops look at all planes.
        crop: Crop that `out` receives, after all geometric steps. Default: `out` receives the whole image.
    """
    size = (out.shape[0], out.shape[1]) if crop is None else crop.whole
    soft, classes = layout is not None and layout.soft, None if layout is None else layout.classes
    start = geometry.resize_geometry(image.shape, size, None if mask is None else mask[:classes])
    drawn_geometry, color_change = draw_parameters(steps, start, numbers)
    if crop is not None:
        geometry.place_crop(drawn_geometry, crop.crop, crop.numbers)
    drawn_geometry.align()
    geometry.resample(image, drawn_geometry, out)
    if out_mask is not None:
        geometry.resample_mask(mask, drawn_geometry, out_mask, cut=not soft)
        if layout is not None and soft:
            finish_levels(out_mask, layout.classes, layout.ignored)
    color.apply_color(out, color_change)


def draw_parameters(
    steps: Sequence[AugmentationStep], start: Geometry, numbers: np.ndarray
) -> tuple[Geometry, ColorChange]:
    """Turn random numbers into the parameters of all steps for one image.

    Args:
        steps: Steps, in order.
        start: Geometry before the first step; modified in place.
        numbers: Random numbers of the image, a row of `draw_numbers`.

    Returns:
        `start` with the geometric steps added, and the color steps.
    """
    color_change, taken = ColorChange(), 0
    for step in steps:
        own = numbers[taken : taken + _share(step)]
        taken += len(own)
        if step.name in geometry.GEOMETRY_STEPS:
            geometry.GEOMETRY_STEPS[step.name].add(start, step.settings, own)
        elif step.name in color.COLOR_STEPS:
            color.COLOR_STEPS[step.name].add(color_change, step.settings, own)
    return start, color_change
