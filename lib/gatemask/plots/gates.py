"""Draw the gate by itself: its curves, its errors, and the band in which it is inconclusive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatemask.plots import style

SURE = 0.95  # sensitivity and specificity at the ends of the band
KINDS = ["empty", "mask"]
ONE_KIND = "All images are of one kind:\nno curve to draw."


@dataclass(frozen=True)
class GateProbabilities:
    """Gate probabilities and truth.

    Args:
        gate: Gate probability of each image, float (n,).
        truth: Whether each image has a mask, bool (n,).
        cut: Gate of the rule.
    """

    gate: np.ndarray
    truth: np.ndarray
    cut: float


@dataclass(frozen=True)
class RocCurve:
    """ROC curve of the gate.

    Args:
        false_positives: False positive rate at each cut, ascending.
        true_positives: True positive rate at each cut.
        area: Area under the curve.
        operating_point: False and true positive rate at the rule's cut.
    """

    false_positives: np.ndarray
    true_positives: np.ndarray
    area: float
    operating_point: tuple[float, float]


@dataclass(frozen=True)
class ConfusionMatrix:
    """Confusion counts, int (2, 2), rows of truth, empty first; and their rates by name."""

    counts: np.ndarray
    rates: Mapping[str, float]


def draw_gate_curves(
    probabilities: GateProbabilities,
    roc: RocCurve | None,
    calibration: tuple[np.ndarray, np.ndarray, np.ndarray],
    brier: float,
    calibration_error: float,
) -> Figure:
    """Draw ROC, gate probabilities by kind of image, and the calibration curve.

    Args:
        probabilities: Gate probabilities and truth.
        roc: ROC curve; None where all images are of one kind.
        calibration: Mean probability, share of masks, and number of images of each bin.
        brier: Mean squared error of the probability.
        calibration_error: Expected calibration error.
    """
    figure, (left, middle, right) = style.new_figure(11, 3.6, 1, 3)
    if roc is None:
        style.note(left, ONE_KIND)
        style.label(left, "1 - specificity", "sensitivity", "ROC")
    else:
        _draw_roc(left, roc, probabilities)
    kinds = [probabilities.gate[~probabilities.truth], probabilities.gate[probabilities.truth]]
    middle.hist(kinds, np.linspace(0, 1, 31), label=KINDS, color=[style.GRAY, style.ORANGE])
    middle.axvline(probabilities.cut, color=style.RED, linewidth=1, label="chosen gate")
    middle.set_yscale("symlog")
    middle.yaxis.set_major_formatter("{x:g}")  # instead of powers, which would be written as formulas
    middle.set_ylim(0, 1.5 * middle.get_ylim()[1])
    middle.legend(fontsize=8, framealpha=1, edgecolor="white", ncols=3, loc="upper center", columnspacing=1)
    style.label(middle, "gate probability", "images", "Gate probabilities, out of fold")
    _draw_calibration(right, *calibration)
    title = f"Calibration: Brier {brier:.3f}, error {calibration_error:.3f}"
    style.label(right, "mean gate probability of the bin", "share with a mask", title)
    return figure


def _draw_roc(ax: Any, roc: RocCurve, probabilities: GateProbabilities) -> None:
    ax.plot([0, 1], [0, 1], color=style.GRAY, linewidth=1, linestyle=":")
    ax.plot(roc.false_positives, roc.true_positives, color=style.BLUE)
    point = f"gate {probabilities.cut:.3f}"
    ax.plot(*roc.operating_point, "o", color=style.RED, label=point, clip_on=False, zorder=3)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    title = "ROC: the gate is constant" if np.ptp(probabilities.gate) == 0 else "ROC"
    style.label(ax, "1 - specificity", "sensitivity", f"{title}, AUC {roc.area:.4f}")


def _draw_calibration(ax: Any, probability: np.ndarray, observed: np.ndarray, images: np.ndarray) -> None:
    ax.plot([0, 1], [0, 1], color=style.GRAY, linewidth=1, linestyle=":")
    # Areas by count: bins differ where many probabilities are equal.
    ax.scatter(probability, observed, 20 + 150 * images / images.sum(), color=style.BLUE, zorder=3, clip_on=False)
    ax.plot(probability, observed, color=style.BLUE, linewidth=1)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    text = f"images in each bin: {style.count_range(images.tolist())}"
    ax.text(0.98, 0.08, text, ha="right", fontsize=8, color=style.GRAY, transform=ax.transAxes)


def draw_confusion(
    gate: ConfusionMatrix,
    masks: ConfusionMatrix,
    probabilities: GateProbabilities,
    band: tuple[float, float, float] | None,
) -> Figure:
    """Draw confusion matrices of the gate and of the final masks, and the band in which the gate is inconclusive.

    Args:
        gate: Confusion of the gate at the rule's cut.
        masks: Confusion of the final masks under the rule.
        probabilities: Gate probabilities and truth.
        band: Low end, high end, and share of images inside; None where all images are of one kind.
    """
    figure, (left, middle, right) = style.new_figure(11, 3.9, 1, 3, width_ratios=[1, 1, 1.25])
    _draw_matrix(left, gate, "gate", f"Gate at {probabilities.cut:.3f}")
    _draw_matrix(middle, masks, "final mask", "Masks under the rule")
    if band is None:
        style.note(right, ONE_KIND)
        style.label(right, "gate threshold (probability)", "share of images", "No inconclusive band")
    else:
        _draw_band(right, probabilities, *band)
    return figure


def _draw_matrix(ax: Any, matrix: ConfusionMatrix, what: str, title: str) -> None:
    counts, rates = matrix.counts, matrix.rates
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Stretched: the layout ignores how far the labels of a square axis reach.
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.grid(False)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if share[row, column] > 0.5 else "black"
        text = f"{count}\n{share[row, column]:.1%}"
        ax.text(column, row, text, ha="center", va="center", color=color, fontsize=10)
    ax.set_xticks([0, 1], KINDS)
    ax.set_yticks([0, 1], KINDS)
    below = (
        f"sensitivity {rates['sensitivity']:.3f}   specificity {rates['specificity']:.3f}\n"
        f"accuracy {rates['accuracy']:.3f}   precision {rates['precision']:.3f}   F1 {rates['f1']:.3f}"
    )
    style.label(ax, f"{what}\n\n{below}", "truth", title)


def _draw_band(ax: Any, probabilities: GateProbabilities, low: float, high: float, share: float) -> None:
    """Draw sensitivity and specificity at every gate cut, the inconclusive band shaded."""
    gate, truth = probabilities.gate, probabilities.truth
    cuts = np.linspace(0, 1, 501)
    below = [np.searchsorted(np.sort(gate[kind]), cuts) / kind.sum() for kind in (truth, ~truth)]
    ax.plot(cuts, 1 - below[0], color=style.BLUE, label="sensitivity")
    ax.plot(cuts, below[1], color=style.ORANGE, label="specificity")
    ax.axhline(SURE, color=style.GRAY, linewidth=1, linestyle=":")
    ax.axvline(probabilities.cut, color=style.RED, linewidth=1, label="chosen gate")
    title = "No inconclusive band"
    if low < high:
        ax.axvspan(low, high, color=style.GRAY, alpha=0.25, linewidth=0, label="inconclusive")
        title = f"Inconclusive {low:.3f} to {high:.3f}: {share:.1%} of images"
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    ax.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.19))
    style.label(ax, "gate threshold (probability)", "share of images", title)
