"""Read and write out-of-fold predictions: maps as uint8 in HDF5, gate probabilities in CSV."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError, StorageError
from gatemask.files import write_text, write_with
from gatemask.hdf5 import DamagedFileError, SafeFile, create_hashed, require_self_contained, verify_hash
from gatemask.storage import storage_error, storage_errors

AGAIN = "Restore the file, or run gatemask train again: it predicts the fold again and trains nothing."
PROBABILITY = "probability"  # column of one gate for all classes
CHUNK_BYTES = 1 << 22  # of a large map: a strip of rows is read or written at a time

Shape = tuple[int, int, int]  # height, width, classes


def write_maps(path: Path, ids: Sequence[str], maps: Iterable[np.ndarray], shape: Shape | None) -> Path:
    """Stream maps to a file.

    Args:
        path: oof.h5, with datasets `ids` (text) and `maps` (uint8, images x height x width x classes; one chunk per
            image), or where sizes differ a group `maps` of one dataset per image, (height, width, classes).
        ids: Image ids, in order.
        maps: Batches of maps, uint8 (n, height, width, classes), together as many as `ids`.
        shape: Height, width, classes; None if maps differ in size.

    Returns:
        The path.

    Raises:
        GatemaskError: There are fewer maps than ids.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_maps(Path(folder) / "oof.h5", ["a"], [np.full((1, 2, 2, 1), 7, np.uint8)], (2, 2, 1))
    ...     MapReader([path])["a"].max().item()
    7
    """

    def write(temporary: Path) -> None:
        with _created(temporary, ids, shape) as store:
            for batch in maps:
                store.append(batch)
            if store.written != len(ids):
                received = f"{store.written} maps"
                raise GatemaskError("Predictions are missing.", where=path, received=received, expected=len(ids))

    return write_with(path, write)


def write_maps_per_view(
    path: Path, ids: Sequence[str], maps: Iterable[tuple[np.ndarray, np.ndarray]], shape: Shape | None, views: int
) -> list[Path]:
    """Stream averaged maps to a file, and those of each TTA view to `<stem>-views.h5` next to it.

    Args:
        path: oof.h5.
        ids: Image ids, in order.
        maps: Batches of averaged maps, uint8 (n, height, width, classes), each with the maps of all views, uint8
            (n, height, width, views * classes), the classes of one view after those of another.
        shape: Height, width, classes; None if maps differ in size.
        views: Number of views.

    Returns:
        Both paths.

    >>> import tempfile
    >>> averaged, per_view = np.full((1, 2, 2, 1), 5, np.uint8), np.full((1, 2, 2, 2), [4, 6], np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = write_maps_per_view(Path(folder) / "oof.h5", ["a"], [(averaged, per_view)], (2, 2, 1), 2)
    ...     paths[1].name, MapReader(paths[1:], view=1, views=2)["a"].max().item()
    ('oof-views.h5', 6)
    """
    views_path = path.with_name(f"{path.stem}-views.h5")

    def write(temporary: Path) -> None:
        with _created(temporary, ids, None if shape is None else (*shape[:2], views * shape[2])) as store:

            def averaged_maps() -> Iterator[np.ndarray]:
                for averaged, per_view in maps:
                    store.append(per_view)
                    yield averaged

            write_maps(path, ids, averaged_maps(), shape)

    return [path, write_with(views_path, write)]


class _Store:
    """The maps of a file that is being written.

    Args:
        file: Open HDF5 file.
        disk: The file on disk.
        count: Number of maps to come.
        shape: Height, width, classes; None if maps differ in size.
    """

    def __init__(self, file: h5py.File, disk: SafeFile, count: int, shape: Shape | None) -> None:
        self.written, self._disk = 0, disk
        self._group = file.create_group("maps") if shape is None else None
        self._maps = None if shape is None else _dataset(file, "maps", (count, *shape), (1, *shape))

    def append(self, batch: np.ndarray) -> None:
        """Write a batch of maps, uint8 (n, height, width, classes).

        Raises:
            OSError: The disk is full or fails.
        """
        if self._maps is not None:
            self._maps[self.written : self.written + len(batch)] = batch
            self._disk.check()
        for index, one in enumerate(batch if self._group is not None else ()):
            chunk = (_rows_per_chunk(one.shape), *one.shape[1:])
            dataset = _dataset(self._group, _name(self.written + index), one.shape, chunk)
            for start in range(0, len(one), chunk[0]):
                dataset[start : start + chunk[0]] = one[start : start + chunk[0]]
                self._disk.check()
        self.written += len(batch)


def _dataset(parent: h5py.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> h5py.Dataset:
    return parent.create_dataset(name, shape, np.uint8, chunks=chunks, compression="gzip", compression_opts=1)


def _rows_per_chunk(shape: tuple[int, ...]) -> int:
    return max(1, min(shape[0], CHUNK_BYTES // max(1, shape[1] * shape[2])))


def _name(index: int) -> str:
    return f"{index:06d}"


@contextmanager
def _created(path: Path, ids: Sequence[str], shape: Shape | None) -> Iterator[_Store]:
    with create_hashed(path) as (file, disk):
        file.create_dataset("ids", data=list(ids), dtype=h5py.string_dtype())
        yield _Store(file, disk, len(ids), shape)


class MapReader:
    """Maps of several folds of one experiment, by image id; safe to read from several threads.

    Args:
        paths: oof.h5 of each fold.
        view: Index of the view to read, in files that hold several. Default: 0.
        views: Number of views in the files. Default: 1.

    Raises:
        GatemaskError: A file is damaged, or an image is in two files.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_maps(Path(folder) / "oof.h5", ["a"], [np.zeros((1, 2, 2, 3), np.uint8)], (2, 2, 3))
    ...     reader = MapReader([path])
    ...     reader.ids, reader.classes, reader["a"].shape
    ({'a'}, 3, (2, 2, 3))
    """

    def __init__(self, paths: Sequence[Path], view: int = 0, views: int = 1) -> None:
        self._view, self._views = view, views
        self._files: list[_MapFile] = []
        self._places: dict[str, tuple[int, int]] = {}
        try:
            for number, path in enumerate(paths):
                ids, file = _open(path)
                self._files.append(file)
                for index, image_id in enumerate(ids):
                    if image_id in self._places:
                        raise GatemaskError("An image has two out-of-fold maps.", where=path, received=image_id)
                    self._places[image_id] = (number, index)
        except BaseException:
            self.close()
            raise

    @property
    def ids(self) -> set[str]:
        """Ids of all images."""
        return set(self._places)

    @property
    def classes(self) -> int:
        """Number of maps per image: one per class, and one of borders where networks predict them."""
        return int(self._files[0].shapes[0, 2]) // self._views

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the map of an image, uint8 (height, width, classes)."""
        number, index = self._places[image_id]
        file = self._files[number]
        try:
            maps = file.read(index)
            return maps[:, :, self._view * self.classes : (self._view + 1) * self.classes]
        except (OSError, ValueError, zlib.error) as error:
            if (fault := storage_error(error, file.path)) is not None:
                raise fault from None
            raise _damaged(file.path, f"image {image_id}: {error}") from None

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop().descriptor)


