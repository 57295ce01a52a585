"""Report what is peculiar about a competition's files as a whole: levels, orientation, transparency, mask values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from gatemask.config import Picture, PngLabels
from gatemask.console import say
from gatemask.data.mask_files import MaskFacts
from gatemask.data.stored import ImageFacts
from gatemask.errors import GatemaskError

USED = 0.25  # share of the range below which images would be nearly black
MOST = 0.95  # of the images; single bright pixels must not hide that the others are dark
INVERTED = 0.8  # share of the masks whose outermost pixels are mask, from which they may be inverted


def report_images(facts: Sequence[ImageFacts], picture: Picture) -> list[str]:
    """Print and return what is peculiar about images.

    Args:
        facts: Facts about each file.
        picture: Section `image` of competition.yaml.
    """
    lines = []
    if dark := _unused_levels(facts) if picture.window == "full" else None:
        lines.append(dark)
    if turned := sum(fact.orientation != 1 for fact in facts):
        lines.append(f"{_of(turned, facts)} images carry an orientation (EXIF or TIFF). {_orientation(picture)}")
    if transparent := sum(fact.transparent for fact in facts):
        lines.append(f"{_of(transparent, facts)} images have transparent pixels: their colors are used as stored.")
    for line in lines:
        say(line)
    return lines


def _orientation(picture: Picture) -> str:
    if picture.orientation == "upright":
        return "They are rotated, as image.orientation says; masks and run-length encodings must be upright, too."
    return (
        "Their pixels are used as stored, like those of masks and run-length encodings. If the masks were drawn on "
        "upright images, set image.orientation: upright."
    )


def _unused_levels(facts: Sequence[ImageFacts]) -> str | None:
    """Return a warning if images of more than 8 bits fill so little of their range that they would be nearly black."""
    known = [(fact, *fact.limits) for fact in facts if fact.limits is not None and fact.highest > fact.lowest]
    deep = [(fact, low, high) for fact, low, high in known if high - low > 255]
    if not deep:
        return None
    reached = float(np.quantile([(fact.highest - low) / (high - low) for fact, low, high in deep], MOST))
    spanned = float(np.quantile([(fact.highest - fact.lowest) / (high - low) for fact, low, high in deep], MOST))
    if reached >= USED and spanned >= USED:
        return None
    lowest = float(np.quantile([fact.lowest for fact, _, _ in deep], 1 - MOST))
    highest = float(np.quantile([fact.highest for fact, _, _ in deep], MOST))
    start, end = lowest, highest
    if 0 <= lowest < highest / 2:  # as if fewer bits were stored
        start, end = 0.0, float(1 << int(highest).bit_length())
    _, low, high = deep[0]
    return (
        f"{_of(len(deep), facts)} images could hold values from {low:g} to {high:g}, but most use only {lowest:g} to "
        f"{highest:g}, {100 * spanned:.2g} % of the range: few gray levels are left of them. Consider image.window: "
        f"[{(start + end) / 2:g}, {end - start:g}] in competition.yaml."
    )


class MaskSurvey:
    """Facts about all mask files of a competition; safe to fill from several threads.

    Args:
        labels: Section `labels` of competition.yaml.
    """

    def __init__(self, labels: PngLabels) -> None:
        self._labels, self._lock = labels, Lock()
        self._facts: dict[Path, MaskFacts] = {}

    def add(self, path: Path, facts: MaskFacts) -> None:
        """Record the facts about a file."""
        with self._lock:
            self._facts[path] = facts

    def report(self) -> list[str]:
        """Print and return what is peculiar about the masks.

        Raises:
            GatemaskError: It is not clear which pixels are mask.
        """
        facts = dict(sorted(self._facts.items()))
        doubtful = {path: fact for path, fact in facts.items() if fact.doubt}
        for path, fact in doubtful.items():
            raise fact.error(path, f"{_of(len(doubtful), facts)} files")
        self._reject_different_values(facts)
        self._reject_different_colors(facts)
        lines = [*self._soft(facts), *self._inverted(facts)]
        for line in lines:
            say(line)
        return lines

    def _reject_different_values(self, facts: dict[Path, MaskFacts]) -> None:
        """Raise if a mask is 1 in some files and 255, or 2, in others: they may be classes."""
        single = {fact.value: path for path, fact in facts.items() if fact.kind == "single"}
        low = [path for path, fact in facts.items() if fact.kind == "single" and fact.value <= fact.half]
        soft = {fact.value: path for path, fact in facts.items() if fact.kind == "soft"}
        faint = [path for path, fact in facts.items() if fact.kind == "faint"]
        numbered = any(fact.kind == "numbers" for fact in facts.values()) and len(low) == sum(
            fact.kind == "single" for fact in facts.values()
        )
        found = {**single, **soft}
        if low and not numbered and len(found) > 1:
            other = next(path for value, path in found.items() if value != facts[low[0]].value)
            raise GatemaskError(
                "Mask files use different values.",
                where=low[0],
                received=f"{facts[low[0]].value:g}, but {facts[other].value:g} in {other.name}",
                expected="the same value for the mask in all files",
                do="If every value above 0 is mask, set labels.threshold: 0. If values are classes, name them in "
                "labels.values.",
            )
        if faint and not found:
            raise GatemaskError(
                "Masks hold only values in the lower half of their range.",
                where=faint[0],
                received=f"values up to {facts[faint[0]].value:g}",
                expected="values up to 255",
                do="Set labels.threshold: every pixel with a value above it is mask.",
            )

    def _reject_different_colors(self, facts: dict[Path, MaskFacts]) -> None:
        colors = {fact.color: path for path, fact in facts.items() if fact.color is not None}
        if self._labels.threshold is None and len(colors) > 1:
            (first, path), (second, other) = list(colors.items())[:2]
            raise GatemaskError(
                "Mask files use different colors.",
                where=path,
                received=f"{first}, but {second} in {other.name}",
                expected="the same color for the mask in all files",
                do="If every color is mask, set labels.threshold: 0. If colors are classes, convert the masks.",
            )

    def _soft(self, facts: dict[Path, MaskFacts]) -> list[str]:
        lines = []
        if soft := [fact for fact in facts.values() if fact.kind == "soft"]:
            share = float(np.mean([fact.between for fact in soft]))
            lines.append(
                f"{_of(len(soft), facts)} masks hold values between 0 and {max(fact.value for fact in soft):g} "
                f"({100 * share:.2g} % of their pixels), as JPEG compression and soft edges leave them: pixels above "
                f"{soft[0].half:g}, half of the range, count as mask. labels.threshold sets another value; labels.soft "
                "trains on the values as shares."
            )
        if faint := [fact for fact in facts.values() if fact.kind == "faint"]:
            lines.append(
                f"{_of(len(faint), facts)} masks hold only values up to {max(fact.value for fact in faint):g}, below "
                "half of the range, and count as empty. labels.threshold sets another value."
            )
        if numbers := [fact for fact in facts.values() if fact.kind == "numbers"]:
            lines.append(
                f"{_of(len(numbers), facts)} masks hold several values up to {max(fact.value for fact in numbers):g}, "
                "taken for numbers of objects: every pixel above 0 counts as mask. labels.threshold sets another value."
            )
        return lines

    def _inverted(self, facts: dict[Path, MaskFacts]) -> list[str]:
        filled = [fact for fact in facts.values() if fact.kind != "empty"]
        around = sum(fact.border > 0.5 for fact in filled)
        if self._labels.invert or not filled or around < INVERTED * len(filled):
            return []
        return [
            f"In {_of(around, filled)} masks, most of the outermost pixels are mask: they may be inverted (white "
            "background). If so, set labels.invert: true."
        ]


def _of(count: int, whole: Sequence[object] | dict[Path, MaskFacts]) -> str:
    return f"{count} of {len(whole)}"
