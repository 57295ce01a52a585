"""Decode examples, and cache what was decoded in up to a quarter of the available memory.

Decoding takes as long as all of augmentation and gives the same result in every epoch. The cache holds what each epoch
starts from: an image that is stored larger than the input is cached at the input size.
"""

from __future__ import annotations

import threading
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from gatemask.data.example import EncodedExample
from gatemask.errors import GatemaskError
from gatemask.input.augment import shrink_to_size
from gatemask.input.layout import Layout
from gatemask.parallel import available_memory

CACHE_SHARE = 0.25  # of the memory available when the first batches are made

CacheKey = tuple[object, bool]  # of an example, and whether its mask is decoded


class DecodedExample(NamedTuple):
    """Arrays of one example.

    Args:
        image: Image, uint8 (h, w, channels).
        mask: Mask, uint8 (planes, h, w), 0 to 255; None if it is empty or was not requested.
    """

    image: np.ndarray
    mask: np.ndarray | None


class Cache(Protocol):
    """Where decoded examples are kept."""

    def get(self, key: CacheKey) -> DecodedExample | None:
        """Return a decoded example, or None if it is not kept."""

    def add(self, key: CacheKey, decoded: DecodedExample) -> None:
        """Keep a decoded example, if there is room."""


class MemoryCache:
    """Cache for the threads of one process.

    Args:
        limit: Maximum size, in bytes. Default: `CACHE_SHARE` of the available memory.

    Attributes:
        used: Size of what is kept, in bytes.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = CACHE_SHARE * available_memory() if limit is None else limit
        self.used = 0
        self._decoded: dict[CacheKey, DecodedExample] = {}
        self._lock = threading.Lock()

    def get(self, key: CacheKey) -> DecodedExample | None:
        """Return a decoded example, or None if it is not kept."""
        return self._decoded.get(key)

    def add(self, key: CacheKey, decoded: DecodedExample) -> None:
        """Keep a decoded example, if there is room."""
        size = sum(array.nbytes for array in decoded if array is not None)
        with self._lock:
            # Each epoch reads all examples, so evicting one would only remove what is needed next.
            if key not in self._decoded and self.used + size <= self.limit:
                self._decoded[key] = decoded
                self.used += size

    def clear(self) -> None:
        """Empty the cache."""
        with self._lock:
            self._decoded.clear()
            self.used = 0


class Decoder:
    """Thread-safe decoder with a cache, for one input size and one kind of records.

    The cache is keyed by what the records hold, so it is never stale, and all folds of an experiment can share it.

    Args:
        layout: Channels and planes of the records.
        size: Height and width of the network's input, in pixels.
        cache: Where decoded examples are kept.
    """

    def __init__(self, layout: Layout, size: tuple[int, int], cache: Cache) -> None:
        self.layout, self.size, self.cache = layout, size, cache

    def decode(self, example: EncodedExample, with_mask: bool) -> DecodedExample:
        """Return an example at the size from which it is augmented.

        Args:
            example: Encoded example.
            with_mask: Whether to decode the mask, if the example has one.

        Returns:
            Arrays shared by all callers; they must not be modified.

        Raises:
            GatemaskError: The image or its mask cannot be decoded.
        """
        key = cache_key(example, self.layout, with_mask)
        decoded = self.cache.get(key)
        if decoded is None:
            decoded = self.decode_uncached(example, key[1])
            self.cache.add(key, decoded)
        return decoded

    def decode_uncached(self, example: EncodedExample, with_mask: bool) -> DecodedExample:
        """Return what `decode` returns without looking at the cache, with a mask even if it is empty."""
        return DecodedExample(*shrink_to_size(*decode_example(example, self.layout, with_mask), self.size))


def cache_key(example: EncodedExample, layout: Layout, with_mask: bool) -> CacheKey:
    """Return what identifies a decoded example, and whether its mask is decoded.

    The mask is part of it: copies of an image may be annotated differently.

    Args:
        example: Encoded example.
        layout: Channels and planes of the records.
        with_mask: Whether the mask is requested.
    """
    # An image without any class may still have pixels that are ignored, or shares below half.
    return example.key, with_mask and (example.label != 0 or layout.ignored or layout.soft)


_shared: Decoder | None = None


def shared_decoder(layout: Layout, size: tuple[int, int]) -> Decoder:
    """Return the process's decoder.

    There is one at a time: asking for another size or layout drops the previous decoder and its cache.
    """
    global _shared
    if _shared is None or (_shared.layout, _shared.size) != (layout, size):
        _shared = None  # before the new decoder measures the available memory
        _shared = Decoder(layout, size, MemoryCache())
    return _shared


def decode_example(example: EncodedExample, layout: Layout, with_mask: bool = True) -> DecodedExample:
    """Decode an example at its stored size.

    Args:
        example: Encoded example.
        layout: Channels and planes of the records.
        with_mask: Whether to decode the mask. Default: True.

    Raises:
        GatemaskError: The image or its mask cannot be decoded, or has another number of channels or planes.
    """
    image = _decode_image(example, layout.channels)
    if not with_mask:
        return DecodedExample(image, None)
    mask = _decode_bytes(example, "mask", example.mask, cv2.IMREAD_GRAYSCALE)
    return DecodedExample(image, _split(example, "mask", mask, layout.planes))


def _decode_image(example: EncodedExample, channels: int) -> np.ndarray:
    if channels in (1, 3):
        flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
        image = _decode_bytes(example, "image", example.image, flag)
        return image.reshape(*image.shape[:2], channels)
    stacked = _decode_bytes(example, "image", example.image, cv2.IMREAD_GRAYSCALE)
    return np.ascontiguousarray(np.moveaxis(_split(example, "image", stacked, channels), 0, 2))


def _split(example: EncodedExample, field: str, stacked: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` parts of a picture that are stacked downward, (count, h, w)."""
    height, width = stacked.shape
    if height % count:
        raise GatemaskError(
            f"The {field} of a record has another number of planes than the competition.",
            where=example.image_id,
            received=f"{height} rows",
            expected=f"{count} planes of the same height",
            do="Run gatemask records make.",
        )
    return stacked.reshape(count, height // count, width)


def _decode_bytes(example: EncodedExample, field: str, encoded: bytes, flag: int) -> np.ndarray:
    array = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if encoded else None
    if array is None:
        raise GatemaskError(
            f"Could not decode the {field} of a record.",
            where=example.image_id,
            received=f"{len(encoded)} bytes in no known image format",
            do="Run gatemask records check, then gatemask records make.",
        )
    return array
