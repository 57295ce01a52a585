"""Search the rule with Optuna: for what the exact search does not cover, and to measure what samplers leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatemask.config import Variant
from gatemask.console import progress
from gatemask.masks.metrics import METRICS, ratio
from gatemask.masks.rule import Rule, probability
from gatemask.oof.tables import Scorable, score

if TYPE_CHECKING:
    import optuna

FULL = Variant()
BATCH = 20  # trials between two writes of the journal
# Where people would start: no gate and no minimum, and the thresholds of well-known solutions.
STARTS = (Rule(0.0, 0.5, 0.5, 0), Rule(0.6, 0.75, 0.4, 200))


@dataclass(frozen=True)
class Found:
    """What a study came to.

    Args:
        rule: the best trial's, its gate moved to the middle of the best plateau.
        best: the best trial's score.
        values: the score of each trial, in order.
    """

    rule: Rule
    best: float
    values: list[float]


def search(
    counted: Scorable,
    metric: str,
    variant: Variant = FULL,
    sampler: str = "tpe",
    trials: int = 300,
    seed: int = 0,
    journal: Path | None = None,
    name: str = "rule",
    start: Sequence[Rule] = STARTS,
) -> Found:
    """The best rule that Optuna finds on these images.

    Args:
        counted: tables of the images, or components.
        metric: a name in METRICS.
        variant: which parts of the rule are searched.
        sampler: 'tpe' or 'cmaes'.
        trials: rules to try; those that the journal already holds under this name count.
        seed: of the sampler; the same seed finds the same rule, unless the study was interrupted.
        journal: keep the study in this file, for optuna-dashboard and to go on after an interruption.
        name: of the study; a journal that holds another one is begun anew.
        start: rules to try first.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = None if journal is None else _kept(journal, name)
    before = [] if kept is None else _complete(kept)
    # In memory, and a batch at a time into the journal: that flushes each parameter of each trial to the disk.
    study = optuna.create_study(
        direction="maximize",
        study_name=name,
        sampler=_sampler(sampler, seed + len(before)),  # the same seed again would only repeat the first trials
    )
    study.add_trials(before)
    space = _space(counted, variant, start)
    for rule in start if not before else ():
        study.enqueue_trial(_params(rule, space), skip_if_exists=True)
    for first in progress(range(len(before), trials, BATCH), name, -(-max(0, trials - len(before)) // BATCH)):
        study.optimize(
            lambda trial: score(counted, _rule(_suggest(trial, space), counted.levels), metric),
            n_trials=min(BATCH, trials - first),
        )
        if kept is not None:
            kept.add_trials(_complete(study)[first:])
    rule = _rule(study.best_params, counted.levels)
    settled = settle_gate(counted, rule, metric) if variant.gate else rule
    return Found(settled, float(study.best_value), [float(trial.value or 0.0) for trial in _complete(study)])


def settle_gate(counted: Scorable, rule: Rule, metric: str) -> Rule:
    """The best gate for the rest of a rule, exactly: the middle of the widest of the best plateaus.

    Between two images' gate probabilities the score is flat, so those are all the cuts there are. A gate that a
    sampler left at the edge of a plateau would pass images for nothing, or lose one with the next decimal.
    """
    nothing = np.zeros(counted.truth.shape)
    kept = METRICS[metric](*counted.counts(replace(rule, gate=0.0)), counted.truth)
    emptied = METRICS[metric](nothing, nothing, counted.truth)
    order = np.argsort(-counted.gate, kind="stable")
    gates = counted.gate[order]
    # Row k: the first k images pass. Between equal gates there is no cut.
    worth, weight = (_passing(a[order], b[order]) for a, b in zip(kept, emptied, strict=True))
    found = ratio(worth, weight).mean(axis=1)
    edges = np.concatenate([[1.0], gates, [0.0]])
    highs, lows = edges[:-1], edges[1:]
    found[1:-1][gates[1:] == gates[:-1]] = -np.inf
    found[0] = -np.inf if gates[0] >= 1 else found[0]
    best = np.flatnonzero(found >= found.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    widest = max(runs, key=lambda run: highs[run[0]] - lows[run[-1]])
    gate = round(float((highs[widest[0]] + lows[widest[-1]]) / 2), 6)
    settled = replace(rule, gate=gate)
    return settled if score(counted, settled, metric) >= score(counted, rule, metric) else rule


def _passing(kept: np.ndarray, emptied: np.ndarray) -> np.ndarray:
    """Sums where the first k rows are kept and the others emptied: (n + 1, classes)."""
    zero = np.zeros((1, kept.shape[1]))
    before = np.concatenate([zero, np.cumsum(kept, axis=0)])
    after = np.concatenate([np.cumsum(emptied[::-1], axis=0)[::-1], zero])
    return before + after


def largest_area(truth: np.ndarray) -> int:
    """Upper bound of `min_area`: twice the median mask, since a higher cut only throws masks away."""
    positive = truth[truth > 0]
    return max(1, int(2 * np.median(positive))) if len(positive) else 1


def _space(counted: Scorable, variant: Variant, start: Sequence[Rule]) -> dict[str, tuple[Any, ...]]:
    """Name -> bounds or choices, of the parts that are searched."""
    top = max([largest_area(counted.truth), *(rule.min_area for rule in start)])
    space: dict[str, tuple[Any, ...]] = {"upper": (0.02, 0.99)}
    if variant.gate:
        space["gate"] = (0.0, 1.0)
    if variant.thresholds == 2:
        # A share of `upper` rather than a bound that moves: samplers learn fixed ranges only.
        space["lo_over_hi"] = (0.05, 1.0)
    space["min_area"] = (0, top)
    if variant.components:
        space["min_component"] = (0, top)
    if variant.hysteresis:
        space["hysteresis"] = (False, True)
    return space


def _suggest(trial: optuna.Trial, space: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    for name, bounds in space.items():
        if isinstance(bounds[0], bool):
            trial.suggest_categorical(name, bounds)
        else:  # areas too: TPE takes three times as long over integers
            trial.suggest_float(name, *bounds)
    return trial.params


def _params(rule: Rule, space: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """A rule as the study spells it, moved into its bounds."""
    given = {
        "gate": rule.gate,
        "upper": rule.upper,
        "lo_over_hi": rule.lower / (rule.upper or 1.0),
        "min_area": rule.min_area,
        "min_component": rule.min_component,
        "hysteresis": rule.hysteresis,
    }
    return {
        name: given[name] if isinstance(bounds[0], bool) else min(max(given[name], bounds[0]), bounds[1])
        for name, bounds in space.items()
    }


def _rule(params: dict[str, Any], levels: Sequence[int]) -> Rule:
    """The rule of a trial; its lower threshold is the nearest that can be scored."""
    upper = max(1, round(params["upper"] * 255), levels[0])
    wanted = max(1, round(upper * params.get("lo_over_hi", 1.0)))
    lower = min((one for one in levels if one <= upper), key=lambda one: abs(one - wanted))
    return Rule(
        gate=round(params.get("gate", 0.0), 4),
        upper=probability(upper if "lo_over_hi" in params else lower),
        lower=probability(lower),
        min_area=round(params["min_area"]),
        min_component=round(params.get("min_component", 0)),
        hysteresis=bool(params.get("hysteresis", False)),
    )


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return optuna.samplers.TPESampler(seed=seed)


def _kept(journal: Path, name: str) -> optuna.Study:
    """The study in the journal; what a killed process left half-written is cut off, another study is removed."""
    import optuna

    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if journal.exists():
        text = journal.read_bytes()
        if not text.endswith(b"\n"):
            journal.write_bytes(text[: text.rfind(b"\n") + 1])
        if f'"{name}"'.encode() not in text:
            journal.unlink()
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    except ValueError:  # damaged in the middle: nothing in it cannot be searched again
        journal.unlink()
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    return optuna.create_study(direction="maximize", storage=storage, study_name=name, load_if_exists=True)


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    import optuna

    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
