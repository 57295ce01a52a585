"""Make batches in threads: in order, a few ahead, in arrays that TensorFlow uses without copying."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from gatemask.parallel import cores, keep_freed_memory, ordered_map, single_threaded_opencv

TASK_IMAGES = 4  # images per task: scheduling a task is cheap compared with four images
BATCHES_AHEAD = 2  # at least; more if threads would otherwise be idle
ALIGNMENT = 64  # bytes: TensorFlow copies arrays that start anywhere else

Batch = TypeVar("Batch")
Finished = TypeVar("Finished")


def threaded_batches(
    numbers: range,
    batch_size: int,
    allocate: Callable[[], Batch],
    fill: Callable[[Batch, int, range], None],
    finish: Callable[[Batch, int], Finished],
    workers: int,
) -> Generator[Finished, None, None]:
    """Yield batches in order, filled by threads.

    An exception in `fill` is raised when its batch is due. The threads end with the generator: when it is exhausted,
    closed or garbage collected.

    Args:
        numbers: Numbers of the batches.
        batch_size: Images per batch.
        allocate: Returns an empty batch.
        fill: Fills some slots of a batch, given its number; called by several threads at once.
        finish: Turns a filled batch, given its number, into the value to yield.
        workers: Number of threads; 0 for one per core.
    """
    threads = workers or cores()
    batches_ahead = max(BATCHES_AHEAD, -(-2 * threads * TASK_IMAGES // batch_size))
    parts = [range(first, min(first + TASK_IMAGES, batch_size)) for first in range(0, batch_size, TASK_IMAGES)]

    def tasks() -> Iterator[tuple[Batch, int, range]]:
        for number in numbers:
            batch = allocate()
            for slots in parts:
                yield batch, number, slots

    def run(task: tuple[Batch, int, range]) -> tuple[Batch, int, range]:
        fill(*task)
        return task

    keep_freed_memory()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="gatemask-input")
    with single_threaded_opencv():
        try:
            for batch, number, slots in ordered_map(pool, run, tasks(), (batches_ahead + 1) * len(parts) - 1):
                if slots == parts[-1]:
                    yield finish(batch, number)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def aligned_empty(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """Return an uninitialized array that starts where TensorFlow can use it without copying."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
