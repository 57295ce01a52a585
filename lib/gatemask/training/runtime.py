"""Find the devices, choose Keras's backend before Keras is imported, and log both.

TPU   JAX where libtpu is installed (Kaggle's TPU image has no TPU TensorFlow), else TensorFlow's TPUStrategy
GPU   TensorFlow, with MirroredStrategy over several GPUs
CPU   TensorFlow, which is two to three times faster there than JAX
`backend: jax` works on all of them, with DataParallel over several devices. TensorFlow is then never imported, and
where it is not installed, JAX is the default.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from gatemask import quiet
from gatemask.config import Runtime
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.training import compilation

ACCELERATORS = {"tpu": "a TPU", "gpu": "a GPU", "cpu": "a CPU"}

D = TypeVar("D")


class RuntimeFacts(TypedDict):
    """The `runtime` section of environment.json."""

    backend: str
    keras: str
    accelerator: str
    devices: list[str]
    how: str
    precision: str


@dataclass(frozen=True)
class Devices:
    """Devices of a training.

    Args:
        backend: "tensorflow" or "jax".
        accelerator: "tpu", "gpu" or "cpu".
        names: Name of each device.
        strategy: Name of the strategy that spreads a batch over the devices; "one device" for none.
        precision: Precision of the layers.
        scope: Context in which models are built; that of the strategy, where there is one.
        spread: Places a batch (array) so that each device holds its part for a jitted prediction.
    """

    backend: str
    accelerator: str
    names: list[str]
    strategy: str
    precision: str
    scope: Callable[[], AbstractContextManager[object]] = nullcontext
    spread: Callable[[np.ndarray], Any] = field(default=lambda batch: batch)

    @property
    def count(self) -> int:
        return len(self.names)

    def memory_mb(self) -> float:
        """Return the peak memory of the fullest device, or else the resident memory of this process, in MB."""
        return round((self.peak_bytes() or resident_bytes()) / 1e6, 1)

    def peak_bytes(self) -> int:
        """Return the peak memory of the fullest device; 0 for CPUs, and for backends that do not report it."""
        peaks = [] if self.accelerator == "cpu" else [_peak_bytes(self.backend, name) for name in self.names]
        return max(peaks, default=0)

    def facts(self) -> RuntimeFacts:
        """Return the facts that environment.json records."""
        import keras

        return {
            "backend": self.backend,
            "keras": keras.__version__,
            "accelerator": self.accelerator,
            "devices": self.names,
            "how": self.strategy,
            "precision": self.precision,
        }


def detect_accelerator() -> str:
    """Return "tpu", "gpu" or "cpu": the best accelerator by the machine's device files. Imports nothing heavy."""
    if os.environ.get("TPU_NAME") or (_installed("libtpu") and (_any("/dev", "accel*") or _any("/dev/vfio", "[0-9]*"))):
        return "tpu"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    has_gpu = _any("/dev", "nvidia[0-9]*") or _any("/dev", "kfd") or _any("/dev", "dxg")
    return "gpu" if has_gpu and not hidden else "cpu"


def require_accelerator(runtime: Runtime) -> str:
    """Log the accelerator of this machine and return it, or fail if the experiment requires another.

    Reading device files takes no time: a kernel that was given the wrong machine should end in its first second.

    Raises:
        GatemaskError: `runtime.accelerator` requires another accelerator.
    """
    detected = detect_accelerator()
    say(f"Detected {ACCELERATORS[detected]}; Keras will run on {_backend(runtime, detected)}.")
    _refuse_other_accelerator(runtime, detected, f"{ACCELERATORS[detected]}, by its device files")
    return detected


def start_keras(runtime: Runtime, compiled: Path | None = None) -> Devices:
    """Import Keras with the backend and devices that `runtime` selects, and log them.

    Args:
        runtime: The experiment's `runtime:`.
        compiled: Folder in which JAX keeps compiled functions. Default: they are not kept.

    Raises:
        GatemaskError: The required accelerator is missing, the backend is not installed, or Keras is already running on
            another one.
    """
    detected = detect_accelerator()
    backend = _backend(runtime, detected)
    _refuse_other_accelerator(runtime, detected, f"{ACCELERATORS[detected]}, by its device files")
    if not _installed(backend):
        raise GatemaskError(
            "The backend is not installed.",
            where="runtime.backend",
            received=backend,
            do=f"Run pip install {backend}, or choose another backend.",
        )
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.backend.backend() != backend:
        raise GatemaskError(
            "Keras is already running on another backend.",
            received=loaded.backend.backend(),
            expected=backend,
            do="Train experiments of different backends by separate commands.",
        )
    os.environ["KERAS_BACKEND"] = backend
    if backend == "jax":
        _set_jax_options(runtime, detected)
    keras = quiet.keras()
    keras.backend.clear_session()  # must come first: it also resets distribution and precision
    devices = _on_jax(runtime) if backend == "jax" else _on_tensorflow(runtime, detected)
    if backend == "jax" and compiled is not None:
        compilation.keep_compiled(compiled, devices.accelerator)
    _refuse_other_accelerator(runtime, devices.accelerator, ", ".join(devices.names))
    policy = "float32" if runtime.precision == "float32" else f"mixed_{runtime.precision}"
    keras.mixed_precision.set_dtype_policy(policy)
    say(
        f"{devices.count} x {devices.accelerator} by {devices.strategy}, Keras {keras.__version__}, {runtime.precision}"
    )
    return devices


