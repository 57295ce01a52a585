"""The images and rows that a submission must have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gatemask.console import say
from gatemask.data.joins import examples
from gatemask.data.sources import ImageSource
from gatemask.data.submission_format import SubmissionFormat
from gatemask.data.submission_table import SubmissionTable, read_sample, table_of
from gatemask.errors import GatemaskError
from gatemask.inference.test_files import id_rule, is_hidden, join_rows, list_test_files
from gatemask.results.ensemble import CompetitionFacts


@dataclass
class TestSet:
    """Images and rows to predict.

    Args:
        files: Files of the test images, by id.
        table: Header and rows of the submission.
        hidden: Whether there are no images because the test set is shown in the rerun only. Default: False.
    """

    __test__ = False  # pytest takes it for a test class

    files: dict[str, ImageSource]
    table: SubmissionTable
    hidden: bool = False
    ids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = [] if self.hidden else self.table.image_ids


def open_test_set(competition: Path, facts: CompetitionFacts, degraded: list[str], forgive: bool) -> TestSet:
    """List images and rows: the sample's rows, or one per image and class for competitions without a sample."""
    files = list_test_files(competition, facts, degraded, forgive)
    layout = SubmissionFormat(facts.submission, facts.classes, id_rule(facts))
    table_of_images = table_of(layout, sorted(files))
    try:
        sample = facts.submission.sample
        table = read_sample(layout, competition / sample, shared_allowed=forgive) if sample else table_of_images
        if not forgive and not files:
            if not is_hidden(competition, facts):
                raise GatemaskError(
                    "There is nothing to predict: no file matches the pattern of the test images.",
                    where=competition,
                    expected=facts.test_images,
                    do="Correct test.images in competition.yaml, and package again.",
                )
            say("The visible test set has no images: the submission is the sample's, without masks.")
            return TestSet({}, table, hidden=True)
        own = {image_id: source.files[source.own] for image_id, source in sorted(files.items())}
        names = {image_id: path.relative_to(competition).as_posix() for image_id, path in own.items()}
        table = table.with_unlisted(names)
        if table.rows:
            return _joined(files, table, competition, degraded, forgive)
        if table.unlisted:  # objects: a sample without rows lists no image that needs one
            return TestSet(files, table)
        fault = GatemaskError("There is nothing to predict.", where=competition, received="no rows")
    except GatemaskError as error:
        fault = error
    if not forgive or not files:
        raise fault
    degraded.append(f"{fault.short()} The rows are those of the images in the test folder.")
    return TestSet(files, table_of_images)


def _joined(
    files: dict[str, ImageSource], table: SubmissionTable, competition: Path, degraded: list[str], forgive: bool
) -> TestSet:
    """Return the test set; rows that share an id, or match no image, are rejected or reported."""
    if shared := table.shared_ids():
        degraded.append(f"{len(shared)} ids belong to several rows; their masks are empty: {examples(shared)}.")
        files = {image_id: source for image_id, source in files.items() if image_id not in shared}
    try:
        join_rows(files, table, competition)
    except GatemaskError as error:
        if not forgive:
            raise
        degraded.append(error.short())
    return TestSet(files, table)
