"""Draw learning curves from the metrics of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from gatemask.plots import style

MONITORS = {"auc": "AUC", "dice": "Dice", "dice_positives": "Dice of positives"}
FEW = 12  # epochs up to which each one has a dot
History = Mapping[int, Sequence[Mapping[str, float]]]  # rows of metrics.jsonl by fold


def monitor_of(folds: History) -> str | None:
    """Return the score that the rows of an experiment hold; None if they hold none.

    >>> monitor_of({0: [{"epoch": 0, "loss": 0.5, "auc": 0.7}]})
    'auc'
    """
    keys = {key for rows in folds.values() for row in rows for key in row}
    return next((name for name in MONITORS if name in keys), None)


def draw_loss(folds: History, epochs: int | None = None) -> Figure:
    """Draw training and validation loss, one color per fold.

    Args:
        folds: Rows of metrics.jsonl by fold.
        epochs: Number of epochs of a whole training. Default: as many as there are rows.
    """
    figure, ax = _new(folds, epochs)
    for fold, rows, color in _colored(folds):
        _line(ax, rows, "loss", color, f"fold {fold}")
        _line(ax, rows, "val_loss", color, linestyle="--", marker="")
    style.label(ax, "epoch", "loss", "loss: training, validation (dashed)")
    _legend(ax, folds)
    return figure


def draw_score(folds: History, monitor: str, epochs: int | None = None) -> Figure:
    """Draw the validation score by which epochs are chosen; the best epoch of each fold has a ring.

    Args:
        folds: Rows of metrics.jsonl by fold.
        monitor: Name of the score.
        epochs: Number of epochs of a whole training. Default: as many as there are rows.
    """
    figure, ax = _new(folds, epochs)
    for fold, rows, color in _colored(folds):
        _line(ax, rows, monitor, color, f"fold {fold}")
        scored = [row for row in rows if math.isfinite(row.get(monitor, math.nan))]
        if scored:
            best = max(scored, key=lambda row: row[monitor])
            ring = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.4}
            ax.plot([best["epoch"] + 1], [best[monitor]], "o", color=color, **ring)
    title = MONITORS.get(monitor, monitor)
    style.label(ax, "epoch", title, f"validation {title}, best ringed")
    _legend(ax, folds)
    return figure


def draw_speed(folds: History, epochs: int | None = None) -> Figure:
    """Draw training images per second.

    Args:
        folds: Rows of metrics.jsonl by fold; those without `images_per_s` are left out.
        epochs: Number of epochs of a whole training. Default: as many as there are rows.
    """
    figure, ax = _new(folds, epochs)
    for fold, rows, color in _colored(folds):
        _line(ax, rows, "images_per_s", color, f"fold {fold}")
    ax.set_ylim(bottom=0)
    style.label(ax, "epoch", "images per second", "training speed")
    _legend(ax, folds)
    return figure


def _new(folds: History, epochs: int | None) -> tuple[Figure, Any]:
    figure, ax = style.new_figure(3.1, 2.4)
    last = max([epochs or 1, *(int(row["epoch"]) + 1 for rows in folds.values() for row in rows)])
    ax.set_xlim(1 - 0.04 * last, last + 0.04 * last)
    ax.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    return figure, ax


def _colored(folds: History) -> list[tuple[int, Sequence[Mapping[str, float]], str]]:
    colors = [color for color in style.CYCLE if color != "#F0E442"] * (1 + len(folds) // 7)  # yellow is too pale
    return [(fold, folds[fold], color) for fold, color in zip(sorted(folds), colors, strict=False)]


def _line(ax: Any, rows: Sequence[Mapping[str, float]], key: str, color: str, label: str = "", **options: str) -> None:
    found = [row for row in rows if key in row]
    marker = {"marker": "o" if len(found) <= FEW else "", "markersize": 3.5, "linewidth": 1.4, **options}
    if len(found) == 1:
        marker["marker"] = "o"  # a line of one point is invisible
    ax.plot([row["epoch"] + 1 for row in found], [row[key] for row in found], color=color, label=label, **marker)


def _legend(ax: Any, folds: History) -> None:
    if len(folds) > 1:
        ax.legend(fontsize=8, frameon=False, ncols=2 if len(folds) > 3 else 1, handlelength=1.2, columnspacing=1)
