"""Tests of the wheels: ours is pure, complete and reproducible; the others are pinned."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from gatemask.files import sha256
from gatemask.kaggle.image import wheels


@pytest.mark.integration
def test_own_wheel_is_pure_and_reproducible(tmp_path: Path) -> None:
    wheel, same_wheel = (wheels.build_own(tmp_path / name) for name in "ab")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert sha256(wheel) == sha256(same_wheel)
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [p for p in (wheels.SOURCE / "lib").rglob("*") if p.suffix in (".py", ".css", ".js")]
    assert {p.relative_to(wheels.SOURCE / "lib").as_posix() for p in files} <= names


def test_shipped_wheels_are_pinned_by_hash() -> None:
    assert [path.name.split("-")[0] for path in wheels.shipped()] == [
        "Keras_Applications",
        "efficientnet",
        "image_classifiers",
        "segmentation_models",
    ]
