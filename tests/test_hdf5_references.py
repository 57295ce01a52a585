"""Weights files that refer to other files or objects are rejected wherever weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from gatemask.builders import encoder_weights
from gatemask.errors import GatemaskError
from gatemask.hdf5 import load_weights, require_self_contained


@pytest.fixture
def other(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(10.0)
    return tmp_path / "other.h5"


def soft_link(file: h5py.File, other: Path) -> None:
    file["layers/soft"] = h5py.SoftLink("/layers/a")


def dangling_link(file: h5py.File, other: Path) -> None:
    file["soft"] = h5py.SoftLink("/nowhere")


def external_link(file: h5py.File, other: Path) -> None:
    file["layers/a/vars/1"] = h5py.ExternalLink(str(other), "/x")


def external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("layers/a/vars/1", (10,), "u1", external=[(str(other), 0, 10)])


def virtual_array(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "x", (10,))
    file.create_virtual_dataset("layers/a/vars/1", layout)


def group_elsewhere(file: h5py.File, other: Path) -> None:
    file["layers/ü"] = h5py.ExternalLink(str(other), "/")


FAULTS: dict[Callable[[h5py.File, Path], None], str] = {
    soft_link: "a soft link",
    dangling_link: "a soft link",
    external_link: "a link to another file",
    external_storage: r"an array that is stored in .*other\.h5",
    virtual_array: "a virtual array",
    group_elsewhere: "a link to another file",
}


def written(path: Path, spoil: Callable[[h5py.File, Path], None] | None, other: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["layers/a/vars/0"] = np.ones(3)
        if spoil:
            spoil(file, other)
    return path


@pytest.mark.parametrize("spoil", FAULTS)
def test_references_are_rejected(tmp_path: Path, other: Path, spoil: Callable[[h5py.File, Path], None]) -> None:
    path = written(tmp_path / "w.weights.h5", spoil, other)
    with pytest.raises(GatemaskError, match=FAULTS[spoil]) as rejected:
        require_self_contained(path)
    assert str(path) in str(rejected.value.details["where"])
    loaded: list[Any] = []
    with pytest.raises(GatemaskError, match="refers to data outside"):
        load_weights(SimpleNamespace(load_weights=loaded.append), path)  # type: ignore[arg-type]
    network = SimpleNamespace(encoder=None, packaged_encoder=None, encoder_name="x")
    network.model = SimpleNamespace(variables=[], weights=[], load_weights=loaded.append)
    with pytest.raises(GatemaskError, match="refers to data outside"):
        encoder_weights.load_run_weights(network, path)  # type: ignore[arg-type]
    assert loaded == [], "nothing was read before the check"


def test_plain_files_pass(tmp_path: Path, other: Path) -> None:
    def plain(file: h5py.File, other: Path) -> None:
        file["again"] = file["layers/a"]  # the same object under a second name
        file["layers/a/loop"] = file["layers"]
        file.create_dataset("packed", (50, 50), chunks=(10, 10), compression="gzip", fletcher32=True)
        file["type"], file["text"] = np.dtype("f8"), "text"

    loaded: list[Any] = []
    path = written(tmp_path / "w.weights.h5", plain, other)
    load_weights(SimpleNamespace(load_weights=loaded.append), path)  # type: ignore[arg-type]
    assert loaded == [path]
    (tmp_path / "damaged.h5").write_bytes(b"no HDF5 file")
    with pytest.raises(OSError, match="signature"):
        require_self_contained(tmp_path / "damaged.h5")
