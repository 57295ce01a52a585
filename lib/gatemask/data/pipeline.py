"""Batches from encoded examples: sampled, decoded, augmented; uint8 with static shapes until the device.

Which images an epoch shows, and how each is changed, depends on seed and epoch alone, so that a training that
was killed goes on with the very batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from gatemask import quiet
from gatemask.config.schema import Experiment, Sampling
from gatemask.data.augment import augment
from gatemask.data.records import Example
from gatemask.errors import GatemaskError

if TYPE_CHECKING:
    import tensorflow as tf


def sample(labels: np.ndarray, sampling: Sampling, epoch: int, epochs: int, rng: np.random.Generator) -> np.ndarray:
    """The images of one epoch, in order.

    Args:
        labels: (n,) 0 or 1.
        sampling: share of positives (constant or sliding), negatives dropped, images an epoch.
        epoch: from 0; decides how far a sliding share has come.
        epochs: of the whole training.
        rng: decides.

    Returns:
        Indices into `labels`.
    """
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    negative = rng.permutation(negative)[: round(len(negative) * (1 - sampling.drop_negatives))]
    share = _share(sampling, epoch, epochs)
    if share is None:
        chosen = np.concatenate([positive, negative])
        return rng.permutation(chosen)[: sampling.epoch]
    if (share > 0 and not len(positive)) or (share < 1 and not len(negative)):
        raise GatemaskError(
            "The share of positives cannot be met.",
            received=f"{len(positive)} positives, {len(negative)} negatives",
            expected=f"positives: {share:.2f}",
            do="Change sampling.positives, or look at the folds.",
        )
    if sampling.epoch:
        count = sampling.epoch
    else:  # as many as there are of whichever runs out first
        by_positive = len(positive) / share if share > 0 else np.inf
        by_negative = len(negative) / (1 - share) if share < 1 else np.inf
        count = int(min(by_positive, by_negative))
    positives = round(count * share)
    return rng.permutation(np.concatenate([_draw(positive, positives, rng), _draw(negative, count - positives, rng)]))


def _share(sampling: Sampling, epoch: int, epochs: int) -> float | None:
    if not isinstance(sampling.positives, tuple):
        return sampling.positives
    first, last = sampling.positives
    return first + (last - first) * epoch / max(1, epochs - 1)


def _draw(pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of `pool`; none comes a second time before all came once."""
    if not count:
        return pool[:0]
    rounds = [rng.permutation(pool) for _ in range(-(-count // len(pool)))]
    return np.concatenate(rounds)[:count]


def decode(example: Example, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """image uint8 (h, w, channels), mask uint8 (h, w), 0 or 255."""
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    image: np.ndarray = cv2.imdecode(np.frombuffer(example.image, np.uint8), flag)  # type: ignore[assignment]
    mask: np.ndarray = cv2.imdecode(np.frombuffer(example.mask, np.uint8), cv2.IMREAD_GRAYSCALE)  # type: ignore[assignment]
    return image.reshape(*image.shape[:2], channels), mask


def training_batches(
    examples: Sequence[Example], exp: Experiment, channels: int, batch: int, epoch: int, seed: int
) -> tf.data.Dataset:
    """The batches of one epoch: (images uint8 (b, s, s, channels), targets uint8).

    Targets are masks (b, s, s, 1) for a mask network and labels (b, 1) for a gate. A last, smaller batch is
    left out, for shapes must be static; an epoch of less than one batch is filled up by repetition.
    """
    tf = quiet.tensorflow()
    rng = np.random.default_rng([seed, epoch])
    labels = np.array([example.label for example in examples])
    order = sample(labels, exp.sampling, epoch, exp.epochs, rng)
    if not len(order):
        raise GatemaskError("There is nothing to train on.", received=f"{len(examples)} images in the training folds")
    order = np.resize(order, max(len(order), batch))
    size, gate = exp.input.size, exp.task == "gate"

    def load(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        example = examples[order[position]]
        own = np.random.default_rng([seed, epoch, int(position)])
        image, mask = augment(*decode(example, channels), size, exp.augment, own)
        return image, np.array([example.label], np.uint8) if gate else mask

    def mapped(position: Any) -> tuple[Any, Any]:
        image, target = tf.numpy_function(load, [position], [tf.uint8, tf.uint8])
        image.set_shape((size, size, channels))
        target.set_shape((1,) if gate else (size, size, 1))
        return image, target

    dataset = tf.data.Dataset.range(len(order)).map(mapped, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch, drop_remainder=True).prefetch(2)


def evaluation_dataset(examples: Sequence[Example], exp: Experiment, channels: int, batch: int) -> tf.data.Dataset:
    """`evaluation_batches` as a dataset with static shapes, for `model.evaluate`."""
    tf = quiet.tensorflow()
    size, gate = exp.input.size, exp.task == "gate"
    signature = (
        tf.TensorSpec((batch, size, size, channels), tf.uint8),
        tf.TensorSpec((batch, 1) if gate else (batch, size, size, 1), tf.uint8),
        tf.TensorSpec((batch,), tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(
        lambda: evaluation_batches(examples, exp, channels, batch), output_signature=signature
    )
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(examples) // batch))).prefetch(2)


def evaluation_batches(
    examples: Sequence[Example], exp: Experiment, channels: int, batch: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All examples in order, unchanged but for size: (images, targets, weights), all padded to whole batches.

    The padding repeats the last image and carries weight 0; weights are float32 (b,).
    """
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        pairs = [augment(*decode(example, channels), exp.input.size, [], np.random.default_rng(0)) for example in part]
        images, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        labels = np.array([[example.label] for example in part], np.uint8)
        weights = np.ones(len(part), np.float32)
        padding = batch - len(part)
        targets = labels if exp.task == "gate" else masks
        yield (
            np.concatenate([images, np.repeat(images[-1:], padding, 0)]),
            np.concatenate([targets, np.repeat(targets[-1:], padding, 0)]),
            np.concatenate([weights, np.zeros(padding, np.float32)]),
        )
