"""What the labels have in common, whatever their format: shares, sizes of objects, classes that overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

SMALLEST = 4  # pixels; smaller components are noise
OVERLAP = 0.002  # share of the mask pixels that classes may share by accident


@dataclass
class MaskStats:
    """Statistics of sampled masks.

    Args:
        images: Number of images.
        positives: Number of images with a mask.
        sides: Square root of the area of each object, in pixels.
        shares: The same as a share of the image's side.
        objects: Number of components of each positive image.
        overlapping: Pixels that belong to several classes.
        pixels: Pixels that belong to any class.
        several: Number of images with several classes.
        empty_classes: Classes that are missing in a positive image, over all of them.
        classes: Number of classes.
        area: Share of each positive image that is mask.
        border: Share of each positive image's outermost pixels that is mask.
    """

    images: int = 0
    positives: int = 0
    sides: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    overlapping: int = 0
    pixels: int = 0
    several: int = 0
    empty_classes: int = 0
    classes: int = 1
    area: list[float] = field(default_factory=list)
    border: list[float] = field(default_factory=list)

    @property
    def side(self) -> float:
        """Side of a small object, in pixels: a quarter of all objects are smaller."""
        return float(np.percentile(self.sides, 25)) if self.sides else 0.0

    @property
    def share(self) -> float:
        """Side of a small object as a share of the image's side."""
        return float(np.percentile(self.shares, 25)) if self.shares else 0.0

    @property
    def many(self) -> float:
        """Median number of objects of a positive image."""
        return float(np.median(self.objects)) if self.objects else 0.0

    @property
    def class_empties(self) -> float:
        """Share of the masks of single classes that are empty, in positive images."""
        return self.empty_classes / max(1, self.positives * self.classes)

    @property
    def exclusive(self) -> bool:
        """Whether classes appear together, and never on the same pixel."""
        return self.several >= 3 and self.overlapping <= OVERLAP * self.pixels


def measure(masks: Iterable[np.ndarray], stats: MaskStats | None = None) -> MaskStats:
    """Return statistics of masks, bool (height, width, classes) each."""
    stats = stats or MaskStats()
    for planes in masks:
        stats.images += 1
        classes = int(planes.any(axis=(0, 1)).sum())
        if not classes:
            continue
        height, width = planes.shape[:2]
        stats.positives += 1
        stats.several += int(classes > 1)
        stats.classes = planes.shape[2]
        stats.empty_classes += planes.shape[2] - int(classes)
        count = planes.sum(axis=2, dtype=np.int32)
        stats.overlapping += int((count > 1).sum())
        stats.pixels += int((count > 0).sum())
        union = count > 0
        stats.area.append(float(union.mean()))
        edge = np.concatenate([union[0], union[-1], union[:, 0], union[:, -1]])
        stats.border.append(float(edge.mean()))
        areas = [area for plane in np.moveaxis(planes, 2, 0) for area in _areas(plane)]
        stats.objects.append(len(areas))
        stats.sides += np.sqrt(areas).tolist()
        stats.shares += (np.sqrt(areas) / np.sqrt(height * width)).tolist()
    return stats


def _areas(plane: np.ndarray) -> list[int]:
    """Return the area of each component, in pixels."""
    if not plane.any():
        return []
    _, _, found, _ = cv2.connectedComponentsWithStats(plane.astype(np.uint8), connectivity=8)
    return [area for area in found[1:, cv2.CC_STAT_AREA].tolist() if area >= SMALLEST]


@dataclass(frozen=True)
class LabelFacts:
    """What `labels` of competition.yaml will say, and what else follows from the labels.

    Args:
        section: Section `labels`.
        classes: Names of the classes.
        exclusive: Whether a pixel belongs to at most one class.
        labeled: Number of images with a label, be it an empty mask.
        positives: Estimated share of the images with a mask.
        stats: Statistics of sampled masks.
        objects: How single objects are separated: "rows" of a table, "numbers" of pixels, "files", or "" for not.
        touching: Share of the images with several objects in which objects touch.
        cells: Ids as the labels write them.
    """

    section: dict[str, object]
    classes: list[str]
    exclusive: bool
    labeled: int
    positives: float
    stats: MaskStats
    objects: str = ""
    touching: float = 0.0


def touch(objects: list[np.ndarray]) -> bool:
    """Whether some of the objects, bool (height, width) each, touch or overlap."""
    if len(objects) < 2:
        return False
    union = np.any(objects, axis=0)
    apart = sum(cv2.connectedComponents(one.astype(np.uint8), connectivity=8)[0] - 1 for one in objects)
    return bool(cv2.connectedComponents(union.astype(np.uint8), connectivity=8)[0] - 1 < apart)


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names sorted, numbers by value.

    >>> natural_order(["10", "9", "1"])
    ['1', '9', '10']
    """
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdigit() else (1, 0, name))
