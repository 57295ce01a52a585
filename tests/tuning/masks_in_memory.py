"""Maps and truths in memory, in place of those of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from gatemask.masks.objects import label_objects
from gatemask.oof.tables import Tables
from gatemask.tuning.members import MemberPredictions, count_tables

SIDE = 24


class Reader(dict[str, np.ndarray]):
    """Maps by image id."""

    @property
    def classes(self) -> int:
        return int(next(iter(self.values())).shape[2])


class Truths(dict[str, np.ndarray]):
    """Masks by image id, (height, width, classes), with ignored pixels and objects: their connected components."""

    def __init__(self, masks: dict[str, np.ndarray], hidden: dict[str, np.ndarray] | None = None) -> None:
        super().__init__(masks)
        self.hidden = hidden or {}

    def ignored(self, image_id: str) -> np.ndarray | None:
        return self.hidden.get(image_id)

    def objects(self, image_id: str, class_index: int) -> np.ndarray:
        mask = np.ascontiguousarray(self[image_id][:, :, class_index])
        return label_objects(mask, mask.astype(np.uint8))

    def image_size(self, image_id: str) -> tuple[int, int]:
        return self[image_id].shape[0], self[image_id].shape[1]


def predictions(seed: int, images: int = 12, classes: int = 2, **changes: Any) -> MemberPredictions:
    """Return two members that see squares of each class through noise; a third of the images is empty."""
    rng = np.random.default_rng(seed)
    ids = [f"i{n:02d}" for n in range(images)]
    truths, members = {}, [Reader(), Reader()]
    for n, name in enumerate(ids):
        mask = np.zeros((SIDE, SIDE, classes), bool)
        for index in range(classes if n % 3 else 0):
            for _ in range(2):
                y, x = rng.integers(0, SIDE - 6, 2)
                mask[y : y + rng.integers(3, 7), x : x + rng.integers(3, 7), index] = True
        truths[name] = mask
        for reader in members:
            reader[name] = np.clip(rng.normal(70 + 110 * mask, 40), 0, 255).astype(np.uint8)
    gates = dict(zip(ids, rng.random(images).tolist(), strict=True))
    fields: dict[str, Any] = {
        "fold_of": {name: n % 3 for n, name in enumerate(ids)},
        "gates": [gates],
        "gate": gates,
        "readers": members,
        "views": [1, 1],
        "truth": Truths(truths),
        "classes": classes,
    }
    return MemberPredictions(**{**fields, **changes})


def tables_of(given: MemberPredictions, weights: tuple[float, ...] = (0.5, 0.5)) -> Tables:
    return count_tables(given, list(weights))
