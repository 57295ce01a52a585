"""Describe what a fold is trained from: settings, split, records and initial weights. Imports no Keras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from gatemask.config import Competition, Experiment
from gatemask.data import records
from gatemask.data.records import Example
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.stage import Stage
from gatemask.training.initial_weights import InitialWeights, find_initial_weights

if TYPE_CHECKING:
    import pandas as pd


def with_record_size(comp: Competition, exp: Experiment) -> Competition:
    """Return the competition with the record size of the experiment, where `input.records` sets one."""
    if exp.input.records is None:
        return comp
    return comp.model_copy(update={"records": comp.records.model_copy(update={"size": exp.input.records})})


def count_views(exp: Experiment) -> int:
    """Return the number of TTA views of an image, the image itself included."""
    return 1 + sum(view.random or 1 for view in exp.tta)


@dataclass(frozen=True)
class TrainingInputs:
    """Inputs of an experiment's training. They decide the outcome of each fold.

    Args:
        project: Project that holds split, records and runs.
        comp: Competition.
        exp: Experiment.
    """

    project: Project
    comp: Competition
    exp: Experiment

    @cached_property
    def split(self) -> pd.DataFrame:
        """The split without the hold-out: one row per image, with its `image_id` and `fold`."""
        frame = read_folds(self.project)
        return frame[frame["fold"] != HOLDOUT]

    @property
    def folds(self) -> list[int]:
        """Numbers of all folds, ascending."""
        return sorted({int(fold) for fold in self.split["fold"]})

    def choose_folds(self, folds: Sequence[int] | None) -> list[int]:
        """Return the requested folds, in the given order; all folds for None.

        Raises:
            GatemaskError: A requested fold does not exist.
        """
        if folds is None:
            return self.folds
        if unknown := [fold for fold in folds if fold not in self.folds]:
            raise GatemaskError("Unknown fold.", received=unknown[0], expected=", ".join(map(str, self.folds)))
        return list(folds)

    def initial_weights(self, fold: int) -> InitialWeights:
        return find_initial_weights(self.project, self.exp, fold)

    def made_from(self, fold: int) -> dict[str, object]:
        """Return the hashes of everything that decides the outcome of a fold."""
        shards = records.require_records(self.project, with_record_size(self.comp, self.exp))
        return {
            "settings": fingerprint(self.exp.settings),
            "weights": self.initial_weights(fold).identity,
            "fold": fold,
            "folds": sha256(self.project.folds),
            "records": fingerprint(shards),
        }

    def stage(self, fold: int) -> Stage[FoldResult]:
        """Return the stage that trains a fold."""
        stamp = self.project.fold(self.exp.name, fold) / "result.json"
        return Stage(f"training of {self.exp.name} fold {fold}", stamp, self.made_from(fold), FoldResult)

    def examples(self, fold: int) -> tuple[list[Example], list[Example]]:
        """Return the training and the validation examples of a fold, still encoded."""
        validates = self.split["fold"] == fold
        training, validation = self.split["image_id"][~validates], self.split["image_id"][validates]
        return [self._examples[name] for name in training], [self._examples[name] for name in validation]

    @cached_property
    def _examples(self) -> dict[str, Example]:
        folder = self.project.records(with_record_size(self.comp, self.exp).records.size)
        return {example.image_id: example for example in records.read_records(folder, list(self.split["image_id"]))}
