"""Threshold tables: the score of any rule by look-up, without reading a map again.

For each image, class and level t from 0 to 255, the tables hold how many pixels of the resized map reach t, and how
many of those are truth. These are two cumulative 256-bin histograms: 2 KB per image and class, however large the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, Self, TypeVar

import cv2
import numpy as np

from gatemask.console import progress
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.masks.frame import resize_map
from gatemask.masks.metrics import METRICS, dice_score, total
from gatemask.masks.rule import LEVELS, Rule, average_maps, level
from gatemask.oof.store import MapReader
from gatemask.parallel import cores, keep_freed_memory, ordered_map, single_threaded_opencv
from gatemask.storage import storage_error

AHEAD = 16  # images in flight, which bounds memory


@dataclass(frozen=True)
class Tables:
    """Threshold tables of n images.

    Args:
        ids: Image ids, text (n,).
        folds: Fold in which each image was validated, int (n,).
        gate: Probability of the gate ensemble, float (n,).
        area: Number of pixels that reach each level, int32 (n, classes, 257); none reaches level 256.
        intersection: Number of those that are truth, int32 (n, classes, 257).
        truth: Number of truth pixels, int32 (n, classes).

    >>> area, intersection = count_image(np.array([[[0], [200]]], np.uint8), np.array([[False, True]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [0.9], [area], [intersection], [[1]])))
    >>> len(tables), [counts.tolist() for counts in tables.counts(Rule(0.5, 0.5, 0.5, 1))]
    (1, [[[1.0]], [[1.0]]])
    """

    ids: np.ndarray
    folds: np.ndarray
    gate: np.ndarray
    area: np.ndarray
    intersection: np.ndarray
    truth: np.ndarray

    def __post_init__(self) -> None:
        # A rule reads one level of all images: with levels contiguous in memory, that is one run, not n far jumps.
        for name in ("area", "intersection"):
            object.__setattr__(self, name, np.asfortranarray(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def levels(self) -> Sequence[int]:
        """Lower thresholds at which rules can be scored, ascending."""
        return range(1, LEVELS)

    def subset(self, chosen: np.ndarray) -> Tables:
        """Return the tables of some images.

        Args:
            chosen: bool (n,), or indices.
        """
        return Tables(*(value[chosen] for value in vars(self).values()))

    def counts(self, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel counts of each image's and class's mask under a rule.

        Returns:
            Intersection with the truth, and area, float (n, classes).

        Raises:
            GatemaskError: The rule needs connected components.
        """
        if rule.by_component:
            raise GatemaskError(
                "Threshold tables cannot distinguish connected components.",
                received=f"min_component {rule.min_component}, hysteresis {rule.hysteresis}",
                do="Count them with gatemask.oof.components.",
            )
        kept, lower = self.kept(rule), level(rule.lower)
        return np.where(kept, self.intersection[:, :, lower], 0.0), np.where(kept, self.area[:, :, lower], 0.0)

    def kept(self, rule: Rule) -> np.ndarray:
        """Return which images and classes pass the gate and have enough pixels, bool (n, classes)."""
        kept: np.ndarray = (self.gate >= rule.gate)[:, None] & (self.area[:, :, level(rule.upper)] >= rule.min_area)
        return kept

    def save(self, path: Path) -> Path:
        """Write the tables as .npz and return the path."""
        return write_with(path, lambda temporary: np.savez_compressed(temporary, **vars(self)))

    @classmethod
    def load(cls, path: Path) -> Tables:
        """Read tables written by `save`.

        Raises:
            GatemaskError: The file is missing or damaged.
        """
        arrays = read_arrays(path)
        return cls(**select_arrays(arrays, [field.name for field in fields(cls)], path))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz.

    Raises:
        GatemaskError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and NumPy raise almost anything on a damaged file
        if (fault := storage_error(error, path)) is not None:
            raise fault from None
        raise _damaged(path, " ".join(str(error).split()) or type(error).__name__) from None


