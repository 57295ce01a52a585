"""Pictures of a rule and of its gate: the numbers in them by hand, and no data set that they stumble over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.masks.rule import Rule, level, probability
from gatemask.oof.components import Components, list_components
from gatemask.oof.tables import Tables, dice_per_image, score
from gatemask.plots import gates, thresholds
from tests.oof.test_tables import random_problem

RULE = Rule(0.4, probability(150), probability(120), 5)
NAMES = ["surface", "slices", "gate", "confusion", "dice", "folds", "optuna"]


def of_gate(gate: list[float], positive: list[bool]) -> Tables:
    """Tables of which only gate and kind matter: 100 pixels, and a perfect map of 4 where there is truth."""
    truth = np.array(positive).astype(np.int32)[:, None] * 4
    reached = np.repeat(truth[:, :, None], 257, axis=2)
    reached[:, :, 256] = 0
    area = reached.copy()
    area[:, :, 0] = 100
    n = len(gate)
    return Tables(np.array([f"i{k}" for k in range(n)]), np.arange(n) % 3, np.array(gate), area, reached, truth)


def two_classes(seed: int, images: int = 40) -> Tables:
    parts = [random_problem(seed + k, images)[0] for k in range(2)]
    names = ("area", "intersection", "truth")
    return replace(parts[0], **{name: np.concatenate([getattr(one, name) for one in parts], 1) for name in names})


# --- the gate ---------------------------------------------------------------------------------------------


def test_matrix_and_rates_by_hand() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    said = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    counts = gates.matrix(truth, said)
    assert counts.tolist() == [[4, 2], [1, 3]]
    found = gates.rates(counts)
    assert found == pytest.approx(
        {"sensitivity": 3 / 4, "specificity": 4 / 6, "accuracy": 7 / 10, "precision": 3 / 5, "f1": 6 / 9}
    )
    assert set(gates.rates(np.zeros((2, 2), int)).values()) == {0.0}


def test_band_by_hand() -> None:
    # Of 20 positives one may lie below low, of 20 negatives one may reach high.
    positive = [0.10, 0.30, *np.linspace(0.5, 0.95, 18)]
    negative = [*np.linspace(0.01, 0.2, 17), 0.45, 0.6, 0.8]
    found = gates.band(of_gate([*positive, *negative], [True] * 20 + [False] * 20))
    assert found["low"] == 0.30
    assert found["high"] == np.nextafter(0.6, 1)
    inside = [g for g in positive if 0.3 <= g <= 0.6], [g for g in negative if 0.3 <= g <= 0.6]
    assert (found["positives"], found["images"]) == (len(inside[0]), len(inside[0]) + 2)
    assert found["share"] == found["images"] / 40
    decided = 20 - len(inside[0])
    assert found["decided"] == decided + 18
    assert (found["missed"], found["false_alarms"]) == (1, 1)
    assert found["sensitivity"] == pytest.approx((decided - 1) / decided)
    assert found["specificity"] == pytest.approx(17 / 18)


@pytest.mark.parametrize("seed", range(5))
def test_band_is_what_trying_every_threshold_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(150) < 0.3
    gate = np.clip(rng.normal(0.35 + 0.25 * positive, 0.2), 0, 1).round(2)  # rounded: many are equal
    found = gates.band(of_gate(gate.tolist(), positive.tolist()))
    cuts = np.unique(np.concatenate([gate, np.nextafter(gate, 2)]))
    sensitive = [t for t in cuts if (gate[positive] >= t).mean() >= 0.95]
    specific = [t for t in cuts if (gate[~positive] < t).mean() >= 0.95]
    assert (found["low"], found["high"]) == (max(sensitive), min(specific))
    assert found["images"] == ((gate >= max(sensitive)) & (gate < min(specific))).sum() > 0


def test_gates_that_tell_all_apart_have_no_band() -> None:
    found = gates.band(of_gate([0.9, 0.8, 0.2, 0.1], [True, True, False, False]))
    assert found["low"] == 0.8
    assert found["high"] == np.nextafter(0.2, 1)
    assert (found["images"], found["share"], found["decided"]) == (0, 0.0, 4)
    assert (found["missed"], found["false_alarms"]) == (0, 0)
    assert found["sensitivity"] == found["specificity"] == 1.0


def test_without_a_band_the_middle_decides() -> None:
    found = gates.band(of_gate([0.4, *[0.8] * 19, 0.7, *[0.2] * 19], [True] * 20 + [False] * 20))
    assert (found["low"], found["high"]) == (0.8, np.nextafter(0.2, 1))
    assert (found["images"], found["missed"], found["false_alarms"]) == (0, 1, 1)


@pytest.mark.parametrize("kind", [True, False])
def test_one_kind_of_image_has_neither_band_nor_auc(kind: bool) -> None:
    tables = of_gate([0.1, 0.6, 0.9], [kind] * 3)
    found = gates.gate_numbers(tables, Rule(0.5, 0.5, 0.5, 0))
    assert found["auc"] is found["band"]["low"] is found["band"]["share"] is None
    assert found["band"]["images"] == 0
    assert found["accuracy"] == pytest.approx(2 / 3 if kind else 1 / 3)


def test_a_constant_gate_is_inconclusive_everywhere() -> None:
    found = gates.gate_numbers(of_gate([0.5] * 4, [True, False, False, False]), Rule(0.5, 0.5, 0.5, 0))
    assert found["auc"] == 0.5
    assert (found["sensitivity"], found["specificity"], found["precision"]) == (1.0, 0.0, 0.25)
    assert (found["band"]["images"], found["band"]["share"], found["band"]["decided"]) == (4, 1.0, 0)
    assert found["band"]["sensitivity"] is found["band"]["specificity"] is None
    assert found["ece"] == found["brier"] == pytest.approx(0.25)  # half against a quarter; (3 * 0.5² + 0.5²) / 4


def test_calibration_by_hand() -> None:
    gate = [0.0] * 10 + [0.2] * 5 + [0.9] * 5
    positive = [False] * 9 + [True] + [True, False, False, False, False] + [True] * 4 + [False]
    tables = of_gate(gate, positive)
    predicted, observed, images = gates.calibration(tables)
    assert predicted == pytest.approx([0.0, 0.2, 0.9])
    assert observed == pytest.approx([0.1, 0.2, 0.8])
    assert images.tolist() == [10, 5, 5]
    found = gates.gate_numbers(tables, Rule(0.5, 0.5, 0.5, 0))
    assert found["ece"] == pytest.approx((10 * 0.1 + 5 * 0.0 + 5 * 0.1) / 20)
    assert found["brier"] == pytest.approx((1 + (0.8**2 + 4 * 0.2**2) + (4 * 0.1**2 + 0.9**2)) / 20)


def test_bins_of_different_probabilities_hold_equally_many() -> None:
    tables = of_gate(np.random.default_rng(0).permutation(50).tolist(), [True] * 50)
    predicted, _, images = gates.calibration(tables)
    assert images.tolist() == [5] * 10
    assert predicted == pytest.approx(np.arange(10) * 5 + 2)


@pytest.mark.parametrize(
    ("values", "parts", "least", "expected"),
    [
        ([30, 10, 20, 40], 2, 1, [[10, 20], [30, 40]]),
        (list(range(9)), 10, 3, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (list(range(10)), 10, 4, [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]),  # the last two are too few for a part
        ([7, 7, 7, 7, 7, 7, 7, 8], 4, 1, [[7] * 7, [8]]),
        ([7, 7, 7, 7, 7, 7, 7, 8], 4, 2, [[7] * 7 + [8]]),
        ([5, 5, 5], 10, 5, [[5, 5, 5]]),
        ([1], 10, 5, [[1]]),
    ],
)
def test_quantiles(values: list[int], parts: int, least: int, expected: list[list[int]]) -> None:
    found = gates.quantiles(np.array(values), parts, least)
    assert [np.array(values)[part].tolist() for part in found] == expected


def test_numbers_are_plain() -> None:
    tables, _, truths = random_problem(3, images=200)
    found = gates.gate_numbers(tables, RULE)
    assert json.loads(json.dumps(found)) == found
    positive = truths.any(axis=(1, 2))
    assert found["sensitivity"] == pytest.approx((tables.gate[positive] >= RULE.gate).mean())
    assert found["specificity"] == pytest.approx((tables.gate[~positive] < RULE.gate).mean())
    pairs = tables.gate[positive][:, None] - tables.gate[~positive][None]
    assert found["auc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_confusion_counts_an_image_once_whatever_its_classes() -> None:
    tables, rule = two_classes(5), replace(RULE, min_area=25)
    drawn = gates.confusion(tables, tables, rule)
    truth = (tables.truth > 0).any(axis=1)
    made = (tables.counts(rule)[1] > 0).any(axis=1)
    assert (made != (tables.gate >= rule.gate)).any(), "both matrices would be the same"
    for ax, said in zip(drawn.axes, (tables.gate >= rule.gate, made), strict=False):
        shown = [int(text.get_text().split("\n")[0]) for text in ax.texts]
        assert shown == [(~truth & ~said).sum(), (~truth & said).sum(), (truth & ~said).sum(), (truth & said).sum()]
    assert f"sensitivity {(truth & made).sum() / truth.sum():.3f}" in drawn.axes[1].get_xlabel()


# --- the rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["mean_dice", "dice_positives", "global_dice"])
def test_every_gate_at_once_scores_as_one_by_one(metric: str) -> None:
    for tables in (random_problem(1)[0], two_classes(2)):
        cuts = np.unique(np.concatenate([tables.gate, np.linspace(0, 1, 21)]))
        found = thresholds.over_gates(tables, tables, RULE, metric, cuts)
        assert found == pytest.approx([score(tables, replace(RULE, gate=float(g)), metric) for g in cuts], abs=1e-12)


def test_surface_holds_the_other_numbers_and_the_chosen_point() -> None:
    tables, _, _ = random_problem(5)
    cuts, uppers, found = thresholds.surface(tables, tables, RULE, "mean_dice", steps=5)
    assert found.shape == (6, 6)
    assert RULE.gate in cuts
    assert RULE.upper in uppers
    assert found[list(cuts).index(RULE.gate), list(uppers).index(RULE.upper)] == pytest.approx(score(tables, RULE))
    low = Rule(0.25, float(uppers[1]), float(uppers[1]), RULE.min_area)
    assert uppers[1] < RULE.lower, "here lower has to follow"
    assert found[list(cuts).index(0.25), 1] == pytest.approx(score(tables, low))


def test_the_contour_surrounds_what_is_nearly_the_best() -> None:
    tables, _, _ = random_problem(5)
    mesh, near = thresholds.threshold_surface(tables, tables, RULE, "mean_dice").axes[0].collections
    assert near.levels == pytest.approx([mesh.get_array().max() - 0.001])
    flat = thresholds.threshold_surface(tables, tables, replace(RULE, min_area=10**6), "mean_dice")
    assert len(flat.axes[0].collections) == 1, "there is no edge to draw"


def test_largest_area_covers_the_masks_and_the_rule() -> None:
    tables = of_gate([0.5] * 4, [True, True, True, False])
    assert thresholds.largest_area(tables, Rule(0, 0.5, 0.5, 2)) == 8
    assert thresholds.largest_area(tables, Rule(0, 0.5, 0.5, 100)) == 150
    assert thresholds.largest_area(tables.subset(tables.truth[:, 0] == 0), Rule(0, 0.5, 0.5, 0)) == 1


def test_slices_pass_through_the_chosen_rule() -> None:
    tables, _, _ = random_problem(6)
    drawn = thresholds.threshold_slices(tables, tables, RULE, "mean_dice")
    for ax, name in zip(drawn.axes, ("gate", "upper", "lower", "min_area"), strict=True):
        line, chosen = ax.lines
        at = list(line.get_xdata()).index(getattr(RULE, name))
        assert chosen.get_xdata()[0] == getattr(RULE, name)
        assert line.get_ydata()[at] == pytest.approx(score(tables, RULE))


def test_dice_by_area_shows_the_mean_of_each_decile() -> None:
    tables, _, _ = random_problem(7, images=300)
    positive = tables.truth[:, 0] > 0
    found, area = dice_per_image(tables, RULE)[positive, 0], tables.truth[positive, 0]
    left, right = thresholds.dice_by_area(tables, RULE).axes
    assert sum(bar.get_height() for bar in left.patches) == positive.sum()
    means = [float(line.get_ydata()[0]) for line in right.lines if line.get_marker() == "o"]
    parts = gates.quantiles(area, 10, thresholds.FEW)
    assert means == pytest.approx([found[part].mean() for part in parts])
    assert len(means) > 5
    names = [text.get_text() for text in right.get_xticklabels()]
    assert names[0].startswith(f"{area.min()} to ")
    assert names[-1].endswith(f" to {area.max()}")


def test_folds_are_dots_and_the_shipped_rule_a_line() -> None:
    rules = {fold: Rule(0.1 * fold, 0.6, 0.2, 10 * fold) for fold in (1, 2, 3)}
    by_fold = {1: 0.7, 2: 0.9, 3: 0.8}
    axes = thresholds.per_fold(rules, by_fold, RULE, 0.81, "mean_dice").axes
    assert len(axes) == 5
    for ax, name in zip(axes, ("gate", "upper", "lower", "min_area"), strict=False):
        line, dots = ax.lines
        assert line.get_ydata()[0] == getattr(RULE, name)
        assert list(dots.get_ydata()) == [getattr(rule, name) for rule in rules.values()]
    line, dots = axes[4].lines
    assert (line.get_ydata()[0], list(dots.get_xdata()), list(dots.get_ydata())) == (0.81, [1, 2, 3], [0.7, 0.9, 0.8])


def test_history_shows_the_best_so_far_and_every_trial() -> None:
    values = [0.5, 0.4, 0.8, 0.79, 0.81, 0.1, 0.805]
    ax = thresholds.history(values, 0.82, "mean_dice").axes[0]
    lines = {line.get_label(): np.array(line.get_ydata()) for line in ax.lines}
    floor = np.quantile(values, 0.2)
    assert lines["best so far"] == pytest.approx(np.maximum.accumulate(values))
    assert lines["exact optimum 0.8200"][0] == 0.82
    assert lines["trial"].tolist() == [v for v in values if v >= floor]
    assert len(lines["trial below"]) == 2
    assert ax.get_ylim()[1] > 0.82


# --- all of them ------------------------------------------------------------------------------------------


def draw(folder: Path, tables: Tables, counted: Tables | Components, rule: Rule, metric: str = "mean_dice") -> list:
    rules = dict.fromkeys(np.unique(tables.folds).tolist(), rule)
    scored = dict.fromkeys(rules, 0.5)
    return thresholds.draw_all(folder, tables, counted, rule, metric, rules, scored, 0.5, [0.1, 0.2, 0.2], 0.3)


def some(kind: str) -> Tables:
    tables, _, truths = random_problem(9)
    positive = truths.any(axis=(1, 2))
    return {
        "random": tables,
        "no positives": tables.subset(~positive),
        "all positives": tables.subset(positive),
        "constant gate": replace(tables, gate=np.ones(len(tables))),
        "three images": tables.subset(np.append(np.flatnonzero(positive)[:1], np.flatnonzero(~positive)[:2])),
        "one image": tables.subset(np.flatnonzero(positive)[:1]),
        "two classes": two_classes(9),
    }[kind]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("random", "mean_dice"),
        ("no positives", "dice_positives"),
        ("all positives", "mean_iou"),
        ("constant gate", "mean_dice"),
        ("three images", "global_dice"),
        ("one image", "mean_precision"),
        ("two classes", "global_dice"),
    ],
)
def test_any_tables_make_whole_pictures(kind: str, metric: str, tmp_path: Path) -> None:
    tables = some(kind)
    written = draw(tmp_path / "tuned", tables, tables, RULE, metric)
    assert written == [tmp_path / "tuned" / f"{name}.png" for name in NAMES]
    assert sorted((tmp_path / "tuned").iterdir()) == sorted(written), "nothing else is left behind"
    for path in written:
        picture = cv2.imread(str(path))
        assert picture is not None
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 1, f"{path.name} is empty"


@pytest.mark.filterwarnings("error")
def test_a_rule_that_keeps_nothing_and_no_trials(tmp_path: Path) -> None:
    tables, _, _ = random_problem(9)
    nothing = Rule(1.0, 1.0, 1.0, 10**6)
    assert len(draw(tmp_path, tables, tables, nothing)) == len(NAMES)
    assert "no trials" in thresholds.history([], None, "mean_dice").axes[0].get_title(loc="left")
    thresholds.history([0.5], 0.5, "mean_dice").savefig(tmp_path / "one.png")


@pytest.mark.parametrize(("kind", "said"), [("no positives", "one kind"), ("constant gate", "the gate is constant")])
def test_the_picture_says_why_there_is_no_curve(kind: str, said: str) -> None:
    ax = gates.roc(some(kind), RULE).axes[0]
    assert said in " ".join([ax.get_title(loc="left"), *(text.get_text() for text in ax.texts)])


def test_rules_by_component_are_scored_on_components(tmp_path: Path) -> None:
    tables, maps, truths = random_problem(11, images=60)
    levels = (60, 90, 120)
    listed = [list_components(one, truth, levels) for one, truth in zip(maps, truths, strict=True)]
    parts: dict[str, dict[int, np.ndarray]] = {name: {} for name in ("item", "size", "peak", "hits")}
    for one in levels:
        there = [(n, found[one]) for n, found in enumerate(listed) if one in found]
        parts["item"][one] = np.concatenate([np.full(len(found[0]), n) for n, found in there])
        for at, name in enumerate(("size", "peak", "hits")):
            parts[name][one] = np.concatenate([found[at] for _, found in there])
    components = Components(tables, levels, **parts)
    rule = Rule(0.4, probability(150), probability(90), 3, min_component=3)
    assert len(draw(tmp_path, tables, components, rule)) == len(NAMES)
    cuts, uppers, found = thresholds.surface(tables, components, rule, "mean_dice", steps=20)
    assert level(uppers[0]) >= 60, "no component is known below"
    assert found[list(cuts).index(0.4), list(uppers).index(rule.upper)] == pytest.approx(score(components, rule))
    assert score(components, rule) != score(tables, replace(rule, min_component=0))
    lower = thresholds.threshold_slices(tables, components, rule, "mean_dice").axes[2].lines[0]
    assert [level(t) for t in lower.get_xdata()] == [60, 90, 120]


def test_the_page_shows_every_picture_that_is_written() -> None:
    from gatemask.report.page import PICTURES

    assert sorted(name for shown in PICTURES.values() for name in shown) == sorted(f"{name}.png" for name in NAMES)
