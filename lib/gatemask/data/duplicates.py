"""Copies of an image under two names: byte for byte, or recompressed, resized, re-windowed.

A copy on the other side of a split is a leak that no patient's name gives away. Candidates are pairs whose
perceptual hashes differ in few bits. Images of one kind (chest X-rays, tiles) share
their coarse structure and so many bits, so candidates are then compared by their fine details, which only copies
share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

# Bits of 64 in which hashes of copies may differ, and the correlation of their details. Measured on nuclei tiles:
# copies that were recompressed, halved, doubled or dimmed stay above, different tiles below 0.75.
NEAR_BITS, NEAR_CORRELATION = 6, 0.9
SIDE = 32
# A picture with less contrast than this (grey levels, standard deviation) is blank: nothing tells whether it is a copy.
BLANK = 1.0
BLOCK = 1024


class Pair(NamedTuple):
    """Two images that are copies: positions in the list asked about, and "exact" or "near"."""

    one: int
    other: int
    kind: str


class Look(NamedTuple):
    """What an image is recognised by.

    Args:
        phash: 64 bits as 16 hex digits that change little when an image is recompressed or resized.
        details: int8 (SIDE, SIDE), the fine structure; all 0 for a blank picture.
    """

    phash: str
    details: np.ndarray


def look(image: np.ndarray) -> Look:
    """Hash and details of an image, uint8 (h, w, channels).

    The hash is pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): the signs,
    against their median, of the 8 x 8 lowest frequencies of a 32 x 32 cosine transform.
    """
    grey = image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if min(grey.shape) > 8 * SIDE:  # in two steps, for the first one is fast on bytes
        grey = cv2.resize(grey, (8 * SIDE, 8 * SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[:8, :8].ravel()
    phash = np.packbits(low > np.median(low)).tobytes().hex()
    return Look(phash, _details(small))


def no_details() -> np.ndarray:
    """Those of a blank picture, which is a copy of none."""
    return np.zeros((SIDE, SIDE), np.int8)


def _details(small: np.ndarray) -> np.ndarray:
    """What is left of a small picture without its blur, with standard deviation 24."""
    fine = small - cv2.GaussianBlur(small, (0, 0), 2)
    if small.std() < BLANK or not fine.any():
        return no_details()
    return np.clip(fine * (24 / fine.std()), -127, 127).round().astype(np.int8)


def find(digests: Sequence[str], looks: Sequence[Look], near: bool) -> list[Pair]:
    """All pairs of copies; of several byte-identical files, each with the first.

    Args:
        digests: sha256 of each file.
        looks: `look` of each image.
        near: whether copies that differ in their bytes count too.
    """
    first: dict[str, int] = {}
    pairs = []
    for index, digest in enumerate(digests):
        if looks[index].details.any() and first.setdefault(digest, index) != index:
            pairs.append(Pair(first[digest], index, "exact"))
    if near:
        alone = sorted(first.values())
        for one, other in _alike(np.array([int(looks[i].phash, 16) for i in alone], np.uint64)):
            a, b = alone[one], alone[other]
            if _correlation(looks[a].details, looks[b].details) >= NEAR_CORRELATION:
                pairs.append(Pair(a, b, "near"))
    return pairs


def _alike(codes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs whose codes differ in at most NEAR_BITS bits; all against all, a block at a time."""
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK]
        bits = np.bitwise_count(block[:, None] ^ codes[None, start:])
        for one, other in zip(*np.nonzero(bits <= NEAR_BITS), strict=True):
            if one < other:
                yield start + int(one), start + int(other)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one.ravel().astype(np.float32), other.ravel().astype(np.float32)
    return float(a @ b / max(1e-6, float(np.sqrt((a @ a) * (b @ b)))))
