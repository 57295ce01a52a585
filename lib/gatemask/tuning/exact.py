"""The exact optimum of the rule on threshold tables: every gate cut, both thresholds at all levels, every area cut.

A rule empties images and thresholds the others at `lower`. So the score of a pair (upper, lower) is a constant, the
score of emptying everything, plus the gains of the images that are kept; and kept are those in a corner: gate at least
g, area(upper) at least a. The best corner is found by a sweep: images enter by falling area(upper) into a segment tree
over their gate rank, whose nodes hold (sum, best prefix); the root is then the best gate cut for the area cut so far.
O(n log n) a pair of levels, in compiled code, a thread a core.

Gains are held as integers: sums of integers do not depend on their order, so equal rules are equal to the last bit,
and plateaus can be seen. Scores that are a ratio of sums (global Dice) are maximised by Dinkelbach's iteration
(Management Science 13, 1967): each round maximises worth - ratio * weight by the same sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

from gatemask.config import Variant
from gatemask.errors import GatemaskError
from gatemask.masks.metrics import METRICS, ratio
from gatemask.masks.rule import LEVELS, Rule, level, probability
from gatemask.oof.tables import Tables, score
from gatemask.parallel import cores

SCALE = 2**60  # of all gains together: their sums stay within 63 bits
TIED = SCALE // 10**12  # sums this near are the same score, told apart by rounding alone
NEVER = -(2**62)
FULL = Variant()
ALL_LEVELS = range(1, LEVELS)


@dataclass(frozen=True)
class Problem:
    """Tables as the sweep wants them: an item is one class of one image.

    Args:
        gains: (256, items) int64; what keeping the item adds to the score, if its mask is cut at that level.
        area: (256, items) int32.
        rank: (items,) int32, of the gate among all different gates, the highest first.
        gates: those gates, falling.
    """

    gains: np.ndarray
    area: np.ndarray
    rank: np.ndarray
    gates: np.ndarray


def covers(tables: Tables, metric: str) -> bool:
    """Whether the optimum can be found: a ratio of sums only for one class."""
    return tables.truth.shape[1] == 1 or _constant_weights(tables, metric)


def search(
    tables: Tables,
    metric: str,
    variant: Variant = FULL,
    levels: Sequence[int] = ALL_LEVELS,
    counts: np.ndarray | None = None,
) -> tuple[Rule, float]:
    """The best rule of all on these images, and its score on them.

    Of rules that score the same, the middle of the plateau: of the tied pairs of levels the one nearest to their mean,
    then the middle of the widest range of areas, then of gates. So a rule does not sit on an edge where the next
    image would tip it over.

    Args:
        tables: threshold tables.
        metric: a name in METRICS.
        variant: which of the rule's numbers are searched; its component parts are left at none.
        levels: the thresholds to try, of 1 to 255.
        counts: (n,) int, how often each image counts; once, where there are none.

    Raises:
        GatemaskError: the metric is a ratio of sums and there are several classes.
    """
    if not covers(tables, metric):
        raise GatemaskError(
            f"There is no exact search for {metric} over several classes.", do="Set tune.ship: optuna in ensemble.yaml."
        )
    if counts is not None:
        chosen = counts > 0
        tables, counts = tables.subset(chosen), counts[chosen]
    if _constant_weights(tables, metric):
        rule = _best(_problem(tables, metric, variant, counts, 0.0), variant, levels)
        return rule, score(tables, rule, metric) if counts is None else _weighted(tables, rule, metric, counts)
    return _dinkelbach(tables, metric, variant, levels, counts)


def _dinkelbach(
    tables: Tables, metric: str, variant: Variant, levels: Sequence[int], counts: np.ndarray | None
) -> tuple[Rule, float]:
    once = np.ones(len(tables), int) if counts is None else counts
    middle = probability(sorted(levels)[len(levels) // 2])
    rule = Rule(0.0, middle, middle, 0)
    at = _weighted(tables, rule, metric, once)
    while True:
        following = _best(_problem(tables, metric, variant, once, at), variant, levels)
        reached = _weighted(tables, following, metric, once)
        if reached <= at + 1e-12:
            return (following, reached) if reached >= at - 1e-12 else (rule, at)
        rule, at = following, reached


def _weighted(tables: Tables, rule: Rule, metric: str, counts: np.ndarray) -> float:
    worth, weight = METRICS[metric](*tables.counts(rule), tables.truth)
    return float(np.mean(ratio(counts @ worth, counts @ weight)))


def _constant_weights(tables: Tables, metric: str) -> bool:
    """Whether the metric's weights are the same under every rule, so that a score is a plain sum."""
    nothing, all_of_it = np.zeros((1, 1)), np.full((1, 1), 4.0)
    truth = np.full((1, 1), 2.0)
    return bool(METRICS[metric](nothing, nothing, truth)[1] == METRICS[metric](truth, all_of_it, truth)[1])


