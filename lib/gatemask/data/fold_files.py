"""Read fold files of any origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gatemask.data.groups import group_names
from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.split import HOLDOUT
from gatemask.data.tables import Table, parse_area, read_table
from gatemask.errors import GatemaskError


@dataclass(frozen=True)
class FoldFile:
    """A fold file.

    Args:
        folds: Name of the fold by image id, whole numbers without a point; of an image in several folds, the first.
        duplicated: Images in several folds.
        groups: Group by image id; empty where the file has no such column.
        labels: 0 or 1 by image id, from the first column with nothing else in it.
        areas: Mask area by image id, in pixels; empty where the file has no column `mask_area`.
    """

    folds: dict[str, str]
    duplicated: list[str]
    groups: dict[str, str]
    labels: dict[str, int]
    areas: dict[str, int]


def read_fold_file(file: Path, rule: IdRule = DEFAULT) -> FoldFile:
    """Read any CSV with an id in its first column and a column `fold`.

    Args:
        file: The CSV.
        rule: How ids are made. Default: from the name of the file.

    Raises:
        GatemaskError: The file is not such a table, a fold is blank, or there are fewer than two folds.
    """
    table = read_table(file, ["fold"])
    ids = table.ids(0, rule)
    folds: dict[str, str] = {}
    duplicated = set()
    for row, (image_id, text) in enumerate(zip(ids, table.column("fold"), strict=True)):
        if not text:
            raise GatemaskError("An image has no fold.", where=f"{table.where(row)}, image {image_id}")
        fold = text.removesuffix(".0")
        if folds.setdefault(image_id, fold) != fold:
            duplicated.add(image_id)
    if len(set(folds.values()) - {str(HOLDOUT)}) < 2:
        received = ", ".join(sorted(set(folds.values())))
        raise GatemaskError("A fold file has fewer than two folds.", where=file, received=received)
    groups = group_names(table, 0, "group", rule=rule) if "group" in table.header else {}
    areas = {}
    if "mask_area" in table.header:
        cells = zip(ids, table.column("mask_area"), strict=True)
        areas = {image_id: parse_area(text, table, row) for row, (image_id, text) in enumerate(cells)}
    return FoldFile(folds, sorted(duplicated), groups, _labels(table, ids), areas)


def _labels(table: Table, ids: list[str]) -> dict[str, int]:
    """Return the first column of zeros and ones; an image of several rows is positive if any of them is."""
    for name in table.header[1:]:
        cells = table.column(name)
        if name != "fold" and set(cells) == {"0", "1"}:
            labels: dict[str, int] = {}
            for image_id, cell in zip(ids, cells, strict=True):
                labels[image_id] = max(labels.get(image_id, 0), int(cell))
            return labels
    return {}
