"""Benchmark of the compile cache: how long a second process takes to its first training step on JAX.

All processes train the same network on this CPU. The first one begins with an empty folder; of the others, the fastest
counts. Times are taken from the start of the process, imports included, and from the moment when the models are built:
from there on, a process traces, compiles or reads, and takes the step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from timing import Row, row

SIZE, BATCH, ROUNDS = 64, 4, 2
ENCODER = "efficientnetb0"


class Times(NamedTuple):
    """Seconds since the start of a process: when the models were built, and when the first step was done."""

    built: float
    first_step: float


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        first = _run(folder)
        second = min((_run(folder) for _ in range(ROUNDS)), key=lambda times: times.first_step)
    name = f"to the first step, U-Net {ENCODER}, {SIZE} px, JAX, second process vs first"
    yield row(f"{name}, from the start", second.first_step, first.first_step, 3.0, "s")
    yield row(f"{name}, from built models", second.first_step - second.built, first.first_step - first.built, None, "s")
    yield row(f"{name}, imports and building", second.built, first.built, None, "s")


def _run(folder: str) -> Times:
    command = [sys.executable, str(Path(__file__)), folder, str(SIZE), str(BATCH), ENCODER, str(time.time())]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Times(*map(float, done.stdout.split()[-2:]))


def measure(folder: Path, size: int, batch: int, encoder: str, started: float) -> Times:
    """Train one step.

    Args:
        folder: Folder of compiled functions.
        size: Side of the images, in pixels.
        batch: Images per step.
        encoder: Name of the encoder.
        started: `time.time()` at the start of the process.
    """
    import numpy as np

    from gatemask.config import Experiment
    from gatemask.training import runtime

    sections = {"model": {"name": "unet", "encoder": encoder}, "input": {"size": size}, "loss": {"bce": 1, "dice": 1}}
    on_jax = {"runtime": {"backend": "jax", "accelerator": "cpu"}}
    exp = Experiment.model_validate({"name": "compile", "task": "mask", "epochs": 1, **sections, **on_jax})
    runtime.start_keras(exp.runtime, folder)
    from gatemask.builders import models, optimizers, step

    model = step.training_model(models.build_network(exp.model, size, 1), exp)
    optimizer = optimizers.build_optimizer(exp.optimizer, 1e-3)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, jit_compile=True)
    built = time.time() - started
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 1)).astype(np.uint8)
    masks = (rng.random((batch, size, size, 1)) < 0.1).astype(np.uint8)
    model.fit(images, masks, batch_size=batch, epochs=1, verbose=0, shuffle=False)
    return Times(built, time.time() - started)


if __name__ == "__main__":
    print(*measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5])))
