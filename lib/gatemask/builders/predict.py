"""What a built model says of a batch, test-time augmentation averaged in: one path for out-of-fold and test."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np


def predict(model: keras.Model, images: np.ndarray, tta: Sequence[str] = ()) -> np.ndarray:
    """Probabilities of one batch.

    Args:
        model: of `builders.models.build`.
        images: uint8 (b, s, s, channels); keep b the same, or the model is traced again.
        tta: "hflip" adds the mirrored batch, mirrored back.

    Returns:
        float32, (b, 1) for a gate, (b, s, s, classes) for masks.
    """
    total = np.asarray(model.predict_on_batch(images), np.float32)
    if "hflip" in tta:
        mirrored = np.asarray(model.predict_on_batch(np.ascontiguousarray(images[:, :, ::-1])), np.float32)
        back = mirrored[:, :, ::-1] if mirrored.ndim == 4 else mirrored
        return np.asarray((total + back) / 2, np.float32)
    return total


def as_uint8(probabilities: np.ndarray) -> np.ndarray:
    """Maps as they are stored: 0 to 255 for 0 to 1, rounded half up."""
    return np.floor(probabilities * 255.0 + 0.5).astype(np.uint8)
