"""Predict the validation fold with the final weights: each image exactly once.

Tiles of an image become one prediction: the gate's is their largest probability, and their maps are blended to the map
of the scaled image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from gatemask.config import Tiles
from gatemask.console import progress
from gatemask.data.example import EncodedExample
from gatemask.data.truth import Masks, Size
from gatemask.errors import GatemaskError
from gatemask.masks.frame import comp_frame
from gatemask.masks.tiling import Origin, blend_tiles, scaled_size, tile_origins
from gatemask.oof import store
from gatemask.oof.tables import Tables, best_single_threshold, count_maps
from gatemask.project import Project
from gatemask.training.trainer import Trainer


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions of one fold.

    Args:
        files: Names of the files written.
        scores: Masks: fields of `FoldResult`: `dice_full` and the `threshold` that attains it, or `dice_by_class` and
            `threshold_by_class`.
    """

    files: list[str]
    scores: dict[str, float | dict[str, float]] = field(default_factory=dict)


def predict_out_of_fold(trainer: Trainer, fold: int, validation: Sequence[EncodedExample]) -> OutOfFold:
    """Write oof.csv of a gate; oof.h5 and tables.npz of a mask network, with `tta_apart` oof-views.h5 too.

    Args:
        trainer: Models with the final weights.
        fold: Number of the fold.
        validation: Images of the fold.
    """
    exp, comp, project = trainer.exp, trainer.comp, trainer.inputs.project
    folder = project.fold(exp.name, fold)
    ids = _unique_ids(validation, project)
    if exp.task == "gate":
        predicted = np.concatenate(list(predict_examples(trainer, validation)))
        probabilities = _largest([example.image_id for example in validation], predicted)
        store.write_gates(folder / "oof.csv", ids, probabilities, comp.classes if exp.model.per_class else ())
        return OutOfFold(["oof.csv"])
    truth = Masks.of(project, comp)
    files = _write_maps(trainer, validation, ids, folder / "oof.h5", truth.image_size)
    reader = store.MapReader([folder / "oof.h5"])
    try:
        tables = count_maps(
            dict.fromkeys(ids, fold),
            [reader],
            truth,
            f"{exp.name} fold {fold} tables",
            frame=None if comp.tiles else comp_frame(comp),
            classes=len(comp.classes),
        )
    finally:
        reader.close()
    tables.save(folder / "tables.npz")
    return OutOfFold([*files, "tables.npz"], _dice_full(tables, comp.classes))


def _dice_full(tables: Tables, classes: Sequence[str]) -> dict[str, float | dict[str, float]]:
    """Return the best Dice at the scoring size with one threshold per class, as fields of `FoldResult`."""
    best = {name: best_single_threshold(tables.of_class(index)) for index, name in enumerate(classes)}
    if len(classes) == 1:
        threshold, score = best[classes[0]]
        return {"dice_full": score, "threshold": threshold}
    scores = {name: score for name, (_, score) in best.items()}
    return {
        "dice_full": float(np.mean(list(scores.values()))),
        "dice_by_class": scores,
        "threshold_by_class": {name: threshold for name, (threshold, _) in best.items()},
    }


def _unique_ids(validation: Sequence[EncodedExample], project: Project) -> list[str]:
    """Ids of the images, each once.

    Raises:
        GatemaskError: An image, or a tile of one, is in the fold twice.
    """
    places = [(example.image_id, example.origin) for example in validation]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise GatemaskError("The validation fold contains an image twice.", where=project.folds, received=twice[0])
    return list(dict.fromkeys(image_id for image_id, _ in places))


def _largest(ids: Sequence[str], probabilities: np.ndarray) -> np.ndarray:
    """Return the largest probability of each image's tiles, in the order of their first ones.

    >>> _largest(["a", "b", "b"], np.array([[0.1, 0.2], [0.3, 0.9], [0.4, 0.8]])).tolist()
    [[0.1, 0.2], [0.4, 0.9]]
    """
    order = {image_id: index for index, image_id in enumerate(dict.fromkeys(ids))}
    largest = np.zeros((len(order), *probabilities.shape[1:]), probabilities.dtype)
    np.maximum.at(largest, [order[image_id] for image_id in ids], probabilities)
    return largest