def select_arrays(arrays: Mapping[str, np.ndarray], names: Sequence[str], path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of some names; `path` is their file, for messages.

    Raises:
        GatemaskError: One is missing.
    """
    if missing := [name for name in names if name not in arrays]:
        raise _damaged(path, f"no array '{missing[0]}'")
    return {name: arrays[name] for name in names}


def _damaged(path: Path, received: str) -> GatemaskError:
    return GatemaskError(
        "A file of counted pixels cannot be read.",
        where=path,
        received=received,
        do=f"Delete {path}, and run the command that made it again.",
    )


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
    histogram = cv2.calcHist([full_map], [0], within, [LEVELS], [0, LEVELS])[:, 0]
    reached = np.cumsum(histogram[::-1], dtype=np.float64)[::-1]
    return np.append(reached, 0).astype(np.int32)


def count_image(full_map: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of one image at or above each level, class by class.

    Args:
        full_map: uint8 (height, width, classes).
        truth: bool (height, width).

    Returns:
        Area, and its intersection with the truth, int32 (classes, 257).

    >>> area, _ = count_image(np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), bool))
    >>> area.shape, area[:, 0].tolist()
    ((2, 257), [16, 16])
    """
    pairs = [count_levels(np.ascontiguousarray(full_map[:, :, index]), truth) for index in range(full_map.shape[2])]
    return np.stack([area for area, _ in pairs]), np.stack([intersection for _, intersection in pairs])


def count_maps(
    fold_of: Mapping[str, int],
    readers: Sequence[MapReader],
    truth: Masks,
    label: str,
    gate: Callable[[str], float] = lambda _: 1.0,
    weights: Sequence[float] | None = None,
) -> Tables:
    """Average the members' maps and count their pixels, image by image; memory does not grow with the maps' size.

    Args:
        fold_of: Fold by image id, of all images to count.
        readers: Maps of each member.
        truth: Masks by image id, at the competition's own size.
        label: Title of the progress bar.
        gate: Gate probability by image id. Default: 1.
        weights: Weight of each member. Default: equal weights.

    >>> reader = type("Reader", (dict,), {"classes": 1})(a=np.full((2, 2, 1), 200, np.uint8))
    >>> tables = count_maps({"a": 0}, [reader], {"a": np.eye(2, dtype=bool)}, "counting")
    >>> score(tables, Rule(0.5, 0.5, 0.5, 1))
    0.6666666666666666
    """
    ordered = sorted(fold_of)
    n, classes = len(ordered), readers[0].classes
    # Allocated with levels contiguous, as it will be read: stacking n small arrays would need the memory twice.
    area, intersection = (np.zeros((n, classes, LEVELS + 1), np.int32, order="F") for _ in range(2))
    pixels = np.zeros((n, classes), np.int32)
    counts = map_images(ordered, readers, truth, label, weights, count_image)
    for row, (image_area, image_intersection) in enumerate(counts):
        area[row], intersection[row] = image_area, image_intersection
        pixels[row] = image_intersection[:, 0]  # all truth pixels reach level 0
    return Tables(
        ids=np.array(ordered),
        folds=np.array([fold_of[image_id] for image_id in ordered]),
        gate=np.array([gate(image_id) for image_id in ordered]),
        area=area,
        intersection=intersection,
        truth=pixels,
    )


Result = TypeVar("Result")


def map_images(
    ids: Sequence[str],
    readers: Sequence[MapReader],
    truth: Masks,
    label: str,
    weights: Sequence[float] | None,
    function: Callable[[np.ndarray, np.ndarray], Result],
) -> Iterator[Result]:
    """Yield the result of a function for each image, in order, computed by one thread per core.

    Args:
        ids: Image ids.
        readers: Maps of each member.
        truth: Masks by image id, at the competition's own size.
        label: Title of the progress bar.
        weights: Weight of each member; None for equal weights.
        function: Called with the averaged map at full size, uint8 (height, width, classes), and the truth, bool
            (height, width).

    >>> maps = {"a": np.full((2, 2, 1), 200, np.uint8)}
    >>> list(map_images(["a"], [maps], {"a": np.eye(4)}, "maps", None, lambda full, truth: full.shape))
    [(4, 4, 1)]
    """

    def work(image_id: str) -> Result:
        mask = truth[image_id]
        mask = mask.reshape(mask.shape[:2])  # one class
        averaged = average_maps([reader[image_id] for reader in readers], weights)
        return function(resize_map(averaged, mask.shape), mask)

    keep_freed_memory()
    with ThreadPoolExecutor(cores()) as pool, single_threaded_opencv():
        try:
            yield from ordered_map(pool, work, progress(ids, label, len(ids)), AHEAD)
        finally:
            pool.shutdown(cancel_futures=True)


def best_single_threshold(tables: Tables, metric: str = "mean_dice") -> tuple[float, float]:
    """Return the best rule of one threshold alone, without gate and minimum area.

    Args:
        tables: Threshold tables.
        metric: Name of the metric. Default: "mean_dice".

    Returns:
        Threshold and score; of equally good thresholds, the middle one.

    >>> area, intersection = count_image(np.array([[[0], [255]]], np.uint8), np.array([[False, True]]))
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

    def counts(self, rule: Rule) -> tuple[np.ndarray, np.ndarray]: ...

    @property
    def gate(self) -> np.ndarray: ...

    @property
    def levels(self) -> Sequence[int]:
        """Lower thresholds at which rules can be scored, ascending."""
        ...

    def subset(self, chosen: np.ndarray) -> Self: ...


def worths(scorable: Scorable, rule: Rule, metric: str = "mean_dice") -> tuple[np.ndarray, np.ndarray]:
    """Return worth and weight of each image and class under a rule; see `gatemask.masks.metrics`.

    Args:
        scorable: Images to score.
        rule: Thresholds.
        metric: Name of the metric. Default: "mean_dice".

    Returns:
        Two arrays, float (n, classes).

    >>> area, intersection = count_image(np.array([[[0], [255]]], np.uint8), np.array([[False, True]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[1]])))
    >>> [values.tolist() for values in worths(tables, Rule(0.5, 0.5, 0.5, 1))]
    [[[1.0]], [[1.0]]]
    """
    return METRICS[metric](*scorable.counts(rule), scorable.truth)


def score(scorable: Scorable, rule: Rule, metric: str = "mean_dice") -> float:
    """Return the competition's metric of a rule.

    Args:
        scorable: Images to score.
        rule: Thresholds.
        metric: Name of the metric. Default: "mean_dice".

    >>> area, intersection = count_image(np.array([[[0], [255]]], np.uint8), np.array([[True, True]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[2]])))
    >>> score(tables, Rule(0.5, 0.5, 0.5, 1), "mean_iou")
    0.5
    """
    return total(*worths(scorable, rule, metric))


def dice_per_image(scorable: Scorable, rule: Rule) -> np.ndarray:
    """Return the Dice of each image and class under a rule, for display, whatever the metric, float (n, classes).

    >>> area, intersection = count_image(np.array([[[0], [255]]], np.uint8), np.array([[False, True]]))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[1]])))
    >>> dice_per_image(tables, Rule(0.5, 0.5, 0.5, 1)).tolist()
    [[1.0]]
    """
    scores: np.ndarray = dice_score(*scorable.counts(rule), scorable.truth)
    return scores


def all_empty_score(scorable: Scorable, metric: str = "mean_dice") -> float:
    """Return the score of a submission without any mask: the number to beat.

    >>> area, intersection = count_image(np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2), bool))
    >>> tables = Tables(*map(np.array, (["a"], [0], [1.0], [area], [intersection], [[0]])))
    >>> all_empty_score(tables)
    1.0
    """
    zeros = np.zeros(scorable.truth.shape)
    return total(*METRICS[metric](zeros, zeros, scorable.truth))
