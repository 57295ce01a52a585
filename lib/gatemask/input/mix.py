"""Mix the images of one batch, and their labels, for gates: MixUp and CutMix.

Each image draws whether it is mixed, and with which other image. It is mixed at most once, by the first step that
applies. Partners are used as they were before any mixing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.config import Mix
from gatemask.input.augment import BATCH_STEPS, AugmentationStep
from gatemask.input.layout import ONE_CLASS, Layout


class ImageBatch(NamedTuple):
    """A batch of images with their targets.

    Args:
        images: Images, uint8 (b, h, w, channels).
        masks: Masks, uint8 (b, h, w, planes), 0 or 1, or 0 to 255 if they are soft; None if they are not needed.
        labels: Share of a mask in each image: of any class, float32 (b, 1), or of each, (b, classes); 0 or 1 before
            mixing.
    """

    images: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray


def mixing_needs_masks(steps: Sequence[AugmentationStep]) -> bool:
    """Return whether labels are derived from masks after mixing."""
    return any(step.name == "cutmix" for step in steps)


def mix_batch(
    batch: ImageBatch, steps: Sequence[AugmentationStep], rng: np.random.Generator, layout: Layout = ONE_CLASS
) -> ImageBatch:
    """Mix a batch by the `mixup` and `cutmix` steps among `steps`.

    MixUp (Zhang 2017) blends images and labels by a share drawn from Beta(alpha, alpha). Its mask, which only figures
    show, is the union of both masks. CutMix (Yun 2019) pastes a window of the partner, whose area is drawn in the same
    way; a new label is 1 if a mask of its class, or of any, is still visible. If an image of label 1 has no such mask
    left (it vanished at this size, or was moved out of view), that cannot be decided and nothing is pasted.

    Args:
        batch: Batch to mix; its arrays are not modified.
        steps: All steps of `augment:`.
        rng: Random generator.
        layout: Planes of the masks. Default: one class.

    Returns:
        A new batch, or `batch` itself if there is nothing to mix.
    """
    batch_steps = [step for step in steps if step.name in BATCH_STEPS]
    count = len(batch.images)
    if not batch_steps or count < 2:
        return batch
    masks = None if batch.masks is None else batch.masks.copy()
    mixed = ImageBatch(batch.images.copy(), masks, batch.labels.copy())
    is_mixed = np.zeros(count, bool)
    for name, settings in batch_steps:
        for index in range(count):
            chance, partner = rng.random(), (index + int(rng.integers(1, count))) % count
            share, place = _draw_share(settings, rng), rng.random(2)
            if chance >= settings.p or is_mixed[index]:
                continue
            is_mixed[index] = True
            if name == "mixup":
                _blend(batch, mixed, index, partner, share)
            else:
                _paste(batch, mixed, index, partner, share, place, layout)
    return mixed


def _draw_share(settings: Mix, rng: np.random.Generator) -> float:
    return float(rng.beta(settings.alpha, settings.alpha))


def _blend(batch: ImageBatch, mixed: ImageBatch, index: int, partner: int, share: float) -> None:
    """Blend `share` of the image with the rest of its partner."""
    out = mixed.images[index]
    out[:] = cv2.addWeighted(batch.images[index], share, batch.images[partner], 1 - share, 0).reshape(out.shape)
    mixed.labels[index] = share * batch.labels[index] + (1 - share) * batch.labels[partner]
    if batch.masks is not None and mixed.masks is not None:
        np.maximum(batch.masks[index], batch.masks[partner], out=mixed.masks[index])


def _paste(
    batch: ImageBatch, mixed: ImageBatch, index: int, partner: int, share: float, place: np.ndarray, layout: Layout
) -> None:
    """Replace a window of 1 - `share` of the area by the same window of the partner."""
    assert batch.masks is not None and mixed.masks is not None
    labels = batch.labels.shape[1]
    if any(((batch.labels[i] > 0) & ~_visible(batch.masks[i], labels, layout)).any() for i in (index, partner)):
        return
    size = np.array(batch.images.shape[1:3])
    height, width = (round(side * (1 - share) ** 0.5) for side in size.tolist())
    x, y = (place * (size[1] - width + 1, size[0] - height + 1)).astype(int).tolist()
    window = np.s_[y : y + height, x : x + width]
    mixed.images[index][window] = batch.images[partner][window]
    mixed.masks[index][window] = batch.masks[partner][window]
    mixed.labels[index] = _visible(mixed.masks[index], labels, layout)


def _visible(planes: np.ndarray, labels: int, layout: Layout) -> np.ndarray:
    """Return whether a mask (h, w, planes) shows each class, bool (classes,), or any, (1,), for a single label."""
    mask = planes[:, :, : layout.classes] >= layout.half
    return np.asarray(mask.any(axis=(0, 1)) if labels > 1 else [mask.any()])
