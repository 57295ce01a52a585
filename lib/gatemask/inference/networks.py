"""Load the members' networks: one graph per structure, with every member's weights next to it.

Folds of an experiment differ only in their weights. Each structure is therefore built and traced once, weights are
arguments of its graph, and all members stay in memory, so a decoded batch goes through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from gatemask import quiet
from gatemask.console import progress, say
from gatemask.errors import GatemaskError, is_out_of_memory
from gatemask.hdf5 import load_weights
from gatemask.results.ensemble import ShippedMember

# Images per step at 256 pixels; fewer for larger ones. The number is halved when memory runs out.
BATCH_ON_CPU, BATCH_ON_ACCELERATOR, REFERENCE_SIZE = 16, 64, 256

Tensors = Any  # weights as the backend holds them
Forward = Callable[[Tensors, np.ndarray], np.ndarray]


class LoadedMember:
    """A member ready to predict any number of images, in batches of a fixed size.

    Args:
        forward: Function of weights and uint8 (batch, height, width, channels) that returns float32 predictions.
        weights: First argument of `forward`.
        batch: Images per step; halved permanently when the device's memory does not suffice.
        device: Device as TensorFlow names it; members on different devices may run at once. Default: the only one.
    """

    def __init__(self, forward: Forward, weights: Tensors, batch: int, device: str | None = None) -> None:
        self._forward, self._weights, self.batch, self.device = forward, weights, batch, device

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """Return the network's predictions for uint8 (images, height, width, channels)."""
        while True:
            try:
                starts = range(0, len(images), self.batch)
                return np.concatenate([self._predict_part(images[start : start + self.batch]) for start in starts])
            except Exception as error:
                if self.batch == 1 or not is_out_of_memory(error):
                    raise
                self.batch //= 2
                say(f"The device's memory does not suffice for {2 * self.batch} images; continuing with {self.batch}.")

    def _predict_part(self, part: np.ndarray) -> np.ndarray:
        """Predict at most `batch` images. A smaller part is padded: another shape would need another graph."""
        if len(part) == self.batch:
            return self._forward(self._weights, part)
        padded = np.zeros((self.batch, *part.shape[1:]), part.dtype)
        padded[: len(part)] = part
        return self._forward(self._weights, padded)[: len(part)]


def weights_path(folder: Path, member: ShippedMember) -> Path:
    """Return the path of a member's weights in the dataset's folder."""
    return folder / f"{member.name}.weights.h5"


def load_members(
    members: Sequence[ShippedMember],
    folder: Path,
    outputs: int,
    channels: int,
    precision: str = "float32",
    batch: int | str = "auto",
    on_failure: Callable[[ShippedMember, str], None] | None = None,
    exclusive: bool = False,
    border: bool = False,
) -> dict[str, LoadedMember]:
    """Build and compile each structure once, load every member's weights, and distribute members over devices.

    Args:
        members: Gates, or mask networks.
        folder: Folder of the weights.
        outputs: Outputs per pixel; of gates with `model.per_class`, per image.
        channels: Channels of the images.
        precision: Precision of the layers. Default: float32.
        batch: Images per step. Default: "auto", by device and input size.
        on_failure: Called with a member that cannot be loaded and the reason. Default: raise an error.
        exclusive: Whether a pixel belongs to at most one class. Default: False.
        border: Whether the last output is for borders between objects. Default: False.

    Returns:
        Loaded members by name, without those that failed.

    Raises:
        GatemaskError: Weights do not fit their network.
    """
    keras = quiet.keras()
    previous_policy = keras.config.dtype_policy()
    loader = _Loader(folder, outputs, channels, batch, exclusive, border)
    loaded: dict[str, LoadedMember] = {}
    available = devices()
    try:
        keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
        for member in progress(members, "weights"):
            try:
                loaded[member.name] = loader.load(member, available[len(loaded) % len(available)])
            except Exception as error:  # h5py and Keras raise almost anything on a damaged file
                reason = (str(error).splitlines() or [""])[0]
                if on_failure is None:
                    raise GatemaskError(
                        "A member's weights cannot be loaded.", where=weights_path(folder, member), received=reason
                    ) from error
                on_failure(member, f"{type(error).__name__}: {reason}")
    finally:
        keras.config.set_dtype_policy(previous_policy)
    return loaded


