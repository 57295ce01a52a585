"""Memory that worker processes share, and buffers in it that are used again once their batch is gone."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.storage import storage_errors

FIRST_BUFFERS = 4


class Region(NamedTuple):
    """A range of the shared memory that is mapped at once.

    Args:
        start: First byte.
        size: Number of bytes.
    """

    start: int
    size: int


class Place(NamedTuple):
    """Position of a buffer.

    Args:
        region: Its region.
        start: First byte within the region.
    """

    region: Region
    start: int


class SharedMemory:
    """Memory without a name: worker processes inherit its file, and the system frees it with the last process.

    Pages take memory once they are written to.

    Attributes:
        file: File descriptor.
    """

    def __init__(self) -> None:
        self.size = 0
        with storage_errors(Path(tempfile.gettempdir())):
            self.file = _nameless_file()
        weakref.finalize(self, os.close, self.file)

    def extend(self, size: int) -> Region:
        """Return a new region of at least `size` bytes."""
        region = Region(self.size, -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY)
        with storage_errors(Path(tempfile.gettempdir())):
            os.ftruncate(self.file, region.start + region.size)
        self.size += region.size
        return region


class Buffers:
    """Buffers of one size.

    A buffer is free again once the array that `take` returned is garbage, with all views of it. There are as many
    buffers as there are arrays in use, so a consumer may keep any number of them.

    Args:
        memory: Shared memory.
        size: Size of a buffer, in bytes.
    """

    def __init__(self, memory: SharedMemory, size: int) -> None:
        self._memory, self._size = memory, size
        self._mapped: dict[Region, mmap.mmap] = {}
        self._free: deque[Place] = deque()  # garbage collection appends to it, at any moment and in any thread
        self.count = 0

    def take(self) -> tuple[Place, np.ndarray]:
        """Return a free buffer and its memory, uint8 (size,)."""
        if not self._free:
            self._add(self.count or FIRST_BUFFERS)
        place = self._free.pop()
        # Views of an array refer to the array that they came from, but not beyond it to the mapping. So each use has an
        # array of its own, and the end of that array is the end of all views.
        array = np.frombuffer(self._mapped[place.region], np.uint8, self._size, place.start)
        weakref.finalize(array, self._free.append, place).atexit = False
        return place, array

    def _add(self, count: int) -> None:
        step = -(-self._size // mmap.PAGESIZE) * mmap.PAGESIZE
        region = self._memory.extend(count * step)
        self._mapped[region] = map_region(self._memory.file, region)
        self._free.extend(Place(region, number * step) for number in range(count))
        self.count += count


def map_region(file: int, region: Region) -> mmap.mmap:
    """Return a region of shared memory as a writable buffer."""
    return mmap.mmap(file, region.size, offset=region.start)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gatemask-input", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
