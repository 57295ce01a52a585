"""Encode raw images for records, over all cores.

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

CHUNK = 16  # images per task: few enough to balance, enough that handing them out costs nothing
AHEAD = 4  # tasks in flight per process
FEW = 100  # up to this many images, starting processes takes longer than they save


class RawImage(NamedTuple):
    """An image to read.

    Args:
        image_id: Its id.
        path: Its file.
        truth: RLE (`rle.INTERNAL`) of its mask; "" for an empty mask.
        label: 1 if it has a mask, else 0.
    """

    image_id: str
    path: Path
    truth: str
    label: int


class Example(NamedTuple):
    """An image as a record holds it: image (JPEG or PNG) and mask (PNG) encoded."""

    image_id: str
    image: bytes
    mask: bytes
    label: int


class ShardPart(NamedTuple):
    """A file of consecutive records.

    Args:
        path: Its path.
        images: Number of records.
    """

    path: Path
    images: int


def encode_example(raw: RawImage, picture: Picture, records: Records) -> Example:
    """Read, resize and encode an image and its mask; equal inputs give equal bytes.

    Args:
        raw: The image to read.
        picture: Section `image` of competition.yaml.
        records: Section `records` of competition.yaml.

    Raises:
        GatemaskError: The image can no longer be read, or has another size than before.
    """
    image = read_image(raw.path, picture.channels, picture.window, picture.upright)
    if image.shape[:2] != picture.size:
        raise GatemaskError(
            "An image has changed since the manifest was made.",
            where=raw.path,
            received=image.shape[:2],
            expected=picture.size,
            do="Run gatemask data prepare again.",
        )
    image = resize_image(image, records.size)
    return Example(raw.image_id, encode_image(image, records), _encode_mask(raw, picture, records.size), raw.label)


def encode_image(image: np.ndarray, records: Records) -> bytes:
    """Encode an image as JPEG or PNG.

    Args:
        image: uint8 (height, width, channels), red first.
        records: Section `records` of competition.yaml.
    """
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if records.format == "png":
        return cv2.imencode(".png", image)[1].tobytes()
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, records.quality])[1].tobytes()


def _encode_mask(raw: RawImage, picture: Picture, size: int) -> bytes:
    if not raw.truth:
        return _empty_mask(size)
    mask = rle.decode(raw.truth, picture.size, where=raw.image_id)
    return _png(resize_mask(mask, size) * 255)


@lru_cache  # most masks of a competition are empty: one encoding is enough
def _empty_mask(size: int) -> bytes:
    return _png(np.zeros((size, size), np.uint8))


def _png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def split_tasks(raws: Sequence[RawImage]) -> list[Sequence[RawImage]]:
    """Split images into tasks of at most CHUNK."""
    return [raws[start : start + CHUNK] for start in range(0, len(raws), CHUNK)]


def write_parts(
    tasks: Sequence[Sequence[RawImage]], folder: Path, picture: Picture, records: Records
) -> Generator[ShardPart, None, None]:
    """Encode all tasks over all cores; yield each one's piece of a TFRecord file, in order.

    Only names pass between processes, and only a few images are in memory at any time.

    Args:
        tasks: Images, some per task.
        folder: Folder for the pieces.
        picture: Section `image` of competition.yaml.
        records: Section `records` of competition.yaml.

    Raises:
        GatemaskError: An image cannot be read, or a process died.
    """
    numbered = [(task, folder / f"{number:06d}.part") for number, task in enumerate(tasks)]
    if sum(map(len, tasks)) <= FEW:
        yield from (_write_part(task, path, picture, records) for task, path in numbered)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    processes = cores()
    # Spawned, not forked: the parent may have TensorFlow's threads, which do not survive a fork.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        write = partial(_write_task, picture=picture, records=records)
        yield from ordered_map(pool, write, numbered, processes * AHEAD)
    except BrokenProcessPool:
        raise GatemaskError(
            "A process that reads images died.",
            received="most often because memory ran out",
            do="Free some memory and run the same command again: finished shards are kept.",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_task(task: tuple[Sequence[RawImage], Path], picture: Picture, records: Records) -> ShardPart:
    return _write_part(*task, picture, records)


def _write_part(raws: Sequence[RawImage], path: Path, picture: Picture, records: Records) -> ShardPart:
    examples = (encode_example(raw, picture, records) for raw in raws)
    tfrecord.write(path, ({**example._asdict(), "image_id": example.image_id.encode()} for example in examples))
    return ShardPart(path, len(raws))


# --- in a worker process -----------------------------------------------------------------------------------


def _start_worker() -> None:
    import multiprocessing
    import signal
    import threading

    cv2.setNumThreads(1)  # the processes share the cores already
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer

    def exit_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)  # a killed parent cannot stop its workers

    threading.Thread(target=exit_with_parent, daemon=True).start()
