"""The tables that describe a split, and the picker of balanced samples."""

from __future__ import annotations

import pytest

from gatemask.data.split import pick_half_positive


@pytest.mark.parametrize(
    ("labels", "count", "positions"),
    [
        ([0, 1, 0, 1, 0, 1], 4, [1, 3, 0, 2]),
        ([0, 1, 0, 1], 3, [1, 3, 0]),  # an odd count has one positive more
        ([0, 0, 0, 1], 4, [3, 0, 1, 2]),  # too few positives
        ([1, 1, 1, 0], 4, [0, 1, 2, 3]),  # too few negatives
        ([1, 0], 9, [0, 1]),
        ([], 2, []),
    ],
)
def test_half_of_the_picked_images_are_positive(labels: list[int], count: int, positions: list[int]) -> None:
    assert pick_half_positive(labels, count).tolist() == positions
