"""Threshold tables: the score of any rule by look-up, without reading a map again.

For each image, class and level t from 0 to 255, the tables hold how many pixels of the resized map reach t, and how
many of those are truth. These are two cumulative 256-bin histograms: 2 KB per image and class, however large the image.
Those of many images are kept in a temporary file and read one level at a time (`gatemask.oof.disk_levels`), so memory
holds the counts of one shard of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import cv2
import numpy as np

from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.masks.frame import Frame
from gatemask.masks.metrics import METRICS, dice_score, total
from gatemask.masks.rule import LEVELS, Rule, gate_scores, level, per_class
from gatemask.oof.array_files import read_arrays, select_arrays, write_arrays
from gatemask.oof.disk_levels import Counts, DiskLevels
from gatemask.oof.full_maps import FullImage, map_images
from gatemask.oof.store import MapReader

SHARD = 50_000  # images times classes whose counts are in memory at once: 100 MB


@dataclass(frozen=True)
class Tables:
    """Threshold tables of n images.

    Ignored pixels are no part of masks and truth, but a rule sees them: `reached` counts them, too.

    Args:
        ids: Image ids, text (n,).
        folds: Fold in which each image was validated, int (n,).
        gate: Probability of the gate ensemble, float (n, classes); (n,) or (n, 1) is the same for all classes.
        area: Number of pixels that reach each level, int32 (n, classes, 257); none reaches level 256.
        intersection: Number of those that are truth, int32 (n, classes, 257).
        truth: Number of truth pixels, int32 (n, classes).
        reached: `area` with ignored pixels; None where no image has any.

    >>> area, intersection = count_image(np.array([[[0], [200]]], np.uint8), np.array([[[False], [True]]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [0.9], [area], [intersection], [[1]])))
    >>> len(tables), [counts.tolist() for counts in tables.counts(Rule(0.5, 0.5, 0.5, 1))]
    (1, [[[1.0]], [[1.0]]])
    """

    ids: np.ndarray
    folds: np.ndarray
    gate: np.ndarray
    area: Counts
    intersection: Counts
    truth: np.ndarray
    reached: Counts | None = None

    def __post_init__(self) -> None:
        # A rule reads one level of all images: with levels contiguous in memory, that is one run, not n far jumps.
        for name in ("area", "intersection", "reached"):
            if isinstance(values := getattr(self, name), np.ndarray):
                object.__setattr__(self, name, np.asfortranarray(values))
        if self.gate.shape != self.truth.shape:
            columns = self.truth.shape[1] if self.gate.size == len(self.gate) else 1
            object.__setattr__(self, "gate", np.repeat(self.gate.reshape(len(self.gate), -1), columns, axis=1))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.truth.shape[1])

    @property
    def levels(self) -> Sequence[int]:
        """Lower thresholds at which rules can be scored, ascending."""
        return range(1, LEVELS)

    @property
    def seen(self) -> Counts:
        """Number of pixels by which rules decide, ignored ones included, int32 (n, classes, 257)."""
        return self.area if self.reached is None else self.reached

    @property
    def image_gate(self) -> np.ndarray:
        """Gate probability of each image, that of its likeliest class, float (n,)."""
        likeliest: np.ndarray = self.gate.max(axis=1)
        return likeliest

    @property
    def gates_differ(self) -> bool:
        """Whether classes have gates of their own."""
        return bool((self.gate != self.gate[:, :1]).any())

    def subset(self, chosen: np.ndarray) -> Tables:
        """Return the tables of some images.

        Args:
            chosen: bool (n,), or indices.
        """
        parts: dict[str, Any] = {name: values[chosen] for name, values in self._arrays().items()}
        return Tables(**parts)

    @classmethod
    def join(cls, parts: Iterable[Tables], n: int) -> Tables:
        """Return the tables of all images of some parts, in their order; memory holds one part at a time.

        Args:
            parts: Tables of the same classes.
            n: Number of all images.
        """
        columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        images = _images_of(parts, columns)
        first = next(images)
        shape = (n, *first.area.shape)
        counted = _Counted.of(shape, chain([first], images))
        ids, folds, gate = (np.concatenate(values) for values in zip(*columns, strict=True))
        truth = counted.intersection[:, :, 0].copy()
        return cls(ids, folds, gate, counted.area, counted.intersection, truth, counted.reached)

    def of_class(self, index: int) -> Tables:
        """Return the tables of one class."""
        if self.classes == 1:
            return self
        parts = {name: values[:, index : index + 1] for name, values in self._arrays().items() if values.ndim > 1}
        return replace(self, **parts)

    def counts(self, rules: Rule | Sequence[Rule]) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel counts of each image's and class's mask under rules.

        Args:
            rules: One rule per class, or one for all.

        Returns:
            Intersection with the truth, and area, float (n, classes).

        Raises:
            GatemaskError: A rule needs connected components.
        """
        by_class = per_class(rules, self.classes)
        for rule in by_class:
            if rule.by_component:
                raise GatemaskError(
                    "Threshold tables cannot distinguish connected components.",
                    received=f"min_component {rule.min_component}, hysteresis {rule.hysteresis}",
                    do="Count them with gatemask.oof.components.",
                )
        kept, lowers = self.kept(by_class), [level(rule.lower) for rule in by_class]
        return np.where(kept, _at(self.intersection, lowers), 0.0), np.where(kept, _at(self.area, lowers), 0.0)

    def kept(self, rules: Rule | Sequence[Rule]) -> np.ndarray:
        """Return which images and classes pass the gate and have enough pixels, bool (n, classes)."""
        by_class = per_class(rules, self.classes)
        enough = _at(self.seen, [level(rule.upper) for rule in by_class]) >= [rule.min_area for rule in by_class]
        kept: np.ndarray = (self.gate_scores(by_class) >= [rule.gate for rule in by_class]) & enough
        return kept

    def gate_scores(self, rules: Rule | Sequence[Rule]) -> np.ndarray:
        """Return what rules compare with their gate: probabilities, or quantiles among these images, (n, classes)."""
        return gate_scores(rules, self.gate, self.ids)

    def save(self, path: Path) -> Path:
        """Write the tables as .npz and return the path."""
        return write_with(path, lambda temporary: write_arrays(temporary, self.arrays()))

    def arrays(self) -> dict[str, Counts]:
        """Return the arrays of a file; the gate of a single class is (n,)."""
        arrays = self._arrays()
        return {**arrays, "gate": self.gate[:, 0]} if self.classes == 1 else arrays

    def _arrays(self) -> dict[str, Counts]:
        return {name: values for name, values in vars(self).items() if values is not None}

    @classmethod
    def load(cls, path: Path) -> Tables:
        """Read tables written by `save`.

        Raises:
            GatemaskError: The file is missing or damaged.
        """
        return cls.of_arrays(read_arrays(path), path)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any], path: Path) -> Tables:
        """Return the tables that a file holds; `path` is the file, for messages.

        Raises:
            GatemaskError: An array is missing.
        """
        needed = [field.name for field in fields(cls) if field.name != "reached"]
        return cls(**select_arrays(arrays, needed, path), reached=arrays.get("reached"))


