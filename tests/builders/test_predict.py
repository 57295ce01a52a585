"""Prediction: mirrored and mirrored back, and bytes that round half up."""

from __future__ import annotations

import numpy as np

from gatemask import quiet

quiet.tensorflow()
from gatemask.builders.predict import as_uint8, predict  # noqa: E402


class Left:
    """A stand-in for a model whose map is the image itself, darkened on the right half."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        out = images[..., :1].astype(np.float32) / 255
        out[:, :, out.shape[2] // 2 :] /= 2
        return out


def test_hflip_averages_the_mirrored_prediction_mirrored_back() -> None:
    images = np.full((1, 2, 4, 1), 255, np.uint8)
    assert predict(Left(), images)[0, 0, :, 0].tolist() == [1, 1, 0.5, 0.5]
    assert predict(Left(), images, ["hflip"])[0, 0, :, 0].tolist() == [0.75] * 4


def test_bytes_round_half_up() -> None:
    assert as_uint8(np.array([0, 0.49 / 255, 0.5 / 255, 1])).tolist() == [0, 0, 1, 255]
