"""Draw a rule: the score around its thresholds, its masks by area, its folds, and how it was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from gatemask.plots import style

NEAR = 0.001  # a score this far below the best is as good, as far as a validation set can show
LABELS = {
    "gate": "gate threshold (probability, or quantile)",
    "upper": "upper threshold (probability)",
    "lower": "lower threshold (probability)",
    "min_area": "minimum area (pixels)",
}
ThresholdSlice = tuple[str, float, np.ndarray, np.ndarray]  # name, chosen value, values, scores


@dataclass(frozen=True)
class FoldPanel:
    """One number of the folds' rules, or their score.

    Args:
        name: Name of the number, or "score".
        by_fold: Value of each held-out fold.
        overall: Value of the shipped rule, or the score of all folds.
    """

    name: str
    by_fold: Mapping[int, float]
    overall: float


def draw_threshold_surface(
    gates: np.ndarray, uppers: np.ndarray, scores: np.ndarray, chosen: tuple[float, float], score_title: str
) -> Figure:
    """Draw the score over gate and upper threshold: the chosen point, and where the score is nearly the best.

    Args:
        gates: Gate cuts, ascending.
        uppers: Upper thresholds, ascending.
        scores: Scores, float (gates, uppers).
        chosen: Upper threshold and gate of the rule.
        score_title: Name of the score, such as "Dice".
    """
    figure, ax = style.new_figure(6.2, 4.6)
    ax.grid(False)
    mesh = ax.pcolormesh(uppers, gates, scores, cmap="viridis", shading="nearest", rasterized=True)
    figure.colorbar(mesh, label=score_title).ax.tick_params(labelsize=8)
    edge = scores.max() - NEAR
    if scores.min() < edge:  # else the whole surface is nearly the best
        ax.contour(uppers, gates, scores, [edge], colors="white", linewidths=1)
    ax.plot([], [], color="white", linewidth=1, label=f"within {NEAR} of the best")
    marker = {"color": style.RED, "markeredgecolor": "white", "markersize": 8}
    ax.plot(*chosen, "o", **marker, label="chosen", clip_on=False, zorder=4)
    legend = ax.legend(fontsize=8, loc="upper left", facecolor="#333333", framealpha=0.6, labelcolor="white")
    legend.set_zorder(5)
    style.label(ax, LABELS["upper"], LABELS["gate"], f"{score_title}: gate against upper threshold")
    return figure


def draw_threshold_slices(slices: Sequence[ThresholdSlice], score_title: str) -> Figure:
    """Draw the score along each of the rule's four numbers.

    Args:
        slices: Name, chosen value, values tried and their scores, four times.
        score_title: Name of the score, such as "Dice".
    """
    figure, axes = style.new_figure(9, 5, 2, 2, sharey=True)
    for index, (ax, (name, chosen, values, scores)) in enumerate(zip(axes.ravel(), slices, strict=True)):
        ax.plot(values, scores, color=style.BLUE)
        ax.axvline(chosen, color=style.RED, linewidth=1)
        ax.ticklabel_format(style="plain", useOffset=False)
        ax.locator_params(axis="x", nbins=6)
        style.label(ax, LABELS[name], "" if index % 2 else score_title, f"{name} {_short(chosen)}")
    return figure


def draw_dice_by_area(dice: np.ndarray, area: np.ndarray, groups: Sequence[np.ndarray]) -> Figure:
    """Draw the Dice of masks in truth: all of them, and grouped by area.

    Args:
        dice: Dice of each mask, float (masks,).
        area: Area of each mask, in pixels, int (masks,).
        groups: Indices of the masks in each box, by ascending area.
    """
    figure, (left, right) = style.new_figure(10, 3.8, 1, 2, width_ratios=[1, 1.5])
    if not len(area):
        for ax, title in ((left, "Dice of masks"), (right, "By mask area")):
            style.note(ax, "No image has a mask.")
            style.label(ax, "", "", title)
        return figure
    left.hist(dice, np.linspace(0, 1, 21), color=style.BLUE)
    left.axvline(dice.mean(), color=style.RED, linewidth=1)
    left.yaxis.get_major_locator().set_params(integer=True)
    missed = f"{(dice == 0).mean():.1%} at 0"
    style.label(left, "Dice", "masks in truth", f"Masks in truth, {len(dice)}: mean {dice.mean():.3f}, {missed}")
    right.boxplot(
        [dice[group] for group in groups],
        widths=0.6,
        showmeans=True,
        medianprops={"color": style.RED},
        meanprops={"marker": "o", "markerfacecolor": style.BLUE, "markeredgecolor": style.BLUE, "markersize": 4},
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": style.GRAY},
    )
    names = [f"{area[group].min()} to {area[group].max()}" for group in groups]
    tilted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(groups) > 5 else {}
    right.set_xticks(range(1, len(groups) + 1), names, **tilted)
    right.set(xlim=(0.4, max(len(groups), 4) + 0.6), ylim=(-0.03, 1.03))
    sizes = style.count_range([len(group) for group in groups])
    title = f"By area, masks per box: {sizes}; median (line), mean (dot)"
    style.label(right, "mask area in truth (pixels)", "Dice", title)
    return figure


def draw_fold_rules(panels: Sequence[FoldPanel], score_title: str) -> Figure:
    """Draw the rules that the folds' tuning chose, and the score of each held-out fold.

    Args:
        panels: The rule's numbers, then the score.
        score_title: Name of the score, such as "Dice".
    """
    figure, axes = style.new_figure(12, 3, 1, len(panels))
    titles = {**LABELS, "score": score_title}
    for ax, panel in zip(axes, panels, strict=True):
        ax.axhline(panel.overall, color=style.RED, linewidth=1)
        folds = list(panel.by_fold)
        ax.plot(folds, list(panel.by_fold.values()), "o", color=style.BLUE, markersize=5, zorder=3)
        ax.set_xticks(folds)
        ax.margins(x=0.15)
        if panel.name in ("gate", "upper", "lower"):
            ax.set_ylim(-0.03, 1.03)
        ax.ticklabel_format(axis="y", style="plain", useOffset=False)
        text = f"all folds {panel.overall:.4f}" if panel.name == "score" else f"shipped {_short(panel.overall)}"
        style.label(ax, "held-out fold", titles[panel.name], f"{panel.name}: {text}")
    return figure


def draw_trial_history(values: Sequence[float], exact: float | None, score_title: str) -> Figure:
    """Draw Optuna's trials: the score of each, the best so far, and the exact optimum where it is known.

    Args:
        values: Score of each trial, in order.
        exact: Best score that any rule reaches on the same images, where it is known.
        score_title: Name of the score, such as "Dice".
    """
    figure, ax = style.new_figure(7, 3.4)
    title = "Optuna: no trials"
    if len(values):
        scores = np.array(values, float)
        best, trials = np.maximum.accumulate(scores), np.arange(1, len(scores) + 1)
        title = f"Optuna: best {best[-1]:.4f}, trials: {len(scores)}"
        top = max(best[-1], best[-1] if exact is None else exact)
        # A few hopeless trials would squeeze the others into a line: they are drawn at the lower edge.
        floor = min(np.quantile(scores, 0.2), top - 0.002)
        inside = scores >= floor
        ax.plot(trials[inside], scores[inside], ".", color=style.GRAY, label="trial", markersize=5)
        if not inside.all():
            marks = {"color": style.GRAY, "alpha": 0.5, "markersize": 4, "clip_on": False}
            ax.plot(trials[~inside], np.full((~inside).sum(), floor), "v", **marks, label="trial below")
        ax.plot(trials, np.maximum(best, floor), color=style.BLUE, label="best so far", drawstyle="steps-post")
        ax.set_ylim(floor - 0.04 * (top - floor), top + 0.06 * (top - floor))
        ax.xaxis.get_major_locator().set_params(integer=True)
    else:
        style.note(ax, "No trials were run.")
    if exact is not None:
        ax.axhline(exact, color=style.RED, linewidth=1, linestyle="--", label=f"exact optimum {exact:.4f}")
    if ax.get_legend_handles_labels()[0]:
        figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=4)
    style.label(ax, "trial", score_title, title)
    return figure


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"
