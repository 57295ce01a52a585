"""Find the exact optimum of the rule on threshold tables: all gate cuts, both thresholds at all levels, all area cuts.

A rule empties some images and thresholds the others at `lower`. So the score of a pair (upper, lower) is a constant,
the score of emptying everything, plus the gains of the images that are kept; and those form a corner: gate at least g,
area(upper) at least a. A sweep finds the best corner: images enter by falling area(upper) into a segment tree over
their gate rank, whose nodes hold (sum, best prefix); the root is then the best gate cut for the area cut so far.
O(n log n) per pair of levels, in compiled code, one thread per core. A pair needs one area and one gain per image, so
the counts of many images stay on disk, and the result is the same to the last bit, however many are in memory.

Gains are integers: their sums do not depend on order, so equal rules are equal to the last bit, and plateaus can be
recognized. Scores that are a ratio of sums (global Dice) are maximized by Dinkelbach's iteration (Management Science
13, 1967): each round maximizes worth - ratio * weight by the same sweep.

A score that is averaged over classes separates, so the rule of each class is found on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from gatemask.config import Variant
from gatemask.masks.metrics import METRICS, ratio
from gatemask.masks.rule import LEVELS, Rule, gate_quantiles, level, probability
from gatemask.oof.disk_levels import DiskLevels
from gatemask.oof.tables import Tables, score
from gatemask.parallel import cores

SCALE = 2**60  # absolute gains sum to this: all sums stay within 63 bits
TIED = SCALE // 10**12  # sums this close differ by rounding alone
NEVER = -(2**62)
FULL = Variant()
ALL_LEVELS = range(1, LEVELS)
AT_ONCE = 4  # rows of gains that each thread reads from disk


class DiskRows:
    """Rows of an array (rows, n) on disk, read when they are used.

    Args:
        levels: The array as counts of one class, (n, 1, rows).
    """

    def __init__(self, levels: DiskLevels) -> None:
        self._levels = levels

    def __len__(self) -> int:
        return self._levels.shape[2]

    def __getitem__(self, row: int) -> np.ndarray:
        values: np.ndarray = self._levels[:, 0, row]
        return values


Rows = np.ndarray | DiskRows  # (rows, n)


@dataclass(frozen=True)
class SweepInput:
    """What the sweep needs to know of n images, in one class.

    Args:
        gains: What keeping an image adds to the score, for each way to make its mask, int64 (ways, n). From tables, way
            k is to cut the map at level k.
        lowers: Lower threshold of each way, as a level, int (ways,).
        area: Pixels that reach each level, int32 (256, n).
        rank: Rank of the image's gate among all different gates, the highest first, int32 (n,).
        gates: Different gates, descending.
    """

    gains: Rows
    lowers: np.ndarray
    area: Rows
    rank: np.ndarray
    gates: np.ndarray


class Corner(NamedTuple):
    """The best of all rules that a sweep covers.

    Args:
        way: Index of the way to make masks; None where emptying everything is best.
        upper: Level of the upper threshold.
        gate: Gate cut.
        min_area: Minimum area, in pixels.
    """

    way: int | None
    upper: int
    gate: float
    min_area: int


def search_classes(
    tables: Tables,
    metric: str,
    variant: Variant = FULL,
    levels: Sequence[int] = ALL_LEVELS,
    counts: np.ndarray | None = None,
) -> tuple[list[Rule], float]:
    """Return the best rule of each class, and their score; arguments as for `search`.

    >>> levels = np.repeat([[[4] * 256 + [0]] * 2], 2, axis=0)
    >>> tables = Tables(np.array(["a", "b"]), np.zeros(2), np.ones(2), levels, levels, levels[:, :, 0])
    >>> rules, score = search_classes(tables, "mean_dice")
    >>> len(rules), score
    (2, 1.0)
    """
    found = [search(tables.of_class(index), metric, variant, levels, counts) for index in range(tables.classes)]
    return [rule for rule, _ in found], float(np.mean([value for _, value in found]))


def search(
    tables: Tables,
    metric: str,
    variant: Variant = FULL,
    levels: Sequence[int] = ALL_LEVELS,
    counts: np.ndarray | None = None,
) -> tuple[Rule, float]:
    """Return the best of all rules for one class of these images, and its score on them.

    Among rules of equal score, the middle of the plateau: of the tied pairs of levels the one nearest to their mean,
    then the middle of the widest range of areas, then of gates. So a rule does not sit on an edge where the next
    image would tip it over.

    Args:
        tables: Threshold tables of one class.
        metric: Name in METRICS.
        variant: Numbers of the rule to search; component rules are not searched. Default: gate and both thresholds.
        levels: Thresholds to try, of 1 to 255. Default: all.
        counts: How often each image counts, int (n,). Default: once.

    >>> levels = np.repeat([[[4] * 256 + [0]]], 2, axis=0)
    >>> truth = np.array([[4], [0]])
    >>> hits = levels * truth[:, :, None] // 4
    >>> tables = Tables(np.array(["a", "b"]), np.zeros(2), np.array([0.8, 0.2]), levels, hits, truth)
    >>> rule, score = search(tables, "mean_dice")
    >>> rule.gate, score
    (0.5, 1.0)
    """
    if tables.classes != 1:
        raise ValueError(f"a rule is searched for one class at a time, not {tables.classes}")
    if counts is not None and variant.by_quantile:  # shares are those of all draws
        tables, counts = tables.subset(np.repeat(np.arange(len(tables)), counts)), None
    if counts is not None:
        chosen = counts > 0
        tables, counts = tables.subset(chosen), counts[chosen]
    if _constant_weights(metric):
        rule = _best(_sweep_input(tables, metric, variant, counts, 0.0), variant, levels)
        return rule, score(tables, rule, metric) if counts is None else _weighted(tables, rule, metric, counts)
    return _dinkelbach(tables, metric, variant, levels, counts)


def _dinkelbach(
    tables: Tables, metric: str, variant: Variant, levels: Sequence[int], counts: np.ndarray | None
) -> tuple[Rule, float]:
    once = np.ones(len(tables), int) if counts is None else counts
    middle = probability(sorted(levels)[len(levels) // 2])
    rule = Rule(0.0, middle, middle, 0)
    reached = _weighted(tables, rule, metric, once)
    while True:
        candidate = _best(_sweep_input(tables, metric, variant, once, reached), variant, levels)
        value = _weighted(tables, candidate, metric, once)
        if value <= reached + 1e-12:
            return (candidate, value) if value >= reached - 1e-12 else (rule, reached)
        rule, reached = candidate, value


def _weighted(tables: Tables, rule: Rule, metric: str, counts: np.ndarray) -> float:
    worth, weight = METRICS[metric](*tables.counts(rule), tables.truth)
    return float(np.mean(ratio(counts @ worth, counts @ weight)))


def _constant_weights(metric: str) -> bool:
    """Return whether the metric's weights are the same under every rule, which makes the score a plain sum."""
    nothing, everything = np.zeros((1, 1)), np.full((1, 1), 4.0)
    truth = np.full((1, 1), 2.0)
    return bool(METRICS[metric](nothing, nothing, truth)[1] == METRICS[metric](truth, everything, truth)[1])


