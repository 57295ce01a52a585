"""A gate that lets a share of the images pass: searched exactly, cross-fitted within each fold, compared, in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gatemask.config import Ensemble, Tune, Variant
from gatemask.errors import GatemaskError
from gatemask.masks.metrics import METRICS
from gatemask.masks.rule import Rule, gate_scores
from gatemask.masks.rule_files import as_values, load_rules, of_values, rule_as_dict, save_rule
from gatemask.oof.tables import Tables, passing, score
from gatemask.results.tuning import ABSOLUTE_GATE
from gatemask.tuning import exact
from gatemask.tuning.candidates import TuningImages, find_candidates
from gatemask.tuning.optuna_search import search_with_optuna
from gatemask.tuning.own_predictions import tune_maps
from tests.tuning.problems import noisy, tied

SHARE = Variant(gate="quantile")


def passing_by_hand(tables: Tables, gate: float) -> list[str]:
    """Return the ids of the images that pass: the first of those sorted by falling probability, then by id."""
    if len(np.unique(tables.gate)) == 1:
        return sorted(tables.ids.tolist())
    ranked = sorted(zip(-tables.gate[:, 0], tables.ids, strict=True))
    count = int(np.floor((1 - gate) * len(ranked) + 0.5 + 1e-9))
    return sorted(str(image_id) for _, image_id in ranked[:count])


@pytest.mark.parametrize("gate", [0.0, 0.1, 0.25, 0.5, 0.6, 0.72, 0.9, 1.0])
def test_a_share_passes_and_ids_decide_between_equals(gate: float) -> None:
    for seed in range(6):
        tables = tied(seed, images=11)
        order = np.random.default_rng(seed).permutation(11)
        for some in (tables, tables.subset(order), tables.subset(tables.folds == 0)):
            passed = passing(some, Rule(gate, 0.5, 0.5, 0, quantile=True))
            assert sorted(some.ids[passed].tolist()) == passing_by_hand(some, gate), (seed, gate)


def best_share_by_force(tables: Tables, metric: str) -> float:
    """Return the best score over all shares, levels and areas, each share as the absolute rule of its own gates."""
    best = -np.inf
    for count in range(len(tables) + 1):
        passed = np.isin(tables.ids, passing_by_hand(tables, 1 - count / len(tables)))
        gated = replace(tables, gate=passed[:, None].astype(float))
        rule, _ = exact.search(gated, metric, Variant(gate=False))
        best = max(best, _best_behind(gated, metric), score(gated, replace(rule, gate=0.5), metric))
    return best


def _best_behind(gated: Tables, metric: str) -> float:
    levels = [40, 90, 140, 200, 255]
    rules = [
        Rule(0.5, round(upper / 255, 4), round(lower / 255, 4), int(area))
        for upper in levels
        for lower in levels
        if lower <= upper
        for area in np.unique(gated.area[:, :, upper])
    ]
    return max(score(gated, rule, metric) for rule in [*rules, Rule(1.0, 1.0, 1.0, 10**9)])


@pytest.mark.integration
@pytest.mark.parametrize("metric", METRICS)
def test_the_exact_search_equals_brute_force(metric: str) -> None:
    for seed in range(3):
        tables = tied(seed, images=6)
        rule, best = exact.search(tables, metric, SHARE)
        assert rule.quantile and best == score(tables, rule, metric)
        assert best == pytest.approx(best_share_by_force(tables, metric), abs=1e-9), seed


@pytest.mark.integration
def test_resamples_count_as_copies_would() -> None:
    for seed in range(6):
        tables = tied(seed, images=6)
        counts = np.random.default_rng(seed).integers(0, 4, 6)
        copies = tables.subset(np.repeat(np.arange(6), counts))
        assert exact.search(tables, "mean_dice", SHARE, counts=counts) == exact.search(copies, "mean_dice", SHARE)


@pytest.mark.integration
def test_optuna_finds_shares_too() -> None:
    tables = noisy(3, 300)
    found = search_with_optuna(tables, "mean_dice", SHARE, trials=40)
    assert found.rule.quantile and score(tables, found.rule) >= found.best - 1e-9
    assert score(tables, found.rule) <= exact.search(tables, "mean_dice", SHARE)[1] + 1e-12


def shifted(tables: Tables) -> Tables:
    """Return tables whose gates rank the images of a fold as before, but on a scale of each fold's own."""
    gate = tables.gate[:, 0] ** (0.3 + 1.2 * tables.folds)
    return replace(tables, gate=gate)


