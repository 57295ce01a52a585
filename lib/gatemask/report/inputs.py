"""What the page is made from: whatever the stages have left on disk so far. Nothing that is missing stops it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import pandas as pd

from gatemask.config import Competition, Ensemble, Experiment, load_run_config
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.ensemble.select import require_ensemble
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256
from gatemask.kaggle.submit.submission_records import load_records
from gatemask.project import PRODUCTS, Project
from gatemask.results.data import ManifestResult
from gatemask.results.ensemble import EnsembleResult
from gatemask.results.runs import RunList
from gatemask.results.submission import RehearsalResult, SubmissionRecord
from gatemask.results.training import FoldResult
from gatemask.results.tuning import TunedResult
from gatemask.stage import StageResult, Stamp
from gatemask.tracking.run_folder import read_readable_metrics
from gatemask.tuning.outdated import as_trained_notes
from gatemask.tuning.tune import require_tuned

T = TypeVar("T")
Run = tuple[str, int]  # experiment and fold


class NotYet(Exception):  # noqa: N818
    """A part of the page cannot be made yet; the text says in one line which command makes it."""


@dataclass
class Problems:
    """What is damaged, in the order in which it was found."""

    found: list[str] = field(default_factory=list)

    def add(self, error: Exception, what: str) -> None:
        """Note that something could not be read or drawn."""
        if isinstance(error, GatemaskError):
            where, do = error.details["where"], error.details["do"]
            place = f" ({where})" if where is not None else ""
            message = f"{error.short()}{place}" + (f" {do}" if do else "")
        else:
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        line = f"{what}: {message}"
        if line not in self.found:
            self.found.append(line)

    def guard(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        """Return what a function reads, or `otherwise` if it fails; the fault is noted."""
        try:
            return read()
        except Exception as error:  # a report about damaged files must not be stopped by them
            self.add(error, what)
            return otherwise


@dataclass
class Inputs:
    """The files of a competition, read when a section needs them.

    Args:
        project: Project folders.
        comp: competition.yaml.
        ensemble: ensemble.yaml.
        problems: Collects what is damaged.
    """

    project: Project
    comp: Competition
    ensemble: Ensemble
    problems: Problems = field(default_factory=Problems)

    def command(self, stage: str, experiment: str = "", folds: Sequence[int] = ()) -> str:
        """Return the command of a stage in backticks, such as `gatemask train phantom/unet_b0 --fold 0 --quick`."""
        target = f"{self.project.comp}/{experiment}" if experiment else self.project.comp
        options = [f"--fold {','.join(map(str, folds))}"] if folds else []
        return f"`{' '.join(['gatemask', stage, target, *options, *(['--quick'] if self.project.quick else [])])}`"

    # --- the split and the data ------------------------------------------------------------------------------

    @cached_property
    def manifest(self) -> pd.DataFrame | None:
        """Training images; None before `gatemask data prepare`."""
        if not (self.project.data / "manifest.json").exists():
            return None
        return self.problems.guard("manifest", lambda: read_manifest(self.project, "train"), None)

    @cached_property
    def data_reports(self) -> list[str]:
        """What `gatemask data prepare` reported."""
        path = self.project.data / "manifest.json"
        if not path.exists():
            return []
        return self.problems.guard("manifest", lambda: ManifestResult.load(path).reports, [])

    @cached_property
    def split(self) -> pd.DataFrame | None:
        """Fold file; None before `gatemask folds make`."""
        if not self.project.folds.exists():
            return None
        return self.problems.guard("folds", lambda: read_folds(self.project), None)

    @property
    def folds(self) -> list[int]:
        """Numbers of the folds, without the hold-out."""
        return [] if self.split is None else sorted(set(self.split["fold"]) - {HOLDOUT})

    # --- runs ------------------------------------------------------------------------------------------------

    @cached_property
    def listed(self) -> RunList | None:
        """All experiments with their scores; None if they cannot be listed."""
        from gatemask.runs.listing import list_runs

        return self.problems.guard(
            "experiments", lambda: list_runs(self.project, self.comp, self.ensemble, gains=False), None
        )

    @cached_property
    def histories(self) -> Mapping[Run, Sequence[Mapping[str, float]]]:
        """Rows of metrics.jsonl of each run that has finished an epoch."""
        paths = sorted(self.project.runs.glob("*/fold*/metrics.jsonl"))
        histories: dict[Run, list[dict[str, float]]] = {}
        for path in paths:
            if (run := run_of(path.parent)) is None:
                continue
            what, none = f"metrics of {run[0]} fold {run[1]}", list[dict[str, float]]()
            if rows := self.problems.guard(what, partial(read_readable_metrics, path), none):
                histories[run] = rows
        return dict(sorted(histories.items()))

    @cached_property
    def results(self) -> Mapping[Run, FoldResult]:
        """Results of the finished runs of the present split."""
        found: dict[Run, FoldResult] = {}
        present = sha256(self.project.folds) if self.project.folds.exists() else ""
        for path in sorted(self.project.runs.glob("*/fold*/result.json")):
            run = run_of(path.parent)
            if run is None or run[1] not in self.folds:
                continue
            what = f"{run[0]} fold {run[1]}"
            stamp = self.problems.guard(what, partial(Stamp.load, path), None)
            if stamp is None or stamp.made_from.get("folds") != present:
                continue
            result = self.problems.guard(what, partial(FoldResult.load, path), None)
            if result is not None:
                found[run] = result
        return found

    def settings(self, experiment: str) -> Experiment | None:
        """Return the settings that an experiment was trained with; None if they cannot be read."""
        folders = [self.project.fold(name, fold) for name, fold in self.histories if name == experiment]
        return self.problems.guard(f"settings of {experiment}", lambda: load_run_config(folders[0]), None)

    # --- later stages ----------------------------------------------------------------------------------------

    @cached_property
    def tuned(self) -> TunedResult | NotYet:
        """The tuned rule, or why there is none."""
        try:
            return require_tuned(self.project, self.comp, self.ensemble)
        except Exception as error:  # a missing or outdated stage, or a damaged file of any kind
            needs = self._what_tuning_needs()
            return NotYet(needs) if needs else self._missing(error, TunedResult, "tuned", "oof-tune")

    def _missing(self, error: Exception, kind: type[StageResult], folder: str, command: str) -> NotYet:
        """Return why a stage's result cannot be used; a stamp that cannot be read is noted as damaged."""
        stamp = self.project.runs / folder / "result.json"
        if stamp.exists():
            self.problems.guard(f"result of {command}", partial(kind.load, stamp), None)
        if isinstance(error, GatemaskError):
            return NotYet(f"{error.short()} {error.details['do'] or ''}".strip())
        self.problems.add(error, f"result of {command}")
        return NotYet(f"The result cannot be read. Run {self.command(command)}.")

    def _what_tuning_needs(self) -> str:
        """Return which folds are missing before a rule can be tuned, and the command that trains them."""
        names = [*self.ensemble.gate.experiments, *self.ensemble.mask.experiments]
        missing = {name: [fold for fold in self.folds if (name, fold) not in self.results] for name in names}
        lacking = {name: folds for name, folds in missing.items() if folds}
        if not lacking or not self.folds:
            return ""
        left = sum(map(len, lacking.values()))
        first = next(iter(lacking))
        train = self.command("train", first, lacking[first])
        return (
            f"{left} of {len(names) * len(self.folds)} folds of the ensemble are left to train, next with {train}. "
            f"Then {self.command('oof-tune')} tunes the rule."
        )

    @cached_property
    def as_trained(self) -> list[str]:
        """How members differ from the YAMLs and the data."""
        return self.problems.guard(
            "members", lambda: as_trained_notes(self.project, self.comp, self.ensemble), list[str]()
        )

    @cached_property
    def shipped(self) -> EnsembleResult | NotYet:
        """The ensemble that ships, or why there is none."""
        try:
            require_ensemble(self.project, self.comp, self.ensemble)
            return EnsembleResult.load(self.project.runs / "ensemble" / "result.json")
        except Exception as error:  # as above
            return self._missing(error, EnsembleResult, "ensemble", "ensemble")

    @cached_property
    def rehearsed(self) -> RehearsalResult | None:
        """Result of the rehearsal; None if there is none."""
        path = self.project.runs / "rehearsal" / "result.json"
        if not path.exists():
            return None
        return self.problems.guard("rehearsal", lambda: RehearsalResult.load(path), None)

    @cached_property
    def submissions(self) -> list[SubmissionRecord]:
        """Submissions that Kaggle has, oldest first."""
        return self.problems.guard(
            "submissions",
            lambda: [record for record in load_records(self.project) if record.submitted],
            list[SubmissionRecord](),
        )

    # --- the fingerprint -------------------------------------------------------------------------------------

    def made_from(self) -> dict[str, object]:
        """Return hashes of everything the page shows: a page of the same hashes need not be made again."""
        parts: dict[str, object] = {
            "competition": [self.comp.title, self.comp.metric, self.comp.classes],
            "runs": self.listed.model_dump(mode="json") if self.listed else None,
            "results": [result.stamped() for result in self.results.values()],
            "metrics": [[name, fold, rows] for (name, fold), rows in self.histories.items()],
            "tuned": self.tuned.stamped() if isinstance(self.tuned, TunedResult) else str(self.tuned),
            "ensemble": self.shipped.stamped() if isinstance(self.shipped, EnsembleResult) else str(self.shipped),
            "data": self.data_reports,
            "rehearsal": self.rehearsed.stamped(self.project.runs / "rehearsal") if self.rehearsed else None,
            "submissions": [record.model_dump(mode="json") for record in self.submissions],
        }
        made: dict[str, object] = {name: fingerprint(value) for name, value in parts.items()}
        for name, path in (("folds", self.project.folds), ("manifest", self.project.data / "manifest.csv")):
            made[name] = self.problems.guard(name, partial(sha256, path), None) if path.exists() else None
        made["raw files"] = raw_folder(self.project, self.comp).is_dir()  # without them the gallery is gray
        if isinstance(self.tuned, TunedResult) and self.as_trained:
            made["as_trained"] = fingerprint(self.as_trained)
        return made


def run_of(folder: Path) -> Run | None:
    """Return experiment and fold of a run's folder; None for folders of other kinds, such as `fold0.replaced1`.

    >>> run_of(Path("runs/phantom/unet_b0/fold3")), run_of(Path("runs/phantom/unet_b0/fold3.replaced1"))
    (('unet_b0', 3), None)
    """
    number = folder.name.removeprefix("fold")
    name = folder.parent.name
    return (name, int(number)) if number.isdigit() and name not in PRODUCTS else None
