"""Build, train, save and load U-Nets with encoders of keras.applications: in tests, and as a script on JAX.

python encoder_steps.py FOLDER [--small] NAME ...    write what the tests compare to FOLDER/<name>.json

Small encoders have one block per stage.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

SIZE, BATCH = 32, 2


def experiment(name: str) -> Any:
    from gatemask.config import Experiment

    return Experiment(
        name=name,
        task="mask",
        model={"name": "unet", "encoder": name, "filters": [16, 16, 8, 8, 4]},
        input={"size": SIZE},
        loss={"bce": 1},
        optimizer={"name": "sgd"},
        epochs=2,
    )


def build(name: str, seed: int | None, small: bool) -> Any:
    from gatemask.builders import models

    with small_encoders() if small else nullcontext():
        return models.build_network(experiment(name).model, SIZE, 3, seed=seed)


@contextmanager
def small_encoders() -> Iterator[None]:
    """Give the encoders of keras.applications as few blocks as they can have while the block runs."""
    from keras.src.applications import convnext, efficientnet_v2, resnet

    from gatemask.builders import applications

    with ExitStack() as stack:
        for name, blocks in efficientnet_v2.DEFAULT_BLOCKS_ARGS.items():
            shallow = [{**block, "num_repeat": 1} for block in blocks]
            stack.enter_context(patch.dict(efficientnet_v2.DEFAULT_BLOCKS_ARGS, {name: shallow}))
        for name, config in convnext.MODEL_CONFIGS.items():
            shallow = {**config, "depths": [1, 1, 1, 1]}
            stack.enter_context(patch.dict(convnext.MODEL_CONFIGS, {name: shallow}))
        whole = resnet.stack_residual_blocks_v2
        stack.enter_context(
            patch.object(resnet, "stack_residual_blocks_v2", lambda x, filters, _, **rest: whole(x, filters, 2, **rest))
        )
        stack.enter_context(patch.dict(applications.LAST_BLOCKS, dict.fromkeys(applications.LAST_BLOCKS, (2, 2, 2))))
        yield


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8)
    return images, (rng.random((BATCH, SIZE, SIZE, 1)) < 0.5).astype(np.uint8)


def outputs(model: Any) -> np.ndarray:
    """Predict layer by layer on TensorFlow, which saves a trace, and compiled on JAX."""
    import keras

    images = batch()[0]
    return np.asarray(model(images) if keras.backend.backend() == "tensorflow" else model.predict_on_batch(images))


def step(name: str, network: Any) -> dict[str, Any]:
    """Fit twice, for one step each; return losses, the number of traces and the weights that did not change."""
    import keras

    from gatemask.builders import optimizers, step
    from gatemask.input.layout import Layout

    traces = 0

    class Watched(step.TrainingModel):
        def compute_loss(self, *args: Any, **options: Any) -> Any:
            nonlocal traces
            traces += 1
            return super().compute_loss(*args, **options)

    exp = experiment(name)
    with patch.object(step, "TrainingModel", Watched):
        model = step.training_model(network, exp, Layout(channels=3, classes=1))
    optimizer = optimizers.build_optimizer(exp.optimizer, 0.1)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    before = [np.asarray(weight) for weight in model.trainable_weights]
    images, truth = batch()
    losses = [model.fit(images, truth, batch_size=BATCH, verbose=0).history["loss"][0] for _ in range(2)]
    pairs = zip(before, model.trainable_weights, strict=True)
    return {
        "losses": losses,
        "traces": traces,
        "unchanged": [weight.path for old, weight in pairs if (old == np.asarray(weight)).all()],
    }


def main(folder: Path, names: list[str], small: bool) -> None:
    import keras

    for name in names:
        network = build(name, None, small)
        network.model.load_weights(folder / f"{name}.weights.h5")
        expected = np.load(folder / f"{name}.npy")
        facts = {"difference": float(np.abs(outputs(network.model) - expected).max()), **step(name, network)}
        (folder / f"{name}.json").write_text(json.dumps(facts))
        keras.backend.clear_session()


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "jax"
    from gatemask import quiet

    quiet.tensorflow()
    main(Path(sys.argv[1]), [name for name in sys.argv[2:] if name != "--small"], "--small" in sys.argv)