def _sweep_input(tables: Tables, metric: str, variant: Variant, counts: np.ndarray | None, price: float) -> SweepInput:
    """Return gains over an empty mask, as integers.

    Args:
        price: Price of a unit of weight (Dinkelbach); without effect where weights are constant.
    """
    worth, weight = METRICS[metric](
        np.zeros_like(tables.truth, float), np.zeros_like(tables.truth, float), tables.truth
    )
    empty = worth - price * weight
    share = np.ones(tables.truth.shape) if counts is None else counts[:, None] + 0.0
    total_weight = (share * weight).sum()
    share = share / (total_weight or 1.0)

    def gain(cut: int) -> np.ndarray:
        worth, weight = METRICS[metric](
            tables.intersection[:, :, cut] + 0.0, tables.area[:, :, cut] + 0.0, tables.truth
        )
        column: np.ndarray = (share * (worth - price * weight - empty))[:, 0]
        return column

    if isinstance(tables.area, DiskLevels):
        return _sweep_input_on_disk(gain, tables, variant)
    gains = np.zeros((LEVELS, len(tables)))
    for cut in range(1, LEVELS):
        gains[cut] = gain(cut)
    return sweep_input(gains, np.arange(LEVELS), tables, variant)


def _sweep_input_on_disk(gain: Callable[[int], np.ndarray], tables: Tables, variant: Variant) -> SweepInput:
    """Return what the sweep needs, as `sweep_input` does, with one level in memory at a time.

    Args:
        gain: Returns what keeping an image that is cut at a level adds to the score, float (n,).
        tables: Threshold tables of one class, on disk.
        variant: Numbers of the rule to search.
    """
    largest = np.zeros(len(tables))
    for cut in range(1, LEVELS):
        np.maximum(largest, np.abs(gain(cut)), out=largest)
    scale = SCALE / (largest.sum() or 1.0)
    gains = DiskLevels((len(tables), 1, LEVELS), np.int64)
    for cut in range(1, LEVELS):  # each of them twice, since all of them would be 2 KB per image
        gains.write_level(cut, np.rint(gain(cut) * scale).astype(np.int64)[:, None])
    seen = tables.seen
    assert isinstance(seen, DiskLevels)
    return SweepInput(DiskRows(gains), np.arange(LEVELS), DiskRows(seen), *_ranks(tables, variant))


