"""Compute the learning rate from epoch, step and the scores so far: a resumed training needs no other state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

from gatemask.config import Schedule, ScheduleName

Scores = Sequence[float]


def learning_rate(config: Schedule, epoch: float, epochs: int, scores: Scores = ()) -> float:
    """Return the learning rate of an epoch, or within it.

    Args:
        config: The experiment's `schedule:`.
        epoch: Index of the epoch, from 0. With `per: step`, the share of its steps that came before is added.
        epochs: Number of epochs of the whole training.
        scores: Value of `monitor` after each previous epoch; higher is better. Only `plateau` uses them. Default: none.

    >>> schedule = Schedule(name="warmup_hold_decay", peak=0.01, warmup=1, hold=1, decay=0.5)
    >>> [learning_rate(schedule, epoch, epochs=4) for epoch in range(4)]
    [0.005, 0.01, 0.005, 0.0025]
    """
    if epoch < config.warmup:
        first = config.floor if config.per == "step" else config.peak / (config.warmup + 1)
        start = first if config.start is None else config.start
        return start + (config.peak - start) * epoch / config.warmup
    is_held = epoch - config.warmup < config.hold
    rate = config.peak if is_held else SCHEDULES[config.name](config, epoch, epochs, scores)
    return max(config.floor, rate)


def step_rates(config: Schedule, epoch: int, epochs: int, steps: int, first: int, stop: int) -> list[float]:
    """Return the learning rates of some steps of an epoch, for `per: step`.

    Each depends on its own place alone. Warm-up and cycles count epochs, so epochs may differ in length.

    Args:
        config: The experiment's `schedule:`.
        epoch: Index of the epoch, from 0.
        epochs: Number of epochs of the whole training.
        steps: Number of steps in this epoch.
        first: First step to return, from 0.
        stop: Step to stop before.

    >>> step_rates(Schedule(peak=1.0, warmup=1, floor=0.0, per="step"), 0, epochs=9, steps=4, first=1, stop=4)
    [0.25, 0.5, 0.75]
    """
    return [learning_rate(config, epoch + step / steps, epochs) for step in range(first, stop)]


def constant(config: Schedule, epoch: float, epochs: int, scores: Scores) -> float:
    """The peak, all the time."""
    return config.peak


def warmup_hold_decay(config: Schedule, epoch: float, epochs: int, scores: Scores) -> float:
    """From start to peak over `warmup` epochs, flat for `hold` epochs, then times `decay` each epoch."""
    epochs_since = epoch - config.warmup - config.hold
    is_flat_before = config.hold > 0 and config.per == "epoch"  # by step, the fall starts with the first step
    return config.peak * config.decay ** (epochs_since + 1 if is_flat_before else epochs_since)


def cosine(config: Schedule, epoch: float, epochs: int, scores: Scores) -> float:
    """Half a cosine from peak to floor, restarted every `cycle` epochs if given (Loshchilov 2016)."""
    first = config.warmup + config.hold
    position, peak, length = epoch - first, config.peak, float(config.cycle or max(1, epochs - first))
    while config.cycle and position >= round(length):
        position -= round(length)
        length *= config.grow
        peak *= config.restart
    # By epoch, the last epoch of a cycle is at the floor. By step, the end of its last step would be.
    whole = round(length) if config.per == "step" else max(1, round(length) - 1)
    progress = min(1.0, position / whole)
    return config.floor + max(0.0, peak - config.floor) * (1 + math.cos(math.pi * progress)) / 2


def plateau(config: Schedule, epoch: float, epochs: int, scores: Scores) -> float:
    """The peak, times `factor` whenever `patience` epochs pass without a better score."""
    first = config.warmup + config.hold  # earlier epochs set the best score, but count as no waiting
    rate, best, waited = config.peak, max(scores[:first], default=-math.inf), 0
    for score in scores[first : int(epoch)]:
        better = score > best + config.min_delta
        best, waited = (score, 0) if better else (best, waited + 1)
        if waited >= config.patience:
            rate, waited = rate * config.factor, 0
    return rate


SCHEDULES: dict[ScheduleName, Callable[[Schedule, float, int, Scores], float]] = {
    name: globals()[name] for name in get_args(ScheduleName)
}
