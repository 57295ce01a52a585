"""CSV files as they come: byte-order mark, CRLF, blanks around cells, no header. Everything stays text."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask.errors import GatemaskError, nearest


@dataclass
class Table:
    """A CSV in memory.

    Args:
        file: where it came from.
        header: names of the columns; "0", "1", ... where the file has none.
        rows: stripped cells; as many in each as the header has.
        lines: the line of each row in the file, from 1.
    """

    file: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str | int) -> list[str]:
        """The cells of a column, by name, or by number from 0.

        Raises:
            GatemaskError: no such column; says which there are.
        """
        return [row[self._index(name)] for row in self.rows]

    def where(self, row: int) -> str:
        return f"{self.file}, row {self.lines[row]}"

    def _index(self, name: str | int) -> int:
        if isinstance(name, int) and name < len(self.header):
            return name
        if name in self.header:
            return self.header.index(str(name))
        close = nearest(str(name), self.header)
        raise GatemaskError(
            f"A table lacks the column '{name}'.",
            where=self.file,
            received=", ".join(self.header),
            do=f"Did you mean '{close}'?" if close else "Correct the column's name in competition.yaml.",
        )


def read_table(file: Path, columns: Sequence[str | int] = (), header: bool = True) -> Table:
    """Read a CSV and make sure of its columns; lines that are blank all through are passed over.

    Args:
        file: the CSV.
        columns: columns that it must have.
        header: whether its first row names the columns.

    Raises:
        GatemaskError: absent, not CSV in UTF-8, empty, a row of another length, a column missing or named twice.
    """
    if not file.is_file():
        raise GatemaskError(
            "There is no such table.", where=file, do="Correct the path in competition.yaml, or name --data."
        )
    csv.field_size_limit(sys.maxsize)  # one mask can be longer than csv's own limit of 131,072 characters
    lines, rows = [], []
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True, skipinitialspace=True)
            for row in reader:
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
            do="Save it as such, or fetch it again.",
        ) from None
    if not rows:
        raise GatemaskError("A table is empty.", where=file, expected="a header and rows", do="Fetch it again.")
    names = rows.pop(0) if header else [str(number) for number in range(len(rows[0]))]
    lines = lines[1:] if header else lines
    table = Table(file, names, rows, lines)
    for number, cells in enumerate(rows):
        if len(cells) != len(names):
            raise GatemaskError(
                "A row has another number of cells than the first.",
                where=table.where(number),
                received=f"{len(cells)}: {','.join(cells)[:60]}",
                expected=f"{len(names)}: {','.join(names)[:60]}",
                do="Correct the row; where it is the last one, the file was cut short: fetch it again.",
            )
    for name in columns:
        table.column(name)
        if names.count(str(name)) > 1:
            raise GatemaskError(f"The column '{name}' is there twice.", where=file, received=", ".join(names))
    return table
