"""Images from files: DICOM through pydicom, everything else through OpenCV, all as uint8."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from gatemask.errors import GatemaskError

Window = Literal["full", "file"] | tuple[float, float]


def list_images(root: Path, pattern: str) -> Iterator[Path]:
    """The files that `pattern` (a glob below `root`) names, sorted; without AppleDouble junk (`._name`)."""
    if Path(pattern).is_absolute():
        raise GatemaskError("A pattern of images is absolute.", received=pattern, expected="one below the raw folder")
    return (p for p in sorted(root.glob(pattern)) if p.is_file() and not p.name.startswith("._"))


def read_image(path: Path, channels: int, window: Window = "full") -> np.ndarray:
    """One image, uint8, (height, width, channels); 3 channels are red, green, blue.

    Args:
        path: PNG, JPEG, TIFF or DICOM.
        channels: 1 or 3; grey is repeated where 3 are asked for.
        window: which grey levels become 0 to 255: "full" for all that the file's bits can hold, "file" for the
            DICOM's own VOI LUT or window, (centre, width) for one in rescaled units (DICOM PS3.3 C.11.2.1.2).

    Raises:
        GatemaskError: not an image, cut short, several frames, or colour where grey is expected.
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
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:  # as it is decoded: the copy would cost most
        return np.ascontiguousarray(resize_mask(mask.T, size).T)
    small = resize_image(mask.astype(np.uint8)[:, :, None] * np.uint8(255), size)
    return (small[:, :, 0] >= 128).astype(np.uint8)


def _read_picture(path: Path, channels: int, window: Window) -> np.ndarray:
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    image = _decode(path, flag | cv2.IMREAD_ANYDEPTH)
    if isinstance(window, str):
        return (image // 257).astype(np.uint8) if image.dtype == np.uint16 else image
    return _as_uint8(image, *_edges(window))


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


def _read_dicom(path: Path, window: Window) -> np.ndarray:
    import pydicom

    # Odd tags are common and harmless; what matters raises, or is found out below.
    warnings.filterwarnings("ignore", module="pydicom")
    dataset = pydicom.dcmread(path)
    kind = dataset.get("PhotometricInterpretation")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise GatemaskError("A DICOM holds several frames.", where=path, received=dataset.NumberOfFrames, expected=1)
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        if not str(kind).startswith(("RGB", "YBR")):
            expected = "MONOCHROME1, MONOCHROME2, RGB or YBR"
            raise GatemaskError("A DICOM is of a kind that is not read.", where=path, received=kind, expected=expected)
        return pydicom.pixels.pixel_array(dataset)  # as RGB, whatever colours it was stored in
    grey = _grey_levels(dataset, window)
    return 255 - grey if kind == "MONOCHROME1" else grey


def _grey_levels(dataset: Any, window: Window) -> np.ndarray:
    """Stored values -> rescaled by the modality -> windowed -> uint8; the order of DICOM PS3.4 N.2."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    lowest = -(1 << (bits - 1)) if signed else 0
    limits = np.array([lowest, lowest + (1 << bits) - 1])
    pixels = dataset.pixel_array
    if window == "file":
        shown = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
        for table in ("VOILUTSequence", "ModalityLUTSequence"):
            if table in dataset:
                return _as_uint8(shown, 0, float((1 << int(dataset[table][0].LUTDescriptor[2])) - 1))
        # pydicom spreads a window over the range of the stored values, rescaled; without one, nothing is turned round.
        limits = apply_modality_lut(limits, dataset)
        limits = limits if "WindowCenter" in dataset else np.sort(limits)
        return _as_uint8(shown, float(limits[0]), float(limits[1]))
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    if window == "full":
        # A linear rescale cancels out of the whole range, unless it turns the grey levels round.
        grey = _as_uint8(pixels, float(limits[0]), float(limits[1]))
        return 255 - grey if slope < 0 else grey
    low, high = _edges(window)
    return _as_uint8(pixels * slope + intercept, low, high)


def _edges(window: tuple[float, float]) -> tuple[float, float]:
    centre, width = window
    return centre - width / 2, centre + width / 2


def _as_uint8(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low` to `high` as 0 to 255, clipped; what lies there already is not touched."""
    if (low, high) == (0, 255) and pixels.dtype == np.uint8:
        return pixels
    return np.clip((pixels.astype(np.float32) - low) * (255.0 / (high - low)), 0, 255).round().astype(np.uint8)


def read_tags(path: Path, tags: Sequence[str]) -> list[str]:
    """The values of DICOM tags, such as PatientID, without reading the pixels; "" where the file lacks one."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    except pydicom.errors.InvalidDicomError:
        expected = ", ".join(tags)
        raise GatemaskError(
            "A DICOM tag is asked for, but a file is no DICOM.", where=path, expected=expected
        ) from None
    return [str(value).strip() if (value := dataset.get(tag)) is not None else "" for tag in tags]
