"""The members' out-of-fold predictions, checked: every image of the folds exactly once, in every member."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gatemask.config import Competition, Ensemble, Members
from gatemask.data.labels import Masks
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.errors import GatemaskError
from gatemask.files import read_json, read_yaml, sha256
from gatemask.oof.store import MapReader, read_gates
from gatemask.oof.tables import Tables, count_maps
from gatemask.project import Project


@dataclass(frozen=True)
class Opened:
    """Predictions that can be averaged.

    Args:
        fold_of: the fold of each image.
        gates: each gate experiment's probability by image id.
        gate: their average, by image id.
        readers: maps by image id, one a mask member; one a view where views are weighed apart.
        views: how many of the readers belong to each mask experiment.
        truth: masks by image id, at the competition's own size.
    """

    fold_of: Mapping[str, int]
    gates: Sequence[Mapping[str, float]]
    gate: Mapping[str, float]
    readers: Sequence[MapReader]
    views: Sequence[int]
    truth: Masks

    def gated(self, weights: Sequence[float]) -> Opened:
        """The same, with the gates averaged by these weights, one a gate experiment."""
        return replace(self, gate=average_gates(self.gates, weights, self.fold_of))


@contextmanager
def opened(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    fold_of: Mapping[str, int],
    gate_weights: Sequence[float] | None = None,
) -> Iterator[Opened]:
    """Open every member of an ensemble.

    Args:
        fold_of: the fold of each image that has to be there; members must hold exactly these.
        gate_weights: one a gate experiment; as ensemble.yaml says where there are none.

    Raises:
        GatemaskError: an image is missing, unknown or there twice, or a prediction is no probability.
    """
    folds = sorted(set(fold_of.values()))
    gates = [read_gates([project.fold(name, fold) / "oof.csv" for fold in folds]) for name in ensemble.gate.experiments]
    for name, gate in zip(ensemble.gate.experiments, gates, strict=True):
        _same_ids(name, set(gate), set(fold_of))
    readers: list[MapReader] = []
    views = []
    try:
        for name in ensemble.mask.experiments:
            apart = _views(project, name, folds) if ensemble.mask.weights == "tuned" else 1
            file = "oof-views.h5" if apart > 1 else "oof.h5"
            for view in range(apart):
                readers.append(MapReader([project.fold(name, fold) / file for fold in folds], view, apart))
                _check(name, readers[-1], set(fold_of), len(comp.classes))
            views.append(apart)
        yield Opened(
            fold_of,
            gates,
            average_gates(gates, gate_weights or given_weights(ensemble.gate), fold_of),
            readers,
            views,
            Masks(project.data / "masks.csv", comp.image.size),
        )
    finally:
        for reader in readers:
            reader.close()


def average_gates(
    gates: Sequence[Mapping[str, float]], weights: Sequence[float], ids: Iterable[str]
) -> dict[str, float]:
    """The gates' weighted mean by image id; 1 for all images where there is no gate, as when masks are compared."""
    if not gates:
        return dict.fromkeys(ids, 1.0)
    listed = list(ids)
    averaged = np.average([[gate[i] for i in listed] for gate in gates], axis=0, weights=weights)
    return dict(zip(listed, averaged.tolist(), strict=True))


def given_weights(part: Members) -> list[float]:
    """One weight an experiment, as ensemble.yaml says; equal where they are to be searched."""
    return [1.0] * len(part.experiments) if isinstance(part.weights, str) else list(part.weights)


def build_tables(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    fold_of: Mapping[str, int],
    weights: Sequence[float] | None = None,
) -> Tables:
    """Average the members and count, image by image: memory does not grow with the size of the maps.

    Args:
        fold_of: the fold of each image that has to be there; members must hold exactly these.
        weights: of the mask members; as ensemble.yaml says where there are none.
    """
    with opened(project, comp, ensemble, fold_of) as members:
        return count(members, weights or given_weights(ensemble.mask))


def count(members: Opened, weights: Sequence[float]) -> Tables:
    """Threshold tables of the averaged members."""
    return count_maps(
        members.fold_of, members.readers, members.truth, "tables", members.gate.__getitem__, weights=weights
    )


def predictions(project: Project, ensemble: Ensemble) -> list[dict[str, Any]]:
    """Hashes of every member's out-of-fold files, or an error that names the fold that is missing or out of date."""
    folds = sorted(set(read_folds(project)["fold"]) - {HOLDOUT})
    names = [*ensemble.gate.experiments, *ensemble.mask.experiments]
    return [_of_fold(project, name, fold) for name in names for fold in folds]


def _of_fold(project: Project, name: str, fold: int) -> dict[str, str]:
    stamp = project.fold(name, fold) / "result.json"
    do = f"Run gatemask train {project.comp}/{name} --fold {fold}."
    if not stamp.exists():
        raise GatemaskError(
            "A fold has no out-of-fold predictions yet.", where=stamp.parent, expected=f"{name}, fold {fold}", do=do
        )
    result = read_json(stamp)
    if result["made_from"]["folds"] != sha256(project.folds):
        raise GatemaskError(
            "A fold was trained on another split than the present one.",
            where=stamp.parent,
            expected=f"a run made from {project.folds}",
            do=f"Run gatemask train {project.comp}/{name} again, or bring the fold file back.",
        )
    files = [stamp.parent / file for file in result["outputs"] if file.startswith("oof")]
    if gone := [file for file in files if not file.exists()]:
        raise GatemaskError("A fold's out-of-fold predictions are gone.", where=gone[0], do=do)
    # Of the files as they are, not as the stamp remembers them: predictions may be brought from elsewhere.
    return {file.name: sha256(file) for file in files}


def _same_ids(name: str, ids: set[str], expected: set[str]) -> None:
    if ids == expected:
        return
    missing, unknown = sorted(expected - ids), sorted(ids - expected)
    raise GatemaskError(
        "A member's predictions are not those of the folds.",
        where=name,
        received=f"{len(missing)} missing {missing[:1]}, {len(unknown)} unknown {unknown[:1]}",
        expected=f"each of {len(expected)} ids once",
        do=f"Train {name} again on the present folds.",
    )


def _views(project: Project, name: str, folds: Sequence[int]) -> int:
    """How many views of its own the experiment has kept apart in every fold; 1 for none."""
    folders = [project.fold(name, fold) for fold in folds]
    if not all((folder / "oof-views.h5").exists() for folder in folders):
        return 1
    return 1 + len(read_yaml(folders[0] / "config.yaml")["tta"])


def _check(name: str, reader: MapReader, expected: set[str], classes: int) -> None:
    _same_ids(name, reader.ids, expected)
    if reader.classes != classes:
        raise GatemaskError(
            "A member's maps have another number of classes than the competition.",
            where=name,
            received=reader.classes,
            expected=classes,
            do=f"Train {name} again.",
        )
