"""Recognize torn and transposed masks: a wrong dialect that decodes without an error must not pass silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gatemask.config import Rle
from gatemask.data import rle_dialect, rle_size
from gatemask.data.parsed_labels import ImageSizes
from gatemask.data.truth import IGNORED, Annotation
from gatemask.errors import GatemaskError
from gatemask.masks import rle

SAMPLED_MASKS, SAMPLED_IMAGES = 2000, 40
FEWEST_IMAGES = 8
# Transposed masks must follow the edges of their images better by this much, and that by so many standard errors.
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


def reject_transposed_masks(
    masks: Mapping[str, Sequence[Annotation]], files: Mapping[str, Path], sizes: ImageSizes, dialect: Rle
) -> None:
    """Raise if the outlines of masks follow the edges of square images only after rows and columns are swapped.

    Runs alone cannot tell rows from columns of a square.

    Args:
        masks: Masks by image id.
        files: File of each image by id.
        sizes: Sizes of the images.
        dialect: The dialect of the table.

    Raises:
        GatemaskError: The order of the pixels must be wrong.
    """
    gains = []
    square = [i for i in masks if i in files and masks[i] and (size := sizes.get(i)) and size[0] == size[1]]
    for image_id in square[:: max(1, len(square) // SAMPLED_IMAGES)][:SAMPLED_IMAGES]:
        mask = np.zeros(sizes.of(image_id), bool)
        for annotation in masks[image_id]:
            if annotation.class_name != IGNORED:
                mask |= rle.decode(annotation.rle, mask.shape)
        try:
            found = rle_dialect.outline_contrast(files[image_id], rle.encode(mask), mask.shape, rle.INTERNAL)
        except GatemaskError:
            continue  # it is reported elsewhere
        if found is not None:
            gains.append(found["row"] - found["column"])
    if len(gains) < FEWEST_IMAGES:
        return
    mean, error = float(np.mean(gains)), float(np.std(gains)) / len(gains) ** 0.5
    if mean < BETTER or mean < SIGNIFICANT * error:
        return
    other = "row" if dialect.order == "column" else "column"
    raise GatemaskError(
        "The masks do not fit the images: rows and columns seem to be swapped.",
        where="competition.yaml, labels.rle.order",
        received=f"{dialect.order}; in {len(gains)} images, outlines of masks follow edges better in {other} order",
        expected=f"order: {other}",
        do="Correct labels.rle.order.",
    )
