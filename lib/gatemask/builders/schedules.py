"""Learning rate by epoch: plain functions, so that a resumed training needs no state of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

from gatemask.config.schema import Schedule


def learning_rate(config: Schedule, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch (from 0) of a training of `epochs`."""
    return SCHEDULES[config.name](config, epoch, epochs)


def constant(config: Schedule, epoch: int, epochs: int) -> float:
    return config.peak


def warmup_hold_decay(config: Schedule, epoch: int, epochs: int) -> float:
    """Linear from start to peak over `warmup` epochs, `hold` epochs flat, then times `decay` each epoch."""
    if epoch < config.warmup:
        start = config.peak if config.start is None else config.start
        return start + (config.peak - start) * epoch / config.warmup
    late = max(0, epoch - config.warmup - config.hold + 1) if config.hold else epoch - config.warmup
    return max(config.floor, config.peak * config.decay**late)


def cosine(config: Schedule, epoch: int, epochs: int) -> float:
    """The same warm-up, then half a cosine from peak to floor (Loshchilov 2016, without restarts)."""
    if epoch < config.warmup:
        return warmup_hold_decay(config, epoch, epochs)
    part = (epoch - config.warmup) / max(1, epochs - 1 - config.warmup)
    return config.floor + (config.peak - config.floor) * (1 + math.cos(math.pi * min(1.0, part))) / 2


SCHEDULES: dict[str, Callable[[Schedule, int, int], float]] = {
    "constant": constant,
    "cosine": cosine,
    "warmup_hold_decay": warmup_hold_decay,
}
