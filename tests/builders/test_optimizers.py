"""Every optimizer descends, options reach Keras, and RAdam equals plain numpy."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from gatemask import quiet
from gatemask.config import Optimizer, OptimizerName

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.builders import optimizers  # noqa: E402


def descend(optimizer: Any, steps: int, start: np.ndarray) -> np.ndarray:
    """Return the weights after each step, (steps, n), on gradients that change from step to step."""
    variable = keras.Variable(start)
    optimizer.build([variable])
    rows = []
    for step in range(steps):
        gradient = 2 * np.asarray(variable) + np.sin(np.arange(len(start)) + step)
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))])
        rows.append(np.asarray(variable).copy())
    return np.array(rows)


def radam_by_hand(steps: int, start: np.ndarray, rate: float, b1: float = 0.9, b2: float = 0.999) -> np.ndarray:
    """Algorithm 2 of the paper, in float64."""
    w, m, v, longest = start.astype(np.float64), 0.0, 0.0, 2 / (1 - b2) - 1
    rows = []
    for t in range(1, steps + 1):
        gradient = 2 * w + np.sin(np.arange(len(start)) + t - 1)
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        length = longest - 2 * t * b2**t / (1 - b2**t)
        if length > 4:
            r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
            w = w - rate * r * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-7)
        else:
            w = w - rate * m / (1 - b1**t)
        rows.append(w)
    return np.array(rows)


def test_radam_equals_the_algorithm_of_the_paper() -> None:
    start = np.linspace(-1, 1, 7).astype(np.float32)
    weights = descend(optimizers.build_optimizer(Optimizer(name="radam"), 0.05), 30, start)
    expected = radam_by_hand(30, start, 0.05)
    assert weights == pytest.approx(expected, abs=1e-4)
    adam = descend(keras.optimizers.Adam(0.05), 30, start)
    assert np.abs(adam - weights).max() > 0.05, "differs from Adam"


def muon_by_hand(steps: int, start: np.ndarray, rate: float, decay: float) -> np.ndarray:
    """The published algorithm for a kernel, float64: momentum, Newton-Schulz steps, a scale, decoupled decay."""
    w, m = start.astype(np.float64), np.zeros_like(start, np.float64)
    for step in range(steps):
        gradient = gradient_of(w, step)
        w = w - w * decay * rate
        m = 0.95 * m + gradient
        x = (gradient + 0.95 * m).reshape(-1, w.shape[-1])
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (np.linalg.norm(x) + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        x = x.T if tall else x
        w = w - 0.2 * rate * np.sqrt(max(x.shape)) * x.reshape(w.shape)
    return w


def gradient_of(weights: np.ndarray, step: int) -> np.ndarray:
    return 2 * weights + np.sin(np.arange(weights.size) + step).reshape(weights.shape)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (1, 1, 16, 4), (12, 20)])
def test_muon_orthogonalizes_kernels(shape: tuple[int, ...]) -> None:
    start = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    kernel = keras.Variable(start, name="kernel")
    optimizer = optimizers.build_optimizer(Optimizer(name="muon", weight_decay=0.1), 0.02)
    optimizer.build([kernel])
    for step in range(4):
        optimizer.apply([keras.ops.convert_to_tensor(gradient_of(np.asarray(kernel), step).astype(np.float32))])
    assert np.asarray(kernel) == pytest.approx(muon_by_hand(4, start, 0.02, 0.1), abs=2e-4)


@pytest.mark.parametrize(
    ("shape", "name"), [((6,), "bias"), ((3, 3, 4, 1), "depthwise_kernel"), ((3, 3, 4, 1), "kernel")]
)
def test_muon_leaves_other_variables_to_adamw(shape: tuple[int, ...], name: str) -> None:
    start = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    found = []
    for kind in ("muon", "adamw"):
        variable = keras.Variable(start, name=name)
        optimizer = optimizers.build_optimizer(Optimizer(name=kind, weight_decay=0.1), 0.02)
        optimizer.build([variable])
        for step in range(3):
            optimizer.apply([keras.ops.convert_to_tensor(gradient_of(np.asarray(variable), step).astype(np.float32))])
        found.append(np.asarray(variable))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_weight_decay_may_spare_biases_and_norms(name: OptimizerName, precision: str) -> None:
    weights = [keras.Variable(np.ones(shape, np.float32)) for shape in ((3, 3, 2, 2), (2,))]
    config = Optimizer(name=name, weight_decay=0.5, weight_decay_on="kernels", ema=0.5)
    optimizer = optimizers.build_optimizer(config, 0.1, precision)
    optimizer.build(weights)
    optimizer.apply([keras.ops.zeros(weight.shape) for weight in weights])
    kernel, bias = (np.asarray(weight) for weight in weights)
    assert (bias == 1).all()
    assert kernel == pytest.approx(np.full(kernel.shape, 0.95))


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_every_optimizer_descends(name: str) -> None:
    variable = keras.Variable(np.array([[1.0, -1.0], [0.5, 2.0]], np.float32))
    optimizer = optimizers.build_optimizer(Optimizer(name=name), 0.1)
    optimizer.build([variable])
    before = float(keras.ops.sum(variable**2))
    for _ in range(5):
        optimizer.apply([2 * keras.ops.convert_to_tensor(variable)])
    assert float(keras.ops.sum(variable**2)) < before


def test_options_reach_keras() -> None:
    built = optimizers.build_optimizer(Optimizer(name="adamw", clipnorm=1.0, weight_decay=0.01, accumulate=4), 0.02)
    assert (built.clipnorm, built.weight_decay, built.gradient_accumulation_steps) == (1.0, 0.01, 4)
    built = optimizers.build_optimizer(Optimizer(name="sgd", momentum=0.9, nesterov=True, global_clipnorm=2.0), 0.02)
    assert (built.momentum, built.nesterov, built.global_clipnorm) == (0.9, True, 2.0)
    assert optimizers.build_optimizer(Optimizer(clipvalue=0.5), 0.02).clipvalue == 0.5
    assert float(built.learning_rate) == pytest.approx(0.02)


def test_gradients_are_accumulated() -> None:
    start = np.ones(3, np.float32)
    weights = descend(optimizers.build_optimizer(Optimizer(name="radam", accumulate=2), 0.1), 4, start)
    assert (weights[0] == start).all()
    assert (weights[1] != start).all()
    assert (weights[2] == weights[1]).all()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_averages_are_kept_beside_the_weights(precision: str) -> None:
    optimizer = optimizers.build_optimizer(Optimizer(name="sgd", ema=0.5), 0.1, precision)
    variable = keras.Variable(np.ones(2, np.float32))
    optimizer.build([variable])
    scale = 2.0**15 if precision == "float16" else 1.0
    expected, weight = 0.0, 1.0
    for step in range(3):
        optimizer.apply([keras.ops.convert_to_tensor(np.full(2, scale, np.float32))])
        weight -= 0.1
        expected = 0.5 * expected + 0.5 * weight if step else weight  # starts at the weights of the first step
    optimizer.finalize_variable_values([variable])
    assert np.asarray(variable) == pytest.approx([weight] * 2, abs=1e-5)
    (average,) = optimizers.averaged_weights(optimizer)
    assert np.asarray(average) == pytest.approx([expected] * 2, abs=1e-5)
    assert optimizers.averaged_weights(optimizers.build_optimizer(Optimizer(), 0.1)) == []


def test_float16_scales_the_loss_and_compile_keeps_the_optimizer() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        image = keras.Input((2,))
        model = keras.Model(image, keras.layers.Dense(1)(image))
        optimizer = optimizers.build_optimizer(Optimizer(name="nadam"), 0.1, "float16")
        model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        assert model.optimizer is optimizer
        optimizer.learning_rate = 0.25
        assert float(optimizer.inner_optimizer.learning_rate) == 0.25
        model.fit(np.ones((2, 2), np.float32), np.ones((2, 1), np.float32), verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
