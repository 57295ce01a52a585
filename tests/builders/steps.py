"""Build, train, save and load every architecture: as a module of the tests, and as a script on JAX.

python steps.py FOLDER [--small]    write the results that the tests compare to FOLDER/<name>.json

Small networks have all decoders and heads, and encoders that are traced in seconds: EfficientNet with one block per
stage for the gate, the tiny one for masks.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import tiny

SIZE, BATCH = 32, 4
ENCODERS = {
    "gate": "efficientnetb0",
    "unet": "resnet18",
    "unetpp": "resnet18",
    "fpn": "mobilenetv2",
    "linknet": "vgg16",
    "upernet": "resnet18",
    "segformer": "efficientnetb0",
    "deeplabv3plus": "mobilenet",
}
SMALL_STEPS = ("gate", "unet", "unetpp", "linknet")  # small networks that take a step; others do with the whole ones
OPTIONS: dict[str, dict[str, Any]] = {
    "gate": {"per_class": True},
    "unet": {"filters": [16, 16, 8, 8, 4], "gate_head": True},
    "unetpp": {"filters": [16, 16, 8, 8, 4], "block": "transpose", "deep_supervision": True},
    "fpn": {"output_stride": 4},
    "linknet": {"filters": [16, 16, 8, 8, 4], "block": "transpose"},
    "upernet": {"width": 16},
    "segformer": {"width": 16, "deep_supervision": True},
    "deeplabv3plus": {"width": 16, "dropout": 0.2},
}
# The gate is one per class, and LinkNet has exclusive classes and ignored pixels.
CLASSES = {"gate": 2, "linknet": 2}
LOSSES: dict[str, dict[str, Any]] = {
    "gate": {"focal": {"gamma": 1.5}},
    "unet": {"bce": 1, "dice": 1},
    "unetpp": {"topk": {"share": 0.2}},
    "fpn": {"dice_batch": 1, "tversky": {"alpha": 0.4}, "focal_tversky": 1},
    "linknet": {"bce": 1, "lovasz": 0.5, "cldice": {"iterations": 1}},
    "upernet": {"bce": 1, "dice": 1},
    "segformer": {"bce": 1, "dice": 1},
    "deeplabv3plus": {"bce": 1, "dice": 1},
}


def experiment(name: str) -> Any:
    from gatemask.config import Experiment

    return Experiment(
        name=name,
        task="gate" if name == "gate" else "mask",
        model={"name": name, "encoder": ENCODERS[name], **OPTIONS[name]},
        input={"size": SIZE},
        loss=LOSSES[name],
        optimizer={"name": "radam", "ema": 0.5} if name == "unet" else {},
        epochs=2,
    )


def layout(name: str) -> Any:
    from gatemask.input.layout import Layout

    special = name == "linknet"
    return Layout(channels=3, classes=CLASSES.get(name, 1), ignored=special, exclusive=special)


def batch(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = (BATCH, CLASSES[name]) if name == "gate" else (BATCH, SIZE, SIZE, layout(name).planes)
    images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8)
    return images, (rng.random(truth) < 0.5).astype(np.uint8), np.array([1, 1, 1, 0], np.float32)


def build(name: str, seed: int, small: bool) -> Any:
    from gatemask.builders import models

    with small_encoder(name) if small else nullcontext():
        planes = layout(name)
        return models.build_network(experiment(name).model, SIZE, 3, planes.outputs, planes.exclusive, seed=seed)


@contextmanager
def small_encoder(name: str) -> Iterator[None]:
    """Make the encoder of an architecture small while the block runs."""
    from gatemask.builders import bridge

    bridge.encoder_factory()  # prepares what the packages import
    with ExitStack() as stack:
        if name == "gate":
            import efficientnet.model

            # All kinds of blocks, each once: the builder copies this list.
            blocks = efficientnet.model.DEFAULT_BLOCKS_ARGS
            kept = list(blocks)
            blocks[:] = [block._replace(num_repeat=1) for block in kept]
            stack.callback(blocks.__setitem__, slice(None), kept)
        else:
            tiny.install(lambda *target: stack.enter_context(patch.object(*target)))
        yield


def perturb_statistics(model: Any) -> None:
    """Change running statistics, as training does: with initial ones, deep networks predict the same for all images."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(np.asarray(weight) + rng.uniform(0, 0.2, weight.shape).astype(np.float32))


