"""Keep the records of submissions: one JSON file per submission, written atomically.

    runs/<comp>/submissions/<id>.json    package, kernel, version, local score, leaderboard scores, state
    runs/<comp>/submissions/<id>.log     log of the kernel
    runs/<comp>/submissions/<id>.csv     submission that the kernel wrote for the visible test set
    runs/<comp>/submissions/<id>.npz     cross-fitted score of each image, for `gatemask finalists`

Each step is recorded before it is taken. Two ids keep any step from being taken twice: that of the push is in the
kernel's source and log, that of the submission is in its description.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatemask.console import say
from gatemask.files import copy_file, write_json
from gatemask.kaggle.client import api
from gatemask.kaggle.client.api import Submission
from gatemask.kaggle.client.cli import KaggleError
from gatemask.project import Project
from gatemask.results.submission import SubmissionRecord
from gatemask.stage import load_document

LOST = "Restore it from a backup. Without it, gatemask does not know what was submitted; Kaggle's website does."


def submissions_folder(project: Project) -> Path:
    return project.runs / "submissions"


def record_path(project: Project, record: SubmissionRecord) -> Path:
    return submissions_folder(project) / f"{record.id}.json"


def submission_log_path(project: Project, record: SubmissionRecord) -> Path:
    return submissions_folder(project) / f"{record.id}.log"


def image_scores_path(project: Project, record: SubmissionRecord) -> Path:
    return submissions_folder(project) / f"{record.id}.npz"


def keep_image_scores(project: Project, record: SubmissionRecord) -> None:
    """Copy the image scores of the selected ensemble, which is the one in the package, next to the record.

    An ensemble that an earlier version selected has none.
    """
    source, target = project.runs / "ensemble" / "scores.npz", image_scores_path(project, record)
    if source.exists() and not target.exists():
        copy_file(source, target)


def save_record(project: Project, record: SubmissionRecord) -> None:
    """Write a record atomically."""
    write_json(record_path(project, record), record.model_dump(mode="json"))


def load_records(project: Project) -> list[SubmissionRecord]:
    """Return all records, oldest first."""
    records = [load_record(path) for path in record_files(project)]
    return sorted(records, key=lambda record: (record.at, record.id))


def record_files(project: Project) -> list[Path]:
    """Return the records of all submissions."""
    # Names that begin with a dot are temporary files of a killed command.
    return sorted(submissions_folder(project).glob("[!.]*.json"))


def load_record(path: Path) -> SubmissionRecord:
    """Read the record of a submission.

    Raises:
        GatemaskError: The record is damaged.
    """
    return load_document(SubmissionRecord, path, do=LOST)


def find_submission(record: SubmissionRecord, submissions: Sequence[Submission]) -> Submission | None:
    """Return a record's submission in Kaggle's list, or None."""
    return next((submission for submission in submissions if record.id in submission.description), None)


def update_record(record: SubmissionRecord, submission: Submission) -> None:
    """Copy number, date, scores and status from Kaggle's list. A score that Kaggle no longer shows is kept."""
    record.submission = submission.ref or record.submission
    record.submitted_at = record.submitted_at or submission.date
    record.public = record.public if submission.public is None else submission.public
    record.private = record.private if submission.private is None else submission.private
    if submission.status == "error":
        record.state = "failed"
        record.message = "Kaggle could not score the submission; see its page of submissions."
    elif submission.status == "complete" and record.board_scores:
        record.state, record.message = "scored", None


def refresh_scores(project: Project, records: Sequence[SubmissionRecord]) -> bool:
    """Update the scores of submissions; private scores appear when a competition ends.

    Returns:
        Whether Kaggle answered; otherwise the stored scores are unchanged.
    """
    submitted = [record for record in records if record.submitted]
    try:
        for competition in sorted({record.competition for record in submitted}):
            submissions = api.submissions(competition)
            for record in submitted:
                if record.competition == competition and (submission := find_submission(record, submissions)):
                    before = record.model_copy()
                    update_record(record, submission)
                    if record != before:
                        save_record(project, record)
    except KaggleError as error:
        say(f"{error.what} The scores shown are the stored ones.")
        return False
    return True
