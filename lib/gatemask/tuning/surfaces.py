"""Score a rule at neighboring thresholds: over gate and upper threshold, and along each number."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gatemask.masks.metrics import METRICS, ratio
from gatemask.masks.rule import LEVELS, Rule, probability
from gatemask.oof.components import Components
from gatemask.oof.tables import Scorable, Tables, score, worths


class Surface(NamedTuple):
    """Scores over gate and upper threshold.

    Args:
        gates: Gate cuts, ascending; the rule's own is among them.
        uppers: Upper thresholds, ascending; the rule's own is among them.
        scores: Scores, float (gates, uppers).
    """

    gates: np.ndarray
    uppers: np.ndarray
    scores: np.ndarray


class Slice(NamedTuple):
    """Scores along one number of a rule, the others unchanged.

    Args:
        name: Name of the number.
        chosen: Value in the rule.
        values: Values tried, ascending.
        scores: Score at each value.
    """

    name: str
    chosen: float
    values: np.ndarray
    scores: np.ndarray


def scores_over_gates(tables: Tables, counted: Scorable, rule: Rule, metric: str, gates: np.ndarray) -> np.ndarray:
    """Return the score at each of many gate cuts, float (gates,), the rule's other numbers unchanged.

    A gate only empties images, so the rule is counted once, and each cut is a partial sum over falling probability.
    """
    nothing = np.zeros(counted.truth.shape)
    empty = METRICS[metric](nothing, nothing, counted.truth)
    gate = tables.gate_scores(rule)[:, 0]  # of all classes, or the only one
    order = np.argsort(-gate, kind="stable")
    passed = len(order) - np.searchsorted(gate[order][::-1], gates, "left")
    sums = []
    for kept, emptied in zip(worths(counted, replace(rule, gate=0.0), metric), empty, strict=True):
        gained = np.cumsum((kept - emptied)[order], axis=0)
        sums.append(np.concatenate([np.zeros((1, gained.shape[1])), gained])[passed] + emptied.sum(axis=0))
    scores: np.ndarray = ratio(*sums).mean(axis=1)
    return scores


def threshold_surface(tables: Tables, counted: Scorable, rule: Rule, metric: str, steps: int = 52) -> Surface:
    """Return the scores over gate and upper threshold, the other numbers as in `rule`.

    Where upper falls below lower, lower follows; upper does not fall below the lowest possible lower threshold.

    Args:
        tables: Threshold tables.
        counted: Tables, or components where the rule uses them.
        rule: Rule in the middle of the surface.
        metric: Name in METRICS.
        steps: Number of gate cuts and of upper thresholds, in addition to the rule's own. Default: 52.
    """
    gates = np.union1d(np.linspace(0, 1, steps), [rule.gate])
    lowers = _lower_thresholds(counted, rule)
    uppers = np.union1d(_probabilities(np.linspace(1, LEVELS - 1, steps).round()), [rule.upper])
    uppers = uppers[uppers >= min(lowers[0], rule.upper)]
    columns = [
        replace(rule, upper=upper, lower=rule.lower if upper >= rule.lower else float(lowers[lowers <= upper][-1]))
        for upper in uppers.tolist()
    ]
    scores = np.stack([scores_over_gates(tables, counted, column, metric, gates) for column in columns], axis=1)
    return Surface(gates, uppers, scores)


def threshold_slices(tables: Tables, counted: Scorable, rule: Rule, metric: str) -> list[Slice]:
    """Return the scores along gate, upper, lower and min_area, the other three as in `rule`."""
    gates = np.union1d(np.linspace(0, 1, 256), [rule.gate])
    levels, lowers = _probabilities(np.arange(1, LEVELS, 3)), _lower_thresholds(counted, rule)
    lowers = lowers[:: 1 + len(lowers) // 100]
    areas = np.linspace(0, widest_area(tables, rule), 86).astype(int)
    slices = [Slice("gate", rule.gate, gates, scores_over_gates(tables, counted, rule, metric, gates))]
    for name, chosen, values in (
        ("upper", rule.upper, np.union1d(levels[levels >= rule.lower], [rule.upper])),
        ("lower", rule.lower, np.union1d(lowers[lowers <= rule.upper], [rule.lower])),
        ("min_area", rule.min_area, np.union1d(areas, [rule.min_area])),
    ):
        scores = [score(counted, replace(rule, **{name: value}), metric) for value in values.tolist()]
        slices.append(Slice(name, chosen, values, np.array(scores)))
    return slices


def widest_area(tables: Tables, rule: Rule) -> int:
    """Return the largest minimum area to draw, in pixels: twice the median mask, and well beyond the rule's own.

    >>> counts = np.zeros((1, 1, 257), int)
    >>> tables = Tables(np.array(["a"]), np.zeros(1), np.ones(1), counts, counts, np.array([[40]]))
    >>> widest_area(tables, Rule(0.5, 0.5, 0.5, 10))
    80
    """
    positive = tables.truth[tables.truth > 0]
    return max(1, int(2 * np.median(positive)) if len(positive) else 1, int(1.5 * rule.min_area))


def _lower_thresholds(counted: Scorable, rule: Rule) -> np.ndarray:
    """Return the lower thresholds at which `rule` can be scored, ascending: components are listed at some levels."""
    some = isinstance(counted, Components) and rule.by_component
    return _probabilities(np.array(counted.levels) if some else np.arange(1, LEVELS))


def _probabilities(levels: np.ndarray) -> np.ndarray:
    """Return uint8 levels as probabilities, rounded as in rule.yaml."""
    return np.array([probability(int(level)) for level in levels])