def outputs(name: str, model: Any) -> np.ndarray:
    """Predict layer by layer on TensorFlow, which saves a trace, and compiled on JAX."""
    import keras

    images = batch(name)[0]
    return np.asarray(model(images) if keras.backend.backend() == "tensorflow" else model.predict_on_batch(images))


def scores(name: str, predicted: np.ndarray) -> dict[str, float]:
    """Return the metrics of a batch's predictions."""
    from gatemask.builders import metrics

    found: dict[str, float] = {}
    _, truth, weights = batch(name)
    for metric in metrics.build_metrics("gate" if name == "gate" else "mask", layout(name), predicted.shape[-1]):
        metric.update_state(truth, predicted, weights)
        result = metric.result()
        found |= {
            key: float(score) for key, score in (result if isinstance(result, dict) else {metric.name: result}).items()
        }
    found.pop("threshold", None)  # of two thresholds with nearly the same score, either may be the best
    return found


def drawn(model: Any, seed: int) -> str:
    """Return a hash of the initial weights of a seed."""
    from gatemask.builders.models import draw_initial_weights

    values = draw_initial_weights(model, seed)
    return hashlib.sha256(b"".join(np.asarray(v, np.float64).tobytes() for v in values)).hexdigest()


def step(name: str, network: Any) -> dict[str, Any]:
    """Fit twice, for one step each; return losses, the shapes of each trace, unchanged weights and averages."""
    import keras

    from gatemask.builders import optimizers, step

    exp = experiment(name)
    shapes: list[Any] = []

    class Watched(step.TrainingModel):
        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *rest: Any, **options: Any) -> Any:
            total = super().compute_loss(x, y, y_pred, *rest, **options)
            shapes.append([list(y.shape), list(total.shape), *(list(head.shape) for head in y_pred.values())])
            return total

    original, step.TrainingModel = step.TrainingModel, Watched  # type: ignore[misc]
    try:
        model = step.training_model(network, exp, layout(name))
    finally:
        step.TrainingModel = original  # type: ignore[misc]
    optimizer = optimizers.build_optimizer(exp.optimizer, 1e-3)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")  # as trainings do
    assert model.optimizer is optimizer
    before = [np.asarray(weight) for weight in model.trainable_weights]
    images, truth, weights = batch(name)
    fits = [
        model.fit(images, truth, sample_weight=weights, batch_size=BATCH, verbose=0).history["loss"][0]
        for _ in range(2)
    ]
    changed = [bool((a != np.asarray(b)).any()) for a, b in zip(before, model.trainable_weights, strict=True)]
    averages = optimizers.averaged_weights(optimizer)
    return {
        "losses": fits,
        "shapes": shapes,
        "unchanged": [w.path for w, is_changed in zip(model.trainable_weights, changed, strict=True) if not is_changed],
        "averages": [
            float(np.abs(np.asarray(a) - np.asarray(w)).max())
            for a, w in zip(averages, model.trainable_weights, strict=False)
        ],
    }


def round_trip(name: str, network: Any, path: Path, small: bool) -> tuple[int, int]:
    """Save, and load into a network of another seed: return how many weights differ before and after."""
    network.model.save_weights(path)
    other = build(name, 2, small).model

    def different() -> int:
        pairs = zip(other.weights, network.model.weights, strict=True)
        return sum(int((np.asarray(a) != np.asarray(b)).any()) for a, b in pairs)

    before = different()
    other.load_weights(path)
    return before, different()


def main(folder: Path, small: bool) -> None:
    for name in ENCODERS:
        network = build(name, 1, small)
        facts: dict[str, Any] = {"drawn": drawn(network.model, 5)}
        network.model.load_weights(folder / f"{name}.weights.h5")
        expected = np.load(folder / f"{name}.npy")
        facts["difference"] = float(np.abs(outputs(name, network.model) - expected).max())
        facts["scores"] = scores(name, expected)
        if not small or name in SMALL_STEPS:
            facts |= step(name, network)
        facts["round_trip"] = round_trip(name, network, folder / f"{name}-jax.weights.h5", small)
        (folder / f"{name}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "jax"
    from gatemask import quiet

    quiet.tensorflow()
    main(Path(sys.argv[1]), "--small" in sys.argv)
