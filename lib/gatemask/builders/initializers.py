"""Initial weights, drawn with numpy: the same for a seed on every backend, and at no cost to compile.

The layers say how: each keeps the initializer that it was given, and here its definition is drawn from.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from gatemask.builders import bridge

Rng = np.random.Generator
TRUNCATED = 0.87962566103423978  # standard deviation of a unit normal that was cut off at 2


def draw_initial_weights(model: keras.Model, seed: int) -> list[np.ndarray]:
    """Fresh values for `model.variables`, in their order, decided by the seed alone.

    Args:
        model: built; its layers may be nested.
        seed: from 0.

    Returns:
        Arrays of the variables' shapes and dtypes: weights, running statistics, and the states of the random
        generators of dropout layers.

    Raises:
        TypeError: an initializer that is not known here.
    """
    meant = _initializers(model)
    rng = np.random.default_rng(seed)
    return [_draw(meant.get(id(variable)), variable, rng) for variable in model.variables]


def assign_variables(model: keras.Model, values: list[np.ndarray]) -> None:
    """Put values into `model.variables`."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def _initializers(model: keras.Model) -> dict[int, Any]:
    """Of each weight, by the identity of its variable."""
    found: dict[int, Any] = {}
    for layer in bridge.flat_layers(model):
        for variable in layer.weights:
            own = getattr(layer, f"{variable.name}_initializer", None)
            # A depthwise convolution calls its weight a kernel and the initializer by another name.
            own = getattr(layer, "depthwise_initializer", None) if own is None else own
            found[id(variable)] = own.meant if isinstance(own, bridge.DeferredInitializer) else own
    return found


def _draw(meant: Any, variable: Any, rng: Rng) -> np.ndarray:
    shape, dtype = tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype)
    if "seed_generator_state" in variable.path:
        return np.array([rng.integers(2**31), 0], dtype)
    draw = DRAWS.get(type(meant).__name__)
    if draw is None:
        raise TypeError(f"{variable.path}: no way to draw from {type(meant).__name__}")
    return np.asarray(draw(meant, shape, rng)).astype(dtype)


def _scaled(meant: Any, shape: tuple[int, ...], rng: Rng) -> np.ndarray:
    """Variance scale / n, n the fan in, the fan out or their mean (Glorot 2010, He 2015)."""
    field = math.prod(shape[:-2])
    fan_in, fan_out = (shape[-2] * field, shape[-1] * field) if len(shape) > 1 else (shape[0], shape[0])
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    deviation = math.sqrt(meant.scale / max(1.0, fans[meant.mode]))
    if meant.distribution == "uniform":
        limit = math.sqrt(3) * deviation
        return rng.uniform(-limit, limit, shape)
    if meant.distribution == "untruncated_normal":
        return rng.normal(0, deviation, shape)
    return _cut_off(shape, rng) * (deviation / TRUNCATED)


def _cut_off(shape: tuple[int, ...], rng: Rng) -> np.ndarray:
    """Unit normal values; those beyond 2 are drawn again."""
    values = rng.standard_normal(shape, np.float32)
    while len(beyond := np.flatnonzero(np.abs(values) > 2)):
        values.flat[beyond] = rng.standard_normal(len(beyond), np.float32)
    return values


DRAWS: dict[str, Any] = {
    "Zeros": lambda meant, shape, rng: np.zeros(shape),
    "Ones": lambda meant, shape, rng: np.ones(shape),
    "Constant": lambda meant, shape, rng: np.full(shape, meant.value),
    "RandomNormal": lambda meant, shape, rng: rng.normal(meant.mean, meant.stddev, shape),
    "RandomUniform": lambda meant, shape, rng: rng.uniform(meant.minval, meant.maxval, shape),
    "TruncatedNormal": lambda meant, shape, rng: meant.mean + meant.stddev * _cut_off(shape, rng),
    **dict.fromkeys(
        ("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "VarianceScaling"),
        _scaled,
    ),
}
