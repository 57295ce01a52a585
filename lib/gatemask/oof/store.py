"""One fold's out-of-fold predictions on disk: maps as uint8 in HDF5, gate probabilities in CSV."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

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
        with h5py.File(tmp, "w") as file:
            file.create_dataset("ids", data=list(ids), dtype=h5py.string_dtype())
            store = file.create_dataset(
                "maps", (len(ids), *shape), np.uint8, chunks=(1, *shape), compression="gzip", compression_opts=1
            )
            at = 0
            for batch in maps:
                store[at : at + len(batch)] = batch
                at += len(batch)
            if at != len(ids):
                raise GatemaskError("Predictions are missing.", where=path, received=f"{at} maps", expected=len(ids))

    return write_with(path, write)


class MapReader:
    """Maps of several folds of one experiment, by id; may be read by several threads at once.

    Args:
        paths: the folds' oof.h5 files; an id in two of them is refused.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._files = list(paths), [_open(path) for path in paths]
        self._at: dict[str, tuple[int, int]] = {}
        for number, (path, file) in enumerate(zip(paths, self._files, strict=True)):
            for index, name in enumerate(file["ids"].asstr()[:]):
                if name in self._at:
                    raise GatemaskError("An image has two out-of-fold maps.", where=path, received=name)
                self._at[str(name)] = (number, index)

    @property
    def ids(self) -> set[str]:
        return set(self._at)

    @property
    def classes(self) -> int:
        return int(self._files[0]["maps"].shape[3])

    def __getitem__(self, image_id: str) -> np.ndarray:
        """uint8 (height, width, classes)."""
        number, index = self._at[image_id]
        maps = self._files[number]["maps"]
        try:
            # The chunk as it lies on disk, and zlib outside of h5py's lock: threads would wait for each other else.
            _, packed = maps.id.read_direct_chunk((index, 0, 0, 0))
            return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(maps.shape[1:])
        except (OSError, ValueError, zlib.error) as error:
            raise _damaged(self._paths[number], f"image {image_id}: {error}") from None

    def close(self) -> None:
        for file in self._files:
            file.close()


def _open(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
        if file["maps"].shape[0] != file["ids"].shape[0]:
            raise KeyError(f"{file['ids'].shape[0]} ids, {file['maps'].shape[0]} maps")
        return file
    except (OSError, KeyError) as error:
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
        frame = pd.read_csv(path, dtype={"image_id": str})
        if list(frame.columns) != ["image_id", "probability"]:
            raise GatemaskError(
                "These are no gate probabilities.",
                where=path,
                received=", ".join(map(str, frame.columns)),
                expected="image_id, probability",
                do=f"Delete {path.parent} and train the fold again.",
            )
        for line, (name, value) in enumerate(zip(frame["image_id"], frame["probability"], strict=True), start=2):
            if name in gates:
                raise GatemaskError(
                    "An image has two out-of-fold gate probabilities.", where=f"{path}, line {line}", received=name
                )
            if not 0 <= value <= 1:
                raise GatemaskError(
                    "A gate probability is not one.",
                    where=f"{path}, line {line}, image {name}",
                    received=value,
                    expected="0 to 1",
                    do="Look at the fold's metrics.jsonl: a training that went wrong predicts NaN. Train it again.",
                )
            gates[name] = float(value)
    return gates
