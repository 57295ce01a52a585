"""X-rays in real TFRecords, written where the device benchmark runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from gatemask.config import Records
from gatemask.data import tfrecord
from gatemask.data.encode import encode_image
from gatemask.data.phantom import draw_phantom
from gatemask.data.shards import Shard, StoredExample

DIFFERENT, PER_SHARD, POSITIVES = 32, 256, 0.25


def examples(folder: Path, count: int, size: int) -> list[StoredExample]:
    """Return the examples of X-rays, a quarter of them with a lesion; written first if they do not exist.

    Args:
        folder: Folder for the records of all sizes.
        count: Number of images.
        size: Side, in pixels.
    """
    records = folder / f"{count}-{size}"
    if not records.exists():
        partial = folder / f"{count}-{size}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, count, size)
        partial.rename(records)
    return [example for path in sorted(records.glob("*.tfrec")) for example in Shard(path).examples(None)]


def _write(folder: Path, count: int, size: int) -> None:
    """Write the shards. Pictures repeat but bytes do not, so each image is decoded on its own."""
    pictures = [_picture(number, size) for number in range(DIFFERENT)]

    def features(numbers: range) -> Iterator[tfrecord.Features]:
        for number in numbers:
            image, mask, label = pictures[number % DIFFERENT]
            # Decoders ignore bytes after a JPEG.
            unique = image + number.to_bytes(4, "big")
            yield {"image_id": f"xray{number}".encode(), "image": unique, "mask": mask, "label": label}

    for shard, start in enumerate(range(0, count, PER_SHARD)):
        tfrecord.write(folder / f"{shard:05d}.tfrec", features(range(start, min(start + PER_SHARD, count))))


def _picture(number: int, size: int) -> tuple[bytes, bytes, int]:
    """Return JPEG, PNG of the mask and label of a picture."""
    positive = number < POSITIVES * DIFFERENT
    image, lesion = draw_phantom(number, positive, size, 0, np.random.default_rng(number))
    jpeg = encode_image(image[:, :, None], Records(size=size, quality=95))
    return jpeg, cv2.imencode(".png", lesion.astype(np.uint8) * 255)[1].tobytes(), int(lesion.any())
