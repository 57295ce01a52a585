"""MixUp and CutMix for gates: images of one batch, blended or pasted into each other, and their labels with them.

Each image draws for itself whether it is mixed, and with which other one; it takes part once at most, in the first step
whose turn comes. Partners are taken as they were before anything was mixed.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from gatemask.config import Mix
from gatemask.input.augment import BATCH_STEPS, AugmentationSteps


class ImageBatch(NamedTuple):
    """uint8 (b, s, s, c), uint8 (b, s, s, 1) 0 or 1 (None where they came as None), float32 (b, 1)."""

    images: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray


def mixing_needs_masks(steps: AugmentationSteps) -> bool:
    """Whether labels will follow masks."""
    return any(name == "cutmix" for name, _ in steps)


def mix_batch(
    images: np.ndarray, masks: np.ndarray | None, labels: np.ndarray, steps: AugmentationSteps, rng: np.random.Generator
) -> ImageBatch:
    """Mix a batch as the `mixup` and `cutmix` among `steps` say.

    Args:
        images: uint8 (b, s, s, channels); left as they are.
        masks: uint8 (b, s, s, 1), 0 or 1; may be None without cutmix.
        labels: float32 (b, 1).
        steps: of `augmentation_steps`.
        rng: decides.

    Returns:
        MixUp (Zhang 2017) blends images and labels by a share from Beta(alpha, alpha); its mask, for those who want to
        see one, is where either image has one. CutMix (Yun 2019) pastes a window of the partner, whose area is drawn in
        the same way, and the label says whether any mask can still be seen. Where that cannot be known, since an image
        of label 1 has no mask left (it vanished at this size, or was moved out of sight), nothing is pasted.
    """
    chosen = [(name, settings) for name, settings in steps if name in BATCH_STEPS]
    count = len(images)
    if not chosen or count < 2:
        return ImageBatch(images, masks, labels)
    after = ImageBatch(images.copy(), None if masks is None else masks.copy(), labels.copy())
    before, free = ImageBatch(images, masks, labels), np.ones(count, bool)
    for name, settings in chosen:
        for one in range(count):
            drawn, other, share = rng.random(), (one + int(rng.integers(1, count))) % count, _share(settings, rng)
            place = rng.random(2)
            if drawn < settings.p and free[one]:
                free[one] = False
                if name == "mixup":
                    _blend(before, after, one, other, share)
                else:
                    _paste(before, after, one, other, share, place)
    return after


def _share(settings: Mix, rng: np.random.Generator) -> float:
    return float(rng.beta(settings.alpha, settings.alpha))


def _blend(before: ImageBatch, after: ImageBatch, one: int, other: int, share: float) -> None:
    """`share` of the image itself, the rest of the other."""
    target = after.images[one]
    target[:] = cv2.addWeighted(before.images[one], share, before.images[other], 1 - share, 0).reshape(target.shape)
    after.labels[one] = share * before.labels[one] + (1 - share) * before.labels[other]
    if before.masks is not None and after.masks is not None:
        np.maximum(before.masks[one], before.masks[other], out=after.masks[one])


def _paste(before: ImageBatch, after: ImageBatch, one: int, other: int, share: float, place: np.ndarray) -> None:
    """A window of 1 - `share` of the area comes from the other image, from the same place."""
    assert before.masks is not None and after.masks is not None
    if any(before.labels[i, 0] > 0 and not before.masks[i].any() for i in (one, other)):
        return
    size = before.images.shape[1]
    side = round(size * (1 - share) ** 0.5)
    x, y = (place * (size - side + 1)).astype(int).tolist()
    window = np.s_[y : y + side, x : x + side]
    after.images[one][window] = before.images[other][window]
    after.masks[one][window] = before.masks[other][window]
    after.labels[one] = after.masks[one].any()
