"""Simulated test sets, and what public scores say about private ones."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest

from gatemask.finalists import posterior, simulation
from gatemask.finalists.choose import choose, simple_pairs
from gatemask.finalists.posterior import Prior
from gatemask.finalists.simulation import Draws, PartSizes
from tests.conftest import ROOT

SIZES = PartSizes(0.3, 0.7)
NONE = np.full(3, np.nan)


def draw(worth: np.ndarray, positive: np.ndarray, groups: np.ndarray | None = None, draws: int = 600) -> Draws:
    """Simulate one class whose weights are 1.

    Args:
        worth: float (candidates, n).
        positive: bool (n,).
        groups: text (n,). Default: each image by itself.
        draws: Number of test sets.
    """
    groups = np.arange(len(positive)).astype(str) if groups is None else groups
    return simulation.simulate(worth[:, :, None], np.ones_like(worth)[:, :, None], positive, groups, SIZES, draws, 0)


def noise(candidates: int, n: int, seed: int = 0) -> np.ndarray:
    return 0.8 + 0.1 * np.random.default_rng(seed).standard_normal((candidates, n))


def test_draws_have_the_mean_and_the_error_of_test_sets() -> None:
    worth, positive = noise(2, 400), np.arange(400) % 4 == 0
    draws = draw(worth, positive, draws=3000)
    assert draws.prevalence == 0.25
    scores = {part: draws.scores(part, 0.25) for part in ("public", "private", "population")}
    deviation = worth.std(axis=1)
    for part, count in (("public", 120), ("private", 280)):
        assert scores[part].mean(axis=0) == pytest.approx(worth.mean(axis=1), abs=0.001)
        # A test set scatters around a population, which scatters around the training images.
        assert scores[part].std(axis=0) == pytest.approx(deviation * np.sqrt(1 / count + 1 / 400), rel=0.08)
    assert scores["population"].std(axis=0) == pytest.approx(deviation / 20, rel=0.08)


def test_groups_are_drawn_whole() -> None:
    positive = np.zeros(400, bool)
    groups = np.repeat(np.arange(40), 10)
    worth = np.repeat(noise(2, 40), 10, axis=1)  # images of a patient score the same
    whole = draw(worth, positive, groups.astype(str)).scores("private", 0.0).std(axis=0)
    single = draw(worth, positive).scores("private", 0.0).std(axis=0)
    assert (whole > 2.5 * single).all()


def test_candidates_are_scored_on_the_same_images() -> None:
    worth = np.repeat(noise(1, 200), 3, axis=0)
    scores = draw(worth, np.zeros(200, bool)).scores("public", 0.0)
    assert (scores == scores[:, :1]).all()


def test_another_prevalence_weighs_positive_images() -> None:
    positive = np.arange(100) < 20
    worth = np.where(positive, 0.5, 1.0)[None].repeat(2, axis=0)
    draws = draw(worth, positive, draws=2000)
    assert draws.scores("private", 0.2).mean() == pytest.approx(0.9, abs=0.005)
    assert draws.scores("private", 0.4).mean() == pytest.approx(0.8, abs=0.01)


def test_weights_and_classes_make_the_score_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    worth, weight = rng.random((2, 50, 3)), rng.random((2, 50, 3))
    draws = simulation.simulate(worth, weight, np.arange(50) < 9, np.arange(50).astype(str), SIZES, 10, 0)
    ones = np.ones_like(draws.population[:1])
    counted = draws.__class__(ones, ones, _sums(worth, weight, np.arange(50) < 9)[None], draws.prevalence)
    expected = (worth.sum(axis=1) / weight.sum(axis=1)).mean(axis=1)
    assert counted.scores("population", draws.prevalence)[0] == pytest.approx(expected)
    assert draws.public.shape == (10, 2, 2, 2, 3)


def _sums(worth: np.ndarray, weight: np.ndarray, positive: np.ndarray) -> np.ndarray:
    values = np.stack([worth, weight])  # (2 sums, candidates, n, classes)
    return np.stack([values[:, :, sign].sum(axis=2) for sign in (positive, ~positive)])


def test_a_class_without_weight_scores_one() -> None:
    worth, weight = np.full((2, 20, 2), 0.5), np.ones((2, 20, 2))
    worth[:, :, 1] = weight[:, :, 1] = 0.0
    draws = simulation.simulate(worth, weight, np.zeros(20, bool), np.arange(20).astype(str), SIZES, 5, 0)
    assert draws.scores("private", 0.0) == pytest.approx(0.75)


def test_the_pair_of_two_different_candidates_wins() -> None:
    """Two copies of the best are one chance; a slightly worse one that errs elsewhere is a second one."""
    positive = np.zeros(300, bool)
    best, other = noise(2, 300)
    best, other = best - best.mean() + 0.80, other - other.mean() + 0.7995
    choice = choose(draw(np.stack([best, best - 1e-6, other]), positive), NONE, Prior.around(0.0), 0)
    assert choice.best == (0, 2)


def test_the_public_score_moves_the_expectation() -> None:
    draws = draw(noise(3, 300), np.zeros(300, bool))
    prior = Prior.around(0.0)
    before = posterior.condition(draws, NONE, prior, 0)
    base = draws.scores("public", 0.0).mean(axis=0)
    after = posterior.condition(draws, base + np.array([0.02, 0.0, 0.0]), prior, 0)
    moved = (after.private - before.private).mean(axis=0)
    assert 0.001 < moved[0] - moved[1:].mean() < 0.02, "it counts, but not in full"
    # An offset that all candidates share says nothing about their order.
    raised = posterior.condition(draws, base + 0.02, prior, 0)
    differences = raised.private.mean(axis=0) - before.private.mean(axis=0)
    assert np.ptp(differences) < 0.002
    assert differences.min() > 0.01


def test_public_scores_narrow_what_is_expected() -> None:
    draws = draw(noise(3, 300), np.zeros(300, bool))
    prior = Prior.around(0.0)
    public = draws.scores("public", 0.0).mean(axis=0)
    assert (
        posterior.condition(draws, public, prior, 0).private.std()
        < posterior.condition(draws, NONE, prior, 0).private.std()
    )


def test_conditioned_draws_have_the_moments_of_the_normal_model() -> None:
    """With many draws, the adjustment is the formula for normal variables."""
    draws = draw(noise(3, 60), np.zeros(60, bool), draws=20_000)
    prior = Prior.around(0.0)
    public, private = draws.scores("public", 0.0), draws.scores("private", 0.0)
    seen = public.mean(axis=0) + np.array([0.02, -0.01, 0.005])
    result = posterior.condition(draws, seen, prior, 1)
    lasting, alone = result.lasting**2, result.public_only**2
    joint = np.cov(np.hstack([public, private]), rowvar=False) + posterior.OFFSET**2
    joint += np.kron([[1, 1], [1, 1]], lasting * np.eye(3)) + np.kron([[1, 0], [0, 0]], alone * np.eye(3))
    gain = joint[3:, :3] @ np.linalg.inv(joint[:3, :3])
    expected = private.mean(axis=0) + gain @ (seen - public.mean(axis=0))
    covariance = joint[3:, 3:] - gain @ joint[:3, 3:]
    assert result.private.mean(axis=0) == pytest.approx(expected, abs=0.001)
    assert np.cov(result.private, rowvar=False) == pytest.approx(covariance, rel=0.1, abs=1e-6)


def test_scores_that_scatter_widely_trust_local_and_public_scores_less() -> None:
    draws = draw(noise(6, 300), np.zeros(300, bool))
    public, prior = draws.scores("public", 0.0).mean(axis=0), Prior.around(0.0)
    near = posterior.own_variance(draws, public, prior)
    far = posterior.own_variance(draws, public + 0.05 * np.array([1, -1, 1, -1, 1, -1]), prior)
    assert far > 10 * near
    assert far == pytest.approx(5 / 7 * 6 / 5 * 0.05**2, rel=0.2), "of six scores, and a prior that counts as two"


def test_the_offset_of_public_scores_tells_the_prevalence() -> None:
    positive = np.arange(400) % 4 == 0
    worth = np.where(positive, 0.4, 0.99) + 0.02 * noise(3, 400)
    draws, prior = draw(worth, positive), Prior.around(0.25)
    higher = posterior.condition(draws, draws.scores("public", 0.35).mean(axis=0), prior, 0)
    lower = posterior.condition(draws, draws.scores("public", 0.18).mean(axis=0), prior, 0)
    assert higher.prevalences.mean() > 0.27 > 0.23 > lower.prevalences.mean()


def test_prevalence_decides_between_a_cautious_and_a_bold_candidate() -> None:
    positive = np.arange(400) % 4 == 0
    rng = np.random.default_rng(0)
    cautious = np.where(positive, 0.5, 0.98) + 0.02 * rng.standard_normal(400)
    bold = np.where(positive, 0.74, 0.9) + 0.02 * rng.standard_normal(400)
    draws = draw(np.stack([cautious, bold]), positive)
    for share, winner in ((0.1, 0), (0.5, 1)):
        private = posterior.condition(draws, NONE[:2], Prior.between(share, share), 0).private
        assert simulation.best_shares(private)[winner] > 0.8


def test_a_range_of_prevalences_is_drawn_evenly() -> None:
    draws = draw(noise(2, 100), np.arange(100) < 30)
    drawn = posterior.condition(draws, NONE[:2], Prior.between(0.1, 0.5), 0).prevalences
    assert drawn.min() == pytest.approx(0.1)
    assert drawn.max() == pytest.approx(0.5)
    assert drawn.mean() == pytest.approx(0.3, abs=0.005)


def test_one_kind_of_images_has_one_prevalence() -> None:
    draws = draw(noise(2, 50), np.ones(50, bool), draws=100)
    result = posterior.condition(draws, np.array([0.8, np.nan]), Prior.around(1.0), 0)
    assert set(result.prevalences) == {1.0}
    assert np.isfinite(result.private).all()


def test_equal_candidates_are_no_problem() -> None:
    worth = np.repeat(noise(1, 80), 3, axis=0)
    choice = choose(draw(worth, np.zeros(80, bool)), np.full(3, 0.8), Prior.around(0.0), 0)
    assert np.isfinite(choice.expected).all()


def test_simple_pairs_skip_submissions_without_a_public_score() -> None:
    local, public = np.array([0.9, 0.8, 0.7]), np.array([np.nan, 0.6, 0.7])
    assert simple_pairs(local, public) == {
        "two best local": (0, 1),
        "two best public": (2, 1),
        "best local, best public": (0, 2),
    }
    assert set(simple_pairs(local, NONE)) == {"two best local"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the benchmark, whose competitions are drawn without any code of gatemask."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "finalists", raising=False)
    return importlib.import_module("finalists")


@pytest.mark.parametrize("overfit", [False, True])
def test_the_chosen_pair_beats_simple_ways_to_choose(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, overfit: bool
) -> None:
    monkeypatch.setattr(bench, "COMPETITIONS", 40)
    monkeypatch.setattr(bench, "DRAWS", 300)
    scores = {name: float(values.mean()) for name, values in bench.results(overfit).items()}
    assert scores["chosen"] >= max(scores["two best local"], scores["two best public"])
    assert scores["chosen"] <= scores["ideal pair"]
    assert 0.75 < scores["covered"] < 0.99, "intervals of 90 %"


@pytest.mark.slow
@pytest.mark.parametrize("overfit", [False, True])
def test_over_200_competitions(bench: ModuleType, overfit: bool) -> None:
    scores = {name: float(values.mean()) for name, values in bench.results(overfit).items()}
    assert scores["chosen"] >= max(scores["two best local"], scores["two best public"])
