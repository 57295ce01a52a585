"""Build gates and mask networks. Each takes uint8 images as they are and normalizes them itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from gatemask.builders import bridge
from gatemask.builders.bridge import layers
from gatemask.builders.decoders.blocks import Decoded, Features, convolve, enlarge
from gatemask.builders.decoders.deeplabv3plus import deeplabv3plus
from gatemask.builders.decoders.fpn import fpn
from gatemask.builders.decoders.linknet import linknet
from gatemask.builders.decoders.segformer import segformer
from gatemask.builders.decoders.unet import unet
from gatemask.builders.decoders.unetpp import unetpp
from gatemask.builders.decoders.upernet import upernet
from gatemask.builders.encoders import NestedEncoder
from gatemask.builders.initializers import assign_variables, draw_initial_weights
from gatemask.builders.tensor import Tensor
from gatemask.builders.tiled import by_tiles
from gatemask.config import ENCODERS, Architecture, Competition, Experiment, Model, Normalization
from gatemask.config.base import both_sides
from gatemask.errors import GatemaskError

__all__ = [
    "DECODERS",
    "Network",
    "assign_variables",
    "build_network",
    "copy_weights",
    "draw_initial_weights",
    "network_for",
    "predictor_for",
]

# Red, green and blue, from 0 to 255.
IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CAFFE_MEAN = (123.68, 116.779, 103.939)
CENTER_FILTERS = 512
DECODERS: dict[Architecture, Callable[[Model, Features], Decoded]] = {
    "unet": unet,
    "unetpp": unetpp,
    "fpn": fpn,
    "linknet": linknet,
    "upernet": upernet,
    "segformer": segformer,
    "deeplabv3plus": deeplabv3plus,
}


@dataclass(frozen=True)
class Network:
    """A built gate or mask network.

    Args:
        model: Model from images, uint8 (b, h, w, channels), to probabilities, float32: (b, 1) or (b, classes) of a
            gate, (b, h, w, outputs) of a mask network.
        heads: Outputs that are trained, float32 probabilities for `model.input`: "main" and, with deep supervision,
            others whose names begin with "deep", of the shape of the model's output; with a gate head "gate", (b, 1).
        loss_weights: Share of each head in the loss, but for the gate's; their sum is 1.
        encoder: The encoder, one layer of `model`.
        packaged_encoder: The same layers as their package arranged them: the order of its weights files.
        encoder_name: Name of the encoder in a YAML.
    """

    model: keras.Model
    heads: dict[str, Tensor]
    loss_weights: dict[str, float]
    encoder: keras.Model
    packaged_encoder: keras.Model
    encoder_name: str


def network_for(
    exp: Experiment, comp: Competition, seed: int | None = 0, size: tuple[int, int] | None = None
) -> Network:
    """Build the network of an experiment; see `build_network`.

    Args:
        exp: Experiment.
        comp: Competition.
        seed: Seed of the weights; None for zeros. Default: 0.
        size: Height and width of the input, in pixels. Default: what is trained on.
    """
    classes = len(comp.classes)
    return build_network(
        exp.model,
        size or exp.input.training_shape,
        comp.image.channels,
        classes if exp.task == "gate" else comp.outputs,
        exclusive=comp.exclusive,
        border=exp.task == "mask" and comp.outputs > classes,
        seed=seed,
    )


def predictor_for(exp: Experiment, comp: Competition, network: Network) -> keras.Model:
    """Return the model that predicts whole inputs with the weights of an experiment's network.

    It is the network itself, without crops. For tiles it shares the network's layers. For the full input it is another
    build of the network, at another size, and `copy_weights` must be called before it predicts.

    Args:
        exp: Experiment.
        comp: Competition.
        network: Network of the experiment, from `network_for`.

    Raises:
        GatemaskError: The shapes of the weights depend on the size of the input.
    """
    if exp.input.crop is None:
        return network.model
    if exp.input.tile is not None:
        return by_tiles(network.model, exp.input.shape)
    whole = network_for(exp, comp, seed=None, size=exp.input.shape).model
    require_same_weights(network.model, whole, exp.model.encoder)
    return whole


def require_same_weights(trained: keras.Model, predictor: keras.Model, encoder: str) -> None:
    """Raise unless the weights of a network fit its build at another size.

    Raises:
        GatemaskError: They do not.
    """
    shapes, others = ([tuple(weight.shape) for weight in model.weights] for model in (trained, predictor))
    if shapes != others:
        raise GatemaskError(
            "The weights of this encoder depend on the size of its input.",
            where="input.crop",
            received=f"{encoder}, trained on crops and used for the full input",
            do="Set input.predict: tiles.",
        )


def copy_weights(network: Network, predictor: keras.Model) -> None:
    """Give a predictor from `predictor_for` the present weights of its network, if they are not the same variables."""
    for own, weight in zip(predictor.weights, network.model.weights, strict=True):
        if own is not weight:
            own.assign(np.asarray(weight))


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
    encoder = NestedEncoder(config.encoder, x)
    if config.name == "gate":
        heads, loss_weights = {"main": gate(config, encoder.features, outputs)}, {"main": 1.0}
        output = heads["main"]
    else:
        decoded = decode(config, encoder)
        loss_weights = decoded.loss_weights()
        heads = _mask_heads(
            config, decoded, (height, width), outputs + exclusive, outputs + 1 - border if exclusive else 0
        )
        output = heads["main"]
        if decoded.averaged and decoded.deep:
            output = keras.layers.Average(name="mean_of_heads", dtype="float32")(list(heads.values()))
    if config.gate_head:
        average = keras.layers.GlobalAveragePooling2D(name="gate_average")(encoder.features[32])
        heads["gate"] = _probability(layers.Dense(1, name="gate_logit")(average), "gate")
    model = keras.Model(images, output, name=config.name)
    with_all_heads = keras.Model(images, heads)
    for layer in bridge.flat_layers(with_all_heads):
        bridge.restore_initializers(layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            # EfficientNet's own 0.99 needs hundreds of steps before its running statistics are usable.
            layer.momentum = config.batchnorm_momentum
    if seed is not None:
        assign_variables(with_all_heads, draw_initial_weights(with_all_heads, seed))
    return Network(model, heads, loss_weights, encoder.model, encoder.packaged, config.encoder)


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


def gate(config: Model, features: Features, outputs: int) -> Tensor:
    """Gate: encoder, global average, dropout and a sigmoid, or one per class. Is there anything to segment?"""
    x = keras.layers.GlobalAveragePooling2D(name="average")(features[32])
    x = keras.layers.Dropout(0.2 if config.dropout is None else config.dropout, name="dropout")(x)
    return _probability(layers.Dense(outputs if config.per_class else 1, name="logit")(x), "main")


def decode(config: Model, encoder: NestedEncoder) -> Decoded:
    """Return the features of a mask network's outputs."""
    features = encoder.features
    if encoder.ends_in_pooling and config.name in ("unet", "linknet"):  # as in segmentation-models
        for block in ("center_block1", "center_block2"):
            features = {**features, 32: convolve(features[32], CENTER_FILTERS, block)}
    return DECODERS[config.name](config, features)


def _mask_heads(
    config: Model, decoded: Decoded, size: tuple[int, int], outputs: int, exclusive: int
) -> dict[str, Tensor]:
    """Return the probabilities of each output of a mask network, at the size of the input.

    Whole features are dropped: neighboring pixels carry the same information (Tompson 2015).

    Args:
        config: The experiment's `model:`.
        decoded: Features of the decoder.
        size: Height and width of the input, in pixels.
        outputs: Number of logits per pixel.
        exclusive: See `_probability`.
    """
    heads = {}
    for name, x in {"main": decoded.main, **decoded.deep}.items():
        suffix = "" if name == "main" else f"_{name}"
        x = keras.layers.SpatialDropout2D(config.dropout or 0.0, name=f"dropout{suffix}")(x)
        x = layers.Conv2D(outputs, decoded.kernel, padding="same", name=f"mask{suffix}")(x)
        x = enlarge(x, size[0] // x.shape[1], f"mask{suffix}_up", dtype="float32")
        heads[name] = _probability(x, name, exclusive)
    return heads


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
