"""Search the rule's four numbers with Optuna on threshold tables, and cross-fit the score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gatemask.masks.rule import LEVELS, Rule, probability
from gatemask.oof.tables import Tables, score, scores

if TYPE_CHECKING:
    import optuna


def search(tables: Tables, metric: str, trials: int, seed: int, journal: Path | None = None) -> tuple[Rule, float]:
    """The best rule that Optuna's TPE finds on these images, and its score on the same images.

    Args:
        tables: threshold tables of the images to tune on.
        metric: name of the competition's metric.
        trials: rules to try.
        seed: of the sampler; the same seed finds the same rule.
        journal: keep the study in this file, for optuna-dashboard.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    if journal is not None:
        for left in (journal, journal.with_name(journal.name + ".lock")):
            left.unlink(missing_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(
        direction="maximize", storage=storage, study_name="rule", sampler=optuna.samplers.TPESampler(seed=seed)
    )
    top = largest_area(tables)
    # Where people would start: no gate and no minimum, and the seed solution's thresholds.
    study.enqueue_trial({"gate": 0.0, "upper": 0.5, "lower_over_upper": 1.0, "min_area": 0})
    study.enqueue_trial({"gate": 0.6, "upper": 0.75, "lower_over_upper": 0.55, "min_area": min(200, top)})
    study.optimize(lambda trial: score(tables, _suggest(trial, top), metric), n_trials=trials)
    best = settle_gate(tables, _rule(study.best_params), metric)
    return best, score(tables, best, metric)


def settle_gate(tables: Tables, rule: Rule, metric: str) -> Rule:
    """The best gate for a rule's other three numbers, exactly: the middle of the widest of the best plateaus.

    Between two images' gate probabilities the score is flat, so those are all the cuts there are. A gate that
    TPE left at the edge of a plateau would pass images for nothing, or lose one with the next decimal.
    """
    cuts = np.unique(np.concatenate([[0.0, 1.0], tables.gate]))
    if len(cuts) > 2000:  # finer than any validation set can tell
        cuts = np.quantile(cuts, np.linspace(0, 1, 2000))
    middles = (cuts[1:] + cuts[:-1]) / 2
    found = np.array([score(tables, replace(rule, gate=float(g)), metric) for g in middles])
    best = np.flatnonzero(found >= found.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    widest = max(runs, key=lambda run: cuts[run[-1] + 1] - cuts[run[0]])
    gate = round(float((cuts[widest[0]] + cuts[widest[-1] + 1]) / 2), 4)
    settled = replace(rule, gate=gate)
    return settled if score(tables, settled, metric) >= score(tables, rule, metric) else rule


def largest_area(tables: Tables) -> int:
    """Upper bound of `min_area`: twice the median mask, since a higher cut only throws masks away."""
    positive = tables.truth[tables.truth > 0]
    return max(1, int(2 * np.median(positive))) if len(positive) else 1


def cross_fit(tables: Tables, metric: str, trials: int, seed: int) -> tuple[float, dict[int, Rule], np.ndarray]:
    """The score to believe: each fold is scored by a rule that was tuned on the other folds.

    Returns:
        The metric over all images, the rule used on each fold, and each image's score (n, classes).
    """
    from gatemask.masks.metric import METRICS

    rules: dict[int, Rule] = {}
    per_image = np.zeros(tables.truth.shape)
    for fold in np.unique(tables.folds):
        held = tables.folds == fold
        rules[int(fold)], _ = search(tables.subset(~held), metric, trials, seed)
        per_image[held] = scores(tables.subset(held), rules[int(fold)])
    return METRICS[metric](per_image), rules, per_image


def surface(tables: Tables, rule: Rule, metric: str, steps: int = 26) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The score over gate and upper threshold, the other two as in `rule`.

    Returns:
        gates (steps,), uppers (steps,), scores (steps, steps) with a row for each gate.
    """
    gates = np.linspace(0, 1, steps)
    uppers = np.array([probability(level) for level in np.linspace(1, LEVELS - 1, steps).round().astype(int)])
    found = [
        [score(tables, Rule(float(g), float(u), min(rule.lower, float(u)), rule.min_area), metric) for u in uppers]
        for g in gates
    ]
    return gates, uppers, np.array(found)


def _suggest(trial: optuna.Trial, top: int) -> Rule:
    trial.suggest_float("gate", 0.0, 1.0)
    trial.suggest_float("upper", 0.02, 0.99)
    # A share of `upper` rather than a bound that moves: samplers learn fixed ranges only.
    trial.suggest_float("lower_over_upper", 0.05, 1.0)
    trial.suggest_int("min_area", 0, top)
    return _rule(trial.params)


def _rule(params: dict[str, float]) -> Rule:
    upper = probability(max(1, round(params["upper"] * 255)))
    lower = probability(max(1, round(upper * params["lower_over_upper"] * 255)))
    return Rule(round(params["gate"], 4), upper, min(lower, upper), int(params["min_area"]))
