"""Find all pairs of 64-bit hashes that differ in few bits, without comparing all pairs.

Multi-index hashing (Norouzi, Punjani and Fleet, IEEE TPAMI 36, 2014): the bits are split into bands. By the pigeonhole
principle, hashes that differ in at most 6 bits differ in at most 1 bit of one of three bands, or in none of the fourth.
So only hashes whose bands nearly agree are compared, and each of these pairs is verified: nothing is missed, nothing is
added. A million hashes of different images need some 400 million comparisons instead of 500 billion.

Equal hashes count once, with their number. Real hashes are uneven: a band in which most hashes agree separates nothing.
Therefore bits are dealt to the bands by how much they vary, and the comparisons are counted before the first is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from gatemask.parallel import cores, ordered_map

BITS, BANDS = 64, 4
WIDTH = BITS // BANDS  # bits of a band
KEYS = 1 << WIDTH
BLOCK = 1 << 16  # comparisons per step, small enough for the cache
TASK = 1 << 22  # comparisons per task of a thread
LARGE = 1 << 13  # comparisons of two buckets from which they are made by broadcasting
KEYS_PAY = 100 * KEYS  # comparisons of all pairs from which tables of keys pay
SLOWER = 4  # a comparison in bands costs so many times that of a plain comparison
MOST_COMPARISONS = 10**11  # two to five minutes on two cores


Found = tuple[np.ndarray, np.ndarray]  # positions of both hashes of each pair, whole numbers (pairs,)


@dataclass(frozen=True)
class ClosePairs:
    """Pairs of close hashes: found among unique hashes, and expanded part by part, since there may be many.

    Args:
        found: Pairs of close unique hashes, int32 (pairs,) each.
        members: Positions of all hashes, ordered by their unique hash, int64 (n,).
        counts: How often each unique hash occurs, int64 (unique,).
        refused: Why the search was given up: "pairs" for too many pairs, "comparisons" for too many comparisons; ""
            if it was not.
    """

    found: list[Found]
    members: np.ndarray
    counts: np.ndarray
    refused: str = ""

    def all(self) -> Found:
        """Return all pairs, ordered by first and second; the first is the smaller position."""
        parts = [(np.zeros(0, np.int64),) * 2, *self.parts()]
        first, second = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        order = np.lexsort((second, first))
        return first[order], second[order]

    def involved(self) -> np.ndarray:
        """Return which hashes are in any pair, bool (n,)."""
        unique = self.counts > 1
        for pair in self.found:
            for side in pair:
                unique[side] = True
        involved = np.zeros(len(self.members), bool)
        involved[self.members] = np.repeat(unique, self.counts)
        return involved

    def parts(self) -> Iterator[Found]:
        """Yield all pairs in no particular order, some million at a time."""
        same = np.flatnonzero(self.counts > 1)
        for first, second in [*self.found, (same, same)]:
            ends = np.cumsum(self.counts[first].astype(np.int64) * self.counts[second])
            begin = 0
            while begin < len(first):
                done = int(ends[begin - 1]) if begin else 0
                stop = max(begin + 1, int(np.searchsorted(ends, done + TASK, "right")))
                yield self._expanded(first[begin:stop], second[begin:stop])
                begin = stop

    def _expanded(self, first: np.ndarray, second: np.ndarray) -> Found:
        """Return all pairs of hashes for pairs of unique hashes."""
        starts = np.cumsum(self.counts) - self.counts
        sizes = self.counts[first] * self.counts[second]
        pair = np.repeat(np.arange(len(first)), sizes)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows, columns = np.divmod(within, self.counts[second][pair])
        left, right = self.members[starts[first][pair] + rows], self.members[starts[second][pair] + columns]
        kept = (first[pair] != second[pair]) | (left < right)
        return np.minimum(left[kept], right[kept]), np.maximum(left[kept], right[kept])


def find_close_pairs(codes: np.ndarray, limit: int, most: int) -> ClosePairs:
    """Find all pairs of hashes that differ in at most `limit` bits.

    Args:
        codes: Hashes, uint64 (n,).
        limit: Number of bits in which they may differ.
        most: Number of pairs from which the search is given up.

    >>> pairs = find_close_pairs(np.array([0, 2**63, 2**20 - 1, 0], np.uint64), 2, 100)
    >>> [positions.tolist() for positions in pairs.all()]
    [[0, 0, 1], [1, 3, 3]]
    """
    unique, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    found: list[Found] = []
    pairs = ClosePairs(found, np.argsort(inverse, kind="stable"), counts)
    total = int((counts * (counts - 1) // 2).sum())
    if total > most:
        return replace(pairs, refused="pairs")
    search = _choose_search(unique, limit)
    if search.comparisons > MOST_COMPARISONS:
        return replace(pairs, refused="comparisons")
    with ThreadPoolExecutor(cores()) as pool:
        for first, second in ordered_map(pool, lambda task: task(), search.tasks(), 2 * cores()):
            total += int((counts[first] * counts[second]).sum())
            if total > most:
                pool.shutdown(cancel_futures=True)
                return replace(pairs, found=[], refused="pairs")
            if len(first):
                found.append((first.astype(np.int32), second.astype(np.int32)))
    return pairs


# --- what is compared --------------------------------------------------------------------------------------

Task = Callable[[], Found]


class _Search(NamedTuple):
    """A way to find all close pairs of unique hashes.

    Args:
        comparisons: Number of comparisons.
        tasks: Iterates over functions that make some of the comparisons each.
    """

    comparisons: int
    tasks: Callable[[], Iterator[Task]]


def _choose_search(unique: np.ndarray, limit: int) -> _Search:
    """Return the search of fewest comparisons: in bands of differently dealt bits, or of all pairs."""
    every = len(unique) * (len(unique) - 1) // 2
    plain = _Search(every, partial(_plain_tasks, unique, limit))
    if limit >= 2 * BANDS or every <= KEYS_PAY:  # wide radii, or too few hashes for tables of keys to pay
        return plain
    dealt = [_Bands.of(_permuted(unique, order), limit) for order in _bit_orders(unique)]
    best = min(dealt, key=lambda bands: bands.comparisons)
    if SLOWER * best.comparisons >= every:
        return plain
    return _Search(best.comparisons, best.tasks)


def _plain_tasks(unique: np.ndarray, limit: int) -> Iterator[Task]:
    rows = max(1, TASK // max(1, len(unique)))
    for start in range(0, len(unique), rows):
        yield partial(_compare_rows, unique, limit, start, min(start + rows, len(unique)))


def _compare_rows(unique: np.ndarray, limit: int, start: int, end: int) -> Found:
    """Compare each hash of a range with all later ones."""
    firsts, seconds = [], []
    for row in range(start, end):
        for begin in range(row + 1, len(unique), BLOCK):
            close = np.flatnonzero(np.bitwise_count(unique[begin : begin + BLOCK] ^ unique[row]) <= limit)
            if len(close):
                firsts.append(np.full(len(close), row))
                seconds.append(close + begin)
    return _joined(firsts), _joined(seconds)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _bit_orders(unique: np.ndarray) -> list[np.ndarray]:
    """Return orders of the bits: as they are, and dealt to the bands in turn, those that vary most first."""
    shares = np.array([((unique >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(BITS)])
    falling = np.argsort(-shares * (1 - shares), kind="stable")
    rounds = falling.reshape(WIDTH, BANDS)
    rounds[1::2] = rounds[1::2, ::-1]  # back and forth, so that no band always gets the best of a round
    shuffled = np.random.default_rng(0).permutation(BITS)
    return [np.arange(BITS), rounds.T.ravel(), shuffled]


def _permuted(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return hashes whose bit k is bit order[k] of the given ones; distances stay the same."""
    if (order == np.arange(BITS)).all():
        return codes
    permuted = np.zeros_like(codes)
    for place, bit in enumerate(order.tolist()):
        permuted |= ((codes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(place)
    return permuted


class _Bands(NamedTuple):
    """Bands of hashes, and how far each may differ.

    Args:
        codes: Unique hashes, uint64 (n,).
        limit: Number of bits in which hashes may differ.
        radii: Number of bits in which each band may differ; -1 for a band that is not needed.
        comparisons: Number of comparisons.
    """

    codes: np.ndarray
    limit: int
    radii: tuple[int, ...]
    comparisons: int

    @classmethod
    def of(cls, codes: np.ndarray, limit: int) -> _Bands:
        """Choose the radii of fewest comparisons: radius + 1, summed over the bands, is limit + 1."""
        base, wide = divmod(limit + 1, BANDS)
        tables = [np.bincount(_keys(codes, band), minlength=KEYS) for band in range(BANDS)]
        narrow = [_count_comparisons(table, base - 1) for table in tables]
        wider = [_count_comparisons(table, base) if wide else 0 for table in tables]
        by_cost = sorted(range(BANDS), key=lambda band: wider[band] - narrow[band])
        chosen = set(by_cost[:wide])
        radii = tuple(base if band in chosen else base - 1 for band in range(BANDS))
        comparisons = sum(wider[band] if band in chosen else narrow[band] for band in range(BANDS))
        return cls(codes, limit, radii, comparisons)

    def tasks(self) -> Iterator[Task]:
        """Yield functions that compare the hashes of some buckets."""
        for band, radius in enumerate(self.radii):
            keys = _keys(self.codes, band)
            order = np.argsort(keys, kind="stable")
            sizes = np.bincount(keys, minlength=KEYS)
            bucket = _Buckets(self, band, order, self.codes[order], np.cumsum(sizes) - sizes, sizes)
            for mask in _masks(radius):
                yield from bucket.tasks(mask)

    def is_new(self, difference: np.ndarray, band: int) -> np.ndarray:
        """Return whether no earlier band finds pairs that differ in these bits."""
        new = np.ones(len(difference), bool)
        for earlier in range(band):
            if self.radii[earlier] >= 0:
                new &= np.bitwise_count(_keys(difference, earlier)) > self.radii[earlier]
        return new


def _keys(codes: np.ndarray, band: int) -> np.ndarray:
    return ((codes >> np.uint64(band * WIDTH)) & np.uint64(KEYS - 1)).astype(np.uint16)


def _masks(radius: int) -> list[int]:
    """Return all differences of a band with at most `radius` bits."""
    return [sum(1 << bit for bit in bits) for size in range(radius + 1) for bits in combinations(range(WIDTH), size)]


def _count_comparisons(table: np.ndarray, radius: int) -> int:
    """Return the number of pairs whose keys differ in at most `radius` bits; `table` counts the hashes by key."""
    keys, table = np.arange(KEYS), table.astype(np.int64)
    pairs = sum(int((table * table[keys ^ mask]).sum()) for mask in _masks(radius))
    return (pairs - int(table.sum())) // 2 if radius >= 0 else 0


class _Buckets(NamedTuple):
    """Hashes in the order of one band's keys.

    Args:
        bands: All bands.
        band: Number of this band.
        order: Position of each hash among the unique ones, int64 (n,).
        codes: Hashes in this order, uint64 (n,).
        starts: First hash of each key, int64 (KEYS,).
        sizes: Number of hashes of each key, int64 (KEYS,).
    """

    bands: _Bands
    band: int
    order: np.ndarray
    codes: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def tasks(self, mask: int) -> Iterator[Task]:
        """Yield functions that compare the hashes of each key with those of the key that differs by a mask."""
        keys = np.arange(KEYS)
        partner = keys ^ mask
        chosen = (self.sizes > 0) & (self.sizes[partner] > 0) & ((keys < partner) | (mask == 0))
        large = chosen & (self.sizes * self.sizes[partner] >= LARGE)
        small = np.flatnonzero(chosen & ~large)
        for key in np.flatnonzero(large).tolist():
            yield from self._large_tasks(key, key ^ mask)
        if len(small):
            yield from self._small_tasks(small, mask)

    def _large_tasks(self, key: int, partner: int) -> Iterator[Task]:
        start, size = int(self.starts[key]), int(self.sizes[key])
        rows = max(1, TASK // int(self.sizes[partner]))
        for begin in range(start, start + size, rows):
            yield partial(self._compare_large, begin, min(begin + rows, start + size), partner, key == partner)

    def _compare_large(self, begin: int, end: int, partner: int, same: bool) -> Found:
        """Compare a range of hashes with all of a key, in blocks."""
        first, last = int(self.starts[partner]), int(self.starts[partner] + self.sizes[partner])
        firsts, seconds = [], []
        rows = max(1, BLOCK // (last - first))
        for start in range(begin, end, rows):
            stop = min(start + rows, end)
            for low in range(start + 1 if same else first, last, BLOCK):
                high = min(low + BLOCK, last)
                bits = np.bitwise_count(self.codes[start:stop, None] ^ self.codes[None, low:high])
                close = bits <= self.bands.limit
                if not close.any():  # much faster than nonzero(), and nearly always the case
                    continue
                left, right = np.divmod(np.flatnonzero(close), high - low)
                left, right = left + start, right + low
                if same:
                    later = left < right
                    left, right = left[later], right[later]
                firsts.append(left)
                seconds.append(right)
        return self._verified(_joined(firsts), _joined(seconds))

    def _small_tasks(self, keys: np.ndarray, mask: int) -> Iterator[Task]:
        """Yield functions that compare many small buckets at once."""
        sizes = self.sizes[keys]
        row = np.repeat(self.starts[keys] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        partner = np.repeat(keys ^ mask, sizes)
        first = row + 1 if mask == 0 else self.starts[partner]
        length = self.starts[partner] + self.sizes[partner] - first
        ends = np.cumsum(length)
        begin = 0
        while begin < len(row):
            done = int(ends[begin - 1]) if begin else 0
            stop = max(begin + 1, int(np.searchsorted(ends, done + BLOCK, "right")))
            part = slice(begin, stop)
            yield partial(self._compare_small, row[part], first[part], length[part])
            begin = stop

    def _compare_small(self, row: np.ndarray, first: np.ndarray, length: np.ndarray) -> Found:
        """Compare each hash of `row` with the `length` hashes from `first`."""
        left = np.repeat(row, length)
        right = np.arange(len(left)) + np.repeat(first - (np.cumsum(length) - length), length)
        close = np.flatnonzero(np.bitwise_count(self.codes[left] ^ self.codes[right]) <= self.bands.limit)
        return self._verified(left[close], right[close])

    def _verified(self, left: np.ndarray, right: np.ndarray) -> Found:
        """Return close pairs that no earlier band finds, as positions among the unique hashes."""
        new = self.bands.is_new(self.codes[left] ^ self.codes[right], self.band)
        return self.order[left[new]], self.order[right[new]]
