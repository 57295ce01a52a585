"""Run-length encodings: text to mask and back, against pycocotools' C code and a plain Python loop.

Each side starts from its own text (the competition's; COCO's compressed string) and ends with a mask of 1024 x 1024
bytes, column-major, and back. The masks are the same: all annotations of SIIM-ACR where the labels are at hand, else
as many phantoms of the same sizes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco
from timing import interleaved, row

from gatemask.config import Rle
from gatemask.masks import rle

SIIM = Rle(offsets="relative", base=0, order="column", empty="-1")
SHAPE = (1024, 1024)
LABELS = Path(__file__).resolve().parents[2] / "shared" / "data" / "siim" / "stage_2_train.csv"
COUNT, LOOPED, AT_ONCE = 3576, 60, 200


def rows() -> Iterator[dict[str, Any]]:
    texts, whose = annotations()
    # Masks are held a few hundred at a time, since all of them would be 3.7 GB.
    totals: dict[str, float] = dict.fromkeys(["decode", "coco decode", "encode", "coco encode"], 0.0)
    for start in range(0, len(texts), AT_ONCE):
        part = texts[start : start + AT_ONCE]
        masks = [np.asfortranarray(rle.decode(text, SHAPE, SIIM).astype(np.uint8)) for text in part]
        compressed = [coco.encode(mask) for mask in masks]
        check(part, masks, compressed)
        times = interleaved(
            {
                "decode": lambda part=part: [rle.decode(text, SHAPE, SIIM) is None for text in part],
                "coco decode": lambda compressed=compressed: [coco.decode(one) is None for one in compressed],
                "encode": lambda masks=masks: [rle.encode(mask, SIIM) is None for mask in masks],
                "coco encode": lambda masks=masks: [coco.encode(mask) is None for mask in masks],
            },
            rounds=3,
        )
        totals = {name: totals[name] + times[name] for name in totals}
    few = texts[:: len(texts) // LOOPED][:LOOPED]
    few_masks = [rle.decode(text, SHAPE, SIIM) for text in few]
    loops = interleaved(
        {
            "decode": lambda: [rle.decode(text, SHAPE, SIIM) is None for text in few],
            "loop decode": lambda: [plain_decode(text) is None for text in few],
            "encode": lambda: [rle.encode(mask, SIIM) is None for mask in few_masks],
            "loop encode": lambda: [plain_encode(mask) is None for mask in few_masks],
        },
        rounds=1,
    )
    many = len(texts)
    yield row(f"RLE decode, {many} {whose}, vs pycocotools", totals["decode"], totals["coco decode"], 10, per=many)
    yield row(f"RLE encode, {many} {whose}, vs pycocotools", totals["encode"], totals["coco encode"], 1.5, per=many)
    yield row(f"RLE decode, {LOOPED}, vs a Python loop", loops["decode"], loops["loop decode"], None, per=LOOPED)
    yield row(f"RLE encode, {LOOPED}, vs a Python loop", loops["encode"], loops["loop encode"], None, per=LOOPED)


def annotations() -> tuple[list[str], str]:
    """The texts, and whose they are."""
    if LABELS.exists():
        with LABELS.open(encoding="utf-8-sig") as file:
            texts = [row["EncodedPixels"] for row in csv.DictReader(file)]
        return [text for text in texts if text.strip() != "-1"], "real annotations"
    rng = np.random.default_rng(0)
    return [rle.encode(phantom(rng), SIIM) for _ in range(COUNT)], "phantom annotations"


def phantom(rng: np.random.Generator) -> np.ndarray:
    """A crescent of about 8,600 pixels, the median of the real ones."""
    mask = np.zeros(SHAPE, np.uint8)
    height, width = rng.integers(90, 360), rng.integers(8, 40)
    centre = (int(rng.integers(200, 824)), int(rng.integers(300, 724)))
    cv2.ellipse(mask, centre, (int(height // 2), int(height)), 0, 100, 260, 1, int(width))
    return mask > 0


def check(texts: list[str], masks: list[np.ndarray], compressed: list[Any]) -> None:
    """Both sides mean the same masks."""
    for text, mask, one in zip(texts[::50], masks[::50], compressed[::50], strict=True):
        assert (coco.decode(one) == mask).all()
        assert rle.encode(mask, SIIM) == text.strip()


def plain_decode(text: str) -> list[int]:
    flat = [0] * (SHAPE[0] * SHAPE[1])
    numbers = [int(word) for word in text.split()]
    at = 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        at += gap
        for pixel in range(at, at + length):
            flat[pixel] = 1
        at += length
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
