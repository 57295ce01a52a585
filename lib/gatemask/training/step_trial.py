"""Measure the memory that a training step needs.

JAX                 the compiler reports it; nothing runs
TensorFlow on GPUs  the step runs; the device reports its peak, or that memory ran out
TensorFlow on CPUs  the step runs; the peak of this process counts. A CPU whose memory runs out does not report it: the
                    system ends the process, so only steps that are expected to fit may be tried
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatemask import quiet
from gatemask.config import Experiment
from gatemask.errors import GatemaskError, is_out_of_memory
from gatemask.input.layout import Layout
from gatemask.parallel import available_memory
from gatemask.training.runtime import Devices, resident_bytes

if TYPE_CHECKING:
    from gatemask.builders.step import TrainingModel
    from gatemask.input.keras_input import Arrays, ArrayShape

DEVICE_SHARE = 0.9  # share of a device's memory that a step may use; validation and fragmentation need some
CPU_SHARE = 0.5  # share of the available memory; the cache of decoded images takes a quarter
STEPS = 2  # of a trial on a GPU: the second finds memory as the first has left it


class StepTrial:
    """The training step of an experiment on batches of random numbers.

    Args:
        devices: Devices of the model.
        model: Compiled training model. Running a step changes its weights.
        exp: Experiment.
        layout: Channels and planes of the examples.

    Raises:
        GatemaskError: The memory of the devices is unknown.
    """

    def __init__(self, devices: Devices, model: TrainingModel, exp: Experiment, layout: Layout) -> None:
        self._devices, self._model, self._exp, self._layout = devices, model, exp, layout
        self._resident = resident_bytes()
        self._traced: int | None = None  # images per device of the graph that TensorFlow has traced
        self.limit = memory_limit(devices)

    @property
    def must_not_fail(self) -> bool:
        """Whether a step that runs out of memory would end the process."""
        return self._devices.backend == "tensorflow" and self._devices.accelerator == "cpu"

    def needed(self, per_device: int) -> float:
        """Return the memory of the fullest device that a step needs, in bytes; infinity where it does not suffice.

        Args:
            per_device: Images per device.
        """
        from gatemask.input.pipeline import batch_shapes

        shapes = batch_shapes(self._exp, self._layout, per_device * self._devices.count)
        try:
            if self._devices.backend == "jax":
                return _compiled_bytes(self._model, shapes)
            self._forget_graph_of_others(per_device)
            return self._resident_growth(shapes) if self.must_not_fail else self._device_peak(shapes)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return math.inf

    def finish(self, per_device: int) -> None:
        """Leave the model as the training needs it: with a graph for so many images per device, or with none."""
        if self._devices.backend == "tensorflow":
            self._forget_graph_of_others(per_device)

    def _forget_graph_of_others(self, per_device: int) -> None:
        """Drop a graph of another number of images: TensorFlow's next one would be for any number."""
        if self._traced not in (None, per_device):
            self._model.make_train_function(force=True)
        self._traced = per_device

    def _device_peak(self, shapes: tuple[ArrayShape, ...]) -> float:
        memory = quiet.tensorflow().config.experimental
        for name in self._devices.names:
            memory.reset_memory_stats(name)
        self._run(shapes, STEPS)
        return float(max(memory.get_memory_info(name)["peak"] for name in self._devices.names))

    def _resident_growth(self, shapes: tuple[ArrayShape, ...]) -> float:
        _reset_peak()
        self._run(shapes, 1)
        return float(max(0, _peak_resident_bytes() - self._resident))

    def _run(self, shapes: tuple[ArrayShape, ...], steps: int) -> None:
        from gatemask.input.keras_input import keras_input

        rng = np.random.default_rng(0)
        # Images are of any level, masks and labels 0 or 1.
        batch: Arrays = tuple(rng.integers(0, 2 if i else 256, s.shape).astype(s.dtype) for i, s in enumerate(shapes))
        # The graph that is traced here is that of the training.
        self._model.fit(keras_input(lambda: iter([batch] * steps), shapes, steps), verbose=0, shuffle=False)


def memory_limit(devices: Devices) -> float:
    """Return the memory that a step may use on each device, in bytes.

    Raises:
        GatemaskError: It is unknown.
    """
    if devices.accelerator == "cpu":
        limit = available_memory() / devices.count * CPU_SHARE
    else:
        limit = min(map(_device_limit, [devices.backend] * devices.count, devices.names)) * DEVICE_SHARE
    if not limit:
        raise GatemaskError(
            "The memory of this device is unknown, so the batch that fits cannot be found.",
            where="batch.per_device",
            received=f"auto, on {', '.join(devices.names)} with {devices.backend}",
            do="Set batch.per_device to a number.",
        )
    return limit


def _device_limit(backend: str, name: str) -> float:
    """Return the memory of an accelerator that a program may use, in bytes; 0 if it is not reported."""
    with suppress(Exception):  # backends without memory statistics fail in different ways
        if backend == "jax":
            import jax

            device = next(device for device in jax.local_devices() if f"{device.platform}:{device.id}" == name)
            return float((device.memory_stats() or {})["bytes_limit"])
        from tensorflow.python.client import device_lib

        return float(next(d.memory_limit for d in device_lib.list_local_devices() if d.name.endswith(name)))
    return 0.0


def _compiled_bytes(model: TrainingModel, shapes: tuple[ArrayShape, ...]) -> float:
    """Return the memory per device of the compiled step. Compiles as `fit` does, which then need not do it again."""
    import jax
    import keras

    distribution: Any = keras.distribution.distribution()
    shardings = None if distribution is None else (None, model._get_state_sharding_spec())
    layouts = [None if distribution is None else distribution.get_data_layout(s.shape).backend_layout for s in shapes]
    data = tuple(
        jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=layout) for s, layout in zip(shapes, layouts, strict=True)
    )
    groups = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
    state = model._get_jax_state(**dict.fromkeys(groups, True))
    # Python makes a new bound method of each `model.train_step`, and JAX's caches would not know that of `fit`.
    train_step: Any = model.__dict__.setdefault("train_step", model.train_step)
    step = jax.jit(train_step, donate_argnums=0, out_shardings=shardings)
    sizes: Any = step.lower(state, data).compile().memory_analysis()
    # Arguments that are donated, such as the weights, are outputs too.
    total = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return float(total + sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes)


def _reset_peak() -> None:
    """Let Linux measure the peak memory of this process from now on; without it, the peak is that since the start."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().split("VmHWM:")
    return int(lines[1].split()[0]) * 1024
