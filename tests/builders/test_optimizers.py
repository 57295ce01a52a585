"""Every optimizer descends, options reach Keras, and RAdam equals plain numpy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from gatemask import quiet
from gatemask.config import Optimizer, OptimizerName

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.builders import optimizers  # noqa: E402
from tests.builders import optimizer_runs  # noqa: E402


@pytest.fixture(scope="module", params=["tensorflow", pytest.param("jax", marks=pytest.mark.integration)])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Arrays of `optimizer_runs` on a backend."""
    if request.param == "tensorflow":
        return optimizer_runs.run_all()
    pytest.importorskip("jax")
    file = tmp_path_factory.mktemp("optimizers") / "runs.npz"
    subprocess.run([sys.executable, optimizer_runs.__file__, str(file)], check=True, cwd=Path.cwd())
    return dict(np.load(file))


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


@pytest.mark.parametrize(("run", "every"), [("table", 1), ("table, scaled", 1), ("table, accumulated", 2)])
def test_each_step_has_the_rate_of_the_table(runs: dict[str, np.ndarray], run: str, every: int) -> None:
    """Each update has the rate of its own step; the step is traced once over two tables."""
    updates = [0.0 if (step + 1) % every else rate for step, rate in enumerate(optimizer_runs.RATES)]
    after = 1 - np.cumsum(updates)
    assert runs[f"{run}/weights"] == pytest.approx(after[[2, 4]], abs=1e-5)
    assert runs[f"{run}/traces"] == 1


def adamw_by_hand(start: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float) -> np.ndarray:
    """AdamW with decoupled decay, float64."""
    w, m, v = start.astype(np.float64), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = 0.9 * m + 0.1 * g.astype(np.float64), 0.999 * v + 0.001 * g.astype(np.float64) ** 2
        w = w - rate * decay * w
        w = w - rate * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))
    return w


@pytest.mark.parametrize(("layer", "depth"), [("first", 3), ("branch", 2), ("third", 1), ("head", 0)])
def test_the_rate_of_a_stage_decays_with_its_depth(runs: dict[str, np.ndarray], layer: str, depth: int) -> None:
    """Updates and weight decay of a variable have the rate of its stage: 0.5 ^ depth."""
    names = [name.removeprefix("layer decay/before/") for name in runs if name.startswith("layer decay/before/")]
    shapes = [runs[f"layer decay/before/{name}"].shape for name in names]
    steps = [optimizer_runs.gradients(shapes, step) for step in range(optimizer_runs.STEPS)]
    rates = [rate * 0.5**depth for rate in optimizer_runs.DECAYED_RATES]
    checked = [index for index, name in enumerate(names) if name.startswith(f"{layer}/")]
    assert len(checked) == 2, "kernel and bias"
    for index in checked:
        before, after = (runs[f"layer decay/{when}/{names[index]}"] for when in ("before", "after"))
        decay = 0.1 if before.ndim == 2 else 0.0
        expected = adamw_by_hand(before, [step[index] for step in steps], rates, decay)
        assert after == pytest.approx(expected, abs=1e-5)


def test_the_depth_of_a_layer_is_that_of_its_resolution() -> None:
    from gatemask.builders import layer_rates
    from tests.builders import steps

    network = steps.build("unet", 0, small=True)
    depths = layer_rates.stage_depths(network.encoder)
    found = {variable.path: depths.get(id(variable), 0) for variable in network.model.trainable_variables}
    assert {depth for name, depth in found.items() if not name.startswith("level")} == {0}, "the decoder"
    stages = {int(name[len("level")]): depth for name, depth in found.items() if name.startswith("level")}
    assert stages == {1: 5, 2: 4, 3: 3, 4: 2, 5: 1}


def schedule_free_by_hand(
    start: np.ndarray, rates: list[float], decay: float = 0.0, factor: float = 1.0, sines: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of the paper, in float64: y and x after each step.

    Args:
        start: Initial weights.
        rates: Learning rate of each step.
        decay: Weight decay. Default: 0.
        factor: Factor of the rate in the steps of z. Default: 1.
        sines: Whether gradients change from step to step. Default: True.
    """
    x = z = start.astype(np.float64)
    v, total, rows = np.zeros_like(x), 0.0, []
    for t, rate in enumerate(rates, 1):
        y = 0.1 * z + 0.9 * x
        g = 2 * y + sines * np.sin(np.arange(len(start)) + t - 1)
        v = 0.999 * v + 0.001 * g**2
        z = z - factor * rate * (g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * y)
        total += rate**2
        c = rate**2 / total
        x = (1 - c) * x + c * z
        rows.append((0.1 * z + 0.9 * x, x))
    return np.array([y for y, _ in rows]), np.array([x for _, x in rows])


def test_schedule_free_equals_the_algorithm_of_the_paper(runs: dict[str, np.ndarray]) -> None:
    weights, averages = schedule_free_by_hand(optimizer_runs.START, optimizer_runs.FREE_RATES, decay=0.1, factor=0.5)
    assert runs["schedule-free/weights"] == pytest.approx(weights, abs=2e-5)
    assert runs["schedule-free/averages"] == pytest.approx(averages, abs=2e-5)
    assert np.abs(weights - averages).max() > 1e-3, "the average differs from the weights"


def test_schedule_free_updates_after_accumulated_batches(runs: dict[str, np.ndarray]) -> None:
    weights, averages = schedule_free_by_hand(np.ones(1), [0.1] * 3, sines=False)
    assert runs["schedule-free, fit/weights"] == pytest.approx([weights[-1, 0], averages[-1, 0]], abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_schedule_free_begins_at_any_weights(precision: str) -> None:
    """Folds share an optimizer, whose variables are set to what they were before the first step."""
    optimizer = optimizers.build_optimizer(Optimizer(name="schedulefreeadamw"), 0.1, precision)
    weight = keras.Variable(np.zeros(2, np.float32))
    optimizer.build([weight])
    fresh = [np.array(variable) for variable in optimizer.variables]
    ends = []
    for _ in range(2):
        weight.assign(np.array([3.0, -2.0]))
        for variable, value in zip(optimizer.variables, fresh, strict=True):
            variable.assign(value)
        for sign in (1.0, -0.5, 2.0):
            optimizer.apply([keras.ops.convert_to_tensor(np.full(2, sign * 2.0**15, np.float32))])
        ends.append(optimizers.averaged_weights(optimizer)[0])
    assert (ends[0] == ends[1]).all()
    assert np.abs(ends[0] - [3.0, -2.0]).max() < 0.3


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize(("backend", "devices"), [("tensorflow", 2), ("jax", 8)])
def test_several_devices_update_as_one_does(tmp_path: Path, backend: str, devices: int) -> None:
    pytest.importorskip(backend)
    file = tmp_path / "runs.npz"
    command = [sys.executable, optimizer_runs.__file__, str(file), backend, str(devices)]
    subprocess.run(command, check=True, cwd=Path.cwd())
    spread, alone = dict(np.load(file)), optimizer_runs.on_all_devices()
    assert spread.keys() == alone.keys()
    for name, array in alone.items():
        assert spread[name] == pytest.approx(array, abs=1e-4), name


def test_the_table_is_no_part_of_a_state() -> None:
    """States stay readable with other `checkpoints.steps`, which set the length of the table."""
    states = []
    for length in (0, 3, 5):
        optimizer = optimizers.build_optimizer(Optimizer(name="adam"), 0.1, table_length=length)
        optimizer.build([keras.Variable(np.ones(2, np.float32))])
        states.append([variable.shape for variable in optimizers.state_variables(optimizer)])
    assert states[0] == states[1] == states[2]
