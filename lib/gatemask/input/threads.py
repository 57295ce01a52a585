"""Make batches in threads: in order, and a few ahead."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

from gatemask.input.mix import ImageBatch
from gatemask.input.source import BatchPlan, RecordSource
from gatemask.parallel import cores, keep_freed_memory, ordered_map, single_threaded_opencv

TASK_IMAGES = 4  # images per task: scheduling a task is cheap compared with four images
BATCHES_AHEAD = 2  # at least; more if threads would otherwise be idle
MOST_THREADS = 4  # threads share one interpreter lock: on 16 cores, 4 made 1,750 images per second and 16 made 1,250


def threaded_batches(source: RecordSource, plan: BatchPlan) -> Generator[tuple[int, ImageBatch], None, None]:
    """Yield the number of each batch and the batch, in order, filled by threads.

    An exception is raised when its batch is due. The threads end with the generator: when it is exhausted, closed or
    garbage collected.

    Args:
        source: Examples, and how to turn them into a batch.
        plan: Batches to make.
    """
    threads, batch_size = min(cores(), MOST_THREADS), plan.batch_size
    batches_ahead = max(BATCHES_AHEAD, -(-2 * threads * TASK_IMAGES // batch_size))
    parts = [range(first, min(first + TASK_IMAGES, batch_size)) for first in range(0, batch_size, TASK_IMAGES)]

    def tasks() -> Iterator[tuple[ImageBatch, int, range]]:
        for number in plan.numbers:
            batch = source.allocate(batch_size)
            for slots in parts:
                yield batch, number, slots

    def run(task: tuple[ImageBatch, int, range]) -> tuple[ImageBatch, int, range]:
        batch, number, slots = task
        source.fill(batch, slots, plan.indices(number, slots), plan.batch_seed(number))
        return task

    keep_freed_memory()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="gatemask-input")
    with single_threaded_opencv():
        try:
            for batch, number, slots in ordered_map(pool, run, tasks(), (batches_ahead + 1) * len(parts) - 1):
                if slots == parts[-1]:
                    yield number, source.mix(batch, plan.batch_seed(number))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
