"""The out-of-fold store returns what was written and rejects images listed twice."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.oof import store

MAPS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
IDS = ["a", "b.1", "c", "d", "e"]


def test_maps_are_streamed_and_found_by_id(tmp_path: Path) -> None:
    path = store.write_maps(tmp_path / "oof.h5", IDS, iter([MAPS[:3], MAPS[3:]]), (8, 8, 1))
    reader = store.MapReader([path])
    assert reader.ids == set(IDS)
    assert (reader["b.1"] == MAPS[1]).all()
    reader.close()


def test_missing_maps_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match="missing"):
        store.write_maps(tmp_path / "oof.h5", IDS, iter([MAPS[:3]]), (8, 8, 1))
    assert not list(tmp_path.iterdir())


def test_an_image_in_two_folds_is_rejected(tmp_path: Path) -> None:
    paths = [store.write_maps(tmp_path / f"{n}.h5", IDS, iter([MAPS]), (8, 8, 1)) for n in (0, 1)]
    with pytest.raises(GatemaskError, match="two out-of-fold maps"):
        store.MapReader(paths)


def test_gate_probabilities_are_restored_and_checked(tmp_path: Path) -> None:
    path = store.write_gates(tmp_path / "oof.csv", ["007", "b"], np.array([0.25, 1.0]))
    assert store.read_gates([path]) == {"007": 0.25, "b": 1.0}
    with pytest.raises(GatemaskError, match="two out-of-fold gate"):
        store.read_gates([path, path])
    path.write_text("image_id,probability\na,nan\n")
    with pytest.raises(GatemaskError, match="outside"):
        store.read_gates([path])


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    maps = np.random.default_rng(1).integers(0, 256, (200, 16, 16, 2)).astype(np.uint8)
    ids = [f"i{n}" for n in range(200)]
    path = store.write_maps(tmp_path / "oof.h5", ids, iter([maps]), (16, 16, 2))
    reader = store.MapReader([path])
    assert reader.classes == 2
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert (np.stack(list(pool.map(reader.__getitem__, ids))) == maps).all()
    reader.close()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = store.write_maps(tmp_path / "oof.h5", IDS, iter([MAPS]), (8, 8, 1))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(GatemaskError, match=r"cannot be read[\s\S]*oof\.h5"):
        reader = store.MapReader([path])
        for image_id in IDS:
            reader[image_id]
    reader = store.MapReader([store.write_maps(path, IDS, iter([MAPS]), (8, 8, 1))])
    chunk = data.index(zlib.compress(MAPS[2].tobytes(), 1))
    with path.open("r+b") as file:  # damaged after it was opened
        file.seek(chunk + 9)
        file.write(b"\0\0\0\0")
    with pytest.raises(GatemaskError, match="image c"):
        reader["c"]
    reader.close()


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = store.write_maps(tmp_path / "oof.h5", IDS, iter([MAPS]), (8, 8, 1))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(0, 600, 7), *rng.integers(0, len(content), 100).tolist()]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(GatemaskError, match="cannot be read"):
            store.MapReader([path])


def test_a_store_of_an_earlier_version_has_no_hash_and_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "oof.h5", "w") as file:
        file.create_dataset("ids", data=IDS, dtype=h5py.string_dtype())
        file.create_dataset("maps", data=MAPS, chunks=(1, 8, 8, 1), compression="gzip")
    reader = store.MapReader([tmp_path / "oof.h5"])
    assert all((reader[name] == maps).all() for name, maps in zip(IDS, MAPS, strict=True))
    reader.close()
