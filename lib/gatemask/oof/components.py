"""Connected components of the averaged maps, listed once: the score of component rules by look-up.

For some levels, each component of (map >= level) of each image and class is listed with its size, its highest value,
and how many of its pixels are truth. A rule needs nothing else of a component. Memory: 13 bytes per component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.masks.frame import Frame
from gatemask.masks.rule import Rule, connected_components, level, per_class
from gatemask.oof.array_files import read_arrays, select_arrays, write_arrays
from gatemask.oof.full_maps import FullImage, map_images
from gatemask.oof.store import MapReader
from gatemask.oof.tables import Tables

COLUMNS = {"item": np.int32, "size": np.int32, "peak": np.uint8, "hits": np.int32}
Listed = tuple[np.ndarray, ...]  # size, peak, hits; where pixels are ignored also the visible size


@dataclass(frozen=True)
class Components:
    """Components of n images at some levels, next to the threshold tables of the same maps.

    Args:
        tables: Threshold tables of the same images.
        levels: Lower thresholds at which components are listed, of 1 to 255, ascending.
        item: By level, image * classes + class of each component, int32 (components,), ascending.
        size: By level, size in pixels, int32 (components,).
        peak: By level, highest value of the map in the component, uint8 (components,).
        hits: By level, number of truth pixels, int32 (components,).
        visible: By level, size without ignored pixels, int32 (components,); None where no image has any.
    """

    tables: Tables
    levels: tuple[int, ...]
    item: Mapping[int, np.ndarray]
    size: Mapping[int, np.ndarray]
    peak: Mapping[int, np.ndarray]
    hits: Mapping[int, np.ndarray]
    visible: Mapping[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def ids(self) -> np.ndarray:
        """Image ids, text (n,)."""
        return self.tables.ids

    @property
    def truth(self) -> np.ndarray:
        """Number of truth pixels, int32 (n, classes)."""
        return self.tables.truth

    @property
    def folds(self) -> np.ndarray:
        """Fold in which each image was validated, int (n,)."""
        return self.tables.folds

    @property
    def gate(self) -> np.ndarray:
        """Probability of the gate ensemble, float (n, classes)."""
        return self.tables.gate

    def gate_scores(self, rules: Rule | Sequence[Rule]) -> np.ndarray:
        """Return what rules compare with their gate, float (n, classes); see `Tables.gate_scores`."""
        return self.tables.gate_scores(rules)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.tables.classes

    def subset(self, chosen: np.ndarray) -> Components:
        """Return the components of some images.

        Args:
            chosen: bool (n,).
        """
        kept = np.repeat(chosen, self.truth.shape[1])
        return self._with_items(self.tables.subset(chosen), kept)

    def of_class(self, index: int) -> Components:
        """Return the components of one class."""
        return self if self.classes == 1 else self._by_class[index]

    @cached_property
    def _by_class(self) -> list[Components]:
        numbers = np.tile(np.arange(self.classes), len(self))
        return [self._with_items(self.tables.of_class(index), numbers == index) for index in range(self.classes)]

    def _with_items(self, tables: Tables, kept: np.ndarray) -> Components:
        """Return the components of some items, bool (n * classes,), with the tables of the same."""
        renumbered = np.cumsum(kept) - 1
        columns: dict[str, dict[int, np.ndarray]] = {name: {} for name in self._columns}
        for threshold in self.levels:
            chosen = kept[self.item[threshold]]
            for name, by_level in self._columns.items():
                columns[name][threshold] = by_level[threshold][chosen]
            columns["item"][threshold] = renumbered[columns["item"][threshold]].astype(np.int32)
        return Components(tables, self.levels, **columns)

    @property
    def _columns(self) -> dict[str, Mapping[int, np.ndarray]]:
        columns = {name: getattr(self, name) for name in COLUMNS}
        return columns if self.visible is None else {**columns, "visible": self.visible}

    def counts(self, rules: Rule | Sequence[Rule]) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel counts of each image's and class's mask under rules.

        Args:
            rules: One rule per class, or one for all.

        Returns:
            Intersection with the truth, and area, float (n, classes).

        Raises:
            GatemaskError: A rule needs components, and those of its lower threshold are not listed.
        """
        by_class = per_class(rules, self.classes)
        if not any(rule.by_component for rule in by_class):
            return self.tables.counts(by_class)
        if len(by_class) > 1:
            parts = [self.of_class(index).counts(rule) for index, rule in enumerate(by_class)]
            return np.concatenate([hits for hits, _ in parts], 1), np.concatenate([area for _, area in parts], 1)
        rule = by_class[0]
        lower = level(rule.lower)
        if lower not in self.levels:
            raise GatemaskError(
                "The components of this lower threshold are not listed.",
                received=f"lower {rule.lower}, level {lower}",
                expected=f"a level of {', '.join(map(str, self.levels))}",
                do="Count them at that level, too.",
            )
        kept = self.size[lower] >= rule.min_component
        if rule.hysteresis:
            kept &= self.peak[lower] >= level(rule.upper)
        item, passed = self.item[lower][kept], self.tables.kept(rule)
        sizes = (self.size if self.visible is None else self.visible)[lower]
        sums = [np.bincount(item, column[kept], self.truth.size) for column in (self.hits[lower], sizes)]
        intersection, area = (np.where(passed, values.reshape(self.truth.shape), 0.0) for values in sums)
        return intersection, area

    def save(self, path: Path) -> Path:
        """Write components and tables as .npz and return the path."""
        columns = {
            f"{name}_{number}": by_level[number] for name, by_level in self._columns.items() for number in self.levels
        }
        arrays: dict[str, Any] = {"levels": np.array(self.levels), **columns, **self.tables.arrays()}
        return write_with(path, lambda temporary: write_arrays(temporary, arrays))

    @classmethod
    def load(cls, path: Path) -> Components:
        """Read components written by `save`.

        Raises:
            GatemaskError: The file is missing or damaged.
        """
        arrays = read_arrays(path)
        levels = tuple(select_arrays(arrays, ["levels"], path)["levels"].tolist())
        names = [*COLUMNS, "visible"] if any(name.startswith("visible_") for name in arrays) else list(COLUMNS)
        select_arrays(arrays, [f"{name}_{number}" for name in names for number in levels], path)
        columns = {name: {number: arrays[f"{name}_{number}"] for number in levels} for name in names}
        return cls(Tables.of_arrays(arrays, path), levels, **columns)


