"""Choose who makes the batches: threads of this process, or worker processes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

from gatemask.input.mix import ImageBatch
from gatemask.input.source import BatchPlan, RecordSource
from gatemask.input.threads import threaded_batches
from gatemask.input.workers import shared_workers
from gatemask.parallel import cores

FEW_CORES = 2  # up to which threads are as fast as processes
FEW_IMAGES = 1000  # below this number, starting processes takes longer than they save


def filled_batches(
    source: RecordSource, plan: BatchPlan, workers: Literal["auto"] | int
) -> Generator[tuple[int, ImageBatch], None, None]:
    """Yield the number of each batch and the batch, in order, after mixing.

    Batches are the same to the last bit for any number of workers.

    Args:
        source: Examples, and how to turn them into a batch.
        plan: Batches to make.
        workers: The experiment's `runtime.workers`.

    Raises:
        GatemaskError: An image of the batch that is due cannot be decoded, or workers die again and again.
    """
    processes = worker_processes(workers, len(source.examples))
    if not processes:
        return threaded_batches(source, plan)
    return shared_workers(processes, source.decoder.layout, source.decoder.size).batches(source, plan)


def worker_processes(workers: Literal["auto"] | int, images: int) -> int:
    """Return the number of worker processes; 0 for threads.

    Args:
        workers: The experiment's `runtime.workers`.
        images: Number of images of the source.
    """
    if workers != "auto":
        return workers
    return 0 if cores() <= FEW_CORES or images < FEW_IMAGES else cores()
