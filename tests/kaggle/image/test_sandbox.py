"""Tests of the rehearsal's environment: only Kaggle's packages, and no network."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gatemask.kaggle.image import sandbox, wheels

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    return sandbox.make_image(tmp_path_factory.mktemp("image") / "env", refuse_sockets=True)


def run(python: Path, code: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*prefix, str(python), "-c", code], capture_output=True, text=True, cwd="/", env={})


def test_gatemask_and_the_shipped_wheels_are_hidden(image: tuple[Path, list[str]]) -> None:
    python, hidden = image
    names = {name.lower() for name in wheels.missing_on_kaggle()}
    assert len(names) == 4
    assert names | {"gatemask", "kaggle", "pytest"} <= set(hidden)
    for module in ("gatemask", "segmentation_models", "efficientnet", "classification_models", "keras_applications"):
        done = run(python, f"import {module}")
        assert "ModuleNotFoundError" in done.stderr, module


def test_kaggles_packages_can_be_imported(image: tuple[Path, list[str]]) -> None:
    done = run(image[0], "import numpy, pandas, cv2, pydicom, h5py, yaml, pydantic, pip; print(numpy.ones(2).sum())")
    assert done.stdout.strip() == "2.0", done.stderr


CONNECT = "import socket; socket.create_connection(('127.0.0.1', 9), timeout=2)"


def test_sockets_are_refused(image: tuple[Path, list[str]]) -> None:
    assert "the rehearsal has no network" in run(image[0], CONNECT).stderr
    assert "the rehearsal has no network" in run(image[0], "import socket; socket.getaddrinfo('kaggle.com', 80)").stderr


def test_network_namespace_has_no_network(tmp_path: Path) -> None:
    prefix, name = sandbox.isolation()
    if not prefix:
        pytest.skip("network namespaces are not allowed here")
    assert "namespace" in name
    python, _ = sandbox.make_image(tmp_path / "env", refuse_sockets=False)
    assert "Network is unreachable" in run(python, CONNECT, *prefix).stderr
