"""Models: structure, shapes, and one step that moves every weight. Tiny inputs, one build each."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gatemask import quiet
from gatemask.config.schema import Model
from gatemask.errors import GatemaskError

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.builders import models  # noqa: E402

FILTERS = [32, 24, 16, 8, 4]


@pytest.fixture(scope="module")
def built() -> dict[str, keras.Model]:
    """Each architecture once, at 32 px with one channel."""
    block = {"unetpp": "transpose"}
    return {
        name: models.build(
            Model(
                name=name,
                encoder="efficientnetb0",
                filters=FILTERS,
                block=block.get(name, "upsampling"),
                batchnorm_momentum=0.9,
            ),
            32,
            1,
        )
        for name in models.ARCHITECTURES
    }


@pytest.mark.parametrize(("name", "shape"), [("gate", (2, 1)), ("unet", (2, 32, 32, 1)), ("unetpp", (2, 32, 32, 1))])
def test_uint8_goes_in_and_probabilities_come_out(built, name: str, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype(np.uint8)
    out = np.asarray(built[name](images))
    assert out.shape == shape
    assert out.dtype == np.float32
    assert ((out >= 0) & (out <= 1)).all()


def test_every_batchnorm_has_the_momentum_of_the_yaml(built) -> None:
    for model in built.values():
        norms = [la for la in models.network(model).layers if isinstance(la, keras.layers.BatchNormalization)]
        assert len(norms) > 40
        assert {layer.momentum for layer in norms} == {0.9}


def test_the_images_are_normalised_as_imagenet_was(built) -> None:
    layer = built["unet"].get_layer("normalise")
    out = np.asarray(layer(np.full((1, 1, 1, 3), 255.0, np.float32)))[0, 0, 0]
    assert out == pytest.approx((1 - np.array(models.MEAN)) / np.array(models.DEVIATION), abs=1e-5)


def test_unetpp_has_ten_nodes_with_dense_skips(built) -> None:
    network = models.network(built["unetpp"])
    nodes = {la.name[:6]: la for la in network.layers if la.name.startswith("node") and la.name.endswith("_concat")}
    assert set(nodes) == {f"node{i}{j}" for j in range(1, 5) for i in range(5 - j)}
    for name, layer in nodes.items():
        level, column = int(name[4]), int(name[5])
        assert len(layer.input) == column + 1, f"{name}: one from below, and all {column} before it"
        side = 16 >> level
        assert {tuple(x.shape[1:3]) for x in layer.input} == {(side, side)}
        assert layer.input[0].shape[-1] == FILTERS[3 - level]
    assert network.output.shape[1:] == (32, 32, 1)


def test_fresh_builds_of_one_seed_are_equal_and_of_another_are_not(built) -> None:
    def weights(seed: int) -> np.ndarray:
        random.seed(seed)  # as a fold begins
        model = models.build(Model(name="gate", encoder="efficientnetb0"), 32, 1)
        return np.concatenate([w.ravel() for w in model.get_weights()])

    assert (weights(1) == weights(1)).all()
    assert (weights(1) != weights(2)).any()


def test_encoder_weights_come_from_a_file_and_a_wrong_one_is_refused(built, tmp_path) -> None:
    from gatemask.builders import bridge

    encoder = bridge.encoder("efficientnetb0", (32, 32, 3))
    path = tmp_path / "b0.weights.h5"
    encoder.save_weights(path)
    config = Model(name="unet", encoder="efficientnetb0", filters=FILTERS, weights=str(path))
    loaded = models.network(models.build(config, 32, 1))
    for name in ("stem_conv", "block4a_expand_conv", "top_bn"):
        for one, two in zip(loaded.get_layer(name).get_weights(), encoder.get_layer(name).get_weights(), strict=True):
            assert (one == two).all()
    path.write_bytes(b"not weights")
    with pytest.raises(GatemaskError, match="do not fit"):
        models.build(config, 32, 1)
    with pytest.raises(GatemaskError, match="no such weights file"):
        models.build(config.model_copy(update={"weights": "none.h5"}), 32, 1)
