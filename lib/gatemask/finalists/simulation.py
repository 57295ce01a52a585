"""Simulate test sets by a grouped bootstrap of the training images.

Each draw weighs the groups at random (the Bayesian bootstrap: Rubin, Annals of Statistics 9, 1981). These weights are
one population that the training images may come from. From it, whole groups are drawn for the public and for the
private part of a test set. All candidates are scored on the same draws, so their scores are as correlated as their
errors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gatemask.masks.metrics import ratio

CHUNK = 256  # draws per step; each needs three counts per group in memory
COUNTS = 1 << 25  # counts per step, at most: 256 MB, however many groups there are


@dataclass(frozen=True)
class PartSizes:
    """Sizes of the parts of a test set, relative to the training images.

    Args:
        public: Number of public test images per training image.
        private: Number of private test images per training image.
    """

    public: float
    private: float


@dataclass(frozen=True)
class Draws:
    """Sums of worth and weight over simulated images, apart for positive and negative images.

    Args:
        public: Sums in the public part, float (draws, 2 signs, 2 sums, candidates, classes).
        private: Sums in the private part, same shape.
        population: Sums in the population itself, same shape.
        prevalence: Share of positive training images.
    """

    public: np.ndarray
    private: np.ndarray
    population: np.ndarray
    prevalence: float

    def __len__(self) -> int:
        return len(self.public)

    def scores(self, part: str, prevalence: float, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the score of each candidate in each draw, float (draws, candidates).

        Args:
            part: "public", "private" or "population".
            prevalence: Share of positive images in the test set. Their worth and weight count so much more, or less,
                that the training images have this share.
            chosen: Draws. Default: all.
        """
        sums = getattr(self, part)[chosen]
        signs = sign_factors(prevalence, self.prevalence)
        worth, weight = np.moveaxis(np.einsum("s,dskmc->dkmc", signs, sums), 1, 0)
        scores: np.ndarray = ratio(worth, weight).mean(axis=-1)
        return scores


def sign_factors(prevalence: float, local: float) -> np.ndarray:
    """Return the factors of positive and negative images that change the share of positives, float (2,).

    >>> sign_factors(0.5, 0.25).round(2).tolist()
    [2.0, 0.67]
    """
    if local in (0.0, 1.0):
        return np.ones(2)
    return np.array([prevalence / local, (1 - prevalence) / (1 - local)])


def simulate(
    worth: np.ndarray,
    weight: np.ndarray,
    positive: np.ndarray,
    groups: np.ndarray,
    sizes: PartSizes,
    draws: int,
    seed: int,
) -> Draws:
    """Simulate test sets.

    Args:
        worth: Worth per candidate, image and class, float (candidates, n, classes); see gatemask.masks.metrics.
        weight: Weight, same shape.
        positive: Whether an image has a mask, bool (n,).
        groups: Group of each image, text (n,). Images of one group, such as a patient's, are drawn together.
        sizes: Sizes of the public and the private part.
        draws: Number of test sets.
        seed: Seed of the draws.
    """
    _, group_index = np.unique(groups, return_inverse=True)
    count = int(group_index.max()) + 1
    values = np.moveaxis(np.stack([worth, weight]), 2, 0)  # (n, 2 sums, candidates, classes)
    flat = values.reshape(len(values), -1)
    sums = np.stack([_sum_groups(flat * sign[:, None], group_index, count) for sign in (positive, ~positive)], axis=1)
    shape = (2, *values.shape[1:])
    sums = sums.reshape(count, -1)
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[], [], []]
    public, private = (max(1, round(count * share)) for share in (sizes.public, sizes.private))
    step = max(1, min(CHUNK, COUNTS // count))
    for start in range(0, draws, step):
        shares = rng.dirichlet(np.ones(count), min(step, draws - start))
        counts = (_draw_groups(shares, public, rng), _draw_groups(shares, private, rng), shares * count)
        for part, drawn in zip(parts, counts, strict=True):
            part.append((drawn @ sums).reshape(-1, *shape))
    in_public, in_private, in_population = (np.concatenate(part) for part in parts)
    return Draws(in_public, in_private, in_population, float(positive.mean()))


def _draw_groups(shares: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw groups with replacement, and return how often each was drawn: ten times as fast as `rng.multinomial`.

    Args:
        shares: Probability of each group, float (draws, groups).
        count: Number of groups in each draw.
        rng: Source of randomness.

    Returns:
        Counts, float (draws, groups).
    """
    counts = np.empty(shares.shape)
    for row, bounds in zip(counts, np.cumsum(shares, axis=1)[:, :-1], strict=True):
        row[:] = np.bincount(np.searchsorted(bounds, rng.random(count)), minlength=len(row))
    return counts


def _sum_groups(values: np.ndarray, group_index: np.ndarray, count: int) -> np.ndarray:
    """Sum rows (n, k) by group, float (groups, k)."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, group_index, values)
    return sums


def pairs_of(count: int) -> np.ndarray:
    """Return all pairs of candidates, int (pairs, 2)."""
    return np.stack(np.triu_indices(count, 1), axis=1)


def expected_best(private: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the mean of the better score of each pair, float (pairs,).

    Args:
        private: Private scores, float (draws, candidates).
        pairs: Candidates of each pair, int (pairs, 2).

    >>> expected_best(np.array([[0.8, 0.7], [0.6, 0.9]]), np.array([[0, 1]])).round(2).tolist()
    [0.85]
    """
    return np.array([np.maximum(private[:, first], private[:, second]).mean() for first, second in pairs])


def best_shares(private: np.ndarray) -> np.ndarray:
    """Return the share of draws in which each candidate is the best, float (candidates,). Ties are split evenly.

    >>> best_shares(np.array([[0.8, 0.7], [0.6, 0.6]])).tolist()
    [0.75, 0.25]
    """
    best = private >= private.max(axis=1, keepdims=True) - 1e-12
    shares: np.ndarray = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares


def contains_best(private: np.ndarray, pair: Sequence[int]) -> float:
    """Return the share of draws in which one of a pair is the best, or as good as the best."""
    reached = private[:, list(pair)].max(axis=1)
    return float((reached >= private.max(axis=1) - 1e-12).mean())
