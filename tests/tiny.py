"""One small encoder in place of all encoders, for tests of anything else: tracing a real one takes up to a minute.

Decoders, heads, losses and the nesting of the encoder stay as they are. Call `install` in a process of its own, or use
the fixture `tiny_encoders`. The loop of the nuclei tiles keeps real encoders, from training to the rehearsed kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTHS = (8, 8, 16, 16, 32)
ROOT = str(Path(__file__).parents[1])
# What a process runs before anything else to replace the encoders, also in the kernels that it rehearses.
INSTALL = (
    f"import sys; sys.path.insert(0, {ROOT!r}); from tests import tiny; tiny.install(); tiny.install_in_rehearsals()\n"
)
# Replaces the encoders as soon as a kernel is about to import what builds networks.
HOOK = '''"""Replace the encoders before networks are built."""
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "gatemask.builders.models":
            sys.meta_path.remove(self)
            import _tiny
            _tiny.install()

sys.meta_path.insert(0, Finder())
'''


def install(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace the encoders of all packages.

    Args:
        replace: Sets an attribute of an object, such as `monkeypatch.setattr`.
    """
    from gatemask import quiet

    quiet.keras()
    from gatemask.builders import encoders

    replace(encoders, "build_encoder", build)


def install_in_image(folder: Path) -> None:
    """Replace the encoders in each process of a stand-in for Kaggle's image.

    Args:
        folder: Folder of the image's virtual environment.
    """
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "_tiny.py").write_text(Path(__file__).read_text())
    (site / "_tiny_encoders.py").write_text(HOOK)
    (site / "_tiny_encoders.pth").write_text("import _tiny_encoders\n")


def install_in_rehearsals(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace the encoders in kernels that this process rehearses.

    Args:
        replace: Sets an attribute of an object, such as `monkeypatch.setattr`.
    """
    from gatemask.kaggle.image import sandbox

    make_image = sandbox.make_image

    def with_tiny_encoder(folder: Path, *arguments: Any, **options: Any) -> Any:
        image = make_image(folder, *arguments, **options)
        install_in_image(folder)
        return image

    replace(sandbox, "make_image", with_tiny_encoder)


def build(name: str, input_shape: tuple[int, int, int]) -> Any:
    """Return an encoder of five convolutions of stride 2 and ReLUs, and its features at the strides that `name` has.

    The first and the last level have BatchNorm.
    """
    import keras

    from gatemask.builders.bridge import layers
    from gatemask.config import ENCODERS

    images = x = keras.Input(input_shape)
    features = {}
    for level, width in enumerate(WIDTHS, 1):
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False, name=f"level{level}_conv")(x)
        if level in (1, len(WIDTHS)):
            x = layers.BatchNormalization(name=f"level{level}_bn")(x)
        features[2**level] = x = layers.Activation("relu", name=f"level{level}")(x)
    return keras.Model(images, x, name=name), {stride: features[stride] for stride in ENCODERS[name].family.strides}
