"""Read a label table whose columns are found by their contents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gatemask.data import rle_dialect, table_columns
from gatemask.data.class_columns import FoundClasses, find_classes
from gatemask.data.class_rows import LabelRow, rows_with_classes
from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.listing import list_images
from gatemask.data.rle_dialect import RUNS
from gatemask.data.table_columns import Choice
from gatemask.data.tables import Table, read_table
from gatemask.results.data import LabelColumns


class LabelTable(NamedTuple):
    """A label table whose columns were recognized.

    Args:
        table: The CSV.
        columns: Columns of ids and masks.
        header: Whether the first row names the columns.
        ids: Image id of each mask, by row and class.
        texts: RLE or empty marker of each mask.
        names: Class of each mask; "" where the table has only one.
        lines: Line of each mask in the file, from 1.
        found: How the table names the classes.
        marker: Text of an empty mask.
        because: Why each column was chosen, by its meaning.
        ignored: Why other columns were not chosen, by name.
    """

    table: Table
    columns: LabelColumns
    header: bool
    ids: list[str]
    texts: list[str]
    names: list[str]
    lines: list[int]
    found: FoundClasses
    marker: str
    because: dict[str, str]
    ignored: dict[str, str]


class Known(NamedTuple):
    """What the user knows about a label table; everything else is found out.

    Args:
        size: Height and width of the images, in pixels.
        declared: The same as competition.yaml has it: used unless the runs contradict it.
        images: Glob of images below the table's folder, which settle ids, size and order.
        id: Column of image ids.
        mask: Column of masks.
        where: Values by column: only rows with these values are read.
        class_name: Class whose rows are read from a table of several. Default: all are read.
    """

    size: tuple[int, int] | None = None
    declared: tuple[int, int] | None = None
    images: str | None = None
    id: str | None = None
    mask: str | None = None
    where: Mapping[str, str] = {}
    class_name: str = ""


def read_label_table(file: Path, known: Known | None = None, classes_apart: bool = True) -> LabelTable:
    """Read a table and find its columns of ids, encodings and classes; if the first row is data, there is no header.

    Args:
        file: Path of the CSV.
        known: What is known about it. Default: nothing.
        classes_apart: Whether to separate classes. Default: True.

    Raises:
        GatemaskError: The table does not exist, or its columns cannot be found.
    """
    known = known or Known()
    read = read_table(file, header=False)
    header = bool(known.id or known.mask or known.where) or not _is_data(read)
    if header:
        read = read_table(file)
    read = read.where_cells_are(known.where)
    chosen = known.mask or known.class_name or not header or not classes_apart
    several = [] if chosen else table_columns.mask_columns(read)
    if len(several) > 1:
        mask = Choice(several[0], f"one of {len(several)} columns of masks; if only one counts, name it with --mask")
    elif known.mask is not None:
        mask = Choice(known.mask, "named")
    else:
        mask = table_columns.find_mask_column(read, "--mask COLUMN")
    skip = {mask.column, *mask.ignored, *known.where, *several}
    files = ids_of_images(file, known.images) if known.images else set()
    ids = Choice(known.id, "named") if known.id else table_columns.find_id_column(read, skip, "--id COLUMN", files)
    option = "Select the rows of one class with --where COLUMN=VALUE."
    classes = FoundClasses({}, [])
    if classes_apart and not known.class_name:
        masks = several if len(several) > 1 else [mask.column]
        classes = find_classes(read, ids.column, masks, known.where, files)
    elif classes_apart:
        read = table_columns.rows_of_class(
            read, ids.column, mask.column, known.where, class_name=known.class_name, do=option
        )
    columns = LabelColumns(id=ids.column, mask=mask.column)
    rows = _rows_of(read, columns, classes)
    texts = [row.text for row in rows]
    because = {"id column": f"{ids.column!r}: {ids.why}", "mask column": f"{mask.column!r}: {mask.why}"}
    apart = {
        name: f"distinguishes rows of one image ({count} values); their masks are united"
        for name, count in table_columns.row_columns(read, ids.column, mask.column).items()
        if name not in known.where
    }
    if classes.classes:
        because["classes"] = f"{', '.join(classes.classes)}: {classes.why}"
        apart = {}
    ignored = {**ids.ignored, **mask.ignored, **apart}
    marker = rle_dialect.empty_marker(texts) or ""
    image_ids, lines = [row.image_id for row in rows], [read.lines[row.row] for row in rows]
    names = [row.class_name or "" for row in rows]
    return LabelTable(read, columns, header, image_ids, texts, names, lines, classes, marker, because, ignored)


def _rows_of(table: Table, columns: LabelColumns, classes: FoundClasses) -> list[LabelRow]:
    """Return the masks of a table, of all classes."""
    if classes.classes:
        mask = {} if "columns" in classes.keys else {"mask": columns.mask}
        labels = classes.section({"file": table.file.name, "id": columns.id, **mask})
        return rows_with_classes(table, labels, classes.classes, DEFAULT)
    cells = zip(table.column(columns.id), table.column(columns.mask), strict=True)
    return [LabelRow(row, image_id, "", text) for row, (image_id, text) in enumerate(cells)]


def _is_data(read: Table) -> bool:
    """Whether the first row of a table is data: each column of masks begins with one, or with the marker of none."""
    if not read.rows:
        return False
    first = read.rows[0]
    columns = [read.column(number) for number in range(len(first))]
    masks = [number for number, cells in enumerate(columns) if any(map(RUNS.fullmatch, cells))]
    markers = {number: {"", "-1", rle_dialect.empty_marker(columns[number][1:])} for number in masks}
    return any(RUNS.fullmatch(first[number]) for number in masks) or (
        bool(masks) and all(first[number] in markers[number] for number in masks)
    )


def ids_of_images(file: Path, images: str) -> set[str]:
    """Return the ids of the images below a table's folder that match a glob."""
    rule = IdRule(images)
    return {rule.of_file(path.relative_to(file.parent).as_posix()) for path in list_images(file.parent, images)}
