"""Threshold tables: the score of any rule by look-up, without touching a map again.

For an image, a class and a level t of 0 to 255: how many pixels of the enlarged map reach t, and how many of
those are truth. Two cumulated 256-bin histograms per image; memory 2 KB each, however large the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

import cv2
import numpy as np

from gatemask.console import progress
from gatemask.data.labels import Masks
from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.masks.metrics import METRICS, dice, total
from gatemask.masks.rule import LEVELS, Rule, average_maps, level, resize_map
from gatemask.oof.store import MapReader
from gatemask.parallel import cores, keep_freed_memory, ordered_map, single_threaded_opencv

AHEAD = 16  # images handed to the threads before the first is taken back: memory is that of so many maps


@dataclass(frozen=True)
class Tables:
    """Everything that tuning needs to know of n images.

    Args:
        ids: (n,) text.
        folds: (n,) int, the fold in which each image was validation.
        gate: (n,) float, the gate ensemble's probability.
        area: (n, classes, 257) int32, pixels that reach each level; level 256 is reached by none.
        intersection: the same, of those that are truth.
        truth: (n, classes) int32, pixels of truth.
    """

    ids: np.ndarray
    folds: np.ndarray
    gate: np.ndarray
    area: np.ndarray
    intersection: np.ndarray
    truth: np.ndarray

    def __post_init__(self) -> None:
        # A rule reads one level of all images: level by level in memory, that is one run instead of n far jumps.
        for name in ("area", "intersection"):
            object.__setattr__(self, name, np.asfortranarray(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def levels(self) -> Sequence[int]:
        return range(1, LEVELS)

    def subset(self, chosen: np.ndarray) -> Tables:
        return Tables(*(value[chosen] for value in vars(self).values()))

    def counts(self, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
        """What the rule makes of each image and class: pixels of its mask that are truth, and all of its pixels.

        Returns:
            intersection and area, float (n, classes).
        """
        if rule.by_component:
            raise GatemaskError(
                "Threshold tables cannot tell connected components apart.",
                received=f"min_component {rule.min_component}, hysteresis {rule.hysteresis}",
                do="Count them with gatemask.oof.components.",
            )
        kept, at = self.kept(rule), level(rule.lower)
        return np.where(kept, self.intersection[:, :, at], 0.0), np.where(kept, self.area[:, :, at], 0.0)

    def kept(self, rule: Rule) -> np.ndarray:
        """Which images and classes pass the gate and have enough pixels, bool (n, classes)."""
        return (self.gate >= rule.gate)[:, None] & (self.area[:, :, level(rule.upper)] >= rule.min_area)

    def save(self, path: Path) -> Path:
        return write_with(path, lambda tmp: np.savez_compressed(tmp, **vars(self)))

    @classmethod
    def load(cls, path: Path) -> Tables:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


def count_levels(full_map: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One image and class: pixels at or above each level, and those of them that are truth.

    Args:
        full_map: uint8 (height, width).
        truth: bool (height, width).

    Returns:
        area and intersection, int32 (257,).
    """
    # Truth is small: look at its surroundings only. It is decoded column by column; OpenCV would turn it round first.
    y, x, height, width = cv2.boundingRect(truth.T.view(np.uint8))
    box = np.s_[y : y + height, x : x + width]
    within = _reach(full_map[box], truth[box].view(np.uint8)) if width else np.zeros(LEVELS + 1, np.int32)
    return _reach(full_map, None), within


def _reach(full_map: np.ndarray, within: np.ndarray | None) -> np.ndarray:
    histogram = cv2.calcHist([full_map], [0], within, [LEVELS], [0, LEVELS])[:, 0]
    reached = np.cumsum(histogram[::-1], dtype=np.float64)[::-1]
    return np.append(reached, 0).astype(np.int32)


