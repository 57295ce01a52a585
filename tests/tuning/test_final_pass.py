"""Scores of masks at full size equal those of an independent scorer, and rules found on masks never see their fold."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from gatemask.config import Competition, Tune, Variant
from gatemask.masks.metrics import total
from gatemask.masks.rule import Rule, level, probability
from gatemask.oof.tables import score
from gatemask.results.tuning import ALL_EMPTY, EVERYTHING_PASSES, SEARCHED
from gatemask.tuning import final_pass, mask_search
from gatemask.tuning.candidates import TuningImages, find_on_tables
from gatemask.tuning.final_pass import MaskScoring
from gatemask.tuning.mask_search import MaskTables, SearchSetup, Way
from gatemask.tuning.members import MemberPredictions
from tests.data.test_manifest import competition
from tests.tuning.masks_in_memory import SIDE, Truths, predictions, tables_of

TWO = {"classes": ["a", "b"], "submission": {"class_column": "class"}}
WEIGHTS = [0.5, 0.5]


def naive_mean(given: MemberPredictions, image_id: str, weights: list[float]) -> np.ndarray:
    shares = np.array(weights) / sum(weights)
    mean = sum(share * reader[image_id].astype(float) for share, reader in zip(shares, given.readers, strict=True))
    return np.floor(mean + 0.501)


def naive_claims(rule: Rule, gate: float, plane: np.ndarray) -> np.ndarray:
    passes = gate >= rule.gate and (plane >= level(rule.upper)).sum() >= rule.min_area
    return (plane >= level(rule.lower)) & passes


def naive_dice(truth: np.ndarray, mask: np.ndarray) -> float:
    both = truth.sum() + mask.sum()
    return 1.0 if both == 0 else 2 * (truth & mask).sum() / both


def random_rules(rng: np.random.Generator, classes: int) -> list[Rule]:
    uppers = rng.uniform(0.3, 0.7, classes)
    return [
        Rule(
            float(rng.choice([0.0, 0.4])),
            round(float(u), 4),
            round(float(u * rng.uniform(0.6, 1)), 4),
            int(rng.integers(0, 30)),
        )
        for u in uppers
    ]


def test_which_competitions_are_scored_on_masks() -> None:
    kinds = [
        ({}, False, False),
        (TWO, False, False),
        ({**TWO, "exclusive": True}, True, False),
        ({"exclusive": True}, False, False),
        ({"metric": "object_precision"}, True, True),
        ({"objects": {}}, True, True),
        ({"metric": "surface_dice"}, True, True),
        ({"metric": "mine:score"}, True, True),
        ({"metric": "global_dice"}, False, False),
    ]
    for changes, scored, searched in kinds:
        comp = competition(**changes)
        assert (final_pass.scored_on_masks(comp), final_pass.searched_on_masks(comp)) == (scored, searched), changes


def test_exclusive_classes_are_scored_by_the_masks_that_are_left() -> None:
    given, rng = predictions(1), np.random.default_rng(1)
    scoring = MaskScoring.of(competition(**TWO, exclusive=True))
    fold_rules = {fold: random_rules(rng, 2) for fold in range(3)}
    worth, weight = final_pass.score_on_masks(given, WEIGHTS, scoring, [fold_rules])[0]
    overlaps = 0
    for row, name in enumerate(sorted(given.fold_of)):
        full, gate = naive_mean(given, name, WEIGHTS), given.gate[name]
        claims = [naive_claims(rule, gate, full[:, :, c]) for c, rule in enumerate(fold_rules[given.fold_of[name]])]
        both = claims[0] & claims[1]
        overlaps += both.sum()
        first = full[:, :, 0] >= full[:, :, 1]
        masks = [claims[0] & ~(both & ~first), claims[1] & ~(both & first)]
        expected = [naive_dice(given.truth[name][:, :, c], masks[c]) for c in range(2)]
        assert worth[row] == pytest.approx(expected)
    assert overlaps, "no pixel was claimed twice"
    assert (weight == 1).all()


def test_overlapping_classes_score_as_tables_do() -> None:
    given, rng = predictions(2, classes=3), np.random.default_rng(2)
    scoring = MaskScoring.of(competition(classes=["a", "b", "c"], submission={"class_column": "class"}))
    tables = tables_of(given)
    for _ in range(5):
        rules = random_rules(rng, 3)
        scored = final_pass.score_on_masks(given, WEIGHTS, scoring, [dict.fromkeys(range(3), rules)])[0]
        assert total(*scored) == pytest.approx(score(tables, rules))


def naive_object_precision(truth: np.ndarray, predicted: list[np.ndarray]) -> float:
    label, count = ndimage.label(truth, np.ones((3, 3)))
    true = [label == k for k in range(1, count + 1)]
    if not true and not predicted:
        return 1.0
    scores = []
    for threshold in np.arange(10, 20) / 20:
        hits = sum(any((t & p).sum() > threshold * (t | p).sum() for p in predicted) for t in true)
        scores.append(hits / (len(true) + len(predicted) - hits))
    return float(np.mean(scores))


def test_objects_are_scored_one_by_one_without_small_ones() -> None:
    given, rng = predictions(3, classes=1), np.random.default_rng(3)
    scoring = MaskScoring.of(competition(metric="object_precision"))
    for _ in range(4):
        rule = replace(random_rules(rng, 1)[0], min_component=int(rng.integers(0, 12)))
        scored = final_pass.score_on_masks(given, WEIGHTS, scoring, [dict.fromkeys(range(3), (rule,))])[0]
        for row, name in enumerate(sorted(given.fold_of)):
            claimed = naive_claims(rule, given.gate[name], naive_mean(given, name, WEIGHTS)[:, :, 0])
            label, count = ndimage.label(claimed, np.ones((3, 3)))
            kept = [label == k for k in range(1, count + 1) if (label == k).sum() >= rule.min_component]
            assert scored[0][row, 0] == pytest.approx(naive_object_precision(given.truth[name][:, :, 0], kept))


def test_a_metric_of_ones_own_scores_the_masks(tmp_path: Path) -> None:
    (tmp_path / "own_share.py").write_text("def score(truth, mask):\n    return float(mask.mean()), 2.0\n")
    given, rule = predictions(4, classes=1), Rule(0.0, 0.5, 0.5, 0)
    scoring = MaskScoring.of(competition(metric="own_share:score"), tmp_path)
    worth, weight = final_pass.score_on_masks(given, WEIGHTS, scoring, [dict.fromkeys(range(3), (rule,))])[0]
    shares = [(naive_mean(given, name, WEIGHTS) >= level(0.5)).mean() for name in sorted(given.fold_of)]
    assert worth[:, 0] == pytest.approx(shares)
    assert (weight == 2).all()


@pytest.mark.parametrize("changes", [{**TWO, "exclusive": True}, {**TWO, "metric": "object_precision"}])
def test_ignored_pixels_change_nothing(changes: dict[str, object]) -> None:
    given, rng = predictions(5), np.random.default_rng(5)
    hidden = {name: rng.random((SIDE, SIDE)) < 0.3 for name in list(given.fold_of)[::2]}
    flipped = {name: mask ^ hidden[name][:, :, None] if name in hidden else mask for name, mask in given.truth.items()}
    one, other = (replace(given, truth=Truths(dict(truth), hidden)) for truth in (given.truth, flipped))
    rules = [replace(rule, min_area=20) for rule in random_rules(rng, 2)]
    scoring, ways = MaskScoring.of(competition(**changes)), [dict.fromkeys(range(3), rules)]
    scored = [final_pass.score_on_masks(part, WEIGHTS, scoring, ways)[0][0] for part in (one, other)]
    if changes.get("exclusive"):
        assert (scored[0] == scored[1]).all()
        assert (scored[0] != final_pass.score_on_masks(given, WEIGHTS, scoring, ways)[0][0]).any()
    tables = [tables_of(part) for part in (one, other)]
    for name in ("area", "intersection", "truth"):
        assert (getattr(tables[0], name) == getattr(tables[1], name)).all()
    overlapping = MaskScoring.of(competition(**TWO))
    on_masks = total(*final_pass.score_on_masks(one, WEIGHTS, overlapping, ways)[0])
    assert score(tables[0], rules) == pytest.approx(on_masks), "a minimum area counts ignored pixels in both"


def test_each_fold_is_scored_by_the_weights_that_the_others_chose() -> None:
    given = predictions(6)
    comp = competition(**TWO, exclusive=True)
    candidate = find_on_tables(TuningImages(tables_of(given)), "mean_dice", Tune())
    chosen = {0: ([1.0, 0.0], [1.0]), 1: ([0.0, 1.0], [1.0]), 2: (WEIGHTS, [1.0])}
    scoring = MaskScoring.of(comp)
    found = final_pass.rescore({"exact": candidate}, given, scoring, (WEIGHTS, [1.0]), chosen)["exact"]
    folds = np.array([given.fold_of[name] for name in sorted(given.fold_of)])
    for fold, (weights, _) in chosen.items():
        alone = final_pass.score_on_masks(given, weights, scoring, [candidate.fit.rules])[0]
        assert (found.fit.worth[folds == fold] == alone[0][folds == fold]).all()
        assert found.fit.by_fold[fold] == pytest.approx(total(*(part[folds == fold] for part in alone)))
    final = final_pass.score_on_masks(given, WEIGHTS, scoring, [dict.fromkeys(range(3), candidate.rules)])[0]
    assert found.in_sample == pytest.approx(total(*final))
    assert found.in_sample == pytest.approx(np.mean(found.in_sample_by_class))


def setup(comp: Competition, **changes: object) -> SearchSetup:
    return SearchSetup(comp, Tune(trials=12, **changes), MaskScoring.of(comp), WEIGHTS)


@pytest.mark.parametrize("metric", ["object_precision", "panoptic_quality", "surface_dice"])
def test_the_search_on_masks_finds_the_best_of_all_rules_that_it_covers(metric: str) -> None:
    given = predictions(7, images=9, classes=1)
    searched = setup(competition(metric=metric))
    table = mask_search.tabulate_masks(given, tables_of(given), searched)
    few = replace(table, ways=table.ways[:3], worth=table.worth[:3], weight=table.weight[:3])
    everything = np.ones(9, bool)
    (rule,) = few.search(everything, Variant())
    best = -np.inf
    gates = [0.0, *np.unique(few.tables.gate).tolist(), 1.0]
    for way, upper, gate in product(few.ways, [*mask_search.UPPERS], gates):
        if upper >= way.lower:
            areas = np.unique(few.tables.area[:, 0, upper])
            for area in [0, *areas.tolist(), int(areas[-1]) + 1]:
                best = max(best, of_table(few, way.rule(gate, upper, int(area))))
    assert of_table(few, rule) == pytest.approx(best, abs=1e-9)
    scored = final_pass.score_on_masks(given, WEIGHTS, searched.scoring, [dict.fromkeys(range(3), (rule,))])[0]
    assert total(*scored) == pytest.approx(best, abs=1e-9), "the table holds what masks score"


def of_table(table: MaskTables, rule: Rule) -> float:
    """Return the score of a rule that makes its masks in one of the table's ways."""
    way = next(
        number
        for number, way in enumerate(table.ways)
        if (probability(way.lower), way.min_component) == (rule.lower, rule.min_component)
    )
    kept = table.tables.kept(rule)
    worth = np.where(kept, table.worth[way], table.empty_worth).sum()
    weight = np.where(kept, table.weight[way], table.empty_weight).sum()
    return 1.0 if weight == 0 else float(worth / weight)


