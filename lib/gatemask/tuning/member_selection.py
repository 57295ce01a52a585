"""Select the shipped experiments and their weights greedily, by the cross-fitted score.

Scores belong to experiments, since out-of-fold predictions come from all folds of an experiment; the caps count the
networks that are shipped, the folds that ensemble.yaml takes of each. Taking an experiment again raises its weight at
no cost.

A path chosen by the scores of all folds has used all folds. So for each fold the other folds choose a path of their
own, and their choice is scored on the fold they did not use: that is `nested`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from gatemask.config import Tune, Variant
from gatemask.cost.kernel_time import KernelEstimate
from gatemask.errors import GatemaskError
from gatemask.masks.metrics import total
from gatemask.oof.tables import Tables, worths
from gatemask.results.tuning import BestMember, MemberSelection, SelectionRound
from gatemask.tuning import exact
from gatemask.tuning.forward_selection import Counts, Round, best_length, reduced, select_forward
from gatemask.tuning.members import MemberPredictions, average_gates
from gatemask.tuning.weight_search import COARSE, ScoredWeighting, score_weighting
from gatemask.tuning.weighted_tables import WeightedTables, with_gates


@dataclass(frozen=True)
class HeldOutScore:
    """A weighting scored on all folds but one, and the held-out images under the rule of those folds.

    Args:
        score: Score on the other folds.
        worth: Worth of the held-out images, float (n, classes); see gatemask.masks.metrics.
        weight: Weight of the held-out images, float (n, classes).
    """

    score: float
    worth: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class _Choice:
    """What a selection chooses from.

    Args:
        names: Names of the experiments.
        on_all: Returns the scores of some counts on all images.
        held_out: Returns the scores of some counts with a fold held out.
        folds: Fold of each image, int (n,).
        rounds: Maximum number of rounds.
        refuse: Returns why some counts must not be shipped, or None. The caps bind the folds' own paths too.
    """

    names: Sequence[str]
    on_all: Callable[[Counts], ScoredWeighting]
    held_out: Callable[[int, Counts], HeldOutScore]
    folds: np.ndarray
    rounds: int
    refuse: Callable[[Counts], str | None]


def select_masks(
    weighted: WeightedTables,
    metric: str,
    tune: Tune,
    kernel: KernelEstimate,
    names: Sequence[str],
    gates: Sequence[str],
) -> MemberSelection:
    """Take mask experiments as long as they help.

    Args:
        weighted: Threshold tables by weighting.
        metric: Name in METRICS.
        tune: Number of rounds, and the numbers of the rule to search.
        kernel: Caps, and the cost of each network.
        names: Names of the mask experiments.
        gates: Names of the gate experiments that count against the caps with them.

    Raises:
        GatemaskError: No experiment keeps within the caps.
    """

    @cache
    def on_all(counts: Counts) -> ScoredWeighting:
        return score_weighting(weighted.tables(shares(counts)), shares(counts), metric, tune.rule)

    def held_out(fold: int, counts: Counts) -> HeldOutScore:
        return _from_scored(on_all(counts), fold, folds)

    def refuse(counts: Counts) -> str | None:
        return kernel.excess(gates, _with_weight(names, counts), lambda: on_all(counts).passing)

    folds = weighted.tables(shares((1,) * len(names))).folds
    return _select(_Choice(names, on_all, held_out, folds, tune.rounds, refuse))


def select_gates(
    predictions: MemberPredictions,
    weighted: WeightedTables,
    metric: str,
    tune: Tune,
    kernel: KernelEstimate,
    names: Sequence[str],
    masks: Sequence[str],
    weights: list[float],
    of_others: Mapping[int, list[float]],
) -> MemberSelection:
    """Take gate experiments as long as they help, in front of maps whose weights are chosen.

    Args:
        predictions: Predictions of every member.
        weighted: Threshold tables by weighting of the maps.
        metric: Name in METRICS.
        tune: Number of rounds, and the numbers of the rule to search.
        kernel: Caps, and the cost of each network.
        names: Names of the gate experiments.
        masks: Names of the shipped mask experiments.
        weights: Chosen weights of the maps.
        of_others: Weights of the maps that all folds but one chose, by that fold, where they chose themselves.

    Raises:
        GatemaskError: No experiment keeps within the caps.
    """
    chosen_by_others = {fold: weighted.tables(chosen) for fold, chosen in of_others.items() if chosen != weights}
    base = weighted.tables(weights)

    def behind(counts: Counts, tables: Tables) -> Tables:
        return with_gates(tables, average_gates(predictions.gates, shares(counts), predictions.fold_of).__getitem__)

    @cache
    def on_all(counts: Counts) -> ScoredWeighting:
        return score_weighting(behind(counts, base), shares(counts), metric, tune.rule)

    @cache
    def held_out(fold: int, counts: Counts) -> HeldOutScore:
        if fold in chosen_by_others:
            return _from_tables(behind(counts, chosen_by_others[fold]), fold, metric, tune.rule)
        return _from_scored(on_all(counts), fold, base.folds)

    def refuse(counts: Counts) -> str | None:
        return kernel.excess(_with_weight(names, counts), masks, lambda: on_all(counts).passing)

    return _select(_Choice(names, on_all, held_out, base.folds, tune.rounds, refuse))


def _select(choice: _Choice) -> MemberSelection:
    """Return the path of all images, with the score of paths that the other folds chose for each fold."""
    names = choice.names
    rounds = choice.rounds if len(names) > 1 else 1  # a single experiment stays the same in further rounds
    path = select_forward(len(names), lambda counts: choice.on_all(counts).fit.score, rounds, choice.refuse)
    if not path:
        raise _nothing_fits(names, choice.refuse)
    kept = best_length(path)
    first = choice.on_all(reduced(path[0].counts)).fit
    worth, weight = np.zeros_like(first.worth), np.zeros_like(first.weight)
    per_fold = {}
    for fold in np.unique(choice.folds).tolist():
        others_path = select_forward(len(names), partial(_score_on_others, choice, fold), rounds, choice.refuse)
        counts = reduced(others_path[best_length(others_path) - 1].counts)
        images, scored = choice.folds == fold, choice.held_out(fold, counts)
        worth[images], weight[images] = scored.worth, scored.weight
        per_fold[str(fold)] = shares(counts)
    return MemberSelection(
        rounds=[_named(names, step) for step in path],
        cut=kept,
        weights=shares(path[kept - 1].counts),
        best_member=BestMember(name=names[path[0].taken], score=path[0].score),
        equal=choice.on_all((1,) * len(names)).fit.score,
        score=path[kept - 1].score,
        nested=total(worth, weight),
        per_fold=per_fold,
        left_out=_left_out(names, path, kept),
    )


def _score_on_others(choice: _Choice, fold: int, counts: Counts) -> float:
    return choice.held_out(fold, counts).score


def _from_scored(scored: ScoredWeighting, fold: int, folds: np.ndarray) -> HeldOutScore:
    images = folds == fold
    return HeldOutScore(scored.on_others[fold], scored.fit.worth[images], scored.fit.weight[images])


def _from_tables(tables: Tables, fold: int, metric: str, variant: Variant) -> HeldOutScore:
    images = tables.folds == fold
    others = tables.subset(~images)
    rules, value = exact.search_classes(others, metric, variant, COARSE)
    return HeldOutScore(value, *worths(tables.subset(images), rules, metric))


def _named(names: Sequence[str], step: Round) -> SelectionRound:
    return SelectionRound(
        taken=names[step.taken],
        score=step.score,
        scores={names[index]: value for index, value in step.scores.items()},
        counts=dict(zip(names, step.counts, strict=True)),
        refused={names[index]: reason for index, reason in step.refused.items()},
    )


def _left_out(names: Sequence[str], path: Sequence[Round], kept: int) -> dict[str, str]:
    """Return why each experiment without weight was left out, judged by the first round after the cut."""
    after = path[min(kept, len(path) - 1)]
    missing = [index for index, count in enumerate(path[kept - 1].counts) if not count]
    ended = kept == len(path)
    otherwise = "others helped more in every round" if ended and len(path) > 1 else "did not help"
    return {names[index]: after.refused.get(index, otherwise) for index in missing}


def _nothing_fits(names: Sequence[str], refuse: Callable[[Counts], str | None]) -> GatemaskError:
    alone = [tuple(int(other == index) for other in range(len(names))) for index in range(len(names))]
    return GatemaskError(
        "No experiment can be shipped, not even alone.",
        where="ensemble.yaml",
        received="; ".join(f"{name}: {refuse(counts)}" for name, counts in zip(names, alone, strict=True)),
        expected="at least one within gate.members, mask.members and inference.hours",
        do="Raise the cap, or ship fewer folds of each (folds: 1).",
    )


def _with_weight(names: Sequence[str], counts: Counts) -> list[str]:
    return [name for name, count in zip(names, counts, strict=True) if count]


def shares(counts: Counts) -> list[float]:
    """Return counts as weights of sum 1.

    >>> shares((3, 1))
    [0.75, 0.25]
    """
    return [count / sum(counts) for count in counts]
