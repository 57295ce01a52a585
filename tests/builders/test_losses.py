"""Losses equal values computed by hand, and a plain numpy Lovász hinge."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
from scipy import ndimage

from gatemask import quiet
from gatemask.config import LOSS_OPTIONS, Experiment, LossName, LossPart

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.builders import losses  # noqa: E402
from gatemask.builders.models import Network  # noqa: E402

TRUTH = np.array([[[1], [0]], [[0], [0]]], np.uint8)[..., None]
PROBABILITY = np.array([[[0.8], [0.4]], [[0.1], [0.5]]], np.float32)[..., None]


def values_of(weights: dict[Any, Any], smoothing: float = 0.0) -> np.ndarray:
    return np.asarray(losses.WeightedLoss(weights, smoothing).call(TRUTH, keras.ops.convert_to_tensor(PROBABILITY)))


def test_every_loss_of_the_schema_accepts_its_options() -> None:
    for name in get_args(LossName):
        options = {option: 2 if option == "iterations" else 0.5 for option in LOSS_OPTIONS.get(name, ())}
        assert values_of({name: LossPart(**options)}).shape == (2,)


def test_bce_with_and_without_smoothing() -> None:
    expected = [-(np.log(0.8) + np.log(0.6)) / 2, -(np.log(0.9) + np.log(0.5)) / 2]
    assert values_of({"bce": 1}) == pytest.approx(expected, rel=1e-5)
    smooth = -(0.9 * np.log(0.8) + 0.1 * np.log(0.2) + 0.9 * np.log(0.6) + 0.1 * np.log(0.4)) / 2
    assert values_of({"bce": 1}, 0.2)[0] == pytest.approx(smooth, rel=1e-5)


@pytest.mark.parametrize("gamma", [None, 0.5, 2.0])
def test_focal_weights_by_the_error(gamma: float | None) -> None:
    power = 2.0 if gamma is None else gamma
    expected = -(0.2**power * np.log(0.8) + 0.4**power * np.log(0.6)) / 2
    assert values_of({"focal": LossPart(gamma=gamma)})[0] == pytest.approx(expected, rel=1e-5)


def test_dice_per_image_and_of_an_empty_image() -> None:
    assert values_of({"dice": 1}) == pytest.approx([1 - (2 * 0.8 + 1) / (1 + 1.2 + 1), 1 - 1 / (0.6 + 1)], rel=1e-5)


def test_batch_dice_treats_the_batch_as_one_image() -> None:
    assert values_of({"dice_batch": 1}) == pytest.approx([1 - (2 * 0.8 + 1) / (1 + 1.2 + 0.6 + 1)] * 2, rel=1e-5)


def test_tversky_weights_false_positives_and_false_negatives() -> None:
    assert values_of({"tversky": 1})[0] == pytest.approx(1 - 1.8 / (0.8 + 0.3 * 0.4 + 0.7 * 0.2 + 1), rel=1e-5)
    part = LossPart(alpha=0.5, beta=0.5, weight=2)
    assert values_of({"tversky": part})[0] == pytest.approx(2 * (1 - 1.8 / (0.8 + 0.5 * 0.4 + 0.5 * 0.2 + 1)), rel=1e-5)
    assert values_of({"tversky": part})[1] == pytest.approx(2 * (1 - 1 / (0.5 * 0.6 + 1)), rel=1e-5)


@pytest.mark.parametrize("gamma", [None, 2.0])
def test_focal_tversky_is_a_root_of_tversky(gamma: float | None) -> None:
    cost = np.array([1 - 1.8 / (0.8 + 0.3 * 0.4 + 0.7 * 0.2 + 1), 1 - 1 / (0.3 * 0.6 + 1)])
    found = values_of({"focal_tversky": LossPart(gamma=gamma)})
    assert found == pytest.approx(cost ** (1 / (gamma or 4 / 3)), rel=1e-5)


def test_topk_counts_the_worst_pixels() -> None:
    assert values_of({"topk": 1}) == pytest.approx([-np.log(0.6), -np.log(0.5)], rel=1e-5)  # one pixel at least
    rng = np.random.default_rng(0)
    truth, probability = rng.random((3, 20, 10, 1)) < 0.3, rng.uniform(0.01, 0.99, (3, 20, 10, 1)).astype(np.float32)
    cost = -np.log(np.where(truth, probability, 1 - probability)).reshape(3, 200)
    for share in (0.1, 0.25, 1.0):
        expected = np.sort(cost, axis=1)[:, -int(200 * share) :].mean(axis=1)
        found = np.asarray(losses.topk(truth.astype(np.float32), probability, share=share))
        assert found == pytest.approx(expected, rel=1e-4)


def skeleton_by_hand(mask: np.ndarray, iterations: int) -> np.ndarray:
    """Soft skeleton of a mask (h, w) with scipy's filters; pixels outside do not count."""

    def erode(x: np.ndarray) -> np.ndarray:
        cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
        return ndimage.minimum_filter(x, footprint=cross, mode="constant", cval=np.inf)

    def removed(x: np.ndarray) -> np.ndarray:
        opened = ndimage.maximum_filter(erode(x), size=3, mode="constant", cval=-np.inf)
        return np.maximum(x - opened, 0)

    skeleton = removed(mask)
    for _ in range(iterations):
        mask = erode(mask)
        skeleton = skeleton + (1 - skeleton) * removed(mask)
    return skeleton


