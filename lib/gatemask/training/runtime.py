"""Find the devices, choose Keras's backend before Keras is imported, and say what was found.

TPU   JAX where libtpu is installed (Kaggle's TPU image has no TPU TensorFlow), else TensorFlow's TPUStrategy
GPU   TensorFlow; several of them by MirroredStrategy
CPU   TensorFlow, which is two to three times faster there than JAX
`backend: jax` runs on any of them, several devices by DataParallel
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gatemask import quiet
from gatemask.config import Runtime
from gatemask.console import say
from gatemask.errors import GatemaskError

KINDS = {"tpu": "a TPU", "gpu": "a GPU", "cpu": "a CPU"}


@dataclass
class Devices:
    """What a training runs on.

    Args:
        backend: tensorflow or jax.
        accelerator: tpu, gpu or cpu.
        names: one a device.
        how: how a batch is spread over them.
        precision: of the layers.
        scope: of the strategy under which models are built, where there is one.
        spread: puts a batch (array) where a jitted prediction finds a part of it on each device.
    """

    backend: str
    accelerator: str
    names: list[str]
    how: str
    precision: str
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext
    spread: Callable[[np.ndarray], Any] = field(default=lambda batch: batch)

    @property
    def count(self) -> int:
        return len(self.names)

    def described(self) -> dict[str, Any]:
        """For environment.json."""
        import keras

        facts = {"backend": self.backend, "keras": keras.__version__, "accelerator": self.accelerator}
        return {**facts, "devices": self.names, "how": self.how, "precision": self.precision}


def look() -> str:
    """The best kind of device that this machine seems to have: tpu, gpu or cpu. Imports nothing heavy."""
    if os.environ.get("TPU_NAME") or (_installed("libtpu") and (_any("/dev", "accel*") or _any("/dev/vfio", "[0-9]*"))):
        return "tpu"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    some = _any("/dev", "nvidia[0-9]*") or _any("/dev", "kfd") or _any("/dev", "dxg")
    return "gpu" if some and not hidden else "cpu"


def insist(runtime: Runtime) -> str:
    """Say at once what the machine seems to have, and refuse what was not asked for; returns the kind.

    A look at device files takes no time: a kernel that was given the wrong machine should end in its first second.
    """
    seen = look()
    say(f"This machine seems to have {KINDS[seen]}; Keras will run on {_backend(runtime, seen)}.")
    _refuse_other(runtime, seen, f"{KINDS[seen]}, by its device files")
    return seen


def start(runtime: Runtime) -> Devices:
    """Import Keras on the backend and the devices that `runtime` asks for; says what it found.

    Raises:
        GatemaskError: the accelerator that was asked for is not there, or Keras already runs on another backend.
    """
    seen = look()
    backend = _backend(runtime, seen)
    _refuse_other(runtime, seen, f"{KINDS[seen]}, by its device files")
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.backend.backend() != backend:
        raise GatemaskError(
            "Keras is already running on another backend.",
            received=loaded.backend.backend(),
            expected=backend,
            do="Train experiments of different backends by separate commands.",
        )
    os.environ["KERAS_BACKEND"] = backend
    quiet.tensorflow()  # reads the input on every backend
    import keras

    keras.backend.clear_session()  # forgets distribution and precision too: it must come first
    devices = (_on_jax if backend == "jax" else _on_tensorflow)(runtime, seen)
    _refuse_other(runtime, devices.accelerator, ", ".join(devices.names))
    policy = "float32" if runtime.precision == "float32" else f"mixed_{runtime.precision}"
    keras.mixed_precision.set_dtype_policy(policy)
    say(f"{devices.count} x {devices.accelerator} by {devices.how}, Keras {keras.__version__}, {runtime.precision}")
    return devices


def _backend(runtime: Runtime, seen: str) -> str:
    if runtime.backend != "auto":
        return runtime.backend
    wants_tpu = seen == "tpu" and runtime.accelerator in ("auto", "tpu")
    return "jax" if wants_tpu and _installed("libtpu") and _installed("jax") else "tensorflow"


def _refuse_other(runtime: Runtime, found: str, named: str) -> None:
    wanted = runtime.accelerator
    # A machine with an accelerator has a CPU too; the other way round is what must not happen in silence.
    if wanted in ("auto", found) or (wanted == "cpu"):
        return
    raise GatemaskError(
        f"The experiment insists on {KINDS[wanted]}, and there is none.",
        where="runtime.accelerator",
        received=named,
        expected=wanted,
        do="Choose the accelerator in the kernel's settings, or set runtime.accelerator to auto.",
    )


def _on_jax(runtime: Runtime, seen: str) -> Devices:
    # Both are read when JAX is imported.
    if runtime.accelerator == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    if runtime.deterministic and seen == "gpu":
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    quiet.tensorflow().config.set_visible_devices([], "GPU")  # it only reads the input, and would take all memory
    import jax
    import keras

    chosen = _limited(jax.devices(), runtime)
    names = [f"{device.platform}:{device.id}" for device in chosen]
    kind = "gpu" if chosen[0].platform in ("gpu", "cuda", "rocm") else chosen[0].platform
    if len(chosen) == 1:
        return Devices("jax", kind, names, "one device", runtime.precision)
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names))
    mesh = jax.sharding.Mesh(np.array(chosen), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    return Devices(
        "jax", kind, names, "DataParallel", runtime.precision, spread=lambda batch: jax.device_put(batch, sharding)
    )


def _on_tensorflow(runtime: Runtime, seen: str) -> Devices:
    tf = quiet.tensorflow()
    if runtime.accelerator == "cpu":
        tf.config.set_visible_devices([], "GPU")  # else operations go there by themselves
    if runtime.deterministic:
        tf.config.experimental.enable_op_determinism()
        # That is not enough where gradients are accumulated: operations that ran side by side added up differently.
        with suppress(RuntimeError):  # a session that has begun already keeps its threads
            tf.config.threading.set_inter_op_parallelism_threads(1)
    if seen == "tpu" and runtime.accelerator in ("auto", "tpu"):
        return _tpu_strategy(tf, runtime)
    gpus = [] if runtime.accelerator == "cpu" else tf.config.list_logical_devices("GPU")
    found = gpus or tf.config.list_logical_devices("CPU")
    chosen = [device.name for device in _limited(found, runtime)]
    names = [name.removeprefix("/device:") for name in chosen]
    kind = "gpu" if gpus else "cpu"
    if len(chosen) == 1:
        return Devices("tensorflow", kind, names, "one device", runtime.precision)
    strategy = tf.distribute.MirroredStrategy(chosen)
    return Devices("tensorflow", kind, names, "MirroredStrategy", runtime.precision, scope=strategy.scope)


def _tpu_strategy(tf: Any, runtime: Runtime) -> Devices:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # each TensorFlow without TPU support fails in its own way
        raise GatemaskError(
            "There is a TPU, but this TensorFlow cannot use it.",
            received=(str(error).splitlines() or [type(error).__name__])[0],
            do="Install jax[tpu] and set runtime.backend to jax, as Kaggle's TPU image does.",
        ) from None
    names = [f"TPU:{number}" for number in range(strategy.num_replicas_in_sync)]
    return Devices("tensorflow", "tpu", names, "TPUStrategy", runtime.precision, scope=strategy.scope)


def _limited(found: list[Any], runtime: Runtime) -> list[Any]:
    if runtime.devices == "all":
        return list(found)
    if runtime.devices > len(found):
        raise GatemaskError(
            "There are fewer devices than runtime.devices asks for.", received=len(found), expected=runtime.devices
        )
    return list(found[: runtime.devices])


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _any(folder: str, pattern: str) -> bool:
    return any(Path(folder).glob(pattern))
