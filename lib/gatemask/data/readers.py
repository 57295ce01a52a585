"""Read images and masks from files, the same way in training and in inference.

What a file is follows from its content, not its suffix. Pixels are used as they are stored: masks and run-length
encodings are made from stored pixels, so a rotation noted in EXIF or TIFF tags is only applied on request.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from gatemask.data.dicom import is_dicom, read_dicom, read_tags
from gatemask.data.headers import TIFF
from gatemask.data.listing import list_images
from gatemask.data.mask_files import MaskFacts, interpret_mask
from gatemask.data.mask_values import stored_shares, stored_values
from gatemask.data.pictures import decode_picture
from gatemask.data.stored import ImageFacts, StoredImage, Window, facts_of, show, turn_upright
from gatemask.data.tiff import decode_tiff
from gatemask.errors import GatemaskError
from gatemask.storage import raise_machine_fault

__all__ = [
    "Window",
    "inspect_image",
    "inspect_mask",
    "list_images",
    "read_image",
    "read_mask",
    "read_mask_values",
    "read_stored",
    "read_tags",
]

Read = TypeVar("Read")


def read_image(path: Path, channels: int, window: Window = "full", upright: bool = False) -> np.ndarray:
    """Read one image.

    Args:
        path: PNG, JPEG, TIFF, DICOM, BMP, GIF or WebP file.
        channels: 1 or 3; gray is repeated for 3.
        window: Gray levels that become 0 to 255: "full" for the whole range of the file's bits, "file" for the DICOM's
            own VOI LUT or window, (center, width) for a window in rescaled units (DICOM PS3.3 C.11.2.1.2), or
            percentiles of the file's own pixels. Default: "full".
        upright: Whether to rotate as the file's orientation says. Default: False, pixels as stored.

    Returns:
        uint8 (height, width, channels); 3 channels are red, green, blue.

    Raises:
        GatemaskError: The file is not an image, is cut short, has several frames, has color instead of gray (DICOM),
            or holds what cannot be understood.
    """
    return inspect_image(path, channels, window, upright)[0]


def inspect_image(
    path: Path, channels: int, window: Window = "full", upright: bool = False
) -> tuple[np.ndarray, ImageFacts]:
    """Read one image as `read_image` does, and return facts about its file, too."""
    try:
        image, facts = _read(path, channels, window)
    except GatemaskError:
        raise
    except Exception as error:  # pydicom and its decoders raise almost anything on a damaged file
        raise_machine_fault(error, path)
        raise _unreadable(path, error) from None
    if upright:
        image = turn_upright(image, facts.orientation)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim == 3 and image.shape[2] == 1 and channels == 3:
        image = np.repeat(image, 3, axis=2)
    if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
        raise GatemaskError(
            "An image has the wrong number of channels or bits.",
            where=path,
            received=f"{image.dtype} {image.shape}",
            expected=f"one frame of {channels} channel(s), 8 or 16 bits",
        )
    return np.ascontiguousarray(image), facts


def _read(path: Path, channels: int, window: Window) -> tuple[np.ndarray, ImageFacts]:
    data = path.read_bytes()
    if is_dicom(data, path):
        return read_dicom(data, path, window)
    stored = _decode(data, path, channels)
    return show(stored, channels, window, path), facts_of(stored)


def _decode(data: bytes, path: Path, channels: int | None = None) -> StoredImage:
    return decode_tiff(data, path) if data.startswith(TIFF) else decode_picture(data, path, channels)


def _unreadable(path: Path, error: Exception) -> GatemaskError:
    first = str(error).splitlines()[0] if str(error) else ""
    return GatemaskError(
        "An image cannot be read.",
        where=path,
        received=f"{type(error).__name__}: {first}",
        do="Download the file again, or leave it out.",
    )


def read_stored(path: Path) -> StoredImage:
    """Return the pixels of a picture file, DICOM excepted, as they are stored."""
    return _decode(path.read_bytes(), path)


def read_mask(path: Path, threshold: int | None = None, upright: bool = False) -> np.ndarray:
    """Read a mask from an image file.

    Args:
        path: PNG, JPEG, TIFF or other image file.
        threshold: Value above which a pixel of any color belongs to the mask; values are taken unscaled. Default: the
            only value above 0, or else half of the file's range.
        upright: Whether to rotate as the file's orientation says. Default: False, pixels as stored.

    Returns:
        bool (height, width).

    Raises:
        GatemaskError: The file cannot be read, or it is not clear which of its pixels are mask.
    """
    mask, facts = inspect_mask(path, threshold, upright)
    if facts.doubt:
        raise facts.error(path)
    return mask


def inspect_mask(path: Path, threshold: int | None = None, upright: bool = False) -> tuple[np.ndarray, MaskFacts]:
    """Read a mask as `read_mask` does, and return facts about its file; doubts are among them, and not raised."""
    (mask, facts), orientation = _read_mask_file(path, lambda stored: interpret_mask(stored, threshold, path))
    return turn_upright(mask, orientation) if upright else mask, facts


def read_mask_values(path: Path, upright: bool = False) -> np.ndarray:
    """Read a mask file whose values have a meaning: classes, numbers of objects, or pixels to ignore.

    Args:
        path: PNG, TIFF or other image file without loss.
        upright: Whether to rotate as the file's orientation says. Default: False, pixels as stored.

    Returns:
        int32 (height, width): gray levels, or entries of the palette.

    Raises:
        GatemaskError: The file cannot be read, or holds colors, fractions or negative numbers.
    """
    values, orientation = _read_mask_file(path, lambda stored: stored_values(stored, path))
    return turn_upright(values, orientation) if upright else values


def read_mask_shares(path: Path, upright: bool = False) -> np.ndarray:
    """Read a soft mask file.

    Args:
        path: PNG, TIFF or other image file.
        upright: Whether to rotate as the file's orientation says. Default: False, pixels as stored.

    Returns:
        float32 (height, width): gray values as they are stored, finite, none below 0.

    Raises:
        GatemaskError: The file cannot be read, or holds colors or negative numbers.
    """
    values, orientation = _read_mask_file(path, lambda stored: stored_shares(stored, path))
    return turn_upright(values, orientation) if upright else values


def _read_mask_file(path: Path, interpret: Callable[[StoredImage], Read]) -> tuple[Read, int]:
    """Return what a function makes of a mask file, and the file's orientation."""
    try:
        data = path.read_bytes()
        if is_dicom(data, path):
            raise GatemaskError("A mask is a DICOM file.", where=path, expected="PNG, or another image file")
        stored = _decode(data, path)
        return interpret(stored), stored.orientation
    except GatemaskError:
        raise
    except Exception as error:  # decoders raise almost anything on a damaged file
        raise_machine_fault(error, path)
        raise _unreadable(path, error) from None
