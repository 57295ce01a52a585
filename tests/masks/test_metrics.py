"""The metrics equal their definitions, written out pixel by pixel."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gatemask.masks.metrics import METRICS, dice_of_masks, dice_score, total


def by_sets(truth: np.ndarray, mask: np.ndarray) -> float:
    t, m = set(np.flatnonzero(truth)), set(np.flatnonzero(mask))
    return 1.0 if not t and not m else 2 * len(t & m) / (len(t) + len(m))


@pytest.mark.parametrize("seed", range(20))
def test_dice_equals_the_dice_of_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, mask = rng.random((2, 5, 5)) < rng.choice([0, 0.1, 0.5, 1], 2)[:, None, None]
    assert dice_of_masks(truth, mask) == pytest.approx(by_sets(truth, mask), abs=1e-12)


def iou(truth: np.ndarray, mask: np.ndarray) -> float:
    t, m = set(np.flatnonzero(truth)), set(np.flatnonzero(mask))
    return 1.0 if not t and not m else len(t & m) / len(t | m)


def precision(truth: np.ndarray, mask: np.ndarray) -> float:
    hits = [Fraction(iou(truth, mask)).limit_denominator(1000) > Fraction(50 + 5 * step, 100) for step in range(10)]
    return 1.0 if not truth.any() and not mask.any() else sum(hits) / 10


def plainly(metric: str, truths: np.ndarray, masks: np.ndarray) -> float:
    """Return the metric of one class by its definition; truths and masks bool (n, height, width)."""
    pairs = list(zip(truths, masks, strict=True))
    if metric == "global_dice":
        return by_sets(truths, masks)
    if metric in ("pixel_f05", "pixel_f2"):
        hits, wrong, missed = (truths & masks).sum(), (masks & ~truths).sum(), (truths & ~masks).sum()
        beta = 0.5 if metric == "pixel_f05" else 2.0
        if not hits:
            return 1.0 if not wrong and not missed else 0.0
        precision_of_pixels, recall = hits / (hits + wrong), hits / (hits + missed)
        return float((1 + beta**2) * precision_of_pixels * recall / (beta**2 * precision_of_pixels + recall))
    if metric == "dice_positives":
        scores = [by_sets(t, m) for t, m in pairs if t.any()]
        return float(np.mean(scores)) if scores else 1.0
    image_metric = {"mean_dice": by_sets, "mean_iou": iou, "mean_precision": precision}[metric]
    return float(np.mean([image_metric(t, m) for t, m in pairs]))


def test_empty_images_score_one_or_zero() -> None:
    area, truth = np.array([[0.0], [4], [0]]), np.array([[0.0], [0], [9]])
    assert dice_score(np.zeros((3, 1)), area, truth)[:, 0].tolist() == [1, 0, 0]
    for metric in ("mean_dice", "mean_iou", "mean_precision"):
        assert total(*METRICS[metric](np.zeros((3, 1)), area, truth)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(12))
def test_every_metric_equals_its_definition_averaged_over_classes(metric: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths = rng.random((6, 4, 4, 2)) < rng.choice([0, 0.3, 0.8], (6, 1, 1, 2))
    masks = np.where(rng.random((6, 1, 1, 2)) < 0.7, truths ^ (rng.random(truths.shape) < 0.15), False)
    counts = [(truths & masks).sum((1, 2)), masks.sum((1, 2)), truths.sum((1, 2))]
    expected = np.mean([plainly(metric, truths[..., c], masks[..., c]) for c in range(2)])
    assert total(*METRICS[metric](*(count.astype(float) for count in counts))) == pytest.approx(expected, abs=1e-12)


def test_an_iou_of_exactly_a_threshold_does_not_exceed_it() -> None:
    intersection, area, truth = (np.array([[value]]) for value in (10.0, 10.0, 20.0))
    assert total(*METRICS["mean_precision"](intersection, area, truth)) == 0.0
    assert total(*METRICS["mean_precision"](intersection + 1, area + 1, truth)) == pytest.approx(0.1)
