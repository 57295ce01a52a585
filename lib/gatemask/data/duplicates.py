"""Find copies of an image under two names: identical bytes, or recompressed, resized, windowed differently.

A copy on the other side of a split is a leak that no patient id reveals. Candidates are pairs whose perceptual hashes
differ in few bits. Images of one kind (chest X-rays, tiles) share their coarse structure and thus many bits, so
candidates are then compared by their fine details, which only copies share.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.data.hash_search import ClosePairs, Found, find_close_pairs
from gatemask.parallel import cores, ordered_map

# Bits of 64 in which hashes of copies may differ, and the correlation of their details. Measured on microscope tiles:
# halved copies reach 0.98 and more, different tiles 0.65 at most. JPEG at quality 50 leaves the median at 0.99, but
# removes the details of dark tiles, and those copies are missed.
NEAR_BITS, NEAR_CORRELATION = 6, 0.9
SIDE = 32
BLANK = 1.0  # standard deviation, in gray levels, below which an image has no details to compare
PAIRS = 512  # pairs whose details are compared at once, small enough for the cache
TOO_MANY = 100  # mean number of candidates per image from which copies cannot be distinguished from similar images
WAITING = 1 << 22  # pairs of copies from which large sets are thinned during the search
LARGE_SET = 50  # images of a set of near copies from which not all of its pairs are listed


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


class Copies(NamedTuple):
    """Pairs of copies.

    Args:
        pairs: All pairs; of several identical files, each is paired with the first. Of a set of more than LARGE_SET
            near copies, only pairs that connect it are listed.
        recognizable: Whether near copies can be recognized. Where they cannot, only exact pairs are listed.
    """

    pairs: list[CopyPair]
    recognizable: bool


def find_copies(digests: Sequence[str], signatures: Sequence[Signature], near: bool) -> Copies:
    """Return all pairs of copies.

    Near copies cannot be recognized where nearly every hash resembles many others: the images are too alike.

    Args:
        digests: SHA-256 of each file.
        signatures: Signature of each image.
        near: Whether copies with different bytes count, too.
    """
    first: dict[str, int] = {}
    exact = []
    for index, digest in enumerate(digests):
        if not signatures[index].blank and first.setdefault(digest, index) != index:
            exact.append(CopyPair(first[digest], index, "exact"))
    distinct = [index for index in sorted(first.values()) if signatures[index].details.any()] if near else []
    if not distinct:
        return Copies(exact, True)
    hexadecimal = "".join(signatures[index].phash for index in distinct)
    codes = np.frombuffer(bytes.fromhex(hexadecimal), ">u8").astype(np.uint64)
    close = find_close_pairs(codes, NEAR_BITS, TOO_MANY * len(distinct))
    if close.refused:
        return Copies(exact, False)
    pairs = _copies_among(close, [signatures[index].details for index in distinct])
    near_pairs = [CopyPair(distinct[a], distinct[b], "near") for a, b in zip(*pairs, strict=True)]
    return Copies(exact + near_pairs, True)


def _copies_among(close: ClosePairs, details: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """Return the pairs that share their fine details, ordered; large sets of copies are thinned as they come."""
    compare = _Details(close, details).compare
    kept: list[Found] = []
    waiting = 0
    with ThreadPoolExecutor(cores()) as pool:
        parts = (
            (first[s : s + PAIRS], second[s : s + PAIRS]) for first, second in close.parts() for s in _steps(first)
        )
        for pairs in ordered_map(pool, compare, parts, 2 * cores()):
            kept.append(pairs)
            waiting += len(pairs[0])
            if waiting > WAITING:
                kept, waiting = [_thinned(kept, len(details))], 0
    first, second = _thinned(kept, len(details))
    order = np.lexsort((second, first))
    return first[order].tolist(), second[order].tolist()


def _steps(values: np.ndarray) -> range:
    return range(0, len(values), PAIRS)


class _Details:
    """The fine details of images that are in any pair: those of all images would take 1 GB per million.

    Args:
        close: Pairs of close hashes.
        details: Details of all images, int8 (SIDE, SIDE) each.
    """

    def __init__(self, close: ClosePairs, details: Sequence[np.ndarray]) -> None:
        involved = close.involved()
        self._place = np.cumsum(involved) - 1
        self._rows = np.zeros((int(involved.sum()), SIDE * SIDE), np.int8)
        for row, index in zip(self._rows, np.flatnonzero(involved).tolist(), strict=True):
            row[:] = details[index].ravel()
        norms = [_products(rows, rows) for rows in (self._rows[s : s + PAIRS] for s in _steps(self._rows))]
        self._norms = np.concatenate(norms) if norms else np.zeros(0, np.float32)

    def compare(self, pairs: Found) -> Found:
        """Return the pairs whose details correlate; details have mean 0 already."""
        a, b = self._place[pairs[0]], self._place[pairs[1]]
        correlation = _products(self._rows[a], self._rows[b]) / np.sqrt(self._norms[a] * self._norms[b])
        same = correlation >= NEAR_CORRELATION
        return pairs[0][same], pairs[1][same]


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the scalar product of each row with its partner, float32; whole numbers below 2^24, so it is exact."""
    products: np.ndarray = np.einsum("ij,ij->i", a.astype(np.float32), b.astype(np.float32))
    return products


def _thinned(pairs: Sequence[Found], count: int) -> Found:
    """Return all pairs of small sets of copies, and of large sets as many as connect them.

    A thousand nearly equal images are half a million pairs, a hundred thousand are five billion.

    Args:
        pairs: Pairs of copies.
        count: Number of images.
    """
    first, second = (np.concatenate([np.zeros(0, np.int64), *(pair[side] for pair in pairs)]) for side in (0, 1))
    if len(first) < LARGE_SET:
        return first, second
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    def graph(left: np.ndarray, right: np.ndarray) -> coo_array:
        return coo_array((np.ones(len(left)), (left, right)), (count, count))

    _, set_of = connected_components(graph(first, second), directed=False)
    large = (np.bincount(set_of) > LARGE_SET)[set_of[first]]
    tree = minimum_spanning_tree(graph(first[large], second[large])).tocoo()
    return np.concatenate([first[~large], tree.row]), np.concatenate([second[~large], tree.col])