def count_maps(
    fold_of: Mapping[str, int],
    readers: Sequence[MapReader],
    truth: Masks,
    label: str,
    gate: Callable[[str], float] = lambda _: 1.0,
    weights: Sequence[float] | None = None,
) -> Tables:
    """Average the members' maps and count, image by image: memory does not grow with the size of the maps.

    Args:
        fold_of: the fold of each image that has to be there.
        readers: one a member.
        truth: masks by id, at the competition's own size.
        label: of the progress bar.
        gate: probability by id.
        weights: of the members; equal where there are none.
    """
    ordered = sorted(fold_of)
    n, classes = len(ordered), readers[0].classes
    # Allocated as it will be read, level by level: stacking n small arrays would need the memory twice.
    area, intersection = (np.zeros((n, classes, LEVELS + 1), np.int32, order="F") for _ in range(2))
    pixels = np.zeros((n, classes), np.int32)
    for at, (reached, hit) in enumerate(full_maps(ordered, readers, truth, label, weights, count_image)):
        area[at], intersection[at], pixels[at] = reached, hit, hit[:, 0]  # all pixels of truth reach level 0
    return Tables(
        ids=np.array(ordered),
        folds=np.array([fold_of[i] for i in ordered]),
        gate=np.array([gate(i) for i in ordered]),
        area=area,
        intersection=intersection,
        truth=pixels,
    )


Seen = TypeVar("Seen")


def full_maps(
    ids: Sequence[str],
    readers: Sequence[MapReader],
    truth: Masks,
    label: str,
    weights: Sequence[float] | None,
    look: Callable[[np.ndarray, np.ndarray], Seen],
) -> Iterator[Seen]:
    """What `look(averaged map at full size, truth)` finds in each image, in order, by a thread a core.

    Maps are uint8 (height, width, classes), truth bool (height, width).
    """

    def one(image_id: str) -> Seen:
        mask = truth[image_id]
        return look(resize_map(average_maps([reader[image_id] for reader in readers], weights), mask.shape), mask)

    keep_freed_memory()
    with ThreadPoolExecutor(cores()) as pool, single_threaded_opencv():
        try:
            yield from ordered_map(pool, one, progress(ids, label, len(ids)), AHEAD)
        finally:
            pool.shutdown(cancel_futures=True)


def count_image(full: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """area and intersection of one image, int32 (classes, 257)."""
    pairs = [count_levels(np.ascontiguousarray(full[:, :, c]), truth) for c in range(full.shape[2])]
    return np.stack([area for area, _ in pairs]), np.stack([both for _, both in pairs])


def single_threshold(tables: Tables, metric: str = "mean_dice") -> tuple[float, float]:
    """The best rule of one threshold alone, without gate and least area: (threshold, score); of equals the middle."""
    found = [score(tables, Rule(gate=0.0, upper=t / 255, lower=t / 255, min_area=0), metric) for t in range(1, 256)]
    best = np.flatnonzero(np.array(found) >= max(found) - 1e-12)
    at = int(best[len(best) // 2])
    return (at + 1) / 255, float(found[at])


class Scorable(Protocol):
    """What a rule can be scored on: threshold tables, or components."""

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def truth(self) -> np.ndarray: ...

    @property
    def folds(self) -> np.ndarray: ...

    def counts(self, rule: Rule) -> tuple[np.ndarray, np.ndarray]: ...

    @property
    def gate(self) -> np.ndarray: ...

    @property
    def levels(self) -> Sequence[int]:
        """The lower thresholds at which rules can be scored, rising."""
        ...

    def subset(self, chosen: np.ndarray) -> Self: ...


def worths(counted: Scorable, rule: Rule, metric: str = "mean_dice") -> tuple[np.ndarray, np.ndarray]:
    """Worth and weight of each image and class under `rule`, float (n, classes); see gatemask.masks.metrics."""
    return METRICS[metric](*counted.counts(rule), counted.truth)


def score(counted: Scorable, rule: Rule, metric: str = "mean_dice") -> float:
    """The competition's metric of `rule`."""
    return total(*worths(counted, rule, metric))


def dice_per_image(counted: Scorable, rule: Rule) -> np.ndarray:
    """Dice of each image and class under `rule`, float (n, classes): for people to look at, whatever the metric."""
    return dice(*counted.counts(rule), counted.truth)


def all_empty_score(counted: Scorable, metric: str = "mean_dice") -> float:
    """The score of a submission that predicts nothing at all: the number to beat."""
    nothing = np.zeros(counted.truth.shape)
    return total(*METRICS[metric](nothing, nothing, counted.truth))
