"""Statistics of the gate equal those worked out by hand or by force."""

from __future__ import annotations

import numpy as np
import pytest

from gatemask.masks.rule import Rule, probability
from gatemask.oof.tables import Tables
from gatemask.results.tuning import GateNumbers
from gatemask.tuning.gate_statistics import (
    calibration_curve,
    confusion_counts,
    confusion_rates,
    gate_band,
    gate_numbers,
    quantile_groups,
)
from tests.oof.test_tables import random_problem

RULE = Rule(0.4, probability(150), probability(120), 5)


def of_gate(gate: list[float], positive: list[bool]) -> Tables:
    """Return tables in which only gate and kind matter: 100 pixels, and a perfect map of 4 where there is truth."""
    truth = np.array(positive).astype(np.int32)[:, None] * 4
    reached = np.repeat(truth[:, :, None], 257, axis=2)
    reached[:, :, 256] = 0
    area = reached.copy()
    area[:, :, 0] = 100
    n = len(gate)
    return Tables(np.array([f"i{k}" for k in range(n)]), np.arange(n) % 3, np.array(gate), area, reached, truth)


def test_confusion_by_hand() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    predicted = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    counts = confusion_counts(truth, predicted)
    assert counts.tolist() == [[4, 2], [1, 3]]
    assert confusion_rates(counts) == pytest.approx((3 / 4, 4 / 6, 7 / 10, 3 / 5, 6 / 9))
    assert set(confusion_rates(np.zeros((2, 2), int))) == {0.0}


def test_band_by_hand() -> None:
    # One of 20 positives may be below low; one of 20 negatives may reach high.
    positive = [0.10, 0.30, *np.linspace(0.5, 0.95, 18)]
    negative = [*np.linspace(0.01, 0.2, 17), 0.45, 0.6, 0.8]
    band = gate_band(of_gate([*positive, *negative], [True] * 20 + [False] * 20))
    assert band.low == 0.30
    assert band.high == np.nextafter(0.6, 1)
    inside = [g for g in positive if 0.3 <= g <= 0.6], [g for g in negative if 0.3 <= g <= 0.6]
    assert (band.positives, band.images) == (len(inside[0]), len(inside[0]) + 2)
    assert band.share == band.images / 40
    decided = 20 - len(inside[0])
    assert band.decided == decided + 18
    assert (band.missed, band.false_alarms) == (1, 1)
    assert band.sensitivity == pytest.approx((decided - 1) / decided)
    assert band.specificity == pytest.approx(17 / 18)


@pytest.mark.parametrize("seed", range(5))
def test_band_is_what_trying_every_threshold_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(150) < 0.3
    gate = np.clip(rng.normal(0.35 + 0.25 * positive, 0.2), 0, 1).round(2)  # rounded: many are equal
    band = gate_band(of_gate(gate.tolist(), positive.tolist()))
    cuts = np.unique(np.concatenate([gate, np.nextafter(gate, 2)]))
    sensitive = [t for t in cuts if (gate[positive] >= t).mean() >= 0.95]
    specific = [t for t in cuts if (gate[~positive] < t).mean() >= 0.95]
    assert (band.low, band.high) == (max(sensitive), min(specific))
    assert band.images == ((gate >= max(sensitive)) & (gate < min(specific))).sum() > 0


def test_gates_that_tell_all_apart_have_no_band() -> None:
    band = gate_band(of_gate([0.9, 0.8, 0.2, 0.1], [True, True, False, False]))
    assert band.low == 0.8
    assert band.high == np.nextafter(0.2, 1)
    assert (band.images, band.share, band.decided) == (0, 0.0, 4)
    assert (band.missed, band.false_alarms) == (0, 0)
    assert band.sensitivity == band.specificity == 1.0


def test_without_a_band_the_middle_decides() -> None:
    band = gate_band(of_gate([0.4, *[0.8] * 19, 0.7, *[0.2] * 19], [True] * 20 + [False] * 20))
    assert (band.low, band.high) == (0.8, np.nextafter(0.2, 1))
    assert (band.images, band.missed, band.false_alarms) == (0, 1, 1)