def _problem(tables: Tables, metric: str, variant: Variant, counts: np.ndarray | None, price: float) -> Problem:
    """Gains over an empty mask, as integers.

    Args:
        price: of a unit of weight (Dinkelbach); of no effect where weights are constant.
    """
    worth, weight = METRICS[metric](
        np.zeros_like(tables.truth, float), np.zeros_like(tables.truth, float), tables.truth
    )
    of_nothing = worth - price * weight
    share = np.ones(tables.truth.shape) if counts is None else np.repeat(counts[:, None], tables.truth.shape[1], 1)
    summed = (share * weight).sum(axis=0)
    share = share / np.where(summed == 0, 1, summed)  # classes are averaged, each by its own weight
    gains = np.zeros((LEVELS, tables.truth.size))
    for one in range(1, LEVELS):
        worth, weight = METRICS[metric](
            tables.intersection[:, :, one] + 0.0, tables.area[:, :, one] + 0.0, tables.truth
        )
        gains[one] = (share * (worth - price * weight - of_nothing)).ravel()
    largest = np.abs(gains).max(axis=0).sum()
    gates = np.unique(tables.gate)[::-1] if variant.gate else np.zeros(1)
    rank = np.searchsorted(-gates, -tables.gate) if variant.gate else np.zeros(len(tables), int)
    return Problem(
        gains=np.rint(gains * (SCALE / (largest or 1.0))).astype(np.int64),
        area=np.ascontiguousarray(tables.area[:, :, :LEVELS].reshape(-1, LEVELS).T),
        rank=np.repeat(rank, tables.truth.shape[1]).astype(np.int32),
        gates=gates,
    )


def _best(problem: Problem, variant: Variant, levels: Sequence[int]) -> Rule:
    values = _all_pairs(problem, variant, sorted(levels))
    top = int(values.max())
    if top <= TIED:  # nothing is worth keeping
        return Rule(float(variant.gate), 1.0, 1.0, int(problem.area[LEVELS - 1].max()) + 1)
    upper, lower = _middle_pair(values >= top - TIED)
    order = np.argsort(-problem.area[upper], kind="stable")
    area = problem.area[upper][order]
    gains, rank = problem.gains[lower][order], problem.rank[order]
    reached = _sweep_all(gains, area, rank, len(problem.gates)) >= top - TIED
    least = _middle_area(area, reached)
    gate = _middle_gate(gains, area >= least, rank, problem.gates, top) if variant.gate else 0.0
    return Rule(gate, probability(upper), probability(lower), least)


def _all_pairs(problem: Problem, variant: Variant, levels: list[int]) -> np.ndarray:
    """The best sum of gains of each pair, int64 (256, 256) by upper and lower level; NEVER where none was needed."""
    values = np.full((LEVELS, LEVELS), NEVER)
    bounds = np.maximum(problem.gains, 0).sum(axis=1)  # what a perfect gate would reach with this lower level
    best = [0]

    def sweep(upper: int) -> None:
        order = np.argsort(-problem.area[upper], kind="stable")
        area, rank = problem.area[upper][order], problem.rank[order]
        pairs = [upper] if variant.thresholds == 1 else [lower for lower in levels if lower <= upper]
        enough = best[0] - TIED
        lowers = np.array([lower for lower in pairs if bounds[lower] >= enough], np.int64)
        values[upper, lowers] = _sweep(problem.gains, bounds, lowers, order, area, rank, len(problem.gates), enough)
        best[0] = max(best[0], int(values[upper].max()))

    # Far-apart levels first: the best of them lets many of the others be passed over.
    spread = sorted(levels, key=lambda one: (levels.index(one) % 16, one))
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(sweep, spread))
    return values


@numba.njit(nogil=True, cache=True)
def _insert(total, best, leaf, gain):  # type: ignore[no-untyped-def]
    """Add a gain to a leaf, and bring the nodes above it up to date."""
    total[leaf] += gain
    best[leaf] = total[leaf]
    node = leaf >> 1
    while node:
        left, right = 2 * node, 2 * node + 1
        total[node] = total[left] + total[right]
        best[node] = max(best[left], total[left] + best[right])
        node >>= 1


