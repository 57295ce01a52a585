"""Scores of single images survive a file, and damaged files are rejected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.oof.image_scores import ImageScores

SCORES = ImageScores(
    np.array(["b", "a"]), np.array([0, 1]), np.array([[0.5], [1.0]]), np.ones((2, 1)), np.array([True, False])
)


def test_a_file_holds_the_same_scores(tmp_path: Path) -> None:
    loaded = ImageScores.load(SCORES.save(tmp_path / "scores.npz"))
    for name, values in vars(SCORES).items():
        assert (getattr(loaded, name) == values).all()
    assert loaded.score == 0.75
    assert loaded.in_order().ids.tolist() == ["a", "b"]
    assert loaded.in_order().worth.tolist() == [[1.0], [0.5]]


@pytest.mark.parametrize(
    "changes",
    [{"worth": np.full((2, 1), np.nan)}, {"positive": np.array([True])}, {"weight": np.ones((2, 3))}],
    ids=["nan", "short", "classes"],
)
def test_a_damaged_file_is_rejected(tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
    path = replace(SCORES, **changes).save(tmp_path / "scores.npz")
    with pytest.raises(GatemaskError, match="damaged"):
        ImageScores.load(path)
