"""How a competition writes the cells of its CSV files: what the sample submission shows is what is written."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gatemask.errors import GatemaskError

DELIMITERS = ",;\t|"
LOOKED_AT = 200  # lines of a sample whose quoting is looked at


@dataclass(frozen=True)
class CsvStyle:
    """Delimiter and quoting of a CSV file.

    Args:
        delimiter: Character between two cells. Default: a comma.
        quoted_header: Whether names of columns are quoted. Default: False.
        quoted: Positions of the columns whose cells are quoted. Default: none; cells that need quotes have them always.
        trailing: Number of empty cells at the end of each line below the header. Default: 0.
    """

    delimiter: str = ","
    quoted_header: bool = False
    quoted: frozenset[int] = field(default_factory=frozenset)
    trailing: int = 0

    def header(self, names: Sequence[str]) -> str:
        """Return the first line of the file, without its end."""
        return self.delimiter.join(self._cell(name, self.quoted_header) for name in names)

    def line(self, cells: Sequence[str]) -> str:
        """Return one line of the file, without its end.

        >>> CsvStyle(";", quoted=frozenset([0]), trailing=1).line(["a", "1 2"])
        '"a";1 2;'
        """
        written = [self._cell(cell, place in self.quoted) for place, cell in enumerate(cells)]
        return self.delimiter.join([*written, *[""] * self.trailing])

    def _cell(self, cell: str, quoted: bool) -> str:
        if quoted or any(character in cell for character in f'{self.delimiter}"\n\r'):
            return '"' + cell.replace('"', '""') + '"'
        return cell


@dataclass(frozen=True)
class CsvLines:
    """Contents of a CSV file.

    Args:
        header: Names of the columns, without blanks around them.
        lines: Cells of each line, by position; as many as the header has names.
        style: How the file is written.
    """

    header: list[str]
    lines: list[list[str]]
    style: CsvStyle


def read_csv_lines(path: Path, columns: Sequence[str]) -> CsvLines:
    """Read a sample submission.

    Args:
        path: The file.
        columns: Names of expected columns, by which the delimiter is recognized.

    Raises:
        GatemaskError: The file is missing or not a CSV table, or a line has more cells than the header.
    """
    if not path.is_file():
        raise GatemaskError("The sample submission is missing.", where=path.parent, expected=path.name)
    allow_long_cells()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = _delimiter(first, columns)
            file.seek(0)
            rows = list(csv.reader(file, delimiter=delimiter, skipinitialspace=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise GatemaskError("The sample submission is not a CSV table.", where=path, received=error) from None
    header = [name.strip() for name in rows[0]] if rows else []
    lines = [row for row in rows[1:] if row]
    widths = {len(line) for line in lines}
    trailing = max(0, widths.pop() - len(header)) if len(widths) == 1 else 0
    for number, line in enumerate(lines, start=2):
        if any(cell.strip() for cell in line[len(header) :]):
            raise GatemaskError(
                "A line of the sample submission has more cells than the header has names.",
                where=f"{path}, line {number}",
                received=len(line),
                expected=len(header),
                do="Download the sample submission again, or correct the line.",
            )
    quoted_header, quoted = _quoting(path, delimiter, len(header))
    style = CsvStyle(delimiter, quoted_header, quoted, trailing)
    padded = [(line + [""] * len(header))[: len(header)] for line in lines]
    return CsvLines(header, padded, style)


def _delimiter(first: str, columns: Sequence[str]) -> str:
    """Return the delimiter that finds the most columns in the first line; a comma if none does."""

    def found(delimiter: str) -> int:
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])]
        return len(set(names) & set(columns))

    return max(DELIMITERS, key=found)


def _quoting(path: Path, delimiter: str, width: int) -> tuple[bool, frozenset[int]]:
    """Return whether names are quoted, and the columns in which every cell is; without rows, the header decides."""
    cell = re.compile(rf'\s*("(?:[^"]|"")*"|[^{re.escape(delimiter)}"]*)\s*(?:{re.escape(delimiter)}|$)')
    with path.open(encoding="utf-8-sig", newline="") as file:
        texts = [line.rstrip("\r\n") for line, _ in zip(file, range(LOOKED_AT), strict=False)]
    rows = [[text.startswith('"') for text in cell.findall(line)[:width]] for line in texts if line]
    if not rows:
        return False, frozenset()
    header, lines = rows[0], [row for row in rows[1:] if len(row) == width] or [rows[0]]
    columns = [place for place in range(width) if all(len(row) > place and row[place] for row in lines)]
    return bool(header) and all(header), frozenset(columns)


def allow_long_cells() -> None:
    """Lift the csv module's limit on the length of a cell: masks of large images exceed it."""
    csv.field_size_limit(sys.maxsize)
