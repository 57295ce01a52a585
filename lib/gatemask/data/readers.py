"""Images from files: DICOM through pydicom, everything else through OpenCV, all as uint8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from gatemask.errors import GatemaskError


def list_images(root: Path, pattern: str) -> Iterator[Path]:
    """The files that `pattern` (a glob below `root`) names, sorted; without AppleDouble junk (`._name`)."""
    if Path(pattern).is_absolute():
        raise GatemaskError("A pattern of images is absolute.", received=pattern, expected="one below the raw folder")
    return (p for p in sorted(root.glob(pattern)) if p.is_file() and not p.name.startswith("._"))


def read_image(path: Path, channels: int) -> np.ndarray:
    """One image, uint8, (height, width, channels); 3 channels are red, green, blue.

    Raises:
        GatemaskError: not an image, or cut short.
    """
    try:
        image = _read_dicom(path) if path.suffix.lower() in (".dcm", ".dicom") else _read_picture(path, channels)
    except GatemaskError:
        raise
    except Exception as error:  # pydicom and its decoders raise almost anything on a damaged file
        raise GatemaskError(
            "An image cannot be read.",
            where=path,
            received=f"{type(error).__name__}: {error}",
            do="Fetch the file again, or leave it out.",
        ) from None
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim == 3 and image.shape[2] == 1 and channels == 3:
        image = np.repeat(image, 3, axis=2)
    if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
        raise GatemaskError(
            "An image is of another kind.",
            where=path,
            received=f"{image.dtype} {image.shape}",
            expected=f"one frame of {channels} channel(s), 8 or 16 bits",
        )
    return np.ascontiguousarray(image)


def read_mask(path: Path, threshold: int = 0) -> np.ndarray:
    """A mask drawn as a picture: bool (height, width), true where any colour is above `threshold`.

    Values are taken as they stand, so that instance numbers of 16 bits count too; transparency does not.
    """
    mask = _decode(path, cv2.IMREAD_UNCHANGED)
    return mask > threshold if mask.ndim == 2 else mask[:, :, :3].max(axis=2) > threshold


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """A square of `size` pixels, uint8 (size, size, channels); averages when it shrinks."""
    if image.shape[:2] == (size, size):
        return image
    shrinks = size < min(image.shape[:2])
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(size, size, image.shape[2])


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask as a square of `size` pixels, uint8 0 or 1: at least half of a new pixel must have been mask."""
    small = resize_image(mask.astype(np.uint8)[:, :, None] * 255, size)
    return (small[:, :, 0] >= 128).astype(np.uint8)


def perceptual_hash(image: np.ndarray) -> str:
    """64 bits as 16 hex digits that change little when an image is recompressed or resized.

    The signs, against their median, of the 8 x 8 lowest frequencies of a 32 x 32 cosine transform
    (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", pHash).
    """
    grey = image.mean(axis=2).astype(np.float32)
    low = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA))[:8, :8].ravel()
    return np.packbits(low > np.median(low)).tobytes().hex()


def _read_picture(path: Path, channels: int) -> np.ndarray:
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    image = _decode(path, flag | cv2.IMREAD_ANYDEPTH)
    return (image // 257).astype(np.uint8) if image.dtype == np.uint16 else image


def _decode(path: Path, flags: int) -> np.ndarray:
    # Through memory, since cv2.imread answers a missing and a damaged file alike, with None.
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, flags) if len(data) else None
    if image is None:
        raise GatemaskError(
            "An image cannot be read.",
            where=path,
            received=f"{len(data)} bytes that are no picture",
            expected="PNG, JPEG, TIFF or DICOM",
            do="Fetch the file again, or leave it out.",
        )
    return image


def _read_dicom(path: Path) -> np.ndarray:
    import pydicom

    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array
    if dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
        top = (1 << int(dataset.BitsStored)) - 1
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            pixels = top - pixels
        if top > 255:
            pixels = np.clip(pixels.astype(np.float32) * (255.0 / top), 0, 255).round()
    return pixels.astype(np.uint8)


def read_tag(path: Path, tag: str) -> str:
    """The value of a DICOM tag, such as PatientID, without reading the pixels."""
    import pydicom

    try:
        value = getattr(pydicom.dcmread(path, stop_before_pixels=True), tag, None)
    except pydicom.errors.InvalidDicomError:
        raise GatemaskError("Groups come from a DICOM tag, but a file is no DICOM.", where=path, expected=tag) from None
    if value in (None, ""):
        raise GatemaskError("A DICOM file lacks the tag that names its group.", where=path, expected=tag)
    return str(value)
