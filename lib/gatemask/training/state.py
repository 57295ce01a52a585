"""Save and restore the state of a training in HDF5 files: the two newest states, and the weights of the best epochs.

    state/at-0003-00000.h5   variables (weights, random seeds), optimizer (moments, averages, step), and progress as
                             JSON: everything needed to continue with epoch 3 (counted from 0), step 0
    state/best-0002.h5       the weights that were validated after epoch 2

Each file is written atomically, and an older state is deleted only after a newer one is complete, so there is always
one to resume from. Arrays are stored plainly, in Keras's own order: Keras's weight files take four times as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from gatemask.files import write_with

if TYPE_CHECKING:
    import keras

Arrays = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Args:
        batch: Images per step over all devices. A training cannot be resumed with another number.
        epoch: Epoch to continue with, counted from 0.
        step: Step of that epoch to continue with, counted from 0.
        loss: Sum of the loss over the finished steps of that epoch.
        seconds: Time spent on that epoch, in seconds.
        scores: Value of `monitor` after each finished epoch.
        best: (score, epoch) of the epochs whose weights are kept, best first.
    """

    batch: int
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    scores: tuple[float, ...] = ()
    best: tuple[tuple[float, int], ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Return the progress that `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: The text is damaged.
        """
        fields = json.loads(text)
        scores, best = tuple(fields.pop("scores")), tuple((score, epoch) for score, epoch in fields.pop("best"))
        return cls(**fields, scores=scores, best=best)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def snapshot(model: keras.Model) -> Arrays:
    """Return copies of all variables of a compiled model, dropout seeds and optimizer included."""
    return {name: [np.array(v) for v in group] for name, group in _variables_by_group(model).items()}


def restore(model: keras.Model, saved: Arrays) -> None:
    """Assign the saved groups of variables to this model, which may be another build of the same architecture."""
    groups = _variables_by_group(model)
    for name, values in saved.items():
        assign(groups[name], values)


def assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Assign a value to each variable."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Replace the weights by their moving averages inside the block, where the optimizer keeps averages."""
    from gatemask.builders.optimizers import averaged_weights

    moving_averages = averaged_weights(model.optimizer)
    if not moving_averages:
        yield
        return
    weights = model.trainable_variables
    originals = [np.array(weight) for weight in weights]
    assign(weights, [np.array(average) for average in moving_averages])
    try:
        yield
    finally:
        assign(weights, originals)


def save_state(folder: Path, model: keras.Model, progress: Progress) -> None:
    """Write the state; keep the two newest states and the weights that either of them lists as best."""
    _write(folder / f"at-{progress.epoch:04d}-{progress.step:05d}.h5", snapshot(model), progress.to_json())
    states = sorted(folder.glob("at-*.h5"))
    for old in states[:-2]:
        old.unlink()
    listed = {epoch for state in states[-2:] for epoch in _best_epochs(state)}
    for best in folder.glob("best-*.h5"):
        if _epoch_of_best(best) not in listed:
            best.unlink()


def save_best_weights(folder: Path, weights: Sequence[keras.Variable], epoch: int) -> None:
    """Write the weights of an epoch. Call it before `save_state`: a state never lists weights that do not exist."""
    _write(folder / f"best-{epoch:04d}.h5", {"weights": [np.array(weight) for weight in weights]}, "{}")


def load_state(folder: Path) -> tuple[Arrays, Progress] | None:
    """Return the newest readable state, or None if there is none."""
    for path in sorted(folder.glob("at-*.h5"), reverse=True):
        try:
            arrays, text = _read(path)
            progress = Progress.from_json(text)
        except (OSError, KeyError, ValueError, TypeError):
            continue  # damaged; this is what the older state is kept for
        for best in folder.glob("best-*.h5"):
            if _epoch_of_best(best) >= progress.epoch:
                best.unlink()  # that epoch is trained again, and may not be among the best this time
        return arrays, progress
    return None


def average_best_weights(folder: Path, epochs: Sequence[int]) -> list[np.ndarray]:
    """Return the mean of the weights of some epochs, each array in its own dtype.

    Sums are in float64, so the order of the epochs does not matter.
    """
    total: list[np.ndarray] = []
    for epoch in epochs:
        arrays = _read(folder / f"best-{epoch:04d}.h5")[0]["weights"]
        wide = [array.astype(np.float64) for array in arrays]
        total = [a + b for a, b in zip(total, wide, strict=True)] if total else wide
        dtypes = [array.dtype for array in arrays]
    return [(array / len(epochs)).astype(dtype) for array, dtype in zip(total, dtypes, strict=True)]


def variables(model: keras.Model) -> list[keras.Variable]:
    """Return weights and dropout seeds; metrics are left out, since each epoch resets them."""
    metrics = {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in metrics]


def _variables_by_group(model: keras.Model) -> dict[str, list[keras.Variable]]:
    return {"variables": variables(model), "optimizer": list(model.optimizer.variables)}


def _write(path: Path, arrays: Arrays, progress: str) -> None:
    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs["progress"] = progress
            for name, values in arrays.items():
                group = file.create_group(name)
                for index, value in enumerate(values):
                    group.create_dataset(f"{index:05d}", data=value)

    write_with(path, write)


def _read(path: Path) -> tuple[Arrays, str]:
    with h5py.File(path, "r") as file:
        arrays = {name: [group[key][()] for key in sorted(group)] for name, group in file.items()}
        return arrays, file.attrs["progress"]


def _best_epochs(state: Path) -> list[int]:
    try:
        with h5py.File(state, "r") as file:
            return [epoch for _, epoch in Progress.from_json(file.attrs["progress"]).best]
    except (OSError, KeyError, ValueError, TypeError):
        return []


def _epoch_of_best(path: Path) -> int:
    return int(path.stem.removeprefix("best-"))
