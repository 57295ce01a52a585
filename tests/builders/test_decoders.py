"""Structure of the decoders: against segmentation-models, by hand, and against plain NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask import quiet
from gatemask.config import ENCODERS, Model
from gatemask.config.names import MASK_NETWORKS

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.builders import bridge, models  # noqa: E402
from gatemask.builders.decoders.attention import attend  # noqa: E402
from gatemask.builders.decoders.blocks import enlarge  # noqa: E402
from gatemask.builders.decoders.resample import Resample  # noqa: E402
from tests import tiny  # noqa: E402

FILTERS = [16, 12, 8, 8, 4]
# Features of the tiny encoder at 1/4, 1/8, 1/16 and 1/32 of the input size.
CHANNELS = {4: 8, 8: 16, 16: 16, 32: 32}
WITH_FILTERS = ("unet", "unetpp", "linknet")
WITH_STRIDE = ("unet", "unetpp", "fpn", "linknet")


def small(name: str, **more: Any) -> Model:
    """A network with few filters."""
    if name in WITH_FILTERS and "output_stride" not in more:
        more = {"filters": FILTERS, **more}
    if name in ("upernet", "segformer", "deeplabv3plus"):
        more = {"width": 8, **more}
    return Model(name=name, encoder="resnet18", **more)


def build(config: Model, size: int | tuple[int, int] = 64, outputs: int = 1, seed: int | None = None) -> models.Network:
    return models.build_network(config, size, 3, outputs, seed=seed)


def fill(model: Any, seed: int = 0) -> None:
    """Give a model random weights with which no ReLU is dead and no average cancels."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.uniform(-0.1, 0.3, weight.shape) if "variance" not in weight.path else np.ones(weight.shape))


def images(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, height, width, 3)).astype(np.uint8)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# --- the networks of segmentation-models -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "encoder", "block"),
    [
        pytest.param("unet", "vgg16", "upsampling", marks=pytest.mark.slow),
        ("unet", "resnet18", "upsampling"),
        ("unet", "resnet18", "transpose"),
        ("linknet", "resnet18", "transpose"),
        pytest.param("linknet", "resnet18", "upsampling", marks=pytest.mark.slow),
        ("fpn", "resnet18", "upsampling"),
    ],
)
def test_networks_are_those_of_segmentation_models(tiny_encoders, monkeypatch, name: str, encoder: str, block: str):
    factory = bridge.encoder_factory()
    if encoder == "vgg16":
        monkeypatch.undo()  # two more convolutions follow an encoder that ends in a pooling
    else:
        monkeypatch.setattr(factory, "get_backbone", lambda name, input_shape, **_: tiny.build(name, input_shape)[0])
        monkeypatch.setattr(factory, "get_feature_layers", lambda name, n: ("level4", "level3", "level2", "level1"))
    from segmentation_models.models import fpn, linknet, unet

    options: dict[str, Any] = {} if name == "fpn" else {"decoder_block_type": block}
    if name == "unet":
        options["decoder_filters"] = FILTERS
    make = {"unet": unet.Unet, "linknet": linknet.Linknet, "fpn": fpn.FPN}[name]
    package = make(
        encoder, (64, 32, 3), classes=2, activation="linear", encoder_weights=None, **options, **bridge.KERAS_MODULES
    )
    fill(package)
    more = {} if name == "fpn" else {"block": block}
    config = Model(name=name, encoder=encoder, **({"filters": FILTERS} if name == "unet" else {}), **more)
    network = models.build_network(config, (64, 32), 3, 2, seed=None)
    values = [np.asarray(weight) for weight in package.weights]
    assert [tuple(weight.shape) for weight in network.model.weights] == [value.shape for value in values]
    network.model.set_weights(values)
    names = {layer.name for layer in bridge.flat_layers(network.model)}
    known = {layer.name for layer in package.layers if layer.weights} - {"final_conv", "head_conv"}
    assert known <= names | {package.layers[-2].name}, "frozen layers keep their names"
    expected = np.asarray(package(models.Normalize(ENCODERS[encoder].family.normalization)(images(64, 32))))
    logits = keras.Model(network.model.input, network.model.get_layer("mask").output)
    assert np.asarray(logits(images(64, 32))) == pytest.approx(expected, rel=1e-4)


# --- attention -------------------------------------------------------------------------------------------