def _ranks(tables: Tables, variant: Variant) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each image's gate, int32 (n,), and all different gates, descending."""
    gate = gate_quantiles(tables.gate[:, 0], tables.ids) if variant.by_quantile else tables.gate[:, 0]
    gates = np.unique(gate)[::-1] if variant.gate else np.zeros(1)
    rank = np.searchsorted(-gates, -gate) if variant.gate else np.zeros(len(tables), int)
    return rank.astype(np.int32), gates


def sweep_input(gains: np.ndarray, lowers: np.ndarray, tables: Tables, variant: Variant) -> SweepInput:
    """Return what the sweep needs, with gains as integers.

    Args:
        gains: What keeping an image adds to the score, for each way to make its mask, float (ways, n).
        lowers: Lower threshold of each way, as a level, int (ways,).
        tables: Threshold tables of one class, for gates and areas.
        variant: Numbers of the rule to search.
    """
    largest = np.abs(gains).max(axis=0).sum()
    area = np.ascontiguousarray(tables.seen[:, 0, :LEVELS].T)
    scaled = np.rint(gains * (SCALE / (largest or 1.0))).astype(np.int64)
    return SweepInput(scaled, lowers, area, *_ranks(tables, variant))


def _best(sweep: SweepInput, variant: Variant, levels: Sequence[int]) -> Rule:
    corner = best_corner(sweep, variant, levels, sorted(levels))  # way k cuts at level k
    lower = 1.0 if corner.way is None else probability(int(sweep.lowers[corner.way]))
    return Rule(corner.gate, probability(corner.upper), lower, corner.min_area, quantile=variant.by_quantile)


def best_corner(sweep: SweepInput, variant: Variant, levels: Sequence[int], ways: Sequence[int]) -> Corner:
    """Return the best of all gate cuts, area cuts, upper thresholds at these levels and ways to make masks.

    Args:
        sweep: Gains, areas and gates.
        variant: Numbers of the rule to search.
        levels: Upper thresholds to try.
        ways: Ways to try, by index.
    """
    values = _all_pairs(sweep, variant, sorted(levels), ways)
    top = int(values.max())
    if top <= TIED:  # nothing is worth keeping
        return Corner(None, LEVELS - 1, float(bool(variant.gate)), int(sweep.area[LEVELS - 1].max()) + 1)
    upper, way = _middle_pair(values >= top - TIED)
    order = np.argsort(-sweep.area[upper], kind="stable")
    area = sweep.area[upper][order]
    gains, rank = sweep.gains[way][order], sweep.rank[order]
    reached = _sweep_all(gains, area, rank, len(sweep.gates)) >= top - TIED
    least = _middle_area(area, reached)
    gate = _middle_gate(gains, area >= least, rank, sweep.gates, top) if variant.gate else 0.0
    return Corner(way, upper, gate, least)


def _all_pairs(sweep: SweepInput, variant: Variant, levels: list[int], ways: Sequence[int]) -> np.ndarray:
    """Return the best sum of gains per pair, int64 (256, ways) by upper level and way; NEVER where it was skipped."""
    values = np.full((LEVELS, len(sweep.gains)), NEVER)
    # What a perfect gate would reach this way.
    bounds = np.array([np.maximum(sweep.gains[way], 0).sum() for way in range(len(sweep.gains))])
    lowers = sweep.lowers.tolist()
    best = [0]

    def sweep_upper(upper: int) -> None:
        order = np.argsort(-sweep.area[upper], kind="stable")
        area, rank = sweep.area[upper][order], sweep.rank[order]
        same = variant.thresholds == 1
        pairs = [way for way in ways if (lowers[way] == upper if same else lowers[way] <= upper)]
        enough = best[0] - TIED
        tried = np.array([way for way in pairs if bounds[way] >= enough], np.int64)
        for ways_read, gains, rows in _gains_of(sweep, tried):
            enough = best[0] - TIED
            found = _sweep(gains, bounds[ways_read], rows, order, area, rank, len(sweep.gates), enough)
            values[upper, ways_read] = found
            best[0] = max(best[0], int(found.max()))

    # Distant levels first: the best of them rules out many of the others.
    spread = sorted(levels, key=lambda cut: (levels.index(cut) % 16, cut))
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(sweep_upper, spread))
    return values


