"""Predict the validation fold with the final weights: each image exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gatemask.console import progress
from gatemask.data.records import Example
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.oof import store
from gatemask.oof.tables import best_single_threshold, count_maps
from gatemask.training.trainer import Trainer


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions of one fold.

    Args:
        files: Names of the files written.
        scores: Masks: `dice_full`, mean Dice at the competition's own size, and the `threshold` that attains it.
    """

    files: list[str]
    scores: dict[str, float] = field(default_factory=dict)


def predict_out_of_fold(trainer: Trainer, fold: int, validation: Sequence[Example]) -> OutOfFold:
    """Write oof.csv of a gate; oof.h5 and tables.npz of a mask network, with `tta_apart` oof-views.h5 too.

    Args:
        trainer: Models with the final weights.
        fold: Number of the fold.
        validation: Images of the fold.
    """
    exp, comp, project = trainer.exp, trainer.comp, trainer.inputs.project
    folder = project.fold(exp.name, fold)
    ids = [example.image_id for example in validation]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise GatemaskError("The validation fold contains an image twice.", where=project.folds, received=twice)
    if exp.task == "gate":
        probabilities = np.concatenate(list(_predictions(trainer, validation)))[:, 0]
        store.write_gates(folder / "oof.csv", ids, probabilities)
        return OutOfFold(["oof.csv"])
    files = _write_maps(trainer, validation, ids, folder / "oof.h5")
    truth = Masks.of(project, comp)
    reader = store.MapReader([folder / "oof.h5"])
    try:
        tables = count_maps(dict.fromkeys(ids, fold), [reader], truth, f"{exp.name} fold {fold} tables")
    finally:
        reader.close()
    tables.save(folder / "tables.npz")
    threshold, score = best_single_threshold(tables)
    return OutOfFold([*files, "tables.npz"], {"dice_full": score, "threshold": threshold})


def _write_maps(trainer: Trainer, validation: Sequence[Example], ids: list[str], path: Path) -> list[str]:
    """Write the probability maps, and return the names of the files."""
    from gatemask.masks.rule import as_uint8

    exp, classes = trainer.exp, len(trainer.comp.classes)
    shape = (exp.input.size, exp.input.size, classes)
    batches = _predictions(trainer, validation)
    if not exp.tta_apart:
        return [store.write_maps(path, ids, (as_uint8(maps) for maps in batches), shape).name]
    average_and_views = ((as_uint8(maps[..., :classes]), as_uint8(maps[..., classes:])) for maps in batches)
    files = store.write_maps_per_view(path, ids, average_and_views, shape, 1 + len(exp.tta))
    return [file.name for file in files]


def _predictions(trainer: Trainer, validation: Sequence[Example]) -> Iterator[np.ndarray]:
    """Yield the float32 predictions of each batch, without its padding.

    With `tta_apart`, the channels of the average are followed by those of each view.
    """
    from gatemask.builders.prediction import build_views, predict_averaged, predict_per_view
    from gatemask.input import pipeline

    exp = trainer.exp
    model, tta_views = _SpreadModel(trainer), build_views(exp.tta, exp.augment, exp.input.size)

    def average_and_views(images: np.ndarray) -> np.ndarray:
        return np.concatenate(predict_per_view(model, images, tta_views), axis=3)

    batches = pipeline.evaluation_batches(validation, exp, trainer.comp.image.channels, trainer.batch)
    total, start = -(-len(validation) // trainer.batch), 0
    for images, _, weights in progress(batches, f"{exp.name} out-of-fold", total):
        padded = average_and_views(images) if exp.tta_apart else predict_averaged(model, images, tta_views)
        predicted = padded[weights > 0]
        stop = start + len(predicted)
        _refuse_nan(predicted, [example.image_id for example in validation[start:stop]], exp.name)
        start = stop
        yield predicted


def _refuse_nan(predicted: np.ndarray, ids: list[str], experiment: str) -> None:
    """Fail on NaN, which uint8 would turn into an ordinary number."""
    bad = ~np.isfinite(predicted.reshape(len(predicted), -1)).all(axis=1)
    if bad.any():
        raise GatemaskError(
            "The network predicts NaN.",
            where=experiment,
            received=f"{int(bad.sum())} of {len(ids)} images of a batch, the first is {ids[int(np.argmax(bad))]}",
            expected="probabilities",
            do="Delete the fold's folder and train it again, in float32 or with a lower learning rate.",
        )


class _SpreadModel:
    """The prediction model, with each batch spread over all devices."""

    def __init__(self, trainer: Trainer) -> None:
        self._model, self._devices = trainer.models.evaluator, trainer.models.devices

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        # Under a strategy, Keras's own predict_on_batch gives the whole batch to each device.
        if self._devices.strategy in ("MirroredStrategy", "TPUStrategy"):
            return self._model.predict(images, batch_size=len(images), verbose=0)
        return self._model.predict_on_batch(self._devices.spread(images))
