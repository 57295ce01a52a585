"""Peak performance of Kaggle's devices and of this machine, and the roofline estimate that follows from it.

A pass through a network takes as long as its arithmetic at the device's peak, or as its memory traffic at the peak
bandwidth, whichever is longer (Williams 2009), divided by the share of the peak that is attained in practice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
    """

    name: str
    count: int
    gigabytes: float
    teraflops: float
    bandwidth: float
    hours_per_week: int | None = None


@dataclass(frozen=True)
class ForwardPass:
    """Work of a network for one image.

    Args:
        flops: Number of arithmetic operations.
        outputs: Number of values that all layers output.
    """

    flops: int
    outputs: int


def kaggle_tpu(precision: str) -> Device:
    """Return Kaggle's TPU session, by the vendor's data sheet."""
    # A TPU multiplies float32 in several bfloat16 passes.
    return Device("TPU v5e-8", 8, 16, 98.0 if precision == "float32" else 197.0, 819, 20)


def kaggle_t4(count: int, precision: str) -> Device:
    """Return Kaggle's GPU session, by the vendor's data sheet. A T4 supports float16, but not bfloat16."""
    return Device(f"{count} x T4", count, 15, 65.0 if precision == "float16" else 8.1, 320, 30)


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


def bytes_per_value(precision: str) -> int:
    return 4 if precision == "float32" else 2


def _calls_per_second(work: Callable[[], object]) -> float:
    work()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < 0.3:
        work()
        calls += 1
    return calls / (time.perf_counter() - started)
