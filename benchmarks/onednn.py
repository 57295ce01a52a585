"""Benchmark of TensorFlow's oneDNN kernels on this CPU: the training step of a ResNet-18 gate with and without them.

gatemask requests oneDNN on every CPU (`quiet.tensorflow`); TensorFlow by itself does so only on CPUs with AVX-512 VNNI.
The choice is fixed when TensorFlow is imported, so each measurement is a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from timing import Row, row

SIZE, BATCH, STEPS, ROUNDS = 64, 16, 10, 2
ENCODER = "resnet18"


def rows() -> Iterator[Row]:
    best = {"1": float("inf"), "0": float("inf")}
    for _ in range(ROUNDS):
        for setting in best:
            best[setting] = min(best[setting], _seconds_per_step(setting))
    name = f"train step, gate {ENCODER}, {SIZE} px, batch {BATCH}, with and without oneDNN"
    yield row(name, best["1"], best["0"], None)


def _seconds_per_step(setting: str) -> float:
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": setting}
    command = [sys.executable, str(Path(__file__)), str(SIZE), str(BATCH), str(STEPS), ENCODER]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(size: int, batch: int, steps: int, encoder: str) -> float:
    """Return the seconds of one training step, compilation excluded."""
    from gatemask import quiet
    from gatemask.config import Experiment

    quiet.tensorflow()
    from gatemask.builders import models, optimizers, step

    sections = {"model": {"name": "gate", "encoder": encoder}, "input": {"size": size}, "loss": {"bce": 1}}
    exp = Experiment.model_validate({"name": "onednn", "task": "gate", "epochs": 1, **sections})
    model = step.training_model(models.build_network(exp.model, size, 1), exp)
    optimizer = optimizers.build_optimizer(exp.optimizer, 1e-3)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, jit_compile=False)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 1)).astype(np.uint8)
    labels = (rng.random((batch, 1)) < 0.5).astype(np.float32)
    model.train_on_batch(images, labels)  # compiles
    started = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(images, labels)
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    print(measure(*map(int, sys.argv[1:4]), sys.argv[4]))
