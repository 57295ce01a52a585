"""Out-of-fold scores of single images: all that a bootstrap needs, once the maps of an ensemble are gone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.masks.metrics import total
from gatemask.oof.array_files import read_arrays, select_arrays


@dataclass(frozen=True)
class ImageScores:
    """Cross-fitted scores of n images: each image is scored by a rule that was tuned on the other folds.

    Args:
        ids: Image ids, text (n,).
        folds: Fold in which each image was validated, int (n,).
        worth: Worth per image and class, float (n, classes); see gatemask.masks.metrics.
        weight: Weight per image and class, float (n, classes).
        positive: Whether the image has a mask of any class, bool (n,).

    >>> ImageScores(np.array(["a"]), np.array([0]), np.array([[0.5]]), np.ones((1, 1)), np.array([True])).score
    0.5
    """

    ids: np.ndarray
    folds: np.ndarray
    worth: np.ndarray
    weight: np.ndarray
    positive: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def score(self) -> float:
        """Score of all images together."""
        return total(self.worth, self.weight)

    def in_order(self) -> ImageScores:
        """Return the same scores in ascending order of the ids."""
        order = np.argsort(self.ids, kind="stable")
        return ImageScores(**{name: values[order] for name, values in vars(self).items()})

    def save(self, path: Path) -> Path:
        """Write the scores as .npz and return the path."""
        arrays: dict[str, Any] = vars(self)
        return write_with(path, lambda temporary: np.savez_compressed(temporary, **arrays))

    @classmethod
    def load(cls, path: Path) -> ImageScores:
        """Read scores written by `save`.

        Raises:
            GatemaskError: The file is missing or damaged.
        """
        scores = cls(**select_arrays(read_arrays(path), [field.name for field in fields(cls)], path))
        lengths = sorted({len(values) for values in vars(scores).values()})
        numbers = np.concatenate([scores.worth.ravel(), scores.weight.ravel()])
        if len(lengths) > 1 or scores.worth.shape != scores.weight.shape or not np.isfinite(numbers).all():
            raise GatemaskError(
                "A file of image scores is damaged.",
                where=path,
                received="NaN" if len(lengths) == 1 else f"arrays of {' and '.join(map(str, lengths))} images",
                do=f"Delete {path}, and run the command that made it again.",
            )
        return scores
