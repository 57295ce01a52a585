"""Encoders of keras.applications.

Each is built twice. The first copy has no values, and shows layers and graph. The second is a clone of it, with these
substitutions:

- weights start as zeros: `initializers.py` draws the real values, the same ones on every backend;
- ConvNeXt's residual additions are layers, which have names and are counted in the plan of a step's memory;
- ConvNeXt's scale of a residual is a layer of our own, since that of Keras keeps its initializer to itself.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import keras

from gatemask.builders.bridge import defer_initializers
from gatemask.builders.tensor import Tensor

CLASSES = {
    "efficientnetv2b0": "EfficientNetV2B0",
    "efficientnetv2b1": "EfficientNetV2B1",
    "efficientnetv2b2": "EfficientNetV2B2",
    "efficientnetv2b3": "EfficientNetV2B3",
    "efficientnetv2s": "EfficientNetV2S",
    "efficientnetv2m": "EfficientNetV2M",
    "efficientnetv2l": "EfficientNetV2L",
    "convnext_tiny": "ConvNeXtTiny",
    "convnext_small": "ConvNeXtSmall",
    "convnext_base": "ConvNeXtBase",
    "convnext_large": "ConvNeXtLarge",
    "convnext_xlarge": "ConvNeXtXLarge",
    "resnet50v2": "ResNet50V2",
    "resnet101v2": "ResNet101V2",
    "resnet152v2": "ResNet152V2",
}
LAST_BLOCKS = {"resnet50v2": (3, 4, 6), "resnet101v2": (3, 4, 23), "resnet152v2": (3, 8, 36)}


class LayerScale(keras.layers.Layer):
    """Layer that multiplies each channel of a residual by a learned number (Touvron 2021).

    Args:
        initial: Initial value of the numbers.
    """

    def __init__(self, initial: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma_initializer = keras.initializers.Constant(initial)

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), initializer=self.gamma_initializer, name="gamma")

    def call(self, x: Tensor) -> Tensor:
        return x * self.gamma


def build_application(name: str, input_shape: tuple[int, int, int]) -> tuple[keras.Model, dict[int, Tensor]]:
    """Build an encoder of keras.applications, its weights zeros.

    Args:
        name: Name of the encoder in a YAML.
        input_shape: Shape of normalized images, (h, w, c); sides of at least 32.

    Returns:
        A model from (b, h, w, c) to (b, h / 32, w / 32, features), and its features by stride.
    """
    own_normalization = {} if name in LAST_BLOCKS else {"include_preprocessing": False}
    with warnings.catch_warnings(), keras.StatelessScope(initialize_variables=False):
        warnings.simplefilter("ignore")  # about numbers of channels other than 1 and 3
        prototype = getattr(keras.applications, CLASSES[name])(
            include_top=False, weights=None, input_shape=input_shape, **own_normalization
        )
    copy = _Copy(name)
    model = keras.models.clone_model(prototype, clone_function=copy.layer, call_function=_call, recursive=True)
    features = {stride: model.get_layer(layer).input for stride, layer in _where_strides_end(name).items()}
    return model, {**features, 32: model.output}


def _where_strides_end(name: str) -> dict[int, str]:
    """Return, by stride, the layer whose input is the last feature of that stride, and which leads to the next one."""
    if name.startswith("efficientnetv2"):
        return {2: "block2a_expand_conv", 4: "block3a_expand_conv", 8: "block4a_expand_conv", 16: "block6a_expand_conv"}
    if name.startswith("convnext"):
        return {4 << stage: f"{name}_downsampling_block_{stage}" for stage in range(3)}
    # A unit starts with its norm and ReLU; its residual shrinks the image, after the first of its convolutions.
    units = {4 << i: f"conv{i + 2}_block{last}_1_conv" for i, last in enumerate(LAST_BLOCKS[name])}
    return {2: "pool1_pad", **units}


class _Copy:
    """Copies the layers of an encoder, with the substitutions listed above.

    Args:
        name: Name of the encoder in a YAML.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.additions = itertools.count()

    def layer(self, original: Any) -> keras.layers.Layer:
        """Return a copy of a layer, or a layer in place of a bare addition."""
        kind = type(original).__name__
        if kind == "Add" and not isinstance(original, keras.layers.Layer):
            return keras.layers.Add(name=f"{self.name}_add_{next(self.additions)}")
        if kind == "LayerScale":
            return defer_initializers(LayerScale(original.init_values, name=original.name, dtype=original.dtype_policy))
        config = original.get_config()
        if config["name"].startswith("layer_normalization"):  # the last one: Keras numbers it
            config["name"] = f"{self.name}_layernorm"
        return defer_initializers(type(original).from_config(config))


def _call(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Call a layer as its original was called: that of an addition was a function of two tensors."""
    if isinstance(layer, keras.layers.Add) and len(args) == 2:
        return layer(list(args), **kwargs)
    return layer(*args, **kwargs)
