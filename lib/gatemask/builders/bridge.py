"""How segmentation-models and its encoder packages, written for older Keras, build Keras 3 models on any backend.

The packages take the Keras modules that they use as arguments. They are handed Keras 3's, with these
substitutions, so that nothing of theirs is patched:

- a backend that speaks `keras.ops`;
- layers whose swish is Keras's own SiLU (the same function, but one operation with a lean gradient);
- proper layers where they use Lambda, which cannot be saved without pickling code;
- weights that start as zeros: `initial.py` draws the real values, the same ones on every backend;
- a `Model` that nests the encoder as one layer, whose weights a file then keeps in one place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ.setdefault("SM_FRAMEWORK", "tf.keras")  # only decides what the package imports and then ignores

import keras
import numpy as np

BACKEND = SimpleNamespace(
    backend=lambda: "keras3",
    image_data_format=keras.backend.image_data_format,
    is_keras_tensor=keras.backend.is_keras_tensor,
    sigmoid=keras.ops.sigmoid,
    shape=keras.ops.shape,
    int_shape=lambda x: x.shape,
)
WEIGHTED = ("BatchNormalization", "Conv2DTranspose", "Dense", "DepthwiseConv2D", "SeparableConv2D")


class DeferredInitializer(keras.initializers.Initializer):
    """Zeros for now, at no cost; remembers the initializer that says what the values are to be."""

    def __init__(self, meant: Any) -> None:
        self.meant = meant

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return np.zeros(shape, dtype or "float32")


class ChannelSlice(keras.layers.Layer):
    """Channels from `start` up to `stop`: what the packages cut groups of channels with."""

    def __init__(self, start: int, stop: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start, self.stop = start, stop

    def call(self, x: Any) -> Any:
        return x[..., self.start : self.stop]


class _Layers:
    """`keras.layers` with the substitutions named above."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(keras.layers, name)
        return (
            (lambda *args, **kwargs: defer_initializers(found(*args, **_named(kwargs)))) if name in WEIGHTED else found
        )

    def Activation(self, activation: Any, **kwargs: Any) -> Any:  # noqa: N802 (named as in Keras)
        return keras.layers.Activation(_silu(activation), **_named(kwargs))

    def Conv2D(self, *args: Any, activation: Any = None, **kwargs: Any) -> Any:  # noqa: N802
        return defer_initializers(keras.layers.Conv2D(*args, activation=_silu(activation), **_named(kwargs)))

    def Lambda(self, function: Any, arguments: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: N802
        options = arguments or {}
        kwargs.pop("output_shape", None)
        if function.__name__ == "slice_tensor":
            return ChannelSlice(options["start"], options["stop"], **kwargs)
        if function.__name__ == "expand_dims":
            return keras.layers.Reshape((1, 1, -1), **kwargs)
        if "scale" in options:
            return ScaledResidual(options["scale"], **kwargs)
        raise TypeError(f"no layer stands in for the Lambda '{function.__name__}'")


class ScaledResidual(keras.layers.Layer):
    """first + scale * second: the residual of Inception-ResNet (Szegedy 2016)."""

    def __init__(self, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, pair: Any) -> Any:
        return pair[0] + pair[1] * self.scale


def _named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keras 3 wants no slash in the names of DenseNet's layers."""
    return {**kwargs, "name": kwargs["name"].replace("/", "_")} if kwargs.get("name") else kwargs


def _silu(activation: Any) -> Any:
    return "silu" if getattr(activation, "__name__", None) == "swish" else activation


def defer_initializers(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer, its weights to be built as zeros."""
    for key, value in list(vars(layer).items()):
        if isinstance(value, keras.initializers.Initializer):
            setattr(layer, key, DeferredInitializer(value))
    return layer


def restore_initializers(layer: keras.layers.Layer) -> None:
    """Give a built layer its own initializers back."""
    for key, value in list(vars(layer).items()):
        if isinstance(value, DeferredInitializer):
            setattr(layer, key, value.meant)


def flat_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of the models nested in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from flat_layers(layer)
        else:
            yield layer


layers: Any = _Layers()
KERAS_MODULES: dict[str, Any] = {"backend": BACKEND, "layers": layers, "models": keras.models, "utils": keras.utils}


def segmentation_models() -> ModuleType:
    """The package, imported without its greeting on stdout, which belongs to `--json`."""
    _stand_in_for_skimage()
    with contextlib.redirect_stdout(io.StringIO()):
        import segmentation_models as package
    return package


def _stand_in_for_skimage() -> None:
    """Let efficientnet be imported where scikit-image is not installed, as on Kaggle's TPU image.

    It takes `resize` from there, for a function of its own that nothing here calls.
    """
    if "skimage" in sys.modules or importlib.util.find_spec("skimage") is not None:
        return
    package, transform = ModuleType("skimage"), ModuleType("skimage.transform")
    package.transform, transform.resize = transform, None  # type: ignore[attr-defined]
    sys.modules |= {"skimage": package, "skimage.transform": transform}


def encoder_factory() -> Any:
    """segmentation-models' factory of encoders."""
    segmentation_models()
    from segmentation_models.backbones.backbones_factory import Backbones

    return Backbones


def build_encoder(name: str, input_shape: tuple[int, int, int]) -> Any:
    """An encoder without its head: (s, s, c) to (s / 32, s / 32, features). Weights are zeros (see `initial`).

    Args:
        name: of schema.Encoder.
        input_shape: of the images, normalised; sides from 32, of the Inceptions from 75.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of channel numbers other than 1 and 3
        return encoder_factory().get_backbone(
            name, input_shape=input_shape, weights=None, include_top=False, **KERAS_MODULES
        )


def skip_layers(name: str) -> tuple[str | int, ...]:
    """The encoder's layers at 1/16, 1/8, 1/4 and 1/2 of the input, deepest first: names, or numbers."""
    return encoder_factory().get_feature_layers(name, n=4)


class NestedEncoder:
    """An encoder nested as one layer behind `x`, with what the packages' decoders ask of an encoder.

    Args:
        name: of schema.Encoder.
        plain: the encoder as its package built it.
        images: the input of the whole.
        x: the images, normalised.

    Attributes:
        model: the nested encoder; its outputs are those of `skip_layers`, then the deepest features.
        skips, output: these outputs behind `x`.
    """

    def __init__(self, name: str, plain: keras.Model, images: Any, x: Any) -> None:
        self.plain, self.input, self.layers = plain, images, plain.layers
        self._at = skip_layers(name)
        skips = [plain.get_layer(at) if isinstance(at, str) else plain.get_layer(index=at) for at in self._at]
        self.model = keras.Model(plain.input, [*(layer.output for layer in skips), plain.output], name="encoder")
        *self.skips, self.output = self.model(x)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        return SimpleNamespace(output=self.skips[self._at.index(index if name is None else name)])


def nest_encoder(name: str, images: Any, x: Any) -> NestedEncoder:
    """An encoder alone, nested behind `x` (b, s, s, c)."""
    return NestedEncoder(name, build_encoder(name, x.shape[1:]), images, x)


def build_decoder(architecture: str, name: str, images: Any, x: Any, **options: Any) -> tuple[NestedEncoder, Any]:
    """segmentation-models' Unet, FPN or Linknet around a nested encoder.

    Args:
        architecture: the package's own name of it.
        name: of the encoder.
        images, x: as for NestedEncoder.
        options: the package's own.

    Returns:
        The encoder, and the features (b, s, s, f) that go into the package's last convolution, which is left
        out: heads are our own.
    """
    made: list[NestedEncoder] = []

    def model(inputs: Any, outputs: Any, **kwargs: Any) -> Any:
        """The packages' `models.Model`: they make the encoder first."""
        whole = keras.Model(inputs, outputs, **kwargs)
        if made:
            return whole
        made.append(NestedEncoder(name, whole, images, x))
        return made[0]

    segmentation_models()
    from segmentation_models.models import fpn, linknet, unet

    builders: dict[str, Callable[..., Any]] = {"Unet": unet.Unet, "FPN": fpn.FPN, "Linknet": linknet.Linknet}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of channel numbers other than 1 and 3
        whole = builders[architecture](
            name,
            input_shape=x.shape[1:],
            classes=1,
            activation="linear",
            encoder_weights=None,
            **options,
            **{**KERAS_MODULES, "models": SimpleNamespace(Model=model)},
        )
    return made[0], whole.layers[-2].input  # the last two: a convolution, and its activation
