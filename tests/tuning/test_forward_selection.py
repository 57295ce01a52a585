"""The greedy path equals that of a plain search, ties and caps included."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatemask.tuning.forward_selection import Counts, best_length, reduced, select_forward


class Small:
    """Experiments whose averaged answers are compared with a target, in fractions: ties are ties."""

    def __init__(self, seed: int, size: int) -> None:
        rng = np.random.default_rng(seed)
        few = rng.integers(1, 4)  # few different answers, many ties
        self.answers = rng.integers(0, few + 1, (size, 5)).tolist()
        self.target = rng.integers(0, few + 1, 5).tolist()
        self.limit = int(rng.integers(1, size + 1))
        self.asked: list[Counts] = []

    def exactly(self, bag: list[int]) -> Fraction:
        """The score of a bag of experiments, in rational numbers."""
        means = [Fraction(sum(self.answers[member][image] for member in bag), len(bag)) for image in range(5)]
        return -sum((abs(mean - wanted) for mean, wanted in zip(means, self.target, strict=True)), Fraction(0))

    def score(self, counts: Counts) -> float:
        self.asked.append(counts)
        return float(self.exactly([member for member, times in enumerate(counts) for _ in range(times)]))

    def refuse(self, counts: Counts) -> str | None:
        return "too many" if sum(count > 0 for count in counts) > self.limit else None


def by_force(small: Small, size: int, rounds: int) -> tuple[list[int], int]:
    """The path and its cut, written down as plainly as possible: bags, rational numbers, no cache."""
    bag: list[int] = []
    reached: list[Fraction] = []
    for _ in range(rounds):
        best: tuple[Fraction, bool, int] | None = None
        for one in range(size):
            if len({*bag, one}) > small.limit:
                continue
            key = (small.exactly([*bag, one]), one in bag, -one)
            if best is None or key > best:
                best = key
        if best is None:
            break
        bag.append(-best[2])
        reached.append(best[0])
    return bag, reached.index(max(reached)) + 1


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 5), rounds=st.integers(1, 8))
def test_the_path_is_that_of_brute_force(seed: int, size: int, rounds: int) -> None:
    small = Small(seed, size)
    path = select_forward(size, small.score, rounds, small.refuse)
    taken, kept = by_force(small, size, rounds)
    assert [step.taken for step in path] == taken
    assert best_length(path) == kept
    assert len(small.asked) == len(set(small.asked)), "each weighting is scored once"
    for index, step in enumerate(path):
        assert list(step.counts) == [taken[: index + 1].count(n) for n in range(size)]
        assert {*step.scores, *step.refused} == set(range(size))
        assert step.score == step.scores[step.taken]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 5), rounds=st.integers(1, 8))
def test_what_is_kept_is_at_least_as_good_as_the_best_alone(seed: int, size: int, rounds: int) -> None:
    small = Small(seed, size)
    path = select_forward(size, small.score, rounds)
    alone = max(small.score(tuple(int(n == member) for n in range(size))) for member in range(size))
    assert path[best_length(path) - 1].score >= alone


def test_ties_prefer_experiments_taken_before_then_the_order() -> None:
    path = select_forward(3, lambda _: 0.5, 4)
    assert [step.taken for step in path] == [0, 0, 0, 0]
    assert best_length(path) == 1
    scores = {(0, 1, 0): 0.9, (0, 1, 1): 0.9 + 1e-13, (1, 1, 0): 0.9}
    path = select_forward(3, lambda counts: scores.get(counts, 0.1), 2)
    assert [step.taken for step in path] == [1, 1], "a difference of rounding is none"


def test_nothing_may_be_taken() -> None:
    assert select_forward(2, lambda _: 1.0, 3, lambda _: "no room") == []


@pytest.mark.parametrize(
    ("counts", "expected"), [((2, 2), (1, 1)), ((0, 3), (0, 1)), ((4, 6), (2, 3)), ((5,), (1,)), ((2, 1), (2, 1))]
)
def test_counts_of_the_same_shares_are_equal(counts: Counts, expected: Counts) -> None:
    assert reduced(counts) == expected
