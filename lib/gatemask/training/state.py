"""Save and restore the state of a training in HDF5 files: the two newest states, and the weights of the best epochs.

    state/at-0003-00000.h5   variables (weights, random seeds), optimizer (moments, averages, step), and progress as
                             JSON: everything needed to continue with epoch 3 (counted from 0), step 0
    state/best-0002.h5       the weights that were validated after epoch 2, and the scores of that epoch
    state/unreadable-*.h5    files that turned out to be damaged

Each file is written atomically, and an older state is deleted only after a newer one is complete, so there is always
one to resume from. Each begins with a hash of its content (`create_hashed`). Arrays are stored plainly, in Keras's own
order: Keras's weight files take four times as long.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.hdf5 import DamagedFileError, create_hashed, verify_hash

if TYPE_CHECKING:
    import keras

Arrays = dict[str, list[np.ndarray]]


Row = Mapping[str, float]  # metrics of an epoch, as metrics.jsonl lists them


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Args:
        batch: Images per step over all devices. A training cannot be resumed with another number.
        epoch: Epoch to continue with, counted from 0.
        step: Step of that epoch to continue with, counted from 0.
        loss: Sum of the loss over the finished steps of that epoch.
        seconds: Time spent on that epoch, in seconds.
        waited: Part of that time in which the training step waited for input, in seconds.
        compiling: Part of that time until the first step of a model was done, in seconds.
        compiled: Number of such first steps in that epoch: one per session, if any.
        rows: Metrics of each finished epoch. metrics.jsonl is a copy for people, which is never read here.
        best: Epochs whose weights are kept, best first.
        run: Fingerprint of the run that the state belongs to.
    """

    batch: int
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    compiling: float = 0.0
    compiled: int = 0
    rows: tuple[Row, ...] = ()
    best: tuple[int, ...] = ()
    run: str = ""

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Return the progress that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "rows": tuple(fields["rows"]), "best": tuple(fields["best"])})

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def scores(self, monitor: str) -> tuple[float, ...]:
        """Return the value of a metric after each finished epoch."""
        return tuple(row[monitor] for row in self.rows)


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
    """Replace the weights by their averages inside the block, where the optimizer keeps averages."""
    from gatemask.builders.optimizers import averaged_weights

    averages = averaged_weights(model.optimizer)
    if not averages:
        yield
        return
    weights = model.trainable_variables
    originals = [np.array(weight) for weight in weights]
    assign(weights, averages)
    try:
        yield
    finally:
        assign(weights, originals)


def save_state(folder: Path, model: keras.Model, progress: Progress) -> None:
    """Write the state; keep it, the state before it, and the weights that either of them lists as best."""
    path = folder / f"at-{progress.epoch:04d}-{progress.step:05d}.h5"
    _write(path, snapshot(model), progress.to_json())
    # By name: a state that was just written is never deleted, whatever else lies in the folder.
    older = sorted(other for other in folder.glob("at-*.h5") if other.name < path.name)
    for old in older[:-1]:
        old.unlink()
    kept = [progress.best, *(_listed_as_best(state) for state in older[-1:])]
    if None in kept:  # the state before cannot be read: it may need any of them
        return
    listed = {epoch for best in kept if best is not None for epoch in best}
    for best in folder.glob("best-*.h5"):
        if _epoch_of_best(best) not in listed:
            best.unlink()


def save_best_weights(folder: Path, weights: Sequence[keras.Variable], epoch: int, row: Row) -> None:
    """Write the weights and metrics of an epoch. Call it before `save_state`: a state lists only existing weights."""
    _write(_best_path(folder, epoch), {"weights": [np.array(weight) for weight in weights]}, json.dumps(dict(row)))


def load_state(folder: Path, run: str = "") -> tuple[Arrays, Progress] | None:
    """Return the newest readable state, or None if there is none.

    Damaged states, and damaged weights of the best epochs, are reported and renamed to `unreadable-*`.

    Args:
        folder: Folder of the states.
        run: Fingerprint of the run that wants to continue. Default: that of any run.

    Raises:
        GatemaskError: The state belongs to another run.
    """
    for path in sorted(folder.glob("at-*.h5"), reverse=True):
        try:
            arrays, text = _read(path)
            progress = Progress.from_json(text)
        except (DamagedFileError, KeyError, ValueError, TypeError) as error:
            _set_aside(path, error)
            continue  # this is what the older state is kept for
        if run and progress.run != run:
            raise GatemaskError(
                "This state belongs to another run.",
                where=path,
                received=f"a state of run {progress.run or 'unknown'}",
                expected=f"a state of run {run}",
                do=f"Move {folder} back to the run it came from, or delete it to train this fold from the start.",
            )
        for best in folder.glob("best-*.h5"):
            if _epoch_of_best(best) >= progress.epoch:
                best.unlink()  # that epoch is trained again, and may not be among the best this time
        kept = read_best_rows(folder, progress.best)
        return arrays, replace(progress, best=tuple(epoch for epoch in progress.best if epoch in kept))
    return None


