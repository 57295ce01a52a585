"""Masks whose pixel values have a meaning: classes, numbers of objects, shares of annotators, pixels to ignore."""

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


def stored_shares(stored: StoredImage, where: Path) -> np.ndarray:
    """Return the values of a soft mask file's pixels.

    Args:
        stored: Pixels of the file.
        where: The file, for errors.

    Returns:
        float32 (height, width), finite, none below 0.

    Raises:
        GatemaskError: The file holds colors, negative numbers, or none at all.
    """
    pixels = gray_if_equal(stored.pixels) if stored.pixels.ndim == 3 else stored.pixels
    received = "colors" if pixels.ndim == 3 else ""
    if not received and (not np.isfinite(pixels).all() or pixels.min(initial=0) < 0):
        received = f"{pixels.dtype} from {pixels.min():g} to {pixels.max():g}"
    if received:
        raise GatemaskError(
            "A mask file holds no shares of a mask.",
            where=where,
            received=received,
            expected="gray levels from 0 to labels.soft",
            do="Convert the masks, or leave out labels.soft.",
        )
    return pixels.astype(np.float32)


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


class ShareSurvey:
    """Values of all soft mask files, or the number of files that are averaged; safe to fill from several threads.

    Args:
        labels: Section `labels` of competition.yaml, which gives shares.
    """

    def __init__(self, labels: PngLabels) -> None:
        self._labels, self._lock = labels, Lock()
        self._highest: dict[Path, float] = {}
        self._between = self._several = False

    def add(self, path: Path, values: np.ndarray) -> None:
        """Record the values of a soft file, without ignored ones."""
        highest = float(values.max(initial=0))
        between = bool(((values > 0) & (values < (self._labels.soft or 1))).any())
        with self._lock:
            self._highest[path] = highest
            self._between |= between

    def add_image(self, files: int) -> None:
        """Record the number of files of an image and class."""
        with self._lock:
            self._several |= files > 1

    def report(self, complete: bool) -> None:
        """Raise if the files do not fit what `labels` says about them.

        Args:
            complete: Whether these are all files of the training images, so that none of them may be soft.

        Raises:
            GatemaskError: A value is above `soft`, all are in its lower half, none is between 0 and `soft`, or no image
                has several files to be averaged.
        """
        if self._labels.soft is not None and self._highest:
            self._report_values(self._labels.soft, complete)
        if complete and self._labels.combine == "mean" and not self._several:
            raise GatemaskError(
                "labels.combine: mean averages several mask files of an image, but no image has more than one.",
                where=self._labels.masks,
                expected="a file per annotator",
                do="Correct labels.masks so that it finds the files of all annotators, or leave out labels.combine.",
            )

    def _report_values(self, full: int, complete: bool) -> None:
        path, highest = min(self._highest.items(), key=lambda item: (-item[1], item[0]))
        if highest > full:
            raise GatemaskError(
                "Mask files hold values above labels.soft.",
                where=path,
                received=f"{highest:g}",
                expected=f"0 to {full}, which labels.soft calls certain",
                do="Set labels.soft to the value of a pixel that is mask for certain, or name other values in "
                "labels.ignore.",
            )
        if not complete or highest == 0:
            return
        if highest < full / 2:
            raise GatemaskError(
                "Soft masks hold only values in the lower half of labels.soft: no pixel would count as mask.",
                where=path,
                received=f"values up to {highest:g}",
                expected=f"values up to {full}",
                do="Set labels.soft to the value of a pixel that is mask for certain.",
            )
        if not self._between and self._labels.combine == "union":
            raise GatemaskError(
                "labels.soft is set, but all mask files are binary.",
                where=path,
                received=f"only 0 and {highest:g} in {len(self._highest)} files",
                expected=f"values between 0 and {full}, such as shares of annotators",
                do="Leave out labels.soft. If each annotator has a file, set labels.combine: mean.",
            )
