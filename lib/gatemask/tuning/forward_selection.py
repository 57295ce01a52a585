"""Greedy forward selection with replacement (Caruana and others, Ensemble Selection from Libraries of Models, 2004).

Each round adds the experiment that helps most, whether it was added before or not: an experiment added again gains
weight at no further cost. The path is then cut where its score was highest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

TIED = 1e-12  # scores this close differ by rounding alone
Counts = tuple[int, ...]  # how often each experiment was taken


@dataclass(frozen=True)
class Round:
    """One round of a greedy selection.

    Args:
        taken: Index of the experiment that was taken.
        score: Score with it.
        scores: Score with each experiment that could have been taken, by index.
        counts: Counts after the round.
        refused: Why the other experiments could not be taken, by index.
    """

    taken: int
    score: float
    scores: dict[int, float]
    counts: Counts
    refused: dict[int, str] = field(default_factory=dict)


def select_forward(
    size: int, score: Callable[[Counts], float], rounds: int, refuse: Callable[[Counts], str | None] = lambda _: None
) -> list[Round]:
    """Return the whole path of a greedy selection; `best_length` says how much of it to keep.

    Among equal scores (within 1e-12 of the best), an experiment that was taken before wins over a new one, then the
    one listed first.

    Args:
        size: Number of experiments to choose from.
        score: Returns the score of some counts; higher is better. Called once for counts of the same shares, since
            (1, 1) and (2, 2) average to the same.
        rounds: Maximum number of rounds.
        refuse: Returns why these counts must not be shipped, or None. Also called once for the same shares.

    Returns:
        One entry per round; fewer than `rounds` where nothing more may be taken, and none where nothing ever may.

    >>> path = select_forward(2, lambda counts: -abs(counts[0] / sum(counts) - 2 / 3), rounds=3)
    >>> [step.taken for step in path], path[-1].counts
    ([0, 1, 0], (2, 1))
    """
    scored: dict[Counts, float] = {}
    reasons: dict[Counts, str | None] = {}
    counts: Counts = (0,) * size
    path: list[Round] = []
    for _ in range(rounds):
        scores, refused = {}, {}
        for index in range(size):
            shares = reduced(_with(counts, index))
            if shares not in reasons:
                reasons[shares] = refuse(shares)
            if reason := reasons[shares]:
                refused[index] = reason
                continue
            if shares not in scored:
                scored[shares] = score(shares)
            scores[index] = scored[shares]
        if not scores:
            break
        top = max(scores.values())
        tied = [index for index, value in scores.items() if value >= top - TIED]
        taken = min(tied, key=lambda index: (counts[index] == 0, index))
        counts = _with(counts, taken)
        path.append(Round(taken, scores[taken], scores, counts, refused))
    return path


def best_length(path: list[Round]) -> int:
    """Return the number of rounds to keep: the fewest that reach the highest score.

    >>> best_length([Round(0, 0.7, {}, (1, 0)), Round(1, 0.8, {}, (1, 1)), Round(0, 0.8, {}, (2, 1))])
    2
    """
    top = max(step.score for step in path)
    return 1 + next(index for index, step in enumerate(path) if step.score >= top - TIED)


def reduced(counts: Counts) -> Counts:
    """Return the smallest counts of the same shares.

    >>> reduced((4, 6))
    (2, 3)
    """
    divisor = math.gcd(*counts)
    return tuple(count // divisor for count in counts)


def _with(counts: Counts, taken: int) -> Counts:
    return tuple(count + (index == taken) for index, count in enumerate(counts))
