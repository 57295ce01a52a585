"""A useless member gets no weight, a killed search resumes, and no fold influences the weights it is scored by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatemask.config import Variant
from gatemask.results.tuning import Weighing
from gatemask.tuning import weighted_tables
from gatemask.tuning.members import MemberPredictions
from gatemask.tuning.weight_search import search_weights, weightings
from gatemask.tuning.weighted_tables import WeightedTables
from tests.conftest import slow
from tests.tuning.masks_in_memory import Truths

pytestmark = pytest.mark.integration  # takes seconds

SIDE, IMAGES, FOLDS = 16, 45, 3
IDS = [f"i{n:02d}" for n in range(IMAGES)]


class Reader(dict[str, np.ndarray]):
    """Maps by id in memory, in place of those of a run."""

    classes = 1


class Problem:
    """Members that see the truth through noise.

    Args:
        noise: Noise of each member's maps, in gray levels.
    """

    def __init__(self, noise: list[float], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        masks = np.zeros((IMAGES, SIDE, SIDE), bool)
        for n in range(0, IMAGES, 2):
            y, x = rng.integers(0, SIDE - 6, 2)
            masks[n, y : y + 6, x : x + 6] = True
        members = [np.clip(rng.normal(90 + 90 * masks, amount), 0, 255).astype(np.uint8) for amount in noise]
        self.readers = [Reader(zip(IDS, maps[..., None], strict=True)) for maps in members]
        self.truth = Truths(dict(zip(IDS, masks[..., None], strict=True)))
        self.fold_of = {i: n % FOLDS for n, i in enumerate(IDS)}
        self.gate = dict(zip(IDS, rng.random(IMAGES).tolist(), strict=True))

    def predictions(self, **changes: Any) -> MemberPredictions:
        fields: dict[str, Any] = {
            "fold_of": self.fold_of,
            "gates": [self.gate],
            "gate": self.gate,
            "readers": self.readers,
            "views": [1] * len(self.readers),
            "truth": self.truth,
        }
        return MemberPredictions(**{**fields, **changes})

    def search(
        self, scratch: Path, candidates: int = 7, inputs: str = "a", **changes: Any
    ) -> tuple[list[float], Weighing]:
        weighted = WeightedTables(self.predictions(**changes), scratch, inputs)
        return search_weights(weighted, "mean_dice", Variant(), candidates, seed=0)


def test_a_useless_member_gets_little_weight_and_the_score_rises(tmp_path: Path) -> None:
    weights, weighing = Problem([40, 400]).search(tmp_path / "scratch", 12)
    assert weighing.taken
    assert weighing.cross_fitted is not None
    assert weighing.equal_cross_fitted is not None
    assert weighing.cross_fitted > weighing.equal_cross_fitted
    assert weights[0] > 0.8
    assert sum(weights) == pytest.approx(1)
    best = max(weighing.tried, key=lambda tried: tried.in_sample)
    assert weights == best.weights
    assert best.in_sample > weighing.tried[0].in_sample


@pytest.mark.integration
def test_equal_weights_stay_where_tuned_ones_are_not_better(tmp_path: Path) -> None:
    taken = 0
    for seed in range(4):
        weights, weighing = Problem([120, 120, 120], seed).search(tmp_path / str(seed), 10)
        taken += weighing.taken
        assert weighing.cross_fitted is not None
        assert weighing.equal_cross_fitted is not None
        assert weighing.taken == (weighing.cross_fitted > weighing.equal_cross_fitted)
        if not weighing.taken:
            assert weights == weighing.tried[0].weights == pytest.approx([1 / 3] * 3)
    assert taken < 4


@pytest.mark.integration
def test_a_killed_search_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, scratch = Problem([60, 90]), tmp_path / "scratch"
    expected = problem.search(scratch)
    files = sorted(scratch.iterdir())
    assert len(files) == len(expected[1].tried) == 7
    for path in files[::2]:
        path.unlink()
    counted, count_maps = [], weighted_tables.count_maps
    monkeypatch.setattr(weighted_tables, "count_maps", lambda *args: counted.append(1) or count_maps(*args))
    assert problem.search(scratch) == expected
    assert len(counted) == len(files[::2]), "tables on disk are not counted again"
    problem.search(scratch, inputs="b")
    assert len(counted) == len(files[::2]) + 7, "other predictions need other tables"


def test_a_single_member_has_all_the_weight(tmp_path: Path) -> None:
    weights, weighing = Problem([60]).search(tmp_path / "scratch")
    assert weights == [1.0]
    assert not weighing.taken
    assert not (tmp_path / "scratch").exists(), "nothing was counted"


@pytest.mark.integration
@pytest.mark.parametrize("fold", [0, *map(slow, range(1, FOLDS))])
def test_a_fold_does_not_influence_the_weights_it_is_scored_by(tmp_path: Path, fold: int) -> None:
    problem = Problem([80, 110, 90])
    _, before = problem.search(tmp_path / "before")
    own = [i for i in IDS if problem.fold_of[i] == fold]
    turned = {i: ~problem.truth[other] for i, other in zip(own, own[1:] + own[:1], strict=True)}
    _, after = problem.search(tmp_path / "after", truth=Truths({**problem.truth, **turned}))
    assert after.per_fold[str(fold)] == before.per_fold[str(fold)]
    assert after.tried != before.tried, "scores on all images include the fold"


def test_the_equal_score_is_that_of_equal_weights_alone(tmp_path: Path) -> None:
    problem = Problem([60, 90, 120])
    _, few = problem.search(tmp_path / "a", candidates=1)
    _, more = problem.search(tmp_path / "b", candidates=9)
    assert few.equal_cross_fitted == more.equal_cross_fitted
    assert few.tried == more.tried[:4], "equal weights and each member alone are always tried"
    assert len(more.tried) == 9


def test_weightings_are_shares_and_repeat_themselves() -> None:
    listed = weightings(3, 20, seed=5)
    assert listed == weightings(3, 20, seed=5)
    assert listed[:4] == [[1 / 3] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert listed[4:] != weightings(3, 20, seed=6)[4:]
    assert listed[:10] == weightings(3, 10, seed=5), "more of them begin with the same ones"
    assert np.sum(listed, axis=1) == pytest.approx(np.ones(20))
    assert len({tuple(weights) for weights in listed}) == 20
    assert np.mean(listed[4:], axis=0) == pytest.approx([1 / 3] * 3, abs=0.06), "spread evenly"
