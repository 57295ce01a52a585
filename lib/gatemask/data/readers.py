"""Read images from files as uint8: DICOM through pydicom, everything else through OpenCV."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from gatemask.data.listing import list_images
from gatemask.errors import GatemaskError

__all__ = ["Window", "list_images", "read_image", "read_mask", "read_tags", "resize_image", "resize_mask"]

Window = Literal["full", "file"] | tuple[float, float]


def read_image(path: Path, channels: int, window: Window = "full") -> np.ndarray:
    """Read one image.

    Args:
        path: PNG, JPEG, TIFF or DICOM file.
        channels: 1 or 3; gray is repeated for 3.
        window: Gray levels that become 0 to 255: "full" for the whole range of the file's bits, "file" for the DICOM's
            own VOI LUT or window, (center, width) for a window in rescaled units (DICOM PS3.3 C.11.2.1.2).
            Default: "full".

    Returns:
        uint8 (height, width, channels); 3 channels are red, green, blue.

    Raises:
        GatemaskError: The file is not an image, is cut short, has several frames, or has color instead of gray.
    """
    try:
        dicom = path.suffix.lower() in (".dcm", ".dicom")
        image = _read_dicom(path, window) if dicom else _read_picture(path, channels, window)
    except GatemaskError:
        raise
    except Exception as error:  # pydicom and its decoders raise almost anything on a damaged file
        first = str(error).splitlines()[0] if str(error) else ""
        raise GatemaskError(
            "An image cannot be read.",
            where=path,
            received=f"{type(error).__name__}: {first}",
            do="Download the file again, or leave it out.",
        ) from None
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
    return np.ascontiguousarray(image)


def read_mask(path: Path, threshold: int = 0) -> np.ndarray:
    """Read a mask from an image file.

    Values are taken unscaled, so 16-bit instance numbers count too; transparency is ignored.

    Args:
        path: PNG, JPEG or TIFF file.
        threshold: Value above which a pixel of any color belongs to the mask. Default: 0.

    Returns:
        bool (height, width).
    """
    mask = _decode(path, cv2.IMREAD_UNCHANGED)
    return mask > threshold if mask.ndim == 2 else mask[:, :, :3].max(axis=2) > threshold


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image to a square; shrinking averages.

    Args:
        image: uint8 (height, width, channels).
        size: Side of the result, in pixels.
    """
    if image.shape[:2] == (size, size):
        return image
    shrinks = size < min(image.shape[:2])
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(size, size, image.shape[2])


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize a mask to a square: a new pixel belongs to the mask if at least half of its area did.

    Args:
        mask: bool (height, width).
        size: Side of the result, in pixels.

    Returns:
        uint8 (size, size), 0 or 1.
    """
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:  # decoded masks: copying would take longest
        return np.ascontiguousarray(resize_mask(mask.T, size).T)
    small = resize_image(mask.astype(np.uint8)[:, :, None] * np.uint8(255), size)
    return (small[:, :, 0] >= 128).astype(np.uint8)


def _read_picture(path: Path, channels: int, window: Window) -> np.ndarray:
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    image = _decode(path, flag | cv2.IMREAD_ANYDEPTH)
    if isinstance(window, str):
        return (image // 257).astype(np.uint8) if image.dtype == np.uint16 else image
    return _scale(image, *_edges(window))


def _decode(path: Path, flags: int) -> np.ndarray:
    # Through memory, since cv2.imread returns None for missing and damaged files alike.
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, flags) if len(data) else None
    if image is None:
        raise GatemaskError(
            "An image cannot be read.",
            where=path,
            received=f"{len(data)} bytes that are not an image",
            expected="PNG, JPEG, TIFF or DICOM",
            do="Download the file again, or leave it out.",
        )
    return image


def _read_dicom(path: Path, window: Window) -> np.ndarray:
    import pydicom

    # Odd tags are common and harmless; whatever matters raises an error.
    warnings.filterwarnings("ignore", module="pydicom")
    dataset = pydicom.dcmread(path)
    kind = dataset.get("PhotometricInterpretation")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise GatemaskError("A DICOM file has several frames.", where=path, received=dataset.NumberOfFrames, expected=1)
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        if not str(kind).startswith(("RGB", "YBR")):
            expected = "MONOCHROME1, MONOCHROME2, RGB or YBR"
            raise GatemaskError("Unsupported kind of DICOM image.", where=path, received=kind, expected=expected)
        return pydicom.pixels.pixel_array(dataset)  # as RGB, in whatever color space it was stored
    gray = _gray_levels(dataset, window)
    return 255 - gray if kind == "MONOCHROME1" else gray


def _gray_levels(dataset: Any, window: Window) -> np.ndarray:
    """Return stored values, rescaled by the modality, windowed, as uint8: the order of DICOM PS3.4 N.2."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    lowest = -(1 << (bits - 1)) if signed else 0
    limits = np.array([lowest, lowest + (1 << bits) - 1])
    pixels = dataset.pixel_array
    if window == "file":
        shown = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
        for table in ("VOILUTSequence", "ModalityLUTSequence"):
            if table in dataset:
                return _scale(shown, 0, float((1 << int(dataset[table][0].LUTDescriptor[2])) - 1))
        # pydicom spreads a window over the rescaled range of stored values; without one, nothing is inverted.
        limits = apply_modality_lut(limits, dataset)
        limits = limits if "WindowCenter" in dataset else np.sort(limits)
        return _scale(shown, float(limits[0]), float(limits[1]))
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    if window == "full":
        # A linear rescale cancels out over the full range, unless it inverts the gray levels.
        gray = _scale(pixels, float(limits[0]), float(limits[1]))
        return 255 - gray if slope < 0 else gray
    low, high = _edges(window)
    return _scale(pixels * slope + intercept, low, high)


def _edges(window: tuple[float, float]) -> tuple[float, float]:
    center, width = window
    return center - width / 2, center + width / 2


def _scale(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to `high` linearly to 0 to 255, clipped; pixels already in that range are returned unchanged."""
    if (low, high) == (0, 255) and pixels.dtype == np.uint8:
        return pixels
    return np.clip((pixels.astype(np.float32) - low) * (255.0 / (high - low)), 0, 255).round().astype(np.uint8)


def read_tags(path: Path, tags: Sequence[str]) -> list[str]:
    """Read DICOM tags without the pixels.

    Args:
        path: DICOM file.
        tags: Keywords, such as PatientID.

    Returns:
        Value of each tag; "" for a missing one.

    Raises:
        GatemaskError: The file is not DICOM.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    except pydicom.errors.InvalidDicomError:
        expected = ", ".join(tags)
        raise GatemaskError("A DICOM tag is needed, but a file is not DICOM.", where=path, expected=expected) from None
    return [str(value).strip() if (value := dataset.get(tag)) is not None else "" for tag in tags]
