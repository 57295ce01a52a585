"""Fold files and group files of any origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError

# An id may end like an extension (DICOM UIDs do), so only those of images are taken off.
EXTENSIONS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom"}
HOLDOUT = "-1"


@dataclass
class FoldFile:
    """A fold file.

    Args:
        folds: image id -> name of its fold, whole numbers without a point; of an image in several folds, the first.
        duplicated: images that are in several folds.
        groups: image id -> group, where the file has such a column.
        labels: image id -> 0 or 1, from a column of those.
        areas: image id -> pixels, where the file has a column `mask_area`.
    """

    folds: dict[str, str]
    duplicated: list[str] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    areas: dict[str, int] = field(default_factory=dict)


def read_fold_file(file: Path) -> FoldFile:
    """Any CSV with an id in its first column and a column `fold`.

    Raises:
        GatemaskError: no table, no such column, a blank fold, or only one fold.
    """
    table = read_table(file, ["fold"])
    ids = [plain_id(name) for name in table.column(0)]
    found = FoldFile({})
    duplicated = set()
    for row, (image_id, text) in enumerate(zip(ids, table.column("fold"), strict=True)):
        if not text:
            raise GatemaskError("An image has no fold.", where=f"{table.where(row)}, image {image_id}")
        fold = text.removesuffix(".0")
        if found.folds.setdefault(image_id, fold) != fold:
            duplicated.add(image_id)
    found.duplicated = sorted(duplicated)
    if len(set(found.folds.values()) - {HOLDOUT}) < 2:
        received = ", ".join(sorted(set(found.folds.values())))
        raise GatemaskError("A fold file has fewer than two folds.", where=file, received=received)
    if "group" in table.header:
        found.groups = dict(zip(ids, table.column("group"), strict=True))
    if "mask_area" in table.header:
        texts = table.column("mask_area")
        found.areas = {
            image_id: area_of(text, table, row) for row, (image_id, text) in enumerate(zip(ids, texts, strict=True))
        }
    for name in table.header[1:]:
        cells = table.column(name)
        if name != "fold" and set(cells) == {"0", "1"}:
            for image_id, cell in zip(ids, cells, strict=True):
                found.labels[image_id] = max(found.labels.get(image_id, 0), int(cell))
            break
    return found


def read_group_file(file: Path, ids: set[str], prefix: int | None = None) -> dict[str, str]:
    """A file of two columns, image id and group, with or without a header."""
    table = read_table(file, header=False)
    if len(table.header) < 2:
        raise GatemaskError("A group file has one column.", where=file, expected="image_id, group")
    named: dict[str, str] = {}
    for number, row in enumerate(table.rows):
        image_id, name = plain_id(row[0]), row[1][:prefix]
        if named.setdefault(image_id, name) != name:
            raise GatemaskError(
                "An image is in two groups.",
                where=f"{table.where(number)}, image {image_id}",
                received=f"{named[image_id]} and {name}",
                expected="one group an image",
                do="Correct the table.",
            )
    if not ids & set(named):
        raise GatemaskError(
            "The group file knows none of the images.",
            where=file,
            received=f"ids such as {table.rows[-1][0]}",
            expected=f"ids such as {min(ids)}",
        )
    return named


def plain_id(name: str) -> str:
    """An id without folders and without an image's extension."""
    path = PurePosixPath(name.strip())
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def area_of(text: str, table: Table, row: int) -> int:
    if not (text.isascii() and text.isdigit()):
        raise GatemaskError("A mask's area is not a whole number.", where=table.where(row), received=text or "nothing")
    return int(text)
