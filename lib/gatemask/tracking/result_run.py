"""A result as a run on W&B, and what the trainings of its members decide about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from gatemask.config import Tracking, load_run_config
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.results.rules import Frozen
from gatemask.tracking.artifacts import ALIAS, weights_name

JobType = Literal["tune", "ensemble", "submission"]


class ResultTable(Frozen):
    """A table: names of its columns, and its rows."""

    columns: list[str]
    rows: list[list[JsonValue]]


class UsedArtifact(Frozen):
    """An artifact that a result was made from.

    Args:
        name: Name on W&B.
        alias: Beginning of its file's SHA-256, which names the version.
        project: W&B project that holds it.
    """

    name: str
    alias: str
    project: str


class LoggedArtifact(Frozen):
    """An artifact that a run logs: one file.

    Args:
        name: Name on W&B.
        type: Type on W&B.
        file: The file.
        sha256: Its hash; the beginning is an alias of the version.
    """

    name: str
    type: str
    file: Path
    sha256: str


class ResultRun(Frozen):
    """A result as a run on W&B.

    Args:
        id: Id of the run.
        place: Its stage's folder or record, relative to the competition's runs.
        name: Name of the run.
        job_type: Stage that made it.
        group: Label of the competition.
        project: W&B project.
        mode: Mode of the members' trainings: online, offline or disabled.
        tracked: Whether W&B tracked any of these trainings.
        config: Settings and choices.
        summary: Numbers.
        tables: Tables by name.
        figures: Paths of figures, by name.
        hashes: SHA-256 of each figure, by name.
        uses: Artifacts that it was made from.
        logs: Artifacts that it made.
    """

    id: str
    place: str
    name: str
    job_type: JobType
    group: str
    project: str
    mode: str
    tracked: bool
    config: dict[str, JsonValue]
    summary: dict[str, float]
    tables: dict[str, ResultTable] = Field(default_factory=dict)
    figures: dict[str, Path] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    uses: list[UsedArtifact] = Field(default_factory=list)
    logs: list[LoggedArtifact] = Field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Hash of all that is shown on W&B."""
        shown = self.model_dump(mode="json", exclude={"figures", "logs", "mode", "tracked"})
        return fingerprint([shown, [[artifact.name, artifact.sha256] for artifact in self.logs]])


class TrackedMembers:
    """What the trainings of a result's members decide: the W&B project, the mode, and the weights that it uses.

    Args:
        project: Project of the competition.
        members: Experiment, fold and hash of the weights of each member; None where the hash is unknown.
    """

    def __init__(self, project: Project, members: Sequence[tuple[str, int, str | None]]) -> None:
        self._label = project.label
        self._members = members
        folders = {(experiment, fold): project.fold(experiment, fold) for experiment, fold, _ in members}
        self._settings = {key: settings for key, folder in folders.items() if (settings := _tracking(folder))}
        first = next(iter(self._settings.values()), Tracking())
        self.fields = {
            "group": project.label,
            "project": self._project(first),
            "mode": first.wandb,
            "tracked": any((folder / "wandb").is_dir() for folder in folders.values()),
        }

    def _project(self, settings: Tracking) -> str:
        return settings.project or f"gatemask-{self._label}"

    def own(self, name: str, sha256: str) -> UsedArtifact:
        """Return an artifact of another result, in the same project."""
        return UsedArtifact(name=name, alias=sha256[:ALIAS], project=str(self.fields["project"]))

    def weights(self) -> list[UsedArtifact]:
        """Return the weights of the members; without those whose experiment sends no artifacts."""
        used = []
        for experiment, fold, sha256 in self._members:
            settings = self._settings.get((experiment, fold))
            if sha256 and settings and settings.artifacts:
                name = weights_name(self._label, experiment, fold)
                used.append(UsedArtifact(name=name, alias=sha256[:ALIAS], project=self._project(settings)))
        return used


def _tracking(folder: Path) -> Tracking | None:
    """Return the tracking settings of a run; None without a readable config.yaml, as for imported predictions."""
    try:
        return load_run_config(folder).tracking
    except GatemaskError:
        return None
