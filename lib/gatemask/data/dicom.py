"""Decode DICOM files through pydicom, and map their levels to 8 bits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Percentiles
from gatemask.data.stored import ImageFacts, Window, edges, scale
from gatemask.errors import GatemaskError

SUFFIXES = (".dcm", ".dicom")
# Always in this order, so that the decoders which happen to be installed do not change the pixels of lossy images:
# Kaggle's image has only the first two, and a package of a competition with DICOM files ships the third.
DECODERS = ("pydicom", "pillow", "gdcm", "pylibjpeg", "pyjpegls")
PACKAGES = {  # by the first words of a transfer syntax
    "High-Throughput": "pylibjpeg pylibjpeg-openjpeg",
    "JPEG Lossless": "python-gdcm",
    "JPEG Extended": "python-gdcm",
    "JPEG Baseline": "pillow",
    "JPEG-LS": "python-gdcm",
    "JPEG 2000": "python-gdcm",
}


def is_dicom(data: bytes, path: Path) -> bool:
    """Return whether a file is DICOM: by its marker, its suffix, or, without either, by how its data set starts."""
    if data[128:132] == b"DICM" or path.suffix.lower() in SUFFIXES:
        return True
    # Old files have no marker, and start with group 2 or 8 in little-endian order.
    return data[:1] in (b"\x02", b"\x08") and data[1:2] == b"\0" and data[3:4] == b"\0" and len(data) > 132


def read_dicom(data: bytes, where: Path, window: Window) -> tuple[np.ndarray, ImageFacts]:
    """Return the picture of a DICOM file as uint8, (height, width) or (height, width, 3), and facts about it.

    Args:
        data: Contents of the file.
        where: The file, for errors.
        window: Gray levels that become 0 to 255.

    Raises:
        GatemaskError: The file has several frames, an unsupported kind of pixels, or no decoder is installed.
    """
    # Odd tags are common and harmless; whatever matters raises an error.
    warnings.filterwarnings("ignore", module="pydicom")
    dataset = _open(data)
    if "PixelData" not in dataset:
        raise GatemaskError("A DICOM file holds no picture.", where=where, received=str(dataset.get("Modality", "")))
    kind = dataset.get("PhotometricInterpretation")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise GatemaskError(
            "A DICOM file has several frames.", where=where, received=dataset.NumberOfFrames, expected=1
        )
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        if not str(kind).startswith(("RGB", "YBR")):
            expected = "MONOCHROME1, MONOCHROME2, RGB or YBR"
            raise GatemaskError("Unsupported kind of DICOM image.", where=where, received=kind, expected=expected)
        pixels = _decode(dataset, where)  # as RGB, in whatever color space it was stored
        if isinstance(window, Percentiles):
            return scale(pixels, *edges(window, pixels)), _color_facts(pixels)
        return pixels, _color_facts(pixels)
    if int(dataset.get("HighBit", dataset.BitsStored - 1)) != dataset.BitsStored - 1:
        raise GatemaskError(
            "A DICOM file stores its pixels in unusual bits.",
            where=where,
            received=f"BitsStored {dataset.BitsStored}, HighBit {dataset.HighBit}",
            expected=f"HighBit {dataset.BitsStored - 1}",
        )
    pixels = _decode(dataset, where)
    if window == "full":
        _require_known_range(dataset, pixels, where)
    gray = _gray_levels(dataset, pixels, window)
    return 255 - gray if kind == "MONOCHROME1" else gray, _facts(dataset, pixels)


def _open(data: bytes, **options: Any) -> Any:
    import pydicom

    without_marker = data[128:132] != b"DICM" and data[:2] in (b"\x02\0", b"\x08\0")
    dataset = pydicom.dcmread(BytesIO(data), force=without_marker, **options)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        syntax = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _decode(dataset: Any, where: Path) -> np.ndarray:
    from pydicom.pixels import get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return _read_plain(dataset)
    try:
        available = get_decoder(syntax).available_plugins
    except NotImplementedError:
        available = ()
    fault: Exception | None = None
    for plugin in (name for name in DECODERS if name in available):
        try:
            return pixel_array(dataset, decoding_plugin=plugin)
        except Exception as error:  # decoders raise almost anything on what they do not support
            fault = error
    if fault is not None and "gdcm" in available:
        raise fault
    raise GatemaskError(
        "No installed decoder can read a DICOM file.",
        where=where,
        received=f"transfer syntax {syntax.name} ({syntax})" + (f": {fault}" if fault else ""),
        expected="a decoder of this syntax",
        do=_advice(str(syntax.name)),
    )


def _read_plain(dataset: Any) -> np.ndarray:
    """Return uncompressed pixels; bits above BitsStored count unless they hold an overlay or a sign.

    pydicom removes them, which wraps values that do not fit the declared bits.
    """
    from pydicom.pixels import pixel_array

    pixels = pixel_array(dataset)
    overlay = any((group, 0x0102) in dataset and (group, 0x3000) not in dataset for group in range(0x6000, 0x6020, 2))
    if dataset.BitsStored == dataset.BitsAllocated or overlay:
        return pixels
    whole = pixel_array(dataset, correct_unused_bits=False)
    unused = whole.view(f"u{whole.itemsize}") >> dataset.BitsStored
    return pixels if dataset.PixelRepresentation and not unused.any() else whole


def _advice(syntax: str) -> str:
    package = next((package for words, package in PACKAGES.items() if syntax.startswith(words)), None)
    if package is None:
        return "Convert the file to an uncompressed transfer syntax."
    if package in ("pillow", "python-gdcm"):
        return f"Run pip install {package}. In kernels, Kaggle's image has it or the package ships it."
    return f"Run pip install {package}. Kaggle's image lacks it: convert the test images for inference."


def _require_known_range(dataset: Any, pixels: np.ndarray, where: Path) -> None:
    """Raise if pixels lie outside of the bits that the file declares, where "full" would clip them."""
    low, high = _limits(dataset)
    if low <= pixels.min() and pixels.max() <= high:
        return
    outside = pixels[(pixels < low) | (pixels > high)]
    if (outside != dataset.get("PixelPaddingValue")).any():
        raise GatemaskError(
            "A DICOM file has pixels outside of its range.",
            where=where,
            received=f"values from {pixels.min()} to {pixels.max()} in {dataset.BitsStored} bits",
            expected=f"{low} to {high}",
            do="Set image.window to [center, width] in competition.yaml.",
        )


def _color_facts(pixels: np.ndarray) -> ImageFacts:
    return ImageFacts((0, 255), float(pixels.min()), float(pixels.max()))


def _facts(dataset: Any, pixels: np.ndarray) -> ImageFacts:
    slope, intercept = _rescale(dataset)
    low, high = sorted(float(limit) * slope + intercept for limit in _limits(dataset))
    lowest, highest = sorted(float(value) * slope + intercept for value in (pixels.min(), pixels.max()))
    return ImageFacts((low, high), lowest, highest)


def _limits(dataset: Any) -> np.ndarray:
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    lowest = -(1 << (bits - 1)) if signed else 0
    return np.array([lowest, lowest + (1 << bits) - 1])


def _rescale(dataset: Any) -> tuple[float, float]:
    return float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)


def _gray_levels(dataset: Any, pixels: np.ndarray, window: Window) -> np.ndarray:
    """Return stored values, rescaled by the modality, windowed, as uint8: the order of DICOM PS3.4 N.2."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    limits = _limits(dataset)
    if window == "file":
        shown = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
        for table in ("VOILUTSequence", "ModalityLUTSequence"):
            if table in dataset:
                return scale(shown, 0, float((1 << int(dataset[table][0].LUTDescriptor[2])) - 1))
        # pydicom spreads a window over the rescaled range of stored values; without one, nothing is inverted.
        limits = apply_modality_lut(limits, dataset)
        limits = limits if "WindowCenter" in dataset else np.sort(limits)
        return scale(shown, float(limits[0]), float(limits[1]))
    slope, intercept = _rescale(dataset)
    if window == "full":
        # A linear rescale cancels out over the full range, unless it inverts the gray levels.
        gray = scale(pixels, float(limits[0]), float(limits[1]))
        return 255 - gray if slope < 0 else gray
    levels = pixels * slope + intercept
    shown = levels[pixels != dataset["PixelPaddingValue"].value] if "PixelPaddingValue" in dataset else levels
    return scale(levels, *edges(window, shown if shown.size else levels))


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
        dataset = _open(path.read_bytes(), stop_before_pixels=True, specific_tags=list(tags))
    except pydicom.errors.InvalidDicomError:
        expected = ", ".join(tags)
        raise GatemaskError("A DICOM tag is needed, but a file is not DICOM.", where=path, expected=expected) from None
    return [str(value).strip() if (value := dataset.get(tag)) is not None else "" for tag in tags]
