"""Build encoders of any package, and nest each as one layer of a network."""

from __future__ import annotations

from collections.abc import Callable

import keras

from gatemask.builders.applications import build_application
from gatemask.builders.bridge import build_packaged
from gatemask.builders.tensor import Tensor
from gatemask.config import ENCODERS, EncoderPackage

# From the encoder's name and the shape of normalized images to a model and its features by stride.
BuildEncoder = Callable[[str, tuple[int, int, int]], tuple[keras.Model, dict[int, Tensor]]]
BUILDERS: dict[EncoderPackage, BuildEncoder] = {"segmentation-models": build_packaged, "keras": build_application}


def build_encoder(name: str, input_shape: tuple[int, int, int]) -> tuple[keras.Model, dict[int, Tensor]]:
    """Build an encoder without its classifier, its weights zeros.

    Args:
        name: Name of the encoder in a YAML.
        input_shape: Shape of normalized images, (h, w, c).

    Returns:
        A model from (b, h, w, c) to (b, h / 32, w / 32, features), and its features by stride.
    """
    return BUILDERS[ENCODERS[name].family.package](name, input_shape)


class NestedEncoder:
    """An encoder nested as one layer, so a weights file keeps its weights in one place.

    Args:
        name: Name of the encoder in a YAML.
        x: Normalized images, (b, h, w, c).

    Attributes:
        packaged: Encoder as its package built it: the order of its weights files.
        model: The nested encoder; its outputs are its features at strides 16, 8, 4, 2 and 32, without those that it
            lacks.
        features: Features for `x`, (b, h / stride, w / stride, f), by stride. ConvNeXt has none at stride 2.
        ends_in_pooling: Whether no convolution follows the last pooling, as in a VGG.
    """

    def __init__(self, name: str, x: Tensor) -> None:
        self.packaged, features = build_encoder(name, x.shape[1:])
        strides = [stride for stride in (16, 8, 4, 2, 32) if stride in features]
        self.model = keras.Model(self.packaged.input, [features[stride] for stride in strides], name="encoder")
        self.features: dict[int, Tensor] = dict(zip(strides, self.model(x), strict=True))
        self.ends_in_pooling = isinstance(self.packaged.layers[-1], keras.layers.MaxPooling2D)
