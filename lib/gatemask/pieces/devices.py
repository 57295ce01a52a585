"""Devices of this machine that can be given to processes of their own, found without importing a backend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gatemask.parallel import available_memory, cores
from gatemask.pieces.piece import Piece

DRIVER = Path("/dev")


@dataclass(frozen=True)
class Device:
    """A device for a process that sees no other.

    Args:
        kind: "gpu" or "cpu".
        name: Name for people, such as "gpu 1".
        environment: Environment variables that hide the other devices.
    """

    kind: Literal["gpu", "cpu"]
    name: str
    environment: Mapping[str, str]


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    numbers = sorted(int(path.name.removeprefix("nvidia")) for path in DRIVER.glob("nvidia[0-9]*"))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in numbers] if chosen is None else [*filter(None, chosen.split(","))]


def gpus(names: list[str]) -> list[Device]:
    """Return GPUs as devices."""
    return [Device("gpu", f"gpu {name}", {"CUDA_VISIBLE_DEVICES": name}) for name in names]


def devices_for(piece: Piece) -> list[Device]:
    """Return the devices for pieces of this kind: every GPU, or as many CPUs as cores and memory allow."""
    if piece.accelerator in ("auto", "gpu") and (names := visible_gpus()):
        return gpus(names)
    count = min(cores() // piece.cores, int(available_memory() or 1 << 60) // piece.memory)
    return [Device("cpu", f"cpu {number}", {}) for number in range(max(1, count))]
