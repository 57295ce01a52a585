"""Find the columns of a label table or sample submission by contents, and read its masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask.data import table_columns
from gatemask.data.ids import IdRule, without_extension
from gatemask.data.rle_dialect import RUNS
from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError
from gatemask.new.masks import natural_order

MOST_CLASSES = 50


@dataclass(frozen=True)
class ClassColumns:
    """Where a table names classes.

    Args:
        id: Column of the ids.
        masks: Columns of masks, by class if there are several.
        class_column: Column that names the class of a row; "" where there is none.
        joined: Template of ids that include the class; "" where they do not.
        classes: Names of the classes; empty for one class without a name.
    """

    id: str
    masks: dict[str, str]
    class_column: str = ""
    joined: str = ""
    classes: tuple[str, ...] = ()

    @property
    def section(self) -> dict[str, object]:
        """Keys that `labels` and `submission` share."""
        keys: dict[str, object] = {"id": self.id}
        if len(self.masks) > 1:
            return {**keys, "columns": dict(self.masks)}
        keys["mask"] = next(iter(self.masks.values()))
        if self.class_column:
            keys["class_column"] = self.class_column
        if self.joined:
            keys["joined"] = self.joined
        return keys


def cells_of_ids(file: Path) -> list[str]:
    """Return the cells of a table that may be ids: those of all columns that are no masks and no decimals."""
    table = read_table(file)
    columns = [table.column(number) for number in range(len(table.header))]
    texts = [cells for cells in columns if not any(map(RUNS.fullmatch, cells[:200]))]
    return [cell for cells in texts for cell in set(cells) if cell and not table_columns.DECIMAL.fullmatch(cell)]


def find_columns(table: Table, known: set[str], rule: IdRule) -> ClassColumns:
    """Return the columns of ids, masks and classes of a label table or sample submission.

    Args:
        table: The table.
        known: Ids of the images.
        rule: How ids are made.

    Raises:
        GatemaskError: No column holds masks or ids.
    """
    masks = _mask_columns(table)
    joined, classes, column = _joined(table, masks, known, rule)
    if joined:
        return ClassColumns(column, {"": masks[0]}, joined=joined, classes=tuple(natural_order(classes)))
    option = "a plain name such as ImageId in the file's header"
    ids = str(table_columns.find_id_column(table, set(masks), option, known, rule).column)
    if len(masks) > 1:
        names = _class_names(masks)
        return ClassColumns(ids, dict(zip(names, masks, strict=True)), classes=tuple(names))
    class_column = _class_column(table, ids, masks[0])
    if class_column:
        values = natural_order({cell for cell in table.column(class_column) if cell})
        return ClassColumns(ids, {"": masks[0]}, class_column, classes=tuple(values))
    return ClassColumns(ids, {"": masks[0]})


def _mask_columns(table: Table) -> list[str]:
    """Return the columns of masks, in order."""
    found: dict[str, list[str]] = {}
    for name in table.header:
        runs = [cell for cell in table.column(name) if RUNS.fullmatch(cell)]
        others = [cell for cell in table.column(name) if cell and not RUNS.fullmatch(cell)]
        if runs and (len(set(others)) <= 1 or len(runs) > len(others)):
            found[name] = runs
    if not found:  # a sample submission of empty masks
        named = [name for name in table.header if table_columns.OF_MASKS.search(name.lower())]
        _reject_files(table, named)
        if named:
            return named
        return [str(table_columns.find_mask_column(table, "a name such as EncodedPixels").column)]
    boxes = [name for name, runs in found.items() if _are_boxes(name, runs)]
    return [name for name in found if name not in boxes] or list(found)[:1]


def _reject_files(table: Table, columns: Sequence[str]) -> None:
    """Raise if a table names mask files instead of holding masks."""
    for name in columns:
        files = [cell for cell in table.column(name) if without_extension(cell) != cell]
        if 2 * len(files) > len(table.rows):
            raise GatemaskError(
                "The table names mask files, and holds no masks.",
                where=f"{table.file}, column {name}",
                received=files[0],
                expected="run-length encodings",
                do="Name the files themselves, such as --labels 'masks/*.png'.",
            )


def _are_boxes(name: str, runs: Sequence[str]) -> bool:
    """Whether pairs of numbers are points or boxes: always as many, and no name that means masks."""
    counts = {len(text.split()) for text in runs}
    alike = counts in ({2}, {4}) and len(runs) > 2
    return alike and not table_columns.OF_MASKS.search(name.lower())


def _class_names(columns: Sequence[str]) -> list[str]:
    """Return what tells the names of columns apart, without words such as rle and mask."""
    parts = [[word for word in re.split(r"[_\-. ]+", name) if word] for name in columns]
    shared = {word for word in parts[0] if all(word in words for words in parts)}
    plain = [
        "_".join(w for w in words if w not in shared and not table_columns.OF_MASKS.search(w.lower()))
        for words in parts
    ]
    return plain if len(set(plain)) == len(columns) and all(plain) else list(columns)


def _class_column(table: Table, ids: str, mask: str) -> str:
    found = table_columns.find_class_column(table, ids, mask)
    if found is not None:
        return str(found)
    apart = table_columns.row_columns(table, ids, mask)
    words = [name for name in apart if any(not cell.isdigit() for cell in table.column(name) if cell)]
    return words[0] if len(words) == 1 else ""


def _joined(table: Table, masks: Sequence[str], known: set[str], rule: IdRule) -> tuple[str, list[str], str]:
    """Return the template of ids that include the class, the classes, and the column; "" where ids are plain."""
    for name in table.header:
        if name in masks:
            continue
        cells = table.column(name)
        if sum(rule.of_cell(cell) in known for cell in cells) >= len(cells) / 2:
            continue
        for first in (True, False):
            halves = [_cut(cell, known, rule, first) for cell in cells]
            found = Counter((joint, label) for joint, label in halves if label)
            joints = Counter(joint for joint, label in halves if label)
            classes = sorted({label for _, label in found})
            if sum(found.values()) > len(cells) / 2 and len(joints) == 1 and 2 <= len(classes) <= MOST_CLASSES:
                joint = next(iter(joints))
                return (f"{{id}}{joint}{{class}}" if first else f"{{class}}{joint}{{id}}"), classes, name
    return "", [], ""


def _cut(cell: str, known: set[str], rule: IdRule, id_first: bool) -> tuple[str, str]:
    """Return what joins the longest known id of a cell to its class, and the class; "" where no id is known."""
    places = [match.start() for match in re.finditer(r"[_\-|:. ]", cell)]
    for place in reversed(places) if id_first else places:
        left, right = cell[:place], cell[place + 1 :]
        if right and rule.of_cell(left if id_first else right) in known:
            return cell[place], right if id_first else left
    return "", ""


@dataclass(frozen=True)
class Rows:
    """Masks of a table.

    Args:
        ids: Image id of each row and class.
        classes: Index of the class.
        texts: RLE, or the text of an empty mask.
    """

    ids: list[str]
    classes: list[int]
    texts: list[str]

    def by_image(self) -> dict[str, list[tuple[int, str]]]:
        """Return class and text of each row, by image."""
        found: dict[str, list[tuple[int, str]]] = {}
        for image_id, index, text in zip(self.ids, self.classes, self.texts, strict=True):
            found.setdefault(image_id, []).append((index, text))
        return found


def read_rows(table: Table, columns: ClassColumns, rule: IdRule) -> Rows:
    """Return the masks of a table, one for each class of a row."""
    cells = table.column(columns.id)
    names = list(columns.classes)
    if len(columns.masks) > 1:
        ids = table.ids(columns.id, rule)
        texts = [table.column(mask) for mask in columns.masks.values()]
        return Rows(
            [image_id for image_id in ids for _ in names],
            [index for _ in ids for index in range(len(names))],
            [texts[index][row] for row in range(len(ids)) for index in range(len(names))],
        )
    texts_of_rows = table.column(next(iter(columns.masks.values())))
    indices = [0] * len(cells)
    if columns.joined:
        before, _, after = columns.joined.partition("{id}")
        id_first = not before
        joint = (after if id_first else before).replace("{class}", "")
        ends = {(joint + name if id_first else name + joint): index for index, name in enumerate(names)}
        cut = [
            max((end for end in ends if (c.endswith(end) if id_first else c.startswith(end))), key=len, default="")
            for c in cells
        ]
        indices = [ends.get(end, 0) for end in cut]
        cells = [c.removesuffix(end) if id_first else c.removeprefix(end) for c, end in zip(cells, cut, strict=True)]
    elif columns.class_column:
        numbers = {name: index for index, name in enumerate(names)}
        indices = [numbers.get(cell, -1) for cell in table.column(columns.class_column)]
    ids = [rule.of_cell(cell) for cell in cells]
    kept = [row for row, index in enumerate(indices) if index >= 0 or not RUNS.fullmatch(texts_of_rows[row])]
    return Rows([ids[r] for r in kept], [max(0, indices[r]) for r in kept], [texts_of_rows[r] for r in kept])


def is_mask(text: str, marker: str) -> bool:
    return text != marker and RUNS.fullmatch(text) is not None
