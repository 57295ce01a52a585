"""One fold's out-of-fold predictions on disk: maps as uint8 in HDF5, gate probabilities in CSV."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from gatemask.errors import GatemaskError
from gatemask.files import write_text, write_with


def write_maps(path: Path, ids: Sequence[str], maps: Iterable[np.ndarray], shape: tuple[int, int, int]) -> Path:
    """Stream maps to `path`, a chunk per image.

    Args:
        path: oof.h5 with datasets `ids` (text) and `maps` (uint8, images x height x width x classes).
        ids: the images in order.
        maps: batches (n, height, width, classes), uint8, together as many as `ids`.
        shape: height, width, classes.
    """

    def write(tmp: Path) -> None:
        with _created(tmp, ids, shape) as store:
            at = 0
            for batch in maps:
                store[at : at + len(batch)] = batch
                at += len(batch)
            if at != len(ids):
                raise GatemaskError("Predictions are missing.", where=path, received=f"{at} maps", expected=len(ids))

    return write_with(path, write)


def write_maps_apart(
    path: Path,
    ids: Sequence[str],
    maps: Iterable[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int, int],
    views: int,
) -> list[Path]:
    """Stream maps to `path`, and those of each view to `<stem>-views.h5` beside it, a view's classes after another's.

    Args:
        maps: batches of both: (n, height, width, classes) and (n, height, width, views * classes), uint8.
        shape: height, width, classes.
        views: how many.
    """
    beside = path.with_name(f"{path.stem}-views.h5")

    def write(tmp: Path) -> None:
        with _created(tmp, ids, (*shape[:2], views * shape[2])) as store:

            def averaged() -> Iterator[np.ndarray]:
                at = 0
                for batch, apart in maps:
                    store[at : at + len(apart)] = apart
                    at += len(apart)
                    yield batch

            write_maps(path, ids, averaged(), shape)

    return [path, write_with(beside, write)]


@contextmanager
def _created(path: Path, ids: Sequence[str], shape: tuple[int, int, int]) -> Iterator[h5py.Dataset]:
    with h5py.File(path, "w") as file:
        file.create_dataset("ids", data=list(ids), dtype=h5py.string_dtype())
        yield file.create_dataset(
            "maps", (len(ids), *shape), np.uint8, chunks=(1, *shape), compression="gzip", compression_opts=1
        )


class MapReader:
    """Maps of several folds of one experiment, by id; may be read by several threads at once.

    Args:
        paths: the folds' oof.h5 files; an id in two of them is refused.
        view: of `views`, for files in which several lie side by side.
        views: how many lie in them.
    """

    def __init__(self, paths: Sequence[Path], view: int = 0, views: int = 1) -> None:
        self._view, self._views = view, views
        self._files: list[_Packed] = []
        self._at: dict[str, tuple[int, int]] = {}
        try:
            for number, path in enumerate(paths):
                ids, packed = _open(path)
                self._files.append(packed)
                for index, name in enumerate(ids):
                    if name in self._at:
                        raise GatemaskError("An image has two out-of-fold maps.", where=path, received=name)
                    self._at[name] = (number, index)
        except BaseException:
            self.close()
            raise

    @property
    def ids(self) -> set[str]:
        return set(self._at)

    @property
    def classes(self) -> int:
        return self._files[0].shape[2] // self._views

    def __getitem__(self, image_id: str) -> np.ndarray:
        """uint8 (height, width, classes)."""
        number, index = self._at[image_id]
        file = self._files[number]
        try:
            # The chunk as it lies on disk: HDF5 lets one thread in at a time, unpacking included.
            packed = os.pread(file.number, int(file.sizes[index]), int(file.offsets[index]))
            full = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(file.shape)
            return full[:, :, self._view * self.classes : (self._view + 1) * self.classes]
        except (OSError, ValueError, zlib.error) as error:
            raise _damaged(file.path, f"image {image_id}: {error}") from None

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop().number)


@dataclass(frozen=True)
class _Packed:
    """An open oof.h5: file number, where each map's chunk lies in it, in bytes, and (height, width, classes)."""

    path: Path
    number: int
    offsets: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, int, int]


def _open(path: Path) -> tuple[list[str], _Packed]:
    try:
        with h5py.File(path, "r") as file:
            ids, maps = [str(name) for name in file["ids"].asstr()[:]], file["maps"]
            if maps.shape[0] != len(ids) or maps.chunks != (1, *maps.shape[1:]) or maps.compression != "gzip":
                raise KeyError(f"{len(ids)} ids, maps {maps.shape} in chunks {maps.chunks}, {maps.compression}")
            offsets, sizes = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)

            def note(chunk: Any) -> None:
                offsets[chunk.chunk_offset[0]], sizes[chunk.chunk_offset[0]] = chunk.byte_offset, chunk.size

            maps.id.chunk_iter(note)
            return ids, _Packed(path, os.open(path, os.O_RDONLY), offsets, sizes, maps.shape[1:])
    except (OSError, KeyError, RuntimeError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, received: str) -> GatemaskError:
    return GatemaskError(
        "Out-of-fold maps cannot be read.",
        where=path,
        received=received,
        do=f"Delete {path.parent} and train the fold again.",
    )


def write_gates(path: Path, ids: Sequence[str], probabilities: np.ndarray) -> Path:
    """oof.csv: image_id, probability."""
    frame = pd.DataFrame({"image_id": list(ids), "probability": np.round(probabilities.astype(float), 6)})
    return write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_gates(paths: Sequence[Path]) -> dict[str, float]:
    """Gate probabilities of several folds by id; an id in two of them is refused, and what is no probability."""
    gates: dict[str, float] = {}
    for path in paths:
        frame = _read_gates(path)
        values = pd.to_numeric(frame["probability"], errors="coerce")
        for line, (name, value) in enumerate(zip(frame["image_id"], values, strict=True), start=2):
            if name in gates:
                raise GatemaskError(
                    "An image has two out-of-fold gate probabilities.", where=f"{path}, line {line}", received=name
                )
            if not 0 <= value <= 1:
                raise GatemaskError(
                    "A gate probability is not one.",
                    where=f"{path}, line {line}, image {name}",
                    received=frame["probability"][line - 2] or "nothing",
                    expected="0 to 1",
                    do="Look at the fold's metrics.jsonl: a training that went wrong predicts NaN. Train it again.",
                )
            gates[name] = float(value)
    return gates


def _read_gates(path: Path) -> pd.DataFrame:
    """image_id and probability as texts."""
    columns = ["image_id", "probability"]
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        received = None if list(frame.columns) == columns else ", ".join(map(str, frame.columns))
    except (ValueError, OSError) as error:  # pandas' own are ValueErrors
        received = " ".join(str(error).split())
    if received is not None:
        raise GatemaskError(
            "These are no gate probabilities.",
            where=path,
            received=received,
            expected=", ".join(columns),
            do=f"Delete {path.parent} and train the fold again.",
        )
    return frame
