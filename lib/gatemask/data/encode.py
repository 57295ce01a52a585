"""Encode raw images for records, over all cores.

Worker processes import this module and nothing heavier than it needs: no TensorFlow, no pandas.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.config import Competition, Records, Tiles
from gatemask.data import tfrecord
from gatemask.data.example import Example
from gatemask.data.sources import ImageSource, read_source
from gatemask.data.truth import EncodedMasks
from gatemask.errors import GatemaskError
from gatemask.masks.frame import HALF, Frame, comp_frame, finish_levels, fit_image, fit_mask
from gatemask.masks.tiling import Origin, cut_tile, scale_image, scaled_size, tile_origins
from gatemask.parallel import cores, keep_freed_memory, ordered_map

CHUNK = 16  # records per task: few enough to balance, enough that handing them out costs nothing
AHEAD = 4  # tasks in flight per process
FEW = 100  # up to this many records, starting processes takes longer than they save


class RawImage(NamedTuple):
    """An image to read.

    Args:
        source: Its files.
        masks: Its true masks.
    """

    source: ImageSource
    masks: EncodedMasks

    @property
    def image_id(self) -> str:
        """Id of the image."""
        return self.source.image_id


class ShardPart(NamedTuple):
    """A file of consecutive records.

    Args:
        path: Its path.
        records: Number of records.
    """

    path: Path
    records: int


def class_bits(masks: EncodedMasks) -> int:
    """Return which classes an image has, as a record's label."""
    return sum(1 << number for number, texts in enumerate(masks.classes) if any(texts))


def origins_of(image_size: tuple[int, int], tiles: Tiles | None) -> list[Origin] | list[None]:
    """Return the positions of an image's records: of each tile, or None for the whole image.

    Args:
        image_size: Height and width of the image, in pixels.
        tiles: Section `tiles` of competition.yaml.
    """
    return [None] if tiles is None else tile_origins(scaled_size(image_size, tiles), tiles.size, tiles.overlap)


def encode_examples(raw: RawImage, comp: Competition) -> Iterator[Example]:
    """Read, fit and encode an image and its masks; equal inputs give equal bytes.

    Args:
        raw: The image to read.
        comp: competition.yaml.

    Yields:
        One example, or one per tile.

    Raises:
        GatemaskError: The image can no longer be read, or has another size than before.
    """
    image = read_source(raw.source, comp.image)
    if image.shape[:2] != raw.masks.size:
        raise GatemaskError(
            "An image has changed since the manifest was made.",
            where=raw.source.files[raw.source.own],
            received=image.shape[:2],
            expected=raw.masks.size,
            do="Run gatemask data prepare again.",
        )
    if comp.tiles is not None:
        image = scale_image(image, comp.tiles)  # instead of the image, which may be large
        levels = _fitted_levels(raw.masks, Frame((image.shape[0], image.shape[1])))
        yield from _encode_tiles(raw, image, levels, comp, comp.tiles)
        return
    frame = comp_frame(comp)
    encoded = encode_image(fit_image(image, frame), comp.records)
    yield Example(raw.image_id, encoded, encode_mask(_fitted_levels(raw.masks, frame), comp), class_bits(raw.masks))


def _fitted_levels(masks: EncodedMasks, frame: Frame) -> np.ndarray | None:
    """Return the planes of an image at the size of a frame, uint8 (height, width, planes), 0 to 255; None if empty."""
    if not (class_bits(masks) or masks.ignored or masks.soft):
        return None
    if masks.soft is None:
        return fit_mask(masks.planes(), frame) * np.uint8(255)
    levels = fit_image(np.ascontiguousarray(masks.levels()), frame)
    finish_levels(levels, len(masks.classes), masks.ignored is not None)
    return levels


