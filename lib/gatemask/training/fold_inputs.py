"""Describe what a fold is trained from: settings, split, records and initial weights. Imports no Keras."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from gatemask.config import Competition, Experiment
from gatemask.config.base import both_sides
from gatemask.data import records
from gatemask.data.example import EncodedExample
from gatemask.data.extra_sources import ExtraExamples, ExtraSource
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.errors import GatemaskError, nearest
from gatemask.files import fingerprint, sha256
from gatemask.input.layout import Layout
from gatemask.input.sampling import ExtraPart
from gatemask.project import Project
from gatemask.results.training import FoldResult, FoundBatch, trained_from
from gatemask.stage import Stage, Stamp
from gatemask.training.found_batch import read_found_batch
from gatemask.training.initial_weights import InitialWeights, find_initial_weights

if TYPE_CHECKING:
    import pandas as pd


def with_record_size(comp: Competition, exp: Experiment) -> Competition:
    """Return the competition with the record size of the experiment, where `input.records` sets one.

    Raises:
        GatemaskError: The records hold tiles, which have one size, or have another aspect ratio, which decides how
            images are padded or cropped.
    """
    if exp.input.records is None:
        return comp
    (height, width), (own_height, own_width) = both_sides(exp.input.records), comp.records.shape
    if comp.image.fit != "stretch" and height * own_width != width * own_height:
        raise GatemaskError(
            f"Images are fitted by image.fit: {comp.image.fit}, so all records must have the same aspect ratio.",
            where=f"input.records of {exp.name}",
            received=f"{height} x {width}",
            expected=f"that of records.size of competition.yaml, {own_height} x {own_width}",
        )
    if comp.tiles is not None and exp.input.records != comp.tiles.size:
        raise GatemaskError(
            "The records of this competition hold tiles, which have one size.",
            where=f"input.records of {exp.name}",
            received=exp.input.records,
            expected=f"{comp.tiles.size}, tiles.size of competition.yaml",
            do="Leave input.records out; input.size may be smaller.",
        )
    return comp.model_copy(update={"records": comp.records.model_copy(update={"size": exp.input.records})})


def class_weights(comp: Competition, exp: Experiment) -> tuple[float, ...]:
    """Return the weight of each class in the loss; nothing if all classes count once.

    Raises:
        GatemaskError: The experiment weights a class that the competition does not have.
    """
    weights = exp.class_weights
    for name in weights:
        if name not in comp.classes:
            close = nearest(name, comp.classes)
            raise GatemaskError(
                f"Unknown class '{name}'.",
                where=f"class_weights of {exp.name}",
                expected=", ".join(comp.classes),
                do=f"Write '{close}' instead." if close else None,
            )
    return tuple(weights.get(name, 1.0) for name in comp.classes) if weights else ()


SELECTION = ("monitor", "checkpoints")  # keys that choose among the trained epochs
PREDICTION = ("tta", "tta_apart")  # keys that decide how the validation fold is predicted


def settings_of(exp: Experiment, keys: Sequence[str]) -> dict[str, JsonValue]:
    """Return some of the settings that decide the outcome of a run."""
    return {key: value for key, value in exp.settings.items() if key in keys}


def written_settings(exp: Experiment) -> dict[str, JsonValue]:
    """Return the resolved settings as config.yaml of a run holds them."""
    return exp.model_dump(mode="json", exclude={"quick", "search"}, exclude_none=True)


def training_settings(exp: Experiment) -> dict[str, JsonValue]:
    """Return the settings that decide the training itself. Others are applied again without another training.

    A plateau schedule lowers the learning rate by `monitor`.
    """
    later = {*SELECTION, *PREDICTION} - ({"monitor"} if exp.schedule.name == "plateau" else set())
    return {key: value for key, value in exp.settings.items() if key not in later}


def fingerprints(exp: Experiment) -> dict[str, str]:
    """Return the entries of a fold's `made_from` that the experiment alone decides."""
    return {
        "settings": fingerprint(training_settings(exp)),
        "selection": fingerprint(settings_of(exp, SELECTION)),
        "prediction": fingerprint(settings_of(exp, PREDICTION)),
    }


def count_views(exp: Experiment) -> int:
    """Return the number of TTA views of an image, the image itself included."""
    return 1 + sum(view.random or 1 for view in exp.tta)


@dataclass(frozen=True)
class FoldExamples:
    """Examples of a fold, still encoded.

    Args:
        own: Training examples of the competition: those of the other folds.
        validation: Validation examples.
        extra: Training examples of each source, and how many of its images are copies that were left out.
    """

    own: list[EncodedExample]
    validation: list[EncodedExample]
    extra: list[ExtraExamples]

    @property
    def training(self) -> list[EncodedExample]:
        """All training examples: the competition's, then those of each source."""
        return [*self.own, *(example for part in self.extra for example in part.examples)]

    @property
    def extra_parts(self) -> list[ExtraPart]:
        """Where the examples of each source are in `training`."""
        return extra_parts(len(self.own), self.extra)


