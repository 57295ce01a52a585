"""Out-of-fold prediction: the validation fold by the weights that are shipped, every image exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.console import progress
from gatemask.data.labels import Masks
from gatemask.data.records import Example
from gatemask.errors import GatemaskError
from gatemask.oof import store
from gatemask.oof.tables import count_maps, single_threshold
from gatemask.training.trainer import Job


def predict_out_of_fold(job: Job, fold: int, folder: Path, validation: list[Example]) -> dict[str, Any]:
    """Write oof.csv, or oof.h5 and tables.npz; with `tta_apart` oof-views.h5 too.

    Returns:
        files: their names. Of masks also `dice_full`: mean Dice at the competition's own size, at the best threshold.
    """
    ids = [example.image_id for example in validation]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise GatemaskError("An image is in the validation fold twice.", where=job.project.folds, received=twice)
    if job.exp.task == "gate":
        probabilities = np.concatenate(list(_predictions(job, validation)))[:, 0]
        store.write_gates(folder / "oof.csv", ids, probabilities)
        return {"files": ["oof.csv"]}
    written = _write_maps(job, validation, ids, folder / "oof.h5")
    truth = Masks(job.project.data / "masks.csv", job.comp.image.size)
    reader = store.MapReader([folder / "oof.h5"])
    try:
        tables = count_maps(dict.fromkeys(ids, fold), [reader], truth, f"{job.exp.name} fold {fold} tables")
    finally:
        reader.close()
    tables.save(folder / "tables.npz")
    threshold, score = single_threshold(tables)
    return {"files": [*written, "tables.npz"], "dice_full": score, "threshold": threshold}


def _write_maps(job: Job, validation: list[Example], ids: list[str], path: Path) -> list[str]:
    """The names of the files written."""
    from gatemask.masks.rule import as_uint8

    shape = (job.exp.input.size, job.exp.input.size, len(job.comp.classes))
    if not job.exp.tta_apart:
        return [store.write_maps(path, ids, (as_uint8(maps) for maps in _predictions(job, validation)), shape).name]
    both = (
        (as_uint8(maps[..., : shape[2]]), as_uint8(maps[..., shape[2] :])) for maps in _predictions(job, validation)
    )
    return [file.name for file in store.write_maps_apart(path, ids, both, shape, 1 + len(job.exp.tta))]


def _predictions(job: Job, validation: list[Example]) -> Iterator[np.ndarray]:
    """float32 predictions of each batch, without its padding; of views kept apart, those after the average."""
    from gatemask.builders.prediction import build_views, predict_averaged, predict_per_view
    from gatemask.input import pipeline

    exp = job.exp
    forward, seen = _Forward(job), build_views(exp.tta, exp.augment, exp.input.size)

    def both(images: np.ndarray) -> np.ndarray:
        return np.concatenate(predict_per_view(forward, images, seen), axis=3)

    batches = pipeline.evaluation_batches(validation, exp, job.comp.image.channels, job.batch)
    total, at = -(-len(validation) // job.batch), 0
    for images, _, weights in progress(batches, f"{exp.name} out-of-fold", total):
        found = (both(images) if exp.tta_apart else predict_averaged(forward, images, seen))[weights > 0]
        _refuse_nan(found, [example.image_id for example in validation[at : at + len(found)]], exp.name)
        at += len(found)
        yield found


def _refuse_nan(found: np.ndarray, ids: list[str], name: str) -> None:
    """As uint8 a NaN would become a number like any other."""
    wrong = ~np.isfinite(found.reshape(len(found), -1)).all(axis=1)
    if wrong.any():
        raise GatemaskError(
            "The network predicts NaN.",
            where=name,
            received=f"{int(wrong.sum())} of {len(found)} images of a batch, the first is {ids[int(np.argmax(wrong))]}",
            expected="probabilities",
            do="Delete the fold's folder and train it again, in float32 or with a lower learning rate.",
        )


class _Forward:
    """A model whose batches are spread over all devices."""

    def __init__(self, job: Job) -> None:
        self._model, self._devices = job.evaluator, job.devices

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        # Under a strategy, Keras's own predict_on_batch gives the whole batch to each of the devices.
        if self._devices.how in ("MirroredStrategy", "TPUStrategy"):
            return self._model.predict(images, batch_size=len(images), verbose=0)
        return self._model.predict_on_batch(self._devices.spread(images))
