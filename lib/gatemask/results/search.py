"""Results of `gatemask search`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from gatemask.results.rules import Frozen
from gatemask.stage import StageResult

TrialState = Literal["running", "finished", "pruned", "failed"]


class TrialSummary(Frozen):
    """One trial of a search.

    Args:
        number: Number of the trial, from 0.
        name: Name of its experiment.
        values: Its values, by dotted key.
        state: "running" until it is finished, pruned (its next fold was not worth training) or failed.
        folds: Score of each finished fold, by fold number.
        score: Mean of the scores of all folds; None unless the trial is finished.
        reason: Why it was pruned or failed; empty otherwise.
    """

    number: int
    name: str
    values: dict[str, JsonValue]
    state: TrialState
    folds: dict[int, float] = Field(default_factory=dict)
    score: float | None = None
    reason: str = ""


class SearchResult(StageResult):
    """Report of `gatemask search`, as its result.json holds it.

    Args:
        experiment: Name of the searched experiment.
        metric: Metric of the scores; higher is better.
        fold_order: Folds of a trial, in the order of training.
        trials: All trials, in order.
        left: Number of trials that are not done yet.
        best: Name of the best finished trial; None before one is finished.
        best_yaml: Its YAML, below the project's folder.
        best_score: Its score.
        own_score: Score of trial 0, where that is the experiment itself.
        trained: Number of folds trained.
        saved: Number of folds that pruned and failed trials did not train.
        stopped: Why the search ended before its last trial; left out otherwise.
    """

    experiment: str
    metric: str
    fold_order: tuple[int, ...]
    trials: tuple[TrialSummary, ...]
    left: int
    best: str | None = None
    best_yaml: str | None = None
    best_score: float | None = None
    own_score: float | None = None
    trained: int
    saved: int
    stopped: str | None = None
