"""Compute scores with their bootstrap resamples. Imports what takes long to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from gatemask.config import Competition, Ensemble, Members
from gatemask.data.split import read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.oof.tables import Tables
from gatemask.project import Project
from gatemask.results.tuning import Kind
from gatemask.runs.auc import auc_of, auc_resamples
from gatemask.runs.beside import Beside
from gatemask.runs.cache import RunCache
from gatemask.runs.facts import Found
from gatemask.runs.predictions import Predictions
from gatemask.tuning.crossfit import Resamples
from gatemask.tuning.members import TrainingImages, training_images
from gatemask.tuning.sides import fit_side, side_of


class Computing:
    """Computes scores of experiments on some of their folds.

    Args:
        project: Project whose runs hold the predictions.
        comp: Metric and image size.
        beside: Ensemble, whose members are on the other side.
        found: All experiments.
        cache: Cache of tables.
    """

    def __init__(
        self, project: Project, comp: Competition, beside: Beside, found: Mapping[str, Found], cache: RunCache
    ) -> None:
        self._project, self._comp, self._beside, self._found = project, comp, beside, found
        self._predictions = Predictions(project, comp, found, cache)
        self._drawn: dict[tuple[int, ...], Resamples] = {}
        self._counts: dict[tuple[int, ...], tuple[int, int]] = {}

    def resamples(self, name: str, task: Kind, folds: Sequence[int]) -> np.ndarray:
        """Return a score followed by its bootstrap resamples, float (1 + times,).

        Args:
            name: Name of the experiment.
            task: Its task.
            folds: Folds to score.

        Raises:
            GatemaskError: Predictions are missing or damaged.
        """
        fold_of = self._fold_of(folds)
        drawn = self._draw(tuple(folds))
        if task == "gate" and not self._beside.others(task):
            return self._auc(name, fold_of, drawn)
        side = side_of(self._beside.ensemble, task, [name], gated=bool(self._beside.others(task)))
        if task == "gate":
            shared = self._predictions.shared_tables(side, self._fold_of(None), self._key_of_masks(side.mask))
            tables: Tables | None = self._predictions.gated(shared, side.gate, fold_of)
        else:
            tables = self._predictions.tables_of(name, fold_of, side.gate)
            if tables is None:
                self._predictions.verify(name, folds, "oof.h5")
        fit = fit_side(self._project, self._comp, side, fold_of, tables)
        return np.append(fit.score, drawn.scores(fit.worth, fit.weight))

    def joined(self, side: Ensemble) -> np.ndarray:
        """Return the score of an ensemble in all folds, followed by its bootstrap resamples, float (1 + times,).

        Raises:
            GatemaskError: Predictions are missing or damaged.
        """
        fold_of = self._fold_of(None)
        fit = fit_side(self._project, self._comp, side, fold_of)
        return np.append(fit.score, self._draw(tuple(sorted(set(fold_of.values())))).scores(fit.worth, fit.weight))

    def verify(self, name: str, task: Kind, folds: Sequence[int]) -> None:
        """Raise if the predictions of some runs are not those that their training wrote.

        Raises:
            GatemaskError: A file is missing, cut short or edited.
        """
        counted = all("tables.npz" in self._found[name].folds[fold].digests for fold in folds)
        self._predictions.verify(name, folds, "oof.csv" if task == "gate" else "tables.npz" if counted else "oof.h5")

    def counts(self, folds: Sequence[int]) -> tuple[int, int]:
        """Return the number of images in some folds, and that of their groups."""
        key = tuple(folds)
        if key not in self._counts:
            fold_of = self._fold_of(folds)
            self._counts[key] = len(fold_of), len({self._images.group_of[image_id] for image_id in fold_of})
        return self._counts[key]

    def _auc(self, name: str, fold_of: Mapping[str, int], drawn: Resamples) -> np.ndarray:
        section = Members(experiments=[name])
        gate = self._predictions.gate_values(section, fold_of)
        ids = sorted(fold_of)
        probability = np.array([np.max(gate[image_id]) for image_id in ids], float)
        truth = np.array([self._labels.get(image_id, 0) > 0 for image_id in ids])
        if truth.all() or not truth.any():
            raise GatemaskError("The AUC needs images with and without a mask.", received=f"{int(truth.sum())} with")
        return np.append(auc_of(truth, probability), auc_resamples(truth, probability, drawn))

    def _key_of_masks(self, section: Members) -> str:
        digests = [
            [name, sorted((fold, *facts.digests.items()) for fold, facts in self._found[name].folds.items())]
            for name in section.experiments
        ]
        image = self._comp.image.model_dump(mode="json")
        return fingerprint([digests, section.weights, image, self._comp.classes])

    def _fold_of(self, folds: Sequence[int] | None) -> dict[str, int]:
        every = self._images.fold_of
        return every if folds is None else {image_id: fold for image_id, fold in every.items() if fold in folds}

    def _draw(self, folds: tuple[int, ...]) -> Resamples:
        if folds not in self._drawn:
            tune = self._beside.ensemble.tune
            groups = np.array([self._images.group_of[image_id] for image_id in sorted(self._fold_of(folds))])
            self._drawn[folds] = Resamples.draw(groups, tune.bootstrap, tune.seed)
        return self._drawn[folds]

    @cached_property
    def _images(self) -> TrainingImages:
        return training_images(self._project)

    @cached_property
    def _labels(self) -> dict[str, int]:
        manifest = read_manifest(self._project, "train")
        return dict(zip(manifest["image_id"], manifest["label"].tolist(), strict=True))
