"""Learning rate by epoch: plain functions of what was, so that a resumed training needs no state of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

from gatemask.config import Schedule, ScheduleName

Scores = Sequence[float]


def learning_rate(config: Schedule, epoch: int, epochs: int, scores: Scores = ()) -> float:
    """The learning rate of an epoch.

    Args:
        config: the YAML's `schedule:`.
        epoch: from 0.
        epochs: of the whole training.
        scores: what `monitor` gave in the epochs before, one each; higher is better.
    """
    if epoch < config.warmup:
        start = config.peak / (config.warmup + 1) if config.start is None else config.start
        return start + (config.peak - start) * epoch / config.warmup
    since = epoch - config.warmup
    rate = config.peak if since < config.hold else SCHEDULES[config.name](config, epoch, epochs, scores)
    return max(config.floor, rate)


def constant(config: Schedule, epoch: int, epochs: int, scores: Scores) -> float:
    """Always the peak."""
    return config.peak


def warmup_hold_decay(config: Schedule, epoch: int, epochs: int, scores: Scores) -> float:
    """Linear from start to peak over `warmup` epochs, `hold` epochs flat, then times `decay` each epoch."""
    late = epoch - config.warmup - config.hold
    return config.peak * config.decay ** (late + 1 if config.hold else late)


def cosine(config: Schedule, epoch: int, epochs: int, scores: Scores) -> float:
    """Half a cosine from peak to floor, and again where `cycle` says so (Loshchilov 2016)."""
    at, whole = epoch - config.warmup - config.hold, max(1, epochs - config.warmup - config.hold)
    peak, length = config.peak, float(config.cycle or whole)
    while config.cycle and at >= round(length):
        at -= round(length)
        length *= config.grow
        peak *= config.restart
    # A cycle's last epoch is at the floor.
    part = min(1.0, at / max(1, round(length) - 1))
    return config.floor + max(0.0, peak - config.floor) * (1 + math.cos(math.pi * part)) / 2


def plateau(config: Schedule, epoch: int, epochs: int, scores: Scores) -> float:
    """The peak, times `factor` each time that `patience` epochs went by without a better score."""
    begun = config.warmup + config.hold  # what came before is known, and is no waiting
    rate, best, waited = config.peak, max(scores[:begun], default=-math.inf), 0
    for score in scores[begun:epoch]:
        better = score > best + config.min_delta
        best, waited = (score, 0) if better else (best, waited + 1)
        if waited >= config.patience:
            rate, waited = rate * config.factor, 0
    return rate


SCHEDULES: dict[ScheduleName, Callable[[Schedule, int, int, Scores], float]] = {
    name: globals()[name] for name in get_args(ScheduleName)
}