def _encode_tiles(
    raw: RawImage, scaled: np.ndarray, levels: np.ndarray | None, comp: Competition, tiles: Tiles
) -> Iterator[Example]:
    """Encode the tiles of an image one by one.

    Args:
        raw: The image.
        scaled: Its pixels after scaling, uint8 (height, width, channels).
        levels: Its planes after scaling, uint8 (height, width, planes), 0 to 255; None if they are empty.
        comp: competition.yaml.
        tiles: Section `tiles` of competition.yaml.
    """
    for origin in tile_origins((scaled.shape[0], scaled.shape[1]), tiles.size, tiles.overlap):
        part = None if levels is None else cut_tile(levels, origin, tiles.size)
        classes = range(len(raw.masks.classes))
        label = 0 if part is None else sum(1 << number for number in classes if (part[:, :, number] >= HALF).any())
        encoded = encode_image(cut_tile(scaled, origin, tiles.size), comp.records)
        part = part if part is not None and part.any() else None
        yield Example(raw.image_id, encoded, encode_mask(part, comp), label, origin)


def encode_image(image: np.ndarray, records: Records) -> bytes:
    """Encode an image as JPEG or PNG.

    Args:
        image: uint8 (height, width, channels), red first.
        records: Section `records` of competition.yaml.
    """
    if image.shape[2] not in (1, 3):
        return _png(stack_planes(image))
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if records.format == "png":
        return _png(image)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, records.quality])[1].tobytes()


def encode_mask(levels: np.ndarray | None, comp: Competition) -> bytes:
    """Encode a mask as PNG.

    Args:
        levels: uint8 (height, width, planes) at the size of the records, 0 or 255, or shares of 255; None if it is
            empty.
        comp: competition.yaml.
    """
    if levels is None:
        height, width = comp.records.shape
        return _empty_mask(comp.planes * height, width)
    return _png(stack_planes(levels))


def stack_planes(array: np.ndarray) -> np.ndarray:
    """Return the planes of an array one below the other, as records store them.

    Args:
        array: uint8 (height, width, planes).

    Returns:
        uint8 (planes * height, width).
    """
    height, width, planes = array.shape
    return np.moveaxis(array, 2, 0).reshape(planes * height, width)


@lru_cache  # most masks of a competition are empty: one encoding is enough
def _empty_mask(height: int, width: int) -> bytes:
    return _png(np.zeros((height, width), np.uint8))


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def split_tasks(raws: Sequence[RawImage], comp: Competition) -> list[Sequence[RawImage]]:
    """Split images into tasks of at most CHUNK records, or of one image with more tiles."""
    step = 1 if comp.tiles is not None else CHUNK
    return [raws[start : start + step] for start in range(0, len(raws), step)]


def write_parts(
    tasks: Sequence[Sequence[RawImage]], folder: Path, comp: Competition
) -> Generator[ShardPart, None, None]:
    """Encode all tasks over all cores; yield each one's piece of a TFRecord file, in order.

    Only names pass between processes, and only a few images are in memory at any time.

    Args:
        tasks: Images, some per task.
        folder: Folder for the pieces.
        comp: competition.yaml.

    Raises:
        GatemaskError: An image cannot be read, or a process died.
    """
    numbered = [(task, folder / f"{number:06d}.part") for number, task in enumerate(tasks)]
    processes = cores()
    if processes == 1 or sum(len(origins_of(raw.masks.size, comp.tiles)) for task in tasks for raw in task) <= FEW:
        yield from (_write_part(task, path, comp) for task, path in numbered)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Spawned, not forked: the parent may have TensorFlow's threads, which do not survive a fork.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield from ordered_map(pool, partial(_write_task, comp=comp), numbered, processes * AHEAD)
    except BrokenProcessPool:
        raise GatemaskError(
            "A process that reads images died.",
            received="most often because memory ran out",
            do="Free some memory and run the same command again: finished shards are kept.",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_task(task: tuple[Sequence[RawImage], Path], comp: Competition) -> ShardPart:
    return _write_part(*task, comp)


def _write_part(raws: Sequence[RawImage], path: Path, comp: Competition) -> ShardPart:
    count = 0

    def features() -> Iterator[tfrecord.Features]:
        nonlocal count
        for raw in raws:
            for example in encode_examples(raw, comp):
                count += 1
                yield _features(example)

    tfrecord.write(path, features())
    return ShardPart(path, count)


def _features(example: Example) -> tfrecord.Features:
    features: dict[str, bytes | int | tuple[int, ...]] = {
        "image_id": example.image_id.encode(),
        "image": example.image,
        "mask": example.mask,
        "label": example.label,
    }
    if example.origin is not None:
        features["origin"] = tuple(example.origin)
    return features


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
