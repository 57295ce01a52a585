"""What the gate is worth by itself: counts of its errors, calibration, and the band in which it cannot tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatemask.masks.rule import Rule
from gatemask.oof.tables import Scorable, Tables
from gatemask.plots import style

SURE = 0.95  # sensitivity below the band's low end, and specificity above its high end, over all images
BINS = 10  # of the calibration curve
KINDS = ["empty", "mask"]
ONE_KIND = "All images are of one kind:\nnothing to tell apart."


def positives(counted: Scorable) -> np.ndarray:
    """Which images have a mask of any class in truth, bool (n,)."""
    return np.any(counted.truth > 0, axis=1)


def matrix(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Confusion matrix of two bool (n,): int (2, 2), a row for truth, a column for what was said; empty before mask."""
    return np.bincount(2 * truth.astype(int) + said, minlength=4).reshape(2, 2)


def rates(of: np.ndarray) -> dict[str, float]:
    """What a confusion matrix comes to: shares of 0 to 1, and 0 where there is nothing to divide."""
    (true_empty, false_mask), (false_empty, true_mask) = of.tolist()
    return {
        "sensitivity": _share(true_mask, true_mask + false_empty),
        "specificity": _share(true_empty, true_empty + false_mask),
        "accuracy": _share(true_empty + true_mask, int(of.sum())),
        "precision": _share(true_mask, true_mask + false_mask),
        "f1": _share(2 * true_mask, 2 * true_mask + false_mask + false_empty),
    }


def band(tables: Tables) -> dict[str, float | int | None]:
    """The gate probabilities between which the gate cannot tell: `low` up to, but without, `high`.

    `low` is the highest gate threshold at which sensitivity is still 0.95: few masks lie below it. `high` is the
    lowest at which specificity is 0.95: few empty images reach it. An image below `low` is decided to be empty, one
    that reaches `high` to have a mask, the others are inconclusive. Where low >= high none is, both demands are met
    by any threshold between the two, and their middle decides.

    Returns:
        low, high: gate probabilities; as a threshold passes what equals it, `high` is the next float after an image's.
        images: inconclusive ones; positives: of those, with a mask; share: of inconclusive ones among all.
        decided, missed, false_alarms: images outside of the band, and the errors among them.
        sensitivity, specificity: of the decided images, None where none of that kind is decided.
        Without images of both kinds there is no band: low, high and share are None, and no image is counted.
    """
    truth, gate = positives(tables), tables.gate.astype(np.float64)
    nothing = dict.fromkeys(("low", "high", "share", "sensitivity", "specificity"))
    if truth.all() or not truth.any():
        return {**nothing, **dict.fromkeys(("images", "positives", "decided", "missed", "false_alarms"), 0)}
    low = float(np.sort(gate[truth])[::-1][_enough(int(truth.sum())) - 1])
    high = float(np.nextafter(np.sort(gate[~truth])[_enough(int((~truth).sum())) - 1], np.inf))
    inside = (gate >= low) & (gate < high)
    out = ~inside
    counts = matrix(truth[out], gate[out] >= (high if low < high else (low + high) / 2))
    (true_empty, false_mask), (false_empty, true_mask) = counts.tolist()
    return {
        "low": low,
        "high": high,
        "images": int(inside.sum()),
        "positives": int((inside & truth).sum()),
        "share": float(inside.mean()),
        "decided": int(out.sum()),
        "missed": false_empty,
        "false_alarms": false_mask,
        "sensitivity": rates(counts)["sensitivity"] if true_mask + false_empty else None,
        "specificity": rates(counts)["specificity"] if true_empty + false_mask else None,
    }