@pytest.mark.integration
def test_each_held_out_fold_is_scored_with_its_own_share() -> None:
    tables = shifted(noisy(5, 600))
    groups = {str(name): str(name) for name in tables.ids}
    found = find_candidates(TuningImages(tables), "mean_dice", Tune(rule=SHARE, optima=3), groups)
    fit = found["exact"].fit
    for fold, rules in fit.rules.items():
        part = tables.subset(tables.folds == fold)
        assert all(rule.quantile for rule in rules)
        assert fit.by_fold[fold] == pytest.approx(score(part, rules), abs=1e-12)
        assert passing(part, rules).sum() == np.floor((1 - rules[0].gate) * len(part) + 0.5)
    assert all(rule.quantile for rule in found["median"].rules)
    absolute = found[ABSOLUTE_GATE]
    assert not any(rule.quantile for rule in absolute.rules)
    assert fit.score > absolute.fit.score + 0.005, "probabilities of folds do not agree, ranks do"
    assert ABSOLUTE_GATE not in find_candidates(TuningImages(tables), "mean_dice", Tune(optima=3), groups)


@pytest.mark.integration
def test_tune_maps_takes_a_share() -> None:
    rng = np.random.default_rng(0)
    truths = np.zeros((60, 8, 8), bool)
    truths[::3, 2:6, 2:6] = True
    maps = 0.5 * rng.random(truths.shape) + 0.4 * truths.any(axis=(1, 2), keepdims=True) * rng.random(truths.shape)
    gates = np.where(truths.any(axis=(1, 2)), 0.5, 0.2) + 0.25 * rng.random(60)
    tuned = tune_maps(maps, truths, np.arange(60) % 4, gates, settings=Tune(rule=SHARE, optima=3, ship="exact"))
    assert tuned.rules[0].quantile
    scores = tuned.gate_scores(gates)
    decided = [tuned.masks(one, row).any() for one, row in zip(maps, scores, strict=True)]
    predicted = tuned.tables.counts(tuned.rules)[1][:, 0] > 0
    assert decided == predicted.tolist() and 0 < sum(decided) < 60
    again = tuned.gate_scores(gates[:30])
    assert (again >= tuned.rules[0].gate).sum() == np.floor((1 - tuned.rules[0].gate) * 30 + 0.5)


def test_files_hold_the_share_only_where_it_is_used(tmp_path: Path) -> None:
    rule = Rule(0.78, 0.5, 0.4, 3, quantile=True)
    assert load_rules(save_rule(rule, tmp_path / "rule.yaml"), ["x"]) == [rule]
    values = as_values([rule])
    assert of_values([values] if not isinstance(values, list) else values) == [rule]  # type: ignore[list-item]
    plain = Rule(0.78, 0.5, 0.4, 3)
    assert "quantile" not in rule_as_dict(plain) and "quantile" not in as_values([plain]).model_dump()  # type: ignore[union-attr]
    with pytest.raises(GatemaskError, match="'quantile' must be true or false"):
        Rule(0.5, 0.5, 0.4, 3, quantile=1)  # type: ignore[arg-type]


def test_a_share_needs_a_gate() -> None:
    with pytest.raises(ValueError, match="quantile needs a gate"):
        Ensemble.model_validate({"mask": {"experiments": ["m"]}, "tune": {"rule": {"gate": "quantile"}}})
    constant = gate_scores(Rule(0.5, 0.5, 0.5, 0, quantile=True), np.ones((3, 1)), ["a", "b", "c"])
    assert (constant == 1).all(), "where no gate tells images apart, all pass"
