"""TensorFlow without the pages that it prints while it is imported; its errors still raise."""

from __future__ import annotations

import os
import sys
from typing import Any


def tensorflow() -> Any:
    """The module. Its native start-up messages obey no setting, so stderr is turned away while it loads."""
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
