"""Examples, and how to fill a batch from them; the same in threads and in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gatemask.data.example import EncodedExample
from gatemask.input.augment import AugmentationStep, CropOfInput, augment_into, draw_numbers
from gatemask.input.decoding import Decoder
from gatemask.input.geometry import CROP_NUMBERS, Crop
from gatemask.input.mix import ImageBatch, mix_batch

ALIGNMENT = 64  # bytes: TensorFlow and JAX copy arrays that start anywhere else


@dataclass(frozen=True)
class BatchPlan:
    """Which batches to make. A batch depends on nothing but this plan, its number and the source.

    Args:
        order: Examples of all batches, one per slot, as indices; int64 (batches * batch_size,).
        batch_size: Images per batch.
        seed: Seed and epoch.
        numbers: Numbers of the batches to make, in order.
    """

    order: np.ndarray
    batch_size: int
    seed: tuple[int, int]
    numbers: range

    def indices(self, number: int, slots: range) -> list[int]:
        """Return the examples of some slots of a batch."""
        first = number * self.batch_size
        indices: list[int] = self.order[first + slots.start : first + slots.stop].tolist()
        return indices

    def batch_seed(self, number: int) -> tuple[int, ...]:
        """Return the seed of a batch."""
        return (*self.seed, number)


@dataclass(frozen=True)
class RecordSource:
    """Examples, and how to turn them into a batch.

    Args:
        examples: Encoded examples.
        decoder: Decoder for the experiment's input size and the layout of the records.
        steps: Augmentation steps.
        with_masks: Whether batches contain masks.
        labels: Number of labels per image: 1 for any class, or one for each.
        soft_masks: Whether MixUp blends masks, and 255 means 1 in them. Default: False.
        crop: Crops of the input that batches hold. Default: the whole input.
    """

    examples: Sequence[EncodedExample]
    decoder: Decoder
    steps: Sequence[AugmentationStep]
    with_masks: bool
    labels: int = 1
    soft_masks: bool = False
    crop: Crop | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images of a batch, in pixels."""
        return self.decoder.size if self.crop is None else self.crop.size

    @property
    def decodes_masks(self) -> bool:
        """Whether masks are needed: zooming to a mask needs it, even if the batch does not."""
        return self.with_masks or any(step.name == "zoom_to_mask" for step in self.steps)

    def batch_bytes(self, batch_size: int) -> int:
        """Return the size of the memory of a batch, in bytes."""
        return sum(_aligned(size) for size in self._sizes(batch_size))

    def batch_in(self, memory: np.ndarray, batch_size: int) -> ImageBatch:
        """Return a batch whose arrays lie in the given memory.

        Args:
            memory: Memory of `batch_bytes`, uint8, that starts at a multiple of `ALIGNMENT`. The arrays keep it alive.
            batch_size: Images per batch.
        """
        parts, start = [], 0
        for size in self._sizes(batch_size):
            parts.append(memory[start : start + size])
            start += _aligned(size)
        shape, layout = (batch_size, *self.shape), self.decoder.layout
        images = parts[0].reshape(*shape, layout.channels)
        masks = parts[1].reshape(*shape, layout.planes) if self.with_masks else None
        return ImageBatch(images, masks, parts[2].view(np.float32).reshape(batch_size, self.labels))

    def allocate(self, batch_size: int) -> ImageBatch:
        """Return an uninitialized batch."""
        return self.batch_in(aligned_empty(self.batch_bytes(batch_size)), batch_size)

    def fill(self, batch: ImageBatch, slots: range, indices: Sequence[int], seed: Sequence[int]) -> None:
        """Write augmented examples into some slots of a batch.

        Args:
            batch: Batch to write to.
            slots: Positions in the batch.
            indices: Positions in `examples`, one per slot.
            seed: Seed of the batch, the same for all of its slots.
        """
        numbers = draw_numbers(self.steps, np.random.default_rng(seed), len(batch.images))
        crops = None if self.crop is None else _draw_crops(seed, len(batch.images))
        for slot, index in zip(slots, indices, strict=True):
            crop = None
            if self.crop is not None and crops is not None:
                crop = CropOfInput(self.decoder.size, self.crop, crops[slot])
            self._fill_slot(batch, slot, index, numbers[slot], crop)

    def mix(self, batch: ImageBatch, seed: Sequence[int]) -> ImageBatch:
        """Return the batch after the steps that mix images.

        Args:
            batch: A full batch.
            seed: Seed of the batch.
        """
        # One more number, so that this generator differs from that of `fill`.
        rng = np.random.default_rng([*seed, 1])
        return mix_batch(batch, self.steps, rng, self.decoder.layout, self.soft_masks)

    def _fill_slot(
        self, batch: ImageBatch, slot: int, index: int, numbers: np.ndarray, crop: CropOfInput | None
    ) -> None:
        example, layout = self.examples[index], self.decoder.layout
        image, mask = self.decoder.decode(example, self.decodes_masks)
        out_mask = None if batch.masks is None else batch.masks[slot]
        augment_into(image, mask, self.steps, numbers, batch.images[slot], out_mask, layout, crop)
        batch.labels[slot] = example.label > 0 if self.labels == 1 else layout.present(example.label)

    def _sizes(self, batch_size: int) -> tuple[int, int, int]:
        """Return the bytes of images, masks and labels."""
        height, width = self.shape
        plane, layout = batch_size * height * width, self.decoder.layout
        masks = plane * layout.planes if self.with_masks else 0
        return plane * layout.channels, masks, batch_size * self.labels * np.dtype(np.float32).itemsize


def _draw_crops(seed: Sequence[int], count: int) -> np.ndarray:
    """Random numbers of crops, float64 (count, numbers), of a generator of their own: steps are drawn as without."""
    return np.random.default_rng([*seed, 2]).random((count, CROP_NUMBERS))


def aligned_empty(size: int) -> np.ndarray:
    """Return uninitialized memory, uint8 (size,), that starts at a multiple of `ALIGNMENT`."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
