"""The tables beside the images, and how their ids meet those of the images: labels, columns, sample submission."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gatemask.config import Competition, PngLabels
from gatemask.config.path_patterns import part_names
from gatemask.data.ids import IdRule, train_rule
from gatemask.data.image_files import ImageFile, ImageFiles, image_files, reject_suspects
from gatemask.data.joins import IdList, join_ids
from gatemask.data.parsed_labels import ParsedLabels, Size
from gatemask.data.scan import ScannedImage
from gatemask.data.sources import inspect_source
from gatemask.data.submission_format import SubmissionFormat
from gatemask.data.submission_table import read_sample
from gatemask.data.tables import read_table
from gatemask.errors import GatemaskError

SAMPLED = 5  # images


def reject_other_size(files: ImageFiles, comp: Competition) -> None:
    """Raise if the images have one size, but another than image.size: before labels are read in the wrong size."""
    if comp.image.size == "mixed" or not files.train:
        return
    size, found = comp.image.size, set[Size]()
    for file in files.train[:: max(1, len(files.train) // SAMPLED)][:SAMPLED]:
        try:
            image, facts = inspect_source(file.source, comp.image)
        except GatemaskError:
            continue  # it is reported when all images are read
        found.add((image.shape[0], image.shape[1]))
        if facts.orientation >= 5:  # that may explain it, and is reported later
            return
    if len(found) != 1 or size in found:
        return
    height, width = found.pop()
    swapped = (width, height) == size
    raise GatemaskError(
        "Height and width of the images are swapped in competition.yaml."
        if swapped
        else "The images have another size than image.size.",
        where="competition.yaml, image.size",
        received=f"[{size[0]}, {size[1]}], but images are {height} px high and {width} px wide",
        expected="height before width" if swapped else "the size of the images, or mixed",
        do=f"Set image.size: [{height}, {width}]" + ("." if swapped else ", or mixed if other images differ."),
    )


def sizes_of(images: Sequence[ScannedImage], comp: Competition, split: str) -> Size | dict[str, Size]:
    """Return the size of all images, or of each image of a split by id where they differ."""
    if comp.image.size != "mixed":
        return comp.image.size
    return {image.image_id: image.size for image in images if image.split == split and image.size is not None}


def label_files(raw: Path, comp: Competition) -> list[ImageFile]:
    """Return stand-ins for the images, made from the names of their masks; none where a table lists the labels.

    Raises:
        GatemaskError: The labels do not tell which images there are.
    """
    if comp.labels.missing == "empty":
        raise GatemaskError(
            "--labels-only cannot find images that have no label.",
            received="labels.missing: empty",
            do="Run it where the images are available.",
        )
    if comp.image.size == "mixed":
        raise GatemaskError(
            "--labels-only needs the size of the images.",
            received="image.size: mixed",
            do="Run it where the images are available.",
        )
    if not isinstance(comp.labels, PngLabels):
        return []
    if "*" in comp.labels.masks or part_names(comp.labels.masks) != ["id"]:
        raise GatemaskError("--labels-only needs a table, or one mask per image.", received=comp.labels.masks)
    # The path of an image is unknown; the raw folder is used instead, since it is never a mask.
    return [replace(file, path=raw) for file in image_files(raw, IdRule(comp.labels.masks))]


def check_unlabeled(files: ImageFiles, labels: ParsedLabels, raw: Path, comp: Competition) -> None:
    """Reject files that only look like training images, before they become images with an empty mask."""
    if comp.labels.missing != "empty":
        return
    unlabeled = [file for file in files.train if file.image_id not in labels.found]
    sample = comp.submission.sample
    listed = sample_ids(raw / sample, comp) if sample and (raw / sample).is_file() else set()
    reject_suspects(unlabeled, files.train, listed | {file.image_id for file in files.test})


def join_sample(files: ImageFiles, raw: Path, comp: Competition) -> None:
    """Compare the sample submission with the test images; a sample without rows belongs to a hidden test set."""
    sample = comp.submission.sample
    if not sample or not (raw / sample).is_file() or comp.test is None:
        return
    listed = sample_ids(raw / sample, comp)
    if not listed:  # the test set is hidden
        return
    join_ids(
        IdList("test images", {file.image_id for file in files.test}, raw / comp.test.pattern),
        IdList(f"ids of {sample}", listed, raw / sample),
        "Correct test.images, test.id, submission.id or submission.sample.",
    ).report()


def read_extra_columns(raw: Path, comp: Competition, train_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the additional columns, each a mapping from image id to value."""
    if not comp.extra.file:
        return {}
    path = raw / comp.extra.file
    file = read_table(path, [comp.extra.id, *comp.extra.columns])
    ids = file.ids(comp.extra.id, train_rule(comp))
    if train_ids:
        join_ids(
            IdList("training images", train_ids),
            IdList(f"ids of {comp.extra.file}", ids, path),
            "Correct extra.id or the table, or remove extra.file if it belongs to other images.",
        ).report()
    columns: dict[str, dict[str, str]] = {name: {} for name in comp.extra.columns}
    for name, values in columns.items():
        for row, (image_id, value) in enumerate(zip(ids, file.column(name), strict=True)):
            if values.setdefault(image_id, value) != value:
                raise GatemaskError(
                    "An image has two values in one column.",
                    where=f"{file.where(row)}, image {image_id}, column {name}",
                    received=f"{values[image_id]} and {value}",
                    expected="one value per image",
                    do="Correct the table.",
                )
    return columns


def sample_ids(path: Path, comp: Competition) -> set[str]:
    """Return the ids of the images that a sample submission lists.

    Raises:
        GatemaskError: The file cannot be read, lacks a column, or has several rows of one id.
    """
    return {row.image_id for row in read_sample(SubmissionFormat.of(comp), path).rows}
