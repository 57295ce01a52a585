"""Rows of a label table with the class of each: from a column, from the id, or from the column of the mask."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from gatemask.config import RleLabels
from gatemask.console import say
from gatemask.data.ids import IdRule
from gatemask.data.joined_ids import JoinedParts, JoinedTemplate
from gatemask.data.tables import Table
from gatemask.errors import GatemaskError, nearest

SHOWN = 8  # names in a message


class LabelRow(NamedTuple):
    """The mask of one class in one row.

    Args:
        row: Index of the row in the table.
        image_id: Id of the image; "" for a row without one.
        class_name: Name of the class; "" where the row names none, None for a class that is left out.
        text: The encoding, as it is written.
    """

    row: int
    image_id: str
    class_name: str | None
    text: str


def rows_with_classes(table: Table, labels: RleLabels, classes: Sequence[str], rule: IdRule) -> list[LabelRow]:
    """Return the rows of a table that names the class of each mask.

    Args:
        table: The table.
        labels: Section `labels` of competition.yaml.
        classes: Names of the classes that are wanted; the rows of others are left out, and their number is printed.
        rule: How ids are made.

    Raises:
        GatemaskError: A column is missing, an id does not fit the template, or the table does not know a class.
    """
    if labels.columns:
        ids = table.ids(labels.id, rule)
        columns = [(name, table.column(labels.columns[name])) for name in classes]
        return [
            LabelRow(row, image_id, name, cells[row]) for row, image_id in enumerate(ids) for name, cells in columns
        ]
    if labels.joined:
        parts = _split_ids(table, labels, classes)
        names = [part.class_name for part in parts]
        table = table.with_cells(labels.id, [part.image for part in parts])
    else:
        assert labels.class_column is not None
        names = [whole_number(cell) for cell in table.column(labels.class_column)]
    ids, texts = table.ids(labels.id, rule), table.column(labels.mask)
    _require_classes(table, labels, names, classes)
    wanted = {"", *classes}
    return [
        LabelRow(row, image_id, name if name in wanted else None, text)
        for row, (image_id, name, text) in enumerate(zip(ids, names, texts, strict=True))
    ]


def _split_ids(table: Table, labels: RleLabels, classes: Collection[str]) -> list[JoinedParts]:
    template = JoinedTemplate(str(labels.joined))
    cells = table.column(labels.id)
    parts = [template.split(cell, classes) for cell in cells]
    if unfit := [row for row, part in enumerate(parts) if part is None]:
        raise GatemaskError(
            "A row's id does not fit labels.joined.",
            where=f"{table.where(unfit[0])}, column {labels.id}",
            received=f"{cells[unfit[0]] or 'nothing'} ({len(unfit)} of {len(cells)} rows)",
            expected=f"ids such as {labels.joined}",
            do="Correct labels.joined, or the rows.",
        )
    return [part for part in parts if part is not None]


def whole_number(cell: str) -> str:
    """Return the name of a class; a number that pandas wrote with decimals is a whole number."""
    return cell.removesuffix(".0") if re.fullmatch(r"[0-9]+\.0", cell) else cell


def _require_classes(table: Table, labels: RleLabels, names: Sequence[str], classes: Sequence[str]) -> None:
    """Raise if the table does not know a class; report the rows of classes that are left out."""
    counts = Counter(name for name in names if name)
    if missing := [name for name in classes if name not in counts]:
        close = nearest(missing[0], counts)
        raise class_never_occurs(
            missing[0],
            f"{table.file}, {'ids' if labels.joined else f'column {labels.class_column}'}",
            with_counts(counts, "rows"),
            f"Did you mean '{close}'? " if close else "",
        )
    if others := {name: count for name, count in counts.items() if name not in classes}:
        say(
            f"{sum(others.values())} of {len(names)} rows of {labels.file} belong to classes that 'classes' does not "
            f"name and are left out: {with_counts(others, 'rows')}."
        )


def class_never_occurs(name: str, where: object, received: str, hint: str = "") -> GatemaskError:
    """Return the error for a class without any label."""
    return GatemaskError(
        f"The class '{name}' never occurs in the labels.",
        where=where,
        received=received or "no class at all",
        expected="labels of every class that 'classes' names in competition.yaml",
        do=f"{hint}Correct 'classes', or how the labels name them, or remove the class.",
    )


def with_counts(counts: dict[str, int], unit: str) -> str:
    """Return names with their numbers, the most frequent first.

    >>> with_counts({"fish": 2, "sugar": 5}, "rows")
    'sugar (5 rows), fish (2 rows)'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f", and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(f"{name} ({count} {unit})" for name, count in ordered[:SHOWN]) + more
