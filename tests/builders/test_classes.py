"""Losses, metrics and networks of several classes, of exclusive ones, with borders and ignored pixels."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gatemask import quiet
from gatemask.config import LossName, LossPart, Model
from gatemask.config.names import MASK_NETWORKS
from gatemask.input.layout import Layout

quiet.tensorflow()
keras = pytest.importorskip("keras")

import tensorflow as tf  # noqa: E402

from gatemask.builders import losses, metrics, models  # noqa: E402
from gatemask.builders.step import TrainingModel  # noqa: E402
from gatemask.masks.metrics import dice_of_masks  # noqa: E402

SHAPES = ("dice", "dice_batch", "tversky", "focal_tversky", "lovasz", "cldice")
# Losses with a gradient at some pixels only, and the share of pixels that have one at least.
PARTIAL = {"lovasz": 0.3, "topk": 0.1, "cldice": 0.1}


def random_masks(planes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and probabilities of four images, (4, 6, 5, planes)."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((4, 6, 5, planes)) < 0.3).astype(np.uint8)
    truth[3] = 0
    return truth, rng.uniform(0.02, 0.98, truth.shape).astype(np.float32)


def value(loss: losses.WeightedLoss, truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    return np.asarray(loss.call(truth, keras.ops.convert_to_tensor(probability)))


@pytest.mark.parametrize("name", get_args(LossName))
def test_a_loss_of_several_classes_is_the_mean_of_the_losses_of_each(name: LossName) -> None:
    truth, probability = random_masks(3)
    together = value(losses.WeightedLoss({name: 1}, layout=Layout(classes=3)), truth, probability)
    alone = [
        value(losses.WeightedLoss({name: 1}), truth[..., c : c + 1], probability[..., c : c + 1]) for c in range(3)
    ]
    assert together == pytest.approx(np.mean(alone, axis=0), rel=1e-5)


@pytest.mark.parametrize("name", get_args(LossName))
@pytest.mark.parametrize("exclusive", [False, True])
def test_images_of_weight_0_do_not_count_in_any_class(name: LossName, exclusive: bool) -> None:
    truth, probability = random_masks(3)
    probability /= 3
    loss = losses.WeightedLoss({name: 1}, 0.0, Layout(classes=3, exclusive=exclusive))
    alone = float(loss(truth[:2], keras.ops.convert_to_tensor(probability[:2])))
    padded = float(loss(truth, keras.ops.convert_to_tensor(probability), np.array([1, 1, 0, 0], np.float32)))
    assert padded == pytest.approx(alone, rel=1e-6)


TRUTH = np.array([[[[1, 0], [0, 1], [0, 0]]]], np.uint8)  # first class, second class, background
SHARES = np.array([[[[0.7, 0.1], [0.3, 0.6], [0.2, 0.3]]]], np.float32)
RIGHT = [0.7, 0.6, 0.5]


def test_exclusive_classes_have_the_categorical_cross_entropy() -> None:
    layout = Layout(classes=2, exclusive=True)
    found = value(losses.WeightedLoss({"bce": 1}, layout=layout), TRUTH, SHARES)
    assert found == pytest.approx([-np.log(RIGHT).mean()], rel=1e-5)
    found = value(losses.WeightedLoss({"focal": 1}, layout=layout), TRUTH, SHARES)
    assert found == pytest.approx([np.mean([-((1 - p) ** 2) * math.log(p) for p in RIGHT])], rel=1e-5)
    found = value(losses.WeightedLoss({"bce": 1}, 0.3, layout), TRUTH, SHARES)
    every = np.array([[0.7, 0.1, 0.2], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])
    assert found == pytest.approx([np.mean(-0.7 * np.log(RIGHT) - 0.1 * np.log(every).sum(axis=1))], rel=1e-5)


def test_pixels_of_two_exclusive_classes_are_shared_between_them() -> None:
    truth = np.array([[[[1, 1]]]], np.uint8)
    found = value(losses.WeightedLoss({"bce": 1}, layout=Layout(classes=2, exclusive=True)), truth, SHARES[:, :, :1])
    assert found == pytest.approx([-(math.log(0.7) + math.log(0.1)) / 2], rel=1e-5)


def test_borders_add_a_cross_entropy_of_their_own() -> None:
    border = np.array([[[[1], [0], [0]]]], np.uint8), np.array([[[[0.8], [0.4], [0.1]]]], np.float32)
    layout = Layout(classes=2, exclusive=True, border=True)
    truth, probability = (np.concatenate(pair, axis=-1) for pair in zip((TRUTH, SHARES), border, strict=True))
    own = -np.log([0.8, 0.6, 0.9]).mean()
    found = value(losses.WeightedLoss({"bce": 1}, layout=layout), truth, probability)
    assert found == pytest.approx([own - np.log(RIGHT).mean()], rel=1e-5)


@pytest.mark.parametrize("name", get_args(LossName))
def test_weights_of_classes_multiply_the_loss_of_each(name: LossName) -> None:
    truth, probability = random_masks(3)
    layout, weights = Layout(classes=2, border=True), (2.0, 0.5)
    weighted = value(losses.WeightedLoss({name: 1}, layout=layout, class_weights=weights), truth, probability)
    alone = [
        value(losses.WeightedLoss({name: 1}), truth[..., c : c + 1], probability[..., c : c + 1]) for c in range(3)
    ]
    assert weighted == pytest.approx((2 * alone[0] + 0.5 * alone[1] + alone[2]) / 3, rel=1e-5)


def test_weights_of_exclusive_classes_multiply_the_cross_entropy_of_their_pixels() -> None:
    layout = Layout(classes=2, exclusive=True)
    found = value(losses.WeightedLoss({"bce": 1}, layout=layout, class_weights=(3.0, 0.5)), TRUTH, SHARES)
    assert found == pytest.approx([-(np.log(RIGHT) * [3, 0.5, 1]).mean()], rel=1e-5)
    found = value(losses.WeightedLoss({"topk": LossPart(share=0.5)}, layout=layout), TRUTH, SHARES)
    assert found == pytest.approx([-(math.log(0.5) + math.log(0.6)) / 2], rel=1e-5)


def test_weights_of_classes_apply_to_a_gate_of_several() -> None:
    truth, probability = np.array([[1, 0]], np.uint8), np.array([[0.8, 0.4]], np.float32)
    loss = losses.WeightedLoss({"bce": 1}, layout=Layout(classes=2), class_weights=(2.0, 1.0))
    assert value(loss, truth, probability) == pytest.approx([-(2 * math.log(0.8) + math.log(0.6)) / 2], rel=1e-5)


# --- ignored pixels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("name", get_args(LossName))
def test_ignored_pixels_have_no_gradient_and_do_not_change_the_loss(name: LossName, exclusive: bool) -> None:
    layout = Layout(classes=2, border=True, ignored=True, exclusive=exclusive)
    rng = np.random.default_rng(1)
    truth = (rng.random((2, 8, 8, 4)) < 0.3).astype(np.uint8)
    truth[..., 1] &= 1 - truth[..., 0]
    ignored = truth[..., 3] > 0
    logits = tf.constant(rng.normal(0, 2, (2, 8, 8, 4 if exclusive else 3)), tf.float32)
    loss = losses.WeightedLoss({name: 1}, 0.1 if name in ("bce", "focal") else 0.0, layout)

    def outcome(masks: np.ndarray) -> tuple[float, np.ndarray]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            total = loss(masks, models._probability(logits, "main", 3 if exclusive else 0))
        return float(total), tape.gradient(total, logits).numpy()

    total, gradient = outcome(truth)
    assert np.isfinite(gradient).all()
    assert (gradient[ignored] == 0).all()
    if name in PARTIAL:
        assert (gradient[~ignored] != 0).any(axis=-1).mean() > PARTIAL[name]
    else:
        assert (gradient[~ignored] != 0).any(axis=-1).all()
    other = truth.copy()
    other[..., :3][ignored] = 1 - other[..., :3][ignored]
    assert outcome(other)[0] == total


def test_metrics_do_not_count_ignored_pixels_nor_borders() -> None:
    truth, probability = random_masks(4)
    layout = Layout(classes=2, border=True, ignored=True)
    for metric in metrics.build_metrics("mask", layout):
        results = []
        for change in (0, 1):
            masks, predicted = truth.copy(), probability[..., :3].copy()
            ignored = masks[..., 3] > 0
            if change:
                masks[..., :2][ignored] ^= 1
                predicted[ignored] = 1 - predicted[ignored]
                masks[..., 2] ^= 1
            metric.reset_state()
            metric.update_state(masks, keras.ops.convert_to_tensor(predicted))
            results.append(float(metric.result()))
        assert results[0] == results[1] > 0


# --- metrics -----------------------------------------------------------------------------------------------


def test_each_class_has_its_own_best_threshold() -> None:
    truth, probability = random_masks(2)
    probability[..., 0] = np.clip(probability[..., 0] * 0.3 + 0.2 * truth[..., 0], 0, 1)
    probability[..., 1] = np.clip(probability[..., 1] * 0.3 + 0.2 * truth[..., 1] + 0.4, 0, 1)
    levels = np.floor(probability * 255 + 0.5)
    scores = np.array(
        [
            [[dice_of_masks(truth[i, ..., c] > 0, levels[i, ..., c] >= t) for i in range(4)] for t in range(1, 256)]
            for c in range(2)
        ]
    )
    layout = Layout(classes=2)
    dice, positives = metrics.build_metrics("mask", layout)
    for metric in (dice, positives):
        for part in (slice(0, 2), slice(2, 4)):
            metric.update_state(truth[part], keras.ops.convert_to_tensor(probability[part]), np.ones(2, np.float32))
    assert float(dice.result()) == pytest.approx(scores.mean(axis=2).max(axis=1).mean(), abs=1e-5)
    assert scores.mean(axis=2).max(axis=1).mean() > scores.mean(axis=(0, 2)).max() + 0.01
    assert float(positives.result()) == pytest.approx(scores[:, :, :3].mean(axis=2).max(axis=1).mean(), abs=1e-5)


def test_a_class_without_positives_is_left_out_of_their_mean() -> None:
    truth, probability = random_masks(2)
    truth[..., 1] = 0
    _, positives = metrics.build_metrics("mask", Layout(classes=2))
    _, alone = metrics.build_metrics("mask")
    positives.update_state(truth, keras.ops.convert_to_tensor(probability))
    alone.update_state(truth[..., :1], keras.ops.convert_to_tensor(probability[..., :1]))
    assert float(positives.result()) == float(alone.result()) > 0


def test_the_curve_of_gates_per_class_is_the_mean_of_their_curves() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 3)) < [0.2, 0.5, 0.0]).astype(np.float32)
    scores = (np.clip(rng.normal(0.4 + 0.2 * truth, 0.15), 0, 1) * 255).round().astype(np.float32) / 255
    (curve,) = metrics.build_metrics("gate", labels=3)
    weights = (np.arange(200) < 150).astype(np.float32)
    for part in (slice(0, 100), slice(100, 200)):
        curve.update_state(truth[part], keras.ops.convert_to_tensor(scores[part]), weights[part])
    expected = np.mean([roc_auc_score(truth[:150, c], scores[:150, c]) for c in range(2)])
    assert float(curve.result()["auc"]) == pytest.approx(expected, abs=1e-5), "the third class has no positives"


# --- networks ----------------------------------------------------------------------------------------------


def images_of(size: tuple[int, int], channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *size, channels)).astype(np.uint8)


@pytest.mark.trains
@pytest.mark.usefixtures("tiny_encoders")
@pytest.mark.parametrize("name", MASK_NETWORKS)
def test_exclusive_maps_and_background_sum_to_1_in_oblong_networks(name: str) -> None:
    filters = [8, 8, 8, 8, 8] if name in ("unet", "unetpp", "linknet") else None
    model = Model(name=name, filters=filters, encoder="resnet18", deep_supervision=name == "unetpp")
    network = models.build_network(model, (32, 64), 5, 4, exclusive=True, border=True)
    maps = np.asarray(network.model(images_of((32, 64), 5)))
    assert (maps.shape, maps.dtype) == ((2, 32, 64, 4), np.float32)
    assert maps[..., :3].sum(axis=-1).max() <= 1 + 1e-6
    assert maps.sum(axis=-1).max() > 1, "borders are not part of the softmax"
    logits = tf.constant(np.random.default_rng(0).normal(0, 2, (1, 2, 2, 5)), tf.float32)
    found = np.asarray(models._probability(logits, "main", 4))
    exponents = np.exp(logits[..., :4].numpy())
    assert found[..., :3] == pytest.approx(exponents[..., 1:] / exponents.sum(-1, keepdims=True), abs=1e-6)
    assert found[..., 3] == pytest.approx(1 / (1 + np.exp(-logits[..., 4].numpy())), abs=1e-6)


@pytest.mark.trains
@pytest.mark.usefixtures("tiny_encoders")
def test_gates_have_one_output_or_one_per_class() -> None:
    for per_class, outputs in ((False, 1), (True, 3)):
        model = Model(name="gate", encoder="resnet18", per_class=per_class)
        network = models.build_network(model, (64, 32), 2, 3, exclusive=True)
        assert np.asarray(network.model(images_of((64, 32), 2))).shape == (2, outputs)


def test_the_gate_head_looks_at_the_classes_alone() -> None:
    image = keras.Input((2, 2, 3))
    layout = Layout(classes=2, border=True, ignored=True)
    model = TrainingModel(image, {"main": keras.layers.Identity()(image)})
    model.set_loss(losses.WeightedLoss({"bce": 1}, layout=layout), {"main": 1.0}, 1.0, layout)
    main = keras.ops.full((1, 2, 2, 3), 0.5)

    def gate_loss(plane: int) -> float:
        masks = np.zeros((1, 2, 2, 4), np.uint8)
        masks[..., plane] = 1
        heads = {"main": main, "gate": np.array([[0.2]], np.float32)}
        return float(model.compute_loss(None, masks, heads)) - float(model.compute_loss(None, masks, {"main": main}))

    assert [gate_loss(plane) for plane in range(4)] == pytest.approx([-math.log(0.2)] * 2 + [-math.log(0.8)] * 2)


def toy(exclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images of 32 pixels with a dark and a bright square; of overlapping classes, the third is their frame."""
    rng = np.random.default_rng(0)
    images, masks = np.full((16, 32, 32, 1), 120, np.uint8), np.zeros((16, 32, 32, 2 if exclusive else 3), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        for index, gray in enumerate((10, 240)):
            y, x = rng.integers(0, 20), rng.integers(0, 8) + 16 * index
            image[y : y + 10, x : x + 8] = gray
            mask[y : y + 10, x : x + 8, index] = 1
        if not exclusive:
            mask[..., 2] = mask[..., :2].any(axis=-1)
    return images, masks


@pytest.mark.trains
@pytest.mark.parametrize("exclusive", [True, False])
def test_networks_of_several_classes_learn(exclusive: bool) -> None:
    images, masks = toy(exclusive)
    layout = Layout(classes=masks.shape[-1], exclusive=exclusive)
    keras.utils.set_random_seed(0)
    shown = keras.Input((32, 32, 1), dtype="uint8")
    x = keras.layers.Conv2D(8, 1, activation="relu")(models.Normalize("tf")(shown))
    logits = keras.layers.Conv2D(layout.outputs + exclusive, 1)(x)
    probability = models._probability(logits, "main", layout.classes + 1 if exclusive else 0)
    model = TrainingModel(shown, {"main": probability})
    model.set_loss(losses.WeightedLoss({"bce": 1, "dice": 1}, layout=layout), {"main": 1.0}, 1.0, layout)
    model.compile(keras.optimizers.Adam(0.05), jit_compile=False)
    steps = [np.tile(array, (20, 1, 1, 1)) for array in (images, masks)]
    model.fit(*steps, batch_size=16, epochs=2, verbose=0)
    dice, _ = metrics.build_metrics("mask", layout)
    dice.update_state(masks, model(images)["main"])
    result = dice.result()
    assert float(result["dice"] if isinstance(result, dict) else result) > 0.9
