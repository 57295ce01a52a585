"""Figures of a tuned rule show the right numbers, and no data set breaks them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.masks.rule import Rule, level, probability
from gatemask.oof.components import Components, list_components
from gatemask.oof.tables import Scorable, Tables, dice_per_image, score
from gatemask.plots.thresholds import draw_trial_history
from gatemask.tuning import figures
from gatemask.tuning.gate_statistics import quantile_groups
from gatemask.tuning.surfaces import scores_over_gates, threshold_surface, widest_area
from tests.oof.test_tables import random_problem
from tests.tuning.test_gate_statistics import of_gate

RULE = Rule(0.4, probability(150), probability(120), 5)
NAMES = ["surface", "slices", "gate", "confusion", "dice", "folds", "optuna"]


def two_classes(seed: int, images: int = 40) -> Tables:
    parts = [random_problem(seed + k, images)[0] for k in range(2)]
    names = ("area", "intersection", "truth")
    return replace(parts[0], **{name: np.concatenate([getattr(part, name) for part in parts], 1) for name in names})


def shown(tables: Tables, counted: Scorable, rule: Rule, metric: str = "mean_dice") -> figures.FigureInput:
    rules = dict.fromkeys(np.unique(tables.folds).tolist(), rule)
    fold_scores = dict.fromkeys(rules, 0.5)
    return figures.FigureInput(tables, counted, rule, metric, rules, fold_scores, 0.5, [0.1, 0.2, 0.2], 0.3)


def test_confusion_counts_an_image_once_whatever_its_classes() -> None:
    tables, rule = two_classes(5), replace(RULE, min_area=25)
    drawn = figures.confusion_figure(tables, tables, rule)
    truth = (tables.truth > 0).any(axis=1)
    made = (tables.counts(rule)[1] > 0).any(axis=1)
    passed = tables.image_gate >= rule.gate
    assert (made != passed).any(), "both matrices would be the same"
    for ax, said in zip(drawn.axes, (passed, made), strict=False):
        shown = [int(text.get_text().split("\n")[0]) for text in ax.texts]
        assert shown == [(~truth & ~said).sum(), (~truth & said).sum(), (truth & ~said).sum(), (truth & said).sum()]
    assert f"sensitivity {(truth & made).sum() / truth.sum():.3f}" in drawn.axes[1].get_xlabel()


@pytest.mark.parametrize("metric", ["mean_dice", "dice_positives", "global_dice"])
def test_every_gate_at_once_scores_as_one_by_one(metric: str) -> None:
    for tables in (random_problem(1)[0], two_classes(2)):
        cuts = np.unique(np.concatenate([tables.image_gate, np.linspace(0, 1, 21)]))
        scores = scores_over_gates(tables, tables, RULE, metric, cuts)
        assert scores == pytest.approx([score(tables, replace(RULE, gate=float(g)), metric) for g in cuts], abs=1e-12)


def test_surface_holds_the_other_numbers_and_the_chosen_point() -> None:
    tables, _, _ = random_problem(5)
    cuts, uppers, scores = threshold_surface(tables, tables, RULE, "mean_dice", steps=5)
    assert scores.shape == (6, 6)
    assert RULE.gate in cuts
    assert RULE.upper in uppers
    assert scores[list(cuts).index(RULE.gate), list(uppers).index(RULE.upper)] == pytest.approx(score(tables, RULE))
    low = Rule(0.25, float(uppers[1]), float(uppers[1]), RULE.min_area)
    assert uppers[1] < RULE.lower, "here lower has to follow"
    assert scores[list(cuts).index(0.25), 1] == pytest.approx(score(tables, low))


def test_the_contour_surrounds_what_is_nearly_the_best() -> None:
    tables, _, _ = random_problem(5)
    mesh, near = figures.surface_figure(shown(tables, tables, RULE)).axes[0].collections
    assert near.levels == pytest.approx([mesh.get_array().max() - 0.001])
    flat = figures.surface_figure(shown(tables, tables, replace(RULE, min_area=10**6)))
    assert len(flat.axes[0].collections) == 1, "there is no edge to draw"


def test_largest_area_covers_the_masks_and_the_rule() -> None:
    tables = of_gate([0.5] * 4, [True, True, True, False])
    assert widest_area(tables, Rule(0, 0.5, 0.5, 2)) == 8
    assert widest_area(tables, Rule(0, 0.5, 0.5, 100)) == 150
    assert widest_area(tables.subset(tables.truth[:, 0] == 0), Rule(0, 0.5, 0.5, 0)) == 1


def test_slices_pass_through_the_chosen_rule() -> None:
    tables, _, _ = random_problem(6)
    drawn = figures.slices_figure(shown(tables, tables, RULE))
    for ax, name in zip(drawn.axes, ("gate", "upper", "lower", "min_area"), strict=True):
        line, chosen = ax.lines
        index = list(line.get_xdata()).index(getattr(RULE, name))
        assert chosen.get_xdata()[0] == getattr(RULE, name)
        assert line.get_ydata()[index] == pytest.approx(score(tables, RULE))


def test_dice_by_area_shows_the_mean_of_each_decile() -> None:
    tables, _, _ = random_problem(7, images=300)
    positive = tables.truth[:, 0] > 0
    dice, area = dice_per_image(tables, RULE)[positive, 0], tables.truth[positive, 0]
    left, right = figures.dice_figure(tables, RULE).axes
    assert sum(bar.get_height() for bar in left.patches) == positive.sum()
    means = [float(line.get_ydata()[0]) for line in right.lines if line.get_marker() == "o"]
    parts = quantile_groups(area, 10, figures.FEW)
    assert means == pytest.approx([dice[part].mean() for part in parts])
    assert len(means) > 5
    names = [text.get_text() for text in right.get_xticklabels()]
    assert names[0].startswith(f"{area.min()} to ")
    assert names[-1].endswith(f" to {area.max()}")


def test_folds_are_dots_and_the_shipped_rule_a_line() -> None:
    rules = {fold: Rule(0.1 * fold, 0.6, 0.2, 10 * fold) for fold in (1, 2, 3)}
    by_fold = {1: 0.7, 2: 0.9, 3: 0.8}
    tables, _, _ = random_problem(9)
    given = replace(shown(tables, tables, RULE), fold_rules=rules, fold_scores=by_fold, cross_fitted=0.81)
    axes = figures.folds_figure(given).axes
    assert len(axes) == 5
    for ax, name in zip(axes, ("gate", "upper", "lower", "min_area"), strict=False):
        line, dots = ax.lines
        assert line.get_ydata()[0] == getattr(RULE, name)
        assert list(dots.get_ydata()) == [getattr(rule, name) for rule in rules.values()]
    line, dots = axes[4].lines
    assert (line.get_ydata()[0], list(dots.get_xdata()), list(dots.get_ydata())) == (0.81, [1, 2, 3], [0.7, 0.9, 0.8])


def test_history_shows_the_best_so_far_and_every_trial() -> None:
    values = [0.5, 0.4, 0.8, 0.79, 0.81, 0.1, 0.805]
    ax = draw_trial_history(values, 0.82, "Dice").axes[0]
    lines = {line.get_label(): np.array(line.get_ydata()) for line in ax.lines}
    floor = np.quantile(values, 0.2)
    assert lines["best so far"] == pytest.approx(np.maximum.accumulate(values))
    assert lines["exact optimum 0.8200"][0] == 0.82
    assert lines["trial"].tolist() == [v for v in values if v >= floor]
    assert len(lines["trial below"]) == 2
    assert ax.get_ylim()[1] > 0.82


def draw(folder: Path, tables: Tables, counted: Scorable, rule: Rule, metric: str = "mean_dice") -> list[Path]:
    return figures.write_figures(folder, shown(tables, counted, rule, metric))


def tables_of_kind(kind: str) -> Tables:
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


@pytest.mark.integration
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("random", "mean_dice"),
        pytest.param("no positives", "dice_positives", marks=pytest.mark.slow),
        pytest.param("all positives", "mean_iou", marks=pytest.mark.slow),
        ("constant gate", "mean_dice"),
        pytest.param("three images", "global_dice", marks=pytest.mark.slow),
        ("one image", "mean_precision"),
        ("two classes", "global_dice"),
    ],
)
def test_any_tables_make_whole_pictures(kind: str, metric: str, tmp_path: Path) -> None:
    tables = tables_of_kind(kind)
    written = draw(tmp_path / "tuned", tables, tables, RULE, metric)
    assert written == [tmp_path / "tuned" / f"{name}.png" for name in NAMES]
    assert sorted((tmp_path / "tuned").iterdir()) == sorted(written), "nothing else is left behind"
    for path in written:
        picture = cv2.imread(str(path))
        assert picture is not None
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 1, f"{path.name} is empty"


@pytest.mark.integration
@pytest.mark.filterwarnings("error")
def test_a_rule_that_keeps_nothing_and_no_trials(tmp_path: Path) -> None:
    tables, _, _ = random_problem(9)
    nothing = Rule(1.0, 1.0, 1.0, 10**6)
    assert len(draw(tmp_path, tables, tables, nothing)) == len(NAMES)
    assert "no trials" in draw_trial_history([], None, "Dice").axes[0].get_title(loc="left")
    draw_trial_history([0.5], 0.5, "Dice").savefig(tmp_path / "one.png")


@pytest.mark.parametrize(("kind", "said"), [("no positives", "one kind"), ("constant gate", "the gate is constant")])
def test_the_picture_says_why_there_is_no_curve(kind: str, said: str) -> None:
    ax = figures.gate_figure(tables_of_kind(kind), RULE).axes[0]
    assert said in " ".join([ax.get_title(loc="left"), *(text.get_text() for text in ax.texts)])


@pytest.mark.integration
def test_rules_by_component_are_scored_on_components(tmp_path: Path) -> None:
    tables, maps, truths = random_problem(11, images=60)
    levels = (60, 90, 120)
    listed = [list_components(image_map, truth, levels) for image_map, truth in zip(maps, truths, strict=True)]
    parts: dict[str, dict[int, np.ndarray]] = {name: {} for name in ("item", "size", "peak", "hits")}
    for cut in levels:
        there = [(n, components[cut]) for n, components in enumerate(listed) if cut in components]
        parts["item"][cut] = np.concatenate([np.full(len(components[0]), n) for n, components in there])
        for field, name in enumerate(("size", "peak", "hits")):
            parts[name][cut] = np.concatenate([components[field] for _, components in there])
    components = Components(tables, levels, **parts)
    rule = Rule(0.4, probability(150), probability(90), 3, min_component=3)
    assert len(draw(tmp_path, tables, components, rule)) == len(NAMES)
    cuts, uppers, surface = threshold_surface(tables, components, rule, "mean_dice", steps=20)
    assert level(uppers[0]) >= 60, "no component is known below"
    assert surface[list(cuts).index(0.4), list(uppers).index(rule.upper)] == pytest.approx(score(components, rule))
    assert score(components, rule) != score(tables, replace(rule, min_component=0))
    lower = figures.slices_figure(shown(tables, components, rule)).axes[2].lines[0]
    assert [level(t) for t in lower.get_xdata()] == [60, 90, 120]


def test_the_page_shows_every_figure() -> None:
    from gatemask.report.sections.tuned_figures import FIGURES

    assert sorted(name for section in FIGURES.values() for name in section) == sorted(f"{name}.png" for name in NAMES)
