"""Filter and sort the rows of `gatemask runs`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from gatemask.errors import GatemaskError, nearest
from gatemask.results.runs import ExperimentRun
from gatemask.runs.columns import COLUMNS, Cell
from gatemask.runs.facts import Found
from gatemask.runs.where import Where


def choose(rows: Sequence[ExperimentRun], where: str | None, found: Mapping[str, Found]) -> list[ExperimentRun]:
    """Return the rows that meet a condition.

    Args:
        rows: All rows.
        where: The condition; None for all rows.
        found: Experiments with their settings, by name.

    Raises:
        GatemaskError: The condition cannot be read, or names an unknown key.
    """
    if where is None:
        return list(rows)
    settings: dict[str, dict[str, JsonValue]] = {
        row.name: json.loads(facts.values) for row in rows if (facts := found[row.name].settings)
    }
    condition = Where(where, known_keys(settings))
    return [row for row in rows if condition({**settings.get(row.name, {}), **values_of(row)})]


def known_keys(settings: Mapping[str, Mapping[str, JsonValue]]) -> set[str]:
    """Return the keys that conditions may name: columns, settings of some experiment, and those that any may have."""
    from gatemask.config import Experiment
    from gatemask.config.flat import schema_keys

    used = {key for values in settings.values() for key in values}
    return {*COLUMNS, *used, *(schema_keys(Experiment) - {"quick", "hours"})}


def values_of(row: ExperimentRun) -> dict[str, JsonValue]:
    """Return the columns of a row as conditions see them."""
    return {name: _plain(column.value(row)) for name, column in COLUMNS.items()}


def _plain(cell: Cell) -> JsonValue:
    return list(cell) if isinstance(cell, tuple) else cell


def sort_rows(rows: Sequence[ExperimentRun], key: str | None) -> list[ExperimentRun]:
    """Return rows sorted by a column, those without a value last. A minus in front of the key turns the order around.

    Args:
        rows: Rows.
        key: Name of a column; None keeps the order. Scores and costs begin with the largest.

    Raises:
        GatemaskError: The column does not exist.
    """
    if key is None:
        return list(rows)
    name = key.removeprefix("-")
    if name not in COLUMNS:
        close = nearest(name, COLUMNS)
        raise GatemaskError(
            f"Unknown column '{name}'.",
            where="--sort",
            expected=", ".join(COLUMNS),
            do=f"Write '{close}' instead." if close else None,
        )
    column = COLUMNS[name]
    present = [(row, value) for row in rows if (value := column.value(row)) not in (None, "", ())]
    missing = [row for row in rows if column.value(row) in (None, "", ())]
    backwards = column.descending != key.startswith("-")
    ordered = sorted(present, key=lambda pair: _sortable(pair[1]), reverse=backwards)
    return [*(row for row, _ in ordered), *missing]


def _sortable(cell: Cell) -> tuple[float, str]:
    if isinstance(cell, tuple):
        return len(cell), " ".join(cell).lower()
    return (float(cell), "") if isinstance(cell, int | float) else (0.0, str(cell).lower())
