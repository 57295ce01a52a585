"""Choose the images of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gatemask.config import Sampling
from gatemask.errors import GatemaskError


class ExtraPart(NamedTuple):
    """Where the examples of a source are among those of a fold: after the competition's, source by source.

    Args:
        start: Index of the first.
        stop: Index after the last.
        weight: How often each is drawn, relative to an image of the competition.
    """

    start: int
    stop: int
    weight: float


def offered_images(count: int, extra: Sequence[ExtraPart], epoch: int, seed: int) -> np.ndarray:
    """Return the images from which an epoch is drawn: all of the competition, and of each source by its weight.

    Args:
        count: Number of images, those of sources included.
        extra: Where the images of sources are.
        epoch: Index of the epoch, from 0.
        seed: Seed of the fold.

    Returns:
        Indices of images, int64; where a weight is above 1, some occur more than once.
    """
    own = extra[0].start if extra else count
    drawn = [
        part.start + draw_extra(part.stop - part.start, part.weight, epoch, (seed, number))
        for number, part in enumerate(extra)
    ]
    return np.concatenate([np.arange(own), *drawn])


def sample_epoch(
    labels: np.ndarray, sampling: Sampling, epoch: int, epochs: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw the images of one epoch, in random order.

    Args:
        labels: Labels of all images, (n,), 0 or 1.
        sampling: The experiment's `sampling:`.
        epoch: Index of the epoch, from 0; decides how far a changing share of positives has moved.
        epochs: Number of epochs of the whole training.
        rng: Random generator.

    Returns:
        Indices into `labels`, int64 (m,).

    Raises:
        GatemaskError: The share of positives needs positives or negatives, and there are none.
    """
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    negatives = rng.permutation(negatives)[: round(len(negatives) * (1 - sampling.drop_negatives))]
    share = _positive_share(sampling, epoch, epochs)
    if share is None:
        return rng.permutation(np.concatenate([positives, negatives]))[: sampling.epoch]
    if (share > 0 and not len(positives)) or (share < 1 and not len(negatives)):
        raise GatemaskError(
            "The share of positives cannot be met.",
            received=f"{len(positives)} positives, {len(negatives)} negatives",
            expected=f"positives: {share:.2f}",
            do="Change sampling.positives, or check the folds.",
        )
    if sampling.epoch:
        count = sampling.epoch
    else:  # until either kind runs out
        limit_by_positives = len(positives) / share if share > 0 else np.inf
        limit_by_negatives = len(negatives) / (1 - share) if share < 1 else np.inf
        count = int(min(limit_by_positives, limit_by_negatives))
    positive_count = round(count * share)
    parts = [_draw_evenly(positives, positive_count, rng), _draw_evenly(negatives, count - positive_count, rng)]
    return rng.permutation(np.concatenate(parts))


def draw_extra(count: int, weight: float, epoch: int, seed: Sequence[int]) -> np.ndarray:
    """Return the images of a source that take part in an epoch: `weight` times as many as it has.

    The epochs read from one endless sequence of permutations, so no image is drawn again before all were drawn.

    Args:
        count: Number of images of the source.
        weight: How often each image is drawn per epoch, on average.
        epoch: Index of the epoch, from 0.
        seed: Seed of the fold and the source.

    Returns:
        Indices of images, int64 (round(count * weight),), at least one.
    """
    drawn = max(1, round(count * weight))
    start, stop = epoch * drawn, (epoch + 1) * drawn
    first = start // count
    rounds = [np.random.default_rng([*seed, number]).permutation(count) for number in range(first, -(-stop // count))]
    return np.concatenate(rounds)[start - first * count : stop - first * count]


def _positive_share(sampling: Sampling, epoch: int, epochs: int) -> float | None:
    if not isinstance(sampling.positives, tuple):
        return sampling.positives
    first, last = sampling.positives
    return first + (last - first) * epoch / max(1, epochs - 1)


def _draw_evenly(pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` items; none is repeated before all were drawn."""
    if not count:
        return pool[:0]
    rounds = [rng.permutation(pool) for _ in range(-(-count // len(pool)))]
    return np.concatenate(rounds)[:count]
