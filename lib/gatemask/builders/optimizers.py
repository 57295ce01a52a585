"""Optimizers by name; the learning rate is set epoch by epoch from the schedule."""

from __future__ import annotations

import keras

from gatemask.config.schema import Optimizer

OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "nadam": keras.optimizers.Nadam,
    "sgd": keras.optimizers.SGD,
}


def build(config: Optimizer, learning_rate: float) -> keras.optimizers.Optimizer:
    """An optimizer that starts at `learning_rate`."""
    options = {key: value for key, value in config.model_dump(exclude={"name"}).items() if value is not None}
    return OPTIMIZERS[config.name](learning_rate=learning_rate, **options)
