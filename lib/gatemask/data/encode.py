"""One raw image as it will lie in a record, and many of them over all cores.

Worker processes import this module and nothing heavier than it needs: no TensorFlow, no pandas.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from gatemask.config.schema import Picture, Records
from gatemask.data.readers import read_image, resize_image, resize_mask
from gatemask.errors import GatemaskError
from gatemask.masks import rle

CHUNK = 8  # images a task: few enough to balance, enough to make passing them around cheap
AHEAD = 3  # tasks in flight for each process: what bounds memory
FEW = 100  # up to so many images, starting processes takes longer than they save


class Raw(NamedTuple):
    """An image that is still to be read: its truth as `rle.INTERNAL`."""

    image_id: str
    path: Path
    truth: str
    label: int


class Example(NamedTuple):
    """One image as it lies in a record: encoded."""

    image_id: str
    image: bytes
    mask: bytes
    label: int


def encode(raw: Raw, picture: Picture, records: Records) -> Example:
    """Read, resize and encode an image and its mask; the same bytes each time.

    Raises:
        GatemaskError: the image cannot be read any more.
    """
    image = resize_image(read_image(raw.path, picture.channels, picture.window), records.size)
    return Example(raw.image_id, encode_image(image, records), _mask(raw, picture, records.size), raw.label)


def encode_image(image: np.ndarray, records: Records) -> bytes:
    """uint8 (h, w, channels), red first, as JPEG or PNG."""
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if records.format == "png":
        return cv2.imencode(".png", image)[1].tobytes()
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, records.quality])[1].tobytes()


def _mask(raw: Raw, picture: Picture, size: int) -> bytes:
    if not raw.truth:
        return _EMPTY.setdefault(size, _png(np.zeros((size, size), np.uint8)))
    mask = rle.decode(raw.truth, picture.size, where=raw.image_id)
    return _png(resize_mask(mask, size) * 255)


_EMPTY: dict[int, bytes] = {}  # most masks of a competition are empty: one encoding of that is enough


def _png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def encode_all(raws: Sequence[Raw], picture: Picture, records: Records) -> Iterator[Example]:
    """`encode` for all, in order, over all cores; only a few images are in memory at any time."""
    if len(raws) <= FEW:
        yield from (encode(raw, picture, records) for raw in raws)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    processes = cores()
    chunks = (raws[start : start + CHUNK] for start in range(0, len(raws), CHUNK))
    # Spawned, not forked: the parent may have TensorFlow's threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(picture, records))
    try:
        for chunk in _in_order(pool.submit, _encode_chunk, chunks, processes * AHEAD):
            yield from chunk
    except BrokenProcessPool:
        raise GatemaskError(
            "A process that reads images died.",
            received="most often because memory ran out",
            do="Free some memory and run the same command again: finished shards are kept.",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(submit: Callable[..., Any], work: Callable[..., Any], tasks: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Results in the order of the tasks. An executor's own map() would take in all tasks, and keep all results."""
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(submit(work, task))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# --- in a worker process -----------------------------------------------------------------------------------

_settings: tuple[Picture, Records] | None = None


def _start(picture: Picture, records: Records) -> None:
    import multiprocessing
    import signal
    import threading

    global _settings
    _settings = (picture, records)
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer

    def leave_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)  # a parent that was killed cannot tell its workers to stop

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _encode_chunk(raws: Sequence[Raw]) -> list[Example]:
    assert _settings is not None
    return [encode(raw, *_settings) for raw in raws]
