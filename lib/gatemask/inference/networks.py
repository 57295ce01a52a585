"""The members' networks: one graph for each structure, and every member's weights beside it.

Folds of an experiment differ in nothing but their weights. So each structure is built and traced once, weights are
arguments of its graph, and all members stay in memory: a batch that was decoded once goes through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gatemask import quiet
from gatemask.config import Augment, Model, View
from gatemask.console import progress, say
from gatemask.errors import GatemaskError

# Images of 256 pixels a step; larger ones fewer. What is too much is halved when memory runs out.
ON_CPU, ON_ACCELERATOR, USUAL = 16, 64, 256


@dataclass(frozen=True)
class Member:
    """One set of weights with what it takes to run it; `share` is its part in the average.

    `view_weights` are those of the image as it is and of the views in `tta`, where they are not equal.
    """

    name: str
    weights: Path
    share: float
    config: Model
    size: int
    records: int
    tta: list[View]
    augment: list[Augment]
    view_weights: list[float] | None = None


def members(listed: Sequence[dict[str, Any]], weights: Path) -> list[Member]:
    """The members of an ensemble.yaml, whose weights are `<name>.weights.h5` in a folder."""
    found = []
    for one in listed:
        config = Model(**{**one["model"], "weights": "none"})
        tta, augment = [View(**view) for view in one["tta"]], [Augment(**step) for step in one.get("augment", [])]
        path, share = weights / f"{one['name']}.weights.h5", float(one.get("weight", 1.0))
        seen = (tta, augment, one.get("view_weights"))
        found.append(Member(one["name"], path, share, config, one["size"], one["records"], *seen))
    return found


class Network:
    """A member as `builders.predict` asks for it: any number of images, a fixed number of them at a time.

    Args:
        run: weights and uint8 (batch, s, s, channels) to float32.
        weights: the first argument of `run`.
        batch: images a step; halved for good when the device's memory does not suffice.
        device: where it runs, as TensorFlow names it; networks of different devices may run at once.
    """

    def __init__(
        self, run: Callable[[Any, np.ndarray], np.ndarray], weights: Any, batch: int, device: str | None = None
    ) -> None:
        self._run, self._weights, self.batch, self.device = run, weights, batch, device

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        while True:
            try:
                return np.concatenate([self._part(images, at) for at in range(0, len(images), self.batch)])
            except Exception as error:
                if self.batch == 1 or not _memory_is_short(error):
                    raise
                self.batch //= 2
                say(f"The device's memory is too small for {2 * self.batch} images at once: {self.batch} from now on.")

    def _part(self, images: np.ndarray, at: int) -> np.ndarray:
        """Of `batch` images, the last ones filled up: another shape would be another graph."""
        part = images[at : at + self.batch]
        if len(part) == self.batch:
            return self._run(self._weights, part)
        padded = np.zeros((self.batch, *images.shape[1:]), images.dtype)
        padded[: len(part)] = part
        return self._run(self._weights, padded)[: len(part)]


def _memory_is_short(error: Exception) -> bool:
    return type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)


def load(
    listed: Sequence[Member],
    task_classes: int,
    channels: int,
    precision: str = "float32",
    batch: int | str = "auto",
    failed: Callable[[Member, str], None] | None = None,
) -> dict[str, Network]:
    """Build and compile each structure once, and load every member's weights; members are dealt over the devices.

    Args:
        listed: gates, or mask networks.
        task_classes: numbers that a network says of a pixel, or of an image: 1 for gates.
        channels: of the images.
        precision: of the layers, a value of `inference.precision`.
        batch: images a step; "auto" goes by device and size.
        failed: called for a member that cannot be loaded, with the reason, in place of an error.

    Returns:
        By member's name; without those that failed.

    Raises:
        GatemaskError: weights do not fit their network.
    """
    quiet.tensorflow()
    import keras

    from gatemask.builders import models

    policy = {"float32": "float32"}.get(precision, f"mixed_{precision}")
    before = keras.config.dtype_policy()
    built: dict[str, Any] = {}
    graphs: dict[tuple[str, str | None], Callable[[Any, np.ndarray], np.ndarray]] = {}
    found: dict[str, Network] = {}
    there = devices()
    try:
        keras.config.set_dtype_policy(policy)
        for member in progress(listed, "weights"):
            key, device = f"{member.config.model_dump_json()} {member.size}", there[len(found) % len(there)]
            try:
                if key not in built:
                    built[key] = models.build_network(
                        member.config, member.size, channels, task_classes, seed=None
                    ).predict
                built[key].load_weights(member.weights)
                run = graphs.get((key, device)) or graph(built[key], device)
                network = Network(run, weights_of(built[key], device), batch_for(member.size, batch), device)
                if (key, device) not in graphs:  # compiled now, so that no image pays for it, nor any estimate
                    network.predict_on_batch(np.zeros((network.batch, member.size, member.size, channels), np.uint8))
                    graphs[key, device] = run
                found[member.name] = network
            except Exception as error:  # h5py and Keras raise almost anything on a damaged file
                first = (str(error).splitlines() or [""])[0]
                if failed is None:
                    raise GatemaskError(
                        "A member's weights cannot be loaded.", where=member.weights, received=first
                    ) from error
                failed(member, f"{type(error).__name__}: {first}")
    finally:
        keras.config.set_dtype_policy(before)
    return found


def weights_of(model: Any, device: str | None = None) -> Any:
    """The weights that the model holds now, as arguments for its graph, on a device."""
    import keras

    with _on(device):
        return [
            [keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(v).copy(), v.dtype) for v in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]


def graph(model: Any, device: str | None = None) -> Callable[[Any, np.ndarray], np.ndarray]:
    """A compiled forward pass that takes its weights as an argument."""
    import keras

    def forward(weights: Any, images: Any) -> Any:
        with _on(device):
            return model.stateless_call(weights[0], weights[1], images, training=False)[0]

    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(forward)
        return lambda weights, images: np.asarray(compiled(weights, images), np.float32)
    import tensorflow as tf

    traced: dict[int, Any] = {}
    function = tf.function(forward)

    def run(weights: Any, images: np.ndarray) -> np.ndarray:
        # By way of the concrete function: to look through hundreds of arguments at each call takes longer than a step.
        with _on(device):
            if len(images) not in traced:
                traced[len(images)] = function.get_concrete_function(weights, tf.TensorSpec(images.shape, tf.uint8))
            return np.asarray(traced[len(images)](weights, tf.constant(images)), np.float32)

    return run


def _on(device: str | None) -> AbstractContextManager[Any]:
    """Where TensorFlow puts what is made in the block."""
    return nullcontext() if device is None else quiet.tensorflow().device(device)


def devices() -> list[str | None]:
    """The devices over which members are dealt: every GPU, as a session of Kaggle's has two; None for the only one."""
    import keras

    if keras.backend.backend() == "jax":
        return [None]
    known = quiet.tensorflow().config.list_logical_devices
    names = [device.name for device in known("GPU") or known("CPU")]
    return names if len(names) > 1 else [None]


def accelerator() -> str:
    """gpu, tpu or cpu: where the networks run."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].platform)
    return "gpu" if quiet.tensorflow().config.list_physical_devices("GPU") else "cpu"


def precision_for(wanted: str, device: str) -> str:
    """What `inference.precision` means on a device: half of the bits only where they make it faster."""
    has = {"gpu": "float16", "tpu": "bfloat16"}.get(device)
    if wanted == "auto":
        return has or "float32"
    # A T4 emulates bfloat16, and a CPU both: slower, and no more exact.
    return wanted if wanted == "float32" or wanted == has else "float32"


def batch_for(size: int, wanted: int | str = "auto") -> int:
    """Images a step at an input size: a power of two, so that one number fits into the other."""
    if wanted != "auto":
        return int(wanted)
    most = ON_CPU if accelerator() == "cpu" else ON_ACCELERATOR
    fits = most * min(1.0, (USUAL / size) ** 2)
    return max(1, 1 << (int(fits).bit_length() - 1)) if fits >= 1 else 1
