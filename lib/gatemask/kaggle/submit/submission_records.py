"""What was submitted, on disk: one file a submission, whole or not there, and its scores as Kaggle's list tells them.

    runs/<comp>/submissions/<id>.json    package, kernel, version, local score, leaderboard scores, state
    runs/<comp>/submissions/<id>.log     what its kernel printed

Each step is written down before it is taken. Two names make sure that none is taken twice: that of the push is in the
kernel's source and in its log, that of the submission in its description.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gatemask.console import say
from gatemask.files import read_json, write_json
from gatemask.kaggle.client import api
from gatemask.kaggle.client.api import Submission
from gatemask.kaggle.client.cli import KaggleError
from gatemask.project import Project


@dataclass
class Record:
    """One submission, from the package to its scores.

    Args:
        id: in its description on Kaggle.
        package: its name, see `package.require_current`.
        sums: hash of its SHA256SUMS, which the kernel tells of the dataset that it found.
        competition: its name on Kaggle.
        description: as Kaggle keeps it.
        at: when it was begun, ISO 8601 in UTC.
        local: the ensemble's cross-fitted score.
        in_sample: the same without honesty.
        all_empty: what an empty submission would get, here.
        experiments: that the members come from.
        members: of the ensemble.
        rehearsed: whether this very package was.
        state: packaged, pushing, running, ran, submitting, submitted, scored or failed.
        commit: of the project.
        ref: the kernel, owner/slug.
        dataset: owner/slug.
        dataset_version: that the kernel was pushed with.
        push: in the kernel's source and in its log; another one for each push.
        pushes: how many there were.
        version: the kernel's, once it is known.
        word: Kaggle's last word on the kernel.
        asked: how often its output was asked for in vain.
        submission_sha256: of submission.csv as the kernel wrote it for the visible test.
        images: that it holds.
        seconds: that the kernel took for them.
        timings: images and seconds of each member.
        degraded: what the kernel could not do as it should.
        submission: Kaggle's number.
        submitted_at: when, ISO 8601 in UTC.
        public, private: scores, where Kaggle shows them.
        message: why something failed.
    """

    id: str
    package: str
    competition: str
    description: str
    at: str
    sums: str | None = None
    local: float | None = None
    in_sample: float | None = None
    all_empty: float | None = None
    experiments: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    rehearsed: bool = False
    state: str = "packaged"
    commit: str | None = None
    ref: str | None = None
    dataset: str | None = None
    dataset_version: int | None = None
    push: str | None = None
    pushes: int = 0
    version: int | None = None
    word: str | None = None
    asked: int = 0
    submission_sha256: str | None = None
    images: int | None = None
    seconds: float | None = None
    timings: dict[str, Any] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    submission: int | None = None
    submitted_at: str | None = None
    public: float | None = None
    private: float | None = None
    message: str | None = None

    @property
    def made(self) -> bool:
        """Whether Kaggle has it."""
        return self.submitted_at is not None


def folder(project: Project) -> Path:
    return project.runs / "submissions"


def save(project: Project, record: Record) -> None:
    write_json(folder(project) / f"{record.id}.json", asdict(record))


def load(project: Project) -> list[Record]:
    """All records, in the order in which they were begun."""
    # Names with a dot in front are what a killed command was writing.
    found = [Record(**read_json(path)) for path in folder(project).glob("[!.]*.json")]
    return sorted(found, key=lambda record: (record.at, record.id))


def log(project: Project, record: Record) -> Path:
    """Where the log of a record's kernel is kept."""
    return folder(project) / f"{record.id}.log"


def find(record: Record, listed: Sequence[Submission]) -> Submission | None:
    """The record's submission in Kaggle's list."""
    return next((one for one in listed if record.id in one.description), None)


def take(record: Record, found: Submission) -> None:
    """Write down what the list tells of a submission; a score that it does not show any more stays."""
    record.submission, record.submitted_at = found.ref or record.submission, record.submitted_at or found.date
    record.public = record.public if found.public is None else found.public
    record.private = record.private if found.private is None else found.private
    if found.status == "error":
        record.state = "failed"
        record.message = "Kaggle could not score it: its page of submissions says why."
    elif found.status == "complete" and (record.public, record.private) != (None, None):
        record.state, record.message = "scored", None


def refresh(project: Project, records: Sequence[Record]) -> bool:
    """Bring the scores of submissions up to date: private ones come when a competition ends.

    Returns:
        Whether Kaggle could be asked; what is stored stands where it could not.
    """
    made = [record for record in records if record.made]
    try:
        for competition in sorted({record.competition for record in made}):
            listed = api.submissions(competition)
            for record in made:
                if record.competition == competition and (found := find(record, listed)):
                    before = asdict(record)
                    take(record, found)
                    if asdict(record) != before:
                        save(project, record)
    except KaggleError as error:
        say(f"{error.what} The scores are those that were stored.")
        return False
    return True
