"""Build gates and mask networks. Each takes uint8 images as they are and normalizes them itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import keras
import numpy as np

from gatemask.builders import bridge
from gatemask.builders.bridge import layers
from gatemask.builders.encoders import NestedEncoder
from gatemask.builders.initializers import assign_variables, draw_initial_weights
from gatemask.builders.tensor import Tensor
from gatemask.config import ENCODERS, Architecture, Competition, Experiment, Model, Normalization
from gatemask.config.base import both_sides
from gatemask.errors import GatemaskError

__all__ = ["ARCHITECTURES", "Network", "assign_variables", "build_network", "draw_initial_weights", "network_for"]

# Red, green and blue, from 0 to 255.
IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CAFFE_MEAN = (123.68, 116.779, 103.939)
DEFAULT_FILTERS = [256, 128, 64, 32, 16]

Logits = dict[str, Tensor]  # by the name of the head


@dataclass(frozen=True)
class Network:
    """A built gate or mask network.

    Args:
        model: Model from images, uint8 (b, h, w, channels), to probabilities, float32: (b, 1) or (b, classes) of a
            gate, (b, h, w, outputs) of a mask network.
        heads: Outputs that are trained, float32 probabilities for `model.input`: "main" and, with deep supervision,
            "deep1" to "deep3", of the shape of the model's output; with a gate head "gate", (b, 1).
        encoder: The encoder, one layer of `model`.
        packaged_encoder: The same layers as their package arranged them: the order of its weights files.
        encoder_name: Name of the encoder in a YAML.
    """

    model: keras.Model
    heads: dict[str, Tensor]
    encoder: keras.Model
    packaged_encoder: keras.Model
    encoder_name: str


def network_for(exp: Experiment, comp: Competition, seed: int | None = 0) -> Network:
    """Build the network of an experiment; see `build_network`."""
    classes = len(comp.classes)
    return build_network(
        exp.model,
        exp.input.size,
        comp.image.channels,
        classes if exp.task == "gate" else comp.outputs,
        exclusive=comp.exclusive,
        border=exp.task == "mask" and comp.outputs > classes,
        seed=seed,
    )


def build_network(
    config: Model,
    size: int | tuple[int, int],
    channels: int,
    outputs: int = 1,
    exclusive: bool = False,
    border: bool = False,
    seed: int | None = 0,
) -> Network:
    """Build a network with random weights.

    Args:
        config: The experiment's `model:`; its `weights` are ignored.
        size: Size of the input, in pixels: a side, or height and width.
        channels: Number of image channels. A single channel is repeated for an encoder of three; for any other number
            than 3 the encoder's first layers are built for that number.
        outputs: Number of maps: one per class, and one of borders. Of a gate with `model.per_class`, the number of
            classes; other gates have one output, whatever it is. Default: 1.
        exclusive: Whether a pixel belongs to at most one class: maps come from a softmax over classes and background.
            Default: False, a sigmoid for each map.
        border: Whether the last map shows borders, and so has a sigmoid of its own. Default: False.
        seed: Seed of the weights; None for zeros, if weights are loaded next. Default: 0.

    Raises:
        GatemaskError: The images are too small for the encoder.

    >>> network = build_network(Model(name="gate", encoder="vgg16"), size=32, channels=1)
    >>> network.model.output_shape, sorted(network.heads)
    ((None, 1), ['main'])
    """
    height, width = both_sides(size)
    family = ENCODERS[config.encoder].family
    if fault := family.size_fault(height, width):
        raise GatemaskError(f"The encoder '{config.encoder}' {fault}.", where="input.size")
    images = keras.Input((height, width, channels), dtype="uint8", name="images")
    x = keras.layers.Concatenate(name="three_channels")([images] * 3) if channels == 1 else images
    x = Normalize(family.normalization, name="normalize")(x)
    softmax = exclusive and config.name != "gate"
    encoder, logits = ARCHITECTURES[config.name](config, images, x, outputs + softmax)
    exclusive_maps = outputs + softmax - border if softmax else 0
    heads = {name: _probability(logit, name, exclusive_maps) for name, logit in logits.items()}
    if config.gate_head:
        features = keras.layers.GlobalAveragePooling2D(name="gate_average")(encoder.features[32])
        heads["gate"] = _probability(layers.Dense(1, name="gate_logit")(features), "gate")
    output, *deep = [head for name, head in heads.items() if name != "gate"]
    if deep:
        output = keras.layers.Average(name="mean_of_heads", dtype="float32")([output, *deep])
    model = keras.Model(images, output, name=config.name)
    with_all_heads = keras.Model(images, heads)
    for layer in bridge.flat_layers(with_all_heads):
        bridge.restore_initializers(layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            # EfficientNet's own 0.99 needs hundreds of steps before its running statistics are usable.
            layer.momentum = config.batchnorm_momentum
    if seed is not None:
        assign_variables(with_all_heads, draw_initial_weights(with_all_heads, seed))
    return Network(model, heads, encoder.model, encoder.packaged, config.encoder)


class Normalize(keras.layers.Layer):
    """Layer from images, (b, h, w, c), 0 to 255, to the float32 values an encoder's published weights expect.

    Args:
        mode: "torch" for ImageNet's means and deviations, "tf" for -1 to 1, "tf128" for x / 128 - 1, "raw" for no
            change, "caffe" for blue, green, red less their means. Beyond three channels, the constants of the colors
            repeat.
    """

    def __init__(self, mode: Normalization, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.mode = mode

    def call(self, x: Tensor) -> Tensor:
        x = keras.ops.cast(x, "float32")
        channels = x.shape[-1]

        def constants(colors: tuple[float, ...]) -> np.ndarray:
            return np.array([colors[channel % 3] for channel in range(channels)], np.float32)

        if self.mode == "torch":
            return (x - constants(IMAGENET_MEAN)) / constants(IMAGENET_DEVIATION)
        if self.mode == "tf":
            return x / 127.5 - 1.0
        if self.mode == "tf128":
            return x / 128.0 - 1.0
        if self.mode == "caffe":
            x = x - constants(CAFFE_MEAN)
            return keras.ops.concatenate([keras.ops.flip(x[..., :3], -1), x[..., 3:]], -1) if channels >= 3 else x
        return x


# --- architectures -----------------------------------------------------------------------------------------
#
# Each function takes the experiment's `model:`, the images, the normalized images (b, h, w, c) and the number of
# logits. It returns the encoder and the logits of each head; a gate head is added later.


def gate(config: Model, images: Tensor, x: Tensor, outputs: int) -> tuple[NestedEncoder, Logits]:
    """Gate: encoder, global average, dropout and a sigmoid, or one per class. Is there anything to segment?"""
    encoder = NestedEncoder(config.encoder, x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(encoder.features[32])
    x = keras.layers.Dropout(0.2 if config.dropout is None else config.dropout, name="dropout")(x)
    return encoder, {"main": layers.Dense(outputs if config.per_class else 1, name="logit")(x)}


def unet(config: Model, images: Tensor, x: Tensor, outputs: int) -> tuple[NestedEncoder, Logits]:
    """U-Net (Ronneberger 2015): at each level, the encoder's features are concatenated with the decoder's."""
    filters = tuple(config.filters or DEFAULT_FILTERS)
    encoder = NestedEncoder(config.encoder, x)
    x = bridge.build_decoder("Unet", encoder, images, decoder_block=config.block, decoder_filters=filters)
    return encoder, {"main": _mask_logits(x, config, outputs)}


def fpn(config: Model, images: Tensor, x: Tensor, outputs: int) -> tuple[NestedEncoder, Logits]:
    """Feature pyramid (Lin 2017, Kirillov 2019): all levels are brought to a quarter of the input size and joined."""
    encoder = NestedEncoder(config.encoder, x)
    x = bridge.build_decoder("FPN", encoder, images, aggregation="concat")
    return encoder, {"main": _mask_logits(x, config, outputs)}


def linknet(config: Model, images: Tensor, x: Tensor, outputs: int) -> tuple[NestedEncoder, Logits]:
    """LinkNet (Chaurasia 2017): the encoder's features are added to the decoder's; only the last filter is free."""
    filters = tuple(config.filters or (*[None] * 4, 16))
    encoder = NestedEncoder(config.encoder, x)
    x = bridge.build_decoder("Linknet", encoder, images, decoder_block=config.block, decoder_filters=filters)
    return encoder, {"main": _mask_logits(x, config, outputs)}


def unetpp(config: Model, images: Tensor, x: Tensor, outputs: int) -> tuple[NestedEncoder, Logits]:
    """U-Net++ (Zhou 2018): a triangle of nodes with dense skip connections between encoder and decoder.

    Node (i, j) is on level i (level 0 has half the input size) and in column j. Column 0 is the encoder. Node (i, j)
    joins all earlier nodes of its level and the enlarged node (i + 1, j - 1). A last block brings node (0, 4) to full
    size. `filters` are ordered as in U-Net: level 3 first, the last block last. With deep supervision, nodes (0, 1) to
    (0, 3) also get such a block and a head, and the prediction is the mean of all four: the paper's accurate mode.
    """
    filters = config.filters or DEFAULT_FILTERS
    encoder = NestedEncoder(config.encoder, x)
    nodes = {(i, 0): features for i, features in enumerate(encoder.features[2 << i] for i in range(5))}
    depth = 4
    for j in range(1, depth + 1):
        for i in range(depth + 1 - j):
            width = filters[depth - 1 - i]
            enlarged = _enlarge(nodes[i + 1, j - 1], width, config.block, f"node{i}{j}")
            earlier = [nodes[i, k] for k in range(j)]
            x = keras.layers.Concatenate(name=f"node{i}{j}_concat")([enlarged, *earlier])
            nodes[i, j] = _convolve(x, width, config, f"node{i}{j}")
    logits = {}
    for j in range(1 if config.deep_supervision else depth, depth + 1):
        head, suffix = ("main", "") if j == depth else (f"deep{j}", f"_deep{j}")
        x = _enlarge(nodes[0, j], filters[-1], config.block, f"full{suffix}")
        logits[head] = _mask_logits(_convolve(x, filters[-1], config, f"full{suffix}"), config, outputs, suffix)
    return encoder, {"main": logits.pop("main"), **logits}


def _enlarge(x: Tensor, filters: int, block: str, name: str) -> Tensor:
    """Double the side, by a transposed convolution or by repetition."""
    if block == "upsampling":
        return keras.layers.UpSampling2D(name=f"{name}_up")(x)
    x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False, name=f"{name}_up")(x)
    x = layers.BatchNormalization(name=f"{name}_up_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_up_relu")(x)


def _convolve(x: Tensor, filters: int, config: Model, name: str) -> Tensor:
    """Apply convolution, BatchNorm and ReLU: once after a transposed convolution, else twice."""
    for letter in "a" if config.block == "transpose" else "ab":
        prefix = f"{name}_{letter}"
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer="he_uniform", name=f"{prefix}_conv"
        )(x)
        x = layers.BatchNormalization(name=f"{prefix}_bn")(x)
        x = keras.layers.Activation("relu", name=f"{prefix}_relu")(x)
    return x


def _mask_logits(x: Tensor, config: Model, outputs: int, suffix: str = "") -> Tensor:
    """Apply dropout and the last convolution.

    Whole features are dropped: neighboring pixels carry the same information (Tompson 2015).
    """
    x = keras.layers.SpatialDropout2D(config.dropout or 0.0, name=f"dropout{suffix}")(x)
    return layers.Conv2D(outputs, 3, padding="same", name=f"mask{suffix}")(x)


def _probability(logit: Tensor, name: str, exclusive: int = 0) -> Tensor:
    """Apply sigmoid or softmax in float32, since bfloat16 has no value between 0.996 and 1.

    Args:
        logit: Logits, (b, ..., outputs).
        name: Name of the head.
        exclusive: Number of logits, from the first on, that a softmax joins; the first is the background's.
    """
    if exclusive:
        return ExclusiveProbabilities(exclusive, name=f"probability_{name}")(logit)
    return keras.layers.Activation("sigmoid", dtype="float32", name=f"probability_{name}")(logit)


class ExclusiveProbabilities(keras.layers.Layer):
    """Layer from logits, (b, h, w, background + classes + others), to probabilities, (b, h, w, classes + others).

    A softmax joins background and classes; the background is dropped: it is what the classes leave of 1. Others, such
    as borders, get a sigmoid each.

    Args:
        joined: Number of logits in the softmax, background included.
    """

    def __init__(self, joined: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.joined = joined

    def call(self, logits: Tensor) -> Tensor:
        logits = keras.ops.cast(logits, "float32")
        classes = keras.ops.softmax(logits[..., : self.joined], axis=-1)[..., 1:]
        if logits.shape[-1] == self.joined:
            return classes
        return keras.ops.concatenate([classes, keras.ops.sigmoid(logits[..., self.joined :])], axis=-1)


BuildArchitecture = Callable[[Model, Tensor, Tensor, int], tuple[NestedEncoder, Logits]]
ARCHITECTURES: dict[Architecture, BuildArchitecture] = {name: globals()[name] for name in get_args(Architecture)}
