"""Whole inputs are predicted with the weights of crops: at once, or by blended tiles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import keras
import numpy as np
import pytest

from gatemask.builders import models
from gatemask.builders.tiled import by_tiles
from gatemask.config import Competition, Experiment
from gatemask.errors import GatemaskError
from gatemask.masks.tiling import blend_tiles, cut_tile, input_tiles


def gray_network(tile: int, channels: int = 1) -> keras.Model:
    """A network whose first map is the image, and whose second is the distance to the left edge."""
    images = keras.Input((tile, tile, channels), dtype="uint8")
    maps = keras.layers.Rescaling(1 / 255)(images[..., :1])
    ramp = (keras.ops.cumsum(keras.ops.ones_like(maps), axis=2) - 1) / (tile - 1)
    return keras.Model(images, keras.layers.Concatenate()([maps, ramp]))


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (80, 112)])
def test_maps_of_tiles_are_blended_as_those_of_large_images(size: tuple[int, int]) -> None:
    tile = 48
    network = gray_network(tile, 2)
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 2)).astype(np.uint8)
    maps = np.asarray(by_tiles(network, size).predict_on_batch(images))
    assert maps.shape == (3, *size, 2)
    assert maps.dtype == np.float32
    assert np.abs(maps[..., 0] - images[..., 0] / 255).max() < 1e-5, "tiles that agree change nothing"
    origins = input_tiles(size, tile)
    for image, blended in zip(images, maps, strict=True):
        cut = np.stack([cut_tile(image, origin, tile) for origin in origins])
        expected = blend_tiles(size, tile, origins, np.asarray(network.predict_on_batch(cut)), 2)
        assert np.abs(blended * 255 - expected).max() <= 0.51


def test_weights_are_gaussian() -> None:
    maps = np.asarray(by_tiles(gray_network(32), (32, 48)).predict_on_batch(np.zeros((1, 32, 48, 1), np.uint8)))
    x, ramp = np.arange(48), np.linspace(0, 1, 32)
    total, weights = np.zeros(48), np.zeros(48)
    for left in (0, 16):
        inside = (x >= left) & (x < left + 32)
        weight = np.exp(-0.5 * ((x[inside] - left - 15.5) / 4) ** 2)
        total[inside] += weight * ramp
        weights[inside] += weight
    assert np.abs(maps[0, :, :, 1] - total / weights).max() < 1e-5


def experiment(**settings: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "e",
            "task": "mask",
            "model": {"name": "unet", "encoder": "mobilenet"},
            "input": {"size": [64, 96], "crop": 32},
            "loss": {"bce": 1},
            "epochs": 1,
            **settings,
        }
    )


COMP = cast(
    Competition, SimpleNamespace(classes=["mask"], outputs=1, exclusive=False, image=SimpleNamespace(channels=1))
)


@pytest.mark.usefixtures("tiny_encoders")
def test_the_full_input_is_predicted_with_the_present_weights() -> None:
    exp = experiment()
    network = models.network_for(exp, COMP, seed=3)
    assert network.model.input.shape == (None, 32, 32, 1)
    predictor = models.predictor_for(exp, COMP, network)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 1)).astype(np.uint8)
    reference = models.build_network(exp.model, (64, 96), 1, seed=3).model
    for factor in (1.0, 1.5):
        for model in (network.model, reference):
            for weight in model.trainable_variables:
                weight.assign(np.asarray(weight) * factor)
        models.copy_weights(network, predictor)
        maps = np.asarray(predictor.predict_on_batch(images))
        assert maps.shape == (2, 64, 96, 1)
        assert np.array_equal(maps, np.asarray(reference.predict_on_batch(images)))


@pytest.mark.usefixtures("tiny_encoders")
def test_tiles_share_the_layers_of_the_network() -> None:
    exp = experiment(input={"size": [64, 96], "crop": 32, "predict": "tiles"})
    network = models.network_for(exp, COMP, seed=3)
    predictor = models.predictor_for(exp, COMP, network)
    assert [id(weight) for weight in predictor.weights] == [id(weight) for weight in network.model.weights]
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 1)).astype(np.uint8)
    maps = np.asarray(predictor.predict_on_batch(images))
    origins = input_tiles((64, 96), 32)
    tiles = np.stack([cut_tile(images[1], origin, 32) for origin in origins])
    expected = blend_tiles((64, 96), 32, origins, np.asarray(network.model.predict_on_batch(tiles)), 1)
    assert np.abs(maps[1] * 255 - expected).max() <= 0.51


@pytest.mark.usefixtures("tiny_encoders")
def test_without_crops_the_network_predicts_itself() -> None:
    exp = experiment(input={"size": 32})
    network = models.network_for(exp, COMP)
    assert models.predictor_for(exp, COMP, network) is network.model


def test_weights_that_depend_on_the_size_are_rejected() -> None:
    trained, predictor = (
        keras.Sequential([keras.Input((side, side, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
        for side in (4, 8)
    )
    with pytest.raises(GatemaskError, match="depend on the size") as caught:
        models.require_same_weights(trained, predictor, "a_transformer")
    assert "predict: tiles" in str(caught.value)
