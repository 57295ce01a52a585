"""Soft masks in losses and metrics: levels of 255 are shares, mask from half on, and ignored pixels do not count."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from gatemask.config import LossName
from gatemask.input.layout import Layout

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from gatemask.builders import losses, metrics, models  # noqa: E402
from gatemask.builders.step import TrainingModel  # noqa: E402
from gatemask.masks.metrics import dice_of_masks  # noqa: E402

SOFT = Layout(soft=True)
CERTAIN = ("lovasz", "cldice")  # one cuts the truth, and the other compares skeletons


def soft_masks(planes: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Levels and probabilities of three images, (3, 8, 8, planes)."""
    rng = np.random.default_rng(seed)
    levels = rng.choice([0, 0, 85, 128, 170, 255], (3, 8, 8, planes)).astype(np.uint8)
    return levels, rng.uniform(0.02, 0.98, levels.shape).astype(np.float32)


def value(loss: losses.WeightedLoss, truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    return np.asarray(loss.call(truth, keras.ops.convert_to_tensor(probability)))


@pytest.mark.parametrize("name", get_args(LossName))
def test_levels_are_shares_of_255(name: LossName) -> None:
    levels, probability = soft_masks()
    shares = (levels / 255).astype(np.float32)
    expected = value(losses.WeightedLoss({name: 1}), shares, probability)
    assert value(losses.WeightedLoss({name: 1}, layout=SOFT), levels, probability) == pytest.approx(expected, rel=1e-6)
    hard = np.where(levels >= 128, 255, 0).astype(np.uint8)
    expected = value(losses.WeightedLoss({name: 1}), hard // 255, probability)
    assert value(losses.WeightedLoss({name: 1}, layout=SOFT), hard, probability) == pytest.approx(expected, rel=1e-6)


def test_soft_losses_by_their_formulas() -> None:
    levels, probability = soft_masks()
    t, p = levels.astype(float) / 255, probability.astype(float)
    entropy = -t * np.log(p) - (1 - t) * np.log(1 - p)
    least = np.minimum(t, p).sum(axis=(1, 2, 3))
    expected = {
        "bce": entropy.mean(axis=(1, 2, 3)),
        "focal": (np.abs(t - p) ** 2 * entropy).mean(axis=(1, 2, 3)),
        "dice": 1 - (2 * least + 1) / (t.sum(axis=(1, 2, 3)) + p.sum(axis=(1, 2, 3)) + 1),
    }
    for name, costs in expected.items():
        assert value(losses.WeightedLoss({name: 1}, layout=SOFT), levels, probability) == pytest.approx(costs, rel=1e-5)


@pytest.mark.parametrize("name", sorted({*get_args(LossName)} - {*CERTAIN}))
@pytest.mark.parametrize("exclusive", [False, True])
def test_the_truth_itself_costs_less_than_any_other_probability(name: LossName, exclusive: bool) -> None:
    """A network that predicts the share of annotators must not be pushed towards 0 or 1."""
    layout = Layout(classes=2, soft=True, exclusive=exclusive)
    levels = np.broadcast_to(np.array([179, 51], np.uint8), (1, 8, 8, 2))
    shares = (levels / 255).astype(np.float32)
    loss = losses.WeightedLoss({name: 1}, layout=layout)
    best = value(loss, levels, shares)[0]
    for change in ([0.05, 0.0], [-0.05, 0.0], [0.0, 0.05], [0.0, -0.05], [0.08, -0.1], [-0.6, 0.0]):
        assert value(loss, levels, shares + np.array(change, np.float32))[0] > best


@pytest.mark.parametrize("name", get_args(LossName))
def test_ignored_pixels_of_soft_masks_have_no_gradient_and_do_not_change_the_loss(name: LossName) -> None:
    levels, _ = soft_masks(2, seed=1)
    levels[..., 1] = np.where(np.random.default_rng(2).random(levels.shape[:3]) < 0.3, 255, 0)
    ignored = levels[..., 1] > 0
    logits = tf.constant(np.random.default_rng(3).normal(0, 2, (*levels.shape[:3], 1)), tf.float32)
    loss = losses.WeightedLoss({name: 1}, layout=Layout(soft=True, ignored=True))

    def outcome(masks: np.ndarray) -> tuple[float, np.ndarray]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            total = loss(masks, tf.sigmoid(logits))
        return float(total), tape.gradient(total, logits).numpy()

    total, gradient = outcome(levels)
    assert (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).any()
    other = levels.copy()
    other[..., 0][ignored] = 255 - other[..., 0][ignored]
    assert outcome(other)[0] == total


def test_metrics_count_pixels_from_half_on() -> None:
    levels, probability = soft_masks(2)
    levels[..., 1] = np.where(levels[..., 1] > 200, 255, 0)
    kept = levels[..., 1] == 0
    best = max(
        np.mean(
            [
                dice_of_masks(truth & known, (shown >= threshold) & known)
                for truth, shown, known in zip(levels[..., 0] >= 128, levels_of(probability[..., 0]), kept, strict=True)
            ]
        )
        for threshold in range(1, 256)
    )
    for metric in metrics.build_metrics("mask", Layout(soft=True, ignored=True)):
        metric.update_state(levels, keras.ops.convert_to_tensor(probability[..., :1]))
        found = metric.result()
        assert float(found["dice"] if isinstance(found, dict) else found) == pytest.approx(best, rel=1e-5)


def levels_of(probability: np.ndarray) -> np.ndarray:
    return np.floor(probability * np.float32(255) + np.float32(0.5)).astype(int)


def test_the_gate_head_sees_a_mask_from_half_on() -> None:
    image = keras.Input((2, 2, 1))
    model = TrainingModel(image, {"main": keras.layers.Identity()(image)})
    model.set_loss(losses.WeightedLoss({"bce": 1}, layout=SOFT), {"main": 1.0}, 1.0, SOFT)
    heads = {"main": keras.ops.full((1, 2, 2, 1), 0.5), "gate": np.array([[0.2]], np.float32)}
    for level, probability in ((127, 0.8), (128, 0.2)):
        masks = np.zeros((1, 2, 2, 1), np.uint8)
        masks[0, 1, 1] = level
        without = float(model.compute_loss(None, masks, {"main": heads["main"]}))
        gate = float(model.compute_loss(None, masks, heads)) - without
        assert gate == pytest.approx(-np.log(probability), rel=1e-5)


def test_soft_masks_are_learned_as_shares() -> None:
    """A network that sees the same gray pixel under masks of 0.75 predicts 0.75, not 1."""
    levels, images = np.full((480, 4, 4, 1), 191, np.uint8), np.full((480, 4, 4, 1), 90, np.uint8)
    shown = keras.Input((4, 4, 1), dtype="uint8")
    logits = keras.layers.Conv2D(1, 1)(models.Normalize("tf")(shown))
    model = TrainingModel(shown, {"main": keras.layers.Activation("sigmoid")(logits)})
    model.set_loss(losses.WeightedLoss({"bce": 1, "dice": 1}, layout=SOFT), {"main": 1.0}, 1.0, SOFT)
    model.compile(keras.optimizers.Adam(0.1), jit_compile=False)
    model.fit(images, levels, batch_size=8, epochs=1, verbose=0)
    assert np.asarray(model(images[:8])["main"]) == pytest.approx(191 / 255, abs=0.02)
