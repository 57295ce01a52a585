"""Gates and mask networks. Each takes uint8 images as they come and holds its own normalisation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
from keras import layers

from gatemask.builders import bridge
from gatemask.config.schema import Model
from gatemask.errors import GatemaskError

# Means and deviations of ImageNet in red, green, blue, 0 to 1: what the published encoder weights expect.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(config: Model, size: int, channels: int, classes: int = 1) -> keras.Model:
    """A model from its section of a YAML.

    Args:
        config: architecture, encoder, decoder, dropout, BatchNorm momentum, encoder weights.
        size: side of the square input in pixels.
        channels: of the input, 1 or 3; one channel is shown to the encoder three times.
        classes: of masks.

    Returns:
        uint8 (b, size, size, channels) to float32 probabilities: (b, 1) for a gate, else
        (b, size, size, classes).
    """
    images = keras.Input((size, size, channels), dtype="uint8", name="images")
    x = layers.Concatenate(name="three_channels")([images] * 3) if channels == 1 else images
    scale, offset = [1 / (255 * d) for d in DEVIATION], [-m / d for m, d in zip(MEAN, DEVIATION, strict=True)]
    x = layers.Rescaling(scale, offset, name="normalise")(x)
    x = ARCHITECTURES[config.name](config, size, classes)(x)
    model = keras.Model(images, layers.Activation("linear", dtype="float32", name="probability")(x), name=config.name)
    _set_momentum(model, config.batchnorm_momentum)
    if config.weights != "none":
        load_encoder(model, config)
    return model


def gate(config: Model, size: int, classes: int) -> keras.Model:
    """An EfficientNet (Tan and Le 2019), averaged over the image, with one sigmoid: is there anything?"""
    body = bridge.encoder(config.encoder, (size, size, 3))
    x = layers.GlobalAveragePooling2D(name="average")(body.output)
    x = layers.Dropout(config.dropout, name="dropout")(x)
    return keras.Model(body.input, layers.Dense(1, activation="sigmoid", name="gate")(x), name="network")


def unet(config: Model, size: int, classes: int) -> keras.Model:
    return bridge.unet(config.encoder, (size, size, 3), classes, config.block, config.filters)


def unetpp(config: Model, size: int, classes: int) -> keras.Model:
    """U-Net++ (Zhou 2018): between encoder and decoder, a triangle of nodes with dense skips.

    Node (i, j) stands on level i (i = 0 at half the input's size) in column j. Column 0 is the encoder; node
    (i, j) takes all earlier nodes of its level and the enlarged node (i + 1, j - 1). A last block brings
    node (0, 4) to full size. `filters` are counted as for the U-Net: level 3 first, the last block last.
    """
    body = bridge.encoder(config.encoder, (size, size, 3))
    skips = [body.get_layer(name).output for name in reversed(bridge.skip_layers(config.encoder))]
    nodes = {(i, 0): x for i, x in enumerate([*skips, body.output])}
    depth = len(skips)
    for j in range(1, depth + 1):
        for i in range(depth + 1 - j):
            filters = config.filters[depth - 1 - i]
            up = _enlarge(nodes[i + 1, j - 1], filters, config.block, f"node{i}{j}")
            earlier = [nodes[i, k] for k in range(j)]
            x = layers.Concatenate(name=f"node{i}{j}_concat")([up, *earlier])
            nodes[i, j] = _convolve(x, filters, config, f"node{i}{j}")
    x = _enlarge(nodes[0, depth], config.filters[-1], config.block, "full")
    x = _convolve(x, config.filters[-1], config, "full")
    x = layers.Conv2D(classes, 3, padding="same", activation="sigmoid", name="mask")(x)
    return keras.Model(body.input, x, name="network")


def _enlarge(x: keras.KerasTensor, filters: int, block: str, name: str) -> keras.KerasTensor:
    """Twice the side: by a learnt transposed convolution, or by repetition."""
    if block == "upsampling":
        return layers.UpSampling2D(name=f"{name}_up")(x)
    x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False, name=f"{name}_up")(x)
    x = layers.BatchNormalization(name=f"{name}_up_bn")(x)
    return layers.Activation("relu", name=f"{name}_up_relu")(x)


def _convolve(x: keras.KerasTensor, filters: int, config: Model, name: str) -> keras.KerasTensor:
    """Convolution, BatchNorm, ReLU: once after a transposed convolution, else twice."""
    for number in range(1 if config.block == "transpose" else 2):
        at = f"{name}_{'ab'[number]}"
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer="he_uniform", name=f"{at}_conv"
        )(x)
        x = layers.BatchNormalization(name=f"{at}_bn")(x)
        x = layers.Activation("relu", name=f"{at}_relu")(x)
    return x


ARCHITECTURES: dict[str, Callable[[Model, int, int], keras.Model]] = {"gate": gate, "unet": unet, "unetpp": unetpp}


def network(model: keras.Model) -> keras.Model:
    """The architecture inside a built model, without the input's normalisation."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def _set_momentum(model: keras.Model, momentum: float) -> None:
    """EfficientNet's own 0.99 needs hundreds of steps before its running statistics mean anything."""
    for layer in network(model).layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum


def load_encoder(model: keras.Model, config: Model) -> None:
    """Put an encoder's weights from a file (legacy .h5 of the packages, or .weights.h5) into a built model."""
    path = Path(config.weights)
    if not path.is_file():
        raise GatemaskError(
            "There is no such weights file.",
            where="model.weights",
            received=config.weights,
            expected="'none', or the path of an .h5 file",
            do="Download it once and name its path.",
        )
    alone = bridge.encoder(config.encoder, network(model).input_shape[1:])
    try:
        alone.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise GatemaskError(
            "These weights do not fit the encoder.",
            where=path,
            received=str(error).splitlines()[0],
            expected=f"{config.encoder} without its top",
        ) from None
    for layer in alone.layers:
        if layer.weights:
            network(model).get_layer(layer.name).set_weights(layer.get_weights())
