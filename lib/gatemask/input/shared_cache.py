"""Cache of decoded images in memory that worker processes share.

The main process gives each image a place before the first batch. The worker that decodes an image first copies it
there; all workers, all epochs and all folds read it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gatemask.data.example import EncodedExample
from gatemask.errors import GatemaskError
from gatemask.input.decoding import CacheKey, DecodedExample, Decoder

HEADER = 64  # bytes before an image; the first one is 1 once the image is complete
NOWHERE = -1


class Shapes(NamedTuple):
    """Shapes of decoded examples; those of another shape are not cached.

    Args:
        image: Height, width and channels.
        planes: Number of planes of a mask.
    """

    image: tuple[int, ...]
    planes: int

    @property
    def mask(self) -> tuple[int, ...]:
        """Shape of a mask: planes, height and width."""
        return (self.planes, *self.image[:2])

    def bytes(self, with_mask: bool) -> int:
        """Return the size of an image with its mask, if it has one, and its header."""
        size = HEADER + int(np.prod(self.image)) + (int(np.prod(self.mask)) if with_mask else 0)
        return -(-size // HEADER) * HEADER


def shapes_of(examples: Sequence[EncodedExample], decoder: Decoder) -> Shapes | None:
    """Return the shapes of the first example, which all others share in most competitions; None if it is damaged."""
    if not examples:
        return None
    try:
        image = decoder.decode_uncached(examples[0], with_mask=False).image
    except GatemaskError:  # the batch with this image will raise it
        return None
    return Shapes(image.shape, decoder.layout.planes)


class Directory:
    """Places of decoded images in the cache, in the main process.

    Args:
        limit: Size of the cache, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._places: dict[tuple[CacheKey, Shapes], int] = {}

    def places(self, keys: Sequence[CacheKey], shapes: Shapes) -> np.ndarray:
        """Return the place of each image, int64; `NOWHERE` once the cache is full."""
        return np.array([self._place(key, shapes) for key in keys], np.int64)

    def _place(self, key: CacheKey, shapes: Shapes) -> int:
        place = self._places.get((key, shapes))
        if place is not None:
            return place
        size = shapes.bytes(with_mask=key[1])
        if self._used + size > self._limit:
            return NOWHERE
        self._places[key, shapes] = place = self._used
        self._used += size
        return place


class SharedCache:
    """The cache in a worker process, for the images of one source.

    Args:
        memory: Memory of the cache, uint8.
        places: Place of each image; those of `NOWHERE` are left out.
        shapes: Shapes of the images.
    """

    def __init__(self, memory: np.ndarray, places: dict[CacheKey, int], shapes: Shapes) -> None:
        self._memory, self._places, self._shapes = memory, places, shapes
        self._fence = threading.Lock()

    def get(self, key: CacheKey) -> DecodedExample | None:
        """Return a decoded example, or None if no worker has decoded it."""
        place = self._places.get(key)
        if place is None or not self._memory[place]:
            return None
        self._order_memory()
        return self._view(place, key[1])

    def add(self, key: CacheKey, decoded: DecodedExample) -> None:
        """Store a decoded example, if it has a place. Two workers that do so at once write the same bytes."""
        place = self._places.get(key)
        if place is None or decoded.image.shape != self._shapes.image:
            return
        if decoded.mask is not None and decoded.mask.shape != self._shapes.mask:
            return
        view = self._view(place, key[1])
        view.image[:] = decoded.image
        if view.mask is not None and decoded.mask is not None:
            view.mask[:] = decoded.mask
        self._order_memory()
        self._memory[place] = 1

    def _view(self, place: int, with_mask: bool) -> DecodedExample:
        image, mask = self._shapes.image, self._shapes.mask
        start = place + HEADER
        stop = start + int(np.prod(image))
        pixels = self._memory[start:stop].reshape(image)
        if not with_mask:
            return DecodedExample(pixels, None)
        return DecodedExample(pixels, self._memory[stop : stop + int(np.prod(mask))].reshape(mask))

    def _order_memory(self) -> None:
        """Keep the processor from exchanging accesses to the header and to the image; a lock does so."""
        with self._fence:
            pass
