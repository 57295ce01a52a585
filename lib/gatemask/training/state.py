"""What a training needs to go on after it was killed: one HDF5 file an epoch, the last two kept.

    state/epoch-0003.h5   variables (weights, random seeds), optimizer (moments, step), and progress as JSON

A file is written whole or not at all; the older one stays until the newer one stands, so that there is always
at least one to go on from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from gatemask.files import write_with


def snapshot(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """Copies of all variables of a compiled model, seeds and optimizer included."""
    return {name: [np.array(v) for v in variables] for name, variables in _variables(model).items()}


def restore(model: keras.Model, saved: dict[str, list[np.ndarray]]) -> None:
    """Put a snapshot back, into this model or another of the same build."""
    for name, variables in _variables(model).items():
        for variable, value in zip(variables, saved[name], strict=True):
            variable.assign(value)


def save(folder: Path, model: keras.Model, epoch: int, progress: dict[str, Any]) -> None:
    """Keep the state after `epoch` (from 0)."""

    def write(tmp: Path) -> None:
        with h5py.File(tmp, "w") as file:
            file.attrs["progress"] = json.dumps(progress)
            for name, values in snapshot(model).items():
                group = file.create_group(name)
                for index, value in enumerate(values):
                    group.create_dataset(f"{index:05d}", data=value)

    write_with(folder / f"epoch-{epoch:04d}.h5", write)
    for old in sorted(folder.glob("epoch-*.h5"))[:-2]:
        old.unlink()


def load(folder: Path, model: keras.Model) -> tuple[int, dict[str, Any]] | None:
    """Put the newest state that can be read into the model: (next epoch, progress), or None for a new start."""
    for path in sorted(folder.glob("epoch-*.h5"), reverse=True):
        try:
            with h5py.File(path, "r") as file:
                saved = {name: [file[name][k][()] for k in sorted(file[name])] for name in _variables(model)}
                progress = json.loads(file.attrs["progress"])
            restore(model, saved)
        except (OSError, KeyError, ValueError):
            continue  # a damaged file: the older one is there for this
        return int(path.stem.removeprefix("epoch-")) + 1, progress
    return None


def _variables(model: keras.Model) -> dict[str, list[Any]]:
    # `variables` holds the seeds of dropout besides the weights, but also metrics, which start anew anyway.
    metrics = {id(v) for v in model.metrics_variables}
    return {
        "variables": [v for v in model.variables if id(v) not in metrics],
        "optimizer": list(model.optimizer.variables),
    }
