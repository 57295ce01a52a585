"""Recognize torn masks: a wrong dialect that decodes without an error must not pass silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from gatemask.config import Rle
from gatemask.console import say
from gatemask.data import rle_dialect, rle_size
from gatemask.data.parsed_labels import ImageSizes
from gatemask.data.readers import read_image
from gatemask.data.truth import IGNORED, Annotation
from gatemask.errors import GatemaskError
from gatemask.masks import rle

SAMPLED_MASKS, SAMPLED_IMAGES = 2000, 40
FEWEST_IMAGES = 8
# In another dialect, outlines must fit edges better by this much, and that by so many standard errors.
BETTER, SIGNIFICANT = 0.2, 4.0


def reject_torn_masks(texts: Sequence[tuple[str, str]], dialect: Rle, sizes: ImageSizes, file: Path) -> None:
    """Raise if runs cross the edges of columns or rows that they avoid in another dialect or size.

    Args:
        texts: Image id and encoding of each mask.
        dialect: The dialect in which they decode.
        sizes: Sizes of the images.
        file: The label table, for the message.

    Raises:
        GatemaskError: The masks would be torn.
    """
    sound = [(image_id, text) for image_id, text in texts if rle_dialect.RUNS.fullmatch(text)]
    if not sound:
        return
    sound = sound[:: -(-len(sound) // SAMPLED_MASKS)]
    encodings = [rle_dialect.parse_pairs(text) for _, text in sound]
    reason = rle_dialect.contradicting_edges(encodings, dialect, [sizes.of(image_id) for image_id, _ in sound])
    if reason is None and sizes.common is not None:
        runs = rle_dialect.plausible_runs([text for _, text in sound], dialect.offsets)
        reason = rle_size.contradicts(runs, sizes.common) if runs else None
    if reason is not None:
        raise GatemaskError(
            "The run-length encodings do not fit the images: masks would be torn.",
            where=file,
            received=reason,
            expected=f"base {dialect.base} and {dialect.order} order, as labels.rle says"
            + (f", and images of {sizes.common[0]} x {sizes.common[1]} px" if sizes.common else ""),
            do=f"Run gatemask data labels {file} to find offsets, base, order and size. Then correct competition.yaml.",
        )


def compare_with_images(
    masks: Mapping[str, Sequence[Annotation]], files: Mapping[str, Path], sizes: ImageSizes, dialect: Rle
) -> None:
    """Compare the outlines of masks with the edges of their images: in the other order, and one pixel further.

    Runs alone cannot tell rows from columns of a square, nor the first pixel if no mask touches an edge.

    Args:
        masks: Masks by image id.
        files: File of each image by id.
        sizes: Sizes of the images.
        dialect: The dialect of the table.

    Raises:
        GatemaskError: The order of the pixels must be wrong.
    """
    other: Literal["column", "row"] = "row" if dialect.order == "column" else "column"
    same_order = rle.INTERNAL.model_copy(update={"order": dialect.order})
    by_order, by_base = list[float](), list[float]()
    masked = [image_id for image_id in masks if image_id in files and masks[image_id] and sizes.get(image_id)]
    for image_id in masked[:: max(1, len(masked) // SAMPLED_IMAGES)][:SAMPLED_IMAGES]:
        mask = _united(masks[image_id], sizes.of(image_id))
        try:
            found = rle_dialect.outline_contrast(files[image_id], rle.encode(mask, same_order), mask.shape, same_order)
            if found is not None:
                by_order.append(found[other] - found[dialect.order])
                by_base.append(_gain_of_other_base(read_image(files[image_id], 1)[:, :, 0], mask, dialect))
        except GatemaskError:
            continue  # it is reported elsewhere
    if _is_better(by_order):
        raise GatemaskError(
            "The masks do not fit the images: rows and columns seem to be swapped.",
            where="competition.yaml, labels.rle.order",
            received=f"{dialect.order}; in {len(by_order)} images, outlines follow edges better in {other} order",
            expected=f"order: {other}",
            do="Correct labels.rle.order.",
        )
    if _is_better(by_base):
        say(
            f"Masks seem to be one pixel off: in {len(by_base)} images, their outlines fit edges better if the first "
            f"pixel is {1 - dialect.base}. Verify labels.rle.base, which is {dialect.base}."
        )


def _united(annotations: Sequence[Annotation], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for annotation in annotations:
        if annotation.class_name != IGNORED:
            mask |= rle.decode(annotation.rle, size)
    return mask


def _gain_of_other_base(image: np.ndarray, mask: np.ndarray, dialect: Rle) -> float:
    """Return how much stronger steps of gray levels are at the ends of runs if these move by one pixel.

    The difference is a multiple of the average step. Masks that are too large or too small gain nothing: one end of a
    run improves as the other one gets worse.
    """
    layout: Literal["F", "C"] = "F" if dialect.order == "column" else "C"
    flat, inside = image.ravel(order=layout).astype(np.float32), mask.ravel(order=layout)
    steps = np.abs(np.diff(flat))
    ends = np.flatnonzero(inside[1:] != inside[:-1])
    moved = ends + (1 if dialect.base == 1 else -1)  # counted from 0, pixels would come one later
    valid = (moved >= 0) & (moved < len(steps))
    if not valid.any():
        return 0.0
    return float((steps[moved[valid]] - steps[ends[valid]]).mean() / max(float(steps.mean()), 1e-6))


def _is_better(gains: Sequence[float]) -> bool:
    """Whether gains are large, and no accident."""
    if len(gains) < FEWEST_IMAGES:
        return False
    mean, error = float(np.mean(gains)), float(np.std(gains)) / len(gains) ** 0.5
    return mean >= BETTER and mean >= SIGNIFICANT * error
