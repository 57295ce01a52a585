"""One small encoder in place of all encoders, for tests of anything else: tracing a real one takes up to a minute.

Decoders, heads, losses and the nesting of the encoder stay as they are. Call `install` in a process of its own, or use
the fixture `tiny_encoders`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTHS = (8, 8, 16, 16, 32)
ROOT = str(Path(__file__).parents[1])
# What a process runs before anything else to replace the encoders.
INSTALL = f"import sys; sys.path.insert(0, {ROOT!r}); from tests import tiny; tiny.install()\n"


def install(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace the encoders of segmentation-models.

    Args:
        replace: Sets an attribute of an object, such as `monkeypatch.setattr`.
    """
    from gatemask.builders import bridge

    factory = bridge.encoder_factory()
    replace(factory, "get_backbone", build)
    replace(factory, "get_feature_layers", lambda name, n=4: ("level4", "level3", "level2", "level1"))


def build(name: str, *, input_shape: tuple[int, int, int], layers: Any, models: Any, **_: Any) -> Any:
    """Return an encoder with five convolutions of stride 2, each followed by BatchNorm and ReLU."""
    images = x = layers.Input(input_shape)
    for level, width in enumerate(WIDTHS, 1):
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False, name=f"level{level}_conv")(x)
        x = layers.BatchNormalization(name=f"level{level}_bn")(x)
        x = layers.Activation("relu", name=f"level{level}")(x)
    return models.Model(images, x, name=name)
