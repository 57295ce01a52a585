"""Who is seen in an epoch."""

from __future__ import annotations

import numpy as np

from gatemask.config import Sampling
from gatemask.errors import GatemaskError


def sample_epoch(
    labels: np.ndarray, sampling: Sampling, epoch: int, epochs: int, rng: np.random.Generator
) -> np.ndarray:
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
