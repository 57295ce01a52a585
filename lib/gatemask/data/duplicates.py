"""Copies of an image under two names: byte for byte, or recompressed, resized, re-windowed.

A copy on the other side of a split is a leak that no patient's name gives away. Candidates are pairs whose
perceptual hashes differ in few bits. Images of one kind (chest X-rays, tiles) share their coarse structure and so many
bits, so candidates are then compared by their fine details, which only copies share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

# Bits of 64 in which hashes of copies may differ, and the correlation of their details. Measured on nuclei tiles:
# halved copies reach 0.98 and more, different tiles 0.65 at most. JPEG at quality 50 leaves the median at 0.99, but
# takes the details of dark tiles away, and those copies are missed.
NEAR_BITS, NEAR_CORRELATION = 6, 0.9
SIDE = 32
# A picture with less contrast than this (grey levels, standard deviation) has no details that could be compared.
BLANK = 1.0
BLOCK, PAIRS = 1024, 4096
# Candidates an image, on average, beyond which near copies cannot be told from images of one kind.
TOO_MANY = 100


class Pair(NamedTuple):
    """Two images that are copies: positions in the list asked about, and "exact" or "near"."""

    one: int
    other: int
    kind: str


class Look(NamedTuple):
    """What an image is recognised by.

    Args:
        phash: 64 bits as 16 hex digits that change little when an image is recompressed or resized.
        details: int8 (SIDE, SIDE), the fine structure; all 0 where there is next to none.
        blank: whether all pixels are the same, so that nothing tells whether it is a copy.
    """

    phash: str
    details: np.ndarray
    blank: bool = False


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
    return Look(phash, _details(small), bool(image.min() == image.max()))


def no_details() -> np.ndarray:
    """Those of a blank picture, which is a copy of none."""
    return np.zeros((SIDE, SIDE), np.int8)


def _details(small: np.ndarray) -> np.ndarray:
    """What is left of a small picture without its blur, with standard deviation 24."""
    fine = small - cv2.GaussianBlur(small, (0, 0), 2)
    if small.std() < BLANK or not fine.any():
        return no_details()
    return np.clip(fine * (24 / fine.std()), -127, 127).round().astype(np.int8)


def find(digests: Sequence[str], looks: Sequence[Look], near: bool) -> tuple[list[Pair], bool]:
    """All pairs of copies; of several byte-identical files, each with the first.

    Args:
        digests: sha256 of each file.
        looks: `look` of each image.
        near: whether copies that differ in their bytes count too.

    Returns:
        The pairs, and whether near copies can be told at all: where nearly every hash is like many others, these
        images are too alike, and only the exact pairs are returned.
    """
    first: dict[str, int] = {}
    exact = []
    for index, digest in enumerate(digests):
        if not looks[index].blank and first.setdefault(digest, index) != index:
            exact.append(Pair(first[digest], index, "exact"))
    if not near or not first:
        return exact, True
    alone = np.array([index for index in sorted(first.values()) if looks[index].details.any()], int)
    if not len(alone):
        return exact, True
    codes = np.array([int(looks[i].phash, 16) for i in alone], np.uint64)
    details = np.stack([looks[i].details.ravel() for i in alone])
    found, candidates = [], 0
    for one, other in _alike(codes):
        candidates += len(one)
        if candidates > TOO_MANY * len(alone):
            return exact, False
        same = _correlation(details[one], details[other]) >= NEAR_CORRELATION
        found += [Pair(int(alone[a]), int(alone[b]), "near") for a, b in zip(one[same], other[same], strict=True)]
    return exact + found, True


def _alike(codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs whose codes differ in at most NEAR_BITS bits; all against all, a few thousand pairs at a time."""
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK]
        bits = np.bitwise_count(block[:, None] ^ codes[None, start:])
        one, other = np.nonzero(bits <= NEAR_BITS)
        later = one < other
        one, other = one[later] + start, other[later] + start
        for at in range(0, len(one), PAIRS):
            yield one[at : at + PAIRS], other[at : at + PAIRS]


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each row with its partner; details have mean 0 already."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
