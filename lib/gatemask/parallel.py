"""Cores, threads and memory: one bounded pool that keeps its order, and settings every worker needs."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_opencv_users = 0
_opencv_threads = 0


CORES = "GATEMASK_CORES"  # environment variable: this process shares the machine, and may use so many cores


def cores() -> int:
    """Return the number of cores this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(CORES, "")
    return min(available, int(share)) if share.isdecimal() and int(share) else available


def peak_memory(children: bool = False) -> int:
    """Return the most memory that this process, or the largest of its ended children, ever used, in bytes.

    That of children includes the memory of this process when it started them, on Linux.
    """
    if not children:
        with suppress(OSError, IndexError, ValueError):
            # Unlike `getrusage`, which starts from the memory of the process that started this one.
            return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, but bytes on macOS


def available_memory() -> float:
    """Return the memory this process may still use, in bytes.

    This is the smaller of what the machine and the container (its cgroup) have left; 0 if neither reports it.
    """
    available = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().split("MemAvailable:")
        available.append(float(lines[1].split()[0]) * 1024)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # without a limit, the file reads "max"
            available.append(max(0.0, float(Path(limit).read_text()) - float(Path(used).read_text())))
    return min(available, default=0.0)


def ordered_map(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item, in order, computed by a pool.

    Unlike `Executor.map`, it takes items as they are needed, so memory stays bounded, and an exception surfaces as
    soon as its own result is due.

    Args:
        pool: Threads or processes that do the work.
        function: Called once per item.
        items: Any iterable; may be longer than memory.
        ahead: Maximum number of results computed before they are asked for.
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Keep OpenCV to one thread per call while the block runs.

    Its own threads would compete with ours. The setting is global: the last block to end restores it.
    """
    import cv2

    global _opencv_users, _opencv_threads
    with _lock:
        if not _opencv_users:
            _opencv_threads = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _opencv_users += 1
    try:
        yield
    finally:
        with _lock:
            _opencv_users -= 1
            if not _opencv_users:
                cv2.setNumThreads(_opencv_threads)


def keep_freed_memory() -> None:
    """Tell malloc to keep freed blocks of image size instead of returning them to the system.

    Getting them back page by page took a fifth of the time of reading images. Does nothing where malloc is not glibc's.
    """
    import ctypes

    trim_threshold, mmap_threshold, kept = -1, -3, 256 << 20
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, kept)
        libc.mallopt(mmap_threshold, kept)
