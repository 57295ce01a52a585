"""The exact search equals brute force on every metric, with many ties, and picks the middle of a plateau."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gatemask.config import Variant
from gatemask.masks.metrics import METRICS, guide
from gatemask.masks.rule import Rule, probability
from gatemask.oof.tables import all_empty_score, score
from gatemask.tuning import exact
from gatemask.tuning.optuna_search import search_with_optuna
from tests.tuning.problems import by_force, from_maps, noisy, tied

VARIANTS = [Variant(), Variant(gate=False), Variant(thresholds=1), Variant(gate=False, thresholds=1)]


@pytest.mark.integration
@pytest.mark.parametrize("metric", METRICS)
def test_equals_brute_force_on_small_problems_with_ties(metric: str) -> None:
    for seed in range(16):  # each variant four times
        variant = VARIANTS[seed % 4]
        tables = tied(seed)
        rule, best = exact.search(tables, metric, variant)
        assert best == score(tables, rule, metric)
        assert best == pytest.approx(by_force(tables, metric, variant), abs=1e-9), (seed, variant)
        assert variant.gate or rule.gate == 0
        assert variant.thresholds == 2 or rule.upper == rule.lower


@pytest.mark.integration
@pytest.mark.parametrize("metric", METRICS)
def test_the_rules_of_several_classes_are_the_best_of_each(metric: str) -> None:
    for seed in range(2):
        tables = tied(seed, classes=2 + seed % 2)
        if seed:  # each class has a gate of its own
            gates = np.random.default_rng(seed).integers(0, 4, tables.truth.shape) / 4
            tables = replace(tables, gate=gates)
        rules, best = exact.search_classes(tables, metric)
        by_class = [by_force(tables.of_class(index), metric, Variant()) for index in range(tables.classes)]
        assert best == pytest.approx(np.mean(by_class), abs=1e-9), seed
        assert score(tables, rules, metric) == pytest.approx(best, abs=1e-12)
        for index, rule in enumerate(rules):
            assert score(tables.of_class(index), rule, metric) == pytest.approx(by_class[index], abs=1e-9)


@pytest.mark.integration
def test_counts_weigh_images_as_copies_would() -> None:
    for seed in range(10):
        tables = tied(seed, images=6)
        counts = np.random.default_rng(seed).integers(0, 4, 6)
        if not counts.any():
            continue
        copies = tables.subset(np.repeat(np.arange(6), counts))
        for metric in ("mean_dice", "global_dice"):
            _, weighed = exact.search(tables, metric, counts=counts)
            assert weighed == pytest.approx(exact.search(copies, metric)[1], abs=1e-12)


@pytest.mark.integration
@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_never_below_optuna(sampler: str) -> None:
    for seed in range(2):
        tables = noisy(seed, 400)
        for metric in ("mean_dice", "global_dice", "mean_precision"):
            _, best = exact.search(tables, metric)
            assert best >= search_with_optuna(tables, metric, sampler=sampler, trials=60, seed=seed).best


@pytest.mark.integration
def test_no_neighboring_rule_is_better_on_a_large_problem() -> None:
    tables = noisy(1, 3000)
    rule, best = exact.search(tables, "mean_dice")
    rng = np.random.default_rng(0)
    for _ in range(300):
        upper = float(np.clip(rule.upper + rng.normal(0, 0.1), 0.01, 1))
        near = Rule(
            gate=float(np.clip(rule.gate + rng.normal(0, 0.05), 0, 1)),
            upper=upper,
            lower=float(np.clip(rule.lower + rng.normal(0, 0.1), 0.004, upper)),
            min_area=max(0, int(rule.min_area + rng.normal(0, 20))),
        )
        assert score(tables, near) <= best + 1e-9


def test_the_rule_is_in_the_middle_of_its_plateau() -> None:
    maps = np.zeros((4, 10, 10, 1), np.uint8)
    maps[:2, :5] = 200  # two true masks of 50 pixels at 200
    maps[2, :2] = 200  # a false alarm of 20 pixels, with a gate as high as the others
    maps[3, :5] = 200  # a false alarm of 50 pixels, with a low gate
    truths = maps > 100
    truths[2:] = False
    tables = from_maps(maps, truths, np.array([0.9, 0.8, 0.85, 0.2]))
    rule, best = exact.search(tables, "mean_dice")
    assert best == 1.0
    assert (rule.gate, rule.min_area) == (0.5, 35)  # of 0.2 to 0.8, of 21 to 50
    assert 60 <= round(rule.lower * 255) <= round(rule.upper * 255) <= 140  # of 1 to 200
    moved = [
        replace(rule, gate=0.25), replace(rule, gate=0.8), replace(rule, min_area=21), replace(rule, min_area=50)
    ]  # fmt: skip
    assert all(score(tables, rule) == 1.0 for rule in moved)


def test_the_same_rule_each_time_whatever_the_order_of_the_images() -> None:
    tables = noisy(3, 500)
    optima = {exact.search(tables.subset(np.random.default_rng(n).permutation(500)), "mean_dice")[0] for n in range(4)}
    assert len(optima) == 1


def test_where_nothing_helps_everything_is_emptied() -> None:
    tables = noisy(0, 60, positives=0.0)
    rule, best = exact.search(tables, "mean_dice")
    assert best == score(tables, rule) == 1.0
    wrong = from_maps(np.full((3, 4, 4, 1), 255, np.uint8), np.zeros((3, 4, 4, 1), bool), np.array([1.0, 1.0, 1.0]))
    rule, best = exact.search(wrong, "mean_dice")
    assert best == score(wrong, rule) == all_empty_score(wrong) == 1.0


def test_images_with_a_gate_of_nothing_can_still_pass() -> None:
    maps = np.full((2, 4, 4, 1), 255, np.uint8)
    tables = from_maps(maps, maps > 0, np.zeros(2))
    rule, best = exact.search(tables, "mean_dice")
    assert (best, rule.gate) == (1.0, 0.0)


def test_levels_can_be_fewer() -> None:
    tables = noisy(5, 300)
    rule, coarse = exact.search(tables, "mean_dice", levels=range(4, 256, 4))
    assert {rule.upper, rule.lower} <= {probability(cut) for cut in range(4, 256, 4)}
    assert coarse <= exact.search(tables, "mean_dice")[1]


def test_metrics_of_masks_are_guided_by_the_mean_dice() -> None:
    assert [guide(metric) for metric in ("global_dice", "panoptic_quality", "mine:score")] == [
        "global_dice",
        "mean_dice",
        "mean_dice",
    ]
    with pytest.raises(ValueError, match="one class at a time"):
        exact.search(tied(0, classes=2), "mean_dice")


def test_median_of_rules() -> None:
    rules = [Rule(0.1, 0.8, 0.2, 10), Rule(0.5, 0.6, 0.5, 30), Rule(0.6, 0.7, 0.4, 20)]
    assert exact.median_rule(rules) == Rule(0.5, probability(179), probability(102), 20)
