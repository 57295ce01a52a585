"""Open the members' out-of-fold predictions, checking that each holds every image of the folds exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gatemask.config import Competition, Ensemble, Members, load_run_config
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.masks.frame import Frame, comp_frame
from gatemask.oof.store import MapReader, read_gates
from gatemask.oof.tables import Tables, count_maps
from gatemask.project import Project
from gatemask.tuning.outdated import read_folds_of

GateValue = float | np.ndarray  # one probability for all classes, or float (classes,)


@dataclass(frozen=True)
class MemberPredictions:
    """Open predictions of all members, ready to be averaged.

    Args:
        fold_of: Fold by image id.
        gates: Probability by image id, one or float (classes,), for each gate experiment.
        gate: Their weighted mean, by image id.
        readers: Maps by image id, one reader per mask member, or per view where views are weighed apart.
        views: Number of readers of each mask experiment.
        truth: Masks by image id, at the scoring size.
        frame: Frame of the maps; None where they show the image as a whole. Default: None.
        classes: Number of classes; None for all outputs of the maps. Default: None.
    """

    fold_of: Mapping[str, int]
    gates: Sequence[Mapping[str, GateValue]]
    gate: Mapping[str, GateValue]
    readers: Sequence[MapReader]
    views: Sequence[int]
    truth: Masks
    frame: Frame | None = None
    classes: int | None = None

    def gated(self, weights: Sequence[float]) -> MemberPredictions:
        """Return the same predictions with gates averaged by these weights, one per gate experiment."""
        return replace(self, gate=average_gates(self.gates, weights, self.fold_of))


class TrainingImages(NamedTuple):
    """Images that are used for tuning: all but the hold-out.

    Args:
        fold_of: Fold by image id.
        group_of: Group by image id.
    """

    fold_of: dict[str, int]
    group_of: dict[str, str]


def training_images(project: Project) -> TrainingImages:
    """Read fold and group of every image outside the hold-out."""
    frame = read_folds(project)
    frame = frame[frame["fold"] != HOLDOUT]
    ids = frame["image_id"].astype(str)
    fold_of = {image: int(fold) for image, fold in zip(ids, frame["fold"], strict=True)}
    return TrainingImages(fold_of, dict(zip(ids, frame["group"].astype(str), strict=True)))


@contextmanager
def open_members(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    fold_of: Mapping[str, int],
    gate_weights: Sequence[float] | None = None,
) -> Iterator[MemberPredictions]:
    """Open the predictions of every member of an ensemble.

    Args:
        project: Project whose runs hold the predictions.
        comp: Classes and image size.
        ensemble: Experiments and their weights.
        fold_of: Fold of each image; members must hold exactly these images.
        gate_weights: One weight per gate experiment. Default: those of ensemble.yaml.

    Raises:
        GatemaskError: An image is missing, unknown or repeated, or a probability is outside [0, 1].
    """
    folds = sorted(set(fold_of.values()))
    gates = [read_gate_values(project, comp, name, folds) for name in ensemble.gate.experiments]
    for name, gate in zip(ensemble.gate.experiments, gates, strict=True):
        require_ids(name, set(gate), set(fold_of))
    readers: list[MapReader] = []
    views = []
    try:
        for name in ensemble.mask.experiments:
            count = _count_views(project, name, folds) if ensemble.mask.weights == "tuned" else 1
            file = "oof-views.h5" if count > 1 else "oof.h5"
            for view in range(count):
                readers.append(MapReader([project.fold(name, fold) / file for fold in folds], view, count))
                _require_maps(name, readers[-1], set(fold_of), comp.outputs)
            views.append(count)
        yield MemberPredictions(
            fold_of,
            gates,
            average_gates(gates, gate_weights or given_weights(ensemble.gate), fold_of),
            readers,
            views,
            Masks.of(project, comp),
            None if comp.tiles else comp_frame(comp),
            len(comp.classes),
        )
    finally:
        for reader in readers:
            reader.close()


def read_gate_values(project: Project, comp: Competition, name: str, folds: Iterable[int]) -> dict[str, GateValue]:
    """Return the probabilities of one gate experiment by image id, from some of its folds."""
    gates = read_gates([project.fold(name, fold) / "oof.csv" for fold in folds], comp.classes)
    return {image_id: values.item() if len(values) == 1 else values for image_id, values in gates.items()}


def average_gates(
    gates: Sequence[Mapping[str, GateValue]], weights: Sequence[float], ids: Iterable[str]
) -> dict[str, GateValue]:
    """Return the weighted mean of the gates by image id; 1 for all images where there is no gate.

    A gate of one output counts for every class next to one with an output per class.

    >>> average_gates([{"a": 0.2}, {"a": 0.8}], [1, 1], ["a"])
    {'a': 0.5}
    >>> average_gates([{"a": 0.2}, {"a": np.array([0.4, 0.8])}], [1, 1], ["a"])["a"].round(3).tolist()
    [0.3, 0.5]
    >>> average_gates([], [], ["a"])
    {'a': 1.0}
    """
    if not gates:
        return dict.fromkeys(ids, 1.0)
    listed = list(ids)
    outputs = [np.array([gate[i] for i in listed], float).reshape(len(listed), -1) for gate in gates]
    averaged = np.average(np.broadcast_arrays(*outputs), axis=0, weights=weights)
    return dict(zip(listed, averaged[:, 0].tolist() if averaged.shape[1] == 1 else averaged, strict=True))


def given_weights(part: Members) -> list[float]:
    """Return one weight per experiment as ensemble.yaml lists them; equal weights where they are to be searched.

    >>> given_weights(Members(experiments=["a", "b"], weights=[3, 1]))
    [3.0, 1.0]
    >>> given_weights(Members(experiments=["a", "b"], weights="greedy"))
    [1.0, 1.0]
    """
    return [1.0] * len(part.experiments) if isinstance(part.weights, str) else list(part.weights)


def build_tables(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    fold_of: Mapping[str, int],
    weights: Sequence[float] | None = None,
) -> Tables:
    """Count the threshold tables of averaged members, image by image: memory does not grow with the size of the maps.

    Args:
        project: Project whose runs hold the predictions.
        comp: Classes and image size.
        ensemble: Experiments and their weights.
        fold_of: Fold of each image; members must hold exactly these images.
        weights: Weights of the mask members. Default: those of ensemble.yaml.
    """
    with open_members(project, comp, ensemble, fold_of) as predictions:
        return count_tables(predictions, weights or given_weights(ensemble.mask))


def count_tables(predictions: MemberPredictions, weights: Sequence[float]) -> Tables:
    """Count the threshold tables of members averaged by these weights."""
    return count_maps(
        predictions.fold_of,
        predictions.readers,
        predictions.truth,
        "tables",
        predictions.gate.__getitem__,
        weights,
        predictions.frame,
        predictions.classes,
    )


def prediction_hashes(project: Project, comp: Competition, ensemble: Ensemble) -> list[dict[str, str]]:
    """Return the hashes of every member's out-of-fold files, by name, one entry per experiment and fold.

    Raises:
        GatemaskError: A fold is missing, or differs from what the YAMLs and the data say now.
    """
    return [fold.hashes for fold in read_folds_of(project, comp, ensemble)]


def require_ids(name: str, ids: set[str], expected: set[str]) -> None:
    """Raise unless an experiment has predicted exactly the expected images.

    Raises:
        GatemaskError: An image is missing or unknown.
    """
    if ids == expected:
        return
    missing, unknown = sorted(expected - ids), sorted(ids - expected)
    raise GatemaskError(
        "A member's predictions do not match the images of the folds.",
        where=name,
        received=f"{len(missing)} missing {missing[:1]}, {len(unknown)} unknown {unknown[:1]}",
        expected=f"each of {len(expected)} ids once",
        do=f"Train {name} again on the present folds.",
    )


def _count_views(project: Project, name: str, folds: Sequence[int]) -> int:
    """Return the number of views the experiment stored apart in every fold; 1 where it did not."""
    folders = [project.fold(name, fold) for fold in folds]
    if not all((folder / "oof-views.h5").exists() for folder in folders):
        return 1
    counts = {1 + len(load_run_config(folder).tta) for folder in folders}
    if len(counts) > 1:
        raise GatemaskError(
            "The folds of an experiment keep different numbers of views.",
            where=project.runs / name,
            received=", ".join(map(str, sorted(counts))),
            do=f"Run gatemask train {project.comp}/{name}: it predicts them again by the present YAML.",
        )
    return counts.pop()


def _require_maps(name: str, reader: MapReader, expected: set[str], classes: int) -> None:
    require_ids(name, reader.ids, expected)
    if reader.classes != classes:
        raise GatemaskError(
            "A member's maps have another number of outputs than the competition has classes.",
            where=name,
            received=reader.classes,
            expected=classes,
            do=f"Train {name} again.",
        )
