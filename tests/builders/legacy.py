"""Save encoders of legacy Keras with random weights, in the format of published files. Tests run it in a process.

    python legacy.py FOLDER NAME ...

writes FOLDER/<name>.h5, and the encoder's features of `images(name)` to FOLDER/<name>.npy.
"""

import os
import sys
import warnings
from pathlib import Path

import numpy as np


def side(name: str) -> int:
    return 96 if name.startswith("inception") else 64


def images(name: str) -> np.ndarray:
    """Return images, float32 (1, s, s, 3), about as large as normalized ones."""
    return np.random.default_rng(0).normal(0, 1, (1, side(name), side(name), 3)).astype(np.float32)


def write(folder: Path, name: str) -> None:
    import tf_keras
    from segmentation_models.backbones.backbones_factory import Backbones

    modules = {
        "backend": tf_keras.backend,
        "layers": tf_keras.layers,
        "models": tf_keras.models,
        "utils": tf_keras.utils,
    }
    shape = (side(name), side(name), 3)
    encoder = Backbones.get_backbone(name, input_shape=shape, weights=None, include_top=False, **modules)
    rng = np.random.default_rng(1)
    for layer in encoder.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            # Statistics close to the initial ones keep the signal alive through a hundred layers. A smaller scale keeps
            # the sums of a hundred residuals from growing until only rounding errors are left.
            weights = [w + rng.uniform(0, 0.1, w.shape) for w in layer.get_weights()]
            layer.set_weights([weights[0] * 0.5, *weights[1:]] if layer.scale else weights)
    encoder.save_weights(folder / f"{name}.h5")
    np.save(folder / f"{name}.npy", np.asarray(encoder(images(name), training=False)))
    tf_keras.backend.clear_session()


if __name__ == "__main__":
    os.environ.update(SM_FRAMEWORK="tf.keras", TF_CPP_MIN_LOG_LEVEL="3")
    warnings.simplefilter("ignore")
    for encoder_name in sys.argv[2:]:
        write(Path(sys.argv[1]), encoder_name)
        print(encoder_name, flush=True)