def calibration(tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gate probability against the share of images with a mask, in bins of equally many images.

    Equal probabilities share a bin, so there may be fewer than ten.

    Returns:
        mean probability, observed share, and number of images of each bin, float, float and int (bins,).
    """
    truth = positives(tables)
    bins = quantiles(tables.gate, BINS)
    predicted = np.array([tables.gate[part].mean() for part in bins])
    return predicted, np.array([truth[part].mean() for part in bins]), np.array([len(part) for part in bins])


def quantiles(values: np.ndarray, parts: int, least: int = 1) -> list[np.ndarray]:
    """Indices of (n,) values in up to `parts` groups of rising value and about the same size.

    Equal values stay together, and a group of fewer than `least` joins its neighbour.
    """
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    part = np.searchsorted(ranked, ranked, "left") * parts // len(values)
    merged: list[np.ndarray] = []
    for group in np.split(order, np.flatnonzero(np.diff(part)) + 1):
        if merged and len(merged[-1]) < least:
            group = np.concatenate([merged.pop(), group])
        merged.append(group)
    if len(merged) > 1 and len(merged[-1]) < least:
        merged[-2:] = [np.concatenate(merged[-2:])]
    return merged


def gate_numbers(tables: Tables, rule: Rule) -> dict[str, Any]:
    """What the gate is worth at the rule's threshold, as JSON knows it.

    Returns:
        sensitivity, specificity, accuracy, precision, f1: 0 where there is nothing to divide.
        auc: None where all images are of one kind. brier: mean squared error of the probability.
        ece: expected calibration error, the bins' distance from the diagonal, weighted by their images.
        band: see `band`.
    """
    from sklearn.metrics import roc_auc_score

    truth = positives(tables)
    predicted, observed, images = calibration(tables)
    return {
        **rates(matrix(truth, tables.gate >= rule.gate)),
        "auc": float(roc_auc_score(truth, tables.gate)) if truth.any() and not truth.all() else None,
        "brier": float(np.mean((tables.gate - truth) ** 2)),
        "ece": float(images @ np.abs(predicted - observed) / images.sum()),
        "band": band(tables),
    }


def roc(tables: Tables, rule: Rule) -> Figure:
    """ROC with the chosen point, probabilities of the two kinds of image, and the calibration curve."""
    from sklearn.metrics import roc_curve

    truth, numbers = positives(tables), gate_numbers(tables, rule)
    drawn, (left, middle, right) = style.figure(11, 3.6, 1, 3)
    if numbers["auc"] is None:
        style.say(left, ONE_KIND)
        style.label(left, "1 - specificity", "sensitivity", "ROC")
    else:
        left.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, linestyle=":")
        left.plot(*roc_curve(truth, tables.gate)[:2], color=style.BLUE)
        at = 1 - numbers["specificity"], numbers["sensitivity"]
        left.plot(*at, "o", color=style.RED, label=f"gate {rule.gate:.3f}", clip_on=False, zorder=3)
        left.legend(fontsize=8, frameon=False, loc="lower right")
        what = "ROC: the gate is constant" if np.ptp(tables.gate) == 0 else "ROC"
        style.label(left, "1 - specificity", "sensitivity", f"{what}, AUC {numbers['auc']:.4f}")
    kinds = [tables.gate[~truth], tables.gate[truth]]
    middle.hist(kinds, np.linspace(0, 1, 31), label=KINDS, color=[style.GREY, style.ORANGE])
    middle.axvline(rule.gate, color=style.RED, linewidth=1, label="chosen gate")
    middle.set_yscale("symlog")
    middle.set_ylim(0, 1.5 * middle.get_ylim()[1])
    middle.legend(fontsize=8, framealpha=1, edgecolor="white", ncols=3, loc="upper center", columnspacing=1)
    style.label(middle, "gate probability", "images", "Gate probabilities, out of fold")
    _reliability(right, tables)
    said = f"Calibration: Brier {numbers['brier']:.3f}, error {numbers['ece']:.3f}"
    style.label(right, "mean gate probability of the bin", "share with a mask", said)
    return drawn


def _reliability(ax: Any, tables: Tables) -> None:
    predicted, observed, images = calibration(tables)
    ax.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, linestyle=":")
    # Areas by count: bins differ where many probabilities are equal.
    ax.scatter(predicted, observed, 20 + 150 * images / images.sum(), color=style.BLUE, zorder=3, clip_on=False)
    ax.plot(predicted, observed, color=style.BLUE, linewidth=1)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    said = f"images in each bin: {style.span(images.tolist())}"
    ax.text(0.98, 0.08, said, ha="right", fontsize=8, color=style.GREY, transform=ax.transAxes)


def confusion(tables: Tables, counted: Scorable, rule: Rule) -> Figure:
    """Confusion matrices of the gate and of the final masks, and the band in which the gate cannot tell.

    Args:
        tables: of the gate.
        counted: what the rule can be scored on; several classes make one image, which has a mask if any class has.
        rule: the thresholds.
    """
    truth = positives(tables)
    drawn, (left, middle, right) = style.figure(11, 3.9, 1, 3, width_ratios=[1, 1, 1.25])
    _draw_matrix(left, matrix(truth, tables.gate >= rule.gate), "gate says", f"Gate at {rule.gate:.3f}")
    predicted = counted.counts(rule)[1].sum(axis=1) > 0
    _draw_matrix(middle, matrix(truth, predicted), "final mask", "Masks under the rule")
    _draw_band(right, tables, rule)
    return drawn


def _draw_matrix(ax: Any, counts: np.ndarray, what: str, title: str) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Stretched: the layout does not see how far the labels of a square reach.
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.grid(False)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{count}\n{share[row, column]:.1%}"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    ax.set_xticks([0, 1], KINDS)
    ax.set_yticks([0, 1], KINDS)
    found = rates(counts)
    said = (
        f"sensitivity {found['sensitivity']:.3f}   specificity {found['specificity']:.3f}\n"
        f"accuracy {found['accuracy']:.3f}   precision {found['precision']:.3f}   F1 {found['f1']:.3f}"
    )
    style.label(ax, f"{what}\n\n{said}", "truth", title)


def _draw_band(ax: Any, tables: Tables, rule: Rule) -> None:
    """Sensitivity and specificity of every gate threshold, the inconclusive band shaded."""
    truth, found = positives(tables), band(tables)
    title = "No inconclusive band"
    if found["low"] is None or found["high"] is None or found["share"] is None:
        style.say(ax, ONE_KIND)
        return style.label(ax, "gate threshold (probability)", "share of images", title)
    cuts = np.linspace(0, 1, 501)
    below = [np.searchsorted(np.sort(tables.gate[kind]), cuts) / kind.sum() for kind in (truth, ~truth)]
    ax.plot(cuts, 1 - below[0], color=style.BLUE, label="sensitivity")
    ax.plot(cuts, below[1], color=style.ORANGE, label="specificity")
    ax.axhline(SURE, color=style.GREY, linewidth=1, linestyle=":")
    ax.axvline(rule.gate, color=style.RED, linewidth=1, label="chosen gate")
    if found["low"] < found["high"]:
        ax.axvspan(found["low"], found["high"], color=style.GREY, alpha=0.25, linewidth=0, label="inconclusive")
        title = f"Inconclusive {found['low']:.3f} to {found['high']:.3f}: {found['share']:.1%} of images"
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    ax.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.19))
    style.label(ax, "gate threshold (probability)", "share of images", title)


def _share(part: int, of: int) -> float:
    return part / of if of else 0.0


def _enough(count: int) -> int:
    """The fewest of `count` images that are the wanted share of them."""
    return math.ceil(SURE * count - 1e-9)
