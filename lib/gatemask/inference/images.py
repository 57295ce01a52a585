"""Test images, each decoded once for all members, by threads that stay a little ahead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gatemask.console import say
from gatemask.data.readers import Window, read_image, resize_image
from gatemask.errors import GatemaskError
from gatemask.parallel import ordered_map

GREY = 128
Look = tuple[int, int]  # the records' size, by way of which training saw its images, and the network's own


@dataclass
class Image:
    """A decoded image, uint8 (size, size, channels) at each size of records, and how networks of each size see it.

    Not at its own size: that may be large, and some hundred images wait in memory.
    """

    image_id: str
    records: dict[int, np.ndarray]
    readable: bool = True
    seen: dict[Look, np.ndarray] = field(default_factory=dict)

    def look(self, look: Look) -> np.ndarray:
        """uint8 (size, size, channels)."""
        if look not in self.seen:
            records, size = look
            self.seen[look] = resize_image(self.records[records], size)
        return self.seen[look]


class Images:
    """Test images by id; one that cannot be read is grey, and remembered.

    Args:
        files: by id.
        channels: of every image.
        window: which grey levels become 0 to 255.
        size: height and width that the competition promises.

    Attributes:
        unreadable: why, by id.
        odd: how many are of another size.
    """

    def __init__(self, files: Mapping[str, Path], channels: int, window: Window, size: Sequence[int]) -> None:
        self._files, self._channels, self._size = files, channels, tuple(size)
        self._window: Window = window if isinstance(window, str) else (window[0], window[1])  # YAML has no tuples
        self.unreadable: dict[str, str] = {}
        self.odd = 0

    def stream(
        self, ids: Sequence[str], looks: Sequence[Look], records: Collection[int], pool: ThreadPoolExecutor, ahead: int
    ) -> Iterator[Image]:
        """The images in order; at most `ahead` wait in memory.

        Args:
            ids: of the images.
            looks: that every image is asked for; made by the threads.
            records: sizes from which any look is made.
            pool: of the threads.
            ahead: images.
        """
        return ordered_map(pool, lambda image_id: self._load(image_id, looks, records), ids, ahead)

    def _load(self, image_id: str, looks: Sequence[Look], records: Collection[int]) -> Image:
        pixels = self._read(image_id)
        image = Image(image_id, {size: resize_image(pixels, size) for size in records}, image_id not in self.unreadable)
        for look in looks:
            image.look(look)
        return image

    def _read(self, image_id: str) -> np.ndarray:
        try:
            if image_id not in self._files:
                raise GatemaskError("A test image is missing.", received=image_id)
            pixels = read_image(self._files[image_id], self._channels, self._window)
        except GatemaskError as error:
            say(f"{error}\n  its mask stays empty")
            self.unreadable[image_id] = error.short()
            return np.full((1, 1, self._channels), GREY, np.uint8)
        self.odd += pixels.shape[:2] != self._size
        return pixels


def stack(images: Sequence[Image], look: Look) -> np.ndarray:
    """uint8 (n, size, size, channels)."""
    return np.stack([image.look(look) for image in images])
