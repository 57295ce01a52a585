"""What a training needs to go on after it was killed: HDF5 files, the last two kept, and the best epochs' weights.

    state/at-0003-00000.h5   variables (weights, random seeds), optimizer (moments, averages, step), progress as JSON:
                             all that has to be known to go on with epoch 3 (from 0), step 0
    state/best-0002.h5       the weights as they were validated after epoch 2

A file is written whole or not at all; the older one stays until the newer one stands, so that there is always
at least one to go on from. Plain arrays in Keras's own order: Keras's weight files take four times as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gatemask.files import write_with

Arrays = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Args:
        epoch: the epoch to go on with, from 0.
        step: of that epoch.
        loss: sum of the loss over the steps of that epoch so far.
        seconds: spent on that epoch so far.
        scores: of `monitor`, one for each epoch that is done.
        best: (score, epoch) of the epochs whose weights are kept, best first.
        batch: images a step over all devices; another number would not be the same training.
    """

    batch: int
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    scores: tuple[float, ...] = ()
    best: tuple[tuple[float, int], ...] = field(default=())


def snapshot(model: Any) -> Arrays:
    """Copies of all variables of a compiled model, seeds and optimizer included."""
    return {name: [np.array(v) for v in group] for name, group in _variables(model).items()}


def restore(model: Any, saved: Arrays) -> None:
    """Put back those groups of variables that `saved` holds, into this model or another of the same build."""
    into = _variables(model)
    for name, values in saved.items():
        assign(into[name], values)


def assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@contextmanager
def averaged(model: Any) -> Iterator[None]:
    """The model with the moving averages of its weights in their place, where its optimizer keeps some."""
    from gatemask.builders.optimizers import averaged_weights

    found = averaged_weights(model.optimizer)
    if not found:
        yield
        return
    weights = model.trainable_variables
    kept = [np.array(v) for v in weights]
    assign(weights, [np.array(v) for v in found])
    try:
        yield
    finally:
        assign(weights, kept)


def save(folder: Path, model: Any, progress: Progress) -> None:
    """Keep the state; the two newest stay, and the best epochs that either of them knows."""
    _write(folder / f"at-{progress.epoch:04d}-{progress.step:05d}.h5", snapshot(model), asdict(progress))
    states = sorted(folder.glob("at-*.h5"))
    for old in states[:-2]:
        old.unlink()
    wanted = {epoch for state in states[-2:] for _, epoch in _progress(state)["best"]}
    for best in folder.glob("best-*.h5"):
        if _number(best) not in wanted:
            best.unlink()


def save_best(folder: Path, weights: Sequence[Any], epoch: int) -> None:
    """Before the state that calls it one of the best: killed in between, the older state still finds its own."""
    _write(folder / f"best-{epoch:04d}.h5", {"weights": [np.array(v) for v in weights]}, {})


def load(folder: Path) -> tuple[Arrays, Progress] | None:
    """The newest state that can be read, or None for a new start."""
    for path in sorted(folder.glob("at-*.h5"), reverse=True):
        try:
            arrays, progress = _read(path)
            scores, best = tuple(progress.pop("scores")), tuple((s, e) for s, e in progress.pop("best"))
            found = Progress(**progress, scores=scores, best=best)
        except (OSError, KeyError, ValueError, TypeError):
            continue  # a damaged file: the older one is there for this
        for newer in (p for p in folder.glob("best-*.h5") if _number(p) >= found.epoch):
            newer.unlink()  # of an epoch that is run again, and may not be among the best this time
        return arrays, found
    return None


def best_weights(folder: Path, epochs: Sequence[int]) -> list[np.ndarray]:
    """The mean over those epochs, each array in its own dtype; summed in float64, so that the order does not matter."""
    total: list[np.ndarray] = []
    for epoch in epochs:
        arrays = _read(folder / f"best-{epoch:04d}.h5")[0]["weights"]
        wide = [array.astype(np.float64) for array in arrays]
        total = [a + b for a, b in zip(total, wide, strict=True)] if total else wide
        kinds = [array.dtype for array in arrays]
    return [(array / len(epochs)).astype(kind) for array, kind in zip(total, kinds, strict=True)]


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


def _progress(path: Path) -> dict[str, Any]:
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file.attrs["progress"])
    except (OSError, KeyError, ValueError):
        return {"best": []}


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("best-"))


def variables(model: Any) -> list[Any]:
    """Weights and the seeds of dropout, without metrics, which start anew anyway."""
    metrics = {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in metrics]


def _variables(model: Any) -> dict[str, list[Any]]:
    return {"variables": variables(model), "optimizer": list(model.optimizer.variables)}
