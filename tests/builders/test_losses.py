"""Losses against numbers worked out by hand, and metrics against the rule's own counting."""

from __future__ import annotations

import numpy as np
import pytest

from gatemask import quiet

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.builders import losses, metrics  # noqa: E402
from gatemask.masks.metric import dice_of_masks  # noqa: E402

TRUTH = np.array([[[1], [0]], [[0], [0]]], np.uint8)[..., None]
PROBABILITY = np.array([[[0.8], [0.4]], [[0.1], [0.5]]], np.float32)[..., None]


def value(weights: dict, smoothing: float = 0.0) -> np.ndarray:
    return np.asarray(losses.Sum(weights, smoothing).call(TRUTH, keras.ops.convert_to_tensor(PROBABILITY)))


def test_bce_with_and_without_smoothing() -> None:
    expected = [-(np.log(0.8) + np.log(0.6)) / 2, -(np.log(0.9) + np.log(0.5)) / 2]
    assert value({"bce": 1}) == pytest.approx(expected, rel=1e-5)
    smooth = -(0.9 * np.log(0.8) + 0.1 * np.log(0.2) + 0.9 * np.log(0.6) + 0.1 * np.log(0.4)) / 2
    assert value({"bce": 1}, 0.2)[0] == pytest.approx(smooth, rel=1e-5)


def test_dice_of_an_image_and_of_an_empty_one() -> None:
    assert value({"dice": 1}) == pytest.approx([1 - (2 * 0.8 + 1) / (1 + 1.2 + 1), 1 - 1 / (0.6 + 1)], rel=1e-5)


def test_focal_weighs_by_what_is_missing() -> None:
    expected = -(0.2**2 * np.log(0.8) + 0.4**2 * np.log(0.6)) / 2
    assert value({"focal": 1})[0] == pytest.approx(expected, rel=1e-5)


def test_a_sum_is_weighted() -> None:
    assert value({"bce": 3, "dice": 0.5}) == pytest.approx(3 * value({"bce": 1}) + 0.5 * value({"dice": 1}), rel=1e-5)


def test_padding_of_weight_0_does_not_count() -> None:
    loss = losses.Sum({"bce": 1})
    alone = float(loss(TRUTH[:1], keras.ops.convert_to_tensor(PROBABILITY[:1])))
    padded = float(loss(TRUTH, keras.ops.convert_to_tensor(PROBABILITY), np.array([1.0, 0.0], np.float32)))
    assert padded == pytest.approx(alone, rel=1e-6)


def test_the_device_s_dice_is_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    truth = ((rng.random((6, 8, 8, 1)) < 0.4) & (np.arange(6) % 3 > 0)[:, None, None, None]).astype(np.uint8)
    predicted = np.clip(rng.random(truth.shape) * 0.7 + 0.3 * truth, 0, 1).astype(np.float32)
    levels = np.floor(predicted * 255 + 0.5)
    by_hand = np.array(
        [[dice_of_masks(t > 0, one >= level) for t, one in zip(truth, levels, strict=True)] for level in range(1, 256)]
    )
    everything, positives = metrics.build("mask")
    weights = np.array([1, 1, 1, 1, 1, 0], np.float32)
    for metric in (everything, positives):
        for part in (slice(0, 3), slice(3, 6)):
            metric.update_state(truth[part], keras.ops.convert_to_tensor(predicted[part]), weights[part])
    assert float(everything.result()) == pytest.approx(by_hand[:, :5].mean(axis=1).max(), abs=1e-5)
    kept = [n for n in range(5) if truth[n].any()]
    assert float(positives.result()) == pytest.approx(by_hand[:, kept].mean(axis=1).max(), abs=1e-5)
