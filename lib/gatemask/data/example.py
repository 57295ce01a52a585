"""Encoded examples: what a record holds, in memory or on disk."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gatemask.masks.tiling import Origin


class EncodedExample(Protocol):
    """An encoded image with its mask, in memory or on disk; see `Example` for the attributes."""

    @property
    def image_id(self) -> str: ...
    @property
    def image(self) -> bytes: ...
    @property
    def mask(self) -> bytes: ...
    @property
    def label(self) -> int: ...
    @property
    def origin(self) -> Origin | None: ...
    @property
    def key(self) -> object:
        """What identifies image and mask by their contents."""


class Example(NamedTuple):
    """An image, or a tile of it, as a record holds it.

    Args:
        image_id: Id of the image.
        image: JPEG or PNG; of other than 1 or 3 channels, a gray PNG with the channels one below the other.
        mask: Gray PNG, 0 or 255, or shares of 255 if masks are soft, with the planes one below the other: classes,
            borders, ignored pixels.
        label: Sum of 2 ** c over the classes c that are present: 1 or 0 for one class.
        origin: Position of the tile in the scaled image. Default: the record holds the whole image.
    """

    image_id: str
    image: bytes
    mask: bytes
    label: int
    origin: Origin | None = None

    @property
    def key(self) -> object:
        """What identifies image and mask by their contents."""
        return self.image, self.mask
