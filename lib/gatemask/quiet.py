"""Import Keras and TensorFlow without start-up messages, and TensorFlow with its fast kernels."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any


def keras() -> Any:
    """Import and return Keras. KERAS_BACKEND decides its backend; by default it is that of `default_backend`.

    TensorFlow is imported only where it is the backend.
    """
    if "keras" not in sys.modules:
        if "KERAS_BACKEND" not in os.environ:
            os.environ["KERAS_BACKEND"] = default_backend()
        if os.environ["KERAS_BACKEND"] == "tensorflow":
            tensorflow()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # JAX reads it too
        import keras  # noqa: F401
    return sys.modules["keras"]


def default_backend() -> str:
    """Return "tensorflow", or "jax" where only JAX is installed."""
    installed = [name for name in ("tensorflow", "jax") if importlib.util.find_spec(name) is not None]
    return installed[0] if installed else "tensorflow"


def tensorflow() -> Any:
    """Import and return TensorFlow. Some native messages obey no setting, so stderr is redirected while it loads.

    TensorFlow uses oneDNN by default only on CPUs with AVX-512 VNNI. It is requested on all others too: a step of a
    ResNet-18 then takes half the time with AVX2 (`make bench ONLY=onednn`). TF_ENABLE_ONEDNN_OPTS=0 turns it off.
    """
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            import tensorflow  # noqa: F401
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
    return sys.modules["tensorflow"]