def _gains_of(sweep: SweepInput, ways: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ways, gains (rows, n), and the row of each of these ways: all at once in memory, a few from disk."""
    if isinstance(sweep.gains, np.ndarray):
        if len(ways):
            yield ways, sweep.gains, ways
        return
    for start in range(0, len(ways), AT_ONCE):
        part = ways[start : start + AT_ONCE]
        yield part, np.stack([sweep.gains[way] for way in part]), np.arange(len(part))


@numba.njit(nogil=True, cache=True)
def _insert(total, best, leaf, gain):  # type: ignore[no-untyped-def]
    """Add a gain to a leaf and update the nodes above it."""
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
    """Return the best corner's sum per way, int64 (ways,); below `enough` only a value that is too low."""
    size = 1
    while size < ranks:
        size *= 2
    best_sums = np.empty(len(lowers), np.int64)
    items = len(order)
    for index in range(len(lowers)):
        row = gains[lowers[index]]
        total, best = np.zeros(2 * size, np.int64), np.zeros(2 * size, np.int64)
        top = np.int64(NEVER)
        left = bounds[index]  # most that the remaining items can add
        for position in range(items):
            gain = row[order[position]]
            if gain:
                _insert(total, best, size + rank[position], gain)
                left -= max(gain, 0)
            if position + 1 == items or area[position + 1] != area[position]:
                top = max(top, best[1])
                if best[1] + left <= top or best[1] + left < enough:
                    break
        best_sums[index] = top
    return best_sums


@numba.njit(nogil=True, cache=True)
def _sweep_all(gains, area, rank, ranks):  # type: ignore[no-untyped-def]
    """Return the best sum after each item, int64 (items,); NEVER within a run of equal areas."""
    size = 1
    while size < ranks:
        size *= 2
    total, best = np.zeros(2 * size, np.int64), np.zeros(2 * size, np.int64)
    sums = np.full(len(gains), NEVER)
    for position in range(len(gains)):
        _insert(total, best, size + rank[position], gains[position])
        if position + 1 == len(gains) or area[position + 1] != area[position]:
            sums[position] = best[1]
    return sums


def _middle_pair(tied: np.ndarray) -> tuple[int, int]:
    """Return the tied pair of levels nearest to their mean; the lowest of equally near ones."""
    pairs = np.argwhere(tied)
    upper, lower = pairs[np.argmin(((pairs - pairs.mean(axis=0)) ** 2).sum(axis=1))].tolist()
    return upper, lower


def _middle_area(area: np.ndarray, reached: np.ndarray) -> int:
    """Return the middle of the widest range of minimum areas that reach the optimum.

    Args:
        area: Areas, descending.
        reached: Whether keeping all items up to here is optimal, at the last item of each run of equal areas.
    """
    last = np.flatnonzero(np.append(area[1:] != area[:-1], True))
    # Keeping the runs up to here: any minimum area above the next run's, up to this run's own.
    lows = np.append(area[last[1:]] + 1, 0)
    return _middle(lows, area[last], reached[last])


def _middle_gate(gains: np.ndarray, kept: np.ndarray, rank: np.ndarray, gates: np.ndarray, top: int) -> float:
    """Return the middle of the widest range of optimal gates, with as few digits as the range allows."""
    by_rank = np.zeros(len(gates), np.int64)
    np.add.at(by_rank, rank[kept], gains[kept])
    reached = np.cumsum(by_rank) >= top - TIED
    lows = np.append(gates[1:], 0.0)
    runs = _runs(reached)
    first, last = max(runs, key=lambda run: gates[run[0]] - lows[run[1]])
    low, high = float(lows[last]), float(gates[first])
    for digits in range(2, 17):
        if low < (short := round((low + high) / 2, digits)) < high:
            return short
    return 0.0 if last == len(gates) - 1 else high  # a gate of 0 passes every image


def _middle(lows: np.ndarray, highs: np.ndarray, reached: np.ndarray) -> int:
    """Return the middle of the widest run of adjacent ranges; ranges descend, each touching the previous one."""
    first, last = max(_runs(reached), key=lambda run: highs[run[0]] - lows[run[1]])
    return int((int(lows[last]) + int(highs[first])) // 2)


def _runs(reached: np.ndarray) -> list[tuple[int, int]]:
    """Return the first and last index of each run of true values."""
    indices = np.flatnonzero(reached)
    breaks = np.flatnonzero(np.diff(indices) > 1)
    return list(
        zip(
            indices[np.append(0, breaks + 1)].tolist(),
            indices[np.append(breaks, len(indices) - 1)].tolist(),
            strict=True,
        )
    )


def median_rule(rules: Sequence[Rule]) -> Rule:
    """Return the rule of each number's median: a rule that no single image decides.

    >>> median_rule([Rule(0.2, 0.8, 0.4, 10), Rule(0.4, 0.6, 0.2, 30), Rule(0.3, 0.6, 0.4, 20)])
    Rule(gate=0.3, upper=0.6, lower=0.4, min_area=20, min_component=0, hysteresis=False, split=0.0, quantile=False)
    """
    upper = int(np.median([level(rule.upper) for rule in rules]))
    lower = min(upper, int(np.median([level(rule.lower) for rule in rules])))
    gate = round(float(np.median([rule.gate for rule in rules])), 6)
    area = int(np.median([rule.min_area for rule in rules]))
    return Rule(gate, probability(upper), probability(lower), area, quantile=rules[0].quantile)
