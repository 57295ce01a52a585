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
    assert {name: values.tolist() for name, values in store.read_gates([path]).items()} == {"007": [0.25], "b": [1.0]}
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


def test_gate_probabilities_per_class(tmp_path: Path) -> None:
    classes, probabilities = ["rice", "3"], np.array([[0.25, 0.5], [1.0, 0.0]])
    path = store.write_gates(tmp_path / "oof.csv", ["a", "b"], probabilities, classes)
    assert path.read_text().splitlines()[0] == "image_id,rice,3"
    gates = store.read_gates([path], classes)
    assert (np.stack([gates["a"], gates["b"]]) == probabilities).all()
    for expected in ((), ["3", "rice"]):
        with pytest.raises(GatemaskError, match=r"does not hold gate probabilities[\s\S]*image_id, rice, 3"):
            store.read_gates([path], expected)
    path.write_text("image_id,rice,3\na,0.5,1.5\n")
    with pytest.raises(GatemaskError, match=r"outside \[0, 1\][\s\S]*1\.5"):
        store.read_gates([path], classes)
    one_for_all = store.write_gates(tmp_path / "all.csv", ["a"], np.array([0.5]))
    assert store.read_gates([one_for_all], classes)["a"].tolist() == [0.5]


SIZES = [(3, 5), (40, 7), (1, 1), (8, 8)]


def test_maps_of_different_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CHUNK_BYTES", 64)  # several strips, the last one incomplete
    rng, ids = np.random.default_rng(2), ["a", "b", "c", "d"]
    maps = [rng.integers(0, 256, (*size, 2)).astype(np.uint8) for size in SIZES]
    path = store.write_maps(tmp_path / "oof.h5", ids, (one[None] for one in maps), None)
    reader = store.MapReader([path])
    assert (reader.ids, reader.classes) == (set(ids), 2)
    for image_id, one in zip(ids, maps, strict=True):
        assert np.array_equal(reader[image_id], one)
    with pytest.raises(GatemaskError, match="missing"):
        store.write_maps(path, [*ids, "e"], (one[None] for one in maps), None)
    assert np.array_equal(reader["b"], maps[1]), "the file that was there is kept"
    reader.close()


def test_views_of_maps_of_different_sizes(tmp_path: Path) -> None:
    rng, ids = np.random.default_rng(3), ["a", "b", "c", "d"]
    pairs = [tuple(rng.integers(0, 256, (1, *size, c)).astype(np.uint8) for c in (2, 6)) for size in SIZES]
    files = store.write_maps_per_view(tmp_path / "oof.h5", ids, iter(pairs), None, 3)
    averaged, last = store.MapReader(files[:1]), store.MapReader(files[1:], view=2, views=3)
    assert averaged.classes == last.classes == 2
    for image_id, (one, views) in zip(ids, pairs, strict=True):
        assert np.array_equal(averaged[image_id], one[0])
        assert np.array_equal(last[image_id], views[0, :, :, 4:])
