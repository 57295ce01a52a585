"""The rows of a submission: what the cells of a line, or the name of a file, say about image and class.

A row is one class of an image, whatever the file looks like: a line of a table with the class in a column or in the id,
a cell of a wide table, several lines where each object has its own, or pixels of a mask file in an archive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gatemask.config import Competition, Rle, SubmissionSettings
from gatemask.data.ids import DEFAULT, IdRule, test_rule, without_extension
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.storage import reserve

ROW_BYTES = 8_000  # length of one encoded mask, a generous estimate


class Row(NamedTuple):
    """One row of a submission: a class of an image.

    Args:
        name: Content of the id column; in an archive, the name of the file.
        image_id: Id of the image: the name without class and file extension.
        class_index: Position in the competition's `classes`.
    """

    name: str
    image_id: str
    class_index: int

    @property
    def key(self) -> tuple[str, int]:
        """Image id and class index."""
        return self.image_id, self.class_index


Encoded = Mapping[tuple[str, int], Sequence[str]]  # texts of a class of an image: one mask, or one per object


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
    def mask_columns(self) -> list[str]:
        """Columns that hold masks."""
        if self.settings.columns:
            return [self.settings.columns[name] for name in self.classes]
        return [self.settings.mask]

    @property
    def columns(self) -> list[str]:
        """Header of a file that follows no sample."""
        class_column = [self.settings.class_column] if self.settings.class_column else []
        return [self.settings.id, *class_column, *self.mask_columns]

    @property
    def dialect(self) -> Rle:
        """Dialect of encoded masks; those of an archive are encoded inside gatemask only."""
        return self.settings.rle if self.settings.archive is None else rle.INTERNAL

    @property
    def shares_names(self) -> bool:
        """Whether one line, or one file of an archive, holds all classes of an image."""
        archive = self.settings.archive
        return bool(self.settings.columns) or (archive is not None and not archive.per_class)

    def parse_row(self, cells: Mapping[str, str], where: object) -> Row:
        """Return the row that belongs to the given cells; of a line with all classes, that of the first class.

        Args:
            cells: Cells of one line of the file, by column.
            where: File and line, for messages.

        Raises:
            GatemaskError: The class of the row is unknown.
        """
        name = (cells[self.settings.id] or "").strip()
        if self.settings.joined:
            return self._parse_name(name, where)
        if not self.settings.class_column:
            return Row(name, self.rule.of_cell(name), 0)
        label = (cells[self.settings.class_column] or "").strip()
        if label not in self.classes:
            raise _unknown_class(where, label, self.classes)
        return Row(name, self.rule.of_cell(name), list(self.classes).index(label))

    def parse_line(self, cells: Mapping[str, str], where: object) -> list[tuple[Row, str]]:
        """Return the rows of one line of a table, each with its mask; arguments as for `parse_row`."""
        row = self.parse_row(cells, where)
        if not self.settings.columns:
            return [(row, cells[self.settings.mask])]
        return [(row._replace(class_index=index), cells[column]) for index, column in enumerate(self.mask_columns)]

    def parse_file(self, name: str, where: object) -> list[Row]:
        """Return the rows of one file of an archive.

        Args:
            name: Its name.
            where: The archive, for messages.

        Raises:
            GatemaskError: The name does not fit `archive.files`.
        """
        row = self._parse_name(name, where)
        if not self.shares_names:
            return [row]
        return [row._replace(class_index=index) for index in range(len(self.classes))]

    def file_values(self) -> dict[int, int]:
        """Return the value of the pixels of each class in the files of an archive, by class index."""
        archive = self.settings.archive
        assert archive is not None
        return {index: archive.value(self.classes, index) for index in range(len(self.classes))}

    def _parse_name(self, name: str, where: object) -> Row:
        """Return the row of a name that contains an id, and perhaps a class."""
        fitting = []
        for index, label in enumerate(self.classes):
            before, after = self._around(index)
            if len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after):
                fitting.append((len(label), -index))
        if not fitting:
            raise _unknown_class(where, name, ["{id}".join(self._around(index)) for index in range(len(self.classes))])
        # Of classes such as "bowel" and "large_bowel" both fit; an id that ends like a class is the rarer case.
        index = -max(fitting)[1]
        before, after = self._around(index)
        return Row(name, self.rule.of_cell(name[len(before) : len(name) - len(after)]), index)

    def _around(self, class_index: int) -> tuple[str, str]:
        """Return the text before, and after, the id in the name of a row."""
        archive = self.settings.archive
        pattern = archive.files if archive is not None else self.settings.joined or "{id}"
        before, _, after = pattern.partition("{id}")
        label = self.classes[class_index]
        return before.replace("{class}", label), after.replace("{class}", label)

    def rename_row(self, row: Row, image_id: str, file: str = "") -> Row:
        """Return the same row for another image; folder, extension and class in the name are kept.

        Args:
            row: The row.
            image_id: Id of the other image.
            file: Path of the other image, for names that are the end of a path. Default: none.

        Raises:
            GatemaskError: No such name gives the other image's id.
        """
        before, after = self._around(row.class_index)
        old = row.name[len(before) : len(row.name) - len(after)]
        *folders, last = re.split(r"(?<=[/\\])", old)
        extension = last[len(without_extension(last)) :]
        # The name is an id, perhaps behind a folder; or it is a path that ends like the image's.
        end = "/".join(file.split("/")[-1 - len(folders) :])
        names = ["".join(folders) + image_id + extension, without_extension(end) + extension]
        for name in names:
            if self.rule.of_cell(name) == image_id:
                return Row(before + name + after, image_id, row.class_index)
        raise GatemaskError(
            "A row of the sample submission cannot be renamed for a hidden image.",
            where=row.name,
            received=" or ".join(names),
            expected=f"a name with the id {image_id}",
            do="Correct test.images and test.id in competition.yaml.",
        )

    def plain_row(self, image_id: str, class_index: int) -> Row:
        """Return the row of an image and class as the format names it without a sample."""
        before, after = self._around(class_index)
        return Row(before + image_id + after, image_id, class_index)

    def for_class(self, row: Row, class_index: int) -> Row:
        """Return the row of another class of the same image."""
        before, after = self._around(row.class_index)
        written = row.name[len(before) : len(row.name) - len(after)]
        before, after = self._around(class_index)
        return Row(before + written + after, row.image_id, class_index)


def _unknown_class(where: object, received: str, expected: Sequence[str]) -> GatemaskError:
    return GatemaskError(
        "Unknown class in a submission row.", where=where, received=received, expected=", ".join(expected)
    )


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
            reserve(file, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise GatemaskError(
            "Not enough disk space for the submission.",
            where=path.parent,
            received=error.strerror or str(error),
            expected=f"{size / 1e6:.0f} MB",
        ) from None
