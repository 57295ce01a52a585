"""Benchmark of the training step against a plain Keras `fit` on the same architecture, weights and arrays.

gatemask runs the training model with its own compute_loss, optimizer and callback. The reference is
`compile(optimizer, loss)` and `fit`. Both read the same batches from memory, so only the step is timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from timing import Row, row

from gatemask import quiet
from gatemask.config import Experiment

SIZE, BATCH, STEPS, ROUNDS = 64, 16, 12, 5
ENCODER = "efficientnetb0"


def experiment() -> Experiment:
    return Experiment.model_validate(
        {
            "name": "step",
            "task": "mask",
            "model": {"name": "unet", "encoder": ENCODER},
            "input": {"size": SIZE},
            "loss": {"bce": 1, "dice": 1},
            "epochs": 1,
        }
    )


def rows() -> Iterator[Row]:
    tf = quiet.tensorflow()
    import time

    import keras

    from gatemask.builders import models, optimizers, step
    from gatemask.training.loss_watch import LossWatch

    exp, rng = experiment(), np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH * STEPS, SIZE, SIZE, 1)).astype(np.uint8)
    masks = (rng.random((BATCH * STEPS, SIZE, SIZE, 1)) < 0.1).astype(np.uint8)
    batches = tf.data.Dataset.from_tensor_slices((images, masks)).batch(BATCH, drop_remainder=True).prefetch(2)

    ours = step.training_model(models.build_network(exp.model, SIZE, 1), exp)
    optimizer = optimizers.build_optimizer(exp.optimizer, 1e-3)
    optimizer.build(ours.trainable_variables)
    ours.compile(optimizer, jit_compile=False)

    theirs = models.build_network(exp.model, SIZE, 1).model
    theirs.compile(keras.optimizers.Adam(1e-3), loss=by_hand, jit_compile=False)
    theirs.optimizer.build(theirs.trainable_variables)

    ways = {
        "ours": lambda: ours.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[LossWatch(lambda: None)]),
        "theirs": lambda: theirs.fit(batches, epochs=1, verbose=0, shuffle=False),
    }
    for run in ways.values():
        run()  # compiles
    # Best of alternating rounds, so that background load does not decide.
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name in sorted(ways, reverse=bool(number % 2)):
            started = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - started)
    best = {name: float(np.min(times)) for name, times in seconds.items()}
    name = f"train step, U-Net {ENCODER}, {SIZE} px, batch {BATCH}, vs bare Keras"
    yield row(name, best["ours"], best["theirs"], 0.97, per=STEPS)


def by_hand(truth: Any, probability: Any) -> Any:
    """Return cross-entropy plus soft Dice loss per image, written out by hand."""
    from keras import ops

    truth = ops.cast(truth, "float32")
    entropy = ops.mean(ops.binary_crossentropy(truth, probability), axis=(1, 2, 3))
    both = ops.sum(truth * probability, axis=(1, 2, 3))
    total = ops.sum(truth, axis=(1, 2, 3)) + ops.sum(probability, axis=(1, 2, 3))
    return entropy + 1 - (2 * both + 1) / (total + 1)