def test_scse_weights_channels_and_pixels() -> None:
    inputs = keras.Input((4, 6, 5))
    model = keras.Model(inputs, attend(inputs, "scse", "block"))
    fill(model)
    assert model.count_params() == (5 * 2 + 2) + (2 * 5 + 5) + (5 + 1)
    squeeze, squeeze_bias = model.get_layer("block_scse_squeeze").get_weights()
    expand, expand_bias = model.get_layer("block_scse_channels").get_weights()
    pixels, pixels_bias = model.get_layer("block_scse_pixels").get_weights()
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype(np.float32)
    hidden = np.maximum(0, x.mean(axis=(1, 2)) @ squeeze + squeeze_bias)
    by_channel = x * sigmoid(hidden @ expand + expand_bias)[:, None, None]
    by_pixel = x * sigmoid(x @ pixels[0, 0] + pixels_bias)
    assert np.asarray(model(x)) == pytest.approx(by_channel + by_pixel, abs=1e-5)
    assert attend(inputs, None, "other") is inputs


@pytest.mark.parametrize(
    ("name", "nodes"), [("unet", [1] * 5), pytest.param("unetpp", [1, 2, 3, 4, 1], marks=pytest.mark.slow)]
)
def test_each_block_has_scse(tiny_encoders, name: str, nodes: list[int]) -> None:
    plain, attentive = (build(small(name, attention=kind)).model.count_params() for kind in (None, "scse"))
    each = [2 * f * (f // 2) + f // 2 + f + f + 1 for f in FILTERS]
    assert attentive - plain == sum(count * of for count, of in zip(nodes, each, strict=True))


# --- UPerNet, SegFormer, DeepLabV3+ ----------------------------------------------------------------------


def block(inside: int, filters: int, kernel: int) -> int:
    """Number of parameters of a convolution with BatchNorm."""
    return kernel * kernel * inside * filters + 4 * filters


def separable(inside: int, filters: int) -> int:
    return 9 * inside + 4 * inside + block(inside, filters, 1)


def upernet_parameters(width: int) -> int:
    pool = 4 * block(CHANNELS[32], width, 1) + block(CHANNELS[32] + 4 * width, width, 3)
    laterals = sum(block(CHANNELS[stride], width, 1) for stride in (4, 8, 16))
    return pool + laterals + 3 * block(width, width, 3) + block(4 * width, width, 3)


def segformer_parameters(width: int) -> int:
    return sum(channels * width + width for channels in CHANNELS.values()) + block(4 * width, width, 1)


def deeplabv3plus_parameters(width: int) -> int:
    branches = 2 * block(CHANNELS[32], width, 1) + 3 * separable(CHANNELS[32], width)
    return (
        branches
        + block(5 * width, width, 1)
        + block(CHANNELS[4], 48, 1)
        + separable(width + 48, width)
        + separable(width, width)
    )


@pytest.mark.parametrize("count", [upernet_parameters, segformer_parameters, deeplabv3plus_parameters])
def test_decoders_have_the_published_structure(tiny_encoders, count: Any) -> None:
    name = count.__name__.removesuffix("_parameters")
    network = build(small(name, width=24), (96, 160), outputs=2)
    head = 24 * 2 + 2
    assert network.model.count_params() - network.packaged_encoder.count_params() == count(24) + head
    assert network.model.get_layer("mask").output.shape == (None, 24, 40, 2), "a quarter of the input size"
    assert network.model.output_shape == (None, 96, 160, 2)


@pytest.mark.parametrize(("size", "bins"), [((3, 5), 2), ((17, 16), 6), ((1, 2), 3), ((4, 4), 1)])
def test_means_are_those_of_adaptive_pooling(size: tuple[int, int], bins: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    found = np.asarray(Resample(bins, bins, "mean")(x))
    assert found.shape == (2, bins, bins, 3)
    for row in range(bins):
        for column in range(bins):
            top, left = row * size[0] // bins, column * size[1] // bins
            bottom, right = -(-(row + 1) * size[0] // bins), -(-(column + 1) * size[1] // bins)
            expected = x[:, top:bottom, left:right].mean(axis=(1, 2))
            assert found[:, row, column] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("size", "to"), [((3, 5), (17, 10)), ((6, 6), (17, 17)), ((1, 2), (4, 3)), ((2, 3), (8, 12))])
def test_interpolation_is_that_of_opencv(size: tuple[int, int], to: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    expected = np.stack([cv2.resize(image, to[::-1], interpolation=cv2.INTER_LINEAR) for image in x])
    assert np.asarray(Resample(*to, "bilinear")(x)) == pytest.approx(expected, abs=1e-5)
    if size == (2, 3):
        assert np.asarray(enlarge(x, 4, "enlarged")) == pytest.approx(expected, abs=1e-5)


# --- output stride ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("unet", 2),
        ("unetpp", 4),
        ("fpn", 4),
        ("linknet", 4),
        *(
            pytest.param(name, stride, marks=pytest.mark.slow)
            for name, stride in [("unetpp", 2), ("fpn", 2), ("unet", 4)]
        ),
    ],
)
def test_decoders_stop_early_and_their_logits_are_enlarged(tiny_encoders, name: str, stride: int) -> None:
    network = build(small(name, output_stride=stride), (64, 96), outputs=2, seed=3)
    assert network.model.get_layer("mask").output.shape == (None, 64 // stride, 96 // stride, 2)
    assert network.model.output_shape == (None, 64, 96, 2)
    ends = keras.Model(network.model.input, [network.model.get_layer(name).output for name in ("mask", "mask_up")])
    logits, enlarged = (np.asarray(values) for values in ends(images(64, 96)))
    expected = np.stack([cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR) for image in logits])
    assert enlarged == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(np.abs(expected).max()))
    assert network.model.get_layer("probability_main").input is network.model.get_layer("mask_up").output
    decoder = [layer for layer in network.model.layers if not isinstance(layer, keras.Model) and layer.weights]
    assert min(64 // layer.output.shape[1] for layer in decoder if len(layer.output.shape) == 4) == stride


def test_one_filter_per_block(tiny_encoders) -> None:
    for stride, filters in ((2, [16, 8, 8, 4]), (4, [16, 8, 4])):
        for name in ("unet", "unetpp"):
            model = build(small(name, output_stride=stride, filters=filters)).model
            assert model.get_layer("mask").input.shape[-1] == filters[-1]


# --- deep supervision ------------------------------------------------------------------------------------

DEEP = {
    "unet": [2, 4, 8, 16],
    "fpn": [2, 4, 8, 16],
    "linknet": [2, 4, 8, 16],
    "upernet": [4, 8, 16, 32],
    "segformer": [4, 8, 16, 32],
    "deeplabv3plus": [32],
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_supervision_trains_an_output_per_level_and_predicts_with_the_finest(tiny_encoders, name: str) -> None:
    network = build(small(name, deep_supervision=True), seed=0)
    plain = build(small(name))
    deep = [f"deep{stride}" for stride in DEEP[name]]
    assert list(network.heads) == ["main", *deep]
    with_all_heads = keras.Model(network.model.input, network.heads)
    for head, stride in zip(deep, DEEP[name], strict=True):
        assert network.heads[head].shape == (None, 64, 64, 1)
        assert with_all_heads.get_layer(f"mask_{head}").output.shape == (None, 64 // stride, 64 // stride, 1)
    assert list(network.loss_weights) == ["main", *deep]
    weights = list(network.loss_weights.values())
    assert sum(weights) == pytest.approx(1)
    assert [left / right for left, right in pairwise(weights)] == pytest.approx([2] * len(deep))
    shapes = [tuple(weight.shape) for weight in plain.model.weights]
    assert [tuple(weight.shape) for weight in network.model.weights] == shapes, "other outputs are not shipped"
    plain.model.set_weights(network.model.get_weights())
    main = np.asarray(with_all_heads(images(64, 64))["main"])
    assert np.asarray(network.model(images(64, 64))) == pytest.approx(main, abs=1e-6)
    assert np.asarray(plain.model(images(64, 64))) == pytest.approx(main, abs=1e-6)


@pytest.mark.parametrize(("stride", "deep"), [(None, ["deep1", "deep2", "deep3"]), (4, ["deep1", "deep2"])])
def test_all_outputs_of_a_unetpp_weigh_the_same(tiny_encoders, stride: Any, deep: list[str]) -> None:
    network = build(small("unetpp", deep_supervision=True, output_stride=stride))
    assert network.loss_weights == dict.fromkeys(["main", *deep], 1 / (1 + len(deep)))
    assert list(network.heads) == ["main", *deep]
    assert len(network.model.get_layer("mean_of_heads").input) == 1 + len(deep)


# --- encoders without a stride of 2, dropout -------------------------------------------------------------


@pytest.mark.parametrize("name", MASK_NETWORKS)
def test_features_of_stride_2_are_optional(name: str) -> None:
    features = {stride: keras.Input((64 // stride, 96 // stride, channels)) for stride, channels in CHANNELS.items()}
    for stride in (None, 2) if name in WITH_STRIDE else (None,):
        options = {} if stride is None else {"output_stride": stride}
        decoded = models.DECODERS[name](small(name, **options), features)
        scale = {None: 1 if name in WITH_STRIDE else 4}.get(stride, stride)
        assert decoded.main.shape[1:3] == (64 // scale, 96 // scale)


@pytest.mark.parametrize("name", MASK_NETWORKS)
def test_dropout_precedes_the_last_convolution_of_every_mask_network(tiny_encoders, name: str) -> None:
    network = build(small(name, dropout=0.3, deep_supervision=True))
    heads = keras.Model(network.model.input, network.heads)
    dropouts = [layer for layer in heads.layers if isinstance(layer, keras.layers.SpatialDropout2D)]
    assert len(dropouts) == len(network.heads)
    assert {layer.rate for layer in dropouts} == {0.3}
    assert heads.get_layer("mask").input is heads.get_layer("dropout").output