def test_rules_found_on_masks_do_not_depend_on_their_own_fold() -> None:
    given, comp = predictions(8, images=15), competition(**TWO, metric="object_precision")
    table = mask_search.tabulate_masks(given, tables_of(given), setup(comp))
    found = mask_search.find_on_masks(table, {}, Tune(trials=12))
    assert set(found) == {SEARCHED, EVERYTHING_PASSES}
    assert all(rule.gate == 0 for rules in found[EVERYTHING_PASSES].fit.rules.values() for rule in rules)
    other = predictions(9, images=15)
    for reader, strange in zip(given.readers, other.readers, strict=True):
        for name, fold in given.fold_of.items():
            if fold == 1:
                reader[name] = strange[name]
    changed = mask_search.tabulate_masks(given, tables_of(given), setup(comp))
    again = mask_search.find_on_masks(changed, {}, Tune(trials=12))
    assert again[SEARCHED].fit.rules[1] == found[SEARCHED].fit.rules[1]
    assert again[SEARCHED].rules != found[SEARCHED].rules, "all images together tell the difference"


def test_what_is_tried_for_objects() -> None:
    plain = mask_search.ways_to_try(competition(metric="surface_dice"), Tune())
    assert {(way.min_component, way.split) for way in plain} == {(0, 0)}
    united = mask_search.ways_to_try(competition(objects={}), Tune())
    assert any(way.min_component for way in united)
    assert not any(way.split for way in united)
    split = mask_search.ways_to_try(competition(objects={"touching": "watershed"}), Tune())
    assert any(way.split > way.lower for way in split)
    assert all(way.split == 0 or way.split > way.lower for way in split)
    assert split == mask_search.ways_to_try(competition(objects={"touching": "watershed"}), Tune())
    few = mask_search.ways_to_try(competition(objects={}), Tune(), pixels=mask_search.PIXELS * 1000)
    assert mask_search.FEWEST <= len(few) < len(united) / 2
    assert Way(10, 3, 200).rule().split == probability(200)


def test_a_sample_holds_as_many_images_of_each_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    given = predictions(10, images=30)
    tables = tables_of(given)
    assert mask_search.sample(tables, given, 0).all()
    monkeypatch.setattr(mask_search, "LEAST", 12)
    monkeypatch.setattr(mask_search, "PIXELS", 1)
    chosen = mask_search.sample(tables, given, 0)
    assert np.bincount(tables.folds[chosen]).tolist() == [4, 4, 4]
    positive = (tables.truth > 0).any(axis=1)
    assert positive[chosen].any()
    assert not positive[chosen].all()
    assert ALL_EMPTY not in mask_search.find_on_masks(
        mask_search.tabulate_masks(given, tables, setup(competition(**TWO, metric="surface_dice"))), {}, Tune()
    )
