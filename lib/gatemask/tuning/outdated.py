"""Compare trained folds with what the YAMLs and data say now, before they are tuned or shipped as one experiment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask.config import Competition, Ensemble, Experiment, load_experiment
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.project import Project
from gatemask.stage import Stamp
from gatemask.training.differences import differences
from gatemask.training.fold_inputs import TrainingInputs

SHOWN = 4  # differences in an error


@dataclass(frozen=True)
class TrainedFold:
    """A trained fold of a member.

    Args:
        experiment: Name of its experiment.
        fold: Number of the fold.
        hashes: Hashes of its out-of-fold files as they are on disk, by name.
        differences: How it differs from what it would be made from now, and which of its files were edited.
    """

    experiment: str
    fold: int
    hashes: dict[str, str]
    differences: list[str]

    @property
    def note(self) -> str:
        return f"{self.experiment} fold {self.fold}: {'; '.join(self.differences)}"


def read_folds_of(project: Project, comp: Competition, ensemble: Ensemble) -> list[TrainedFold]:
    """Return every fold of every member.

    Raises:
        GatemaskError: A fold is missing, or was trained on another split; or, without `as_trained`, a fold differs from
            what the YAMLs and the data say now.
    """
    folds = sorted(set(read_folds(project)["fold"]) - {HOLDOUT})
    names = [*ensemble.gate.experiments, *ensemble.mask.experiments]
    trained = [fold for name in names for fold in _read_experiment(project, comp, name, folds)]
    outdated = [fold for fold in trained if fold.differences]
    if outdated and not ensemble.as_trained:
        others = len(outdated) - SHOWN
        shown = " | ".join(fold.note for fold in outdated[:SHOWN]) + (f" | and {others} more" if others > 0 else "")
        first = outdated[0].experiment
        raise GatemaskError(
            "Some folds were not made from what the YAMLs and the data say now.",
            where=project.runs / first,
            received=shown,
            expected="folds that are all made from the present YAML, records and split",
            do=f"Run gatemask train {project.comp}/{first}, restore the YAML, or give the --set of the training here "
            "too. With --as-trained the folds are used as they are, and the report says so.",
        )
    return trained


def as_trained_notes(project: Project, comp: Competition, ensemble: Ensemble) -> list[str]:
    """Return what differs from the YAMLs and the data, fold by fold; empty unless `as_trained` allows it."""
    return [fold.note for fold in read_folds_of(project, comp, ensemble) if fold.differences]


def _read_experiment(project: Project, comp: Competition, name: str, folds: Sequence[int]) -> Iterator[TrainedFold]:
    stamps = {fold: _read_stamp(project, name, fold) for fold in folds}  # missing folds are reported first
    path = project.experiment_file(name)
    exp = load_experiment(path, quick=project.quick, overrides=project.overrides) if path.exists() else None
    inputs = TrainingInputs(project, comp, exp) if exp is not None else None
    for fold, stamp in stamps.items():
        folder = project.fold(name, fold)
        hashes = _oof_hashes(project, name, fold, stamp)
        found = _differences(folder, stamp, inputs, exp, fold)
        edited = {**hashes, **({"config.yaml": sha256(config)} if (config := folder / "config.yaml").exists() else {})}
        found += [
            f"{file} differs from the file that was written"
            for file, digest in stamp.outputs.items()
            if file in edited and digest not in (None, edited[file])
        ]
        yield TrainedFold(name, fold, hashes, found)


def _differences(
    folder: Path, stamp: Stamp, inputs: TrainingInputs | None, exp: Experiment | None, fold: int
) -> list[str]:
    if inputs is None:
        return ["its YAML no longer exists"]
    return differences(folder, stamp.made_from, inputs.comparable(fold), exp)


def _read_stamp(project: Project, name: str, fold: int) -> Stamp:
    path = project.fold(name, fold) / "result.json"
    if not path.exists():
        raise GatemaskError(
            "A fold has no out-of-fold predictions yet.",
            where=path.parent,
            expected=f"{name}, fold {fold}",
            do=_train(project, name, fold),
        )
    stamp = Stamp.load(path)
    if stamp.made_from.get("folds") != sha256(project.folds):
        raise GatemaskError(
            "A fold was trained on another split than the present one.",
            where=path.parent,
            expected=f"a run made from {project.folds}",
            do=f"Run gatemask train {project.comp}/{name} again, or restore the fold file.",
        )
    return stamp


def _oof_hashes(project: Project, name: str, fold: int, stamp: Stamp) -> dict[str, str]:
    files = [project.fold(name, fold) / file for file in stamp.outputs if file.startswith("oof")]
    if missing := [file for file in files if not file.exists()]:
        raise GatemaskError(
            "A fold's out-of-fold predictions are missing.", where=missing[0], do=_train(project, name, fold)
        )
    return {file.name: sha256(file) for file in files}


def _train(project: Project, name: str, fold: int) -> str:
    return f"Run gatemask train {project.comp}/{name} --fold {fold}."
