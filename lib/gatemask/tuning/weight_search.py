"""Search the weights of the mask members, and measure whether they beat equal weights.

The weightings that are tried do not depend on scores: equal weights, each member alone, and points of a scrambled
Sobol sequence. So every fold can choose among the same ones without having influenced them, and one pass over the maps
serves all folds. A choice is scored as rules are: chosen on the other folds, scored on this one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gatemask.config import Variant
from gatemask.console import progress
from gatemask.masks.metrics import total
from gatemask.masks.rule_files import as_values
from gatemask.oof.tables import Tables, passing, score
from gatemask.results.tuning import FoldWeighting, Weighing, WeightingScore
from gatemask.tuning import exact
from gatemask.tuning.crossfit import CrossFit, cross_fit
from gatemask.tuning.weighted_tables import WeightedTables

COARSE = range(4, 256, 8)  # levels of each weighting's optimum: enough to compare weightings
TIED = 1e-12


@dataclass(frozen=True)
class ScoredWeighting:
    """A weighting and the scores of its best rules.

    Args:
        weights: One weight per member, of sum 1.
        in_sample: Score of the best rule of all images, on these images.
        fit: Best rules of all folds but one, each scored on that fold.
        on_others: Score of each of those rules on the images it was found on, by held-out fold.
        passing: Share of images that pass the gate of the best rules of all images, for any class.
    """

    weights: list[float]
    in_sample: float
    fit: CrossFit
    on_others: dict[int, float]
    passing: float


def search_weights(
    weighted: WeightedTables,
    metric: str,
    variant: Variant,
    candidates: int,
    seed: int,
    equal: Sequence[float] | None = None,
) -> tuple[list[float], Weighing]:
    """Return the weighting whose best rule scores highest, if it beats equal weights on folds it was not chosen on.

    Args:
        weighted: Threshold tables by weighting.
        metric: Name in METRICS.
        variant: Numbers of the rule to search; component rules are not searched.
        candidates: Number of weightings to try. Equal weights and each member alone are always tried.
        seed: Seed of the Sobol sequence.
        equal: Weighting that counts as equal, where some members are views of one network. Default: all ones.

    Returns:
        Weights of sum 1, and how they were searched. A single member needs no search: its scores are None.
    """
    members = len(weighted.predictions.readers)
    if members == 1:
        single = Weighing(cross_fitted=None, equal_cross_fitted=None, taken=False, tried=[], per_fold={})
        return [1.0], single
    to_try = weightings(members, candidates, seed, equal)
    scored = [
        score_weighting(weighted.tables(weights), weights, metric, variant)
        for weights in progress(to_try, "weights", len(to_try))
    ]
    fold_of = weighted.predictions.fold_of
    return _choose(scored, np.array([fold_of[i] for i in sorted(fold_of)]))


def weightings(members: int, count: int, seed: int, equal: Sequence[float] | None = None) -> list[list[float]]:
    """Return the weightings to try: equal weights, each member alone, then Sobol points; each of sum 1.

    Args:
        members: Number of members.
        count: Number of weightings. Equal weights and each member alone are always included.
        seed: Seed of the sequence.
        equal: First weighting. Default: all ones.

    >>> weightings(2, 3, seed=0)
    [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]
    """
    first = np.array([equal or [1.0] * members])
    rows = np.concatenate([first, np.eye(members), sobol_points(members, count - 1 - members, seed)])
    return [[float(share) for share in row / row.sum()] for row in rows]


def sobol_points(dimensions: int, count: int, seed: int) -> np.ndarray:
    """Return points of a scrambled Sobol sequence in the unit cube, float (count, dimensions)."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = [str(n) for n in range(dimensions)]
    space = {name: optuna.distributions.FloatDistribution(0, 1) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
    study = optuna.create_study(sampler=sampler)
    # The sampler learns the space from a finished trial; without one its first point would be random.
    study.add_trial(optuna.trial.create_trial(params=dict.fromkeys(space, 0.5), distributions=space, value=0.0))
    points = [list(study.ask(space).params.values()) for _ in range(count)]
    return np.array(points).reshape(-1, dimensions)


def score_weighting(tables: Tables, weights: list[float], metric: str, variant: Variant) -> ScoredWeighting:
    """Score the best rules, on coarse levels, for images averaged by these weights."""
    rules, in_sample = exact.search_classes(tables, metric, variant, COARSE)
    fit = cross_fit(tables, metric, lambda images: exact.search_classes(images, metric, variant, COARSE)[0], "weights")
    on_others = {fold: score(tables.subset(tables.folds != fold), given, metric) for fold, given in fit.rules.items()}
    return ScoredWeighting(weights, in_sample, fit, on_others, float(passing(tables, rules).mean()))


def _choose(scored: list[ScoredWeighting], folds: np.ndarray) -> tuple[list[float], Weighing]:
    """Let the other folds choose for each fold, score it by their choice, and compare with equal weights.

    Args:
        scored: All weightings, equal weights first.
        folds: Fold of each image, int (n,).
    """
    equal = scored[0]
    worth, weight, per_fold = np.zeros_like(equal.fit.worth), np.zeros_like(equal.fit.weight), {}
    for fold in equal.on_others:
        held_out, chosen = folds == fold, _best(scored, [weighting.on_others[fold] for weighting in scored])
        worth[held_out], weight[held_out] = chosen.fit.worth[held_out], chosen.fit.weight[held_out]
        per_fold[str(fold)] = FoldWeighting(weights=chosen.weights, rule=as_values(chosen.fit.rules[fold]))
    cross_fitted = total(worth, weight)
    taken = cross_fitted > equal.fit.score + TIED
    best = _best(scored, [weighting.in_sample for weighting in scored]) if taken else equal
    return best.weights, Weighing(
        cross_fitted=cross_fitted,
        equal_cross_fitted=equal.fit.score,
        taken=taken,
        tried=[WeightingScore(weights=weighting.weights, in_sample=weighting.in_sample) for weighting in scored],
        per_fold=per_fold,
    )


def _best(scored: list[ScoredWeighting], values: list[float]) -> ScoredWeighting:
    """Return the first of the best: equal weights before single members before anything in between."""
    top = max(values)
    return next(weighting for weighting, value in zip(scored, values, strict=True) if value >= top - TIED)
