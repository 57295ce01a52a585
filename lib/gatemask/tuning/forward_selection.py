"""Greedy forward selection with replacement (Caruana and others, Ensemble Selection from Libraries of Models, 2004).

Each round adds the experiment that helps most, whether it was added before or not: one that was gains weight, and costs
no network more. The path is then cut where its score was highest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

TIED = 1e-12  # scores this near are the same, told apart by rounding alone
Counts = tuple[int, ...]  # how often each experiment was taken


@dataclass(frozen=True)
class Round:
    """What one round saw and took.

    Args:
        taken: index of the experiment.
        score: with it.
        scores: of each experiment that could have been taken, by index.
        refused: why the others could not, by index.
        counts: after the round.
    """

    taken: int
    score: float
    scores: dict[int, float]
    counts: Counts
    refused: dict[int, str] = field(default_factory=dict)


def greedy(
    size: int, score: Callable[[Counts], float], rounds: int, refuse: Callable[[Counts], str | None] = lambda _: None
) -> list[Round]:
    """The whole path; `cut` says how much of it to keep.

    Of equal scores (within 1e-12 of the best), an experiment that is there already is taken before a new one, and then
    the one that is listed first.

    Args:
        size: experiments to choose among.
        score: of some counts, the higher the better. It is asked once for counts of the same shares: (1, 1) and (2, 2)
            average to the same.
        rounds: at most.
        refuse: why these counts must not be shipped; None where they may. Also asked once for the same shares.

    Returns:
        One entry a round; fewer than `rounds` where nothing may be taken any more, so none where nothing ever may.
    """
    known: dict[Counts, float] = {}
    forbidden: dict[Counts, str | None] = {}
    counts: Counts = (0,) * size
    path: list[Round] = []
    for _ in range(rounds):
        scores, refused = {}, {}
        for one in range(size):
            shares = normal(_with(counts, one))
            if shares not in forbidden:
                forbidden[shares] = refuse(shares)
            if reason := forbidden[shares]:
                refused[one] = reason
                continue
            if shares not in known:
                known[shares] = score(shares)
            scores[one] = known[shares]
        if not scores:
            break
        top = max(scores.values())
        tied = [one for one, value in scores.items() if value >= top - TIED]
        taken = min(tied, key=lambda one: (counts[one] == 0, one))
        counts = _with(counts, taken)
        path.append(Round(taken, scores[taken], scores, counts, refused))
    return path


def cut(path: list[Round]) -> int:
    """How many rounds to keep: the fewest that reach the highest score."""
    top = max(one.score for one in path)
    return 1 + next(at for at, one in enumerate(path) if one.score >= top - TIED)


def normal(counts: Counts) -> Counts:
    """The smallest counts of the same shares."""
    divisor = math.gcd(*counts)
    return tuple(count // divisor for count in counts)


def _with(counts: Counts, one: int) -> Counts:
    return tuple(count + (at == one) for at, count in enumerate(counts))
