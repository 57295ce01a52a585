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


def write_maps(path: Path, ids: Sequence[str], maps: Iterable[np.ndarray], shape: tuple[int, int, int]) -> Path:
    """Stream maps to a file, one chunk per image.

    Args:
        path: oof.h5, with datasets `ids` (text) and `maps` (uint8, images x height x width x classes).
        ids: Image ids, in order.
        maps: Batches of maps, uint8 (n, height, width, classes), together as many as `ids`.
        shape: Height, width, classes.

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
        with _created(temporary, ids, shape) as (store, disk):
            written = 0
            for batch in maps:
                store[written : written + len(batch)] = batch
                written += len(batch)
                disk.check()
            if written != len(ids):
                received = f"{written} maps"
                raise GatemaskError("Predictions are missing.", where=path, received=received, expected=len(ids))

    return write_with(path, write)


def write_maps_per_view(
    path: Path,
    ids: Sequence[str],
    maps: Iterable[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int, int],
    views: int,
) -> list[Path]:
    """Stream averaged maps to a file, and those of each TTA view to `<stem>-views.h5` next to it.

    Args:
        path: oof.h5.
        ids: Image ids, in order.
        maps: Batches of averaged maps, uint8 (n, height, width, classes), each with the maps of all views, uint8
            (n, height, width, views * classes), the classes of one view after those of another.
        shape: Height, width, classes.
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
        with _created(temporary, ids, (*shape[:2], views * shape[2])) as (store, disk):

            def averaged_maps() -> Iterator[np.ndarray]:
                written = 0
                for averaged, per_view in maps:
                    store[written : written + len(per_view)] = per_view
                    written += len(per_view)
                    disk.check()
                    yield averaged

            write_maps(path, ids, averaged_maps(), shape)

    return [path, write_with(views_path, write)]


@contextmanager
def _created(path: Path, ids: Sequence[str], shape: tuple[int, int, int]) -> Iterator[tuple[h5py.Dataset, SafeFile]]:
    with create_hashed(path) as (file, disk):
        file.create_dataset("ids", data=list(ids), dtype=h5py.string_dtype())
        store = file.create_dataset(
            "maps", (len(ids), *shape), np.uint8, chunks=(1, *shape), compression="gzip", compression_opts=1
        )
        yield store, disk


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
        """Number of classes."""
        return self._files[0].shape[2] // self._views

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the map of an image, uint8 (height, width, classes)."""
        number, index = self._places[image_id]
        file = self._files[number]
        try:
            # Read the chunk as it is on disk: HDF5 admits one thread at a time, decompression included.
            packed = os.pread(file.descriptor, int(file.sizes[index]), int(file.offsets[index]))
            maps = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(file.shape)
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
        offsets: Place of each map's chunk, in bytes, int64 (images,).
        sizes: Size of each map's chunk, in bytes, int64 (images,).
        shape: Height, width, classes.
    """

    path: Path
    descriptor: int
    offsets: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, int, int]


def _open(path: Path) -> tuple[list[str], _MapFile]:
    try:
        _verify(path, path.stat().st_mtime_ns, path.stat().st_size)
        require_self_contained(path)
        with h5py.File(path, "r") as file:
            ids, maps = [str(image_id) for image_id in file["ids"].asstr()[:]], file["maps"]
            if maps.shape[0] != len(ids) or maps.chunks != (1, *maps.shape[1:]) or maps.compression != "gzip":
                raise KeyError(f"{len(ids)} ids, maps {maps.shape} in chunks {maps.chunks}, {maps.compression}")
            offsets, sizes = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)

            def note(chunk: Any) -> None:
                offsets[chunk.chunk_offset[0]], sizes[chunk.chunk_offset[0]] = chunk.byte_offset, chunk.size

            maps.id.chunk_iter(note)
            return ids, _MapFile(path, os.open(path, os.O_RDONLY), offsets, sizes, maps.shape[1:])
    except (DamagedFileError, OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        if (fault := storage_error(error, path)) is not None:
            raise fault from None
        raise _damaged(path, str(error)) from None


@lru_cache(maxsize=1024)
def _verify(path: Path, changed: int, size: int) -> None:
    """Compare a file with its hash, once per process and version. HDF5 may hang on a damaged file."""
    verify_hash(path)


def _damaged(path: Path, received: str) -> GatemaskError:
    return GatemaskError("Out-of-fold maps cannot be read.", where=path, received=received, do=AGAIN)


def write_gates(path: Path, ids: Sequence[str], probabilities: np.ndarray) -> Path:
    """Write gate probabilities as CSV: image_id, probability.

    Args:
        path: oof.csv.
        ids: Image ids, in order.
        probabilities: float (images,), 0 to 1.

    Returns:
        The path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_gates(Path(folder) / "oof.csv", ["a"], np.array([0.25])).read_text()
    'image_id,probability\\na,0.25\\n'
    """
    frame = pd.DataFrame({"image_id": list(ids), "probability": np.round(probabilities.astype(float), 6)})
    return write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_gates(paths: Sequence[Path]) -> dict[str, float]:
    """Return the gate probabilities of several folds by image id.

    Args:
        paths: oof.csv of each fold.

    Raises:
        GatemaskError: A file is damaged, a probability is outside [0, 1], or an image is in two files.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_gates([write_gates(Path(folder) / "oof.csv", ["a", "b"], np.array([0.25, 1.0]))])
    {'a': 0.25, 'b': 1.0}
    """
    gates: dict[str, float] = {}
    for path in paths:
        table = _read_gates(path)
        for row, (image_id, text) in enumerate(table.rows):
            value = _number(text)
            if image_id in gates:
                raise GatemaskError(
                    "An image has two out-of-fold gate probabilities.", where=table.where(row), received=image_id
                )
            if not 0 <= value <= 1:
                raise GatemaskError(
                    "Gate probability outside [0, 1].",
                    where=f"{table.where(row)}, image {image_id}",
                    received=text or "nothing",
                    expected="0 to 1",
                    do="Check the fold's metrics.jsonl: a diverged training predicts NaN. Train it again.",
                )
            gates[image_id] = value
    return gates


def _number(text: str) -> float:
    """Return a number as it is written by NumPy and others; NaN for anything else."""
    return float(text) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text, re.ASCII) else math.nan


def _read_gates(path: Path) -> Table:
    """Read image_id and probability as text."""
    columns, where = ["image_id", "probability"], str(path)
    try:
        with storage_errors(path):
            table = read_table(path)
        received = None if table.header == columns else ", ".join(table.header)
    except StorageError:
        raise
    except GatemaskError as error:
        received, where = error.short(), str(error.details["where"] or path)
    if received is not None:
        raise GatemaskError(
            "The file does not hold gate probabilities.",
            where=where,
            received=received,
            expected=", ".join(columns),
            do=AGAIN,
        )
    return table
