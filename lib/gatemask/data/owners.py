"""An image file with its id, and the images to which files of other patterns belong: masks, further channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from gatemask.config.path_patterns import part_names, path_pattern
from gatemask.data.ids import IdRule, normalize, without_extension
from gatemask.data.sources import ImageSource


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Args:
        path: The file.
        name: Path below the raw folder, with forward slashes.
        image_id: Its id.
        rule: How ids of its split are made.
        others: Where its channels are, if it has several files. Default: it is the only file.
    """

    path: Path
    name: str
    image_id: str
    rule: IdRule
    others: ImageSource | None = field(default=None, compare=False)

    @property
    def source(self) -> ImageSource:
        """All files of the image."""
        return self.others or ImageSource(self.image_id, (self.path,))

    @cached_property
    def parts(self) -> dict[str, str]:
        """Named parts of the path, with id and stem."""
        return self.rule.parts(self.name)


class MaskOwners:
    """The images to which files of another pattern may belong: masks, or further channels.

    Args:
        pattern: Glob of the masks, with {id} or named parts.
        images: All images that may own a mask.

    Raises:
        GatemaskError: The pattern does not tell two images apart.
    """

    def __init__(self, pattern: str, images: Sequence[ImageFile]) -> None:
        self.pattern = pattern
        self._names = part_names(pattern)
        self._images: dict[tuple[str, ...], list[ImageFile]] = {}
        for image in images:
            self._images.setdefault(tuple(image.parts.get(name, "") for name in self._names), []).append(image)
        self._known = {name: {key[place] for key in self._images} for place, name in enumerate(self._names)}

    def all(self, mask: str) -> list[ImageFile]:
        """Return all images whose pattern a mask file fits, the one with the longest name first.

        Args:
            mask: Path of the mask below the raw folder.
        """
        found: dict[tuple[str, ...], None] = {}
        for parts in path_pattern(self.pattern).bindings(normalize(mask), self._is_known):
            found[tuple(without_extension(parts[name]) for name in self._names)] = None
        keys = sorted((key for key in found if key in self._images), key=lambda key: -sum(map(len, key)))
        return [image for key in keys for image in self._images[key]]

    def of(self, mask: str) -> list[ImageFile]:
        """Return the owners of a mask: of ids that contain each other, the longest; several where none is longest."""
        images = self.all(mask)
        if not images:
            return []
        longest = self._length(images[0])
        return [image for image in images if self._length(image) == longest]

    def _is_known(self, name: str, text: str) -> bool:
        return without_extension(text) in self._known[name]

    def _length(self, image: ImageFile) -> int:
        return sum(len(image.parts.get(name, "")) for name in self._names)
