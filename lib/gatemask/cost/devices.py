"""Peak performance of Kaggle's devices and of this machine, and the roofline estimate that follows from it.

A pass through a network takes as long as its arithmetic at the device's peak, or as its memory traffic at the peak
bandwidth, whichever is longer (Williams 2009), divided by the share of the peak that is attained in practice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gatemask.config import Experiment
from gatemask.config.machines import Machine

ATTAINED = 0.4  # share of a peak that networks attain in practice


@dataclass(frozen=True)
class Device:
    """Devices of one kind of session.

    Args:
        name: Name for people.
        count: Number of devices per session.
        gigabytes: Memory of one device, in GB.
        teraflops: Peak arithmetic of one device at the experiment's precision, in 10^12 operations per second.
        bandwidth: Peak memory bandwidth of one device, in GB per second.
        hours_per_week: Free hours per week on Kaggle; None where they are not limited.
        machine: Kaggle's name of the machine; None of this machine.
        link: Bandwidth between two devices, in GB per second; None of a single device.
        separable: Whether each device may train a fold of its own.
    """

    name: str
    count: int
    gigabytes: float
    teraflops: float
    bandwidth: float
    hours_per_week: int | None = None
    machine: str | None = None
    link: float | None = None
    separable: bool = False

    def alone(self) -> Device:
        """Return one of the devices, without the others."""
        return replace(self, count=1, link=None, separable=False)

    def of_a_fold(self, exp: Experiment) -> Device:
        """Return the devices that train one fold of an experiment together."""
        return self.alone() if self.separable and exp.runtime.folds == "parallel" else self


@dataclass(frozen=True)
class ForwardPass:
    """Work of a network for one image.

    Args:
        flops: Number of arithmetic operations.
        outputs: Number of values that all layers output.
    """

    flops: int
    outputs: int


def devices_of(machine: Machine, precision: str) -> Device:
    """Return the devices of one of Kaggle's machines, by their data sheets.

    A precision that the hardware lacks, such as bfloat16 on a T4, is as slow as float32.

    Args:
        machine: The machine.
        precision: Precision of the layers.
    """
    return Device(
        machine.title,
        machine.devices,
        machine.memory_gb,
        machine.peak_teraflops(precision),
        machine.bandwidth_gb_s,
        machine.hours_a_week,
        machine.name,
        machine.link_gb_s,
        machine.trains_folds_side_by_side,
    )


def this_machine() -> Device:
    """Return the CPU of this machine, measured with numpy on all cores; takes less than a second."""
    matrix = np.ones((1024, 1024), np.float32)
    flops = 2 * 1024**3 * _calls_per_second(lambda: matrix @ matrix)
    block = np.ones(1 << 24, np.float32)
    target = np.empty_like(block)
    moved = 2 * block.nbytes * _calls_per_second(lambda: np.copyto(target, block))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device("this machine's CPU", 1, memory / 1e9, flops / 1e12, moved / 1e9)


def seconds_per_image(device: Device, work: ForwardPass, precision: str, passes: float = 1) -> float:
    """Return the roofline estimate for one image on one device.

    Args:
        device: The device.
        work: Work of one forward pass.
        precision: Precision of the layers.
        passes: Total work, in forward passes. Default: 1.
    """
    arithmetic = work.flops / (device.teraflops * 1e12)
    traffic = work.outputs * bytes_per_value(precision) / (device.bandwidth * 1e9)
    return passes * max(arithmetic, traffic) / ATTAINED


def exchange_seconds(device: Device, parameters: int) -> float:
    """Return how long the devices of a session take per step to sum their gradients, in float32, around a ring."""
    if device.link is None:
        return 0.0
    return 2 * (device.count - 1) / device.count * parameters * 4 / (device.link * 1e9)


def bytes_per_value(precision: str) -> int:
    return 4 if precision == "float32" else 2


def _calls_per_second(work: Callable[[], object]) -> float:
    work()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < 0.3:
        work()
        calls += 1
    return calls / (time.perf_counter() - started)
