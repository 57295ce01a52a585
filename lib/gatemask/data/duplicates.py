"""Find copies of an image under two names: identical bytes, or recompressed, resized, windowed differently.

A copy on the other side of a split is a leak that no patient id reveals. Candidates are pairs whose perceptual hashes
differ in few bits. Images of one kind (chest X-rays, tiles) share their coarse structure and thus many bits, so
candidates are then compared by their fine details, which only copies share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

# Bits of 64 in which hashes of copies may differ, and the correlation of their details. Measured on microscope tiles:
# halved copies reach 0.98 and more, different tiles 0.65 at most. JPEG at quality 50 leaves the median at 0.99, but
# removes the details of dark tiles, and those copies are missed.
NEAR_BITS, NEAR_CORRELATION = 6, 0.9
SIDE = 32
BLANK = 1.0  # standard deviation, in gray levels, below which an image has no details to compare
BLOCK, PAIRS = 1024, 4096
TOO_MANY = 100  # mean number of candidates per image from which copies cannot be distinguished from similar images


class CopyPair(NamedTuple):
    """Two images that are copies.

    Args:
        first: Position of the earlier image.
        second: Position of the later image.
        kind: "exact" or "near".
    """

    first: int
    second: int
    kind: str


class Signature(NamedTuple):
    """Features by which copies of an image are recognized.

    Args:
        phash: 64 bits as 16 hex digits; recompressing or resizing changes few of them.
        details: int8 (SIDE, SIDE), the fine structure; all 0 where there is next to none.
        blank: Whether all pixels are equal, so that copies cannot be recognized.
    """

    phash: str
    details: np.ndarray
    blank: bool = False


NO_SIGNATURE = Signature("", np.zeros((SIDE, SIDE), np.int8), blank=True)  # of an image that is not available


def compute_signature(image: np.ndarray) -> Signature:
    """Return hash and details of an image.

    The hash is pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): the signs,
    against their median, of the 8 x 8 lowest frequencies of a 32 x 32 cosine transform.

    Args:
        image: uint8 (height, width, channels).
    """
    gray = image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if min(gray.shape) > 8 * SIDE:  # in two steps, since the first one is fast on bytes
        gray = cv2.resize(gray, (8 * SIDE, 8 * SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.resize(gray.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[:8, :8].ravel()
    phash = np.packbits(low > np.median(low)).tobytes().hex()
    return Signature(phash, _details(small), bool(image.min() == image.max()))


def _details(small: np.ndarray) -> np.ndarray:
    """Return a small image minus its blur, scaled to standard deviation 24."""
    fine = small - cv2.GaussianBlur(small, (0, 0), 2)
    if small.std() < BLANK or not fine.any():
        return NO_SIGNATURE.details
    return np.clip(fine * (24 / fine.std()), -127, 127).round().astype(np.int8)


def find_copies(digests: Sequence[str], signatures: Sequence[Signature], near: bool) -> tuple[list[CopyPair], bool]:
    """Return all pairs of copies; of several identical files, each is paired with the first.

    Args:
        digests: SHA-256 of each file.
        signatures: Signature of each image.
        near: Whether copies with different bytes count, too.

    Returns:
        The pairs, and whether near copies can be recognized at all. Where nearly every hash resembles many others,
        the images are too alike, and only exact pairs are returned.
    """
    first: dict[str, int] = {}
    exact = []
    for index, digest in enumerate(digests):
        if not signatures[index].blank and first.setdefault(digest, index) != index:
            exact.append(CopyPair(first[digest], index, "exact"))
    if not near or not first:
        return exact, True
    distinct = np.array([index for index in sorted(first.values()) if signatures[index].details.any()], int)
    if not len(distinct):
        return exact, True
    codes = np.array([int(signatures[index].phash, 16) for index in distinct], np.uint64)
    details = np.stack([signatures[index].details.ravel() for index in distinct])
    near_pairs: list[CopyPair] = []
    candidates = 0
    for rows, partners in _similar_pairs(codes):
        candidates += len(rows)
        if candidates > TOO_MANY * len(distinct):
            return exact, False
        same = _correlation(details[rows], details[partners]) >= NEAR_CORRELATION
        matches = zip(distinct[rows[same]].tolist(), distinct[partners[same]].tolist(), strict=True)
        near_pairs += [CopyPair(row, partner, "near") for row, partner in matches]
    return exact + near_pairs, True


def _similar_pairs(codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs whose codes differ in at most NEAR_BITS bits, at most PAIRS at a time."""
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK]
        bits = np.bitwise_count(block[:, None] ^ codes[None, start:])
        rows, partners = np.nonzero(bits <= NEAR_BITS)
        later = rows < partners
        rows, partners = rows[later] + start, partners[later] + start
        for begin in range(0, len(rows), PAIRS):
            yield rows[begin : begin + PAIRS], partners[begin : begin + PAIRS]


def _correlation(rows: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """Return the correlation of each row with its partner; details have mean 0 already."""
    a, b = rows.astype(np.float32), partners.astype(np.float32)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
