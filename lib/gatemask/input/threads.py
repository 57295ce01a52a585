"""Batches made by threads: in order, a few ahead, into arrays that TensorFlow takes over as they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from gatemask.parallel import cores, keep_freed_memory, single_threaded_opencv

TASK = 4  # images a task: handing one out costs little against four images
AHEAD = 2  # batches that are made while one is used; more where threads would have nothing to do
ALIGNED = 64  # bytes: TensorFlow copies arrays that begin anywhere else

Batch = TypeVar("Batch")
Made = TypeVar("Made")


def threaded_batches(
    numbers: range,
    images: int,
    begin: Callable[[int], Batch],
    fill: Callable[[Batch, int, range], None],
    finish: Callable[[Batch, int], Made],
    workers: int,
) -> Generator[Made, None, None]:
    """Make batches in threads, one after the other for whoever takes them.

    Args:
        numbers: of the batches.
        images: in a batch.
        begin: allocates batch `number`.
        fill: makes some of its images; runs in several threads at once.
        finish: what comes out when all its images are there.
        workers: threads; 0 for one a core.

    Whatever `fill` raises comes out with the batch that it belongs to. The threads end with the generator: when it is
    exhausted, closed, or nobody refers to it any more.
    """
    threads = workers or cores()
    ahead = max(AHEAD, -(-2 * threads * TASK // images))
    parts = [range(first, min(first + TASK, images)) for first in range(0, images, TASK)]
    keep_freed_memory()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="gatemask-input")
    waiting: deque[tuple[int, Batch, list[Future[None]]]] = deque()
    with single_threaded_opencv():
        try:
            for number in numbers:
                batch = begin(number)
                waiting.append((number, batch, [pool.submit(fill, batch, number, part) for part in parts]))
                if len(waiting) > ahead:
                    yield _ready(waiting, finish)
            while waiting:
                yield _ready(waiting, finish)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ready(waiting: deque[tuple[int, Batch, list[Future[None]]]], finish: Callable[[Batch, int], Made]) -> Made:
    number, batch, futures = waiting.popleft()
    for future in futures:
        future.result()
    return finish(batch, number)


def aligned_empty(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """An array as TensorFlow wants it, so that nothing is copied on the way; its contents are whatever was there."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNED, np.uint8)
    start = -memory.ctypes.data % ALIGNED
    return memory[start : start + size].view(dtype).reshape(shape)
