"""Learning curves, from what training logged."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from gatemask.plots import style

MONITORS = {"auc": "AUC", "dice": "Dice", "dice_positives": "Dice of positives"}
History = dict[int, list[dict[str, Any]]]


def learning_curves(histories: dict[str, History], monitors: dict[str, str]) -> Figure:
    """A row an experiment: loss, and the monitored score; a colour a fold.

    Args:
        histories: experiment -> fold -> rows of metrics.jsonl.
        monitors: experiment -> the score by which its best epoch was chosen.
    """
    drawn, axes = style.figure(9, 2.6 * len(histories), len(histories), 2, squeeze=False)
    for (name, folds), (left, right) in zip(histories.items(), axes, strict=True):
        for (fold, rows), colour in zip(folds.items(), style.CYCLE * 3, strict=False):
            epochs = [row["epoch"] + 1 for row in rows]
            left.plot(epochs, [row["loss"] for row in rows], color=colour, label=f"fold {fold}")
            left.plot(epochs, [row["val_loss"] for row in rows], color=colour, linestyle="--")
            right.plot(epochs, [row[monitors[name]] for row in rows], color=colour, marker="o", markersize=3)
        style.label(left, "epoch", "loss", f"{name}: training, and validation (dashed)")
        style.label(right, "epoch", MONITORS[monitors[name]], f"{name}: validation, no threshold set")
        left.legend(fontsize=8, frameon=False)
    return drawn