def _write_maps(
    trainer: Trainer, validation: Sequence[EncodedExample], ids: list[str], path: Path, size_of: Callable[[str], Size]
) -> list[str]:
    """Write the probability maps, and return the names of the files."""
    from gatemask.masks.rule import as_uint8

    exp, comp = trainer.exp, trainer.comp
    outputs, views = comp.outputs, 1 + len(exp.tta)
    shape = None if comp.tiles else (*exp.input.shape, outputs)
    batches = predict_examples(trainer, validation)
    if comp.tiles:
        together = outputs * (1 + views if exp.tta_apart else 1)
        maps = whole_maps(validation, batches, size_of, comp.tiles, together)
    else:
        maps = (as_uint8(batch) for batch in batches)
    if not exp.tta_apart:
        return [store.write_maps(path, ids, maps, shape).name]
    average_and_views = ((batch[..., :outputs], batch[..., outputs:]) for batch in maps)
    return [file.name for file in store.write_maps_per_view(path, ids, average_and_views, shape, views)]


def whole_maps(
    examples: Sequence[EncodedExample],
    batches: Iterable[np.ndarray],
    size_of: Callable[[str], Size],
    tiles: Tiles,
    outputs: int,
) -> Iterator[np.ndarray]:
    """Yield the map of each scaled image, blended from those of its tiles, uint8 (1, height, width, outputs).

    Args:
        examples: Tiles, image by image, in order.
        batches: Their maps in batches, float32 (n, h, w, outputs).
        size_of: Returns height and width of an image before scaling, by its id.
        tiles: Size, overlap and scale of the tiles.
        outputs: Number of maps.

    Raises:
        GatemaskError: The tiles of an image are not those that `tiles` describes.
    """
    maps = (one for batch in batches for one in batch)
    for image_id, group in groupby(examples, lambda example: example.image_id):
        origins = [Origin(*example.origin) for example in group if example.origin is not None]
        size = scaled_size(size_of(image_id), tiles)
        expected = tile_origins(size, tiles.size, tiles.overlap)
        if origins != expected:
            raise GatemaskError(
                "The records hold other tiles of an image than competition.yaml describes.",
                where=image_id,
                received=f"{len(origins)} tiles",
                expected=f"{len(expected)} tiles",
                do="Run gatemask records make.",
            )
        yield blend_tiles(size, tiles.size, origins, islice(maps, len(origins)), outputs)[None]


def predict_examples(
    trainer: Trainer, validation: Sequence[EncodedExample], label: str = "out-of-fold"
) -> Iterator[np.ndarray]:
    """Yield the float32 predictions of each batch, without its padding.

    With `tta_apart`, the channels of the average are followed by those of each view.

    Args:
        trainer: Models with the weights that predict.
        validation: Images, or tiles.
        label: What is predicted, for the progress bar. Default: the images of a validation fold.

    Raises:
        GatemaskError: An image cannot be decoded, or the network predicts NaN.
    """
    from gatemask.builders.prediction import build_views, predict_averaged, predict_per_view
    from gatemask.input import pipeline

    exp = trainer.exp
    model, tta_views = _SpreadModel(trainer), build_views(exp.tta, exp.augment, exp.input.shape)

    def average_and_views(images: np.ndarray) -> np.ndarray:
        return np.concatenate(predict_per_view(model, images, tta_views), axis=3)

    batches = pipeline.evaluation_batches(validation, exp, trainer.layout, trainer.evaluation_batch)
    total, start = -(-len(validation) // trainer.evaluation_batch), 0
    for images, _, weights in progress(batches, f"{exp.name} {label}", total):
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
        self._model, self._devices = trainer.predictor, trainer.models.devices

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        # Under a strategy, Keras's own predict_on_batch gives the whole batch to each device.
        if self._devices.strategy in ("MirroredStrategy", "TPUStrategy"):
            return self._model.predict(images, batch_size=len(images), verbose=0)
        return self._model.predict_on_batch(self._devices.spread(images))