@dataclass(frozen=True)
class _MapFile:
    """An open oof.h5.

    Args:
        path: Its path.
        descriptor: File descriptor.
        offsets: Place of each chunk, in bytes, int64 (chunks,).
        sizes: Size of each chunk, in bytes, int64 (chunks,).
        first: First chunk of each map, and the number of chunks, int64 (images + 1,).
        rows: Rows per chunk of each map, int64 (images,).
        shapes: Height, width, classes of each map, int64 (images, 3).
    """

    path: Path
    descriptor: int
    offsets: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    shapes: np.ndarray

    def read(self, index: int) -> np.ndarray:
        """Return a map with all its views, uint8 (height, width, views * classes)."""
        (height, width, outputs), rows = self.shapes[index].tolist(), int(self.rows[index])
        strips = [
            self._chunk(chunk).reshape(rows, width, outputs) for chunk in range(*self.first[index : index + 2].tolist())
        ]
        return strips[0] if rows == height else np.concatenate(strips)[:height]

    def _chunk(self, chunk: int) -> np.ndarray:
        # Read the chunk as it is on disk: HDF5 admits one thread at a time, decompression included.
        packed = os.pread(self.descriptor, int(self.sizes[chunk]), int(self.offsets[chunk]))
        return np.frombuffer(zlib.decompress(packed), np.uint8)


