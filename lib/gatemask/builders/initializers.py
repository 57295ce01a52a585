"""Draw initial weights with numpy: the same for a seed on every backend, with nothing to compile.

Each layer keeps the initializer that it was given; the values are drawn from that initializer's definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from gatemask.builders import bridge

TRUNCATED_DEVIATION = 0.87962566103423978  # standard deviation of a unit normal truncated at 2


def draw_initial_weights(model: keras.Model, seed: int) -> list[np.ndarray]:
    """Return new values for `model.variables`, in their order.

    Args:
        model: Built model; its layers may be nested.
        seed: Seed, from 0; it alone decides the values.

    Returns:
        Arrays of the variables' shapes and dtypes: weights, running statistics, and the states of the random
        generators in dropout layers.

    Raises:
        TypeError: An initializer is not supported.
    """
    initializers = _initializers(model)
    rng = np.random.default_rng(seed)
    return [_draw_variable(initializers.get(id(variable)), variable, rng) for variable in model.variables]


def assign_variables(model: keras.Model, values: list[np.ndarray]) -> None:
    """Assign values to `model.variables`, in their order."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def _initializers(model: keras.Model) -> dict[int, keras.initializers.Initializer | None]:
    """Initializer of each weight, by the identity of its variable."""
    initializers: dict[int, keras.initializers.Initializer | None] = {}
    for layer in bridge.flat_layers(model):
        for variable in layer.weights:
            initializer = getattr(layer, f"{variable.name}_initializer", None)
            if initializer is None:  # a depthwise convolution's weight is a "kernel", its initializer a "depthwise" one
                initializer = getattr(layer, "depthwise_initializer", None)
            if isinstance(initializer, bridge.DeferredInitializer):
                initializer = initializer.original
            initializers[id(variable)] = initializer
    return initializers


def _draw_variable(
    initializer: keras.initializers.Initializer | None, variable: keras.Variable, rng: np.random.Generator
) -> np.ndarray:
    shape, dtype = tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype)
    if "seed_generator_state" in variable.path:
        return np.array([rng.integers(2**31), 0], dtype)
    name = type(initializer).__name__
    if name not in DRAWS:
        raise TypeError(f"Cannot draw the initial values of {variable.path}: unsupported initializer {name}.")
    return np.asarray(DRAWS[name](initializer, shape, rng)).astype(dtype)


def _draw_scaled(initializer: Any, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw with variance scale / n, where n is the fan-in, the fan-out or their mean (Glorot 2010, He 2015)."""
    field = math.prod(shape[:-2])
    fan_in, fan_out = (shape[-2] * field, shape[-1] * field) if len(shape) > 1 else (shape[0], shape[0])
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    deviation = math.sqrt(initializer.scale / max(1.0, fans[initializer.mode]))
    if initializer.distribution == "uniform":
        limit = math.sqrt(3) * deviation
        return rng.uniform(-limit, limit, shape)
    if initializer.distribution == "untruncated_normal":
        return rng.normal(0, deviation, shape)
    return _draw_truncated(shape, rng) * (deviation / TRUNCATED_DEVIATION)


def _draw_truncated(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw from a unit normal; values beyond 2 are drawn again."""
    values = rng.standard_normal(shape, np.float32)
    while len(beyond := np.flatnonzero(np.abs(values) > 2)):
        values.flat[beyond] = rng.standard_normal(len(beyond), np.float32)
    return values


Draw = Callable[[Any, tuple[int, ...], np.random.Generator], np.ndarray]
DRAWS: dict[str, Draw] = {
    "Zeros": lambda initializer, shape, rng: np.zeros(shape),
    "Ones": lambda initializer, shape, rng: np.ones(shape),
    "Constant": lambda initializer, shape, rng: np.full(shape, initializer.value),
    "RandomNormal": lambda initializer, shape, rng: rng.normal(initializer.mean, initializer.stddev, shape),
    "RandomUniform": lambda initializer, shape, rng: rng.uniform(initializer.minval, initializer.maxval, shape),
    "TruncatedNormal": lambda initializer, shape, rng: (
        initializer.mean + initializer.stddev * _draw_truncated(shape, rng)
    ),
    **dict.fromkeys(
        ("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "VarianceScaling"),
        _draw_scaled,
    ),
}
