"""Compute and write the figures of a tuned rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from gatemask.config import METRIC_TITLES
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Scorable, Tables, dice_per_image
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
    """A tuned rule and what it was tuned on.

    Args:
        tables: Threshold tables: gates and mask areas.
        counted: Tables, or components where the rule uses them.
        rule: Shipped rule.
        metric: Name in METRICS.
        fold_rules: Rule of each held-out fold, tuned on the other folds.
        fold_scores: Score of each held-out fold.
        cross_fitted: Cross-fitted score of all folds.
        trials: Score of each of Optuna's trials.
        exact_score: Exact optimum on the same images, where it is known.
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


def write_figures(folder: Path, tuned: FigureInput) -> list[Path]:
    """Write all figures of a tuned rule and return their paths.

    folder/surface.png     score over gate and upper threshold
    folder/slices.png      score along each number of the rule
    folder/gate.png        ROC, probabilities and calibration of the gate
    folder/confusion.png   confusion of gate and masks, and the inconclusive band
    folder/dice.png        Dice of the masks, by area
    folder/folds.png       rules of the folds
    folder/optuna.png      Optuna's trials
    """
    title = METRIC_TITLES[tuned.metric]
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


def surface_figure(tuned: FigureInput) -> Figure:
    """Draw the score over gate and upper threshold."""
    surface = threshold_surface(tuned.tables, tuned.counted, tuned.rule, tuned.metric)
    return thresholds.draw_threshold_surface(*surface, (tuned.rule.upper, tuned.rule.gate), METRIC_TITLES[tuned.metric])


def slices_figure(tuned: FigureInput) -> Figure:
    """Draw the score along each number of the rule."""
    slices = threshold_slices(tuned.tables, tuned.counted, tuned.rule, tuned.metric)
    return thresholds.draw_threshold_slices(slices, METRIC_TITLES[tuned.metric])


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
    return thresholds.draw_fold_rules([*panels, score_panel], METRIC_TITLES[tuned.metric])


def gate_figure(tables: Tables, rule: Rule) -> Figure:
    """Draw ROC, probabilities and calibration of the gate."""
    from sklearn.metrics import roc_curve

    truth, numbers = has_mask(tables), gate_numbers(tables, rule)
    roc = None
    if numbers.auc is not None:
        false_positives, true_positives = roc_curve(truth, tables.gate)[:2]
        operating_point = (1 - numbers.specificity, numbers.sensitivity)
        roc = gates.RocCurve(false_positives, true_positives, numbers.auc, operating_point)
    probabilities = gates.GateProbabilities(tables.gate, truth, rule.gate)
    return gates.draw_gate_curves(probabilities, roc, calibration_curve(tables), numbers.brier, numbers.ece)


def confusion_figure(tables: Tables, counted: Scorable, rule: Rule) -> Figure:
    """Draw the confusion of gate and final masks, and the band in which the gate is inconclusive.

    An image with several classes counts once: it has a mask if any class has one.
    """
    truth, numbers = has_mask(tables), gate_numbers(tables, rule)
    matrices = []
    for predicted in (tables.gate >= rule.gate, counted.counts(rule)[1].sum(axis=1) > 0):
        counts = confusion_counts(truth, predicted)
        matrices.append(gates.ConfusionMatrix(counts, confusion_rates(counts)._asdict()))
    band = numbers.band
    ends = None if band.low is None or band.high is None or band.share is None else (band.low, band.high, band.share)
    return gates.draw_confusion(matrices[0], matrices[1], gates.GateProbabilities(tables.gate, truth, rule.gate), ends)
