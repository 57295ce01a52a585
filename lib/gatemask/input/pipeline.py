"""Turn encoded examples into batches: sampled, decoded, augmented; uint8 arrays of static shapes.

Which images an epoch shows, and how each is changed, depends only on the seed, the epoch and the number of the batch.
A training that was interrupted therefore continues with exactly the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import numpy as np

from gatemask.config import Augment, Experiment, Input
from gatemask.data.example import EncodedExample
from gatemask.errors import GatemaskError
from gatemask.input.augment import augmentation_steps
from gatemask.input.decoding import shared_decoder
from gatemask.input.feeding import filled_batches
from gatemask.input.geometry import Crop
from gatemask.input.keras_input import Arrays, ArrayShape, KerasInput, keras_input
from gatemask.input.layout import Layout
from gatemask.input.mix import mixing_needs_masks
from gatemask.input.sampling import ExtraPart, offered_images, sample_epoch
from gatemask.input.source import BatchPlan, RecordSource
from gatemask.input.wait import InputWait


def record_source(
    examples: Sequence[EncodedExample],
    exp: Experiment,
    layout: Layout,
    augment: Sequence[Augment],
    with_masks: bool | None = None,
    crops: bool = False,
) -> RecordSource:
    """Return the source of an experiment's batches.

    Args:
        examples: Encoded examples.
        exp: Experiment.
        layout: Channels and planes of the examples.
        augment: Steps to apply: the experiment's `augment:`, or none.
        with_masks: Whether batches contain masks. Default: if the targets or CutMix need them.
        crops: Whether batches contain the crops of `input.crop`, where it is set. Default: the whole input.
    """
    steps = augmentation_steps(augment)
    if with_masks is None:
        with_masks = exp.task == "mask" or mixing_needs_masks(steps)
    labels = layout.classes if exp.model.per_class else 1
    soft = exp.has_soft_masks and any(step.name == "mixup" for step in steps)
    crop = _crop_of(exp.input) if crops else None
    return RecordSource(examples, shared_decoder(layout, exp.input.shape), steps, with_masks, labels, soft, crop)


def _crop_of(settings: Input) -> Crop | None:
    if settings.crop is None:
        return None
    return Crop(settings.training_shape, 0.5 if settings.crop_positives is None else settings.crop_positives)


def epoch_order(
    examples: Sequence[EncodedExample],
    exp: Experiment,
    batch_size: int,
    epoch: int,
    seed: int,
    extra: Sequence[ExtraPart] = (),
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
        extra: Where the examples of sources are; all others are the competition's. Default: there are none.

    Raises:
        GatemaskError: There are no images to train on, or the share of positives cannot be met.
    """
    labels = np.array([int(example.label > 0) for example in examples])
    offered = offered_images(len(examples), extra, epoch, seed)
    order = sample_epoch(labels[offered], exp.sampling, epoch, exp.epochs, np.random.default_rng([seed, epoch]))
    order = offered[order]
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
        uint8 (b, h, w, planes), from 0 to `layout.full` or, with MixUp, to 255, for a mask network; labels, float32
        (b, 1) or (b, classes), for a gate. An image that cannot be decoded raises, see `original_errors`.
    """
    source = record_source(examples, exp, layout, exp.augment, crops=True)
    numbers = range(start, len(order) // batch_size if stop is None else stop)
    plan = BatchPlan(order, batch_size, (seed, epoch), numbers)

    def make() -> Iterator[Arrays]:
        arrays = _training_arrays(source, plan, exp)
        return arrays if wait is None else wait.watched(arrays)

    return keras_input(make, batch_shapes(exp, layout, batch_size), len(numbers))


def _training_arrays(source: RecordSource, plan: BatchPlan, exp: Experiment) -> Generator[Arrays, None, None]:
    for _, batch in filled_batches(source, plan, exp.runtime.workers):
        yield batch.images, batch.masks if batch.masks is not None and exp.task == "mask" else batch.labels


def evaluation_dataset(
    examples: Sequence[EncodedExample], exp: Experiment, layout: Layout, batch_size: int
) -> KerasInput:
    """Return `evaluation_batches` as a dataset of static shapes, for `model.evaluate`."""
    shapes = (*batch_shapes(exp, layout, batch_size, exp.input.shape), ArrayShape((batch_size,), np.float32))

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
    source, batches = record_source(examples, exp, layout, []), -(-len(examples) // batch_size)
    slots = np.arange(batches * batch_size)
    plan = BatchPlan(np.minimum(slots, len(examples) - 1), batch_size, (0, 0), range(batches))
    for number, batch in filled_batches(source, plan, exp.runtime.workers):
        weights = slots[number * batch_size : (number + 1) * batch_size] < len(examples)
        yield batch.images, batch.labels if batch.masks is None else batch.masks, weights.astype(np.float32)


def batch_shapes(
    exp: Experiment, layout: Layout, batch_size: int, size: tuple[int, int] | None = None
) -> tuple[ArrayShape, ArrayShape]:
    """Return the shapes of the images and targets of a batch over all devices.

    Args:
        exp: Experiment.
        layout: Channels and planes of the examples.
        batch_size: Images per batch.
        size: Height and width of the images. Default: those of the training.
    """
    shape, labels = (batch_size, *(size or exp.input.training_shape)), layout.classes if exp.model.per_class else 1
    images = ArrayShape((*shape, layout.channels), np.uint8)
    if exp.task == "gate":
        return images, ArrayShape((batch_size, labels), np.float32)
    return images, ArrayShape((*shape, layout.planes), np.uint8)
