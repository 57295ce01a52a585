"""Tests of the wheels: ours is pure, complete and reproducible; the others are pinned."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from gatemask.files import sha256
from gatemask.kaggle.image import own_wheel, wheels
from gatemask.shipped import SOURCE


@pytest.mark.integration
def test_own_wheel_is_pure_and_reproducible(tmp_path: Path) -> None:
    wheel, same_wheel = (own_wheel.build_own(tmp_path / name) for name in "ab")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert sha256(wheel) == sha256(same_wheel)
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [p for p in (SOURCE / "lib").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.relative_to(SOURCE / "lib").as_posix() for p in files} == {n for n in names if ".dist-info/" not in n}
    assert {n.partition(".dist-info/")[2] for n in names} == {"", "METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}


def test_shipped_wheels_are_pinned_by_hash() -> None:
    assert [path.name.split("-")[0] for path in wheels.shipped()] == [
        "Keras_Applications",
        "efficientnet",
        "image_classifiers",
        "segmentation_models",
    ]