def test_cldice_compares_skeletons() -> None:
    rng = np.random.default_rng(3)
    truth = np.zeros((2, 16, 12, 1), np.float32)
    truth[0, 4:8, 1:11] = 1
    truth[0, 2:14, 5:7] = 1
    probability = rng.uniform(0, 1, truth.shape).astype(np.float32)
    found = np.asarray(losses.cldice(truth, probability, iterations=3))
    for number in range(2):
        t, p = truth[number, ..., 0], probability[number, ..., 0]
        of_truth, of_map = skeleton_by_hand(t, 3), skeleton_by_hand(p, 3)
        precision = ((of_map * t).sum() + 1) / (of_map.sum() + 1)
        sensitivity = ((of_truth * p).sum() + 1) / (of_truth.sum() + 1)
        assert found[number] == pytest.approx(1 - 2 * precision * sensitivity / (precision + sensitivity), rel=1e-4)
    assert np.asarray(losses.cldice(truth, truth)) == pytest.approx([0, 0], abs=1e-6)
    broken = truth.copy()
    broken[0, 9] = 0  # the thin line is cut: few pixels, but half of a branch
    assert float(losses.cldice(truth, broken)[0]) > float(losses.dice(truth, broken)[0])


@pytest.mark.parametrize("name", ["bce", "dice", "dice_batch", "tversky", "focal_tversky"])
def test_soft_truth_is_met_best_by_itself(name: LossName) -> None:
    truth = np.full((1, 4, 4, 1), 0.7, np.float32)
    truth[:, :2] = 0.2
    loss = losses.WeightedLoss({name: 1})
    exact, *others = (
        float(loss.call(truth, keras.ops.convert_to_tensor(np.clip(truth + step, 0.01, 0.99).astype(np.float32)))[0])
        for step in (0, -0.1, 0.1, 0.25)
    )
    assert all(exact < other for other in others)


def lovasz_by_hand(truth: np.ndarray, logits: np.ndarray) -> float:
    """Sum over pixels, worst first, of the hinge times the increase of the Jaccard loss."""
    errors = 1 - logits * (2 * truth - 1)
    order = np.argsort(-errors)
    total, previous = 0.0, 0.0
    for count in range(1, len(order) + 1):
        wrong = set(order[:count])
        present = {n for n in range(len(truth)) if truth[n]}
        # The Jaccard loss if exactly the worst `count` pixels are wrong.
        jaccard = 1 - len(present - wrong) / max(1, len(present | wrong))
        total += max(0.0, errors[order[count - 1]]) * (jaccard - previous)
        previous = jaccard
    return total


