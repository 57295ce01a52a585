"""Decode picture files other than TIFF as they are stored: PNG and JPEG through OpenCV, others through Pillow.

Each decoder's output is checked against the file's own header, and nothing is rotated.
"""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from gatemask.data.headers import JPEG, ORIENTATION, PNG, Header, jpeg_header, png_header
from gatemask.data.stored import StoredImage
from gatemask.errors import GatemaskError

if TYPE_CHECKING:
    from PIL import Image

BYTE, WORD = (0.0, 255.0), (0.0, 65535.0)
# A damaged header may claim any size: larger pictures need as many bytes as their compression takes at best.
SOME_PIXELS = 1 << 26
PIXELS_PER_BYTE = 1 << 14
GIF_PIXELS = 4096  # per byte: LZW codes of up to 12 bits cannot stand for more
# As stored: EXIF rotation would turn images, but not their masks.
AS_STORED = cv2.IMREAD_UNCHANGED
LOSSY = ("JPEG", "WEBP", "JPEG2000", "MPO")
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP")  # others may hold layers or several sizes


def decode_picture(data: bytes, where: Path, channels: int | None = None) -> StoredImage:
    """Decode a picture file other than TIFF.

    Args:
        data: Contents of the file.
        where: The file, for errors.
        channels: 1 allows gray instead of color, which is faster to decode. Default: color as stored.

    Raises:
        GatemaskError: The file is not a picture, is cut short, has several frames, or holds what cannot be understood.
    """
    if data.startswith((PNG, JPEG)):
        try:
            header = png_header(data) if data.startswith(PNG) else jpeg_header(data)
        except struct.error:
            raise truncated(where, len(data)) from None
        if not header.complete:
            raise truncated(where, len(data))
        require_one_frame(header.frames, where)
        require_plausible(header.height, header.width, data, where)
        ink = header.samples == 4 and data.startswith(JPEG)
        if ink and not header.adobe:
            raise GatemaskError(
                "A JPEG file of four inks does not say whether it stores ink or its complement.",
                where=where,
                received="4 channels without Adobe's marker",
                expected="gray or color",
                do="Convert the file to RGB.",
            )
        if not header.palette and not ink:
            return _decode_with_opencv(data, header, where, channels)
    return _decode_with_pillow(data, where)


def _decode_with_opencv(data: bytes, header: Header, where: Path, channels: int | None) -> StoredImage:
    flags = AS_STORED
    if channels == 1 and not header.transparency:
        flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise damaged(where, f"{header.bits} bits in {header.samples} channels, {len(data)} bytes that do not decode")
    expected = np.uint16 if header.bits == 16 else np.uint8
    if pixels.shape[:2] != (header.height, header.width) or pixels.dtype != expected:
        raise mismatch(where, f"{pixels.dtype} {pixels.shape}", f"{expected.__name__} {header.height, header.width}")
    alpha = pixels[:, :, 3] if pixels.ndim == 3 and pixels.shape[2] == 4 else None
    if pixels.ndim == 3:
        gray = header.samples <= 2  # with transparency, OpenCV decodes gray to color
        pixels = pixels[:, :, 0] if gray else cv2.cvtColor(pixels[:, :, :3], cv2.COLOR_BGR2RGB)
    limits = WORD if header.bits == 16 else BYTE
    return StoredImage(pixels, limits, alpha, limits[1], orientation=header.orientation, lossy=data.startswith(JPEG))


