"""Recognize torn masks: a wrong dialect that decodes without an error must not pass silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from gatemask.config import Rle
from gatemask.data import rle_dialect, rle_size
from gatemask.data.parsed_labels import ImageSizes
from gatemask.data.truth import IGNORED, Annotation
from gatemask.errors import GatemaskError
from gatemask.masks import rle

SAMPLED_MASKS, SAMPLED_IMAGES = 2000, 40
FEWEST_IMAGES = 8
# In the other order, outlines must follow edges better by this much, and that by so many standard errors.
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


def reject_wrong_order(
    masks: Mapping[str, Sequence[Annotation]], files: Mapping[str, Path], sizes: ImageSizes, dialect: Rle
) -> None:
    """Raise if the outlines of masks follow the edges of their images only in the other order of pixels.

    Runs alone cannot tell rows from columns of a square, nor of images with large masks.

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
    gains = []
    masked = [image_id for image_id in masks if image_id in files and masks[image_id] and sizes.get(image_id)]
    for image_id in masked[:: max(1, len(masked) // SAMPLED_IMAGES)][:SAMPLED_IMAGES]:
        size = sizes.of(image_id)
        mask = np.zeros(size, bool)
        for annotation in masks[image_id]:
            if annotation.class_name != IGNORED:
                mask |= rle.decode(annotation.rle, size)
        try:
            found = rle_dialect.outline_contrast(files[image_id], rle.encode(mask, same_order), size, same_order)
        except GatemaskError:
            continue  # it is reported elsewhere
        if found is not None:
            gains.append(found[other] - found[dialect.order])
    if len(gains) < FEWEST_IMAGES:
        return
    mean, error = float(np.mean(gains)), float(np.std(gains)) / len(gains) ** 0.5
    if mean < BETTER or mean < SIGNIFICANT * error:
        return
    raise GatemaskError(
        "The masks do not fit the images: rows and columns seem to be swapped.",
        where="competition.yaml, labels.rle.order",
        received=f"{dialect.order}; in {len(gains)} images, outlines of masks follow edges better in {other} order",
        expected=f"order: {other}",
        do="Correct labels.rle.order.",
    )
