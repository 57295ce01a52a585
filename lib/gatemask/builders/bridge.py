"""Build the encoders of segmentation-models on Keras 3 and any of its backends.

The package and its encoder packages were written for older Keras, and take the Keras modules they use as arguments.
They receive those of Keras 3, with the following substitutions, so nothing of theirs is patched:

- a backend that speaks `keras.ops`, and Keras 3 in place of the `tensorflow.keras` that they import;
- layers whose swish is Keras's own SiLU (the same function, but one operation with a lean gradient);
- layers of our own for `Lambda`, which cannot be saved without pickling code;
- weights that start as zeros: `initializers.py` draws the real values, the same ones on every backend.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ.setdefault("SM_FRAMEWORK", "tf.keras")  # only decides what the package imports and then ignores

import keras
import numpy as np

from gatemask.builders.tensor import Tensor

BACKEND = SimpleNamespace(
    backend=lambda: "keras3",
    image_data_format=keras.backend.image_data_format,
    is_keras_tensor=keras.backend.is_keras_tensor,
    sigmoid=keras.ops.sigmoid,
    shape=keras.ops.shape,
    int_shape=lambda x: x.shape,
)
LAYERS_WITH_WEIGHTS = ("BatchNormalization", "Conv2DTranspose", "Dense", "DepthwiseConv2D", "SeparableConv2D")


def zeros(shape: Sequence[int], dtype: str | None = None) -> Tensor:
    """Return zeros made by numpy: JAX would compile an operation for each shape, at 50 ms apiece."""
    dtype = dtype or "float32"
    return keras.ops.convert_to_tensor(np.zeros(shape, dtype), dtype)  # without the dtype, JAX compiles a copy


class DeferredInitializer(keras.initializers.Initializer):
    """Zeros, at no cost, in place of an initializer to apply later.

    Args:
        original: The initializer that the layer was given.
    """

    def __init__(self, original: keras.initializers.Initializer) -> None:
        self.original = original

    def __call__(self, shape: Sequence[int], dtype: str | None = None) -> Tensor:
        return zeros(shape, dtype)


class ChannelSlice(keras.layers.Layer):
    """Channels `start` to `stop` of a tensor: how the packages cut groups of channels."""

    def __init__(self, start: int, stop: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start, self.stop = start, stop

    def call(self, x: Tensor) -> Tensor:
        return x[..., self.start : self.stop]


class ScaledResidual(keras.layers.Layer):
    """`first + scale * second`, the residual of Inception-ResNet (Szegedy 2016)."""

    def __init__(self, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, pair: Sequence[Tensor]) -> Tensor:
        return pair[0] + pair[1] * self.scale


class _Layers:
    """`keras.layers` with the substitutions listed above."""

    def __getattr__(self, class_name: str) -> Any:
        layer_class = getattr(keras.layers, class_name)
        if class_name not in LAYERS_WITH_WEIGHTS:
            return layer_class

        def make(*args: Any, name: str | None = None, **kwargs: Any) -> keras.layers.Layer:
            return defer_initializers(layer_class(*args, name=_without_slash(name), **kwargs))

        return make

    def Activation(self, activation: Any, name: str | None = None, **kwargs: Any) -> keras.layers.Layer:  # noqa: N802 (named as in Keras)
        return keras.layers.Activation(_silu(activation), name=_without_slash(name), **kwargs)

    def Conv2D(  # noqa: N802
        self, *args: Any, activation: Any = None, name: str | None = None, **kwargs: Any
    ) -> keras.layers.Layer:
        layer = keras.layers.Conv2D(*args, activation=_silu(activation), name=_without_slash(name), **kwargs)
        return defer_initializers(layer)

    def Lambda(  # noqa: N802
        self,
        function: Callable[..., Tensor],
        output_shape: object = None,
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> keras.layers.Layer:
        options = arguments or {}
        if function.__name__ == "slice_tensor":
            return ChannelSlice(options["start"], options["stop"], **kwargs)
        if function.__name__ == "expand_dims":
            return keras.layers.Reshape((1, 1, -1), **kwargs)
        if "scale" in options:
            return ScaledResidual(options["scale"], **kwargs)
        raise TypeError(f"There is no substitute for the Lambda layer '{function.__name__}'.")


def _without_slash(name: str | None) -> str | None:
    """Keras 3 allows no slash in names, and DenseNet's layers have them."""
    return name.replace("/", "_") if name else name