def count_components(
    fold_of: Mapping[str, int],
    readers: Sequence[MapReader],
    truth: Masks,
    label: str,
    tables: Tables,
    levels: Sequence[int],
    weights: Sequence[float] | None = None,
    frame: Frame | None = None,
) -> Components:
    """List the components of the members' averaged maps, image by image; memory is that of the components alone.

    Args:
        fold_of: Fold by image id, of all images to count.
        readers: Maps of each member.
        truth: Masks by image id, at the scoring size.
        label: Title of the progress bar.
        tables: Threshold tables of the same images and weights.
        levels: Lower thresholds, of 1 to 255.
        weights: Weight of each member. Default: equal weights.
        frame: Frame of the maps. Default: they show the image as a whole.

    Raises:
        GatemaskError: The tables belong to other images.

    >>> from gatemask.oof.tables import count_maps
    >>> reader = type("Reader", (dict,), {"classes": 1})(a=np.array([[[200], [0], [90]]], np.uint8))
    >>> truth = type("Truth", (dict,), {"ignored": lambda *_: None})(a=np.array([[[True], [False], [False]]]))
    >>> source = {"a": 0}, [reader], truth, "counting"
    >>> listed = count_components(*source, count_maps(*source), levels=[60])
    >>> [counts.item() for counts in listed.counts(Rule(0.5, 0.5, 60 / 255, 0, hysteresis=True))]
    [1.0, 1.0]
    """
    ordered, ascending = sorted(fold_of), tuple(sorted(set(levels)))
    if ordered != tables.ids.tolist():
        raise GatemaskError(
            "Tables and maps belong to different images.", received=f"{len(tables)} in tables", expected=len(ordered)
        )

    def list_classes(image: FullImage) -> list[dict[int, Listed]]:
        truth, ignored = image.truth, image.ignored if tables.reached is not None else None
        if tables.reached is not None and ignored is None:
            ignored = np.zeros(truth.shape[:2], bool)
        by_class = (np.ascontiguousarray(image.full_map[:, :, index]) for index in range(truth.shape[2]))
        return [
            list_components(class_map, truth[:, :, index], ascending, ignored)
            for index, class_map in enumerate(by_class)
        ]

    # Growing bytes instead of one array per image and level: a quarter of a million small arrays would be slow.
    names = COLUMNS if tables.reached is None else {**COLUMNS, "visible": np.int32}
    buffers = {name: {threshold: bytearray() for threshold in ascending} for name in names}
    item = 0
    for classes in map_images(ordered, readers, truth, label, weights, list_classes, frame):
        for by_level in classes:
            for threshold, listed in by_level.items():
                for name, values in zip(names, (np.full(len(listed[0]), item), *listed), strict=True):
                    buffers[name][threshold] += values.astype(names[name]).tobytes()
            item += 1
    columns = {
        name: {threshold: np.frombuffer(buffer, names[name]) for threshold, buffer in by_level.items()}
        for name, by_level in buffers.items()
    }
    return Components(tables, ascending, **columns)


def list_components(
    full_map: np.ndarray, truth: np.ndarray, levels: Sequence[int], ignored: np.ndarray | None = None
) -> dict[int, Listed]:
    """Return the components of one image and class at each level that has any.

    Args:
        full_map: uint8 (height, width).
        truth: bool (height, width).
        levels: Lower thresholds, ascending.
        ignored: Pixels that are not scored, bool (height, width). Default: all are.

    Returns:
        By level: size, peak and hits, int (components,); with `ignored` also the size without ignored pixels.

    >>> by_level = list_components(np.array([[200, 0, 90]], np.uint8), np.array([[True, False, False]]), [60, 100])
    >>> {level: [values.tolist() for values in listed] for level, listed in by_level.items()}
    {60: [[1, 1], [200, 90], [1, 0]], 100: [[1], [200], [1]]}
    """
    by_level: dict[int, Listed] = {}
    for threshold in levels:
        reached = (full_map >= threshold).view(np.uint8)
        x, y, width, height = cv2.boundingRect(reached)
        if not width:  # nothing reaches the higher levels either
            break
        # Masks of higher levels are within this box, so there is less to search from level to level.
        box = np.s_[y : y + height, x : x + width]
        full_map, truth = full_map[box], truth[box]
        label, sizes, peaks = connected_components(reached[box].view(bool), full_map)
        if ignored is None:
            hits = np.bincount(label[truth], minlength=len(sizes) + 1)[1:]
            by_level[threshold] = sizes, peaks, hits
        else:
            ignored = ignored[box]
            hits = np.bincount(label[truth & ~ignored], minlength=len(sizes) + 1)[1:]
            visible = np.bincount(label[~ignored], minlength=len(sizes) + 1)[1:]
            by_level[threshold] = sizes, peaks, hits, visible
    return by_level
