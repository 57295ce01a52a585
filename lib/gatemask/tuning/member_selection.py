"""Which experiments are shipped, and with what weight: greedy selection by the cross-fitted score.

What is scored is an experiment, since its out-of-fold predictions come from all of its folds; what is shipped, and
counted against the caps, are its networks: the folds that ensemble.yaml takes of it. To take an experiment once more
raises its weight and costs nothing.

A path that was chosen by the scores of all folds has seen all folds. So each fold's others choose a path of their own,
and what they chose is scored on the fold that they did not see: that is `nested`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Tune, Variant
from gatemask.cost.kernel_time import KernelEstimate
from gatemask.errors import GatemaskError
from gatemask.masks.metrics import total
from gatemask.oof.tables import Tables, score, worths
from gatemask.tuning import exact
from gatemask.tuning.forward_selection import Counts, Round, cut, greedy, normal
from gatemask.tuning.members import Opened, average_gates
from gatemask.tuning.weight_search import COARSE, Tried, table_file, tables_of, try_out


@dataclass(frozen=True)
class HeldOut:
    """What a weighting is worth to the folds but one, and what their rule makes of that one.

    Args:
        score: on the others.
        worth: of the held-out images, float (n, classes), see gatemask.masks.metrics.
        weight: the same shape.
    """

    score: float
    worth: np.ndarray
    weight: np.ndarray


class Maps:
    """Threshold tables of the mask experiments by their weights: each weighting is counted once, and kept on disk.

    Args:
        predicted: every member's predictions.
        scratch: folder of the tables; for the caller to remove.
        inputs: hash of everything that the tables are made from, but the weights.
    """

    def __init__(self, predicted: Opened, scratch: Path, inputs: str) -> None:
        self._predicted, self._scratch, self._inputs = predicted, scratch, inputs

    def tables(self, weights: Sequence[float]) -> Tables:
        """Of this weighting, behind the gates of `predicted`."""
        seen = self._predicted
        return tables_of(seen.fold_of, seen.readers, seen.truth, seen.gate.__getitem__, weights, self._file(weights))

    def known(self, weights: Sequence[float]) -> Tables | None:
        """The same where it was counted before; what is looked at once is not worth keeping."""
        return self.tables(weights) if self._file(weights).exists() else None

    def _file(self, weights: Sequence[float]) -> Path:
        return table_file(self._scratch, weights, self._inputs)


def regated(tables: Tables, gate: Callable[[str], float]) -> Tables:
    """The same maps behind other gates."""
    return replace(tables, gate=np.array([gate(str(i)) for i in tables.ids]))


def select_masks(
    maps: Maps, metric: str, tune: Tune, kernel: KernelEstimate, names: Sequence[str], gates: Sequence[str]
) -> dict[str, Any]:
    """Take mask experiments as long as they help; see `_select` for what is returned.

    Args:
        maps: tables of the mask experiments.
        metric: a name in METRICS.
        tune: rounds, and which of the rule's numbers are searched.
        kernel: caps, and what a network costs.
        names: the mask experiments.
        gates: the gate experiments that are counted with them.
    """

    @cache
    def whole(counts: Counts) -> Tried:
        return try_out(maps.tables(shares(counts)), shares(counts), metric, tune.rule)

    def refuse(counts: Counts) -> str | None:
        return kernel.excess(gates, _taken(names, counts), lambda: whole(counts).passing)

    folds = maps.tables(shares((1,) * len(names))).folds
    return _select(names, whole, lambda fold, counts: _held(whole(counts), fold, folds), folds, tune.rounds, refuse)


def select_gates(
    predicted: Opened,
    maps: Maps,
    metric: str,
    tune: Tune,
    kernel: KernelEstimate,
    names: Sequence[str],
    masks: Sequence[str],
    weights: list[float],
    of_others: Mapping[int, list[float]],
) -> dict[str, Any]:
    """Take gate experiments as long as they help, behind maps whose weights are chosen already; see `_select`.

    Args:
        predicted: the gates' probabilities.
        maps: tables of the mask experiments.
        metric: a name in METRICS.
        tune: rounds, and which of the rule's numbers are searched.
        kernel: caps, and what a network costs.
        names: the gate experiments.
        masks: the mask experiments that are shipped.
        weights: of the maps, as `maps` takes them.
        of_others: the weights of the maps that all folds but one chose, by that fold, where they chose themselves.
    """
    known = {fold: maps.tables(chosen) for fold, chosen in of_others.items() if chosen != weights}
    base = maps.tables(weights)

    def behind(counts: Counts, tables: Tables) -> Tables:
        return regated(tables, average_gates(predicted.gates, shares(counts), predicted.fold_of).__getitem__)

    @cache
    def whole(counts: Counts) -> Tried:
        return try_out(behind(counts, base), shares(counts), metric, tune.rule)

    @cache
    def held(fold: int, counts: Counts) -> HeldOut:
        if fold in known:
            return _without(behind(counts, known[fold]), fold, metric, tune.rule)
        return _held(whole(counts), fold, base.folds)

    def refuse(counts: Counts) -> str | None:
        return kernel.excess(_taken(names, counts), masks, lambda: whole(counts).passing)

    return _select(names, whole, held, base.folds, tune.rounds, refuse)


def _select(
    names: Sequence[str],
    whole: Callable[[Counts], Tried],
    held: Callable[[int, Counts], HeldOut],
    folds: np.ndarray,
    rounds: int,
    refuse: Callable[[Counts], str | None],
) -> dict[str, Any]:
    """The path of all images, the paths of all folds but one, and what came of them.

    Args:
        names: of the experiments.
        whole: what counts are worth on all images.
        held: what they are worth to all folds but one.
        folds: (n,) int, of the images.
        rounds: at most.
        refuse: why counts must not be shipped. The caps bind the folds' own paths too.

    Returns:
        rounds: taken, score, scores (by experiment), counts, refused (by experiment, why) of each round.
        cut: how many of them are kept.
        weights: one an experiment, of sum 1.
        best_member: name and score of the best experiment alone.
        equal: the score of all experiments with equal weights, whatever the caps.
        score: cross-fitted, of what is kept.
        nested: the same where each fold is scored by what the other folds took.
        per_fold: the weights that they took.
        left_out: why, by experiment.
    """
    rounds = rounds if len(names) > 1 else 1  # of one experiment, another round is the same
    path = greedy(len(names), lambda counts: whole(counts).fit.score, rounds, refuse)
    if not path:
        raise _nothing_fits(names, refuse)
    kept = cut(path)
    first = whole(normal(path[0].counts)).fit
    worth, weight = np.zeros_like(first.worth), np.zeros_like(first.weight)
    per_fold = {}
    for fold in np.unique(folds).tolist():
        own = greedy(len(names), partial(_on_others, held, fold), rounds, refuse)
        counts = normal(own[cut(own) - 1].counts)
        there = held(fold, counts)
        worth[folds == fold], weight[folds == fold] = there.worth, there.weight
        per_fold[str(fold)] = shares(counts)
    return {
        "rounds": [_named(names, one) for one in path],
        "cut": kept,
        "weights": shares(path[kept - 1].counts),
        "best_member": {"name": names[path[0].taken], "score": path[0].score},
        "equal": whole((1,) * len(names)).fit.score,
        "score": path[kept - 1].score,
        "nested": total(worth, weight),
        "per_fold": per_fold,
        "left_out": _left_out(names, path, kept),
    }


def _on_others(held: Callable[[int, Counts], HeldOut], fold: int, counts: Counts) -> float:
    return held(fold, counts).score


def _held(tried: Tried, fold: int, folds: np.ndarray) -> HeldOut:
    there = folds == fold
    return HeldOut(tried.on_others[fold], tried.fit.worth[there], tried.fit.weight[there])


def _without(tables: Tables, fold: int, metric: str, variant: Variant) -> HeldOut:
    there = tables.folds == fold
    others = tables.subset(~there)
    rule, _ = exact.search(others, metric, variant, COARSE)
    return HeldOut(score(others, rule, metric), *worths(tables.subset(there), rule, metric))


def _named(names: Sequence[str], one: Round) -> dict[str, Any]:
    return {
        "taken": names[one.taken],
        "score": one.score,
        "scores": {names[at]: value for at, value in one.scores.items()},
        "counts": dict(zip(names, one.counts, strict=True)),
        "refused": {names[at]: why for at, why in one.refused.items()},
    }


def _left_out(names: Sequence[str], path: Sequence[Round], kept: int) -> dict[str, str]:
    """Why each experiment that is not kept is not: as the first round after the cut saw it."""
    after = path[min(kept, len(path) - 1)]
    missing = [at for at, count in enumerate(path[kept - 1].counts) if not count]
    ended = kept == len(path)
    otherwise = "others helped more in every round" if ended and len(path) > 1 else "did not help"
    return {names[at]: after.refused.get(at, otherwise) for at in missing}


def _nothing_fits(names: Sequence[str], refuse: Callable[[Counts], str | None]) -> GatemaskError:
    alone = [tuple(int(n == at) for n in range(len(names))) for at in range(len(names))]
    return GatemaskError(
        "No experiment may be shipped, not even alone.",
        where="ensemble.yaml",
        received="; ".join(f"{name}: {refuse(counts)}" for name, counts in zip(names, alone, strict=True)),
        expected="one at least that keeps within gate.members, mask.members and inference.hours",
        do="Raise the cap, or ship fewer folds of each (folds: 1).",
    )


def _taken(names: Sequence[str], counts: Counts) -> list[str]:
    return [name for name, count in zip(names, counts, strict=True) if count]


def shares(counts: Counts) -> list[float]:
    """Weights of sum 1."""
    return [count / sum(counts) for count in counts]
