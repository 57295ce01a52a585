"""Understand a table of run-length encodings: classes, empty masks, objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gatemask.config import Rle
from gatemask.data import rle_dialect
from gatemask.data.ids import IdRule
from gatemask.data.tables import read_table
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.new.decisions import Decisions, Question
from gatemask.new.images import Size, spread
from gatemask.new.masks import LabelFacts, MaskStats, measure, touch
from gatemask.new.table_dialect import guess_dialect
from gatemask.new.table_layout import ClassColumns, Rows, find_columns, is_mask, read_rows

SAMPLED = 200  # images whose masks are decoded
ALWAYS, SOMETIMES = 0.4, 0.1  # share of positive images with several rows, from which rows are objects, or may be


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
    dialect = guess_dialect(rows, marker, raw, files, sizes, decisions, file)
    decisions.note("labels", f"RLE in {file.name}", f"id in {columns.id}, masks in {', '.join(columns.masks.values())}")
    _describe_classes(columns, decisions)
    by_image = {image_id: found for image_id, found in rows.by_image().items() if image_id in files}
    positive = {i for i, found in by_image.items() if any(is_mask(text, marker) for _, text in found)}
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
        counted = Counter(index for index, text in by_image[image_id] if is_mask(text, marker))
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
    chosen = spread(sorted(positive), SAMPLED, sizes)
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
