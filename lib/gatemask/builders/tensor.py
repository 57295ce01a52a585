"""The type of tensors."""

from __future__ import annotations

from typing import Any

Tensor = Any  # of whichever backend Keras runs on; symbolic while a network is built