def _silu(activation: Any) -> Any:
    return "silu" if getattr(activation, "__name__", None) == "swish" else activation


def defer_initializers(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Make a layer build its weights as zeros, and return it."""
    for key, value in list(vars(layer).items()):
        if isinstance(value, keras.initializers.Initializer):
            setattr(layer, key, DeferredInitializer(value))
    return layer


def restore_initializers(layer: keras.layers.Layer) -> None:
    """Give a built layer its original initializers back."""
    for key, value in list(vars(layer).items()):
        if isinstance(value, DeferredInitializer):
            setattr(layer, key, value.original)


def flat_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers of a model and of the models nested in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from flat_layers(layer)
        else:
            yield layer


layers: Any = _Layers()
KERAS_MODULES = {"backend": BACKEND, "layers": layers, "models": keras.models, "utils": keras.utils}


def segmentation_models() -> ModuleType:
    """Return the package, imported without its greeting on stdout, which belongs to `--json`."""
    _substitute_skimage()
    with contextlib.redirect_stdout(io.StringIO()), _keras_as_tensorflows():
        import segmentation_models as package
    return package


@contextlib.contextmanager
def _keras_as_tensorflows() -> Iterator[None]:
    """Let the packages find Keras 3 as `tensorflow.keras` inside the block, where the backend is another.

    They import it only to take its modules by default. Afterwards the name is free again: JAX, Keras and W&B look for
    TensorFlow among the loaded modules.
    """
    if keras.backend.backend() == "tensorflow" or "segmentation_models" in sys.modules:
        yield
        return
    names = ("tensorflow", "tensorflow.keras")
    loaded = {name: sys.modules[name] for name in names if name in sys.modules}
    stand_in = ModuleType("tensorflow")
    stand_in.__spec__ = ModuleSpec("tensorflow", None, is_package=True)
    stand_in.keras = keras  # type: ignore[attr-defined]
    sys.modules |= {"tensorflow": stand_in, "tensorflow.keras": keras}
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules |= loaded


def _substitute_skimage() -> None:
    """Let efficientnet be imported without scikit-image, as on Kaggle's TPU image.

    It imports `resize` from there for a function that nothing here calls.
    """
    if "skimage" in sys.modules or importlib.util.find_spec("skimage") is not None:
        return
    package, transform = ModuleType("skimage"), ModuleType("skimage.transform")
    package.transform, transform.resize = transform, None  # type: ignore[attr-defined]
    sys.modules |= {"skimage": package, "skimage.transform": transform}


def encoder_factory() -> Any:
    """Return segmentation-models' factory of encoders."""
    segmentation_models()
    from segmentation_models.backbones.backbones_factory import Backbones

    return Backbones


def build_packaged(name: str, input_shape: tuple[int, int, int]) -> tuple[keras.Model, dict[int, Tensor]]:
    """Build an encoder of segmentation-models without its classifier, its weights zeros.

    Args:
        name: Name of the encoder in a YAML.
        input_shape: Shape of normalized images, (h, w, c); sides of at least 32, for the Inceptions at least 75.

    Returns:
        A model from (b, h, w, c) to (b, h / 32, w / 32, features), and its features by stride.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about numbers of channels other than 1 and 3
        model = encoder_factory().get_backbone(
            name, input_shape=input_shape, weights=None, include_top=False, **KERAS_MODULES
        )
    layers_of_strides = zip((16, 8, 4, 2), encoder_factory().get_feature_layers(name, n=4), strict=True)
    features = {
        stride: (model.get_layer(key) if isinstance(key, str) else model.get_layer(index=key)).output
        for stride, key in layers_of_strides
    }
    return model, {**features, 32: model.output}
