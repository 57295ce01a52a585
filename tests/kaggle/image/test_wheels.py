"""The wheel: pure, reproducible, and all there."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gatemask.files import sha256
from gatemask.kaggle.image import wheels


def test_our_wheel_is_pure_and_reproducible(tmp_path: Path) -> None:
    one, two = (wheels.build_own(tmp_path / name) for name in "ab")
    assert one.name.endswith("-py3-none-any.whl")
    assert sha256(one) == sha256(two)
    names = set(zipfile.ZipFile(one).namelist())
    modules = {p.relative_to(wheels.SOURCE / "lib").as_posix() for p in (wheels.SOURCE / "lib").rglob("*.py")}
    assert modules <= names


def test_the_four_are_pinned_by_hash() -> None:
    found = wheels.shipped()
    assert [p.name.split("-")[0] for p in found] == [
        "Keras_Applications",
        "efficientnet",
        "image_classifiers",
        "segmentation_models",
    ]
