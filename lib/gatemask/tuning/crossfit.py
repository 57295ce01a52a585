"""Scores to believe: cross-fitted over folds, with an interval that knows which images belong to one patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gatemask.console import progress
from gatemask.masks.metrics import METRICS, ratio, total
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Scorable

CHUNK = 256  # resamples at a time: memory is so many counts of each group
C = TypeVar("C", bound=Scorable)


@dataclass(frozen=True)
class CrossFit:
    """What rules that were tuned elsewhere make of each image.

    Args:
        rules: the rule of each held-out fold, tuned on the other folds.
        worth: float (n, classes), see gatemask.masks.metrics.
        weight: the same shape.
        by_fold: the score of each fold alone.
    """

    rules: dict[int, Rule]
    worth: np.ndarray
    weight: np.ndarray
    by_fold: dict[int, float]

    @property
    def score(self) -> float:
        return total(self.worth, self.weight)


def cross_fit(
    counted: C, metric: str, find: Callable[[C], Rule], label: str = "", others: Mapping[int, C] | None = None
) -> CrossFit:
    """Score each fold by the rule that `find` makes of the other folds.

    Args:
        counted: tables or components of all images.
        metric: a name in METRICS.
        find: the rule that it finds best on some of the images.
        label: of a progress bar over the folds.
        others: all images once more, by held-out fold, where the other folds chose more than the rule: with their
            choice of weights, maps differ.
    """
    rules: dict[int, Rule] = {}
    by_fold: dict[int, float] = {}
    worth, weight = np.zeros(counted.truth.shape), np.zeros(counted.truth.shape)
    for fold in progress(np.unique(counted.folds).tolist(), f"cross-fit {label}"):
        held, seen = counted.folds == fold, (others or {}).get(int(fold), counted)
        rules[int(fold)] = find(seen.subset(~held))
        there = seen.subset(held)
        worth[held], weight[held] = METRICS[metric](*there.counts(rules[int(fold)]), there.truth)
        by_fold[int(fold)] = total(worth[held], weight[held])
    return CrossFit(rules, worth, weight, by_fold)


def resamples(groups: np.ndarray, times: int, seed: int) -> np.ndarray:
    """How often each image is drawn when whole groups are drawn with replacement: int (times, n)."""
    _, of_image = np.unique(groups, return_inverse=True)
    return _draws(of_image.max() + 1, times, np.random.default_rng(seed))[:, of_image]


def interval(worth: np.ndarray, weight: np.ndarray, groups: np.ndarray, times: int, seed: int) -> tuple[float, float]:
    """The middle 95 % of the score over bootstrap resamples of groups (Efron's percentile interval).

    Args:
        worth: float (n, classes), see gatemask.masks.metrics.
        weight: the same shape.
        groups: (n,) text: images that are drawn together, such as a patient's.
        times: resamples.
        seed: of the draws.
    """
    low, high = np.quantile(resampled(worth, weight, groups, times, seed), [0.025, 0.975])
    return float(low), float(high)


def resampled(worth: np.ndarray, weight: np.ndarray, groups: np.ndarray, times: int, seed: int) -> np.ndarray:
    """The score of each bootstrap resample of groups, float (times,). The same seed draws the same groups."""
    _, of_image = np.unique(groups, return_inverse=True)
    count = int(of_image.max()) + 1
    summed = [np.stack([np.bincount(of_image, column, count) for column in part.T], 1) for part in (worth, weight)]
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, times, CHUNK):
        draws = _draws(count, min(CHUNK, times - start), rng)
        found.append(ratio(draws @ summed[0], draws @ summed[1]).mean(axis=1))
    return np.concatenate(found)


def _draws(count: int, times: int, rng: np.random.Generator) -> np.ndarray:
    return rng.multinomial(count, np.full(count, 1 / count), times)
