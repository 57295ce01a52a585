"""The search finds what is there, the same each time, and the cross-fitted score never looks at its own fold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from gatemask.masks.rule import Rule
from gatemask.oof.tables import Tables, count, score
from gatemask.tuning.search import cross_fit, largest_area, search, settle_gate, surface


def problem(seed: int = 0, images: int = 90) -> Tables:
    """A gate and maps that are right more often than not; folds by position."""
    rng = np.random.default_rng(seed)
    truths = np.zeros((images, 16, 16), bool)
    truths[: images // 3, 4:9, 4:9] = True
    maps = np.clip(rng.normal(70, 40, truths.shape) + 110 * truths, 0, 255).astype(np.uint8)
    counted = [count(one, truth) for one, truth in zip(maps, truths, strict=True)]
    gate = np.clip(rng.normal(0.3, 0.15, images) + 0.35 * truths.any(axis=(1, 2)), 0, 1)
    return Tables(
        ids=np.array([str(n) for n in range(images)]),
        folds=np.arange(images) % 3,
        gate=gate,
        area=np.stack([a for a, _ in counted])[:, None],
        intersection=np.stack([b for _, b in counted])[:, None],
        truth=truths.sum(axis=(1, 2)).astype(np.int32)[:, None],
    )


def test_the_search_beats_hand_set_rules_and_repeats_itself(tmp_path: Path) -> None:
    tables = problem()
    best, value = search(tables, "mean_dice", 80, seed=1, journal=tmp_path / "study.log")
    assert value == score(tables, best)
    assert value > score(tables, Rule(0.6, 0.75, 0.4, 20))
    assert search(tables, "mean_dice", 80, seed=1)[0] == best
    assert (tmp_path / "study.log").stat().st_size > 1000


def test_cross_fitting_scores_each_fold_by_a_rule_of_the_others() -> None:
    tables = problem()
    value, rules, per_image = cross_fit(tables, "mean_dice", 40, seed=0)
    assert set(rules) == {0, 1, 2}
    for fold, rule in rules.items():
        held = tables.folds == fold
        assert search(tables.subset(~held), "mean_dice", 40, 0)[0] == rule
        assert per_image[held].mean() == score(tables.subset(held), rule)
    assert value == per_image.mean()


def test_in_sample_is_the_optimistic_one() -> None:
    gaps = []
    for seed in range(5):
        tables = problem(seed, images=30)
        gaps.append(search(tables, "mean_dice", 150, 0)[1] - cross_fit(tables, "mean_dice", 150, 0)[0])
    assert np.mean(gaps) > 0


def test_the_gate_is_the_best_there_is_and_stands_in_the_middle_of_its_plateau() -> None:
    for seed in range(5):
        tables = problem(seed, images=30)
        rule = settle_gate(tables, Rule(0.97, 0.5, 0.3, 5), "mean_dice")
        dense = np.linspace(0, 1, 4001)
        by_force = np.array([score(tables, replace(rule, gate=float(g))) for g in dense])
        assert score(tables, rule) == by_force.max()
        plateau = dense[by_force == by_force.max()]
        assert plateau[0] < rule.gate < plateau[-1]


def test_surface_holds_the_other_numbers() -> None:
    tables = problem()
    rule = Rule(0.5, 0.5, 0.3, 10)
    gates, uppers, found = surface(tables, rule, "mean_dice", steps=5)
    assert found.shape == (5, 5)
    assert found[2, 3] == score(tables, Rule(float(gates[2]), float(uppers[3]), 0.3, 10))


def test_a_problem_without_positives_can_be_searched() -> None:
    tables = problem().subset(np.arange(90) >= 30)
    assert largest_area(tables) == 1
    assert search(tables, "mean_dice", 10, 0)[1] == 1.0
