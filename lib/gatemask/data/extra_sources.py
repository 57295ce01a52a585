"""`gatemask sources make`: labeled images from elsewhere, prepared like those of the competition.

    data/<comp>/sources/<name>/manifest.csv masks.csv ...   as of a competition
    data/<comp>/sources/<name>/copies.csv                   its copies of the competition's images
    data/<comp>/sources/<name>/records-<px>/                images and masks at training size

Sources are trained on in every fold, and never validated on. Fold k's training leaves out copies of images that fold k
validates, and of the hold-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gatemask.config import Competition, ExtraImages, load_source
from gatemask.config.sources import source_competition, source_name_fault
from gatemask.console import say, table
from gatemask.data import records
from gatemask.data.extra_copies import copies_made_from, find_source_copies, read_copies
from gatemask.data.label_sets import IMAGES, STAMP
from gatemask.data.manifest import prepare
from gatemask.data.shards import Shard, StoredExample
from gatemask.data.split import HOLDOUT
from gatemask.errors import GatemaskError, nearest
from gatemask.files import fingerprint, sha256
from gatemask.project import SOURCES, Project
from gatemask.results.data import PseudoResult, SourceResult, SourcesResult
from gatemask.stage import Stamp, require_unchanged

TABLES = ("manifest.csv", "masks.csv", "copies.csv", "copies.json")  # what training reads besides the records


def make_sources(project: Project, comp: Competition, names: Sequence[str] = ()) -> SourcesResult:
    """Prepare sources of extra training images.

    Args:
        project: Project of the competition, whose manifest exists.
        comp: competition.yaml.
        names: Names of the sources. Default: all that have a YAML.

    Raises:
        GatemaskError: The source is missing, does not fit the competition, or its files cannot be used.
    """
    chosen = list(names) or source_names(project)
    if not chosen:
        raise GatemaskError(
            "This competition has no sources.",
            where=project.experiments / SOURCES,
            expected="a YAML for each source, with raw, train and labels",
            do="Write one: docs/how_to/pseudo_labels.md shows how.",
        )
    return SourcesResult(sources=[_make_source(project, comp, name) for name in chosen])


def source_names(project: Project) -> list[str]:
    """Return the names of the sources that have a YAML."""
    return sorted(path.stem for path in (project.experiments / SOURCES).glob("*.yaml"))


def read_source_yaml(project: Project, comp: Competition, name: str) -> Competition:
    """Return a source as a competition.

    Raises:
        GatemaskError: The YAML is missing or invalid, or does not fit the competition.
    """
    path = project.source_file(name)
    if not path.is_file():
        known = source_names(project)
        close = nearest(name, known)
        raise GatemaskError(
            f"Unknown source '{name}'.",
            where=path,
            expected=", ".join(known) or "a YAML with raw, train and labels",
            do=f"Did you mean '{close}'?" if close else None,
        )
    if fault := source_name_fault(name):
        raise GatemaskError(f"{fault}.", where=path)
    return source_competition(comp, load_source(path), path)


def print_sources(result: SourcesResult) -> None:
    """Print a table of the sources."""
    columns = ["source", "images", "positives", "copies", "of test images", "left out", "MB"]
    rows = [
        [
            source.source,
            str(source.images),
            str(source.positives),
            str(source.copies) if source.recognizable else f"{source.copies} exact",
            str(source.test_copies),
            str(source.problems),
            f"{source.bytes / 1e6:.1f}",
        ]
        for source in result.sources
    ]
    table("Sources", columns, rows)
    if any(source.copies for source in result.sources):
        say("A fold's training leaves out copies of the images that it validates.")


def _make_source(project: Project, comp: Competition, name: str) -> SourceResult:
    source, home = read_source_yaml(project, comp, name), project.of_source(name)
    if (home.data / IMAGES).exists():
        raise GatemaskError(
            "The images of this source were labeled by networks, with gatemask pseudo.",
            where=home.data,
            received=project.source_file(name),
            do="Rename the YAML, or delete the folder.",
        )
    manifest = prepare(home, source)
    copies = find_source_copies(project, comp, name, source)
    made = records.make_records(home, source)
    return SourceResult(
        source=name,
        current=manifest.current and copies.current and made.current,
        images=manifest.images,
        positives=manifest.positives,
        copies=copies.copies,
        test_copies=copies.test_copies,
        recognizable=copies.recognizable,
        problems=manifest.problems,
        shards=made.shards,
        bytes=made.bytes,
    )


class ExtraExamples(NamedTuple):
    """Examples of a source that a fold is trained on.

    Args:
        source: Name of the source.
        weight: How often each is drawn, relative to an image of the competition.
        examples: The examples, still encoded; their ids begin with the name of the source.
        dropped: Number of images that were left out, since they are copies.
    """

    source: str
    weight: float
    examples: list[StoredExample]
    dropped: int


@dataclass(frozen=True)
class ExtraSource:
    """A prepared source, as one fold's training reads it.

    Args:
        project: Project of the competition.
        comp: competition.yaml, with the size of the records that are read.
        part: Name and weight, from the experiment.
        task: "gate" or "mask", what is trained.
    """

    project: Project
    comp: Competition
    part: ExtraImages
    task: str

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.part.source

    @property
    def folder(self) -> Path:
        """Folder of the source."""
        return self.project.of_source(self.name).data

    @property
    def is_labeled_by_networks(self) -> bool:
        """Whether networks labeled the images, so that each fold has labels of its own."""
        return (self.folder / STAMP).exists()

    @property
    def is_soft(self) -> bool:
        """Whether its masks hold shares instead of 0 and 1."""
        stamps = [*self.folder.glob(f"fold*/{self._records.name}/{records.INDEX}"), self._records / records.INDEX]
        return any(Stamp.load(path).made_from.get("soft") for path in stamps if path.exists())

    @property
    def _records(self) -> Path:
        return self.project.of_source(self.name).records(self.comp.records.size)

    @property
    def tables(self) -> str:
        """Source whose folder holds the tables."""
        return f"{self.name}/{IMAGES}" if self.is_labeled_by_networks else self.name

    def records(self, fold: int) -> Path:
        """Return the folder of the records that a fold is trained on."""
        own = f"{self.name}/fold{fold}" if self.is_labeled_by_networks else self.name
        return self.project.of_source(own).records(self.comp.records.size)

    def made_from(self, fold: int) -> str:
        """Return a hash of everything that the source contributes to a fold.

        Raises:
            GatemaskError: The source is not prepared, or not for the present YAMLs, images and records.
        """
        return fingerprint([self._shards(fold), sha256(self._table("copies.csv"))])

    def examples(self, fold: int, folds: pd.DataFrame) -> ExtraExamples:
        """Return the examples that a fold is trained on, still encoded, and what was dropped.

        Args:
            fold: Number of the fold.
            folds: The split with the hold-out: columns image_id and fold.
        """
        folder, hashes = self.records(fold), self._shards(fold)
        validated = set(folds["image_id"][folds["fold"].isin([fold, HOLDOUT])])
        copies = {image_id for image_id, others in self._copies.items() if others & validated}
        kept: list[StoredExample] = []
        dropped: set[str] = set()
        for name, digest in sorted(hashes.items()):
            for example in Shard(folder / name).examples(digest):
                if example.image_id in copies:
                    dropped.add(example.image_id)
                else:
                    example.image_id = f"{self.name}/{example.image_id}"
                    kept.append(example)
        if not kept:
            raise GatemaskError(
                f"Nothing is left of the source '{self.name}': all of its images are copies of images that are "
                f"validated in fold {fold} or held out.",
                where=folder,
                received=f"{len(dropped)} copies",
                do="Remove it from data.extra.",
            )
        return ExtraExamples(self.name, self.part.weight, kept, len(dropped))

    def files(self, folds: Sequence[int]) -> dict[str, Path]:
        """Return all files that some folds read, by a name without folders.

        Raises:
            GatemaskError: As for `made_from`.
        """
        paths = self._required()
        for fold in folds:
            shards = self.records(fold)
            paths += [shards / name for name in [records.INDEX, *self._shards(fold)] if shards / name not in paths]
        return {path.relative_to(self.folder).as_posix().replace("/", "."): path for path in paths}

    @cached_property
    def _copies(self) -> dict[str, set[str]]:
        return read_copies(self._table("copies.csv").parent)

    def _table(self, name: str) -> Path:
        return self.project.of_source(self.tables).data / name

    def _required(self) -> list[Path]:
        """Return the files that training reads besides the records."""
        return [*map(self._table, TABLES), *([self.folder / STAMP] if self.is_labeled_by_networks else [])]

    def _shards(self, fold: int) -> dict[str, str]:
        """Return the hash of each shard that a fold reads, by name, after all checks."""
        command = "pseudo" if self.is_labeled_by_networks else f"sources make {self.project.comp} {self.name}"
        do = f"Run gatemask {command}."
        index = self.records(fold) / records.INDEX
        for path in (*self._required(), index):
            if not path.exists():
                raise GatemaskError(
                    f"The source '{self.name}' is not prepared.", where=path, received="no such file", do=do
                )
        self._require_copies(do)
        stamp = Stamp.load(index)
        tables = ("manifest.csv",) if self.is_labeled_by_networks else ("manifest.csv", "masks.csv")
        if any(stamp.made_from.get(name) != sha256(self._table(name)) for name in tables):
            raise GatemaskError(
                f"The records of the source '{self.name}' were made from other images.", where=index, do=do
            )
        if self.is_labeled_by_networks:
            self._require_own_labels(stamp, fold, index)
        elif self.project.source_file(self.name).is_file():  # a kernel has no YAMLs of sources
            source = read_source_yaml(self.project, self.comp, self.name)
            return records.require_records(self.project.of_source(self.name), source, do)
        return {name: str(digest) for name, digest in stamp.outputs.items() if name.endswith(".tfrec")}

    def _require_copies(self, do: str) -> None:
        """Raise if the table of copies is not that of the present images."""
        path = self._table("copies.csv")
        require_unchanged(path.with_suffix(".json"), path, do)
        recorded = Stamp.load(path.with_suffix(".json")).made_from
        # Not from the YAML, which a kernel does not have.
        groups = recorded.get("groups")
        if recorded != copies_made_from(self.project, self.comp, self.tables, groups):
            raise GatemaskError(
                f"The copies of the source '{self.name}' were searched in other images.", where=path, do=do
            )

    def _require_own_labels(self, stamp: Stamp, fold: int, where: Path) -> None:
        """Raise if labels come from networks that may have seen this fold's validation images, or show no masks."""
        split = sha256(self.project.folds)
        if stamp.made_from.get("fold") != fold or stamp.made_from.get("folds") != split:
            raise GatemaskError(
                f"The labels of the source '{self.name}' come from networks that may have seen the validation images "
                f"of fold {fold}.",
                where=where,
                received=f"labels for fold {stamp.made_from.get('fold')}"
                + ("" if stamp.made_from.get("folds") == split else ", of another split"),
                expected=f"labels for fold {fold} of {self.project.folds}",
                do="Train the networks on the present split, and run gatemask pseudo again.",
            )
        made = PseudoResult.load(self.folder / STAMP)
        if self.task == "mask" and made.task == "gate":
            raise GatemaskError(
                f"The source '{self.name}' has no masks: only gates labeled it.",
                where="data.extra",
                expected="a source that mask networks labeled",
                do="Run gatemask pseudo with a mask experiment.",
            )
