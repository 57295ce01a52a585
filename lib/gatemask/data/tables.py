"""Read CSV files as people publish them: byte-order mark, CRLF, blanks around cells, no header. Cells stay text."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gatemask.data.ids import DEFAULT, IdRule, ids_of_cells
from gatemask.errors import GatemaskError, nearest


@dataclass
class Table:
    """A CSV in memory.

    Args:
        file: Path of the CSV.
        header: Names of the columns; "0", "1", ... where the file has no header.
        rows: Stripped cells, as many per row as the header has.
        lines: Line of each row in the file, from 1.
        has_names: Whether the file has a header.
    """

    file: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    has_names: bool = True

    def column(self, name: str | int) -> list[str]:
        """Return the cells of a column.

        Args:
            name: Name of the column, or its number from 0.

        Raises:
            GatemaskError: The column does not exist, or its name is repeated.
        """
        index = self._index(name)
        return [row[index] for row in self.rows]

    def ids(self, name: str | int, rule: IdRule = DEFAULT) -> list[str]:
        """Return the image ids in a column.

        Args:
            name: Name of the column, or its number from 0.
            rule: How ids are made. Default: from the name of the file.

        Raises:
            GatemaskError: The column does not exist, or paths of different folders become one id.
        """
        return ids_of_cells(self.column(name), rule, self.where)

    def where(self, row: int) -> str:
        """Return the place of a row, for messages."""
        return f"{self.file}, row {self.lines[row]}"

    def where_cells_are(self, values: Mapping[str, str | int | Sequence[str | int]]) -> Table:
        """Return the rows that have given values.

        Args:
            values: Value by column, or several values of which a row needs one.

        Raises:
            GatemaskError: A column does not exist, or no row has these values.
        """
        kept = list(range(len(self.rows)))
        for name, value in values.items():
            cells = self.column(name)
            wanted = {str(one) for one in ([value] if isinstance(value, str | int) else value)}
            kept = [row for row in kept if cells[row] in wanted]
            if not kept or (missing := wanted - set(cells)):
                value = ", ".join(sorted(missing if kept else wanted))
                raise GatemaskError(
                    f"No row of a table has the value {value!r} in the column '{name}'.",
                    where=self.file,
                    received=", ".join(sorted(set(cells))[:8]),
                    do="Correct the value under 'where'.",
                )
        return self.with_rows(kept)

    def with_rows(self, rows: Sequence[int]) -> Table:
        """Return the table with some of its rows, given by index."""
        return replace(self, rows=[self.rows[row] for row in rows], lines=[self.lines[row] for row in rows])

    def with_cells(self, name: str | int, cells: Sequence[str]) -> Table:
        """Return the table with other cells in a column."""
        index = self._index(name)
        rows = [[*row[:index], cell, *row[index + 1 :]] for row, cell in zip(self.rows, cells, strict=True)]
        return replace(self, rows=rows)

    def _index(self, name: str | int) -> int:
        if isinstance(name, int) and name < len(self.header):
            return name
        if self.header.count(str(name)) > 1:
            raise GatemaskError(
                f"The column '{name}' is repeated.",
                where=self.file,
                received=", ".join(self.header),
                expected="one column of this name",
                do="Rename or remove one of them.",
            )
        if name in self.header:
            return self.header.index(str(name))
        close = nearest(str(name), self.header)
        raise GatemaskError(
            f"A table lacks the column '{name}'.",
            where=self.file,
            received=", ".join(self.header),
            do=_separator_hint(self.header)
            or (f"Did you mean '{close}'?" if close else "Correct the column's name in competition.yaml."),
        )


def read_table(file: Path, columns: Sequence[str | int] = (), header: bool = True) -> Table:
    """Read a CSV and check its columns; blank lines are skipped.

    Args:
        file: Path of the CSV.
        columns: Columns it must have, by name or number.
        header: Whether its first row names the columns.

    Raises:
        GatemaskError: The file is missing, empty or not CSV in UTF-8, a row has another length, or a column is missing
            or repeated.
    """
    if not file.is_file():
        raise GatemaskError(
            "The table does not exist.", where=file, do="Correct the path in competition.yaml, or name --data."
        )
    _reject_json(file)
    lines, rows = _read_rows(file)
    if not rows:
        raise GatemaskError("A table is empty.", where=file, expected="a header and rows", do="Download it again.")
    names = rows.pop(0) if header else [str(number) for number in range(len(rows[0]))]
    table = Table(file, names, rows, lines[1:] if header else lines, header)
    if not columns and (hint := _separator_hint(rows[0] if rows and not header else names)):
        received = (rows[0] if rows and not header else names)[0]
        raise GatemaskError("A table has one column only.", where=file, received=received[:80], do=hint)
    for number, cells in enumerate(rows):
        if len(cells) != len(names):
            raise GatemaskError(
                "A row has another number of cells than the first.",
                where=table.where(number),
                received=f"{len(cells)}: {','.join(cells)[:60]}",
                expected=f"{len(names)}: {','.join(names)[:60]}",
                do=_separator_hint(names)
                or "Correct the row. If it is the last one, the file was cut short: download it again.",
            )
    for name in columns:
        table.column(name)
    return table


def _separator_hint(header: list[str]) -> str | None:
    """Return what to do about a table whose only column seems to be several, separated by something else."""
    found = next((mark for mark in (";", "\t", "|") if mark in header[0]), None)
    if found is None or (found != ";" and len(header) > 1):
        return None
    name = {";": "semicolons", "\t": "tabs", "|": "bars"}[found]
    return (
        f"The columns are separated by {name}; save the table with commas, and numbers with decimal points: "
        f"python -c \"import pandas; pandas.read_csv('OLD', sep={found!r}, decimal=',', dtype=str)"
        ".to_csv('NEW', index=False)\"."
    )


def _reject_json(file: Path) -> None:
    """Raise if a table is JSON, such as COCO annotations or polygons."""
    with file.open("rb") as opened:
        start = opened.read(4096).decode("utf-8-sig", "replace").lstrip()
    if not re.match(r'\{\s*"|\[\s*[\[{"]', start):
        return
    kinds = {"COCO annotations": '"(annotations|categories|licenses)"', "polygons": '"(shapes|points|regions|polygon)"'}
    kind = next((kind for kind, keys in kinds.items() if re.search(keys, start)), "JSON")
    raise GatemaskError(
        "A table is JSON, not comma-separated values.",
        where=file,
        received=kind,
        expected="a table of run-length encodings, or masks as PNG files",
        do="Draw the annotations of each image into a PNG mask, and set labels: {format: png, masks: ...}. "
        "docs/how_to/labels.md has a script for COCO and for polygons.",
    )


def _read_rows(file: Path) -> tuple[list[int], list[list[str]]]:
    csv.field_size_limit(sys.maxsize)  # a mask can be longer than csv's own limit of 131,072 characters
    lines, rows = [], []
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True, skipinitialspace=True)
            for row in reader:
                if any("\0" in cell for cell in row):
                    raise csv.Error(f"row {reader.line_num} holds bytes that are not text")
                cells = [cell.strip() for cell in row]
                if any(cells):
                    rows.append(cells)
                    lines.append(reader.line_num)
    except (csv.Error, UnicodeDecodeError) as error:
        raise GatemaskError(
            "A table cannot be read.",
            where=file,
            received=error,
            expected="comma-separated values in UTF-8",
            do="Save it as such, or download it again.",
        ) from None
    return lines, rows


def parse_area(text: str, table: Table, row: int) -> int:
    """Return a mask area, in pixels.

    Raises:
        GatemaskError: The cell is not a whole number.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise GatemaskError("A mask area is not a whole number.", where=table.where(row), received=text or "nothing")
    return int(text)
