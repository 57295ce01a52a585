"""Threshold tables: the score of any rule by look-up, without touching a map again.

For an image, a class and a level t of 0 to 255: how many pixels of the enlarged map reach t, and how many of
those are truth. Two cumulated 256-bin histograms per image; memory 2 KB each, however large the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gatemask.console import progress
from gatemask.data.labels import Masks
from gatemask.files import write_with
from gatemask.masks.metric import METRICS, dice
from gatemask.masks.rule import LEVELS, Rule, average_maps, enlarge, level
from gatemask.oof.store import MapReader


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

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, chosen: np.ndarray) -> Tables:
        return Tables(*(value[chosen] for value in vars(self).values()))

    def save(self, path: Path) -> Path:
        return write_with(path, lambda tmp: np.savez_compressed(tmp, **vars(self)))

    @classmethod
    def load(cls, path: Path) -> Tables:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


def count(full_map: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One image and class: pixels at or above each level, and those of them that are truth.

    Args:
        full_map: uint8 (height, width).
        truth: bool (height, width).

    Returns:
        area and intersection, int32 (257,).
    """
    return _reach(full_map, None), _reach(full_map, truth.astype(np.uint8))


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
) -> Tables:
    """Average the members' maps and count, image by image: memory does not grow with the size of the maps.

    Args:
        fold_of: the fold of each image that has to be there.
        readers: one a member.
        truth: masks by id, at the competition's own size.
        label: of the progress bar.
        gate: probability by id.
    """
    ordered = sorted(fold_of)
    counted = [_count_image(readers, i, truth[i]) for i in progress(ordered, label, len(ordered))]
    return Tables(
        ids=np.array(ordered),
        folds=np.array([fold_of[i] for i in ordered]),
        gate=np.array([gate(i) for i in ordered]),
        area=np.stack([area for area, _, _ in counted]),
        intersection=np.stack([both for _, both, _ in counted]),
        truth=np.array([total for _, _, total in counted], np.int32),
    )


def _count_image(
    readers: Sequence[MapReader], image_id: str, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """area and intersection (classes, 257), truth per class, of the members' averaged map at full size."""
    full = enlarge(average_maps([reader[image_id] for reader in readers]), truth.shape)
    pairs = [count(np.ascontiguousarray(full[:, :, c]), truth) for c in range(full.shape[2])]
    return np.stack([area for area, _ in pairs]), np.stack([both for _, both in pairs]), [int(truth.sum())]


def single_threshold(tables: Tables, metric: str = "mean_dice") -> tuple[float, float]:
    """The best rule of one threshold alone, without gate and least area: (threshold, score); of equals the middle."""
    found = [score(tables, Rule(gate=0.0, upper=t / 255, lower=t / 255, min_area=0), metric) for t in range(1, 256)]
    best = np.flatnonzero(np.array(found) >= max(found) - 1e-12)
    at = int(best[len(best) // 2])
    return (at + 1) / 255, float(found[at])


def scores(tables: Tables, rule: Rule) -> np.ndarray:
    """Dice of each image and class under `rule`, float (n, classes)."""
    upper, lower = level(rule.upper), level(rule.lower)
    kept = (tables.gate >= rule.gate)[:, None] & (tables.area[:, :, upper] >= rule.min_area)
    area = np.where(kept, tables.area[:, :, lower], 0)
    intersection = np.where(kept, tables.intersection[:, :, lower], 0)
    return dice(intersection.astype(float), area.astype(float), tables.truth.astype(float))


def score(tables: Tables, rule: Rule, metric: str = "mean_dice") -> float:
    """The competition's metric of `rule`."""
    return METRICS[metric](scores(tables, rule))


def all_empty_score(tables: Tables, metric: str = "mean_dice") -> float:
    """The score of a submission that predicts nothing at all: the number to beat."""
    nothing = np.zeros(tables.truth.shape)
    return METRICS[metric](dice(nothing, nothing, tables.truth.astype(float)))
