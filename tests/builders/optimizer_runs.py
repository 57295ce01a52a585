"""Trainings of a small network with each way to set learning rates: a module of the tests, and a script on JAX.

python optimizer_runs.py FILE                     write the weights of each run to FILE, as .npz
python optimizer_runs.py FILE BACKEND DEVICES     write those of a run on several devices
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

FEATURES, TRACES = 3, "traces"
STEPS, DECAYED_RATES = 4, [0.1, 0.2, 0.3, 0.05]
START = np.linspace(-1, 1, 7).astype(np.float32)
FREE_RATES = [0.01, 0.02, 0.03, *[0.04] * 27]
RATES = [0.1, 0.2, 0.05, 0.4, 0.3]  # of the steps that are trained


def rate_table(accumulate: int | None = None, precision: str = "float32") -> dict[str, np.ndarray]:
    """Train with a table of rates in two legs; return the weight after each, and how often the step was traced.

    The loss is the mean of x w for x = 1, so each update subtracts the rate from the weight.
    """
    import keras

    from gatemask.builders import optimizers
    from gatemask.config import Optimizer

    traces = []

    class Traced(keras.Model):
        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *_: Any, **__: Any) -> Any:
            traces.append(1)
            return keras.ops.mean(y_pred)

    image = keras.Input((1,))
    model = Traced(image, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(image))
    config = Optimizer(name="sgd", accumulate=accumulate)
    optimizer = optimizers.build_optimizer(config, 1.0, precision, table_length=4)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    weights = []
    for leg in (RATES[:3], RATES[3:]):
        optimizers.set_rates(optimizer, leg)
        ones = np.ones((2 * len(leg), 1), np.float32)
        model.fit(ones, ones, batch_size=2, verbose=0, shuffle=False)
        weights.append(float(np.asarray(model.trainable_variables[0])[0, 0]))
    return {"weights": np.array(weights), TRACES: np.array(len(traces))}


def stages() -> tuple[Any, dict[str, Any]]:
    """Return an encoder of three stages, one with a residual, and its variables and those of a head, by path."""
    import keras

    image = keras.Input((FEATURES,))
    first = keras.layers.Dense(FEATURES, name="first")(image)
    branch = keras.layers.Dense(FEATURES, name="branch")(first)
    second = keras.layers.Add()([first, branch])
    third = keras.layers.Dense(FEATURES, name="third")(second)
    encoder = keras.Model(image, [second, first, third], name="encoder")
    head = keras.layers.Dense(1, name="head")
    head.build((None, FEATURES))
    return encoder, {variable.path: variable for variable in [*encoder.trainable_variables, *head.trainable_variables]}


def gradients(shapes: list[tuple[int, ...]], step: int) -> list[np.ndarray]:
    """Return random gradients of a step, one per shape."""
    rng = np.random.default_rng(step)
    return [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]


def layer_decay() -> dict[str, np.ndarray]:
    """Update all variables with given gradients; return them before and after."""
    import keras

    from gatemask.builders import layer_rates, optimizers
    from gatemask.config import Optimizer

    encoder, variables = stages()
    rng = np.random.default_rng(0)
    starts = {name: rng.normal(0, 1, variable.shape).astype(np.float32) for name, variable in variables.items()}
    for name, variable in variables.items():
        variable.assign(starts[name])
    config = Optimizer(name="adamw", weight_decay=0.1, weight_decay_on="kernels", layer_decay=0.5)
    factors = layer_rates.rate_factors(encoder, 0.5)
    optimizer = optimizers.build_optimizer(config, 1.0, table_length=STEPS, rate_factors=factors)
    optimizer.build(list(variables.values()))
    optimizers.set_rates(optimizer, DECAYED_RATES)
    for step in range(STEPS):
        arrays = gradients([variable.shape for variable in variables.values()], step)
        optimizer.apply([keras.ops.convert_to_tensor(array) for array in arrays])
    ends = {f"after/{name}": np.asarray(variable).copy() for name, variable in variables.items()}
    return {**{f"before/{name}": start for name, start in starts.items()}, **ends}


def schedule_free() -> dict[str, np.ndarray]:
    """Descend on gradients that depend on weights and step, with a warm-up; return weights and averages by step."""
    import keras

    from gatemask.builders import optimizers
    from gatemask.config import Optimizer

    weight = keras.Variable(START)
    config = Optimizer(name="schedulefreeadamw", weight_decay=0.1)
    optimizer = optimizers.build_optimizer(config, 1.0, table_length=len(FREE_RATES), rate_factors={id(weight): 0.5})
    optimizer.build([weight])
    optimizers.set_rates(optimizer, FREE_RATES)
    weights, averages = [], []
    for step in range(len(FREE_RATES)):
        gradient = 2 * np.asarray(weight) + np.sin(np.arange(weight.shape[0]) + step)
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))])
        weights.append(np.asarray(weight).copy())
        averages.append(optimizers.averaged_weights(optimizer)[0])
    return {"weights": np.array(weights), "averages": np.array(averages)}


def schedule_free_fit() -> dict[str, np.ndarray]:
    """Train in a compiled step that accumulates two batches; return weight and average after three updates.

    The loss is the mean of the squared weight.
    """
    import keras

    from gatemask.builders import optimizers
    from gatemask.config import Optimizer

    image = keras.Input((1,))
    model = keras.Model(image, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(image))
    config = Optimizer(name="schedulefreeadamw", accumulate=2)
    optimizer = optimizers.build_optimizer(config, 0.1)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=keras.backend.backend() == "jax")
    model.fit(np.ones((12, 1), np.float32), np.zeros((12, 1), np.float32), batch_size=2, verbose=0)
    average = optimizers.averaged_weights(optimizer)[0].item()
    return {"weights": np.array([np.asarray(model.trainable_variables[0]).item(), average])}


def on_devices(name: str, devices: int = 1) -> dict[str, np.ndarray]:
    """Train with a table of rates in two legs, with a decay by stage; return weights and averages.

    Args:
        name: Name of the optimizer.
        devices: Number of devices that share each batch.
    """
    import keras

    from gatemask.builders import layer_rates, optimizers
    from gatemask.config import Optimizer

    scope: Any = nullcontext()
    is_jax = keras.backend.backend() == "jax"
    if devices > 1 and is_jax:
        names = [f"cpu:{number}" for number in range(devices)]
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names))
    elif devices > 1:
        import tensorflow as tf

        scope = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)]).scope()
    rng = np.random.default_rng(0)
    with scope:
        image = keras.Input((4,))
        first = keras.layers.Dense(8, activation="relu")(image)
        encoder = keras.Model(image, [first, keras.layers.Dense(8)(first)])
        model = keras.Model(image, keras.layers.Dense(1)(encoder(image)[1]))
        config = Optimizer(name=name, weight_decay=0.1, weight_decay_on="kernels")  # type: ignore[arg-type]
        factors = layer_rates.rate_factors(encoder, 0.5)
        optimizer = optimizers.build_optimizer(config, 1.0, table_length=8, rate_factors=factors)
        optimizer.build(model.trainable_variables)
        for variable in model.trainable_variables:
            variable.assign(rng.normal(0, 1, variable.shape).astype(np.float32))
        model.compile(optimizer, loss="mse", jit_compile=is_jax)
    images, truth = (rng.normal(0, 1, (48, width)).astype(np.float32) for width in (4, 1))
    for factor in (1, 2):
        optimizers.set_rates(optimizer, [0.01 * factor * step for step in range(1, 7)])
        model.fit(images, truth, batch_size=8, shuffle=False, verbose=0)
    arrays = [np.asarray(variable) for variable in model.trainable_variables]
    arrays += optimizers.averaged_weights(optimizer)
    return {f"{number}": array for number, array in enumerate(arrays)}


def on_all_devices(devices: int = 1) -> dict[str, np.ndarray]:
    """Return the arrays of `on_devices` for two optimizers, named "optimizer/number"."""
    names = ("adamw", "schedulefreeadamw")
    return {f"{name}/{key}": array for name in names for key, array in on_devices(name, devices).items()}


RUNS: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "table": rate_table,
    "table, accumulated": lambda: rate_table(accumulate=2),
    "table, scaled": lambda: rate_table(precision="float16"),
    "layer decay": layer_decay,
    "schedule-free": schedule_free,
    "schedule-free, fit": schedule_free_fit,
}


def run_all() -> dict[str, np.ndarray]:
    """Return the arrays of all runs, named "run/array"."""
    return {f"{name}/{key}": array for name, run in RUNS.items() for key, array in run().items()}


if __name__ == "__main__":
    file, backend, count = sys.argv[1], *(sys.argv[2:] or ("jax", "1"))
    os.environ["KERAS_BACKEND"] = backend
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
    from gatemask import quiet

    if backend == "tensorflow":
        config = quiet.tensorflow().config
        one = config.LogicalDeviceConfiguration()
        config.set_logical_device_configuration(config.list_physical_devices("CPU")[0], [one] * int(count))
    quiet.keras()
    np.savez(file, **(on_all_devices(int(count)) if len(sys.argv) > 2 else run_all()))  # type: ignore[arg-type]
