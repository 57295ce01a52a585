"""One raw image as it will lie in a record, and many of them over all cores.

Worker processes import this module and nothing heavier than it needs: no TensorFlow, no pandas.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.config import Picture, Records
from gatemask.data import tfrecord
from gatemask.data.readers import read_image, resize_image, resize_mask
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.parallel import cores, keep_freed_memory, ordered_map

CHUNK = 16  # images a task: few enough to balance, enough that handing them out costs nothing
AHEAD = 4  # tasks in flight for each process
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


class Part(NamedTuple):
    """A file of so many records."""

    path: Path
    images: int


def encode(raw: Raw, picture: Picture, records: Records) -> Example:
    """Read, resize and encode an image and its mask; the same bytes each time.

    Raises:
        GatemaskError: the image cannot be read any more.
    """
    image = read_image(raw.path, picture.channels, picture.window)
    if image.shape[:2] != picture.size:
        raise GatemaskError(
            "An image is not what it was when the manifest was made.",
            where=raw.path,
            received=image.shape[:2],
            expected=picture.size,
            do="Run gatemask data prepare again.",
        )
    image = resize_image(image, records.size)
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
        return _empty(size)
    mask = rle.decode(raw.truth, picture.size, where=raw.image_id)
    return _png(resize_mask(mask, size) * 255)


@lru_cache  # most masks of a competition are empty: one encoding of that is enough
def _empty(size: int) -> bytes:
    return _png(np.zeros((size, size), np.uint8))


def _png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def pieces(raws: Sequence[Raw]) -> list[Sequence[Raw]]:
    """`raws` cut into tasks."""
    return [raws[start : start + CHUNK] for start in range(0, len(raws), CHUNK)]


def write_parts(
    chunks: Sequence[Sequence[Raw]], folder: Path, picture: Picture, records: Records
) -> Generator[Part, None, None]:
    """Encode all, over all cores, and leave each chunk in `folder` as a piece of a TFRecord file, in order.

    Nothing but names goes from process to process, and nothing but a few images is in memory at any time.
    """
    tasks = [(chunk, folder / f"{number:06d}.part") for number, chunk in enumerate(chunks)]
    if sum(map(len, chunks)) <= FEW:
        yield from (_write_part(chunk, path, picture, records) for chunk, path in tasks)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    processes = cores()
    # Spawned, not forked: the parent may have TensorFlow's threads, which do not survive a fork.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start)
    try:
        yield from ordered_map(pool, partial(_write_task, picture=picture, records=records), tasks, processes * AHEAD)
    except BrokenProcessPool:
        raise GatemaskError(
            "A process that reads images died.",
            received="most often because memory ran out",
            do="Free some memory and run the same command again: finished shards are kept.",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_task(task: tuple[Sequence[Raw], Path], picture: Picture, records: Records) -> Part:
    return _write_part(*task, picture, records)


def _write_part(raws: Sequence[Raw], path: Path, picture: Picture, records: Records) -> Part:
    examples = (encode(raw, picture, records) for raw in raws)
    tfrecord.write(path, ({**one._asdict(), "image_id": one.image_id.encode()} for one in examples))
    return Part(path, len(raws))


# --- in a worker process -----------------------------------------------------------------------------------


def _start() -> None:
    import multiprocessing
    import signal
    import threading

    cv2.setNumThreads(1)  # the processes share the cores already
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer

    def leave_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)  # a parent that was killed cannot tell its workers to stop

    threading.Thread(target=leave_with_parent, daemon=True).start()
