"""The files of one image, and the only way to read them: in the manifest's scan, for records, and in the kernel.

Most images are one file. Others have some of their channels in each of several files, or neighboring slices as
channels.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Picture
from gatemask.data.readers import inspect_image
from gatemask.data.stored import ImageFacts, Window
from gatemask.errors import GatemaskError

SLICES = 32  # slices of stacks that stay in memory


class ImageSource(NamedTuple):
    """Where the channels of an image are.

    Args:
        image_id: Id of the image.
        files: Files in the order of the channels; those of a stack may repeat.
        channels: Channels of each file, 1 or 3. Default: one file with all channels.
        own: Position of the image's own slice in a stack. Default: 0.
        stacked: Whether the files are slices of a stack. Default: False.
        fault: Why the image has no complete set of files. Default: it has.
    """

    image_id: str
    files: tuple[Path, ...]
    channels: tuple[int, ...] = ()
    own: int = 0
    stacked: bool = False
    fault: str = ""

    @property
    def own_files(self) -> tuple[Path, ...]:
        """The files that show this image and no neighbor of it."""
        return (self.files[self.own],) if self.stacked else self.files


def read_source(source: ImageSource, picture: Picture) -> np.ndarray:
    """Read an image with all its channels.

    Args:
        source: Files of the image.
        picture: Section `image` of competition.yaml.

    Returns:
        uint8 (height, width, channels); files of 3 channels are red, green, blue.

    Raises:
        GatemaskError: A file is missing or cannot be read, or the files differ in size.
    """
    return inspect_source(source, picture)[0]


def inspect_source(source: ImageSource, picture: Picture) -> tuple[np.ndarray, ImageFacts]:
    """Read an image as `read_source` does, and return facts about its files, too."""
    if source.fault:
        raise GatemaskError(
            "An image needs exactly one file for each of its channels.",
            where=source.files[source.own],
            received=source.fault,
            do="Restore the file, leave the image out, or correct 'images' in competition.yaml.",
        )
    if len(source.files) == 1:
        return inspect_image(source.files[0], picture.channels, picture.window, picture.upright)
    read: dict[Path, tuple[np.ndarray, ImageFacts]] = {}
    for path, channels in zip(source.files, source.channels, strict=True):
        if path not in read:  # the ends of a stack repeat
            changed = _require_file(path, source)
            inspect = _inspect_slice if source.stacked else _inspect_file
            read[path] = inspect(path, channels, picture.window, picture.upright, changed)
    first = source.files[source.own]
    size = read[first][0].shape[:2]
    for path, (pixels, _) in read.items():
        if pixels.shape[:2] != size:
            raise GatemaskError(
                "The files of an image differ in size.",
                where=path,
                received=f"{pixels.shape[0]} x {pixels.shape[1]} in {path.name}",
                expected=f"{size[0]} x {size[1]}, as in {first.name}",
                do="Resize or replace one of them, or leave the image out.",
            )
    image = np.concatenate([read[path][0] for path in source.files], axis=2)
    return image, _combined([facts for _, facts in read.values()])


def own_pixels(pixels: np.ndarray, source: ImageSource) -> np.ndarray:
    """Return one or three channels that represent an image, by which copies are recognized.

    Args:
        pixels: uint8 (height, width, channels).
        source: Files of the image.
    """
    if source.stacked:
        return np.ascontiguousarray(pixels[:, :, source.own : source.own + 1])
    if pixels.shape[2] in (1, 3):
        return pixels
    return (pixels.sum(axis=2, dtype=np.uint16, keepdims=True) // pixels.shape[2]).astype(np.uint8)


def _inspect_file(
    path: Path, channels: int, window: Window, upright: bool, changed: int
) -> tuple[np.ndarray, ImageFacts]:
    """Read a file; `changed` is its modification time."""
    return inspect_image(path, channels, window, upright)


_inspect_slice = lru_cache(maxsize=SLICES)(_inspect_file)  # its neighbors, which are read next, need it as well


def _require_file(path: Path, source: ImageSource) -> int:
    """Return the modification time of a file, in nanoseconds."""
    if not path.is_file():
        raise GatemaskError(
            "A file of an image does not exist.",
            where=path,
            received=f"no file for {source.image_id}, whose own file is {source.files[source.own]}",
            expected=f"{len(set(source.files))} files",
            do="Restore it, or run gatemask data prepare again.",
        )
    return path.stat().st_mtime_ns


def _combined(facts: list[ImageFacts]) -> ImageFacts:
    """Return facts that hold for several files together."""
    limits = [fact.limits for fact in facts if fact.limits is not None]
    return ImageFacts(
        (min(low for low, _ in limits), max(high for _, high in limits)) if len(limits) == len(facts) else None,
        min(fact.lowest for fact in facts),
        max(fact.highest for fact in facts),
        next((fact.orientation for fact in facts if fact.orientation != 1), 1),
        any(fact.transparent for fact in facts),
    )
