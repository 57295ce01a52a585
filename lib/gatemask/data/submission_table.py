"""Write a submission file, and read the sample submission: rows in order, and how the file is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gatemask.data import submission_archive
from gatemask.data.ids import ADVICE, shared_ids
from gatemask.data.mask_sizes import MaskSizes
from gatemask.data.submission_csv import CsvStyle, read_csv_lines
from gatemask.data.submission_format import Encoded, Row, SubmissionFormat
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.masks import rle


@dataclass(frozen=True)
class SubmissionTable:
    """Rows of one submission file, in the order in which they are written, and how the file is written.

    Args:
        format: Format of the file.
        header: Names of the columns; none of an archive.
        rows: Rows, each once.
        style: Delimiter and quoting. Default: commas, quotes only where they are needed.
        unlisted: Rows of images that the sample does not list: they are written for objects only. Default: none.
    """

    format: SubmissionFormat
    header: Sequence[str]
    rows: Sequence[Row]
    style: CsvStyle = field(default_factory=CsvStyle)
    unlisted: Sequence[Row] = ()

    @property
    def image_ids(self) -> list[str]:
        """Ids of all images, each once."""
        return list(dict.fromkeys(row.image_id for row in [*self.rows, *self.unlisted]))

    def shared_ids(self) -> dict[str, list[str]]:
        """Return the names of each image that several rows of one class have."""
        rows = [(f"{row.class_index} {row.image_id}", row.name) for row in self.rows]
        return {key.split(" ", 1)[1]: names for key, names in shared_ids(rows).items()}

    def for_images(self, files: Mapping[str, str]) -> SubmissionTable:
        """Return a table with rows for other images, named as in this one.

        Args:
            files: Path of each image, by id.
        """
        rows = []
        for image_id, file in files.items():
            try:
                first = (
                    self.format.rename_row(self.rows[0], image_id, file)
                    if self.rows
                    else self.format.plain_row(image_id, 0)
                )
            except GatemaskError:  # the sample's names follow no rule
                first = self.format.plain_row(image_id, 0)
            rows += [self.format.for_class(first, index) for index in range(len(self.format.classes))]
        return replace(self, rows=rows, unlisted=())

    def with_unlisted(self, files: Mapping[str, str]) -> SubmissionTable:
        """Return a table that has room for the objects of images that it does not list; itself for other formats.

        Args:
            files: Path of each image, by id.
        """
        if not self.format.settings.by_object:
            return self
        listed = {row.image_id for row in self.rows}
        others = {image_id: file for image_id, file in files.items() if image_id not in listed}
        return replace(self, unlisted=self.for_images(others).rows)

    def write(self, path: Path, encoded: Encoded, sizes: MaskSizes | None = None) -> Path:
        """Write the file.

        Args:
            path: Name of the file.
            encoded: Encoded masks, or objects; rows that are not listed get an empty mask.
            sizes: Sizes of the masks. Needed for an archive only.
        """
        settings = self.format.settings
        if settings.archive is not None:
            assert sizes is not None
            return submission_archive.write_archive(
                path,
                self._mask_files(encoded, sizes),
                tiff=settings.archive.format == "tiff",
                deepest=max(self.format.file_values().values()),
            )
        lines = [self.style.header(self.header)]
        for cells in self._lines(encoded):
            row = cells[0][0]
            by_column = {
                settings.id: row.name,
                settings.class_column or "": self.format.classes[row.class_index] if settings.class_column else "",
                **{self._mask_column(of): text for of, text in cells},
            }
            lines.append(self.style.line([by_column.get(name, "") for name in self.header]))
        return write_text(path, "\n".join(lines) + "\n")

    def _mask_column(self, row: Row) -> str:
        return self.format.mask_columns[row.class_index if self.format.settings.columns else 0]

    def _lines(self, encoded: Encoded) -> Iterator[list[tuple[Row, str]]]:
        """Yield the lines of a table, each as its rows with their masks."""
        empty = self.format.settings.rle.empty
        if self.format.settings.by_object:
            yield from ([line] for line in self._object_lines(encoded, empty))
            return
        for rows in self._by_name() if self.format.shares_names else ([row] for row in self.rows):
            yield [(row, next(iter(encoded.get(row.key, ())), empty)) for row in rows]

    def _by_name(self) -> list[list[Row]]:
        """Return the rows of each name."""
        by_name: dict[str, list[Row]] = {}
        for row in self.rows:
            by_name.setdefault(row.name, []).append(row)
        return list(by_name.values())

    def _object_lines(self, encoded: Encoded, empty: str) -> Iterator[tuple[Row, str]]:
        """Yield a line for each object.

        An image that the sample lists has at least one line: one per class if the sample lists it with every class.
        """
        listed: dict[str, list[Row]] = {}
        for row in self.rows:
            listed.setdefault(row.image_id, []).append(row)
        done = set[str]()
        for row in self.rows:
            rows = listed[row.image_id]
            if len(rows) == len(self.format.classes):
                yield from ((row, text) for text in encoded.get(row.key) or [empty])
            elif row.image_id not in done:
                done.add(row.image_id)
                present = {of.class_index for of in rows}
                others = [self.format.for_class(row, i) for i in range(len(self.format.classes)) if i not in present]
                lines = [(of, text) for of in [*rows, *others] for text in encoded.get(of.key, ())]
                yield from lines or [(of, empty) for of in rows]
        for row in self.unlisted:
            yield from ((row, text) for text in encoded.get(row.key, ()))

    def _mask_files(self, encoded: Encoded, sizes: MaskSizes) -> Iterator[submission_archive.MaskFile]:
        values = self.format.file_values()
        for rows in self._by_name():
            size = sizes[rows[0].image_id]
            masks = [
                (values[row.class_index], rle.decode(text, size, where=row.name))
                for row in rows
                for text in encoded.get(row.key, ())
            ]
            yield submission_archive.MaskFile(rows[0].name, size, masks)


def read_sample(layout: SubmissionFormat, path: Path, shared_allowed: bool = False) -> SubmissionTable:
    """Read header and rows of the sample submission, each row once, in its order.

    Args:
        layout: Format of the file.
        path: The sample submission.
        shared_allowed: Whether different rows may become one id. Default: False.

    Raises:
        GatemaskError: The file or a column is missing, a class is unknown, or two rows become one id.
    """
    if layout.settings.archive is not None:
        names = submission_archive.file_names(path)
        table = SubmissionTable(layout, [], [row for name in names for row in layout.parse_file(name, path)])
    else:
        sample = read_csv_lines(path, layout.columns)
        _check_header(layout, sample.header, sample.lines, path)
        lines = [dict(zip(sample.header, line, strict=True)) for line in sample.lines]
        rows = [row for line in lines for row, _ in layout.parse_line(line, path)]
        table = SubmissionTable(layout, sample.header, list(dict.fromkeys(rows)), sample.style)
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


def read_sample_masks(layout: SubmissionFormat, path: Path) -> list[str]:
    """Return the masks of the sample submission as they are written, one per row; none of an archive."""
    if layout.settings.archive is not None:
        return []
    sample = read_csv_lines(path, layout.columns)
    _check_header(layout, sample.header, sample.lines, path)
    places = [sample.header.index(name) for name in layout.mask_columns]
    return [line[place].strip() for line in sample.lines for place in places]


def table_of(layout: SubmissionFormat, image_ids: Iterable[str]) -> SubmissionTable:
    """Return the table for the given images, for competitions without a sample submission."""
    rows = []
    for image_id in image_ids:
        rows += [layout.plain_row(image_id, index) for index in range(len(layout.classes))]
    return SubmissionTable(layout, [] if layout.settings.archive else layout.columns, rows)


def _check_header(layout: SubmissionFormat, header: Sequence[str], lines: Sequence[Sequence[str]], path: Path) -> None:
    if missing := [name for name in layout.columns if name not in header]:
        id_is_missing = missing[0] == layout.settings.id
        raise GatemaskError(
            f"The sample submission lacks {'the id column' if id_is_missing else 'a column'}.",
            where=path,
            received=", ".join(header),
            expected=", ".join(layout.columns),
        )
    # Columns without a name and content are written as they are.
    blank = [not name and not any(line[place].strip() for line in lines) for place, name in enumerate(header)]
    if unknown := [name for name, empty in zip(header, blank, strict=True) if name not in layout.columns and not empty]:
        raise GatemaskError(
            "The sample submission has a column that gatemask does not fill.",
            where=path,
            received=", ".join(name or "a column without a name" for name in unknown),
            expected=", ".join(layout.columns),
            do="Correct the section submission of competition.yaml: id, mask, and for several classes class_column "
            "or columns.",
        )
    if repeated := [name for name in layout.columns if list(header).count(name) > 1]:
        raise GatemaskError("The sample submission has a column twice.", where=path, received=repeated[0])
