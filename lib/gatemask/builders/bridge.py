"""How segmentation-models and efficientnet, written for older Keras, build Keras 3 models on any backend.

Both packages take the Keras modules that they use as arguments. They are handed Keras 3's, with two
substitutions: a backend that speaks `keras.ops`, and layers whose swish is Keras's own SiLU (the same
function, but one operation with a lean gradient, on TensorFlow and on JAX alike).
"""

from __future__ import annotations

import contextlib
import io
import os
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ.setdefault("SM_FRAMEWORK", "tf.keras")  # only decides what the package imports and then ignores

import keras

BACKEND = SimpleNamespace(
    backend=lambda: "keras3",
    image_data_format=keras.backend.image_data_format,
    is_keras_tensor=keras.backend.is_keras_tensor,
    sigmoid=keras.ops.sigmoid,
    shape=keras.ops.shape,
    int_shape=lambda x: x.shape,
)


class _Layers:
    """`keras.layers` with SiLU in place of the packages' own swish."""

    def __getattr__(self, name: str) -> Any:
        return getattr(keras.layers, name)

    def Activation(self, activation: Any, **kwargs: Any) -> Any:  # noqa: N802 (named as in Keras)
        return keras.layers.Activation(_silu(activation), **kwargs)

    def Conv2D(self, *args: Any, activation: Any = None, **kwargs: Any) -> Any:  # noqa: N802
        return keras.layers.Conv2D(*args, activation=_silu(activation), **kwargs)


def _silu(activation: Any) -> Any:
    return "silu" if getattr(activation, "__name__", None) == "swish" else activation


MODULES: dict[str, Any] = {"backend": BACKEND, "layers": _Layers(), "models": keras.models, "utils": keras.utils}


def segmentation_models() -> ModuleType:
    """The package, imported without its greeting on stdout, which belongs to `--json`."""
    with contextlib.redirect_stdout(io.StringIO()):
        import segmentation_models as package
    return package


def encoder(name: str, input_shape: tuple[int, int, int]) -> keras.Model:
    """An encoder without its head, randomly initialised: (s, s, 3) to (s / 32, s / 32, c)."""
    segmentation_models()
    from segmentation_models.backbones.backbones_factory import Backbones

    return Backbones.get_backbone(name, input_shape=input_shape, weights=None, include_top=False, **MODULES)


def skip_layers(name: str) -> tuple[str, ...]:
    """The encoder's layers at 1/16, 1/8, 1/4 and 1/2 of the input, deepest first."""
    segmentation_models()
    from segmentation_models.backbones.backbones_factory import Backbones

    return Backbones.get_feature_layers(name, n=4)


def unet(name: str, input_shape: tuple[int, int, int], classes: int, block: str, filters: list[int]) -> keras.Model:
    """segmentation-models' U-Net (Ronneberger 2015), sigmoid at the end: (s, s, 3) to (s, s, classes)."""
    segmentation_models()
    from segmentation_models.models.unet import Unet

    return Unet(
        name,
        input_shape=input_shape,
        classes=classes,
        activation="sigmoid",
        encoder_weights=None,
        decoder_block_type=block,
        decoder_filters=tuple(filters),
        **MODULES,
    )
