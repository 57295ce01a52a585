"""Mix the images of one batch, with their masks and labels: MixUp, CutMix and copy-paste.

Each image draws whether it is mixed, and with which other image. It is mixed at most once, by the first step that
applies. Partners are images of the same batch, and so of the same training folds, as they were before any mixing.

MixUp blends masks as well, into shares. Batches that mask networks train on with it therefore hold levels of 255 even
where masks of records are 0 or 1, see `Experiment.has_soft_masks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.config import CopyPaste, Mix
from gatemask.input.augment import BATCH_STEPS, AugmentationStep
from gatemask.input.layout import ONE_CLASS, Layout


class ImageBatch(NamedTuple):
    """A batch of images with their targets.

    Args:
        images: Images, uint8 (b, h, w, channels).
        masks: Masks, uint8 (b, h, w, planes), 0 or 1, or 0 to 255 where they are soft; None if they are not needed.
        labels: Share of a mask in each image: of any class, float32 (b, 1), or of each, (b, classes); 0 or 1 before
            mixing.
    """

    images: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray


def mixing_needs_masks(steps: Sequence[AugmentationStep]) -> bool:
    """Return whether labels are derived from masks after mixing."""
    return any(step.name in ("cutmix", "copy_paste") for step in steps)


def mix_batch(
    batch: ImageBatch,
    steps: Sequence[AugmentationStep],
    rng: np.random.Generator,
    layout: Layout = ONE_CLASS,
    soft_masks: bool = False,
) -> ImageBatch:
    """Mix a batch by the `mixup`, `cutmix` and `copy_paste` steps among `steps`.

    MixUp (Zhang 2017) blends images, labels and masks by a share drawn from Beta(alpha, alpha). Pixels that either
    image ignores are ignored. Of a gate, whose masks only figures show, the mask is the union of both. CutMix (Yun
    2019) pastes a window of the partner, whose area is drawn in the same way, with its mask. Copy-paste (Ghiasi 2021)
    pastes what a partner's mask shows, with its mask; the partner is drawn from the images of the batch that show any.

    After CutMix and copy-paste, a label is 1 if a mask of its class, or of any, is visible. If an image of label 1 has
    no such mask (it vanished at this size, or was moved out of view), that cannot be decided and nothing is pasted.

    Args:
        batch: Batch to mix; its arrays are not modified.
        steps: All steps of `augment:`.
        rng: Random generator.
        layout: Planes of the masks. Default: one class.
        soft_masks: Whether masks are blended, and the new batch holds levels of 255. Default: False.

    Returns:
        A new batch, or `batch` itself if there is nothing to change.
    """
    batch_steps = [step for step in steps if step.name in BATCH_STEPS]
    count = len(batch.images)
    if soft_masks and batch.masks is not None and not layout.soft:
        layout = replace(layout, soft=True)
        batch = batch._replace(masks=batch.masks * np.uint8(layout.full))
    if not batch_steps or count < 2:
        return batch
    masks = None if batch.masks is None else batch.masks.copy()
    mixed = ImageBatch(batch.images.copy(), masks, batch.labels.copy())
    mixer = _Mixer(batch, mixed, layout, soft_masks)
    is_mixed = np.zeros(count, bool)
    for name, settings in batch_steps:
        for index in range(count):
            applies, arguments = _draw(name, settings, rng, index, count)
            if not applies or is_mixed[index]:
                continue
            is_mixed[index] = True
            if name == "mixup":
                mixer.blend(index, arguments)
            elif name == "cutmix":
                mixer.paste_window(index, arguments)
            else:
                mixer.paste_objects(index, arguments, settings)
    return mixed


class _Drawn(NamedTuple):
    """Random numbers of an image.

    Args:
        partner: Index of the partner, of all images of the batch.
        share: Share of the image itself, 0 to 1.
        numbers: Further numbers, in [0, 1).
    """

    partner: int
    share: float
    numbers: np.ndarray


def _draw(
    name: str, settings: Mix | CopyPaste, rng: np.random.Generator, index: int, count: int
) -> tuple[bool, _Drawn]:
    """Draw whether a step applies to an image, and its numbers. Their number depends on the name of the step alone."""
    chance = rng.random()
    if isinstance(settings, CopyPaste):
        return chance < settings.p, _Drawn(index, 1.0, rng.random(3))
    partner = (index + int(rng.integers(1, count))) % count
    share = float(rng.beta(settings.alpha, settings.alpha))
    return chance < settings.p, _Drawn(partner, share, rng.random(2))


class _Mixer:
    """Changes of single images.

    Args:
        batch: The batch as it was.
        mixed: Its copy, which is changed.
        layout: Planes of the masks of both.
        soft_masks: Whether masks are blended.
    """

    def __init__(self, batch: ImageBatch, mixed: ImageBatch, layout: Layout, soft_masks: bool) -> None:
        self._batch, self._mixed, self._layout, self._soft = batch, mixed, layout, soft_masks
        self._shown: list[int] | None = None  # images that show a mask

    def blend(self, index: int, drawn: _Drawn) -> None:
        """Blend `share` of the image with the rest of its partner."""
        batch, mixed, (partner, share, _) = self._batch, self._mixed, drawn
        out = mixed.images[index]
        out[:] = cv2.addWeighted(batch.images[index], share, batch.images[partner], 1 - share, 0).reshape(out.shape)
        mixed.labels[index] = share * batch.labels[index] + (1 - share) * batch.labels[partner]
        if batch.masks is None or mixed.masks is None:
            return
        own, other, out = batch.masks[index], batch.masks[partner], mixed.masks[index]
        if not self._soft:
            np.maximum(own, other, out=out)
            return
        out[:] = cv2.addWeighted(own, share, other, 1 - share, 0).reshape(out.shape)
        if self._layout.ignored:
            np.maximum(own[..., -1], other[..., -1], out=out[..., -1])

    def paste_window(self, index: int, drawn: _Drawn) -> None:
        """Replace a window of 1 - `share` of the area by the same window of the partner."""
        if not (self._is_decided(index) and self._is_decided(drawn.partner)):
            return
        images, masks = self._batch.images, self._batch.masks
        assert masks is not None and self._mixed.masks is not None
        size = np.array(images.shape[1:3])
        height, width = (round(side * (1 - drawn.share) ** 0.5) for side in size.tolist())
        x, y = (drawn.numbers * (size[1] - width + 1, size[0] - height + 1)).astype(int).tolist()
        window = np.s_[y : y + height, x : x + width]
        self._mixed.images[index][window] = images[drawn.partner][window]
        self._mixed.masks[index][window] = masks[drawn.partner][window]
        self._set_label(index)

    def paste_objects(self, index: int, drawn: _Drawn, settings: CopyPaste) -> None:
        """Paste what the mask of a partner shows, at its place there, or mirrored."""
        choice, x, y = drawn.numbers.tolist()
        partners = [image for image in self._partners() if image != index]
        if not partners or not self._is_decided(index):
            return
        partner = partners[int(choice * len(partners))]
        mirror = np.s_[:: -1 if y < settings.vflip else 1, :: -1 if x < settings.hflip else 1]
        assert self._batch.masks is not None and self._mixed.masks is not None
        image, mask = self._batch.images[partner][mirror], self._batch.masks[partner][mirror]
        region = (mask[..., : self._layout.outputs] >= self._layout.half).any(axis=2)
        out, out_mask = self._mixed.images[index], self._mixed.masks[index]
        if settings.feather:
            share = cv2.GaussianBlur(region.astype(np.float32), (0, 0), settings.feather)[..., None]
            out[:] = (share * image + (1 - share) * out).round()
        else:
            out[region] = image[region]
        out_mask[region] = mask[region]
        self._set_label(index)

    def _partners(self) -> list[int]:
        """Images whose mask shows a class, and whose label says so: the others cannot be decided."""
        if self._shown is None:
            masks = self._batch.masks
            assert masks is not None
            shown = (masks[..., : self._layout.classes] >= self._layout.half).any(axis=(1, 2, 3))
            self._shown = [image for image in np.flatnonzero(shown).tolist() if self._is_decided(image)]
        return self._shown

    def _is_decided(self, index: int) -> bool:
        """Whether the mask of an image shows each class that its label names."""
        labels = self._batch.labels[index]
        return not ((labels > 0) & ~self._visible(self._batch, index)).any()

    def _set_label(self, index: int) -> None:
        self._mixed.labels[index] = self._visible(self._mixed, index)

    def _visible(self, batch: ImageBatch, index: int) -> np.ndarray:
        """Whether a mask shows each class, bool (classes,), or any, (1,), for a single label."""
        assert batch.masks is not None
        mask = batch.masks[index, :, :, : self._layout.classes] >= self._layout.half
        return np.asarray(mask.any(axis=(0, 1)) if batch.labels.shape[1] > 1 else [mask.any()])
