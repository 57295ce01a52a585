"""The cross-fitted score predicts that of new images and never uses the fold it scores."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatemask.config import Tune, Variant
from gatemask.errors import GatemaskError
from gatemask.masks.metrics import METRICS, total
from gatemask.masks.rule import Rule
from gatemask.oof.tables import all_empty_score, score, worths
from gatemask.report.sections.headline import tuned_cards
from gatemask.results.tuning import ALL_EMPTY, EVERYTHING_PASSES, CandidateSummary
from gatemask.tuning import exact
from gatemask.tuning.candidates import (
    COARSE,
    TuningImages,
    choose_candidate,
    find_candidates,
    find_without_gate,
    score_given_rules,
)
from gatemask.tuning.crossfit import bootstrap_interval, bootstrap_scores, cross_fit, resample_counts
from gatemask.tuning.printing import print_tuned
from gatemask.tuning.reference_rules import reference_rules
from tests.conftest import ROOT
from tests.data.test_manifest import competition
from tests.tuned_results import RULE, tuned_result
from tests.tuning.problems import noisy, tied

pytestmark = pytest.mark.integration  # takes seconds

HELD_OUT = 100_000


def held_out_score(rule: Rule, seed: int = 900) -> float:
    """Return the score on 100,000 new images, drawn in parts."""
    parts = [worths(noisy(seed + part, HELD_OUT // 10), rule) for part in range(10)]
    return total(np.concatenate([worth for worth, _ in parts]), np.concatenate([weight for _, weight in parts]))


@pytest.mark.integration
def test_cross_fitted_is_near_a_large_hold_out_and_in_sample_above() -> None:
    tables = noisy(13, 2000)
    candidates = find_candidates(TuningImages(tables), "mean_dice", Tune(optima=3), {i: i for i in tables.ids})
    best = candidates[choose_candidate(candidates, "best")]
    held_out = held_out_score(best.rules[0])
    assert abs(best.fit.score - held_out) < 0.005
    assert best.in_sample > best.fit.score
    assert best.in_sample > held_out
    assert candidates["exact"].in_sample >= candidates["median"].in_sample


@pytest.mark.integration
def test_the_optimism_of_small_samples_is_in_sample_only() -> None:
    hold_out = noisy(901, 20_000)
    cross_fitted, in_sample = [], []
    for seed in range(12):
        tables = noisy(seed, 300)
        rule, best = exact.search(tables, "mean_dice", levels=range(4, 256, 4))
        fit = cross_fit(tables, "mean_dice", lambda some: exact.search(some, "mean_dice", levels=range(4, 256, 4))[0])
        truly = score(hold_out, rule)
        in_sample.append(best - truly)
        cross_fitted.append(fit.score - truly)
    assert np.mean(in_sample) > 0.01
    assert abs(np.mean(cross_fitted)) < np.mean(in_sample) / 2


def test_each_fold_is_scored_by_a_rule_of_the_others() -> None:
    tables = noisy(2, 300, folds=3)
    seen: list[set[str]] = []

    def find(some: object) -> Rule:
        seen.append(set(some.ids))  # type: ignore[attr-defined]
        return exact.search(some, "mean_dice", levels=range(5, 256, 10))[0]  # type: ignore[arg-type]

    fit = cross_fit(tables, "mean_dice", find)
    assert set(fit.rules) == {0, 1, 2}
    for fold, ids in enumerate(seen):
        held = tables.folds == fold
        assert ids == set(tables.ids[~held])
        assert fit.by_fold[fold] == score(tables.subset(held), fit.rules[fold])
    assert fit.score == pytest.approx(np.mean([fit.by_fold[fold] for fold in range(3)]))


def test_a_fold_does_not_influence_its_own_rule() -> None:
    tables = noisy(4, 200, folds=4)
    other = noisy(5, 200, folds=4)
    mixed = tables.subset(np.arange(200))
    held = tables.folds == 2
    for name in ("gate", "area", "intersection", "truth"):
        getattr(mixed, name)[held] = getattr(other, name)[held]
    find = lambda some: exact.search(some, "mean_dice", levels=range(5, 256, 10))[0]  # noqa: E731
    assert cross_fit(tables, "mean_dice", find).rules[2] == cross_fit(mixed, "mean_dice", find).rules[2]


def test_fixed_rules_need_no_tuning_and_grids_are_cross_fitted() -> None:
    tables = noisy(6, 400)
    published = ROOT / "experiments/siim-acr/rules"
    seed, winner = (
        reference_rules(published / f"siim-{name}.yaml", (1024, 1024), ["x"]) for name in ("seed", "winner")
    )
    assert [len(seed), len(winner)] == [1, 8]
    hand_set = score_given_rules(TuningImages(tables), "mean_dice", seed)
    assert hand_set.fit.score == pytest.approx(hand_set.in_sample)
    grid = score_given_rules(TuningImages(tables), "mean_dice", winner)
    assert grid.in_sample == max(score(tables, rule) for rule in winner)
    assert grid.fit.score <= grid.in_sample
    assert {rule for rules in grid.fit.rules.values() for rule in rules} <= {rule for [rule] in winner}


def test_areas_of_a_grid_are_scaled_and_damaged_grids_are_rejected(tmp_path: Path) -> None:
    seed = ROOT / "experiments/siim-acr/rules/siim-seed.yaml"
    assert [rule.min_area for rule in reference_rules(seed, (512, 512), ["a", "b"])[0]] == [50, 50]
    for text in (
        "rules: 5",
        "rules: [{gate: 2}]",
        "rules: []",
        "rules: [0.5]",
        "image_pixels: 0\nrules: [{gate: 0, upper: 1, lower: 1, min_area: 1}]",
    ):
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        with pytest.raises(GatemaskError) as caught:
            reference_rules(path, (8, 8), ["a"])
        assert "grid.yaml" in str(caught.value)
    path.write_text(
        "image_pixels: 256\nrules: [{gate: 0, upper: 1, lower: 1, min_area: 8, min_component: 4, hysteresis: true}]"
    )
    assert reference_rules(path, (8, 8), ["a"]) == [[Rule(0, 1, 1, 2, min_component=1, hysteresis=True)]]


@pytest.mark.parametrize("metric", METRICS)
def test_resampled_scores_are_those_of_resampled_images(metric: str) -> None:
    tables = tied(3, images=9, classes=2)
    rule = Rule(0.2, 0.5, 0.3, 2)
    groups = np.array(["a", "a", "b", "c", "c", "c", "d", "e", "e"])
    scores = bootstrap_scores(*worths(tables, rule, metric), groups, 300, seed=5)
    for counts, resampled in zip(resample_counts(groups, 300, 5), scores, strict=True):
        copies = tables.subset(np.repeat(np.arange(9), counts))
        assert resampled == pytest.approx(score(copies, rule, metric), abs=1e-12)


def test_groups_are_drawn_whole() -> None:
    groups = np.array(["x", "y", "x", "z"])
    for counts in resample_counts(groups, 50, 0):
        assert counts[0] == counts[2]
        assert counts[0] + counts[1] + counts[3] == 3


def test_an_interval_of_many_groups_is_that_of_the_normal_law() -> None:
    rng = np.random.default_rng(0)
    worth = rng.random((4000, 1))
    low, high = bootstrap_interval(worth, np.ones_like(worth), np.arange(4000).astype(str), 2000, 0)
    spread = 1.96 * worth.std() / np.sqrt(4000)
    assert (low, high) == pytest.approx((worth.mean() - spread, worth.mean() + spread), abs=spread / 8)


def test_copies_of_an_image_make_the_interval_no_narrower_when_they_are_one_group() -> None:
    rng = np.random.default_rng(1)
    worth = rng.random((300, 1))
    widths = []
    for copies, grouped in ((1, True), (9, True), (9, False)):
        groups = np.repeat(np.arange(300), copies).astype(str) if grouped else np.arange(300 * copies).astype(str)
        many = np.repeat(worth, copies, axis=0)
        low, high = bootstrap_interval(many, np.ones_like(many), groups, 1000, 0)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    assert widths[2] < widths[0] / 2


def test_the_candidate_asked_for_is_shipped() -> None:
    tables = noisy(7, 300)
    group_of = {i: i for i in tables.ids}
    candidates = find_candidates(TuningImages(tables), "mean_dice", Tune(optima=3, ship="optuna", trials=15), group_of)
    assert set(candidates) == {"exact", "median", "optuna", EVERYTHING_PASSES, ALL_EMPTY}
    assert choose_candidate(candidates, "optuna") == "optuna"
    honest = {name: min(candidate.fit.score, candidate.in_sample) for name, candidate in candidates.items()}
    assert honest[choose_candidate(candidates, "best")] == max(honest.values())
    name = max(honest, key=lambda name: honest[name])
    worse = replace(candidates[name], in_sample=candidates[name].fit.score - 0.1)
    assert choose_candidate({**candidates, name: worse}, "best") != name, "the rule on all images is another one"


def test_each_class_is_tuned_as_if_it_were_the_only_one() -> None:
    tables = tied(1, images=12, classes=3)
    by_image, tune = {i: i for i in tables.ids}, Tune(trials=15, optima=3, ship="optuna")
    candidates = find_candidates(TuningImages(tables), "global_dice", tune, by_image)
    assert list(candidates) == ["exact", "median", "optuna", EVERYTHING_PASSES, ALL_EMPTY]
    for index in range(3):
        alone = find_candidates(TuningImages(tables.of_class(index)), "global_dice", tune, by_image)
        for name, candidate in candidates.items():
            assert candidate.rules[index] == alone[name].rules[0]
            assert candidate.in_sample_by_class[index] == pytest.approx(alone[name].in_sample)
            assert candidate.fit.score_of_class(index) == pytest.approx(alone[name].fit.score)
    for candidate in candidates.values():
        assert candidate.in_sample == pytest.approx(np.mean(candidate.in_sample_by_class))


@pytest.mark.integration
def test_bootstrap_optima_draw_whole_groups() -> None:
    tables, tune = noisy(8, 120), Tune(optima=3)
    optimum = exact.median_rule([exact.search(tables, "mean_dice", levels=COARSE)[0]])
    one_group = dict.fromkeys(tables.ids, "the only patient")
    assert find_candidates(TuningImages(tables), "mean_dice", tune, one_group)["median"].rules == [optimum]
    by_image = {i: i for i in tables.ids}
    assert find_candidates(TuningImages(tables), "mean_dice", tune, by_image)["median"].rules != [optimum]


def test_masks_alone_are_scored_without_a_gate() -> None:
    tables = noisy(11, 300)
    alone = find_without_gate(TuningImages(tables), "mean_dice", Tune()).fit.score
    gateless = Variant(gate=False)
    fit = cross_fit(tables, "mean_dice", lambda some: exact.search(some, "mean_dice", gateless)[0])
    assert alone == fit.score
    assert all(rule.gate == 0 for (rule,) in fit.rules.values())


def test_a_tuned_rule_must_beat_the_two_without_any_knowledge() -> None:
    tables = noisy(12, 200)
    # Masks that have nothing to do with the truth, on images that are mostly empty.
    useless = replace(tables, intersection=np.zeros_like(tables.intersection), gate=np.linspace(0, 1, 200))
    candidates = find_candidates(TuningImages(useless), "mean_dice", Tune(optima=3), {i: i for i in tables.ids})
    empty = candidates[ALL_EMPTY]
    assert empty.in_sample == empty.fit.score == pytest.approx(all_empty_score(useless))
    assert not useless.counts(empty.rules)[1].any()
    assert candidates[choose_candidate(candidates, "best")].fit.score >= empty.fit.score
    # A gate that says the opposite.
    wrong = replace(tables, gate=(tables.truth.sum(axis=1) == 0) * 0.9)
    candidates = find_candidates(TuningImages(wrong), "mean_dice", Tune(optima=3), {i: i for i in tables.ids})
    assert candidates[EVERYTHING_PASSES].rules[0].gate == 0
    assert candidates[choose_candidate(candidates, "best")].fit.score >= candidates[EVERYTHING_PASSES].fit.score


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shipped": ALL_EMPTY, "cross_fitted": 0.8, "all_empty": 0.8}, "leaves every mask empty"),
        ({"cross_fitted": 0.7, "all_empty": 0.75}, "would score as well or better (0.7500)"),
        ({"shipped": EVERYTHING_PASSES}, "lets every image pass"),
        ({"cross_fitted": 0.7}, "Without a gate the masks would score better (0.7500)"),
        ({}, None),
    ],
)
def test_a_useless_rule_is_reported(
    changes: dict[str, Any], words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = {
        "exact": CandidateSummary(cross_fitted=0.8, in_sample=0.9, rule=RULE),
        EVERYTHING_PASSES: CandidateSummary(cross_fitted=0.75, in_sample=0.8, rule=RULE),
        ALL_EMPTY: CandidateSummary(cross_fitted=0.5, in_sample=0.5, rule=RULE),
    }
    result = tuned_result(candidates=rules, **changes)
    assert words in result.warning if words else result.warning is None  # type: ignore[operator]
    print_tuned(result)
    assert ("warning:" in capsys.readouterr().err) == bool(words)
    assert (html.escape(str(result.warning)) in tuned_cards(competition(), result, None)) == bool(words)


@pytest.mark.integration
def test_optuna_starts_from_the_exact_optimum_of_the_images_it_is_given() -> None:
    tables = noisy(9, 200)
    settings = Tune(trials=4, ship="optuna", enqueue_exact=True)
    candidates = find_candidates(TuningImages(tables), "mean_dice", settings, {i: i for i in tables.ids})
    assert candidates["optuna"].in_sample == pytest.approx(candidates["exact"].in_sample, abs=2e-3)
    for fold, rule in candidates["optuna"].fit.rules.items():
        others = tables.subset(tables.folds != fold)
        assert score(others, rule) == pytest.approx(exact.search(others, "mean_dice")[1], abs=2e-3)