def test_lovasz_equals_the_hinge_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((4, 6, 6, 1)) < np.array([0.5, 0.2, 0.0, 1.0])[:, None, None, None]).astype(np.uint8)
    logits = rng.normal(0, 2, truth.shape)
    computed = np.asarray(losses.lovasz(truth.astype(np.float32), (1 / (1 + np.exp(-logits))).astype(np.float32)))
    expected = [lovasz_by_hand(t.ravel().astype(int), x.ravel()) for t, x in zip(truth, logits, strict=True)]
    assert computed == pytest.approx(expected, rel=1e-4)
    assert computed[2] == pytest.approx(1 + logits[2].max(), rel=1e-4), "the worst pixel of an empty image"


def test_lovasz_is_finite_at_probabilities_of_0_and_1() -> None:
    computed = np.asarray(losses.lovasz(np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)))
    assert np.isfinite(computed).all()
    assert computed[0] > 10


def test_losses_are_summed_by_weight() -> None:
    parts = {"bce": 3, "focal": LossPart(weight=4, gamma=1), "dice": 0.5}
    expected = 3 * values_of({"bce": 1}) + 4 * values_of({"focal": LossPart(gamma=1)}) + 0.5 * values_of({"dice": 1})
    assert values_of(parts) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", get_args(LossName))
def test_images_of_weight_0_do_not_count(name: str) -> None:
    loss = losses.WeightedLoss({name: 1})
    alone = float(loss(TRUTH[:1], keras.ops.convert_to_tensor(PROBABILITY[:1])))
    padded = float(loss(TRUTH, keras.ops.convert_to_tensor(PROBABILITY), np.array([1.0, 0.0], np.float32)))
    assert padded == pytest.approx(alone, rel=1e-6)
    assert float(loss(TRUTH, keras.ops.convert_to_tensor(PROBABILITY), np.zeros(2, np.float32))) == 0


def test_the_training_loss_covers_all_heads_and_the_gate() -> None:
    from gatemask.builders.step import TrainingModel

    image = keras.Input((2, 2, 1))
    main, gate_weight = losses.WeightedLoss({"bce": 1, "dice": 1}), 0.5
    of_heads = {"main": 0.75, "deep1": 0.25}
    model = TrainingModel(image, {"main": keras.layers.Identity()(image)}).set_loss(main, of_heads, gate_weight)
    heads = {name: keras.ops.convert_to_tensor(PROBABILITY**power) for name, power in (("main", 1), ("deep1", 2))}
    gates = np.array([[0.7], [0.4]], np.float32)
    weights = np.array([1, 0.5], np.float32)
    loss = float(model.compute_loss(None, TRUTH, {**heads, "gate": gates}, weights))
    over_heads = sum(of_heads[name] * float(main(TRUTH, head, weights)) for name, head in heads.items())
    cross_entropy = (-np.log(0.7) - 0.5 * np.log(0.6)) / 1.5
    assert loss == pytest.approx(over_heads + gate_weight * cross_entropy, rel=1e-5)


def test_soft_truth_is_a_share_of_255() -> None:
    from gatemask.builders.step import training_model

    image = keras.Input((2, 2, 1))
    parts, gate_weight = {"bce": 1, "dice": 1, "tversky": 1}, 0.5
    exp = Experiment.model_validate(
        {
            "name": "e",
            "task": "mask",
            "model": {"name": "unet", "encoder": "resnet18"},
            "input": {"size": 32},
            "loss": parts,
            "gate_loss": gate_weight,
            "augment": ["mixup"],
            "epochs": 1,
        }
    )
    heads = {"main": keras.layers.Identity()(image)}
    model = training_model(
        cast(Network, SimpleNamespace(model=SimpleNamespace(input=image), heads=heads, loss_weights={"main": 1.0})), exp
    )
    shares = np.array([51, 255, 0, 153], np.uint8).reshape(2, 2, 1, 1)
    gates = np.array([[0.7], [0.4]], np.float32)
    predicted = {"main": keras.ops.convert_to_tensor(PROBABILITY), "gate": gates}
    loss = float(model.compute_loss(None, shares, predicted))
    cross_entropy = (-np.log(0.7) - np.log(0.4)) / 2  # both show a pixel of more than half
    expected = float(losses.WeightedLoss(parts)((shares / 255).astype(np.float32), PROBABILITY))
    assert loss == pytest.approx(expected + gate_weight * cross_entropy, rel=1e-5)
