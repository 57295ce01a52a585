"""Devices that can be given to processes of their own, found without importing a backend.

GPU   those of NVIDIA, by their device files, as far as CUDA_VISIBLE_DEVICES shows them
CPU   as many processes as `runtime.devices` asks for; with "all", one, or one for each device that XLA simulates
TPU   none: its chips train one fold together
"""

from __future__ import annotations

import os
import re

from gatemask.config import Runtime
from gatemask.errors import GatemaskError
from gatemask.pieces.devices import Device, gpus, visible_gpus
from gatemask.training.runtime import detect_accelerator

SIMULATED = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def separate_devices(runtime: Runtime) -> list[Device]:
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


def _gpus(runtime: Runtime) -> list[Device]:
    names = visible_gpus()
    if runtime.devices != "all":
        if runtime.devices > max(1, len(names)):
            raise GatemaskError(
                "There are fewer devices than runtime.devices asks for.", received=len(names), expected=runtime.devices
            )
        names = names[: runtime.devices]
    return gpus(names)


def _cpus(runtime: Runtime) -> list[Device]:
    flags = os.environ.get("XLA_FLAGS", "")
    simulated = SIMULATED.search(flags)
    count = runtime.devices if runtime.devices != "all" else int(simulated[1]) if simulated else 1
    own = {"XLA_FLAGS": SIMULATED.sub("", flags)} if simulated else {}
    return [Device("cpu", f"cpu {number}", own) for number in range(count)]
