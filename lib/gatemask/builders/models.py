"""Gates and mask networks. Each takes uint8 images as they come and holds its own normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import keras
import numpy as np

from gatemask.builders import bridge
from gatemask.builders.bridge import layers
from gatemask.builders.initializers import assign_variables, draw_initial_weights
from gatemask.config import Architecture, Model
from gatemask.errors import GatemaskError

__all__ = ["ARCHITECTURES", "Network", "assign_variables", "build_network", "draw_initial_weights"]

# What the published encoder weights expect of red, green, blue from 0 to 255.
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet
CAFFE = (123.68, 116.779, 103.939)
NORMALIZATION_MODES = {
    "efficientnet": "torch",
    "densenet": "torch",
    "resnet": "raw",
    "resnext": "raw",
    "seresnet18": "raw",
    "seresnet34": "raw",
    "seresnet": "torch",
    "seresnext": "torch",
    "senet": "torch",
    "inception": "tf",
    "mobilenet": "tf",
    "vgg": "caffe",
}
FILTERS = [256, 128, 64, 32, 16]


@dataclass(frozen=True)
class Network:
    """A model, and what training needs of it.

    Args:
        predict: uint8 (b, s, s, channels) to float32 probabilities, (b, 1) of a gate, else (b, s, s, classes).
        heads: what training sees, float32 probabilities behind `predict.input`: "main" and, with deep
            supervision, "deep1" to "deep3", each of the shape of `predict`'s; with a gate head "gate" (b, 1).
        encoder: the encoder's layers, for freezing.
        name: of the encoder.
        nested: the encoder as the one layer of `predict` that it is.
        plain: the same layers as their package put them together: the order of its weights files.
    """

    predict: keras.Model
    heads: dict[str, Any]
    encoder: list[keras.layers.Layer]
    name: str
    nested: keras.Model
    plain: keras.Model


def build_network(config: Model, size: int, channels: int, classes: int = 1, seed: int | None = 0) -> Network:
    """A network from its section of a YAML, with random weights.

    Args:
        config: architecture, encoder, decoder, dropout, BatchNorm momentum; `weights` is not looked at.
        size: side of the square input in pixels.
        channels: of the input; one is shown to the encoder three times, and for another number than 3 the
            encoder is built with so many.
        classes: of masks.
        seed: of the weights; None leaves zeros, for who loads weights at once.

    Raises:
        GatemaskError: the encoder wants larger images.
    """
    if config.encoder.startswith("inception") and size < 96:
        raise GatemaskError(
            "The images are too small for this encoder.", where="input.size", received=size, expected="96 or more"
        )
    images = keras.Input((size, size, channels), dtype="uint8", name="images")
    x = keras.layers.Concatenate(name="three_channels")([images] * 3) if channels == 1 else images
    x = Normalize(normalization_mode(config.encoder), name="normalize")(x)
    body, logits = ARCHITECTURES[config.name](config, images, x, classes)
    heads = {name: _probability(logit, name) for name, logit in logits.items()}
    if config.gate_head:
        features = keras.layers.GlobalAveragePooling2D(name="gate_average")(body.output)
        heads["gate"] = _probability(layers.Dense(1, name="gate_logit")(features), "gate")
    shown = [head for name, head in heads.items() if name != "gate"]
    out = keras.layers.Average(name="mean_of_heads", dtype="float32")(shown) if len(shown) > 1 else shown[0]
    predict = keras.Model(images, out, name=config.name)
    whole = keras.Model(images, heads)
    for layer in bridge.flat_layers(whole):
        bridge.restore_initializers(layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            # EfficientNet's own 0.99 needs hundreds of steps before its running statistics mean anything.
            layer.momentum = config.batchnorm_momentum
    if seed is not None:
        assign_variables(whole, draw_initial_weights(whole, seed))
    return Network(predict, heads, body.model.layers, config.encoder, body.model, body.plain)


class Normalize(keras.layers.Layer):
    """Images (b, s, s, c) of 0 to 255 to float32 as an encoder's published weights expect them.

    Args:
        mode: "torch": by ImageNet's means and deviations; "tf": -1 to 1; "raw": as they are; "caffe": blue
            before red, less the means. Beyond three channels the colours' numbers repeat.
    """

    def __init__(self, mode: str, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.mode = mode

    def call(self, x: Any) -> Any:
        x = keras.ops.cast(x, "float32")
        channels = x.shape[-1]

        def numbers(colours: tuple[float, ...]) -> np.ndarray:
            return np.array([colours[at % 3] for at in range(channels)], np.float32)

        if self.mode == "torch":
            return (x - numbers(MEAN)) / numbers(DEVIATION)
        if self.mode == "tf":
            return x / 127.5 - 1.0
        if self.mode == "caffe":
            x = x - numbers(CAFFE)
            return keras.ops.concatenate([keras.ops.flip(x[..., :3], -1), x[..., 3:]], -1) if channels >= 3 else x
        return x


def normalization_mode(encoder: str) -> str:
    """The mode of an encoder's family: the longest name in the table that its own begins with."""
    return NORMALIZATION_MODES[max((family for family in NORMALIZATION_MODES if encoder.startswith(family)), key=len)]


