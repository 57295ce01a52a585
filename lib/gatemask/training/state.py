"""What a training needs to go on after it was killed: one HDF5 file an epoch, the last two kept, and the best.

    state/epoch-0003.h5   variables (weights, random seeds), optimizer (moments, step), and progress as JSON
    state/best-0002.h5    variables of the best epoch so far

A file is written whole or not at all; the older one stays until the newer one stands, so that there is always
at least one to go on from. Plain arrays in Keras's own order: Keras's weight files take four times as long.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from gatemask.files import write_with

Arrays = dict[str, list[np.ndarray]]


def snapshot(model: keras.Model) -> Arrays:
    """Copies of all variables of a compiled model, seeds and optimizer included."""
    return {name: [np.array(v) for v in variables] for name, variables in _variables(model).items()}


def restore(model: keras.Model, saved: Arrays) -> None:
    """Put back those groups of variables that `saved` holds, into this model or another of the same build."""
    variables = _variables(model)
    for name, values in saved.items():
        for variable, value in zip(variables[name], values, strict=True):
            variable.assign(value)


def save(folder: Path, model: keras.Model, epoch: int, progress: dict[str, Any]) -> None:
    """Keep the state after `epoch` (from 0); where `progress` calls it the best so far, its variables as such too."""
    saved = snapshot(model)
    if progress["best_epoch"] == epoch:
        # First, and under its own number: killed between the two, the older state still finds its own best.
        _write(folder / f"best-{epoch:04d}.h5", {"variables": saved["variables"]}, {})
    _write(folder / f"epoch-{epoch:04d}.h5", saved, progress)
    for kind in ("epoch", "best"):  # the two states that are kept have at most two bests between them
        for old in sorted(folder.glob(f"{kind}-*.h5"))[:-2]:
            old.unlink()


def load(folder: Path, model: keras.Model) -> tuple[int, dict[str, Any]] | None:
    """Put the newest state that can be read into the model: (next epoch, progress), or None for a new start."""
    for path in sorted(folder.glob("epoch-*.h5"), reverse=True):
        try:
            saved, progress = _read(path)
            restore(model, saved)
        except (OSError, KeyError, ValueError):
            continue  # a damaged file: the older one is there for this
        epoch = int(path.stem.removeprefix("epoch-"))
        for newer in (p for p in folder.glob("best-*.h5") if p.stem > f"best-{epoch:04d}"):
            newer.unlink()  # of an epoch that is run again, and may not be the best this time
        return epoch + 1, progress
    return None


def load_best(folder: Path, model: keras.Model, epoch: int) -> None:
    """Put the variables of the best epoch into the model."""
    restore(model, _read(folder / f"best-{epoch:04d}.h5")[0])


def _write(path: Path, arrays: Arrays, progress: dict[str, Any]) -> None:
    def write(tmp: Path) -> None:
        with h5py.File(tmp, "w") as file:
            file.attrs["progress"] = json.dumps(progress)
            for name, values in arrays.items():
                group = file.create_group(name)
                for index, value in enumerate(values):
                    group.create_dataset(f"{index:05d}", data=value)

    write_with(path, write)


def _read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    with h5py.File(path, "r") as file:
        arrays = {name: [group[key][()] for key in sorted(group)] for name, group in file.items()}
        return arrays, json.loads(file.attrs["progress"])


def _variables(model: keras.Model) -> dict[str, list[Any]]:
    # `variables` holds the seeds of dropout besides the weights, but also metrics, which start anew anyway.
    metrics = {id(v) for v in model.metrics_variables}
    return {
        "variables": [v for v in model.variables if id(v) not in metrics],
        "optimizer": list(model.optimizer.variables),
    }
