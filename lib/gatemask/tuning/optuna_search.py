"""Search the rule with Optuna, where no exact search exists, and to compare samplers with the exact optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gatemask.config import Variant
from gatemask.console import progress
from gatemask.masks.metrics import METRICS, ratio
from gatemask.masks.rule import Rule, probability
from gatemask.oof.tables import Scorable, score
from gatemask.storage import storage_errors
from gatemask.tuning.journal import Params, Space, complete_trials, open_study

if TYPE_CHECKING:
    import optuna

FULL = Variant()
BATCH = 20  # trials between two writes of the journal
# Obvious starting points: no gate and no minimum, and the thresholds of well-known solutions.
STARTS = (Rule(0.0, 0.5, 0.5, 0), Rule(0.6, 0.75, 0.4, 200))


@dataclass(frozen=True)
class StudyResult:
    """Result of an Optuna study.

    Args:
        rule: Rule of the best trial, its gate moved to the middle of the best plateau.
        best: Score of the best trial.
        values: Score of each trial, in order.
    """

    rule: Rule
    best: float
    values: list[float]


def search_with_optuna(
    counted: Scorable,
    metric: str,
    variant: Variant = FULL,
    sampler: str = "tpe",
    trials: int = 300,
    seed: int = 0,
    journal: Path | None = None,
    name: str = "rule",
    start: Sequence[Rule] = STARTS,
    family: str | None = None,
    copy_to: Callable[[optuna.Study], object] | None = None,
) -> StudyResult:
    """Search the best rule for one class of these images with Optuna.

    Args:
        counted: Tables or components of the images, of one class.
        metric: Name in METRICS.
        variant: Numbers of the rule to search. Default: gate and both thresholds, no components.
        sampler: 'tpe' or 'cmaes'. Default: 'tpe'.
        trials: Number of trials, including those the journal already holds under this name. Default: 300.
        seed: Seed of the sampler. The same seed finds the same rule, unless the study was interrupted. Default: 0.
        journal: File that keeps the study, for optuna-dashboard and to resume after an interruption. Default: none.
        name: Name of the study; a journal that holds another study is started over. Default: "rule".
        start: Rules to try first.
        family: Beginning of the names of all studies in the journal. Default: it holds this one only.
        copy_to: Called with the finished study, to keep it elsewhere, too. Default: none.

    >>> from gatemask.oof.tables import Tables
    >>> levels = np.repeat([[[4] * 256 + [0]]], 4, axis=0)
    >>> tables = Tables(np.arange(4).astype(str), np.arange(4), np.ones(4), levels, levels, levels[:, :, 0])
    >>> search_with_optuna(tables, "mean_dice", trials=2).best
    1.0
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = _space(counted, variant, start)

    def score_of(params: Params) -> float:
        return score(counted, _rule(params, counted.levels, variant.by_quantile), metric)

    kept = None if journal is None else open_study(journal, name, space, score_of, family)
    before = [] if kept is None else complete_trials(kept)
    # Trials run in memory and reach the journal in batches: it flushes each parameter of each trial to disk.
    study = optuna.create_study(
        direction="maximize",
        study_name=name,
        sampler=_sampler(sampler, seed + len(before)),  # the same seed would only repeat the first trials
    )
    study.add_trials(before)
    for rule in start if not before else ():
        study.enqueue_trial(_params(rule, space), skip_if_exists=True)
    for first in progress(range(len(before), trials, BATCH), name, -(-max(0, trials - len(before)) // BATCH)):
        study.optimize(lambda trial: score_of(_suggest(trial, space)), n_trials=min(BATCH, trials - first))
        if kept is not None:
            with storage_errors(journal):
                kept.add_trials(complete_trials(study)[first:])
    if copy_to is not None:
        copy_to(study)
    rule = _rule(study.best_params, counted.levels, variant.by_quantile)
    settled = settle_gate(counted, rule, metric) if variant.gate else rule
    values = [float(trial.value or 0.0) for trial in complete_trials(study)]
    return StudyResult(settled, float(study.best_value), values)


def settle_gate(counted: Scorable, rule: Rule, metric: str) -> Rule:
    """Return the rule with its best gate, exactly: the middle of the widest of the best plateaus.

    The score is flat between two images' gate probabilities, so these are all possible cuts. A gate that a sampler
    left at the edge of a plateau would pass images for nothing, or lose one with the next decimal.

    >>> from gatemask.oof.tables import Tables
    >>> levels = np.repeat([[[4] * 256 + [0]]], 2, axis=0)
    >>> truth = np.array([[4], [0]])
    >>> hits = levels * truth[:, :, None] // 4
    >>> tables = Tables(np.array(["a", "b"]), np.arange(2), np.array([0.8, 0.2]), levels, hits, truth)
    >>> settle_gate(tables, Rule(0.75, 0.5, 0.5, 0), "mean_dice").gate
    0.5
    """
    nothing = np.zeros(counted.truth.shape)
    kept = METRICS[metric](*counted.counts(replace(rule, gate=0.0)), counted.truth)
    emptied = METRICS[metric](nothing, nothing, counted.truth)
    scores = counted.gate_scores(rule)[:, 0]
    order = np.argsort(-scores, kind="stable")
    gates = scores[order]
    # Row k: the first k images pass. Equal gates cannot be separated.
    worth, weight = (_passing(a[order], b[order]) for a, b in zip(kept, emptied, strict=True))
    values = ratio(worth, weight).mean(axis=1)
    edges = np.concatenate([[1.0], gates, [0.0]])
    highs, lows = edges[:-1], edges[1:]
    values[1:-1][gates[1:] == gates[:-1]] = -np.inf
    values[0] = -np.inf if gates[0] >= 1 else values[0]
    best = np.flatnonzero(values >= values.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    widest = max(runs, key=lambda run: highs[run[0]] - lows[run[-1]])
    gate = round(float((highs[widest[0]] + lows[widest[-1]]) / 2), 6)
    settled = replace(rule, gate=gate)
    return settled if score(counted, settled, metric) >= score(counted, rule, metric) else rule


def _passing(kept: np.ndarray, emptied: np.ndarray) -> np.ndarray:
    """Return the sums with the first k rows kept and the others emptied, float (n + 1, classes)."""
    zero = np.zeros((1, kept.shape[1]))
    before = np.concatenate([zero, np.cumsum(kept, axis=0)])
    after = np.concatenate([np.cumsum(emptied[::-1], axis=0)[::-1], zero])
    sums: np.ndarray = before + after
    return sums


def largest_area(truth: np.ndarray) -> int:
    """Return the upper bound of `min_area`, twice the median mask: a higher cut only discards masks.

    >>> largest_area(np.array([[0], [10], [30]]))
    40
    """
    positive = truth[truth > 0]
    return max(1, int(2 * np.median(positive))) if len(positive) else 1


def _space(counted: Scorable, variant: Variant, start: Sequence[Rule]) -> Space:
    top = max([largest_area(counted.truth), *(rule.min_area for rule in start)])
    space: Space = {"upper": (0.02, 0.99)}
    if variant.gate:
        space["gate"] = (0.0, 1.0)
    if variant.thresholds == 2:
        # A share of `upper` rather than a moving bound: samplers learn fixed ranges only.
        space["lo_over_hi"] = (0.05, 1.0)
    space["min_area"] = (0, top)
    if variant.components:
        space["min_component"] = (0, top)
    if variant.hysteresis:
        space["hysteresis"] = (False, True)
    return space


def _suggest(trial: optuna.Trial, space: Space) -> Params:
    for name, bounds in space.items():
        if isinstance(bounds[0], bool):
            trial.suggest_categorical(name, bounds)
        else:  # areas too: TPE takes three times as long over integers
            trial.suggest_float(name, *bounds)
    params: Params = trial.params
    return params


def _params(rule: Rule, space: Space) -> Params:
    """Return a rule as parameters of a trial, clipped to their bounds."""
    values = {
        "gate": rule.gate,
        "upper": rule.upper,
        "lo_over_hi": rule.lower / (rule.upper or 1.0),
        "min_area": rule.min_area,
        "min_component": rule.min_component,
        "hysteresis": rule.hysteresis,
    }
    return {
        name: values[name] if isinstance(bounds[0], bool) else min(max(values[name], bounds[0]), bounds[1])
        for name, bounds in space.items()
    }


def _rule(params: Params, levels: Sequence[int], quantile: bool) -> Rule:
    """Return the rule of a trial; its lower threshold is the nearest that can be scored."""
    upper = max(1, round(params["upper"] * 255), levels[0])
    wanted = max(1, round(upper * params.get("lo_over_hi", 1.0)))
    lower = min((level for level in levels if level <= upper), key=lambda level: abs(level - wanted))
    return Rule(
        gate=round(params.get("gate", 0.0), 4),
        upper=probability(upper if "lo_over_hi" in params else lower),
        lower=probability(lower),
        min_area=round(params["min_area"]),
        min_component=round(params.get("min_component", 0)),
        hysteresis=bool(params.get("hysteresis", False)),
        quantile=quantile,
    )


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return optuna.samplers.TPESampler(seed=seed)
