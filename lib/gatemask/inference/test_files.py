"""List the test images of the hidden test set by id, with the same rule as the manifest."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from gatemask.data.channel_files import with_sources, without_other_channels
from gatemask.data.ids import IdRule, reject_shared_ids, shared_ids
from gatemask.data.joins import IdList, examples, join_ids
from gatemask.data.owners import ImageFile
from gatemask.data.readers import list_images
from gatemask.data.sources import ImageSource
from gatemask.data.submission_table import SubmissionTable
from gatemask.errors import GatemaskError
from gatemask.results.ensemble import CompetitionFacts

TABLES = {".csv", ".txt", ".json", ".md"}  # files beside the images


def id_rule(facts: CompetitionFacts) -> IdRule:
    """Return how the ids of test images are made."""
    return IdRule(facts.test_images, facts.test_id)


def list_test_files(
    competition: Path, facts: CompetitionFacts, degraded: list[str], forgive: bool
) -> dict[str, ImageSource]:
    """Return the files of the test images by id.

    Args:
        competition: Folder with the test images.
        facts: Facts of the competition.
        degraded: What went wrong, one sentence each; extended here.
        forgive: Leave out images that share an id, or have none, instead of raising an error: their masks stay empty.

    Raises:
        GatemaskError: Two files have one id, or a file has none; not with `forgive`.
    """
    rule, found = id_rule(facts), list[ImageFile]()
    for path in list_images(competition, rule.images):
        name = path.relative_to(competition).as_posix()
        try:
            found.append(ImageFile(path, name, rule.of_file(name), rule))
        except GatemaskError as error:
            if not forgive:
                raise
            degraded.append(f"{name}: {error.short()}")
    found = without_other_channels(found, competition, facts.images)
    named = [(file.image_id, file.name) for file in found]
    if not forgive:
        reject_shared_ids(named, competition)
    elif shared := shared_ids(named):
        degraded.append(f"{len(shared)} ids belong to several files; their masks are empty: {examples(shared)}.")
        found = [file for file in found if file.image_id not in shared]
    return {file.image_id: file.source for file in with_sources(found, competition, facts.images)}


def join_rows(files: Collection[str], table: SubmissionTable, competition: Path) -> None:
    """Report how many rows of the sample submission have an image; a folder without images is reported by its readers.

    Raises:
        GatemaskError: (Almost) no row has an image.
    """
    if not files:
        return
    ids = {row.image_id for row in table.rows}
    join_ids(
        IdList("rows of the sample submission", ids),
        IdList("test images", files, competition),
        "Correct test.images and test.id in competition.yaml, and package again.",
    ).report("Rows without an image have empty masks.")


def is_hidden(competition: Path, facts: CompetitionFacts) -> bool:
    """Whether the folder of the test images has no file that could be one: the test set is shown in the rerun only."""
    folder = competition
    for part in facts.test_images.split("/")[:-1]:
        if set("*?[{") & set(part):
            break
        folder /= part
    return not any(path.is_file() and path.suffix.lower() not in TABLES for path in folder.rglob("[!.]*"))
