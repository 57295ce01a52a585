"""Masks whose pixel values have a meaning: classes, numbers of objects, pixels to ignore."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from threading import Lock

import numpy as np

from gatemask.config import PngLabels
from gatemask.data.class_rows import SHOWN
from gatemask.data.pictures import gray_if_equal
from gatemask.data.stored import StoredImage
from gatemask.errors import GatemaskError


def stored_values(stored: StoredImage, where: Path) -> np.ndarray:
    """Return the values of a mask file's pixels: gray levels, or entries of its palette.

    Args:
        stored: Pixels of the file.
        where: The file, for errors.

    Returns:
        int32 (height, width), none below 0.

    Raises:
        GatemaskError: The file holds colors, fractions or negative numbers, or its compression changes values.
    """
    pixels = stored.pixels if stored.indices is None else stored.indices
    if stored.lossy:
        raise _no_values(where, "a file whose compression changes values, such as JPEG")
    if pixels.ndim == 3:
        pixels = gray_if_equal(pixels)
    if pixels.ndim == 3:
        colors = np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)[:3].tolist()
        raise _no_values(where, f"colors, such as {', '.join(str(tuple(color)) for color in colors)}")
    if not np.isfinite(pixels).all() or pixels.min(initial=0) < 0 or (pixels != np.rint(pixels)).any():
        raise _no_values(where, f"{pixels.dtype} from {pixels.min():g} to {pixels.max():g}")
    return pixels.astype(np.int32)


def _no_values(where: Path, received: str) -> GatemaskError:
    return GatemaskError(
        "A mask file holds no values that could be classes, objects or ignored pixels.",
        where=where,
        received=received,
        expected="gray levels, or a palette, in a file without loss such as PNG",
        do="Convert the masks: one whole number per class.",
    )


class ValueSurvey:
    """Values of all mask files of a class, or of all classes; safe to fill from several threads.

    Args:
        labels: Section `labels` of competition.yaml.
    """

    def __init__(self, labels: PngLabels) -> None:
        self._labels, self._lock = labels, Lock()
        self._files: Counter[int] = Counter()
        self._pixels: Counter[int] = Counter()
        self._first: dict[int, Path] = {}

    def add(self, path: Path, values: np.ndarray) -> None:
        """Record the values of a file."""
        counts = np.bincount(values.ravel())
        present = np.flatnonzero(counts).tolist()
        with self._lock:
            for value in present:
                self._files[value] += 1
                self._pixels[value] += int(counts[value])
                self._first[value] = min(path, self._first.get(value, path))

    def report(self) -> None:
        """Raise if a value has no meaning.

        Raises:
            GatemaskError: A value is neither a class, nor ignored, nor background; or several could be the only class.
        """
        labels = self._labels
        if labels.numbered:
            return
        known = {0, *labels.ignore} if not labels.values else {*labels.values.values(), *labels.ignore}
        if 0 not in labels.values.values():
            known.add(0)
        unknown = sorted(set(self._files) - known)
        if labels.values and unknown:
            names = ", ".join(f"{name}: {value}" for name, value in labels.values.items())
            raise GatemaskError(
                "Mask files hold values that labels.values does not name.",
                where=self._first[unknown[0]],
                received=self._described(unknown),
                expected=f"{names}" + (f"; ignored: {', '.join(map(str, labels.ignore))}" if labels.ignore else ""),
                do="Add these values to labels.values, as a class that 'classes' may leave out, or to labels.ignore.",
            )
        if not labels.values and len(unknown) > 1:
            raise GatemaskError(
                "Mask files hold several values beside background and ignored pixels.",
                where=self._first[unknown[0]],
                received=self._described(unknown),
                expected="one value for the mask",
                do="Name the value of each class in labels.values, or set labels.numbered if they number objects.",
            )

    def _described(self, values: list[int]) -> str:
        shown = [f"{value} ({self._files[value]} files, {self._pixels[value]} pixels)" for value in values[:SHOWN]]
        return ", ".join(shown) + (f", and {len(values) - SHOWN} more" if len(values) > SHOWN else "")
