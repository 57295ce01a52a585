"""Read the rows of a submission file, one at a time, in any of the formats."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Competition
from gatemask.data import submission_archive
from gatemask.data.mask_sizes import MaskSizes
from gatemask.data.submission_csv import allow_long_cells
from gatemask.data.submission_format import Row, SubmissionFormat
from gatemask.data.submission_table import SubmissionTable, table_of
from gatemask.errors import GatemaskError
from gatemask.masks import rle


class SubmissionLine(NamedTuple):
    """One row of a submission file, its mask still encoded.

    Args:
        row: Image and class.
        encoded: The mask, run-length encoded in the dialect of the file; `rle.INTERNAL` for an archive.
        where: File and line, for messages.
    """

    row: Row
    encoded: str
    where: str


def read_lines(
    path: Path, comp: Competition, table: SubmissionTable | None = None, sizes: MaskSizes | None = None
) -> Iterator[SubmissionLine]:
    """Yield the rows of a submission in the order of the file.

    Args:
        path: The submission file.
        comp: Competition, for the format.
        table: Header and delimiter of the sample. Default: those of competition.yaml.
        sizes: Sizes of the masks, for the files of an archive. Default: those of competition.yaml.

    Raises:
        GatemaskError: The file is missing, or is not in the competition's format.
    """
    name = comp.submission.file_name
    if not path.is_file():
        raise invalid("The submission file is missing.", path, "nothing", name)
    table = table or table_of(SubmissionFormat.of(comp), [])
    if comp.submission.archive is not None:
        yield from _read_archive(path, table.format, sizes or MaskSizes.of(comp.image))
        return
    allow_long_cells()
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter=table.style.delimiter)
        try:
            header = next(reader, None)
            if header is None or sorted(header) != sorted(table.header):
                expected = ", ".join(table.header)
                raise invalid("The header differs from the sample's.", path, header or "an empty file", expected)
            for number, cells in enumerate(reader, start=2):
                where = f"{path}, row {number}"
                width = len(header) + table.style.trailing
                if len(cells) != width:
                    raise invalid("A row has the wrong number of columns.", where, len(cells), width)
                yield from _parse_line(dict(zip(header, cells, strict=False)), table.format, where)
        except (csv.Error, UnicodeDecodeError) as error:
            raise invalid("The submission is not a CSV table.", path, error, "CSV in UTF-8") from None


def _parse_line(cells: dict[str, str], layout: SubmissionFormat, where: str) -> Iterator[SubmissionLine]:
    name, empty = cells[layout.settings.id], layout.settings.rle.empty
    if name != name.strip():
        raise invalid("An id has spaces around it.", where, repr(name), repr(name.strip()))
    for row, encoded in layout.parse_line(cells, where):
        if not encoded.isascii():
            expected = "digits, spaces and the text for an empty mask"
            raise invalid("A mask contains a character that is not ASCII.", where, ascii(encoded)[:60], expected)
        if not encoded.strip() and empty:
            raise invalid("A mask is blank.", where, "nothing", f"'{empty}' for an empty mask")
        yield SubmissionLine(row, encoded, f"{where}, image {row.image_id}")


def _read_archive(path: Path, layout: SubmissionFormat, sizes: MaskSizes) -> Iterator[SubmissionLine]:
    values = layout.file_values()
    for name, pixels in submission_archive.read_archive(path):
        where = f"{path}, {name}"
        rows = layout.parse_file(name, where)
        image_id = rows[0].image_id
        # An image that cannot be read has no size, and no mask.
        if (sizes.known(image_id) or pixels.any()) and pixels.shape != sizes[image_id]:
            raise invalid("A mask has the wrong size.", where, pixels.shape, sizes[image_id])
        masks = submission_archive.masks_in(pixels, {row.class_index: values[row.class_index] for row in rows}, where)
        for row in rows:
            yield SubmissionLine(row, rle.encode(masks[row.class_index]), f"{where}, image {row.image_id}")


def read_masks(path: Path, comp: Competition, sizes: MaskSizes | None = None) -> Iterator[tuple[Row, np.ndarray]]:
    """Yield each row with its decoded mask, bool (height, width); arguments as for `read_lines`."""
    sizes = sizes or MaskSizes.of(comp.image)
    dialect = SubmissionFormat.of(comp).dialect
    for line in read_lines(path, comp, sizes=sizes):
        yield line.row, rle.decode(line.encoded, sizes[line.row.image_id], dialect, line.where)


def by_image(lines: Iterable[SubmissionLine]) -> dict[str, list[SubmissionLine]]:
    """Return the rows of each image, in the order of the file."""
    grouped: dict[str, list[SubmissionLine]] = {}
    for line in lines:
        grouped.setdefault(line.row.image_id, []).append(line)
    return grouped


def invalid(what: str, where: object, received: object, expected: object, cause: str = "") -> GatemaskError:
    """Return the error about a submission that must not be submitted; its cause, if one is known, comes first."""
    return GatemaskError(
        what,
        where=where,
        received=received,
        expected=expected,
        do=f"{cause}Do not submit this file; run gatemask package and gatemask rehearse again.",
    )
