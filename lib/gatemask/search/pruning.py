"""Whether a trial deserves its next fold.

A trial's score is the mean over its folds, so after some folds it is a prediction: the folds that are missing are
predicted from those that are done, by what the trials with all folds show, which is how much easier or harder each
fold is, and how much a score scatters beyond that. The scatter holds everything that differs between two trainings:
the images of the fold, seeds, batches. The trial is stopped where the chance that its score passes the best is small.

A signed-rank test over folds (Optuna's WilcoxonPruner) cannot do this with few folds. Of n differences, its smallest
one-sided p-value is 2^-n: 0.25 after two folds, 0.06 after four. Tests over images see thousands of them, but not the
scatter between trainings, and are sure of differences that the next seed turns around.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import optuna

    from gatemask.config import Pruner


def chance_to_win(complete: np.ndarray, own: Mapping[int, float]) -> float:
    """Return the probability that a trial, once all folds are done, has a higher mean score than the best trial.

    Two-way model: a score is the sum of its trial's mean, its fold's difference, and normal noise. The probability is
    that of Student's t with the degrees of freedom of the noise.

    Args:
        complete: Scores of the trials with all folds, float (trials, folds); two trials and two folds at least.
        own: Scores of the trial by fold, counted from 0 in the order of `complete`; not all folds.

    >>> done = np.array([[0.70, 0.74, 0.72], [0.72, 0.75, 0.73]])
    >>> round(chance_to_win(done, {0: 0.66}), 2), round(chance_to_win(done, {0: 0.74}), 2)
    (0.01, 0.97)
    """
    from scipy import stats

    trials, folds = complete.shape
    done = sorted(own)
    rest = [fold for fold in range(folds) if fold not in own]
    means = complete.mean(axis=0)
    noise = complete - complete.mean(axis=1, keepdims=True) - means + complete.mean()
    freedom = (trials - 1) * (folds - 1)
    variance = float((noise**2).sum()) / freedom
    scores = np.array([own[fold] for fold in done])
    predicted = scores.mean() + means[rest].mean() - means[done].mean()
    mean = (scores.sum() + predicted * len(rest)) / folds
    spread = float(np.sqrt(variance * len(rest) / (len(done) * folds) * (1 + 1 / trials)))
    ahead = float(mean - complete.mean(axis=1).max())
    if spread < 1e-12:  # scores without noise
        return float(ahead > 0)
    return float(stats.t.cdf(ahead / spread, freedom))


def scores_by_step(trial: optuna.trial.FrozenTrial) -> dict[int, float]:
    """Return the scores of a trial's finished folds, by position in the order of folds."""
    return {int(step): float(score) for step, score in sorted(trial.intermediate_values.items())}


def chance_of(study: optuna.Study, trial: optuna.trial.FrozenTrial, folds: int, startup: int) -> float | None:
    """Return `chance_to_win` of a trial in a study; None while fewer than `startup` trials have all folds."""
    import optuna

    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    rows = [[scores[step] for step in range(folds)] for t in finished if len(scores := scores_by_step(t)) == folds]
    own = scores_by_step(trial)
    if len(rows) < max(2, startup) or not 0 < len(own) < folds:
        return None
    return chance_to_win(np.array(rows), own)


def make_pruner(settings: Pruner, folds: int) -> optuna.pruners.BasePruner:
    """Return the pruner of a search.

    Args:
        settings: Section `pruner`.
        folds: Number of folds of a trial.
    """
    import optuna

    class IntervalPruner(optuna.pruners.BasePruner):
        """Stops a trial whose chance of becoming the best is below `hope`."""

        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            chance = chance_of(study, trial, folds, settings.startup)
            return chance is not None and chance < settings.hope

    if settings.name == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.pruners.WilcoxonPruner(p_threshold=settings.hope)
    if settings.name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=settings.startup)
    return IntervalPruner() if settings.name == "interval" else optuna.pruners.NopPruner()