def _open(path: Path) -> tuple[list[str], _MapFile]:
    try:
        _verify(path, path.stat().st_mtime_ns, path.stat().st_size)
        require_self_contained(path)
        with h5py.File(path, "r") as file:
            ids, maps = [str(image_id) for image_id in file["ids"].asstr()[:]], file["maps"]
            places = _places_of_group(maps, len(ids)) if isinstance(maps, h5py.Group) else _places(maps, len(ids))
            return ids, _MapFile(path, os.open(path, os.O_RDONLY), *places)
    except (DamagedFileError, OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        if (fault := storage_error(error, path)) is not None:
            raise fault from None
        raise _damaged(path, str(error)) from None


def _places(maps: h5py.Dataset, count: int) -> tuple[np.ndarray, ...]:
    """Return the last five fields of `_MapFile`: maps of one size, in one chunk each."""
    if maps.shape[0] != count or maps.chunks != (1, *maps.shape[1:]) or maps.compression != "gzip":
        raise KeyError(f"{count} ids, maps {maps.shape} in chunks {maps.chunks}, {maps.compression}")
    offsets, sizes = _chunks(maps, count)
    rows, shapes = np.full(count, maps.shape[1]), np.tile(maps.shape[1:], (count, 1))
    return offsets, sizes, np.arange(count + 1), rows, shapes


def _places_of_group(maps: h5py.Group, count: int) -> tuple[np.ndarray, ...]:
    """Return the last five fields of `_MapFile`: a dataset for each map, in strips."""
    if len(maps) != count:
        raise KeyError(f"{count} ids, {len(maps)} maps")
    datasets = [maps[_name(index)] for index in range(count)]
    for data in datasets:
        if data.chunks is None or data.chunks[1:] != data.shape[1:] or data.compression != "gzip":
            raise KeyError(f"a map {data.shape} in chunks {data.chunks}, {data.compression}")
    counts = [-(-data.shape[0] // data.chunks[0]) for data in datasets]
    places = [_chunks(data, number) for data, number in zip(datasets, counts, strict=True)]
    offsets, sizes = (np.concatenate([place[field] for place in places]) for field in (0, 1))
    rows, shapes = np.array([data.chunks[0] for data in datasets]), np.array([data.shape for data in datasets])
    return offsets, sizes, np.cumsum([0, *counts]), rows, shapes


def _chunks(dataset: h5py.Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return place and size, in bytes, of each of a dataset's chunks along its first axis."""
    offsets, sizes, rows = np.zeros(count, np.int64), np.zeros(count, np.int64), dataset.chunks[0]

    def note(chunk: Any) -> None:
        index = chunk.chunk_offset[0] // rows
        offsets[index], sizes[index] = chunk.byte_offset, chunk.size

    dataset.id.chunk_iter(note)
    return offsets, sizes


@lru_cache(maxsize=1024)
def _verify(path: Path, changed: int, size: int) -> None:
    """Compare a file with its hash, once per process and version. HDF5 may hang on a damaged file."""
    verify_hash(path)


def _damaged(path: Path, received: str) -> GatemaskError:
    return GatemaskError("Out-of-fold maps cannot be read.", where=path, received=received, do=AGAIN)


def write_gates(path: Path, ids: Sequence[str], probabilities: np.ndarray, classes: Sequence[str] = ()) -> Path:
    """Write gate probabilities as CSV: image_id and probability, or image_id and a column for each class.

    Args:
        path: oof.csv.
        ids: Image ids, in order.
        probabilities: float (images,), or (images, classes) of a gate per class; 0 to 1.
        classes: Names of the classes of a gate per class. Default: one gate for all.

    Returns:
        The path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_gates(Path(folder) / "oof.csv", ["a"], np.array([0.25])).read_text()
    'image_id,probability\\na,0.25\\n'
    """
    rounded = np.round(probabilities.astype(float), 6).reshape(len(ids), -1)
    frame = pd.DataFrame(rounded, columns=list(classes) or [PROBABILITY])
    frame.insert(0, "image_id", list(ids), allow_duplicates=True)
    return write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_gates(paths: Sequence[Path], classes: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return the gate probabilities of several folds by image id.

    Args:
        paths: oof.csv of each fold.
        classes: Names of the competition's classes. Default: only gates for all classes are accepted.

    Returns:
        Probabilities, float64: (1,) of one gate for all classes, (classes,) of a gate per class.

    Raises:
        GatemaskError: A file is damaged or of other classes, a probability is outside [0, 1], or an image is in two
            files.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gates = read_gates([write_gates(Path(folder) / "oof.csv", ["a", "b"], np.array([0.25, 1.0]))])
    >>> {image_id: values.tolist() for image_id, values in gates.items()}
    {'a': [0.25], 'b': [1.0]}
    """
    gates: dict[str, np.ndarray] = {}
    for path in paths:
        table = _read_gates(path, classes)
        for row, (image_id, *texts) in enumerate(table.rows):
            values = [_number(text) for text in texts]
            if image_id in gates:
                raise GatemaskError(
                    "An image has two out-of-fold gate probabilities.", where=table.where(row), received=image_id
                )
            if wrong := [text for text, value in zip(texts, values, strict=True) if not 0 <= value <= 1]:
                raise GatemaskError(
                    "Gate probability outside [0, 1].",
                    where=f"{table.where(row)}, image {image_id}",
                    received=wrong[0] or "nothing",
                    expected="0 to 1",
                    do="Check the fold's metrics.jsonl: a diverged training predicts NaN. Train it again.",
                )
            gates[image_id] = np.array(values)
    return gates


def _number(text: str) -> float:
    """Return a number as it is written by NumPy and others; NaN for anything else."""
    return float(text) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text, re.ASCII) else math.nan


def _read_gates(path: Path, classes: Sequence[str]) -> Table:
    """Read image_id and probabilities as text."""
    where = str(path)
    columns = [["image_id", PROBABILITY], *([["image_id", *classes]] if classes else [])]
    try:
        with storage_errors(path):
            table = read_table(path)
        received = None if table.header in columns else ", ".join(table.header)
    except StorageError:
        raise
    except GatemaskError as error:
        received, where = error.short(), str(error.details["where"] or path)
    if received is not None:
        raise GatemaskError(
            "The file does not hold gate probabilities.",
            where=where,
            received=received,
            expected=", or ".join(", ".join(names) for names in columns),
            do=AGAIN,
        )
    return table
