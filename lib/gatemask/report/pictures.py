"""Curves, thresholds and confusion: pictures of numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatemask.masks.rule import Rule, probability
from gatemask.oof.tables import Tables, score, scores
from gatemask.report import draw
from gatemask.tuning.search import largest_area, surface

MONITORS = {"auc": "AUC", "dice": "Dice", "dice_positives": "Dice of positives"}
History = dict[int, list[dict[str, Any]]]


def learning_curves(histories: dict[str, History], monitors: dict[str, str]) -> Figure:
    """A row an experiment: loss, and the monitored score; a colour a fold.

    Args:
        histories: experiment -> fold -> rows of metrics.jsonl.
        monitors: experiment -> the score by which its best epoch was chosen.
    """
    drawn, axes = draw.figure(9, 2.6 * len(histories), len(histories), 2, squeeze=False)
    for (name, folds), (left, right) in zip(histories.items(), axes, strict=True):
        for (fold, rows), colour in zip(folds.items(), draw.CYCLE * 3, strict=False):
            epochs = [row["epoch"] + 1 for row in rows]
            left.plot(epochs, [row["loss"] for row in rows], color=colour, label=f"fold {fold}")
            left.plot(epochs, [row["val_loss"] for row in rows], color=colour, linestyle="--")
            right.plot(epochs, [row[monitors[name]] for row in rows], color=colour, marker="o", markersize=3)
        draw.label(left, "epoch", "loss", f"{name}: training, and validation (dashed)")
        draw.label(right, "epoch", MONITORS[monitors[name]], f"{name}: validation, no threshold set")
        left.legend(fontsize=8, frameon=False)
    return drawn


def threshold_surface(tables: Tables, rule: Rule, metric: str) -> Figure:
    """The score over gate and upper threshold, the rule's own point marked."""
    gates, uppers, found = surface(tables, rule, metric)
    drawn, ax = draw.figure(5.6, 4.2)
    mesh = ax.pcolormesh(uppers, gates, found, cmap="viridis", shading="nearest")
    drawn.colorbar(mesh, label=metric.replace("_", " "))
    ax.plot(rule.upper, rule.gate, "o", color="white", markeredgecolor="black", markersize=9, label="chosen")
    ax.legend(fontsize=8, loc="lower left")
    draw.label(ax, "upper threshold (probability)", "gate threshold (probability)", "Gate against upper threshold")
    return drawn


def threshold_slices(tables: Tables, rule: Rule, metric: str) -> Figure:
    """The score against each of the four numbers, the other three as chosen."""
    levels = [probability(n) for n in range(1, 256, 3)]
    sweeps: dict[str, tuple[str, list[Rule]]] = {
        "gate": ("gate (probability)", [replace(rule, gate=g) for g in np.linspace(0, 1, 86).round(4).tolist()]),
        "upper": ("upper (probability)", [replace(rule, upper=u) for u in levels if u >= rule.lower]),
        "lower": ("lower (probability)", [replace(rule, lower=t) for t in levels if t <= rule.upper]),
        "min_area": (
            "minimum area (pixels)",
            [replace(rule, min_area=int(a)) for a in np.linspace(0, largest_area(tables), 86)],
        ),
    }
    drawn, axes = draw.figure(9, 4.6, 2, 2, sharey=True)
    for ax, (name, (unit, rules)) in zip(axes.ravel(), sweeps.items(), strict=True):
        ax.plot([getattr(one, name) for one in rules], [score(tables, one, metric) for one in rules], color=draw.BLUE)
        ax.axvline(getattr(rule, name), color=draw.RED, linewidth=1)
        draw.label(ax, unit, metric.replace("_", " "))
    return drawn


def confusion(tables: Tables, rule: Rule) -> tuple[Figure, dict[str, float]]:
    """Confusion matrix of the gate at its threshold, ROC curve, and probabilities of the two kinds of image.

    Returns:
        The figure, and sensitivity, specificity, accuracy and AUC.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    truth, said = tables.truth.sum(axis=1) > 0, tables.gate >= rule.gate
    counts = np.array([[(~truth & ~said).sum(), (~truth & said).sum()], [(truth & ~said).sum(), (truth & said).sum()]])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    numbers = {"sensitivity": share[1, 1], "specificity": share[0, 0], "accuracy": (truth == said).mean()}
    drawn, (left, middle, right) = draw.figure(11, 3.4, 1, 3)
    left.imshow(share, cmap="Blues", vmin=0, vmax=1)
    left.grid(False)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{count}\n{share[row, column]:.1%}"
        left.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    left.set_xticks([0, 1], ["empty", "mask"])
    left.set_yticks([0, 1], ["empty", "mask"])
    draw.label(left, "gate says", "truth", f"Gate at {rule.gate:.3f}")
    if truth.any() and not truth.all():
        numbers["AUC"] = roc_auc_score(truth, tables.gate)
        false_positive, true_positive, _ = roc_curve(truth, tables.gate)
        middle.plot(false_positive, true_positive, color=draw.BLUE)
        middle.plot(share[0, 1], share[1, 1], "o", color=draw.RED)
        draw.label(middle, "1 - specificity", "sensitivity", f"ROC, AUC {numbers['AUC']:.4f}")
    bins = np.linspace(0, 1, 31)
    right.hist([tables.gate[~truth], tables.gate[truth]], bins, label=["empty", "mask"], color=[draw.GREY, draw.ORANGE])
    right.axvline(rule.gate, color=draw.RED, linewidth=1)
    right.set_yscale("symlog")
    right.legend(fontsize=8, frameon=False)
    draw.label(right, "gate probability", "images", "Gate probabilities")
    return drawn, {name: float(value) for name, value in numbers.items()}


def dice_of_positives(tables: Tables, rule: Rule) -> Figure:
    """How good the masks are where there is one: all of them, and by the size of the mask."""
    found = scores(tables, rule).mean(axis=1)
    area = tables.truth.sum(axis=1)
    positive = area > 0
    drawn, (left, right) = draw.figure(9, 3, 1, 2)
    left.hist(found[positive], np.linspace(0, 1, 21), color=draw.BLUE)
    draw.label(left, "Dice", "images with a mask", f"Images with a mask: mean {found[positive].mean():.3f}")
    order = np.argsort(area[positive], kind="stable")
    parts = [part for part in np.array_split(order, 4) if len(part)]
    right.boxplot([found[positive][part] for part in parts], widths=0.6, medianprops={"color": draw.RED})
    names = [f"{area[positive][part].min()}\nto {area[positive][part].max()}" for part in parts]
    right.set_xticks(range(1, len(parts) + 1), names)
    draw.label(right, "mask area (pixels)", "Dice", "By quartile of mask area")
    return drawn
