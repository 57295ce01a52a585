"""Find out how a label table names the classes of its masks: a column, the ids, or a column of masks per class."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from gatemask.config import RleLabels
from gatemask.data.class_rows import whole_number
from gatemask.data.ids import DEFAULT, without_extension
from gatemask.data.joined_ids import JoinedTemplate
from gatemask.data.table_columns import MOST_CLASSES, Column, find_class_column
from gatemask.data.tables import Table

JOINTS = "_-|: "


class FoundClasses(NamedTuple):
    """How a table names the classes.

    Args:
        keys: Keys of `labels` in competition.yaml.
        classes: Names of the classes; empty for a table of one class.
        why: Reason, for people.
    """

    keys: dict[str, object]
    classes: list[str]
    why: str = ""

    def section(self, columns: dict[str, object]) -> RleLabels:
        """Return the section `labels` with its own keys and those of ids and masks."""
        return RleLabels.model_validate({"format": "rle", **columns, **self.keys})


def find_classes(
    table: Table, id_column: Column, masks: Sequence[Column], where: Collection[str], known: Collection[str] = ()
) -> FoundClasses:
    """Return how a table names the classes.

    Args:
        table: A label table.
        id_column: Its column of image ids.
        masks: Its columns of masks.
        where: Columns by which rows were selected.
        known: Ids of the images, where they are known.
    """
    if len(masks) > 1:
        names = [str(name) for name in masks]
        return FoundClasses({"columns": {n: n for n in names}}, names, "several columns hold masks: one class each")
    names = table.column(id_column)
    if not set(known) & {DEFAULT.of_cell(name) for name in names}:
        template, classes = _find_template(names, set(known))
        if template:
            return FoundClasses({"joined": template}, classes, f"ids such as {names[0]} join image and class")
    column = find_class_column(table, id_column, masks[0], where)
    if column is None or not isinstance(column, str):
        return FoundClasses({}, [])
    classes = sorted({whole_number(cell) for cell in table.column(column) if cell})
    return FoundClasses({"class_column": column}, classes, f"column '{column}' names {len(classes)} classes")


def _find_template(names: Sequence[str], known: set[str]) -> tuple[str, list[str]]:
    """Return the template by which most ids are an image and a class; "" for none.

    Without known images, only ids that contain a file's extension are recognized.
    """
    for joint in JOINTS:
        for template in (f"{{id}}{joint}{{class}}", f"{{class}}{joint}{{id}}"):
            parts = [part for name in names if (part := JoinedTemplate(template).split(name)) is not None]
            fitting = [
                part.class_name
                for part in parts
                if DEFAULT.of_cell(part.image) in known or without_extension(part.image) != part.image
            ]
            classes = sorted(set(fitting))
            plain = not any(without_extension(name) != name for name in classes)  # in a-b.png, b.png is not a class
            if plain and 2 * len(fitting) > len(names) and 2 <= len(classes) <= MOST_CLASSES:
                return template, classes
    return "", []