def read_best_rows(folder: Path, epochs: Sequence[int]) -> dict[int, Row]:
    """Return the metrics of those epochs whose weights can be read; report the others, and set damaged files aside."""
    rows: dict[int, Row] = {}
    for epoch in epochs:
        path = _best_path(folder, epoch)
        try:
            rows[epoch] = json.loads(_read_text(path))
        except FileNotFoundError:
            say(f"{path} is missing: epoch {epoch + 1} can no longer be chosen.")
        except (DamagedFileError, KeyError, ValueError) as error:
            _set_aside(path, error)
    return rows


def kept_epochs(folder: Path) -> list[int]:
    """Return the epochs whose weights are in a folder, ascending."""
    return sorted(_epoch_of_best(path) for path in folder.glob("best-*.h5"))


def copy_weights(folder: Path, into: Path, epochs: Sequence[int]) -> None:
    """Copy the weights of some epochs to another folder, which then holds no others."""
    for epoch in epochs:
        source = _best_path(folder, epoch)
        write_with(into / source.name, partial(shutil.copyfile, source))
    for path in into.glob("best-*.h5"):
        if _epoch_of_best(path) not in epochs:
            path.unlink()


def average_best_weights(folder: Path, epochs: Sequence[int]) -> list[np.ndarray]:
    """Return the mean of the weights of some epochs, each array in its own dtype.

    Sums are in float64, so the order of the epochs does not matter.

    Raises:
        GatemaskError: The weights of an epoch cannot be read.
    """
    total: list[np.ndarray] = []
    for epoch in epochs:
        path = _best_path(folder, epoch)
        try:
            arrays = _read(path)[0]["weights"]
        except (DamagedFileError, FileNotFoundError, KeyError) as error:
            do = "Run the same command again: the epochs that can be read are used."
            raise GatemaskError(
                f"The weights of epoch {epoch + 1} cannot be read.", where=path, received=error, do=do
            ) from None
        wide = [array.astype(np.float64) for array in arrays]
        total = [a + b for a, b in zip(total, wide, strict=True)] if total else wide
        dtypes = [array.dtype for array in arrays]
    return [(array / len(epochs)).astype(dtype) for array, dtype in zip(total, dtypes, strict=True)]


def variables(model: keras.Model) -> list[keras.Variable]:
    """Return weights and dropout seeds; metrics are left out, since each epoch resets them."""
    metrics = {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in metrics]


def _variables_by_group(model: keras.Model) -> dict[str, list[keras.Variable]]:
    from gatemask.builders.optimizers import state_variables

    return {"variables": variables(model), "optimizer": state_variables(model.optimizer)}


def _write(path: Path, arrays: Arrays, text: str) -> None:
    def write(temporary: Path) -> None:
        with create_hashed(temporary) as (file, disk):
            # A dataset, since attributes hold 64 KB at most: the rows of a few hundred epochs.
            file.create_dataset("progress", data=np.frombuffer(text.encode(), np.uint8))
            for name, values in arrays.items():
                group = file.create_group(f"arrays/{name}")
                for index, value in enumerate(values):
                    group.create_dataset(f"{index:05d}", data=value)
                    disk.check()

    write_with(path, write)


def _read(path: Path) -> tuple[Arrays, str]:
    verify_hash(path, required=True)
    with h5py.File(path, "r") as file:
        arrays = {name: [group[key][()] for key in sorted(group)] for name, group in file["arrays"].items()}
        return arrays, file["progress"][()].tobytes().decode()


def _read_text(path: Path) -> str:
    verify_hash(path, required=True)
    with h5py.File(path, "r") as file:
        return file["progress"][()].tobytes().decode()


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(f"unreadable-{path.name}")
    say(f"{path} cannot be read ({error}): renamed to {aside.name}.")
    path.replace(aside)


def _listed_as_best(state: Path) -> tuple[int, ...] | None:
    """Return the epochs that a state lists as best; None if it cannot be read. Its hash would take long to verify."""
    try:
        with h5py.File(state, "r") as file:
            return Progress.from_json(file["progress"][()].tobytes().decode()).best
    except (OSError, KeyError, ValueError, TypeError, RuntimeError):
        return None


def _best_path(folder: Path, epoch: int) -> Path:
    return folder / f"best-{epoch:04d}.h5"


def _epoch_of_best(path: Path) -> int:
    return int(path.stem.removeprefix("best-"))
