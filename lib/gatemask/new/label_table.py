"""Understand a table of run-length encodings: columns, classes, dialect, objects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gatemask.config import Rle
from gatemask.data import rle_dialect, rle_size, table_columns
from gatemask.data.ids import IdRule
from gatemask.data.rle_dialect import RUNS
from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.new.decisions import Decisions, Question
from gatemask.new.images import Size
from gatemask.new.masks import LabelFacts, MaskStats, measure, natural_order, touch

SAMPLED = 200  # images whose masks are decoded
OUTLINED = 24  # images whose edges are compared with outlines
MOST_CLASSES = 50
ALWAYS, SOMETIMES = 0.4, 0.1  # share of positive images with several rows, from which rows are objects, or may be


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
    return [cell for cells in texts for cell in cells if cell and not table_columns.DECIMAL.fullmatch(cell)]


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
        if runs and len(set(others)) <= 1:
            found[name] = runs
    if not found:  # a sample submission of empty masks
        named = [name for name in table.header if table_columns.OF_MASKS.search(name.lower())]
        if named:
            return named
        return [str(table_columns.find_mask_column(table, "a name such as EncodedPixels").column)]
    boxes = [name for name, runs in found.items() if _are_boxes(name, runs)]
    return [name for name in found if name not in boxes] or list(found)[:1]


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


# --- the whole table -------------------------------------------------------------------------------------------


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


def examine_table(
    file: Path, raw: Path, files: Mapping[str, str], sizes: Mapping[str, Size], rule: IdRule, decisions: Decisions
) -> LabelFacts:
    """Return what a label table says.

    Args:
        file: The table.
        raw: The raw folder.
        files: Path below it by image id.
        sizes: Height and width by path.
        rule: How ids are made.
        decisions: Findings and questions.

    Raises:
        GatemaskError: The table has no masks, or masks that do not fit the images.
    """
    table = read_table(file)
    columns = find_columns(table, set(files), rule)
    rows = read_rows(table, columns, rule)
    _require_known(rows, files, file)
    marker = rle_dialect.empty_marker(rows.texts) or ""
    dialect = _guess(rows, marker, raw, files, sizes, decisions, file)
    decisions.note("labels", f"RLE in {file.name}", f"id in {columns.id}, masks in {', '.join(columns.masks.values())}")
    _describe_classes(columns, decisions)
    by_image = {image_id: found for image_id, found in rows.by_image().items() if image_id in files}
    positive = {i for i, found in by_image.items() if any(_is_mask(text, marker) for _, text in found)}
    missing = len(files) - len(by_image)
    stats, touching = _measure(by_image, max(1, len(columns.classes)), files, sizes, dialect, positive)
    objects = _rows_are_objects(by_image, marker, positive, touching, decisions)
    empties = len(files) - len(positive)
    decisions.note(
        "empties", f"{empties} of {len(files)} images", f"{missing} have no row; empty is written as {marker!r}"
    )
    section: dict[str, object] = {
        "format": "rle",
        "file": file.relative_to(raw).as_posix(),
        **columns.section,
        "rle": dialect.model_dump(mode="json"),
    }
    if missing:
        section["missing"] = "empty"
    return LabelFacts(
        section,
        list(columns.classes),
        len(columns.classes) > 1 and stats.exclusive,
        len(by_image),
        len(positive) / len(files),
        stats,
        "rows" if objects else "",
        touching,
    )


def _is_mask(text: str, marker: str) -> bool:
    return text != marker and RUNS.fullmatch(text) is not None


def _require_known(rows: Rows, files: Mapping[str, str], file: Path) -> None:
    known = set(rows.ids) & set(files)
    if not known:
        raise GatemaskError(
            "The label table names none of the images.",
            where=file,
            received=f"ids such as {rows.ids[0]}, and images such as {next(iter(files))}",
            expected="ids that are the names of the images",
            do="Correct --images or --labels.",
        )


def _describe_classes(columns: ClassColumns, decisions: Decisions) -> None:
    if not columns.classes:
        decisions.note("classes", "one", "no column, id or second column of masks names another")
        return
    where = (
        f"the column {columns.class_column} names them"
        if columns.class_column
        else f"ids are written as {columns.joined}"
        if columns.joined
        else "each has a column of masks"
    )
    decisions.note("classes", f"{len(columns.classes)}: {', '.join(columns.classes)}", where)


def _rows_are_objects(
    by_image: Mapping[str, list[tuple[int, str]]],
    marker: str,
    positive: set[str],
    touching: float,
    decisions: Decisions,
) -> bool:
    """Return whether each row of an image and class is one object."""
    several = 0
    for image_id in positive:
        counted = Counter(index for index, text in by_image[image_id] if _is_mask(text, marker))
        several += max(counted.values()) > 1
    share = several / max(1, len(positive))
    if share < SOMETIMES:
        return False
    why = f"{share:.0%} of the images with a mask have several rows of one class"
    if share >= ALWAYS:
        decisions.note("objects", "each row is one object", why)
        return True
    answer = decisions.choose(
        Question(
            "objects",
            "Is each row of the label table one object, or one of several annotations of the same mask?",
            {"object": "each row is one object", "annotation": "rows of an image are united"},
            "annotation" if touching > 0.3 else "object",
            why,
        )
    )
    return answer == "object"


def _measure(
    by_image: Mapping[str, list[tuple[int, str]]],
    classes: int,
    files: Mapping[str, str],
    sizes: Mapping[str, Size],
    dialect: Rle,
    positive: set[str],
) -> tuple[MaskStats, float]:
    """Return statistics of sampled masks, and the share of images with several rows in which rows touch."""
    chosen = sorted(positive)[:: max(1, len(positive) // SAMPLED)][:SAMPLED]
    stats, several, touching = MaskStats(), 0, 0
    for image_id in chosen:
        size = sizes.get(files[image_id])
        if size is None:
            continue
        planes = np.zeros((*size, classes), bool)
        single: list[np.ndarray] = []
        for index, text in by_image[image_id]:
            try:
                mask = rle.decode(text, size, dialect)
            except GatemaskError:  # reported by `data prepare`
                continue
            planes[:, :, index] |= mask
            if mask.any():
                single.append(mask)
        measure([planes], stats)
        several += len(single) > 1
        touching += touch(single[:50])
    return stats, touching / max(1, several)


# --- dialect ---------------------------------------------------------------------------------------------------


def _guess(
    rows: Rows,
    marker: str,
    raw: Path,
    files: Mapping[str, str],
    sizes: Mapping[str, Size],
    decisions: Decisions,
    file: Path,
) -> Rle:
    """Return the dialect of the masks, and report the reasons."""
    masks = [
        (sizes[files[image_id]], image_id, text)
        for image_id, text in zip(rows.ids, rows.texts, strict=True)
        if _is_mask(text, marker) and files.get(image_id) in sizes
    ]
    if not masks:
        raise GatemaskError("No row of the label table holds the mask of an image.", where=file)
    masks = masks[:: max(1, len(masks) // 5000)]
    shared = {size for size, _, _ in masks}
    texts = [text for _, _, text in masks]
    guess = rle_dialect.guess_dialect(texts, marker, shared.pop() if len(shared) == 1 else None)
    dialect, because = guess.rle, dict(guess.because)
    if len({size for size, _, _ in masks}) > 1:
        dialect, reasons = _guess_of_sizes(masks, dialect)
        because |= reasons
    elif reason := rle_size.contradicts(rle_dialect.plausible_runs(texts, dialect.offsets), masks[0][0]):
        raise GatemaskError(
            "The masks of the label table belong to images of another size.",
            where=file,
            received=reason,
            expected=f"images of {masks[0][0][0]} x {masks[0][0][1]}",
            do="Check that the table belongs to these images.",
        )
    order, reason = _order_by_edges(masks, raw, files, dialect)
    if "assumed" in because["order"] and reason:
        dialect, because["order"] = dialect.model_copy(update={"order": order}), reason
    for part in ("offsets", "base", "order"):
        decisions.note(f"RLE {part}", str(getattr(dialect, part)), because[part])
    return dialect


def _guess_of_sizes(masks: Sequence[tuple[Size, str, str]], dialect: Rle) -> tuple[Rle, dict[str, str]]:
    """Return base and order under which runs cross fewest edges, for images of several sizes."""
    crossed: Counter[tuple[int, str]] = Counter()
    first = min(int(text.split()[0]) for _, _, text in masks)
    for (height, width), _, text in masks:
        pairs = rle_dialect.parse_pairs(text)
        pairs = rle_dialect.as_absolute(pairs) if dialect.offsets == "relative" else pairs
        for base in (0, 1):
            starts, ends = pairs[:, 0] - base, pairs.sum(axis=1) - base
            crossed[base, "column"] += rle_size.crossings(starts, ends, height) * height
            crossed[base, "row"] += rle_size.crossings(starts, ends, width) * width
    best = min(
        ((base, order) for base in (0, 1) for order in ("column", "row")), key=lambda key: (crossed[key], -key[0])
    )
    base = 0 if first == 0 else best[0]
    reason = f"runs cross fewest edges of {best[1]}s counted from {base}"
    return dialect.model_copy(update={"base": base, "order": best[1]}), {"base": reason, "order": reason}


def _order_by_edges(
    masks: Sequence[tuple[Size, str, str]], raw: Path, files: Mapping[str, str], dialect: Rle
) -> tuple[str, str]:
    """Return the order under which outlines follow the edges of the images, and why; "" where none is compared."""
    contrasts = []
    for size, image_id, text in masks[:: max(1, len(masks) // OUTLINED)][:OUTLINED]:
        try:
            found = rle_dialect.outline_contrast(raw / files[image_id], text, size, dialect)
        except GatemaskError:  # an image that needs a window, or cannot be read
            continue
        if found is not None:
            contrasts.append((found["column"], found["row"]))
    if not contrasts:
        return dialect.order, ""
    column, row = np.mean(contrasts, axis=0)
    reason = f"outlines follow edges {column:.2f} times as strong as the average down the columns, {row:.2f} by rows"
    return ("column" if column >= row else "row"), reason
