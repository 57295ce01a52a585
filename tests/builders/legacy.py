"""Save encoders of legacy Keras with random weights, in the format of published files. Tests run it in a process.

    python legacy.py FOLDER NAME ...

writes FOLDER/<name>.h5, and the encoder's features of `images(name)` to FOLDER/<name>.npy. Names of keras.applications
are those of its classes in lower case: their encoders normalize the images themselves, as far as their package does.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import ENCODERS


def side(name: str) -> int:
    return 96 if name.startswith("inception") else 64


def is_application(name: str) -> bool:
    return ENCODERS[name].family.package == "keras"


def images(name: str) -> np.ndarray:
    """Return images, float32 (1, s, s, 3): about as large as normalized ones, or from 0 to 255 for an application."""
    rng, shape = np.random.default_rng(0), (1, side(name), side(name), 3)
    return (rng.uniform(0, 255, shape) if is_application(name) else rng.normal(0, 1, shape)).astype(np.float32)


def build(name: str) -> Any:
    """Return an encoder with random weights."""
    import tf_keras
    from segmentation_models.backbones.backbones_factory import Backbones

    shape = (side(name), side(name), 3)
    if is_application(name):
        classes = {attribute.lower(): attribute for attribute in dir(tf_keras.applications)}
        builder = getattr(tf_keras.applications, classes[name.replace("_", "")])
        return builder(weights=None, include_top=False, input_shape=shape)
    modules = {
        "backend": tf_keras.backend,
        "layers": tf_keras.layers,
        "models": tf_keras.models,
        "utils": tf_keras.utils,
    }
    return Backbones.get_backbone(name, input_shape=shape, weights=None, include_top=False, **modules)


def write(folder: Path, name: str) -> None:
    import tf_keras

    encoder = build(name)
    rng = np.random.default_rng(1)
    for layer in encoder.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            # Statistics close to the initial ones keep the signal alive through a hundred layers. A smaller scale keeps
            # the sums of a hundred residuals from growing until only rounding errors are left.
            weights = [w + rng.uniform(0, 0.1, w.shape) for w in layer.get_weights()]
            layer.set_weights([weights[0] * 0.5, *weights[1:]] if layer.scale else weights)
        elif type(layer).__name__ in ("LayerNormalization", "LayerScale"):
            layer.set_weights([w + rng.uniform(0, 0.1, w.shape) for w in layer.get_weights()])
    encoder.save_weights(folder / f"{name}.h5")
    x = images(name)
    if name.startswith("resnet") and is_application(name):
        x = tf_keras.applications.resnet_v2.preprocess_input(x.copy())
    np.save(folder / f"{name}.npy", np.asarray(encoder(x, training=False)))
    tf_keras.backend.clear_session()


if __name__ == "__main__":
    os.environ.update(SM_FRAMEWORK="tf.keras", TF_CPP_MIN_LOG_LEVEL="3")
    warnings.simplefilter("ignore")
    for encoder_name in sys.argv[2:]:
        write(Path(sys.argv[1]), encoder_name)
        print(encoder_name, flush=True)
