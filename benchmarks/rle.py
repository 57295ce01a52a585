"""Benchmark of run-length encodings against pycocotools' C code and a plain Python loop.

Each side decodes its own text (the competition's, or COCO's compressed string) to a column-major mask of 1024 x 1024
bytes, and encodes it again. Both use the same masks: the annotations of a table that the variable LABELS names (columns
ImageId and EncodedPixels, in the dialect below), or else phantoms of a similar number and size.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco
from timing import Row, interleaved, row

from gatemask.config import Rle
from gatemask.masks import rle

DIALECT = Rle(offsets="relative", base=0, order="column", empty="-1")
SHAPE = (1024, 1024)
LABELS = Path(os.environ.get("LABELS", "no-labels.csv"))
COUNT, LOOPS, CHUNK = 3576, 60, 200


def rows() -> Iterator[Row]:
    texts, source = annotations()
    # A few hundred masks at a time: all of them would take 3.7 GB.
    totals: dict[str, float] = dict.fromkeys(["decode", "coco decode", "encode", "coco encode"], 0.0)
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        masks = [np.asfortranarray(rle.decode(text, SHAPE, DIALECT).astype(np.uint8)) for text in part]
        compressed = [coco.encode(mask) for mask in masks]
        check(part, masks, compressed)
        times = interleaved(
            {
                "decode": lambda part=part: [rle.decode(text, SHAPE, DIALECT) is None for text in part],
                "coco decode": lambda compressed=compressed: [coco.decode(code) is None for code in compressed],
                "encode": lambda masks=masks: [rle.encode(mask, DIALECT) is None for mask in masks],
                "coco encode": lambda masks=masks: [coco.encode(mask) is None for mask in masks],
            },
            rounds=3,
        )
        totals = {name: totals[name] + times[name] for name in totals}
    few = texts[:: len(texts) // LOOPS][:LOOPS]
    few_masks = [rle.decode(text, SHAPE, DIALECT) for text in few]
    loops = interleaved(
        {
            "decode": lambda: [rle.decode(text, SHAPE, DIALECT) is None for text in few],
            "loop decode": lambda: [plain_decode(text) is None for text in few],
            "encode": lambda: [rle.encode(mask, DIALECT) is None for mask in few_masks],
            "loop encode": lambda: [plain_encode(mask) is None for mask in few_masks],
        },
        rounds=1,
    )
    many = len(texts)
    yield row(f"RLE decode, {many} {source}, vs pycocotools", totals["decode"], totals["coco decode"], 10, per=many)
    yield row(f"RLE encode, {many} {source}, vs pycocotools", totals["encode"], totals["coco encode"], 1.5, per=many)
    yield row(f"RLE decode, {LOOPS}, vs a Python loop", loops["decode"], loops["loop decode"], None, per=LOOPS)
    yield row(f"RLE encode, {LOOPS}, vs a Python loop", loops["encode"], loops["loop encode"], None, per=LOOPS)


def annotations() -> tuple[list[str], str]:
    """Return the encoded masks and a description of their source."""
    if LABELS.exists():
        with LABELS.open(encoding="utf-8-sig") as file:
            texts = [row["EncodedPixels"] for row in csv.DictReader(file)]
        return [text for text in texts if text.strip() != "-1"], "real annotations"
    rng = np.random.default_rng(0)
    return [rle.encode(phantom(rng), DIALECT) for _ in range(COUNT)], "phantom annotations"


def phantom(rng: np.random.Generator) -> np.ndarray:
    """Return a crescent of about 8,600 pixels, the median area of the real masks."""
    mask = np.zeros(SHAPE, np.uint8)
    height, width = rng.integers(90, 360), rng.integers(8, 40)
    center = (int(rng.integers(200, 824)), int(rng.integers(300, 724)))
    cv2.ellipse(mask, center, (int(height // 2), int(height)), 0, 100, 260, 1, int(width))
    return mask > 0


def check(texts: list[str], masks: list[np.ndarray], compressed: list[Any]) -> None:
    """Assert that both encodings describe the same masks."""
    for text, mask, code in zip(texts[::50], masks[::50], compressed[::50], strict=True):
        assert (coco.decode(code) == mask).all()
        assert rle.encode(mask, DIALECT) == text.strip()


def plain_decode(text: str) -> list[int]:
    flat = [0] * (SHAPE[0] * SHAPE[1])
    numbers = [int(word) for word in text.split()]
    position = 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += gap
        for pixel in range(position, position + length):
            flat[pixel] = 1
        position += length
    return flat


def plain_encode(mask: np.ndarray) -> str:
    parts, run, gap = [], 0, 0
    for pixel in mask.T.ravel():
        if pixel:
            run += 1
            continue
        if run:
            parts += [str(gap), str(run)]
            run = gap = 0
        gap += 1
    if run:
        parts += [str(gap), str(run)]
    return " ".join(parts)
