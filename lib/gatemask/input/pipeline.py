"""Batches from encoded examples: sampled, decoded, augmented; uint8 with static shapes until the device.

Which images an epoch shows, and how each is changed, depends on seed, epoch and position in the epoch alone, so that a
training that was killed goes on with the very batches it would have seen.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gatemask import quiet
from gatemask.config import Augment, Experiment
from gatemask.data.encode import Example
from gatemask.errors import GatemaskError
from gatemask.input.augment import AugmentationSteps, augment_into, augmentation_steps
from gatemask.input.decoding import Decoder, shared_decoder
from gatemask.input.mix import ImageBatch, mix_batch, mixing_needs_masks
from gatemask.input.sampling import sample_epoch
from gatemask.input.threads import aligned_empty, threaded_batches

if TYPE_CHECKING:
    import tensorflow as tf

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class RecordSource:
    """What every batch is made from.

    Args:
        examples: encoded.
        decoder: of the experiment's input.
        size: of the input.
        steps: of `augment:`.
        masks: whether masks are made too.
    """

    examples: Sequence[Example]
    decoder: Decoder
    size: int
    steps: AugmentationSteps
    masks: bool

    def allocate(self, batch: int) -> ImageBatch:
        """Room for a batch."""
        side = (batch, self.size, self.size)
        masks = aligned_empty((*side, 1)) if self.masks else None
        return ImageBatch(aligned_empty((*side, self.decoder.channels)), masks, aligned_empty((batch, 1), np.float32))

    def fill_slot(self, room: ImageBatch, slot: int, index: int, rng: np.random.Generator) -> None:
        """Put image `index`, changed as `rng` decides, into a slot of the batch."""
        example = self.examples[index]
        # To zoom in on a mask, one must be known, even where none is asked for in the end.
        wanted = self.masks or any(name == "zoom_to_mask" for name, _ in self.steps)
        image, mask = self.decoder.load(example, wanted)
        out_mask = None if room.masks is None else room.masks[slot]
        augment_into(image, mask, self.steps, rng, room.images[slot], out_mask)
        room.labels[slot] = example.label


def record_source(
    examples: Sequence[Example], exp: Experiment, channels: int, steps: Sequence[Augment], masks: bool | None = None
) -> RecordSource:
    """What batches of an experiment are made from; masks where its targets or `steps` need them, or as told."""
    chosen = augmentation_steps(steps)
    needed = exp.task == "mask" or mixing_needs_masks(chosen) if masks is None else masks
    return RecordSource(examples, shared_decoder(channels, exp.input.size), exp.input.size, chosen, needed)


def epoch_order(examples: Sequence[Example], exp: Experiment, batch: int, epoch: int, seed: int) -> np.ndarray:
    """The images of an epoch as indices into `examples`, in whole batches, for shapes must be static.

    What does not fill a last batch is left out; an epoch of less than one batch is filled up by repetition.

    Raises:
        GatemaskError: there is nothing to train on, or the share of positives cannot be met.
    """
    labels = np.array([example.label for example in examples])
    order = sample_epoch(labels, exp.sampling, epoch, exp.epochs, np.random.default_rng([seed, epoch]))
    if not len(order):
        raise GatemaskError("There is nothing to train on.", received=f"{len(examples)} images in the training folds")
    return np.resize(order, max(1, len(order) // batch) * batch)


def training_batches(
    examples: Sequence[Example],
    exp: Experiment,
    channels: int,
    order: np.ndarray,
    batch: int,
    epoch: int,
    seed: int,
    start: int = 0,
    stop: int | None = None,
) -> tf.data.Dataset:
    """The batches `start` to `stop` of an epoch: (images uint8 (b, s, s, channels), targets).

    Args:
        examples: of the training folds.
        exp: the experiment.
        channels: of its images.
        order: of `epoch_order`.
        batch: images in a batch, of all devices together.
        epoch: from 0.
        seed: of the fold.
        start: the first batch; those from there on are the same wherever one starts.
        stop: the batch before which to end; default: the epoch's end.

    Returns:
        A dataset of known length and static shapes. Targets are masks, uint8 (b, s, s, 1), 0 or 1, for a mask
        network, and labels, float32 (b, 1), for a gate. An image that cannot be decoded raises: see `original_errors`.
    """
    chosen = record_source(examples, exp, channels, exp.augment)
    numbers = range(start, len(order) // batch if stop is None else stop)

    def make() -> Iterator[Arrays]:
        return _training(chosen, exp, order, batch, (seed, epoch), numbers)

    return _dataset(make, _signature(exp, channels, batch), len(numbers))


def _training(
    chosen: RecordSource, exp: Experiment, order: np.ndarray, batch: int, seed: tuple[int, int], numbers: range
) -> Generator[Arrays, None, None]:
    def fill(room: ImageBatch, number: int, slots: range) -> None:
        for slot in slots:
            position = number * batch + slot
            chosen.fill_slot(room, slot, int(order[position]), np.random.default_rng([*seed, position]))

    def finish(room: ImageBatch, number: int) -> Arrays:
        if room.masks is not None and exp.task == "mask":
            return room.images, room.masks
        # Four numbers: an image's own generator has three.
        mixed = mix_batch(*room, chosen.steps, np.random.default_rng([*seed, number, 1]))
        return mixed.images, mixed.labels

    return threaded_batches(numbers, batch, lambda number: chosen.allocate(batch), fill, finish, exp.runtime.workers)


def evaluation_dataset(examples: Sequence[Example], exp: Experiment, channels: int, batch: int) -> tf.data.Dataset:
    """`evaluation_batches` as a dataset with static shapes, for `model.evaluate`."""
    tf = quiet.tensorflow()
    signature = (*_signature(exp, channels, batch), tf.TensorSpec((batch,), tf.float32))

    def make() -> Iterator[Arrays]:
        return evaluation_batches(examples, exp, channels, batch)

    return _dataset(make, signature, -(-len(examples) // batch))


def evaluation_batches(
    examples: Sequence[Example], exp: Experiment, channels: int, batch: int
) -> Generator[Arrays, None, None]:
    """All examples in order, unchanged but for size: (images, targets, weights), all padded to whole batches.

    Images and targets are as those of `training_batches`. The padding repeats the last image and carries weight 0;
    weights are float32 (b,).
    """
    chosen = record_source(examples, exp, channels, [])
    last = len(examples) - 1

    def fill(room: ImageBatch, number: int, slots: range) -> None:
        for slot in slots:
            chosen.fill_slot(room, slot, min(number * batch + slot, last), np.random.default_rng(0))

    def finish(room: ImageBatch, number: int) -> Arrays:
        weights = (np.arange(number * batch, (number + 1) * batch) <= last).astype(np.float32)
        return room.images, room.labels if room.masks is None else room.masks, weights

    numbers = range(-(-len(examples) // batch))
    return threaded_batches(numbers, batch, lambda number: chosen.allocate(batch), fill, finish, exp.runtime.workers)


def _signature(exp: Experiment, channels: int, batch: int) -> tuple[Any, Any]:
    tf = quiet.tensorflow()
    side = (batch, exp.input.size, exp.input.size)
    targets = tf.TensorSpec((batch, 1), tf.float32) if exp.task == "gate" else tf.TensorSpec((*side, 1), tf.uint8)
    return tf.TensorSpec((*side, channels), tf.uint8), targets


def _dataset(make: Callable[[], Iterator[Arrays]], signature: Any, count: int) -> tf.data.Dataset:
    tf = quiet.tensorflow()
    held = [make]
    dataset = tf.data.Dataset.from_generator(lambda: _noting(held[0]()), output_signature=signature)
    options = tf.data.Options()
    # Whole batches come from one generator: there is nothing to spread over threads or machines any more.
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(1).with_options(options)
    # TensorFlow keeps every function that it was ever given. What is behind this one goes with the dataset.
    weakref.finalize(dataset, held.clear)
    return dataset


# --- errors ------------------------------------------------------------------------------------------------

_raised: list[GatemaskError] = []
_lock = threading.Lock()


def _noting(batches: Iterator[Arrays]) -> Iterator[Arrays]:
    try:
        yield from batches
    except GatemaskError as error:
        with _lock:
            _raised[:] = [error]
        raise


@contextmanager
def original_errors() -> Iterator[None]:
    """TensorFlow turns whatever a dataset raises into an error of its own, with a traceback in it: around `fit` and
    `evaluate`, this raises the GatemaskError that was meant."""
    with _lock:
        _raised.clear()
    try:
        yield
    except GatemaskError:
        raise
    except Exception:
        with _lock:
            found = _raised.pop() if _raised else None
        if found is not None:
            raise found from None
        raise
