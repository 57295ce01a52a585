"""The competition's Dice, against a definition written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from gatemask.masks.metric import METRICS, dice, dice_of_masks


def by_sets(truth: np.ndarray, mask: np.ndarray) -> float:
    t, m = set(np.flatnonzero(truth)), set(np.flatnonzero(mask))
    return 1.0 if not t and not m else 2 * len(t & m) / (len(t) + len(m))


@pytest.mark.parametrize("seed", range(20))
def test_dice_counts_as_sets_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, mask = rng.random((2, 5, 5)) < rng.choice([0, 0.1, 0.5, 1], 2)[:, None, None]
    assert dice_of_masks(truth, mask) == pytest.approx(by_sets(truth, mask), abs=1e-12)


def test_empty_images_score_one_or_nothing() -> None:
    scores = dice(np.zeros(3), np.array([0.0, 4, 0]), np.array([0.0, 0, 9]))
    assert scores.tolist() == [1, 0, 0]
    assert METRICS["mean_dice"](scores) == pytest.approx(1 / 3)