class _Loader:
    """Models by structure, and compiled graphs by structure and device; arguments as for `load_members`."""

    def __init__(
        self, folder: Path, outputs: int, channels: int, batch: int | str, exclusive: bool, border: bool
    ) -> None:
        self._folder, self._outputs, self._channels, self._batch = folder, outputs, channels, batch
        self._exclusive, self._border = exclusive, border
        self._models: dict[str, Any] = {}
        self._graphs: dict[tuple[str, str | None], Forward] = {}

    def load(self, member: ShippedMember, device: str | None) -> LoadedMember:
        key, model = self._model(member)
        forward = self._graphs.get((key, device)) or compile_forward(model, device)
        loaded = LoadedMember(forward, copy_weights(model, device), batch_for(member.input_shape, self._batch), device)
        if (key, device) not in self._graphs:  # compiled now, so neither images nor time estimates pay for it
            loaded.predict_on_batch(np.zeros((loaded.batch, *member.input_shape, self._channels), np.uint8))
            self._graphs[key, device] = forward
        return loaded

    def _model(self, member: ShippedMember) -> tuple[str, Any]:
        """Return the key of a member's structure, and its prediction model with the member's weights."""
        from gatemask.builders import models
        from gatemask.builders.tiled import by_tiles

        config = member.model.model_copy(update={"weights": "none"})
        key = f"{config.model_dump_json()} {member.size} {member.tile}"
        if key not in self._models:
            border, size = self._border and member.task == "mask", member.tile or member.size
            network = models.build_network(
                config, size, self._channels, self._outputs, self._exclusive, border, seed=None
            ).model
            predictor = network if member.tile is None else by_tiles(network, member.input_shape)
            self._models[key] = network, predictor
        network, predictor = self._models[key]
        load_weights(network, weights_path(self._folder, member))
        return key, predictor


def copy_weights(model: Any, device: str | None = None) -> Tensors:
    """Return a copy of the model's weights on a device, as arguments for its graph."""
    import keras

    with _device_scope(device):
        return [
            [keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(v).copy(), v.dtype) for v in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]


def compile_forward(model: Any, device: str | None = None) -> Forward:
    """Return a compiled forward pass that takes its weights as an argument."""
    import keras

    def forward(weights: Tensors, images: Any) -> Any:
        with _device_scope(device):
            return model.stateless_call(weights[0], weights[1], images, training=False)[0]

    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(forward)
        return lambda weights, images: np.asarray(compiled(weights, images), np.float32)
    import tensorflow as tf

    traced: dict[int, Any] = {}
    function = tf.function(forward)

    def run(weights: Tensors, images: np.ndarray) -> np.ndarray:
        # Uses the concrete function: checking hundreds of arguments at each call takes longer than a step.
        with _device_scope(device):
            if len(images) not in traced:
                traced[len(images)] = function.get_concrete_function(weights, tf.TensorSpec(images.shape, tf.uint8))
            return np.asarray(traced[len(images)](weights, tf.constant(images)), np.float32)

    return run


def _device_scope(device: str | None) -> AbstractContextManager[Any]:
    return nullcontext() if device is None else quiet.tensorflow().device(device)


def devices() -> list[str | None]:
    """Return the devices for members: all GPUs (a Kaggle session has two), or [None] for a single device."""
    if quiet.keras().backend.backend() == "jax":
        return [None]
    logical_devices = quiet.tensorflow().config.list_logical_devices
    names = [device.name for device in logical_devices("GPU") or logical_devices("CPU")]
    return names if len(names) > 1 else [None]


def accelerator() -> str:
    """Return where the networks run: "gpu", "tpu" or "cpu"."""
    if quiet.keras().backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].platform)
    return "gpu" if quiet.tensorflow().config.list_physical_devices("GPU") else "cpu"


def precision_for(setting: str, device: str) -> str:
    """Return the precision that `inference.precision` means on a device.

    Half precision is used only where it is faster: a T4 emulates bfloat16, and a CPU both.
    """
    fast = {"gpu": "float16", "tpu": "bfloat16"}.get(device)
    if setting == "auto":
        return fast or "float32"
    return setting if setting == fast else "float32"


def batch_for(shape: tuple[int, int], setting: int | str = "auto") -> int:
    """Return the images per step at an input of this height and width: a power of two, so that steps fit together."""
    if setting != "auto":
        return int(setting)
    largest = BATCH_ON_CPU if accelerator() == "cpu" else BATCH_ON_ACCELERATOR
    fitting = largest * min(1.0, REFERENCE_SIZE**2 / (shape[0] * shape[1]))
    return max(1, 1 << (int(fitting).bit_length() - 1)) if fitting >= 1 else 1
