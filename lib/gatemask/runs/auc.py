"""The area under the ROC curve of gates, with bootstrap resamples over groups of images."""

from __future__ import annotations

import numpy as np

from gatemask.tuning.crossfit import Resamples


def auc_of(truth: np.ndarray, probability: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Return the AUC of each resample; NaN where a resample lacks positive or negative images.

    Args:
        truth: Whether an image has a mask, bool (n,).
        probability: Gate probability, float (n,). Equal ones count half.
        counts: How often each image counts, int (resamples, n). Default: once, in one resample.

    Returns:
        float (resamples,).

    >>> auc_of(np.array([False, True, True, False]), np.array([0.1, 0.9, 0.4, 0.4])).tolist()
    [0.875]
    """
    order = np.argsort(probability, kind="stable")
    ranked = probability[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    counts = np.ones((1, len(truth)), np.int64) if counts is None else counts.astype(np.int64)
    counts = counts[:, order]
    positive = np.add.reduceat(counts * truth[order], starts, axis=1)
    negative = np.add.reduceat(counts * ~truth[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    ranked_right = (positive * (2 * below + negative)).sum(axis=1)
    auc: np.ndarray = np.where(pairs > 0, ranked_right / np.maximum(2 * pairs, 1), np.nan)
    return auc


def auc_resamples(truth: np.ndarray, probability: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Return the AUC of each bootstrap resample, float (times,)."""
    return np.concatenate([auc_of(truth, probability, counts) for counts in resamples.image_counts()])