@pytest.mark.parametrize("kind", [True, False])
def test_one_kind_of_image_has_neither_band_nor_auc(kind: bool) -> None:
    tables = of_gate([0.1, 0.6, 0.9], [kind] * 3)
    numbers = gate_numbers(tables, Rule(0.5, 0.5, 0.5, 0))
    assert numbers.auc is numbers.band.low is numbers.band.share is None
    assert numbers.band.images == 0
    assert numbers.accuracy == pytest.approx(2 / 3 if kind else 1 / 3)


def test_a_constant_gate_is_inconclusive_everywhere() -> None:
    numbers = gate_numbers(of_gate([0.5] * 4, [True, False, False, False]), Rule(0.5, 0.5, 0.5, 0))
    assert numbers.auc == 0.5
    assert (numbers.sensitivity, numbers.specificity, numbers.precision) == (1.0, 0.0, 0.25)
    assert (numbers.band.images, numbers.band.share, numbers.band.decided) == (4, 1.0, 0)
    assert numbers.band.sensitivity is numbers.band.specificity is None
    assert numbers.ece == numbers.brier == pytest.approx(0.25)  # half against a quarter; (3 * 0.5² + 0.5²) / 4


def test_calibration_by_hand() -> None:
    gate = [0.0] * 10 + [0.2] * 5 + [0.9] * 5
    positive = [False] * 9 + [True] + [True, False, False, False, False] + [True] * 4 + [False]
    tables = of_gate(gate, positive)
    predicted, observed, images = calibration_curve(tables)
    assert predicted == pytest.approx([0.0, 0.2, 0.9])
    assert observed == pytest.approx([0.1, 0.2, 0.8])
    assert images.tolist() == [10, 5, 5]
    numbers = gate_numbers(tables, Rule(0.5, 0.5, 0.5, 0))
    assert numbers.ece == pytest.approx((10 * 0.1 + 5 * 0.0 + 5 * 0.1) / 20)
    assert numbers.brier == pytest.approx((1 + (0.8**2 + 4 * 0.2**2) + (4 * 0.1**2 + 0.9**2)) / 20)


def test_bins_of_different_probabilities_hold_equally_many() -> None:
    tables = of_gate(np.random.default_rng(0).permutation(50).tolist(), [True] * 50)
    predicted, _, images = calibration_curve(tables)
    assert images.tolist() == [5] * 10
    assert predicted == pytest.approx(np.arange(10) * 5 + 2)


@pytest.mark.parametrize(
    ("values", "parts", "least", "expected"),
    [
        ([30, 10, 20, 40], 2, 1, [[10, 20], [30, 40]]),
        (list(range(9)), 10, 3, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (list(range(10)), 10, 4, [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]),  # the last two are too few for a part
        ([7, 7, 7, 7, 7, 7, 7, 8], 4, 1, [[7] * 7, [8]]),
        ([7, 7, 7, 7, 7, 7, 7, 8], 4, 2, [[7] * 7 + [8]]),
        ([5, 5, 5], 10, 5, [[5, 5, 5]]),
        ([1], 10, 5, [[1]]),
    ],
)
def test_quantiles(values: list[int], parts: int, least: int, expected: list[list[int]]) -> None:
    groups = quantile_groups(np.array(values), parts, least)
    assert [np.array(values)[part].tolist() for part in groups] == expected


def test_numbers_survive_json() -> None:
    tables, _, truths = random_problem(3, images=200)
    numbers = gate_numbers(tables, RULE)
    assert GateNumbers.model_validate_json(numbers.model_dump_json()) == numbers
    positive = truths.any(axis=(1, 2))
    assert numbers.sensitivity == pytest.approx((tables.image_gate[positive] >= RULE.gate).mean())
    assert numbers.specificity == pytest.approx((tables.image_gate[~positive] < RULE.gate).mean())
    pairs = tables.image_gate[positive][:, None] - tables.image_gate[~positive][None]
    assert numbers.auc == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
