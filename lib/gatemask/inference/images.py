"""Decode test images once for all members, in threads that stay a little ahead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Picture
from gatemask.console import say
from gatemask.data.readers import read_image, resize_image
from gatemask.errors import GatemaskError
from gatemask.parallel import ordered_map

GRAY = 128  # of an image that cannot be read


class InputSize(NamedTuple):
    """How a network sees an image: resized to the records' size first, as in training, then to its input size.

    Args:
        records: Size of the records it was trained on, in pixels.
        input: Input size of the network, in pixels.
    """

    records: int
    input: int


@dataclass
class DecodedImage:
    """A decoded test image.

    It is not kept at its own size, which may be large: a few hundred images wait in memory.

    Args:
        image_id: Id of the image.
        records: uint8 (size, size, channels) by size of records.
        readable: Whether the image could be read. Default: True.
        inputs: uint8 (size, size, channels) by input size, filled on demand.
    """

    image_id: str
    records: dict[int, np.ndarray]
    readable: bool = True
    inputs: dict[InputSize, np.ndarray] = field(default_factory=dict)

    def resized(self, size: InputSize) -> np.ndarray:
        """Return the image as a network sees it, uint8 (size, size, channels)."""
        if size not in self.inputs:
            self.inputs[size] = resize_image(self.records[size.records], size.input)
        return self.inputs[size]


class TestImageReader:
    """Reader of test images. An image that cannot be read becomes gray, and is reported.

    Args:
        files: Paths by image id.
        picture: Size, channels and gray levels of the competition's images.

    Attributes:
        unreadable: Reasons by image id.
        odd_sizes: Number of images of another size than the competition's.
    """

    __test__ = False  # pytest takes it for a test class

    def __init__(self, files: Mapping[str, Path], picture: Picture) -> None:
        self._files, self._picture = files, picture
        self.unreadable: dict[str, str] = {}
        self.odd_sizes = 0

    def stream(
        self,
        ids: Sequence[str],
        sizes: Sequence[InputSize],
        records: Collection[int],
        pool: ThreadPoolExecutor,
        ahead: int,
    ) -> Iterator[DecodedImage]:
        """Yield the images in order.

        Args:
            ids: Ids of the images.
            sizes: Input sizes that every image needs; the threads prepare them.
            records: Sizes of records from which other input sizes are made.
            pool: Threads that decode.
            ahead: Maximum number of images that wait in memory.
        """
        return ordered_map(pool, lambda image_id: self._load(image_id, sizes, records), ids, ahead)

    def _load(self, image_id: str, sizes: Sequence[InputSize], records: Collection[int]) -> DecodedImage:
        pixels = self._read(image_id)
        resized = {size: resize_image(pixels, size) for size in records}
        image = DecodedImage(image_id, resized, image_id not in self.unreadable)
        for size in sizes:
            image.resized(size)
        return image

    def _read(self, image_id: str) -> np.ndarray:
        try:
            if image_id not in self._files:
                raise GatemaskError("A test image is missing.", received=image_id)
            pixels = read_image(
                self._files[image_id], self._picture.channels, self._picture.window, self._picture.upright
            )
        except GatemaskError as error:
            say(f"{error}\n  its mask stays empty")
            self.unreadable[image_id] = error.short()
            return np.full((1, 1, self._picture.channels), GRAY, np.uint8)
        self.odd_sizes += pixels.shape[:2] != self._picture.size
        return pixels


def stack_images(images: Sequence[DecodedImage], size: InputSize) -> np.ndarray:
    """Return a batch, uint8 (images, size, size, channels)."""
    return np.stack([image.resized(size) for image in images])
