"""The out-of-fold store: what goes in comes out, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.oof import store

MAPS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
IDS = ["a", "b.1", "c", "d", "e"]


def test_maps_stream_in_and_are_found_by_id(tmp_path: Path) -> None:
    path = store.write_maps(tmp_path / "oof.h5", IDS, iter([MAPS[:3], MAPS[3:]]), (8, 8, 1))
    reader = store.MapReader([path])
    assert reader.ids == set(IDS)
    assert (reader["b.1"] == MAPS[1]).all()
    reader.close()


def test_missing_maps_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match="missing"):
        store.write_maps(tmp_path / "oof.h5", IDS, iter([MAPS[:3]]), (8, 8, 1))
    assert not list(tmp_path.iterdir())


def test_an_id_in_two_folds_is_refused(tmp_path: Path) -> None:
    paths = [store.write_maps(tmp_path / f"{n}.h5", IDS, iter([MAPS]), (8, 8, 1)) for n in (0, 1)]
    with pytest.raises(GatemaskError, match="two out-of-fold maps"):
        store.MapReader(paths)


def test_gates_come_back_and_are_checked(tmp_path: Path) -> None:
    path = store.write_gates(tmp_path / "oof.csv", ["007", "b"], np.array([0.25, 1.0]))
    assert store.read_gates([path]) == {"007": 0.25, "b": 1.0}
    with pytest.raises(GatemaskError, match="two out-of-fold gate"):
        store.read_gates([path, path])
    path.write_text("image_id,probability\na,nan\n")
    with pytest.raises(GatemaskError, match="is not one"):
        store.read_gates([path])
