"""Turn encoded examples into batches: sampled, decoded, augmented; uint8 arrays of static shapes.

Which images an epoch shows, and how each is changed, depends only on the seed, the epoch and the number of the batch.
A training that was interrupted therefore continues with exactly the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gatemask.config import Augment, Experiment
from gatemask.data.shards import EncodedExample
from gatemask.errors import GatemaskError
from gatemask.input.augment import AugmentationStep, augment_into, augmentation_steps, draw_numbers
from gatemask.input.decoding import Decoder, shared_decoder
from gatemask.input.keras_input import Arrays, ArrayShape, KerasInput, keras_input
from gatemask.input.layout import Layout
from gatemask.input.mix import ImageBatch, mix_batch, mixing_needs_masks
from gatemask.input.sampling import sample_epoch
from gatemask.input.threads import aligned_empty, threaded_batches
from gatemask.input.wait import InputWait


@dataclass(frozen=True)
class RecordSource:
    """Examples, and how to turn them into a batch.

    Args:
        examples: Encoded examples.
        decoder: Decoder for the experiment's input size and the layout of the records.
        steps: Augmentation steps.
        with_masks: Whether batches contain masks.
        labels: Number of labels per image: 1 for any class, or one for each.
    """

    examples: Sequence[EncodedExample]
    decoder: Decoder
    steps: Sequence[AugmentationStep]
    with_masks: bool
    labels: int = 1

    def allocate(self, batch_size: int) -> ImageBatch:
        """Return an uninitialized batch."""
        shape, layout = (batch_size, *self.decoder.size), self.decoder.layout
        images = aligned_empty((*shape, layout.channels))
        masks = aligned_empty((*shape, layout.planes)) if self.with_masks else None
        return ImageBatch(images, masks, aligned_empty((batch_size, self.labels), np.float32))

    def fill_slot(self, batch: ImageBatch, slot: int, index: int, numbers: np.ndarray) -> None:
        """Write an augmented example into a batch.

        Args:
            batch: Batch to write to.
            slot: Position in the batch.
            index: Position in `examples`.
            numbers: Random numbers of this image, a row of `draw_numbers`.
        """
        example = self.examples[index]
        # Zooming to a mask needs the mask, even if the batch does not.
        decode_mask = self.with_masks or any(step.name == "zoom_to_mask" for step in self.steps)
        image, mask = self.decoder.decode(example, decode_mask)
        out_mask = None if batch.masks is None else batch.masks[slot]
        classes = self.decoder.layout.classes
        augment_into(image, mask, self.steps, numbers, batch.images[slot], out_mask, classes)
        batch.labels[slot] = example.label > 0 if self.labels == 1 else self.decoder.layout.present(example.label)

    def mix(self, batch: ImageBatch, rng: np.random.Generator) -> ImageBatch:
        """Return the batch after the steps that mix images."""
        return mix_batch(batch, self.steps, rng, self.decoder.layout.classes)


def record_source(
    examples: Sequence[EncodedExample],
    exp: Experiment,
    layout: Layout,
    augment: Sequence[Augment],
    with_masks: bool | None = None,
) -> RecordSource:
    """Return the source of an experiment's batches.

    Args:
        examples: Encoded examples.
        exp: Experiment.
        layout: Channels and planes of the examples.
        augment: Steps to apply: the experiment's `augment:`, or none.
        with_masks: Whether batches contain masks. Default: if the targets or CutMix need them.
    """
    steps = augmentation_steps(augment)
    if with_masks is None:
        with_masks = exp.task == "mask" or mixing_needs_masks(steps)
    labels = layout.classes if exp.model.per_class else 1
    return RecordSource(examples, shared_decoder(layout, exp.input.shape), steps, with_masks, labels)


def epoch_order(
    examples: Sequence[EncodedExample], exp: Experiment, batch_size: int, epoch: int, seed: int
) -> np.ndarray:
    """Return the images of an epoch, as indices into `examples`, in whole batches.

    Shapes must be static, so images beyond the last whole batch are dropped. An epoch of less than one batch is
    filled by repetition.

    Args:
        examples: Encoded examples of the training folds.
        exp: Experiment.
        batch_size: Images per batch.
        epoch: Index of the epoch, from 0.
        seed: Seed of the fold.

    Raises:
        GatemaskError: There are no images to train on, or the share of positives cannot be met.
    """
    labels = np.array([int(example.label > 0) for example in examples])
    order = sample_epoch(labels, exp.sampling, epoch, exp.epochs, np.random.default_rng([seed, epoch]))
    if not len(order):
        raise GatemaskError("There is nothing to train on.", received=f"{len(examples)} images in the training folds")
    return np.resize(order, max(1, len(order) // batch_size) * batch_size)


def training_batches(
    examples: Sequence[EncodedExample],
    exp: Experiment,
    layout: Layout,
    order: np.ndarray,
    batch_size: int,
    epoch: int,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    wait: InputWait | None = None,
) -> KerasInput:
    """Return a dataset of the batches `start` to `stop` of an epoch.

    Args:
        examples: Encoded examples of the training folds.
        exp: Experiment.
        layout: Channels and planes of the examples.
        order: Images of the epoch, from `epoch_order`.
        batch_size: Images per batch, over all devices.
        epoch: Index of the epoch, from 0.
        seed: Seed of the fold.
        start: Index of the first batch. Batches do not depend on where the dataset starts. Default: 0.
        stop: Index after the last batch. Default: the end of the epoch.
        wait: Notes when each batch is asked for and ready. Default: nothing is noted.

    Returns:
        A dataset of known length and static shapes that yields images, uint8 (b, h, w, channels), and targets: masks,
        uint8 (b, h, w, planes), 0 or 1, for a mask network; labels, float32 (b, 1) or (b, classes), for a gate. An
        image that cannot be decoded raises, see `original_errors`.
    """
    source = record_source(examples, exp, layout, exp.augment)
    numbers = range(start, len(order) // batch_size if stop is None else stop)

    def make() -> Iterator[Arrays]:
        arrays = _training_arrays(source, exp, order, batch_size, (seed, epoch), numbers)
        return arrays if wait is None else wait.watched(arrays)

    return keras_input(make, batch_shapes(exp, layout, batch_size), len(numbers))


def _training_arrays(
    source: RecordSource, exp: Experiment, order: np.ndarray, batch_size: int, seed: tuple[int, int], numbers: range
) -> Generator[Arrays, None, None]:
    def fill(batch: ImageBatch, number: int, slots: range) -> None:
        numbers = draw_numbers(source.steps, np.random.default_rng([*seed, number]), batch_size)
        for slot in slots:
            source.fill_slot(batch, slot, int(order[number * batch_size + slot]), numbers[slot])

    def finish(batch: ImageBatch, number: int) -> Arrays:
        if batch.masks is not None and exp.task == "mask":
            return batch.images, batch.masks
        # Four numbers, so that this generator differs from that of `fill`, which has three.
        mixed = source.mix(batch, np.random.default_rng([*seed, number, 1]))
        return mixed.images, mixed.labels

    return threaded_batches(numbers, batch_size, lambda: source.allocate(batch_size), fill, finish, exp.runtime.workers)


def evaluation_dataset(
    examples: Sequence[EncodedExample], exp: Experiment, layout: Layout, batch_size: int
) -> KerasInput:
    """Return `evaluation_batches` as a dataset of static shapes, for `model.evaluate`."""
    shapes = (*batch_shapes(exp, layout, batch_size), ArrayShape((batch_size,), np.float32))

    def make() -> Iterator[Arrays]:
        return evaluation_batches(examples, exp, layout, batch_size)

    return keras_input(make, shapes, -(-len(examples) // batch_size))


def evaluation_batches(
    examples: Sequence[EncodedExample], exp: Experiment, layout: Layout, batch_size: int
) -> Generator[Arrays, None, None]:
    """Yield all examples in order, resized but not augmented, in whole batches.

    Args:
        examples: Encoded examples of the validation fold.
        exp: Experiment.
        layout: Channels and planes of the examples.
        batch_size: Images per batch, over all devices.

    Yields:
        Images and targets, as in `training_batches`, and weights, float32 (b,). The last batch is padded with copies of
        the last image, of weight 0.
    """
    source = record_source(examples, exp, layout, [])
    last, no_numbers = len(examples) - 1, np.empty(0)

    def fill(batch: ImageBatch, number: int, slots: range) -> None:
        for slot in slots:
            source.fill_slot(batch, slot, min(number * batch_size + slot, last), no_numbers)

    def finish(batch: ImageBatch, number: int) -> Arrays:
        weights = (np.arange(number * batch_size, (number + 1) * batch_size) <= last).astype(np.float32)
        return batch.images, batch.labels if batch.masks is None else batch.masks, weights

    numbers = range(-(-len(examples) // batch_size))
    return threaded_batches(numbers, batch_size, lambda: source.allocate(batch_size), fill, finish, exp.runtime.workers)


def batch_shapes(exp: Experiment, layout: Layout, batch_size: int) -> tuple[ArrayShape, ArrayShape]:
    """Return the shapes of the images and targets of a batch over all devices."""
    shape, labels = (batch_size, *exp.input.shape), layout.classes if exp.model.per_class else 1
    images = ArrayShape((*shape, layout.channels), np.uint8)
    if exp.task == "gate":
        return images, ArrayShape((batch_size, labels), np.float32)
    return images, ArrayShape((*shape, layout.planes), np.uint8)