def gate(config: Model, images: Any, x: Any, classes: int) -> tuple[bridge.NestedEncoder, dict[str, Any]]:
    """An encoder, averaged over the image, with one sigmoid: is there anything?"""
    body = bridge.nest_encoder(config.encoder, images, x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(body.output)
    x = keras.layers.Dropout(0.2 if config.dropout is None else config.dropout, name="dropout")(x)
    return body, {"main": layers.Dense(1, name="logit")(x)}


def unet(config: Model, images: Any, x: Any, classes: int) -> tuple[bridge.NestedEncoder, dict[str, Any]]:
    """U-Net (Ronneberger 2015): at each level the encoder's features beside the decoder's."""
    options = {"decoder_block_type": config.block, "decoder_filters": tuple(config.filters or FILTERS)}
    body, x = bridge.build_decoder("Unet", config.encoder, images, x, **options)
    return body, {"main": _mask(x, config, classes)}


def fpn(config: Model, images: Any, x: Any, classes: int) -> tuple[bridge.NestedEncoder, dict[str, Any]]:
    """Feature pyramid (Lin 2017, Kirillov 2019): every level brought to a quarter of the size and joined."""
    body, x = bridge.build_decoder("FPN", config.encoder, images, x)
    return body, {"main": _mask(x, config, classes)}


def linknet(config: Model, images: Any, x: Any, classes: int) -> tuple[bridge.NestedEncoder, dict[str, Any]]:
    """LinkNet (Chaurasia 2017): the encoder's features are added; of `filters` only the last is free."""
    options = {"decoder_block_type": config.block, "decoder_filters": tuple(config.filters or (*[None] * 4, 16))}
    body, x = bridge.build_decoder("Linknet", config.encoder, images, x, **options)
    return body, {"main": _mask(x, config, classes)}


def unetpp(config: Model, images: Any, x: Any, classes: int) -> tuple[bridge.NestedEncoder, dict[str, Any]]:
    """U-Net++ (Zhou 2018): between encoder and decoder, a triangle of nodes with dense skips.

    Node (i, j) stands on level i (i = 0 at half the input's size) in column j. Column 0 is the encoder; node
    (i, j) takes all earlier nodes of its level and the enlarged node (i + 1, j - 1). A last block brings
    node (0, 4) to full size. `filters` are counted as for the U-Net: level 3 first, the last block last. With
    deep supervision nodes (0, 1) to (0, 3) get such a block and a head too, and the prediction is the mean of
    all four: the paper's accurate mode.
    """
    filters = config.filters or FILTERS
    body = bridge.nest_encoder(config.encoder, images, x)
    nodes = {(i, 0): features for i, features in enumerate([*reversed(body.skips), body.output])}
    depth = len(body.skips)
    for j in range(1, depth + 1):
        for i in range(depth + 1 - j):
            width = filters[depth - 1 - i]
            up = _enlarge(nodes[i + 1, j - 1], width, config.block, f"node{i}{j}")
            earlier = [nodes[i, k] for k in range(j)]
            x = keras.layers.Concatenate(name=f"node{i}{j}_concat")([up, *earlier])
            nodes[i, j] = _convolve(x, width, config, f"node{i}{j}")
    logits = {}
    for j in range(1 if config.deep_supervision else depth, depth + 1):
        name, suffix = ("main", "") if j == depth else (f"deep{j}", f"_deep{j}")
        x = _enlarge(nodes[0, j], filters[-1], config.block, f"full{suffix}")
        logits[name] = _mask(_convolve(x, filters[-1], config, f"full{suffix}"), config, classes, suffix)
    return body, {"main": logits.pop("main"), **logits}


def _enlarge(x: Any, filters: int, block: str, name: str) -> Any:
    """Twice the side: by a learnt transposed convolution, or by repetition."""
    if block == "upsampling":
        return keras.layers.UpSampling2D(name=f"{name}_up")(x)
    x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False, name=f"{name}_up")(x)
    x = layers.BatchNormalization(name=f"{name}_up_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_up_relu")(x)


def _convolve(x: Any, filters: int, config: Model, name: str) -> Any:
    """Convolution, BatchNorm, ReLU: once after a transposed convolution, else twice."""
    for number in range(1 if config.block == "transpose" else 2):
        at = f"{name}_{'ab'[number]}"
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer="he_uniform", name=f"{at}_conv"
        )(x)
        x = layers.BatchNormalization(name=f"{at}_bn")(x)
        x = keras.layers.Activation("relu", name=f"{at}_relu")(x)
    return x


def _mask(x: Any, config: Model, classes: int, suffix: str = "") -> Any:
    """The last layer: whole features are dropped, for their neighbouring pixels say the same (Tompson 2015)."""
    x = keras.layers.SpatialDropout2D(config.dropout or 0.0, name=f"dropout{suffix}")(x)
    return layers.Conv2D(classes, 3, padding="same", name=f"mask{suffix}")(x)


def _probability(logit: Any, name: str) -> Any:
    """The sigmoid, in float32 whatever the layers compute in: bfloat16 has no number between 0.996 and 1."""
    return keras.layers.Activation("sigmoid", dtype="float32", name=f"probability_{name}")(logit)


Architect = Callable[[Model, Any, Any, int], tuple[bridge.NestedEncoder, dict[str, Any]]]
ARCHITECTURES: dict[Architecture, Architect] = {name: globals()[name] for name in get_args(Architecture)}