@numba.njit(nogil=True, cache=True)
def _sweep(gains, bounds, lowers, order, area, rank, ranks, enough):  # type: ignore[no-untyped-def]
    """The best corner's sum for each lower level: int64 (lowers,); of those below `enough` only that they are."""
    size = 1
    while size < ranks:
        size *= 2
    found = np.empty(len(lowers), np.int64)
    items = len(order)
    for at in range(len(lowers)):
        row = gains[lowers[at]]
        total, best = np.zeros(2 * size, np.int64), np.zeros(2 * size, np.int64)
        top = np.int64(NEVER)
        left = bounds[lowers[at]]  # what the items to come can add at most
        for position in range(items):
            gain = row[order[position]]
            if gain:
                _insert(total, best, size + rank[position], gain)
                left -= max(gain, 0)
            if position + 1 == items or area[position + 1] != area[position]:
                top = max(top, best[1])
                if best[1] + left <= top or best[1] + left < enough:
                    break
        found[at] = top
    return found


@numba.njit(nogil=True, cache=True)
def _sweep_all(gains, area, rank, ranks):  # type: ignore[no-untyped-def]
    """The best sum after each item, NEVER within a run of equal areas: int64 (items,)."""
    size = 1
    while size < ranks:
        size *= 2
    total, best = np.zeros(2 * size, np.int64), np.zeros(2 * size, np.int64)
    found = np.full(len(gains), NEVER)
    for position in range(len(gains)):
        _insert(total, best, size + rank[position], gains[position])
        if position + 1 == len(gains) or area[position + 1] != area[position]:
            found[position] = best[1]
    return found


def _middle_pair(tied: np.ndarray) -> tuple[int, int]:
    """Of the tied pairs of levels the one nearest to their mean; of equally near ones the lowest."""
    pairs = np.argwhere(tied)
    return tuple(pairs[np.argmin(((pairs - pairs.mean(axis=0)) ** 2).sum(axis=1))].tolist())


def _middle_area(area: np.ndarray, reached: np.ndarray) -> int:
    """The middle of the widest range of least areas that reach the optimum.

    Args:
        area: falling.
        reached: at the last item of each run of equal areas, whether keeping all up to here is optimal.
    """
    last = np.flatnonzero(np.append(area[1:] != area[:-1], True))
    # Keeping the runs up to here: any least area above the next run's, up to this run's own.
    lows = np.append(area[last[1:]] + 1, 0)
    return _middle(lows, area[last], reached[last])


def _middle_gate(gains: np.ndarray, kept: np.ndarray, rank: np.ndarray, gates: np.ndarray, top: int) -> float:
    """The middle of the widest range of gates that reach the optimum, spelled as short as the range allows."""
    summed = np.zeros(len(gates), np.int64)
    np.add.at(summed, rank[kept], gains[kept])
    reached = np.cumsum(summed) >= top - TIED
    lows = np.append(gates[1:], 0.0)
    runs = _runs(reached)
    first, last = max(runs, key=lambda run: gates[run[0]] - lows[run[1]])
    low, high = float(lows[last]), float(gates[first])
    for digits in range(2, 17):
        if low < (short := round((low + high) / 2, digits)) < high:
            return short
    return 0.0 if last == len(gates) - 1 else high  # a gate of 0 passes every image


def _middle(lows: np.ndarray, highs: np.ndarray, reached: np.ndarray) -> int:
    """The middle of the widest run of neighbouring ranges; ranges fall, each touching the one before."""
    first, last = max(_runs(reached), key=lambda run: highs[run[0]] - lows[run[1]])
    return int((int(lows[last]) + int(highs[first])) // 2)


def _runs(reached: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of true values."""
    indices = np.flatnonzero(reached)
    breaks = np.flatnonzero(np.diff(indices) > 1)
    return list(
        zip(
            indices[np.append(0, breaks + 1)].tolist(),
            indices[np.append(breaks, len(indices) - 1)].tolist(),
            strict=True,
        )
    )


def median(rules: Sequence[Rule]) -> Rule:
    """Each number's median over several rules: a rule that no single image decides."""
    upper = int(np.median([level(rule.upper) for rule in rules]))
    lower = min(upper, int(np.median([level(rule.lower) for rule in rules])))
    gate = round(float(np.median([rule.gate for rule in rules])), 6)
    return Rule(gate, probability(upper), probability(lower), int(np.median([rule.min_area for rule in rules])))
