"""Benchmark of an epoch with tracking against the same epoch without.

Tracked epochs read the clock for each batch and step, ask for the memory, and send a row to W&B's client (offline, so
its process writes to the disk at the same time) and to a TensorBoard file. Epochs are short here, 12 steps; the cost
per epoch is spread over hundreds of steps in a real training. Both read the same batches from memory.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from timing import Row, limit, row

from gatemask.config import Experiment

SIZE, BATCH, STEPS, ROUNDS = 64, 16, 12, 8
ENCODER = "efficientnetb0"


def rows() -> Iterator[Row]:
    os.environ["WANDB_MODE"] = "offline"
    from gatemask.builders import models, optimizers, step
    from gatemask.input import pipeline
    from gatemask.input.keras_input import keras_input
    from gatemask.input.wait import InputWait
    from gatemask.parallel import keep_freed_memory
    from gatemask.training.loss_watch import LossWatch
    from gatemask.training.runtime import Devices

    exp, rng = experiment(), np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS, BATCH, SIZE, SIZE, 1)).astype(np.uint8)
    masks = (rng.random((STEPS, BATCH, SIZE, SIZE, 1)) < 0.1).astype(np.uint8)
    shapes = pipeline.batch_shapes(exp, pipeline.Layout(), BATCH)
    model = step.training_model(models.build_network(exp.model, SIZE, 1), exp)
    optimizer = optimizers.build_optimizer(exp.optimizer, 1e-3)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, jit_compile=False)
    devices = Devices("tensorflow", "cpu", ["CPU:0"], "one device", "float32")
    with tempfile.TemporaryDirectory() as folder, _Tracked(exp, Path(folder)) as tracked:

        def epoch(wait: InputWait | None) -> None:
            batches = zip(images, masks, strict=True)
            data = keras_input(lambda: batches if wait is None else wait.watched(batches), shapes, STEPS)
            keep_freed_memory()  # a new dataset makes TensorFlow return it
            model.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=[LossWatch(lambda: None, wait)])

        def tracked_epoch() -> None:
            wait = InputWait()
            epoch(wait)
            tracked.log(lambda: {"loss": 0.5, "input_wait": wait.seconds(), "memory_mb": devices.memory_mb()})

        ways = {"without": lambda: epoch(None), "with": tracked_epoch}
        for run in ways.values():
            run()  # compiles
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            for name in sorted(ways, reverse=bool(number % 2)):
                started = time.perf_counter()
                ways[name]()
                seconds[name].append(time.perf_counter() - started)
        best = {name: min(times) for name, times in seconds.items()}
        calls = tracked.seconds / tracked.epochs
    name = f"epoch of {STEPS} steps with W&B and TensorBoard, U-Net {ENCODER}, {SIZE} px, batch {BATCH}"
    yield row(f"{name}, vs untracked", best["with"], best["without"], 0.99)
    yield limit("tracking calls of an epoch, vs 1 % of it", calls * 1e3, best["without"] * 10, "ms")


class _Tracked:
    """A run that is tracked by W&B offline and by TensorBoard, and the time that the training spends on it."""

    def __init__(self, exp: Experiment, folder: Path) -> None:
        from gatemask.tracking.tensorboard import EventFile
        from gatemask.tracking.wandb_run import WandbRun

        self.seconds, self.epochs = 0.0, 0
        self._run = WandbRun(exp, "bench", 0, folder, "bench")
        self._events = EventFile(folder, True, [])

    def log(self, measured: Callable[[], dict[str, float]]) -> None:
        started = time.perf_counter()
        row = {"epoch": self.epochs, **measured()}
        self._run.log(row)
        self._events.append(row)
        self.seconds += time.perf_counter() - started
        self.epochs += 1

    def __enter__(self) -> _Tracked:
        return self

    def __exit__(self, *_: object) -> None:
        from gatemask.tracking.wandb_run import finish_client

        self._run.finish({})
        finish_client()


def experiment() -> Experiment:
    return Experiment.model_validate(
        {
            "name": "tracking",
            "task": "mask",
            "model": {"name": "unet", "encoder": ENCODER},
            "input": {"size": SIZE},
            "loss": {"bce": 1, "dice": 1},
            "epochs": 1,
        }
    )
