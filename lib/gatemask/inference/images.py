"""Decode test images once for all members, in threads that stay a little ahead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gatemask.config import Picture, Tiles
from gatemask.console import say
from gatemask.data.sources import ImageSource, read_source
from gatemask.errors import GatemaskError
from gatemask.masks.frame import Frame, fit_image, resize
from gatemask.masks.tiling import scale_image
from gatemask.parallel import ordered_map
from gatemask.results.ensemble import ShippedMember

GRAY = 128  # of an image that cannot be read
DECODED_AHEAD = 64 << 20  # bytes of a large image up to which the next one is decoded meanwhile

Shape = tuple[int, int]


class InputSize(NamedTuple):
    """How a network sees an image: fitted into the records' size first, as in training, then at its input size.

    Args:
        records: Height and width of the records it was trained on, in pixels.
        input: Height and width of the network's input, in pixels.
    """

    records: Shape
    input: Shape

    @classmethod
    def of(cls, member: ShippedMember) -> InputSize:
        """Return how a member sees an image."""
        return cls(member.records_shape, member.input_shape)


@dataclass
class DecodedImage:
    """A decoded test image, or a tile of one.

    Without tiles it is not kept at its own size, which may be large: a few hundred images wait in memory.

    Args:
        image_id: Id of the image.
        records: uint8 (height, width, channels) by size of records.
        readable: Whether the image could be read. Default: True.
        size: Height and width of the image itself, in pixels; of a tile, none is needed.
        scaled: The whole image, uint8 (height, width, channels), scaled for tiles. Default: none.
        inputs: uint8 (height, width, channels) by input size, filled on demand.
    """

    image_id: str
    records: dict[Shape, np.ndarray]
    readable: bool = True
    size: Shape = (1, 1)
    scaled: np.ndarray | None = None
    inputs: dict[InputSize, np.ndarray] = field(default_factory=dict)

    def resized(self, size: InputSize) -> np.ndarray:
        """Return the image as a network sees it, uint8 (height, width, channels)."""
        if size not in self.inputs:
            self.inputs[size] = resize(self.records[size.records], size.input)
        return self.inputs[size]


class TestImageReader:
    """Reader of test images. An image that cannot be read becomes gray, and is reported.

    Args:
        sources: Files by image id.
        picture: Size, channels and gray levels of the competition's images.
        tiles: How large images are cut. Default: not at all.

    Attributes:
        unreadable: Reasons by image id.
        odd_sizes: Number of images of another size than the competition's.
        sizes: Height and width by image id, of the images read so far.
    """

    __test__ = False  # pytest takes it for a test class

    def __init__(self, sources: Mapping[str, ImageSource], picture: Picture, tiles: Tiles | None = None) -> None:
        self._sources, self._picture, self._tiles = sources, picture, tiles
        self.unreadable: dict[str, str] = {}
        self.odd_sizes = 0
        self.sizes: dict[str, Shape] = {}

    def stream(
        self,
        ids: Sequence[str],
        sizes: Sequence[InputSize],
        records: Collection[Shape],
        pool: ThreadPoolExecutor,
        ahead: int,
    ) -> Iterator[DecodedImage]:
        """Yield the images in order.

        Args:
            ids: Ids of the images.
            sizes: Input sizes that every image needs; the threads prepare them.
            records: Sizes of records from which other input sizes are made.
            pool: Threads that decode.
            ahead: Maximum number of images that wait in memory; with tiles, it is one at most.
        """
        if self._tiles is not None:
            return self._stream_whole(ids, pool)
        return ordered_map(pool, lambda image_id: self._load(image_id, sizes, records), ids, ahead)

    def _stream_whole(self, ids: Sequence[str], pool: ThreadPoolExecutor) -> Iterator[DecodedImage]:
        """Yield scaled images; while a small one is predicted, the next one is decoded."""
        waiting: Future[DecodedImage] | None = None
        for place, image_id in enumerate(ids):
            image = waiting.result() if waiting is not None else self._load_whole(image_id)
            waiting = None
            if place + 1 < len(ids) and image.scaled is not None and image.scaled.nbytes <= DECODED_AHEAD:
                waiting = pool.submit(self._load_whole, ids[place + 1])
            yield image
            del image  # before the next one is decoded

    def _load_whole(self, image_id: str) -> DecodedImage:
        assert self._tiles is not None
        pixels = self._read(image_id)
        size = pixels.shape[:2]
        return DecodedImage(image_id, {}, image_id not in self.unreadable, size, scale_image(pixels, self._tiles))

    def _load(self, image_id: str, sizes: Sequence[InputSize], records: Collection[Shape]) -> DecodedImage:
        pixels = self._read(image_id)
        resized = {size: fit_image(pixels, Frame(size, self._picture.fit)) for size in records}
        image = DecodedImage(image_id, resized, image_id not in self.unreadable, pixels.shape[:2])
        for size in sizes:
            image.resized(size)
        return image

    def size(self, image_id: str) -> Shape:
        """Return the height and width of an image; 1 and 1 if it cannot be read."""
        if image_id not in self.sizes and image_id not in self.unreadable:
            self._read(image_id)
        return self.sizes.get(image_id, (1, 1))

    def _read(self, image_id: str) -> np.ndarray:
        try:
            if image_id not in self._sources:
                raise GatemaskError("A test image is missing.", received=image_id)
            pixels = read_source(self._sources[image_id], self._picture)
        except GatemaskError as error:
            say(f"{error}\n  its mask stays empty")
            self.unreadable[image_id] = error.short()
            return np.full((1, 1, self._picture.channels), GRAY, np.uint8)
        size = pixels.shape[:2]
        if image_id in self.sizes:  # read before
            return pixels
        self.sizes[image_id] = size
        self.odd_sizes += self._picture.size not in ("mixed", size)
        return pixels


class FileSizes(Mapping[str, Shape]):
    """Height and width of test images, by id; those that have not been read yet are read for it.

    Args:
        reader: The reader. An image that it cannot read counts as one pixel.
    """

    def __init__(self, reader: TestImageReader) -> None:
        self._reader = reader

    def __getitem__(self, image_id: str) -> Shape:
        return self._reader.size(image_id)

    def __contains__(self, image_id: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.sizes)

    def __len__(self) -> int:
        return len(self._reader.sizes)


def stack_images(images: Sequence[DecodedImage], size: InputSize) -> np.ndarray:
    """Return a batch, uint8 (images, height, width, channels)."""
    return np.stack([image.resized(size) for image in images])