def _at(counts: Counts, levels: Sequence[int]) -> np.ndarray:
    """Return counts (n, classes, 257) at one level per class, (n, classes)."""
    if len(levels) == 1:
        one: np.ndarray = counts[:, :, levels[0]]
        return one
    return np.stack([counts[:, index, cut] for index, cut in enumerate(levels)], axis=1)


def count_levels(full_map: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of one image and class at or above each level.

    Args:
        full_map: uint8 (height, width).
        truth: bool (height, width).

    Returns:
        Area, and its intersection with the truth, int32 (257,).

    >>> area, intersection = count_levels(np.array([[0, 100, 200]], np.uint8), np.array([[False, False, True]]))
    >>> area[[0, 100, 150, 256]].tolist(), intersection[[0, 100, 150, 256]].tolist()
    ([3, 2, 1, 0], [1, 1, 1, 0])
    """
    # Truth is small: count only around it. Masks are decoded column by column, and OpenCV would transpose them first.
    y, x, height, width = cv2.boundingRect(truth.T.view(np.uint8))
    box = np.s_[y : y + height, x : x + width]
    within = _cumulative(full_map[box], truth[box].view(np.uint8)) if width else np.zeros(LEVELS + 1, np.int32)
    return _cumulative(full_map, None), within


def _cumulative(full_map: np.ndarray, within: np.ndarray | None) -> np.ndarray:
    histogram = cv2.calcHist([full_map], [0], within, [LEVELS], [0, LEVELS]).ravel()
    reached = np.cumsum(histogram[::-1], dtype=np.float64)[::-1]
    return np.append(reached, 0).astype(np.int32)


def count_image(full_map: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of one image at or above each level, class by class.

    Args:
        full_map: uint8 (height, width, outputs); planes beyond the classes are not counted.
        truth: bool (height, width, classes).

    Returns:
        Area, and its intersection with the truth, int32 (classes, 257).

    >>> area, _ = count_image(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 2), bool))
    >>> area.shape, area[:, 0].tolist()
    ((2, 257), [16, 16])
    """
    pairs = [
        count_levels(np.ascontiguousarray(full_map[:, :, index]), truth[:, :, index]) for index in range(truth.shape[2])
    ]
    return np.stack([area for area, _ in pairs]), np.stack([intersection for _, intersection in pairs])


class ImageCounts(NamedTuple):
    """Counts of one image, int32 (classes, 257); see `Tables`."""

    area: np.ndarray
    intersection: np.ndarray
    reached: np.ndarray | None


def _count_full(image: FullImage) -> ImageCounts:
    if image.ignored is None:
        return ImageCounts(*count_image(image.full_map, image.truth), None)
    counted = ~image.ignored
    classes = [np.ascontiguousarray(image.full_map[:, :, index]) for index in range(image.truth.shape[2])]
    visible = np.ascontiguousarray(counted).view(np.uint8)
    _, intersection = count_image(image.full_map, image.truth & counted[:, :, None])
    return ImageCounts(
        np.stack([_cumulative(plane, visible) for plane in classes]),
        intersection,
        np.stack([_cumulative(plane, None) for plane in classes]),
    )


def count_maps(
    fold_of: Mapping[str, int],
    readers: Sequence[MapReader],
    truth: Masks,
    label: str,
    gate: Callable[[str], float | np.ndarray] = lambda _: 1.0,
    weights: Sequence[float] | None = None,
    frame: Frame | None = None,
    classes: int | None = None,
) -> Tables:
    """Average the members' maps and count their pixels, image by image; memory does not grow with the maps' size.

    Args:
        fold_of: Fold by image id, of all images to count.
        readers: Maps of each member.
        truth: Masks by image id, at the scoring size.
        label: Title of the progress bar.
        gate: Gate probability by image id, one for all classes or float (classes,). Default: 1.
        weights: Weight of each member. Default: equal weights.
        frame: Frame of the maps. Default: they show the image as a whole.
        classes: Number of classes. Default: all outputs of the maps.

    >>> reader = type("Reader", (dict,), {"classes": 1})(a=np.full((2, 2, 1), 200, np.uint8))
    >>> truth = type("Truth", (dict,), {"ignored": lambda *_: None})(a=np.eye(2, dtype=bool)[:, :, None])
    >>> tables = count_maps({"a": 0}, [reader], truth, "counting")
    >>> score(tables, Rule(0.5, 0.5, 0.5, 1))
    0.6666666666666666
    """
    ordered = sorted(fold_of)
    n, classes = len(ordered), classes or readers[0].classes
    images = map_images(ordered, readers, truth, label, weights, _count_full, frame)
    counted = _Counted.of((n, classes, LEVELS + 1), images)
    return Tables(
        ids=np.array(ordered),
        folds=np.fromiter((fold_of[image_id] for image_id in ordered), int, n),
        gate=np.array([gate(image_id) for image_id in ordered]),
        area=counted.area,
        intersection=counted.intersection,
        truth=counted.intersection[:, :, 0].copy(),  # all truth pixels reach level 0
        reached=counted.reached,
    )


def _images_of(
    parts: Iterable[Tables], columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> Iterator[ImageCounts]:
    """Yield the counts of each image of some tables, and collect ids, folds and gates of each part."""
    for part in parts:
        columns.append((part.ids, part.folds, part.gate))
        area, intersection = np.asarray(part.area), np.asarray(part.intersection)
        reached = None if part.reached is None else np.asarray(part.reached)
        for row in range(len(part)):
            yield ImageCounts(area[row], intersection[row], None if reached is None else reached[row])


class _Counted:
    """Counts of all images, filled shard by shard: in memory, or on disk where they are several shards.

    Args:
        shape: Images, classes, levels.
        on_disk: Whether there are several shards.
    """

    def __init__(self, shape: tuple[int, int, int], on_disk: bool) -> None:
        self._shape, self._on_disk = shape, on_disk
        # Any: arrays, or files.
        self.area: Any = self._empty()
        self.intersection: Any = self._empty()
        self.reached: Any = None

    @classmethod
    def of(cls, shape: tuple[int, ...], images: Iterator[ImageCounts]) -> _Counted:
        """Return the counts of images of this shape."""
        n, classes, levels = shape
        shard = max(1, SHARD // classes)
        counted = cls((n, classes, levels), on_disk=n > shard)
        for start in range(0, n, shard):
            counted.add(start, images, min(shard, n - start))
        return counted

    def add(self, start: int, images: Iterator[ImageCounts], count: int) -> None:
        """Take the counts of the next images, of which `start` is the first."""
        # Allocated with levels contiguous, as it will be read: stacking small arrays would need the memory twice.
        shape = (count, *self._shape[1:])
        area, intersection = (np.zeros(shape, np.int32, order="F") for _ in range(2))
        reached: np.ndarray | None = None
        for row, image in enumerate(islice(images, count)):
            area[row], intersection[row] = image.area, image.intersection
            if image.reached is not None and reached is None:
                reached = area.copy(order="F")
            if reached is not None:
                reached[row] = image.area if image.reached is None else image.reached
        if not self._on_disk:
            self.area, self.intersection, self.reached = area, intersection, reached
            return
        if reached is not None and self.reached is None:
            self.reached = self._empty()
            for level in range(shape[2]):  # no image before this shard has ignored pixels
                self.reached.write_level(level, self.area[:, :, level])
        for stored, values in ((self.area, area), (self.intersection, intersection), (self.reached, reached)):
            if stored is not None:
                stored.write(start, area if values is None else values)

    def _empty(self) -> Any:
        return DiskLevels(self._shape) if self._on_disk else None


def passing(tables: Tables, rules: Rule | Sequence[Rule]) -> np.ndarray:
    """Return which images pass the gate for at least one class: mask networks see only these, bool (n,).

    >>> area, intersection = count_image(np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2, 1), bool))
    >>> tables = Tables(*map(np.array, (["a"], [0], [0.4], [area], [intersection], [[0]])))
    >>> passing(tables, Rule(0.4, 0.5, 0.5, 0)).tolist(), passing(tables, Rule(0.5, 0.5, 0.5, 0)).tolist()
    ([True], [False])
    """
    cuts = np.array([rule.gate for rule in per_class(rules, tables.classes)])
    passed: np.ndarray = np.any(tables.gate_scores(rules) >= cuts, axis=1)
    return passed


def best_single_threshold(tables: Tables, metric: str = "mean_dice") -> tuple[float, float]:
    """Return the best rule of one threshold alone, without gate and minimum area.

    Args:
        tables: Threshold tables.
        metric: Name of the metric. Default: "mean_dice".

    Returns:
        Threshold and score; of equally good thresholds, the middle one.

    >>> area, intersection = count_image(np.array([[[0], [255]]], np.uint8), np.array([[[False], [True]]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[1]])))
    >>> best_single_threshold(tables)
    (0.5019607843137255, 1.0)
    """
    levels = range(1, LEVELS)
    scores = [score(tables, Rule(gate=0.0, upper=t / 255, lower=t / 255, min_area=0), metric) for t in levels]
    best = np.flatnonzero(np.array(scores) >= max(scores) - 1e-12)
    middle = int(best[len(best) // 2])
    return levels[middle] / 255, float(scores[middle])


class Scorable(Protocol):
    """Images on which a rule can be scored: threshold tables, or components."""

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def truth(self) -> np.ndarray: ...

    @property
    def folds(self) -> np.ndarray: ...

    def counts(self, rules: Rule | Sequence[Rule]) -> tuple[np.ndarray, np.ndarray]: ...

    @property
    def gate(self) -> np.ndarray: ...

    def gate_scores(self, rules: Rule | Sequence[Rule]) -> np.ndarray: ...

    def of_class(self, index: int) -> Self: ...

    @property
    def levels(self) -> Sequence[int]:
        """Lower thresholds at which rules can be scored, ascending."""
        ...

    def subset(self, chosen: np.ndarray) -> Self: ...


def worths(
    scorable: Scorable, rules: Rule | Sequence[Rule], metric: str = "mean_dice"
) -> tuple[np.ndarray, np.ndarray]:
    """Return worth and weight of each image and class under rules; see `gatemask.masks.metrics`.

    Args:
        scorable: Images to score.
        rules: One rule per class, or one for all.
        metric: Name of the metric. Default: "mean_dice".

    Returns:
        Two arrays, float (n, classes).

    >>> area, intersection = count_image(np.array([[[0], [255]]], np.uint8), np.array([[[False], [True]]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[1]])))
    >>> [values.tolist() for values in worths(tables, Rule(0.5, 0.5, 0.5, 1))]
    [[[1.0]], [[1.0]]]
    """
    return METRICS[metric](*scorable.counts(rules), scorable.truth)


def score(scorable: Scorable, rules: Rule | Sequence[Rule], metric: str = "mean_dice") -> float:
    """Return the competition's metric of rules.

    Args:
        scorable: Images to score.
        rules: One rule per class, or one for all.
        metric: Name of the metric. Default: "mean_dice".

    >>> area, intersection = count_image(np.array([[[0], [255]]], np.uint8), np.array([[[True], [True]]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[2]])))
    >>> score(tables, Rule(0.5, 0.5, 0.5, 1), "mean_iou")
    0.5
    """
    return total(*worths(scorable, rules, metric))


def dice_per_image(scorable: Scorable, rules: Rule | Sequence[Rule]) -> np.ndarray:
    """Return the Dice of each image and class under rules, for display, whatever the metric, float (n, classes).

    >>> area, intersection = count_image(np.array([[[0], [255]]], np.uint8), np.array([[[False], [True]]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[1]])))
    >>> dice_per_image(tables, Rule(0.5, 0.5, 0.5, 1)).tolist()
    [[1.0]]
    """
    scores: np.ndarray = dice_score(*scorable.counts(rules), scorable.truth)
    return scores


def all_empty_score(scorable: Scorable, metric: str = "mean_dice") -> float:
    """Return the score of a submission without any mask: the number to beat.

    >>> area, intersection = count_image(np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2, 1), bool))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[0]])))
    >>> all_empty_score(tables)
    1.0
    """
    zeros = np.zeros(scorable.truth.shape)
    return total(*METRICS[metric](zeros, zeros, scorable.truth))
