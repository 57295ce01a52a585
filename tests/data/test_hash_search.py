"""The search in bands finds exactly the pairs that comparing all hashes finds, and its work is bounded."""

from __future__ import annotations

import numpy as np
import pytest

from gatemask.data import hash_search
from gatemask.data.hash_search import find_close_pairs

MANY = 10**9


def plain(codes: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Compare all pairs."""
    found = []
    for row, code in enumerate(codes):
        later = np.flatnonzero(np.bitwise_count(codes[row + 1 :] ^ code) <= limit)
        found += [(row, row + 1 + other) for other in later.tolist()]
    return found


def in_bands(codes: np.ndarray, limit: int) -> list[tuple[int, int]]:
    first, second = find_close_pairs(codes, limit, MANY).all()
    return list(zip(first.tolist(), second.tolist(), strict=True))


def flipped(code: int, bits: np.ndarray) -> int:
    for bit in bits.tolist():
        code ^= 1 << bit
    return code


def planted(rng: np.random.Generator, count: int, limit: int, fair: int = 64) -> np.ndarray:
    """Return hashes of which many differ from an earlier one in about `limit` bits; `fair` bits vary in the others."""
    varying = np.uint64(sum(1 << bit for bit in rng.choice(64, fair, replace=False).tolist()))
    codes = (rng.integers(0, 2**64, count, dtype=np.uint64) & varying).tolist()
    for place in range(1, count, 2):
        distance = max(0, limit + int(rng.integers(-2, 3)))
        codes[place] = flipped(codes[int(rng.integers(0, place))], rng.choice(64, distance, replace=False))
    return np.array(codes, np.uint64)


@pytest.mark.parametrize("limit", [0, 2, 6, 7, 8])
@pytest.mark.parametrize("fair", [64, 12])
def test_pairs_are_those_of_comparing_all_hashes(limit: int, fair: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_search, "KEYS_PAY", 0)
    monkeypatch.setattr(hash_search, "SLOWER", 0)  # always in bands
    codes = planted(np.random.default_rng([limit, fair]), 120, limit, fair)
    expected = plain(codes, limit)
    assert in_bands(codes, limit) == expected
    monkeypatch.setattr(hash_search, "LARGE", 0)  # all buckets by broadcasting, in small blocks
    monkeypatch.setattr(hash_search, "BLOCK", 20)
    assert in_bands(codes, limit) == expected
    monkeypatch.setattr(hash_search, "KEYS_PAY", MANY)  # all pairs
    assert in_bands(codes, limit) == expected


@pytest.mark.parametrize("distance", [5, 6, 7])
def test_each_way_to_flip_bits_around_the_limit(distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_search, "KEYS_PAY", 0)
    monkeypatch.setattr(hash_search, "SLOWER", 0)
    rng = np.random.default_rng(distance)
    codes = rng.integers(0, 2**64, 2_000, dtype=np.uint64).tolist()
    copies = [flipped(code, rng.choice(64, distance, replace=False)) for code in codes]
    pairs = in_bands(np.array(codes + copies, np.uint64), 6)
    assert pairs == ([] if distance > 6 else [(place, place + 2_000) for place in range(2_000)])


def test_of_20000_hashes_all_close_pairs_are_found() -> None:
    codes = planted(np.random.default_rng(0), 20_000, 6)
    assert hash_search._choose_search(np.unique(codes), 6).comparisons < 20_000**2 // 100
    assert in_bands(codes, 6) == plain(codes, 6)


def test_equal_hashes_are_compared_once() -> None:
    codes = np.array([7, 7, 6, 7], np.uint64)
    assert in_bands(codes, 1) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    pairs = find_close_pairs(np.zeros(1_000, np.uint64), 6, MANY)
    assert pairs.found == []
    assert len(pairs.all()[0]) == 1_000 * 999 // 2


def test_a_million_nearly_equal_hashes_end_the_search_early() -> None:
    rng = np.random.default_rng(0)
    codes = np.uint64(1) << rng.integers(0, 64, 1_000_000, dtype=np.uint64)
    codes[::2] = 0
    assert find_close_pairs(codes, 6, 100 * len(codes)).refused == "pairs"


def test_hashes_that_no_band_separates_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = planted(np.random.default_rng(0), 400, 6)
    assert not find_close_pairs(codes, 6, MANY).refused
    monkeypatch.setattr(hash_search, "MOST_COMPARISONS", 1_000)
    assert find_close_pairs(codes, 6, MANY).refused == "comparisons"
