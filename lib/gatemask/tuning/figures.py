"""Compute and write the figures of a tuned rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from gatemask.config import metric_title
from gatemask.masks.rule import Rule, per_class
from gatemask.oof.tables import Scorable, Tables, dice_per_image, passing
from gatemask.plots import gates, thresholds
from gatemask.plots.style import save
from gatemask.tuning.gate_statistics import (
    calibration_curve,
    confusion_counts,
    confusion_rates,
    gate_numbers,
    has_mask,
    quantile_groups,
)
from gatemask.tuning.surfaces import threshold_slices, threshold_surface

FEW = 5  # a box of fewer masks is not informative
NUMBERS = ("gate", "upper", "lower", "min_area")


@dataclass(frozen=True)
class FigureInput:
    """The tuned rule of one class and what it was tuned on.

    Args:
        tables: Threshold tables of the class: gates and mask areas.
        counted: Tables, or components where the rule uses them.
        rule: Shipped rule.
        metric: Name in METRICS.
        fold_rules: Rule of each held-out fold, tuned on the other folds.
        fold_scores: Score of each held-out fold.
        cross_fitted: Cross-fitted score of all folds.
        trials: Score of each of Optuna's trials.
        exact_score: Exact optimum on the same images, where it is known.
        score_title: Name of the competition's score; that of `metric` if empty. Default: empty.
        name: Name of the class; empty for the only one. Default: empty.
    """

    tables: Tables
    counted: Scorable
    rule: Rule
    metric: str
    fold_rules: Mapping[int, Rule]
    fold_scores: Mapping[int, float]
    cross_fitted: float
    trials: Sequence[float]
    exact_score: float | None
    score_title: str = ""
    name: str = ""


def write_figures(folder: Path, tuned: FigureInput) -> list[Path]:
    """Write all figures of the rule of a single class and return their paths.

    folder/surface.png     score over gate and upper threshold
    folder/slices.png      score along each number of the rule
    folder/gate.png        ROC, probabilities and calibration of the gate
    folder/confusion.png   confusion of gate and masks, and the inconclusive band
    folder/dice.png        Dice of the masks, by area
    folder/folds.png       rules of the folds
    folder/optuna.png      Optuna's trials
    """
    title = tuned.score_title or metric_title(tuned.metric)
    figures = {
        "surface": surface_figure(tuned),
        "slices": slices_figure(tuned),
        "gate": gate_figure(tuned.tables, tuned.rule),
        "confusion": confusion_figure(tuned.tables, tuned.counted, tuned.rule),
        "dice": dice_figure(tuned.counted, tuned.rule),
        "folds": folds_figure(tuned),
        "optuna": thresholds.draw_trial_history(tuned.trials, tuned.exact_score, title),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def write_class_figures(
    folder: Path, by_class: Sequence[FigureInput], tables: Tables, counted: Scorable, rules: Sequence[Rule]
) -> list[Path]:
    """Write the figures of the rules of several classes and return their paths.

    folder/surface-<n>.png, slices-<n>.png, dice-<n>.png, folds-<n>.png   as for a single class, n from 0
    folder/gate.png, confusion.png   of all classes together; gate-<n>.png, confusion-<n>.png where gates differ

    Args:
        folder: Folder of the figures.
        by_class: Rule of each class and what it was tuned on.
        tables: Threshold tables of all classes.
        counted: Tables, or components where a rule uses them.
        rules: Rule of each class, as far as counts can tell.
    """
    figures: dict[str, Callable[[], Figure]] = {}
    if not tables.gates_differ:
        figures["gate"] = partial(gate_figure, tables, rules)
        figures["confusion"] = partial(confusion_figure, tables, counted, rules)
    for index, shown in enumerate(by_class):
        figures[f"surface-{index}"] = partial(surface_figure, shown)
        figures[f"slices-{index}"] = partial(slices_figure, shown)
        figures[f"dice-{index}"] = partial(dice_figure, shown.counted, shown.rule)
        figures[f"folds-{index}"] = partial(folds_figure, shown)
        if tables.gates_differ:
            figures[f"gate-{index}"] = partial(gate_figure, shown.tables, shown.rule)
            figures[f"confusion-{index}"] = partial(confusion_figure, shown.tables, shown.counted, shown.rule)
    return [save(draw(), folder / f"{name}.png") for name, draw in figures.items()]


def surface_figure(tuned: FigureInput) -> Figure:
    """Draw the score over gate and upper threshold."""
    surface = threshold_surface(tuned.tables, tuned.counted, tuned.rule, tuned.metric)
    return thresholds.draw_threshold_surface(*surface, (tuned.rule.upper, tuned.rule.gate), metric_title(tuned.metric))


def slices_figure(tuned: FigureInput) -> Figure:
    """Draw the score along each number of the rule."""
    slices = threshold_slices(tuned.tables, tuned.counted, tuned.rule, tuned.metric)
    return thresholds.draw_threshold_slices(slices, metric_title(tuned.metric))


def dice_figure(counted: Scorable, rule: Rule) -> Figure:
    """Draw the Dice of masks in truth, by decile of their area. Each class of an image is a mask of its own."""
    present = counted.truth > 0
    dice, area = dice_per_image(counted, rule)[present], counted.truth[present]
    groups = quantile_groups(area, 10, FEW) if len(area) else []
    return thresholds.draw_dice_by_area(dice, area, groups)


def folds_figure(tuned: FigureInput) -> Figure:
    """Draw the rules that the folds' tuning chose, and the scores of the held-out folds."""
    panels = [
        thresholds.FoldPanel(
            name, {fold: getattr(rule, name) for fold, rule in tuned.fold_rules.items()}, getattr(tuned.rule, name)
        )
        for name in NUMBERS
    ]
    score_panel = thresholds.FoldPanel("score", tuned.fold_scores, tuned.cross_fitted)
    return thresholds.draw_fold_rules([*panels, score_panel], tuned.score_title or metric_title(tuned.metric))


