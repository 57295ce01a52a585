"""Metrics equal those of masks.metrics and of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from gatemask import quiet

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.builders import metrics  # noqa: E402
from gatemask.masks.metrics import dice_of_masks  # noqa: E402


def test_dice_is_the_best_over_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    truth = ((rng.random((6, 8, 8, 1)) < 0.4) & (np.arange(6) % 3 > 0)[:, None, None, None]).astype(np.uint8)
    predicted = np.clip(rng.random(truth.shape) * 0.7 + 0.3 * truth, 0, 1).astype(np.float32)
    levels = np.floor(predicted * 255 + 0.5)
    by_hand = np.array(
        [[dice_of_masks(t > 0, x >= level) for t, x in zip(truth, levels, strict=True)] for level in range(1, 256)]
    )
    all_images, positives = metrics.build_metrics("mask")
    weights = np.array([1, 1, 1, 1, 1, 0], np.float32)
    for metric in (all_images, positives):
        for part in (slice(0, 3), slice(3, 6)):
            metric.update_state(truth[part], keras.ops.convert_to_tensor(predicted[part]), weights[part])
    found, scores = all_images.result(), by_hand[:, :5].mean(axis=1)
    assert float(found["dice"]) == pytest.approx(scores.max(), abs=1e-5)
    assert scores[round(float(found["threshold"]) * 255) - 1] == pytest.approx(scores.max(), abs=1e-5)
    with_mask = [n for n in range(5) if truth[n].any()]
    assert float(positives.result()) == pytest.approx(by_hand[:, with_mask].mean(axis=1).max(), abs=1e-5)


def test_of_equally_good_thresholds_the_middle_one_is_reported() -> None:
    """Levels 102 to 200 separate the two pixels."""
    dice, _ = metrics.build_metrics("mask")
    dice.update_state(np.array([[[[0], [1]]]]), keras.ops.convert_to_tensor([[[[101 / 255], [200 / 255]]]]))
    assert float(dice.result()["threshold"]) == pytest.approx(151 / 255)


@pytest.mark.parametrize("levels", [255, 7])
def test_the_gate_curve_equals_that_of_scikit_learn(levels: int) -> None:
    """Few levels give many ties; weights of 0 are padding."""
    rng = np.random.default_rng(levels)
    truth = (rng.random((300, 1)) < 0.3).astype(np.uint8)
    scores = np.clip(rng.normal(0.4 + 0.2 * truth, 0.15), 0, 1)
    scores = (np.round(scores * levels) / levels * 255).round().astype(np.float32) / 255
    weights = (np.arange(300) < 280).astype(np.float32)
    (curve,) = metrics.build_metrics("gate")
    for start in range(0, 300, 100):
        part = slice(start, start + 100)
        curve.update_state(truth[part], keras.ops.convert_to_tensor(scores[part]), weights[part])
    values = {key: float(value) for key, value in curve.result().items()}
    truth, scores = truth[:280, 0], scores[:280, 0]
    assert values["auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-5)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    best = np.argmax(true - false)
    assert values["sensitivity"] + values["specificity"] == pytest.approx(true[best] + 1 - false[best], abs=1e-5)
    pairs = {(round(float(t), 4), round(1 - float(f), 4)) for t, f in zip(true, false, strict=True)}
    assert (round(values["sensitivity"], 4), round(values["specificity"], 4)) in pairs


def test_without_both_kinds_of_images_the_gate_curve_is_0() -> None:
    (curve,) = metrics.build_metrics("gate")
    curve.update_state(np.ones((3, 1), np.uint8), keras.ops.convert_to_tensor([[0.1], [0.5], [0.9]]))
    assert {key: float(value) for key, value in curve.result().items()} == {
        "auc": 0,
        "sensitivity": 0,
        "specificity": 0,
    }


def test_evaluate_reports_the_names_that_monitor_accepts() -> None:
    image = keras.Input((1,))
    model = keras.Model(image, keras.layers.Activation("sigmoid")(image))
    model.compile(None, loss="binary_crossentropy", weighted_metrics=metrics.build_metrics("gate"), jit_compile=False)
    x, y = np.array([[-2.0], [1.0], [0.5], [3.0]], np.float32), np.array([[0], [1], [0], [1]], np.uint8)
    values = model.evaluate(x, y, sample_weight=np.array([1, 1, 1, 0], np.float32), verbose=0, return_dict=True)
    assert set(values) == {"loss", "auc", "sensitivity", "specificity"}
    assert values["auc"] == 1