def _backend(runtime: Runtime, detected: str) -> str:
    if runtime.backend != "auto":
        return runtime.backend
    wants_tpu = detected == "tpu" and runtime.accelerator in ("auto", "tpu")
    if not _installed("jax"):
        return "tensorflow"
    return "jax" if (wants_tpu and _installed("libtpu")) or not _installed("tensorflow") else "tensorflow"


def _refuse_other_accelerator(runtime: Runtime, accelerator: str, description: str) -> None:
    wanted = runtime.accelerator
    # Every machine has a CPU. What must not happen silently is training on a CPU where an accelerator is expected.
    if wanted in ("auto", "cpu", accelerator):
        return
    raise GatemaskError(
        f"The experiment requires {ACCELERATORS[wanted]}, and this machine has none.",
        where="runtime.accelerator",
        received=description,
        expected=wanted,
        do="Choose the accelerator in the kernel's settings, or set runtime.accelerator to auto.",
    )


def _set_jax_options(runtime: Runtime, detected: str) -> None:
    """Set the environment variables that JAX reads when it is imported, which Keras does."""
    if runtime.accelerator == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    compilation.set_xla_flags("cpu" if runtime.accelerator == "cpu" else detected, runtime.deterministic)


def _on_jax(runtime: Runtime) -> Devices:
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


def _on_tensorflow(runtime: Runtime, detected: str) -> Devices:
    tf = quiet.tensorflow()
    if runtime.accelerator == "cpu":
        tf.config.set_visible_devices([], "GPU")  # otherwise operations are placed there by default
    if runtime.deterministic:
        tf.config.experimental.enable_op_determinism()
        # Not sufficient with gradient accumulation: the order in which parallel operations are summed still varies.
        with suppress(RuntimeError):  # a running session keeps its threads
            tf.config.threading.set_inter_op_parallelism_threads(1)
    if detected == "tpu" and runtime.accelerator in ("auto", "tpu"):
        return _tpu_strategy(tf, runtime)
    gpus = [] if runtime.accelerator == "cpu" else tf.config.list_logical_devices("GPU")
    available = gpus or tf.config.list_logical_devices("CPU")
    chosen = [device.name for device in _limited(available, runtime)]
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
    except Exception as error:  # TensorFlow builds without TPU support fail in different ways
        raise GatemaskError(
            "This machine has a TPU, but its TensorFlow cannot use it.",
            received=(str(error).splitlines() or [type(error).__name__])[0],
            do="Install jax[tpu] and set runtime.backend to jax, as Kaggle's TPU image does.",
        ) from None
    names = [f"TPU:{number}" for number in range(strategy.num_replicas_in_sync)]
    return Devices("tensorflow", "tpu", names, "TPUStrategy", runtime.precision, scope=strategy.scope)


def _peak_bytes(backend: str, name: str) -> int:
    """Return the peak memory of a device, such as "GPU:0" or "tpu:0"; 0 if it is not reported."""
    try:
        if backend == "tensorflow":
            return int(quiet.tensorflow().config.experimental.get_memory_info(name)["peak"])
        import jax

        device = next(device for device in jax.local_devices() if f"{device.platform}:{device.id}" == name)
        return int((device.memory_stats() or {}).get("peak_bytes_in_use", 0))
    except Exception:  # a measurement must not end a training
        return 0


def resident_bytes() -> int:
    """Return the memory that this process occupies, in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # systems without /proc
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limited(devices: Sequence[D], runtime: Runtime) -> list[D]:
    if runtime.folds == "parallel":  # the other devices train other folds
        return list(devices[:1])
    if runtime.devices == "all":
        return list(devices)
    if runtime.devices > len(devices):
        raise GatemaskError(
            "There are fewer devices than runtime.devices asks for.", received=len(devices), expected=runtime.devices
        )
    return list(devices[: runtime.devices])


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _any(folder: str, pattern: str) -> bool:
    return any(Path(folder).glob(pattern))