def extra_parts(own: int, extra: Sequence[ExtraExamples]) -> list[ExtraPart]:
    """Return where the examples of sources are.

    Args:
        own: Number of training examples of the competition, which come first.
        extra: Examples of each source.
    """
    ends = np.cumsum([own, *(len(part.examples) for part in extra)]).tolist()
    return [ExtraPart(start, stop, part.weight) for start, stop, part in zip(ends, ends[1:], extra, strict=False)]


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
    def class_weights(self) -> tuple[float, ...]:
        """Weight of each class in the loss; see `class_weights`."""
        return class_weights(self.comp, self.exp)

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

    @property
    def found_batch(self) -> FoundBatch | None:
        """The batch that was found for the present settings; None for a fixed batch, and before it is found."""
        if self.exp.batch.per_device != "auto":
            return None
        return read_found_batch(self.project, self.exp.name, fingerprints(self.exp)["settings"])

    def _batch(self) -> dict[str, object]:
        """Return the entry of the batch: where the YAML says `auto`, the settings alone do not tell which it is."""
        if self.exp.batch.per_device != "auto":
            return {}
        found = self.found_batch
        return {"batch": None if found is None else str(found)}

    def made_from(self, fold: int) -> dict[str, object]:
        """Return the hashes of everything that decides the outcome of a fold; see `trained_from`."""
        return {
            **fingerprints(self.exp),
            **self._batch(),
            "weights": self.initial_weights(fold).identity,
            "fold": fold,
            "folds": sha256(self.project.folds),
            "records": fingerprint(self._shards),
            **self._extra(fold),
        }

    def _extra(self, fold: int) -> dict[str, object]:
        """Return the entry of the sources; fingerprints of runs without sources stay as they were."""
        return {"extra": {source.name: source.made_from(fold) for source in self.extra}} if self.extra else {}

    def comparable(self, fold: int) -> dict[str, object]:
        """Return `made_from` as far as this disk can tell: records, initial weights and batch may be elsewhere."""
        made_from: dict[str, object] = {**fingerprints(self.exp), "fold": fold, "folds": sha256(self.project.folds)}
        if self.found_batch is not None:
            made_from |= self._batch()
        if (self.project.records(with_record_size(self.comp, self.exp).records.size) / "index.json").exists():
            try:
                made_from["records"] = fingerprint(self._shards)
            except GatemaskError:  # they are older than the manifest, and so is the run
                made_from["records"] = None
        with suppress(GatemaskError):  # a source that is elsewhere, or made again since, does not tell
            made_from |= self._extra(fold)
        with suppress(GatemaskError):
            made_from["weights"] = self.initial_weights(fold).identity
        return made_from

    def is_trained(self, fold: int) -> bool:
        """Return whether a fold is trained for the present settings and data, even if it must be predicted again."""
        stage = self.stage(fold)
        if not stage.stamp.exists():
            return False
        stamp, weights = Stamp.load(stage.stamp), stage.stamp.with_name("best.weights.h5")
        if trained_from(stamp.made_from) != trained_from(stage.made_from) or not weights.exists():
            return False
        return stamp.outputs.get(weights.name) == sha256(weights)

    @cached_property
    def _shards(self) -> dict[str, str]:
        return records.require_records(self.project, with_record_size(self.comp, self.exp))

    def stage(self, fold: int) -> Stage[FoldResult]:
        """Return the stage that trains a fold."""
        stamp = self.project.fold(self.exp.name, fold) / "result.json"
        return Stage(f"training of {self.exp.name} fold {fold}", stamp, self.made_from(fold), FoldResult, whole=True)

    @cached_property
    def extra(self) -> list[ExtraSource]:
        """The sources that `data.extra` names."""
        comp = with_record_size(self.comp, self.exp)
        return [ExtraSource(self.project, comp, part, self.exp.task) for part in self.exp.data.extra]

    @property
    def layout(self) -> Layout:
        """Channels and planes of the examples; masks are soft if those of the competition or of a source are."""
        layout = Layout.of(self.comp)
        return replace(layout, soft=layout.soft or any(source.is_soft for source in self.extra))

    def examples(self, fold: int) -> FoldExamples:
        """Return the examples of a fold, still encoded.

        Raises:
            GatemaskError: Records are missing, damaged or out of date, or a source has only copies.
        """
        validates = self.split["fold"] == fold
        training, validation = self.split["image_id"][~validates], self.split["image_id"][validates]
        extra = self.extra_examples(fold)
        return FoldExamples(self._examples_of(training), self._examples_of(validation), extra)

    def extra_examples(self, fold: int) -> list[ExtraExamples]:
        """Return the examples of each source that a fold is trained on.

        Raises:
            GatemaskError: A source is not prepared or out of date, or has only copies.
        """
        return [source.examples(fold, read_folds(self.project)) for source in self.extra]

    def _examples_of(self, ids: Iterable[str]) -> list[EncodedExample]:
        return [example for image_id in ids for example in self._examples[image_id]]

    @cached_property
    def _examples(self) -> dict[str, list[EncodedExample]]:
        """Example of each image; all of its tiles, where images are tiled."""
        folder = self.project.records(with_record_size(self.comp, self.exp).records.size)
        examples: dict[str, list[EncodedExample]] = {}
        for example in records.read_records(folder, list(self.split["image_id"])):
            examples.setdefault(example.image_id, []).append(example)
        return examples
