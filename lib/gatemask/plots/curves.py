"""Draw learning curves from the metrics of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from gatemask.plots import style

MONITORS = {"auc": "AUC", "dice": "Dice", "dice_positives": "Dice of positives"}
History = Mapping[int, Sequence[Mapping[str, float]]]  # rows of metrics.jsonl by fold


def draw_learning_curves(histories: Mapping[str, History], monitors: Mapping[str, str]) -> Figure:
    """Draw loss and monitored score: one row per experiment, one color per fold.

    Args:
        histories: Rows of metrics.jsonl by experiment and fold.
        monitors: Name of the score that selects the best epoch, by experiment.
    """
    figure, axes = style.new_figure(9, 2.6 * len(histories), len(histories), 2, squeeze=False)
    for (name, folds), (left, right) in zip(histories.items(), axes, strict=True):
        for (fold, rows), color in zip(folds.items(), style.CYCLE * 3, strict=False):
            epochs = [row["epoch"] + 1 for row in rows]
            left.plot(epochs, [row.get("loss", math.nan) for row in rows], color=color, label=f"fold {fold}")
            left.plot(epochs, [row.get("val_loss", math.nan) for row in rows], color=color, linestyle="--")
            right.plot(
                epochs, [row.get(monitors[name], math.nan) for row in rows], color=color, marker="o", markersize=3
            )
        style.label(left, "epoch", "loss", f"{name}: training, and validation (dashed)")
        style.label(right, "epoch", MONITORS[monitors[name]], f"{name}: validation, threshold-free")
        left.legend(fontsize=8, frameon=False)
    return figure
