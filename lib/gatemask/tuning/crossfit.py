"""Cross-fit rules over folds, and bootstrap scores over groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gatemask.console import progress
from gatemask.masks.metrics import METRICS, ratio, total
from gatemask.masks.rule import Rule, per_class
from gatemask.oof.tables import Scorable

CHUNK = 256  # resamples per step; each needs one count per group in memory
COUNTS = 1 << 25  # counts per step, at most: 256 MB, however many groups there are
KEPT = 1 << 27  # counts that are kept for further scores; more are drawn again
C = TypeVar("C", bound=Scorable)


@dataclass(frozen=True)
class CrossFit:
    """Images scored by rules that were tuned on the other folds.

    Args:
        rules: Rule of each class, tuned on the other folds, by held-out fold.
        worth: Worth per image and class, float (n, classes); see gatemask.masks.metrics.
        weight: Weight per image and class, float (n, classes).
        by_fold: Score of each held-out fold.

    >>> fit = CrossFit({}, np.array([[1.0], [0.5]]), np.ones((2, 1)), {})
    >>> fit.score
    0.75
    """

    rules: dict[int, Sequence[Rule]]
    worth: np.ndarray
    weight: np.ndarray
    by_fold: dict[int, float]

    @property
    def score(self) -> float:
        """Score of all images together."""
        return total(self.worth, self.weight)

    def score_of_class(self, index: int) -> float:
        """Return the score of all images in one class."""
        return total(self.worth[:, index : index + 1], self.weight[:, index : index + 1])


def cross_fit(
    counted: C,
    metric: str,
    find: Callable[[C], Rule | Sequence[Rule]],
    label: str = "",
    others: Mapping[int, C] | None = None,
) -> CrossFit:
    """Score each fold by the rules that `find` returns for the other folds.

    Args:
        counted: Tables or components of all images.
        metric: Name in METRICS.
        find: Returns the best rules for some of the images, one per class or one for all.
        label: Label of the progress bar over the folds.
        others: All images as the other folds' weights average them, by held-out fold. Default: `counted` for every
            fold, where weights were not chosen on these images.

    >>> from gatemask.oof.tables import Tables
    >>> levels = np.repeat([[[4] * 256 + [0]]], 4, axis=0)
    >>> tables = Tables(np.arange(4).astype(str), np.array([0, 0, 1, 1]), np.ones(4), levels, levels, levels[:, :, 0])
    >>> cross_fit(tables, "mean_dice", lambda images: Rule(0.5, 0.5, 0.5, 0)).by_fold
    {0: 1.0, 1: 1.0}
    """
    rules: dict[int, Sequence[Rule]] = {}
    by_fold: dict[int, float] = {}
    worth, weight = np.zeros(counted.truth.shape), np.zeros(counted.truth.shape)
    for fold in progress(np.unique(counted.folds).tolist(), f"cross-fit {label}"):
        held_out, images = counted.folds == fold, (others or {}).get(int(fold), counted)
        rules[int(fold)] = per_class(find(images.subset(~held_out)), counted.truth.shape[1])
        scored = images.subset(held_out)
        worth[held_out], weight[held_out] = METRICS[metric](*scored.counts(rules[int(fold)]), scored.truth)
        by_fold[int(fold)] = total(worth[held_out], weight[held_out])
    return CrossFit(rules, worth, weight, by_fold)


def resample_counts(groups: np.ndarray, times: int, seed: int) -> np.ndarray:
    """Draw whole groups with replacement, and return how often each image was drawn.

    Args:
        groups: Group of each image, text (n,).
        times: Number of resamples.
        seed: Seed of the draws.

    Returns:
        Counts, int (times, n).

    >>> counts = resample_counts(np.array(["a", "a", "b"]), 5, seed=0)
    >>> counts.shape, bool((counts[:, 0] == counts[:, 1]).all())
    ((5, 3), True)
    """
    _, group_index = np.unique(groups, return_inverse=True)
    return _draw_groups(group_index.max() + 1, times, np.random.default_rng(seed))[:, group_index]


def bootstrap_interval(
    worth: np.ndarray, weight: np.ndarray, groups: np.ndarray, times: int, seed: int
) -> tuple[float, float]:
    """Return the middle 95 % of the score over bootstrap resamples of groups (Efron's percentile interval).

    Args:
        worth: Worth per image and class, float (n, classes); see gatemask.masks.metrics.
        weight: Weight per image and class, float (n, classes).
        groups: Group of each image, text (n,). Images of one group, such as a patient's, are drawn together.
        times: Number of resamples.
        seed: Seed of the draws.

    >>> bootstrap_interval(np.ones((3, 1)), np.ones((3, 1)), np.array(["a", "b", "c"]), times=100, seed=0)
    (1.0, 1.0)
    """
    return middle_95(bootstrap_scores(worth, weight, groups, times, seed))


def bootstrap_scores(worth: np.ndarray, weight: np.ndarray, groups: np.ndarray, times: int, seed: int) -> np.ndarray:
    """Return the score of each bootstrap resample of groups, float (times,). The same seed draws the same groups.

    >>> bootstrap_scores(np.full((2, 1), 0.5), np.ones((2, 1)), np.array(["a", "b"]), times=3, seed=0).tolist()
    [0.5, 0.5, 0.5]
    """
    _, group_index = np.unique(groups, return_inverse=True)
    sums = _group_sums(group_index, worth), _group_sums(group_index, weight)
    return np.concatenate([_scores(draws, *sums) for draws in _drawn_parts(len(sums[0]), times, seed)])


def _group_sums(group_index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sums of each group, float (groups, classes)."""
    return np.stack([np.bincount(group_index, column) for column in values.T], 1)


def _scores(draws: np.ndarray, worth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    scores: np.ndarray = ratio(draws @ worth, draws @ weight).mean(axis=1)
    return scores


def _drawn_parts(count: int, times: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each of `count` groups is drawn, int (resamples, groups), in parts that fit in memory."""
    rng = np.random.default_rng(seed)
    step = max(1, min(CHUNK, COUNTS // count))
    for start in range(0, times, step):
        yield _draw_groups(count, min(step, times - start), rng)


class _Redrawn:
    """Draws of more groups than fit in memory, which are drawn again whenever they are used.

    Args:
        count: Number of groups.
        times: Number of resamples.
        seed: Seed of the draws.
    """

    def __init__(self, count: int, times: int, seed: int) -> None:
        self._arguments = count, times, seed

    def __iter__(self) -> Iterator[np.ndarray]:
        return _drawn_parts(*self._arguments)


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of groups, which may be used for any number of scores of the same images.

    Args:
        group_index: Number of each image's group, int (n,).
        draws: How often each resample draws each group, in parts of some resamples, int (resamples, groups).
    """

    group_index: np.ndarray
    draws: Iterable[np.ndarray]

    @classmethod
    def draw(cls, groups: np.ndarray, times: int, seed: int) -> Resamples:
        """Draw whole groups with replacement.

        Args:
            groups: Group of each image, text (n,).
            times: Number of resamples.
            seed: Seed of the draws.
        """
        _, group_index = np.unique(groups, return_inverse=True)
        count = int(group_index.max()) + 1
        if count * times > KEPT:
            return cls(group_index, _Redrawn(count, times, seed))
        small = np.uint16 if count < 1 << 16 else np.int32  # no group is drawn more often than there are groups
        return cls(group_index, [part.astype(small) for part in _drawn_parts(count, times, seed)])

    def scores(self, worth: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the score of each resample, float (times,).

        Args:
            worth: Worth per image and class, float (n, classes); see gatemask.masks.metrics.
            weight: Weight per image and class, float (n, classes).
        """
        sums = _group_sums(self.group_index, worth), _group_sums(self.group_index, weight)
        return np.concatenate([_scores(draws, *sums) for draws in self.draws])

    def image_counts(self) -> Iterator[np.ndarray]:
        """Yield how often each image was drawn, int (resamples, n), part by part."""
        step = max(1, COUNTS // len(self.group_index))
        for draws in self.draws:
            for start in range(0, len(draws), step):
                yield draws[start : start + step][:, self.group_index]


def middle_95(values: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of bootstrap values (Efron's percentile interval)."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _draw_groups(count: int, times: int, rng: np.random.Generator) -> np.ndarray:
    return rng.multinomial(count, np.full(count, 1 / count), times)
