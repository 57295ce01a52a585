"""Choose the images of an epoch."""

from __future__ import annotations

import numpy as np

from gatemask.config import Sampling
from gatemask.errors import GatemaskError


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