def gate_figure(tables: Tables, rules: Rule | Sequence[Rule]) -> Figure:
    """Draw ROC, probabilities and calibration of the gate; of several rules, the lowest cut."""
    from sklearn.metrics import roc_curve

    truth, numbers, gate = has_mask(tables), gate_numbers(tables, rules), tables.image_gate
    roc = None
    if numbers.auc is not None:
        false_positives, true_positives = roc_curve(truth, gate)[:2]
        operating_point = (1 - numbers.specificity, numbers.sensitivity)
        roc = gates.RocCurve(false_positives, true_positives, numbers.auc, operating_point)
    probabilities = gates.GateProbabilities(gate, truth, _lowest_cut(tables, rules))
    return gates.draw_gate_curves(probabilities, roc, calibration_curve(tables), numbers.brier, numbers.ece)


def confusion_figure(tables: Tables, counted: Scorable, rules: Rule | Sequence[Rule]) -> Figure:
    """Draw the confusion of gate and final masks, and the band in which the gate is inconclusive.

    An image with several classes counts once: it has a mask if any class has one.
    """
    truth, numbers = has_mask(tables), gate_numbers(tables, rules)
    matrices = []
    for predicted in (passing(tables, rules), counted.counts(rules)[1].sum(axis=1) > 0):
        counts = confusion_counts(truth, predicted)
        matrices.append(gates.ConfusionMatrix(counts, confusion_rates(counts)._asdict()))
    band = numbers.band
    ends = None if band.low is None or band.high is None or band.share is None else (band.low, band.high, band.share)
    probabilities = gates.GateProbabilities(tables.image_gate, truth, _lowest_cut(tables, rules))
    return gates.draw_confusion(matrices[0], matrices[1], probabilities, ends)


def _lowest_cut(tables: Tables, rules: Rule | Sequence[Rule]) -> float:
    """Return the lowest probability that passes for some class: the gate, or that of the last image of a share."""
    cuts = []
    for index, rule in enumerate(per_class(rules, tables.classes)):
        passed = tables.of_class(index).gate_scores(rule)[:, 0] >= rule.gate
        lowest = tables.gate[passed, index].min(initial=1.0)
        cuts.append(float(lowest) if rule.quantile else rule.gate)
    return min(cuts)
