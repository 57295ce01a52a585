"""Measure the gate by itself: confusion counts, calibration, and the band in which it is inconclusive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gatemask.masks.rule import Rule
from gatemask.oof.tables import Scorable, Tables, passing
from gatemask.results.tuning import GateBand, GateNumbers

SURE = 0.95  # sensitivity below the band, and specificity above it, over all images
BINS = 10  # of the calibration curve


class Rates(NamedTuple):
    """Shares of a confusion matrix, in [0, 1]; 0 where the denominator is 0."""

    sensitivity: float
    specificity: float
    accuracy: float
    precision: float
    f1: float


class Calibration(NamedTuple):
    """Calibration curve in bins of equally many images.

    Args:
        probability: Mean gate probability of each bin, float (bins,).
        observed: Share of images with a mask in each bin, float (bins,).
        images: Number of images in each bin, int (bins,).
    """

    probability: np.ndarray
    observed: np.ndarray
    images: np.ndarray


def has_mask(counted: Scorable) -> np.ndarray:
    """Return which images have a mask of any class in truth, bool (n,)."""
    present: np.ndarray = np.any(counted.truth > 0, axis=1)
    return present


def confusion_counts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the confusion matrix of two bool (n,), int (2, 2): rows of truth, columns of prediction, empty first.

    >>> confusion_counts(np.array([True, True, False]), np.array([True, False, False])).tolist()
    [[1, 0], [1, 1]]
    """
    return np.bincount(2 * truth.astype(int) + predicted, minlength=4).reshape(2, 2)


def confusion_rates(counts: np.ndarray) -> Rates:
    """Return the shares of a confusion matrix.

    >>> confusion_rates(np.array([[4, 2], [1, 3]])).sensitivity
    0.75
    """
    (true_empty, false_mask), (false_empty, true_mask) = counts.tolist()
    return Rates(
        sensitivity=_share(true_mask, true_mask + false_empty),
        specificity=_share(true_empty, true_empty + false_mask),
        accuracy=_share(true_empty + true_mask, int(counts.sum())),
        precision=_share(true_mask, true_mask + false_mask),
        f1=_share(2 * true_mask, 2 * true_mask + false_mask + false_empty),
    )


def gate_band(tables: Tables) -> GateBand:
    """Return the gate probabilities between which the gate is inconclusive: from `low` up to, but without, `high`.

    `low` is the highest gate cut at which sensitivity is still 0.95: few images with a mask fall below it. `high` is
    the lowest cut at which specificity is 0.95: few empty images reach it. An image below `low` is decided to be
    empty, one that reaches `high` to have a mask; the others are inconclusive. Where low >= high no image is, any cut
    between the two meets both demands, and their middle decides. As a cut passes what equals it, `high` is the next
    float after an image's probability.
    """
    truth, gate = has_mask(tables), tables.image_gate.astype(np.float64)
    if truth.all() or not truth.any():
        return GateBand(
            low=None,
            high=None,
            images=0,
            positives=0,
            share=None,
            decided=0,
            missed=0,
            false_alarms=0,
            sensitivity=None,
            specificity=None,
        )
    low = float(np.sort(gate[truth])[::-1][_enough(int(truth.sum())) - 1])
    high = float(np.nextafter(np.sort(gate[~truth])[_enough(int((~truth).sum())) - 1], np.inf))
    inside = (gate >= low) & (gate < high)
    outside = ~inside
    counts = confusion_counts(truth[outside], gate[outside] >= (high if low < high else (low + high) / 2))
    (true_empty, false_mask), (false_empty, true_mask) = counts.tolist()
    rates = confusion_rates(counts)
    return GateBand(
        low=low,
        high=high,
        images=int(inside.sum()),
        positives=int((inside & truth).sum()),
        share=float(inside.mean()),
        decided=int(outside.sum()),
        missed=false_empty,
        false_alarms=false_mask,
        sensitivity=rates.sensitivity if true_mask + false_empty else None,
        specificity=rates.specificity if true_empty + false_mask else None,
    )


def calibration_curve(tables: Tables) -> Calibration:
    """Return the calibration curve of the gate. Equal probabilities share a bin, so there may be fewer than ten."""
    truth = has_mask(tables)
    gate = tables.image_gate
    bins = quantile_groups(gate, BINS)
    return Calibration(
        np.array([gate[part].mean() for part in bins]),
        np.array([truth[part].mean() for part in bins]),
        np.array([len(part) for part in bins]),
    )


def quantile_groups(values: np.ndarray, parts: int, least: int = 1) -> list[np.ndarray]:
    """Return the indices of up to `parts` groups of ascending value and about the same size.

    Args:
        values: Values to group, (n,). Equal values stay together.
        parts: Maximum number of groups.
        least: Minimum size of a group; a smaller one joins its neighbor. Default: 1.

    >>> [group.tolist() for group in quantile_groups(np.array([30, 10, 20, 40]), 2)]
    [[1, 2], [0, 3]]
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


def gate_numbers(tables: Tables, rules: Rule | Sequence[Rule]) -> GateNumbers:
    """Return the quality of the gate at the rules' cuts: which images have a mask of any class, and which pass for any.

    Of several gates, the likeliest class of each image counts.
    """
    from sklearn.metrics import roc_auc_score

    truth, gate = has_mask(tables), tables.image_gate
    curve = calibration_curve(tables)
    return GateNumbers(
        **confusion_rates(confusion_counts(truth, passing(tables, rules)))._asdict(),
        auc=float(roc_auc_score(truth, gate)) if truth.any() and not truth.all() else None,
        brier=float(np.mean((gate - truth) ** 2)),
        ece=float(curve.images @ np.abs(curve.probability - curve.observed) / curve.images.sum()),
        band=gate_band(tables),
    )


def _share(part: int, total: int) -> float:
    return part / total if total else 0.0


def _enough(count: int) -> int:
    """Return the fewest of `count` images that make the demanded share."""
    return math.ceil(SURE * count - 1e-9)
