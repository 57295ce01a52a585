"""Rows of a submission: which ones there must be, in which order, and the file itself."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gatemask.data.fold_files import plain_id
from gatemask.errors import GatemaskError
from gatemask.files import write_text

ROW_BYTES = 8_000  # of a mask's text, generously


class Row(NamedTuple):
    """One row.

    Args:
        name: what stands in the id column.
        image_id: the image: the name without class and extension.
        class_index: in the competition's `classes`.
    """

    name: str
    image_id: str
    class_index: int


def of_sample(path: Path, submission: Mapping[str, Any], classes: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Header and rows of the sample submission, each row once, in its order.

    Args:
        path: the sample.
        submission: competition.yaml's section.
        classes: their names, in order.

    Raises:
        GatemaskError: no such file, column or class.
    """
    if not path.is_file():
        raise GatemaskError("The sample submission is not there.", where=path.parent, expected=path.name)
    lift_limit()
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            table = list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise GatemaskError("The sample submission is no table.", where=path, received=error) from None
    names = [(name or "").strip() for name in reader.fieldnames or []]
    wanted = columns(submission)
    if lacking := [name for name in wanted if name not in names]:
        what = "The sample submission lacks the id column." if lacking[0] == wanted[0] else "It lacks a column."
        raise GatemaskError(what, where=path, received=", ".join(names), expected=", ".join(wanted))
    if unknown := [name for name in names if name not in wanted]:
        raise GatemaskError(
            "The sample submission has a column that nobody fills.",
            where=path,
            received=", ".join(unknown),
            expected=", ".join(wanted),
            do="Correct submission in competition.yaml: id, mask, and class_column of several classes.",
        )
    cells = [{(key or "").strip(): value for key, value in row.items()} for row in table]
    rows = [row(cell, submission, classes, path) for cell in cells]
    return names, list(dict.fromkeys(rows))


def row(cell: Mapping[str, Any], submission: Mapping[str, Any], classes: Sequence[str], where: object) -> Row:
    """The row that some cells, by column, belong to.

    Raises:
        GatemaskError: its class is none of `classes`.
    """
    name = (cell[submission["id"]] or "").strip()
    if submission.get("joined"):
        before, between = _joints(submission["joined"])
        fits = [one for one in classes if name.endswith(between + one) and name.startswith(before)]
        if not fits:
            raise _no_class(where, name, [between + one for one in classes])
        # Of classes such as "bowel" and "large_bowel" both fit; an id that ends like a class is the rarer case.
        found = max(fits, key=len)
        return Row(name, plain_id(name[len(before) : -len(between + found)]), list(classes).index(found))
    if not submission.get("class_column"):
        return Row(name, plain_id(name), 0)
    class_name = (cell[submission["class_column"]] or "").strip()
    if class_name not in classes:
        raise _no_class(where, class_name, classes)
    return Row(name, plain_id(name), list(classes).index(class_name))


def renamed(row: Row, image_id: str, submission: Mapping[str, Any], classes: Sequence[str]) -> Row:
    """The row of another image; what stands around the id stays."""
    before = after = ""
    if submission.get("joined"):
        before, between = _joints(submission["joined"])
        after = between + classes[row.class_index]
    named = row.name[len(before) : len(row.name) - len(after)]
    start = named.rfind("/") + 1  # some samples name files with their folders
    return Row(
        before + named[:start] + image_id + named[start + len(row.image_id) :] + after, image_id, row.class_index
    )


def lift_limit() -> None:
    """A mask of a large image is longer than what the csv module takes for a cell by itself."""
    csv.field_size_limit(sys.maxsize)


def _joints(joined: str) -> tuple[str, str]:
    """What stands before the id, and between id and class."""
    before, rest = joined.split("{id}")
    return before, rest.removesuffix("{class}")


def _no_class(where: object, received: str, expected: Sequence[str]) -> GatemaskError:
    return GatemaskError(
        "A row of a submission is of no class.", where=where, received=received, expected=", ".join(expected)
    )


def of_images(ids: Iterable[str], submission: Mapping[str, Any], classes: Sequence[str]) -> list[Row]:
    """The rows for images, where no sample tells them."""
    found = []
    for image_id in ids:
        for index, class_name in enumerate(classes):
            joined = submission.get("joined")
            name = joined.replace("{id}", image_id).replace("{class}", class_name) if joined else image_id
            found.append(Row(name, image_id, index))
    return found


def columns(submission: Mapping[str, Any]) -> list[str]:
    """The header, where no sample has another order."""
    middle = [submission["class_column"]] if submission.get("class_column") else []
    return [submission["id"], *middle, submission["mask"]]


def write(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Row],
    texts: Mapping[tuple[str, int], str],
    submission: Mapping[str, Any],
    classes: Sequence[str],
) -> Path:
    """One row after the other; what has no text in `texts` is empty."""
    empty = submission["rle"]["empty"]
    lines = [",".join(map(_quoted, header))]
    for one in rows:
        cells = {
            submission["id"]: one.name,
            submission["mask"]: texts.get((one.image_id, one.class_index), empty),
            submission.get("class_column") or "": classes[one.class_index],
        }
        lines.append(",".join(_quoted(cells[name]) for name in header))
    return write_text(path, "\n".join(lines) + "\n")


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\n\r') else cell


def take_room(path: Path, count: int) -> None:
    """Room on the disk for so many rows, taken before the first image; who deletes the file has it for the last write.

    Raises:
        GatemaskError: there is no such room.
    """
    size = min(max(1 << 20, count * ROW_BYTES), 1 << 28)
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise GatemaskError(
            "There is no room for the submission.",
            where=path.parent,
            received=error.strerror or str(error),
            expected=f"{size / 1e6:.0f} MB",
        ) from None
