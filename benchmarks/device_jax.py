"""The training step of gatemask on JAX, for the device benchmark: ready batches, and batches fed from records.

Both go through `fit`, the callback of a training and the hand-over of a training: they differ only in who makes the
batches. Times are those of the device: a step ends when its loss is on the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import device_xrays
import numpy as np
from device_child import steps_for

from gatemask.config import Experiment
from gatemask.data.shards import StoredExample
from gatemask.input import pipeline
from gatemask.input.keras_input import Arrays, keras_input
from gatemask.input.layout import ONE_CLASS
from gatemask.input.wait import InputWait

FIRST = 3  # steps at the start of a round that are not measured: batches were made while nothing was trained
READY = 8  # different ready batches
SEED = 0
# Each image is decoded, warped, and changed in brightness and contrast, and parts of it are hidden.
AUGMENT: list[Any] = [
    "hflip",
    {"affine": {"rotate": 7, "shear": 0.05, "zoom": [0.8, 1.0], "shift": 0.05}},
    {"zoom_to_mask": {"p": 0.3, "zoom": [1.1, 1.5]}},
    {"brightness_contrast": 0.2},
    {"coarse_dropout": {"holes": 8, "size": 0.05}},
]


def experiment(job: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a job."""
    is_gate = job["name"] == "gate"
    return Experiment.model_validate(
        {
            "name": "device",
            "task": "gate" if is_gate else "mask",
            "model": {"name": job["name"], "encoder": job["encoder"]},
            "input": {"size": job["size"]},
            "augment": AUGMENT,
            "loss": {"bce": 1} if is_gate else {"bce": 1, "dice": 1},
            "epochs": 1000,
            "batch": {"per_device": job["batch"]},
            "runtime": {"backend": "jax", "devices": job["devices"], "precision": job["precision"]},
        }
    )


def prepare(job: Mapping[str, Any]) -> JaxStep:
    """Return the compiled training step of a job."""
    return JaxStep(job)


class JaxStep:
    """A training model, compiled and run for two steps.

    Args:
        job: The fields of `Network` and the options of the command line.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        from gatemask.training import runtime

        started = time.perf_counter()
        self.job, self.exp = job, experiment(job)
        self.devices = runtime.start_keras(self.exp.runtime)
        from gatemask.builders import models, optimizers, step

        self.batch = job["batch"] * self.devices.count
        with self.devices.scope():
            network = models.build_network(self.exp.model, job["size"], 1)
            self.model = step.training_model(network, self.exp)
            optimizer = optimizers.build_optimizer(self.exp.optimizer, 1e-4, self.exp.runtime.precision)
            optimizer.build(self.model.trainable_variables)
            self.model.compile(optimizer, jit_compile=True)
        self.batches = self._ready_batches()
        self.build_s = time.perf_counter() - started
        self._examples: list[StoredExample] | None = None
        self._epoch = 0
        compiling = time.perf_counter()
        self._fit(lambda wait: self._ready(2, wait), 0)
        self.compile_s = time.perf_counter() - compiling
        measured = self._fit(lambda wait: self._ready(4, wait), 1)
        self._seconds_per_step = measured["ms_per_step"] / 1e3

    def facts(self) -> dict[str, Any]:
        import jax
        import keras

        trained = sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)
        return {
            "framework": "jax",
            "device": jax.devices()[0].device_kind,
            "platform": self.devices.accelerator,
            "devices": self.devices.count,
            "precision": self.exp.runtime.precision,
            "versions": {"jax": jax.__version__, "keras": keras.__version__},
            "parameters": trained,
            "build_s": round(self.build_s, 2),
            "compile_s": round(self.compile_s, 2),
        }

    def measure(self, way: str, seconds: float) -> dict[str, Any]:
        """Measure a round. "first" is an epoch of images that no epoch before has decoded: only one round is new."""
        steps = FIRST + steps_for(seconds, self._seconds_per_step)
        if way == "ready":
            return self._fit(lambda wait: self._ready(steps, wait), FIRST)
        if self._examples is None:
            self._examples = device_xrays.examples(Path(self.job["records"]), self.job["images"], self.job["size"])
        if way == "first":
            steps = min(steps, len(self._examples) // self.batch)
        self._epoch += 1
        return self._fit(lambda wait: self._fed(steps, wait), min(FIRST, steps - 1))

    def _fit(self, batches: Callable[[InputWait], Any], skip: int) -> dict[str, Any]:
        """Train on batches; the first `skip` steps are not measured."""
        import keras

        from gatemask.training.loss_watch import LossWatch

        wait = InputWait()
        ends: list[float] = []
        waited: list[float] = []

        class Watch(LossWatch):
            """The callback of a training, which also notes when each step ended."""

            def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
                super().on_train_batch_end(batch, logs)
                with self._lock:
                    ends.append(time.perf_counter())
                    waited.append(wait.seconds())

        watch = Watch(lambda: None, wait)
        started = time.perf_counter()
        callbacks: list[keras.callbacks.Callback] = [watch]
        self.model.fit(batches(wait), epochs=1, verbose=0, shuffle=False, callbacks=callbacks)
        if watch.bad_steps:
            raise FloatingPointError("the loss became NaN or infinite")
        first = ends[skip - 1] if skip else started
        seconds, steps = ends[-1] - first, len(ends) - skip
        waited_s = waited[-1] - (waited[skip - 1] if skip else 0.0)
        return {
            "ms_per_step": seconds / steps * 1e3,
            "steps": steps,
            "wait_share": waited_s / seconds,
            "memory_mb": self.devices.memory_mb(),
        }

    def _ready_batches(self) -> list[Arrays]:
        rng, shape = np.random.default_rng(SEED), pipeline.batch_shapes(self.exp, ONE_CLASS, self.batch)
        return [
            (
                rng.integers(0, 256, shape[0].shape).astype(shape[0].dtype),
                (rng.random(shape[1].shape) < 0.1).astype(shape[1].dtype),
            )
            for _ in range(READY)
        ]

    def _ready(self, steps: int, wait: InputWait) -> Any:
        def make() -> Iterator[Arrays]:
            return wait.watched(self.batches[number % READY] for number in range(steps))

        return keras_input(make, pipeline.batch_shapes(self.exp, ONE_CLASS, self.batch), steps)

    def _fed(self, steps: int, wait: InputWait) -> Any:
        assert self._examples is not None
        order = pipeline.epoch_order(self._examples, self.exp, self.batch, self._epoch, SEED)
        order = np.resize(order, steps * self.batch)
        return pipeline.training_batches(
            self._examples, self.exp, ONE_CLASS, order, self.batch, self._epoch, SEED, wait=wait
        )
