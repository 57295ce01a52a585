"""Choose Keras's backend before Keras is imported, and say what was found."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

from gatemask import quiet
from gatemask.config.schema import Runtime
from gatemask.errors import GatemaskError


def start(runtime: Runtime) -> dict[str, Any]:
    """Import Keras on the backend that `runtime` names.

    `auto` is JAX where a TPU library is installed (Kaggle's TPU image has no TPU TensorFlow), else TensorFlow,
    which is two to three times faster than JAX on a CPU.

    Returns:
        backend, version and devices, for the run's environment file.
    """
    on_tpu = importlib.util.find_spec("libtpu") is not None
    wanted = ("jax" if on_tpu else "tensorflow") if runtime.backend == "auto" else runtime.backend
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.backend.backend() != wanted:
        raise GatemaskError(
            "Keras is already running on another backend.",
            received=loaded.backend.backend(),
            expected=wanted,
            do="Train experiments of different backends by separate commands.",
        )
    os.environ["KERAS_BACKEND"] = wanted
    quiet.tensorflow()  # reads the input on every backend
    import keras

    return {"backend": wanted, "keras": keras.__version__, "devices": _devices(wanted)}


def _devices(backend: str) -> list[str]:
    if backend == "jax":
        import jax

        return [f"{d.platform}:{d.id}" for d in jax.devices()]
    return [d.name.removeprefix("/physical_device:") for d in quiet.tensorflow().config.list_physical_devices()]
