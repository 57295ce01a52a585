"""Connected components of the averaged maps, listed once: scores of component rules by look-up.

For some levels, every component of (map >= level) of every image and class: its size, its highest value, and how many
of its pixels are truth. That is all that a rule asks of a component. Memory 13 bytes each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from gatemask.data.labels import Masks
from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.masks.rule import Rule, connected_components, level
from gatemask.oof.store import MapReader
from gatemask.oof.tables import Tables, full_maps

PARTS = {"item": np.int32, "size": np.int32, "peak": np.uint8, "hits": np.int32}
TABLES = [field.name for field in fields(Tables)]
Listed = tuple[np.ndarray, np.ndarray, np.ndarray]  # size, peak, hits


@dataclass(frozen=True)
class Components:
    """Components of n images at some levels, beside the threshold tables of the same maps.

    Args:
        tables: of the same images.
        levels: the lower thresholds at which components are known, rising, of 1 to 255.
        item: by level, (components,) int32, image * classes + class, rising.
        size: by level, (components,) int32, pixels.
        peak: by level, (components,) uint8, the highest value of the map in the component.
        hits: by level, (components,) int32, pixels that are truth.
    """

    tables: Tables
    levels: tuple[int, ...]
    item: Mapping[int, np.ndarray]
    size: Mapping[int, np.ndarray]
    peak: Mapping[int, np.ndarray]
    hits: Mapping[int, np.ndarray]

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def ids(self) -> np.ndarray:
        return self.tables.ids

    @property
    def truth(self) -> np.ndarray:
        return self.tables.truth

    @property
    def folds(self) -> np.ndarray:
        return self.tables.folds

    @property
    def gate(self) -> np.ndarray:
        return self.tables.gate

    def subset(self, chosen: np.ndarray) -> Components:
        """Some of the images.

        Args:
            chosen: bool (n,).
        """
        classes = self.truth.shape[1]
        kept = np.repeat(chosen, classes)
        moved = np.cumsum(kept) - 1
        parts: dict[str, dict[int, np.ndarray]] = {name: {} for name in PARTS}
        for one in self.levels:
            of_chosen = kept[self.item[one]]
            for name in PARTS:
                parts[name][one] = getattr(self, name)[one][of_chosen]
            parts["item"][one] = moved[parts["item"][one]].astype(np.int32)
        return Components(self.tables.subset(chosen), self.levels, **parts)

    def counts(self, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
        """What the rule makes of each image and class: pixels of its mask that are truth, and all of its pixels.

        Returns:
            intersection and area, float (n, classes).

        Raises:
            GatemaskError: the rule looks at components, and those of its lower threshold were not listed.
        """
        if not rule.by_component:
            return self.tables.counts(rule)
        at = level(rule.lower)
        if at not in self.levels:
            raise GatemaskError(
                "The components of this lower threshold are not known.",
                received=f"lower {rule.lower}, level {at}",
                expected=f"a level of {', '.join(map(str, self.levels))}",
                do="Count them at that level too.",
            )
        kept = self.size[at] >= rule.min_component
        if rule.hysteresis:
            kept &= self.peak[at] >= level(rule.upper)
        item, passed = self.item[at][kept], self.tables.kept(rule)
        summed = [np.bincount(item, part[at][kept], self.truth.size) for part in (self.hits, self.size)]
        intersection, area = (np.where(passed, one.reshape(self.truth.shape), 0.0) for one in summed)
        return intersection, area

    def save(self, path: Path) -> Path:
        parts = {f"{name}_{one}": getattr(self, name)[one] for name in PARTS for one in self.levels}
        levels = np.array(self.levels)
        return write_with(path, lambda tmp: np.savez_compressed(tmp, levels=levels, **parts, **vars(self.tables)))

    @classmethod
    def load(cls, path: Path) -> Components:
        with np.load(path, allow_pickle=False) as arrays:
            levels = tuple(arrays["levels"].tolist())
            parts = {name: {one: arrays[f"{name}_{one}"] for one in levels} for name in PARTS}
            return cls(Tables(**{name: arrays[name] for name in TABLES}), levels, **parts)


def count_components(
    fold_of: Mapping[str, int],
    readers: Sequence[MapReader],
    truth: Masks,
    label: str,
    tables: Tables,
    levels: Sequence[int],
    weights: Sequence[float] | None = None,
) -> Components:
    """List the components of the members' averaged maps, image by image: memory is that of the components alone.

    Args:
        fold_of: the images.
        readers: one a member.
        truth: masks by id, at the competition's own size.
        label: of the progress bar.
        tables: of the same images and weights.
        levels: the lower thresholds, of 1 to 255.
        weights: of the members; equal where there are none.

    Raises:
        GatemaskError: the tables are of other images.
    """
    ordered, rising = sorted(fold_of), tuple(sorted(set(levels)))
    if ordered != tables.ids.tolist():
        raise GatemaskError(
            "Tables and maps are of different images.", received=f"{len(tables)} in tables", expected=len(ordered)
        )

    def look(full: np.ndarray, mask: np.ndarray) -> list[dict[int, Listed]]:
        return [list_components(np.ascontiguousarray(full[:, :, c]), mask, rising) for c in range(full.shape[2])]

    # Bytes that grow, rather than an array an image and level: a quarter of a million small arrays have their price.
    grown = {name: {one: bytearray() for one in rising} for name in PARTS}
    item = 0
    for found in full_maps(ordered, readers, truth, label, weights, look):
        for of_class in found:
            for one, (size, peak, hits) in of_class.items():
                for name, values in zip(PARTS, (np.full(len(size), item), size, peak, hits), strict=True):
                    grown[name][one] += values.astype(PARTS[name]).tobytes()
            item += 1
    parts = {name: {one: np.frombuffer(grown[name][one], PARTS[name]) for one in rising} for name in PARTS}
    return Components(tables, rising, **parts)


def list_components(full_map: np.ndarray, truth: np.ndarray, levels: Sequence[int]) -> dict[int, Listed]:
    """The components of one image and class at each level that has any.

    Args:
        full_map: uint8 (height, width).
        truth: bool (height, width).
        levels: rising.

    Returns:
        By level: size, peak and hits, int (components,).
    """
    found: dict[int, Listed] = {}
    for one in levels:
        reached = (full_map >= one).view(np.uint8)
        x, y, width, height = cv2.boundingRect(reached)
        if not width:  # nor does anything reach the higher ones
            break
        # What is mask at a higher level lies within this box: from level to level there is less to look at.
        box = np.s_[y : y + height, x : x + width]
        full_map, truth = full_map[box], truth[box]
        label, sizes, peaks = connected_components(reached[box].view(bool), full_map)
        hits = np.bincount(label[truth], minlength=len(sizes) + 1)[1:]
        found[one] = sizes, peaks, hits
    return found