def _decode_with_pillow(data: bytes, where: Path) -> StoredImage:
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # `require_plausible` is the limit
    warnings.filterwarnings("ignore", module="PIL")  # odd metadata is common and harmless
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            kind = image.format
            require_plausible(image.height, image.width, data, where, gif=kind == "GIF")
            require_one_frame(1 if kind == "MPO" else getattr(image, "n_frames", 1), where)
            image.load()
            stored = from_pillow(image, where)
            orientation = int(image.getexif().get(ORIENTATION, 1))
    except UnidentifiedImageError:
        raise GatemaskError(
            "An image cannot be read.",
            where=where,
            received=f"{len(data)} bytes of an unknown kind",
            expected="PNG, JPEG, TIFF, DICOM, BMP, GIF, WebP, JPEG 2000 or PNM",
            do="Download the file again, or convert it.",
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise damaged(where, str(error)) from None
    orientation = orientation if 1 <= orientation <= 8 else 1
    return StoredImage(
        stored.pixels, stored.limits, stored.alpha, stored.opaque, stored.indices, orientation, kind in LOSSY
    )


def from_pillow(image: Image.Image, where: Path) -> StoredImage:
    """Return a loaded Pillow image as it is stored.

    Args:
        image: Image with one frame.
        where: The file, for errors.

    Raises:
        GatemaskError: The kind of pixels is not supported.
    """
    mode, array = image.mode, np.asarray(image)
    if array.shape[:2] != (image.height, image.width):
        raise mismatch(where, str(array.shape), str((image.height, image.width)))
    if mode in ("1", "L", "RGB"):
        key = image.info.get("transparency")  # one gray level or color that is transparent
        visible = (
            None if key is None or isinstance(key, bytes) else (array != np.array(key)).reshape(*array.shape[:2], -1)
        )
        alpha = None if visible is None else visible.any(axis=2) * np.uint8(255)
        return StoredImage(array * np.uint8(255) if mode == "1" else array, BYTE, alpha)
    if mode in ("LA", "RGBA"):
        return StoredImage(array[:, :, 0] if mode == "LA" else array[:, :, :3], BYTE, array[:, :, -1])
    if mode == "P":
        rgba = np.asarray(image.convert("RGBA"))
        alpha = rgba[:, :, 3] if "transparency" in image.info else None
        return StoredImage(gray_if_equal(rgba[:, :, :3]), BYTE, alpha, indices=array)
    if mode == "CMYK":
        return StoredImage(np.asarray(image.convert("RGB")), BYTE)
    if mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        return StoredImage(array.astype(np.uint16), WORD)
    if mode == "I" and image.format == "PPM":  # a PGM file of 16 bits, scaled by Pillow
        return StoredImage(array.astype(np.uint16), WORD)
    raise GatemaskError(
        "Unsupported kind of pixels.",
        where=where,
        received=f"{image.format} of mode {mode}",
        expected="gray, color, a palette or CMYK with 8 bits, or gray with 16 bits",
        do="Convert the file to PNG.",
    )


def gray_if_equal(colors: np.ndarray) -> np.ndarray:
    """Return (height, width) if red, green and blue are equal everywhere, else the colors."""
    gray = colors[:, :, 0]
    return gray if (colors == gray[:, :, None]).all() else colors


def require_one_frame(frames: int, where: Path) -> None:
    """Raise if a file has several frames, of which one would be chosen silently."""
    if frames != 1:
        raise GatemaskError(
            "An image has several frames or pages.",
            where=where,
            received=frames,
            expected=1,
            do="Save each frame as a file of its own.",
        )


def require_plausible(height: int, width: int, data: bytes, where: Path, gif: bool = False) -> None:
    """Raise if a file is too short for the size that its header claims, before memory is taken for it."""
    most = GIF_PIXELS * len(data) if gif else max(SOME_PIXELS, PIXELS_PER_BYTE * len(data))
    if height * width > most:
        raise damaged(where, f"{height} x {width} pixels in {len(data)} bytes")


def truncated(where: Path, length: int) -> GatemaskError:
    return damaged(where, f"{length} bytes, cut short")


def damaged(where: Path, received: str) -> GatemaskError:
    return GatemaskError(
        "An image cannot be read.",
        where=where,
        received=received.splitlines()[0] if received else "",
        do="Download the file again, or leave it out.",
    )


def mismatch(where: Path, received: str, expected: str) -> GatemaskError:
    return GatemaskError(
        "The decoded image differs from the header of its file.",
        where=where,
        received=received,
        expected=expected,
        do="Convert the file to PNG.",
    )
