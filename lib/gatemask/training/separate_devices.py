"""Devices that can be given to processes of their own, found without importing a backend.

GPU   those of NVIDIA, by their device files, as far as CUDA_VISIBLE_DEVICES shows them
CPU   as many processes as `runtime.devices` asks for; with "all", one, or one for each device that XLA simulates
TPU   none: its chips train one fold together
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gatemask.config import Runtime
from gatemask.errors import GatemaskError
from gatemask.training.runtime import detect_accelerator

SIMULATED = re.compile(r"--xla_force_host_platform_device_count=(\d+)")
DRIVER = Path("/dev")


@dataclass(frozen=True)
class SeparateDevice:
    """A device for a process that sees no other.

    Args:
        kind: "gpu" or "cpu".
        name: Name for people, such as "gpu 1".
        environment: Environment variables that hide the other devices.
    """

    kind: Literal["gpu", "cpu"]
    name: str
    environment: Mapping[str, str]


def separate_devices(runtime: Runtime) -> list[SeparateDevice]:
    """Return the devices that `runtime` selects, each for a process of its own.

    Raises:
        GatemaskError: The machine has a TPU, or fewer GPUs than `runtime.devices` asks for.
    """
    accelerator = "cpu" if runtime.accelerator == "cpu" else detect_accelerator()
    if accelerator == "tpu":
        raise GatemaskError(
            "The chips of a TPU train one fold together: folds cannot be trained side by side there.",
            where="runtime.folds",
            received="parallel",
            expected="sequence",
        )
    return _gpus(runtime) if accelerator == "gpu" else _cpus(runtime)


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    numbers = sorted(int(path.name.removeprefix("nvidia")) for path in DRIVER.glob("nvidia[0-9]*"))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in numbers] if chosen is None else [*filter(None, chosen.split(","))]


def _gpus(runtime: Runtime) -> list[SeparateDevice]:
    gpus = visible_gpus()
    if runtime.devices != "all":
        if runtime.devices > max(1, len(gpus)):
            raise GatemaskError(
                "There are fewer devices than runtime.devices asks for.", received=len(gpus), expected=runtime.devices
            )
        gpus = gpus[: runtime.devices]
    return [SeparateDevice("gpu", f"gpu {gpu}", {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus]


def _cpus(runtime: Runtime) -> list[SeparateDevice]:
    flags = os.environ.get("XLA_FLAGS", "")
    simulated = SIMULATED.search(flags)
    count = runtime.devices if runtime.devices != "all" else int(simulated[1]) if simulated else 1
    own = {"XLA_FLAGS": SIMULATED.sub("", flags)} if simulated else {}
    return [SeparateDevice("cpu", f"cpu {number}", own) for number in range(count)]
