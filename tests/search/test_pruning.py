"""Decisions of the pruner, as a table of scores and expected decisions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest

from gatemask.config import Pruner
from gatemask.search.pruning import chance_to_win, make_pruner

# Two trials with all folds: noise of about 0.005, fold 1 easier by 0.03 than fold 0, fold 2 by 0.01.
DONE = [[0.700, 0.735, 0.712], [0.710, 0.738, 0.722]]


def study_of(complete: Sequence[Sequence[float]], own: Sequence[float], pruner: Pruner) -> optuna.Trial:
    """Return a running trial, after others with all folds."""
    folds = len(complete[0]) if complete else 3
    study = optuna.create_study(direction="maximize", pruner=make_pruner(pruner, folds))
    for scores in complete:
        trial = study.ask()
        for step, score in enumerate(scores):
            trial.report(score, step)
        study.tell(trial, float(np.mean(scores)))
    trial = study.ask()
    for step, score in enumerate(own):
        trial.report(score, step)
    return trial


@pytest.mark.parametrize(
    ("complete", "own", "pruned", "why"),
    [
        (DONE, [0.60], True, "far below the best on the same fold"),
        (DONE, [0.72], False, "above the best"),
        (DONE, [0.706], False, "below the best by less than the noise"),
        (DONE, [0.70, 0.700], True, "the second fold decides"),
        (DONE, [0.66, 0.80], False, "the second fold makes up for the first"),
        (DONE[:1], [0.10], False, "one finished trial shows no noise"),
        ([], [0.10], False, "no finished trial"),
        (DONE, [], False, "no finished fold"),
        (DONE, [0.1, 0.1, 0.1], False, "all folds are done anyway"),
        ([[0.7, 0.7], [0.7, 0.7]], [0.69], True, "no noise at all: below"),
        ([[0.7, 0.7], [0.7, 0.7]], [0.71], False, "no noise at all: above"),
        ([[0.5, 0.9, 0.7], [0.9, 0.5, 0.7]], [0.3], False, "noise as large as the difference"),
    ],
)
def test_decisions(complete: list[list[float]], own: list[float], pruned: bool, why: str) -> None:
    assert study_of(complete, own, Pruner(hope=0.1)).should_prune() is pruned, why


@pytest.mark.parametrize(
    ("pruner", "own", "pruned"),
    [
        (Pruner(name="none"), [0.1, 0.1], False),
        (Pruner(name="median"), [0.69], True),
        (Pruner(name="median", startup=3), [0.69], False),
        (Pruner(name="wilcoxon"), [0.1, 0.1], False),  # of two folds the smallest p-value is 0.25
        (Pruner(name="wilcoxon", hope=0.3), [0.1, 0.1], True),
        (Pruner(startup=3), [0.1], False),
        (Pruner(hope=0.0), [0.1], False),
    ],
)
def test_other_rules(pruner: Pruner, own: list[float], pruned: bool) -> None:
    assert bool(study_of(DONE, own, pruner).should_prune()) is pruned


def test_the_chance_is_that_of_simulated_trials() -> None:
    """Of trials with these first folds, as many pass the best as predicted."""
    rng = np.random.default_rng(0)
    predicted, passed = [], []
    for _ in range(3000):
        folds = rng.normal(0, 0.05, 4)
        scores = 0.7 + rng.normal(0, 0.01, (9, 1)) + folds + rng.normal(0, 0.01, (9, 4))
        complete, own = scores[:8], scores[8]
        predicted.append(chance_to_win(complete, {0: own[0], 1: own[1]}))
        passed.append(own.mean() > complete.mean(axis=1).max())
    chances, results = np.array(predicted), np.array(passed)
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5)):
        some = (chances >= low) & (chances < high)
        # Real differences between trials are as large as the noise, so a good start is partly luck: fewer pass.
        assert results[some].mean() <= chances[some].mean() + 0.02, f"{low} to {high}"


def test_a_higher_score_never_lowers_the_chance() -> None:
    done = np.array(DONE)
    chances = [chance_to_win(done, {0: score}) for score in np.linspace(0.6, 0.8, 21)]
    assert chances == sorted(chances)
    assert chances[0] < 0.01 < 0.99 < chances[-1]
