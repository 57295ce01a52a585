"""Describe, read and write the rows of a submission file, and of the sample submission."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gatemask.config import Competition, SubmissionSettings
from gatemask.data.ids import ADVICE, DEFAULT, IdRule, shared_ids, test_rule, without_extension
from gatemask.errors import GatemaskError
from gatemask.files import write_text

ROW_BYTES = 8_000  # length of one encoded mask, a generous estimate


class Row(NamedTuple):
    """One row of a submission: a class of an image.

    Args:
        name: Content of the id column.
        image_id: Id of the image: the name without class and file extension.
        class_index: Position in the competition's `classes`.
    """

    name: str
    image_id: str
    class_index: int


@dataclass(frozen=True)
class SubmissionFormat:
    """Columns, ids and classes of a competition's submission file.

    Args:
        settings: Section `submission` of competition.yaml.
        classes: Names of the classes, in order.
        rule: How ids of test images are made. Default: from the name of the file.
    """

    settings: SubmissionSettings
    classes: Sequence[str]
    rule: IdRule = DEFAULT

    @classmethod
    def of(cls, comp: Competition) -> SubmissionFormat:
        """Return the format of a competition."""
        return cls(comp.submission, comp.classes, test_rule(comp))

    @property
    def columns(self) -> list[str]:
        """Header of a file that follows no sample."""
        class_column = [self.settings.class_column] if self.settings.class_column else []
        return [self.settings.id, *class_column, self.settings.mask]

    def parse_row(self, cells: Mapping[str, str | None], where: object) -> Row:
        """Return the row that belongs to the given cells.

        Args:
            cells: Cells of one line of the file, by column.
            where: File and line, for messages.

        Raises:
            GatemaskError: The class of the row is unknown.
        """
        name = (cells[self.settings.id] or "").strip()
        if self.settings.joined:
            prefix, joint = self._joints()
            matching = [label for label in self.classes if name.endswith(joint + label) and name.startswith(prefix)]
            if not matching:
                raise _unknown_class(where, name, [joint + label for label in self.classes])
            # Of classes such as "bowel" and "large_bowel" both match; an id that ends like a class is the rarer case.
            label = max(matching, key=len)
            image_id = self.rule.of_cell(name[len(prefix) : -len(joint + label)])
            return Row(name, image_id, list(self.classes).index(label))
        if not self.settings.class_column:
            return Row(name, self.rule.of_cell(name), 0)
        label = (cells[self.settings.class_column] or "").strip()
        if label not in self.classes:
            raise _unknown_class(where, label, self.classes)
        return Row(name, self.rule.of_cell(name), list(self.classes).index(label))

    def rename_row(self, row: Row, image_id: str, file: str = "") -> Row:
        """Return the same row for another image; folder, extension and class in the name are kept.

        Args:
            row: The row.
            image_id: Id of the other image.
            file: Path of the other image, for names that are the end of a path. Default: none.

        Raises:
            GatemaskError: No such name gives the other image's id.
        """
        prefix = suffix = ""
        if self.settings.joined:
            prefix, joint = self._joints()
            suffix = joint + self.classes[row.class_index]
        old = row.name[len(prefix) : len(row.name) - len(suffix)]
        *folders, last = re.split(r"(?<=[/\\])", old)
        extension = last[len(without_extension(last)) :]
        # The name is an id, perhaps behind a folder; or it is a path that ends like the image's.
        end = "/".join(file.split("/")[-1 - len(folders) :])
        names = ["".join(folders) + image_id + extension, without_extension(end) + extension]
        for name in names:
            if self.rule.of_cell(name) == image_id:
                return Row(prefix + name + suffix, image_id, row.class_index)
        raise GatemaskError(
            "A row of the sample submission cannot be renamed for a hidden image.",
            where=row.name,
            received=" or ".join(names),
            expected=f"a name with the id {image_id}",
            do="Correct test.images and test.id in competition.yaml.",
        )

    def read_sample(self, path: Path, shared_allowed: bool = False) -> SubmissionTable:
        """Read header and rows of the sample submission, each row once, in its order.

        Args:
            path: The sample submission.
            shared_allowed: Whether different rows may become one id. Default: False.

        Raises:
            GatemaskError: The file or a column is missing, a class is unknown, or two rows become one id.
        """
        header, lines = self._read_sample(path)
        rows = [self.parse_row(line, path) for line in lines]
        table = SubmissionTable(self, header, list(dict.fromkeys(rows)))
        if (shared := table.shared_ids()) and not shared_allowed:
            image_id, names = next(iter(shared.items()))
            raise GatemaskError(
                "Several rows of the sample submission have one id.",
                where=path,
                received=f"{len(shared)} such ids, the first {image_id}: {', '.join(names[:3])}",
                expected="one image per id",
                do=ADVICE,
            )
        return table

    def read_sample_masks(self, path: Path) -> list[str]:
        """Return the masks of the sample submission as they are written, one per line."""
        _, lines = self._read_sample(path)
        return [(line[self.settings.mask] or "").strip() for line in lines]

    def _read_sample(self, path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
        """Return header and lines of the sample submission."""
        if not path.is_file():
            raise GatemaskError("The sample submission is missing.", where=path.parent, expected=path.name)
        allow_long_cells()
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            try:
                lines = list(reader)
            except (csv.Error, UnicodeDecodeError) as error:
                raise GatemaskError("The sample submission is not a CSV table.", where=path, received=error) from None
        header = [(name or "").strip() for name in reader.fieldnames or []]
        self._check_header(header, path)
        return header, [{(name or "").strip(): value for name, value in line.items()} for line in lines]

    def table_of(self, image_ids: Iterable[str]) -> SubmissionTable:
        """Return the table for the given images, for competitions without a sample submission."""
        rows = []
        for image_id in image_ids:
            for index, label in enumerate(self.classes):
                joined = self.settings.joined
                name = joined.replace("{id}", image_id).replace("{class}", label) if joined else image_id
                rows.append(Row(name, image_id, index))
        return SubmissionTable(self, self.columns, rows)

    def _joints(self) -> tuple[str, str]:
        """Return the text before the id, and the text between id and class."""
        assert self.settings.joined is not None
        prefix, rest = self.settings.joined.split("{id}")
        return prefix, rest.removesuffix("{class}")

    def _check_header(self, header: Sequence[str], path: Path) -> None:
        if missing := [name for name in self.columns if name not in header]:
            id_is_missing = missing[0] == self.settings.id
            raise GatemaskError(
                f"The sample submission lacks {'the id column' if id_is_missing else 'a column'}.",
                where=path,
                received=", ".join(header),
                expected=", ".join(self.columns),
            )
        if unknown := [name for name in header if name not in self.columns]:
            raise GatemaskError(
                "The sample submission has a column that gatemask does not fill.",
                where=path,
                received=", ".join(unknown),
                expected=", ".join(self.columns),
                do="Correct the section submission of competition.yaml: id, mask, and class_column for several "
                "classes.",
            )


@dataclass(frozen=True)
class SubmissionTable:
    """Header and rows of one submission file, in the order in which they are written.

    Args:
        format: Format of the file.
        header: Names of the columns.
        rows: Rows, each once.
    """

    format: SubmissionFormat
    header: Sequence[str]
    rows: Sequence[Row]

    def shared_ids(self) -> dict[str, list[str]]:
        """Return the names of each image that several rows of one class have."""
        rows = [(f"{row.class_index} {row.image_id}", row.name) for row in self.rows]
        return {key.split(" ", 1)[1]: names for key, names in shared_ids(rows).items()}

    def write(self, path: Path, encoded: Mapping[tuple[str, int], str]) -> Path:
        """Write the file.

        Args:
            path: Name of the file.
            encoded: Encoded masks by image id and class index; rows that are not listed get an empty mask.
        """
        settings = self.format.settings
        lines = [",".join(map(_quote, self.header))]
        for row in self.rows:
            cells = {
                settings.id: row.name,
                settings.mask: encoded.get((row.image_id, row.class_index), settings.rle.empty),
                settings.class_column or "": self.format.classes[row.class_index],
            }
            lines.append(",".join(_quote(cells[name]) for name in self.header))
        return write_text(path, "\n".join(lines) + "\n")


def _unknown_class(where: object, received: str, expected: Sequence[str]) -> GatemaskError:
    return GatemaskError(
        "Unknown class in a submission row.", where=where, received=received, expected=", ".join(expected)
    )


def _quote(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(character in cell for character in ',"\n\r') else cell


def allow_long_cells() -> None:
    """Lift the csv module's limit on the length of a cell: masks of large images exceed it."""
    csv.field_size_limit(sys.maxsize)


def reserve_disk_space(path: Path, rows: int) -> None:
    """Fill a file with zeros, so that deleting it leaves enough space for a submission.

    Args:
        path: The file to fill.
        rows: Number of rows of the submission.

    Raises:
        GatemaskError: The disk is too full.
    """
    size = min(max(1 << 20, rows * ROW_BYTES), 1 << 28)
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise GatemaskError(
            "Not enough disk space for the submission.",
            where=path.parent,
            received=error.strerror or str(error),
            expected=f"{size / 1e6:.0f} MB",
        ) from None
