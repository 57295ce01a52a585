"""Compute the learning rate of an epoch from the scores so far: a resumed training needs no other state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

from gatemask.config import Schedule, ScheduleName

Scores = Sequence[float]


def learning_rate(config: Schedule, epoch: int, epochs: int, scores: Scores = ()) -> float:
    """Return the learning rate of an epoch.

    Args:
        config: The experiment's `schedule:`.
        epoch: Index of the epoch, from 0.
        epochs: Number of epochs of the whole training.
        scores: Value of `monitor` after each previous epoch; higher is better. Only `plateau` uses them. Default: none.

    >>> schedule = Schedule(name="warmup_hold_decay", peak=0.01, warmup=1, hold=1, decay=0.5)
    >>> [learning_rate(schedule, epoch, epochs=4) for epoch in range(4)]
    [0.005, 0.01, 0.005, 0.0025]
    """
    if epoch < config.warmup:
        start = config.peak / (config.warmup + 1) if config.start is None else config.start
        return start + (config.peak - start) * epoch / config.warmup
    is_held = epoch - config.warmup < config.hold
    rate = config.peak if is_held else SCHEDULES[config.name](config, epoch, epochs, scores)
    return max(config.floor, rate)


def constant(config: Schedule, epoch: int, epochs: int, scores: Scores) -> float:
    """The peak, in every epoch."""
    return config.peak


def warmup_hold_decay(config: Schedule, epoch: int, epochs: int, scores: Scores) -> float:
    """From start to peak over `warmup` epochs, flat for `hold` epochs, then times `decay` each epoch."""
    epochs_since = epoch - config.warmup - config.hold
    return config.peak * config.decay ** (epochs_since + 1 if config.hold else epochs_since)


def cosine(config: Schedule, epoch: int, epochs: int, scores: Scores) -> float:
    """Half a cosine from peak to floor, restarted every `cycle` epochs if given (Loshchilov 2016)."""
    first = config.warmup + config.hold
    position, peak, length = epoch - first, config.peak, float(config.cycle or max(1, epochs - first))
    while config.cycle and position >= round(length):
        position -= round(length)
        length *= config.grow
        peak *= config.restart
    progress = min(1.0, position / max(1, round(length) - 1))  # the last epoch of a cycle is at the floor
    return config.floor + max(0.0, peak - config.floor) * (1 + math.cos(math.pi * progress)) / 2


def plateau(config: Schedule, epoch: int, epochs: int, scores: Scores) -> float:
    """The peak, times `factor` whenever `patience` epochs pass without a better score."""
    first = config.warmup + config.hold  # earlier epochs set the best score, but count as no waiting
    rate, best, waited = config.peak, max(scores[:first], default=-math.inf), 0
    for score in scores[first:epoch]:
        better = score > best + config.min_delta
        best, waited = (score, 0) if better else (best, waited + 1)
        if waited >= config.patience:
            rate, waited = rate * config.factor, 0
    return rate


SCHEDULES: dict[ScheduleName, Callable[[Schedule, int, int, Scores], float]] = {
    name: globals()[name] for name in get_args(ScheduleName)
}
