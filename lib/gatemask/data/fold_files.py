"""Read fold files of any origin."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from gatemask.data.groups import group_names
from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.split import HOLDOUT
from gatemask.data.table_columns import Choice, binary_columns, find_id_column, find_positives_column
from gatemask.data.tables import parse_area, read_table
from gatemask.errors import GatemaskError

NO_IDS = ("fold", "group", "stratum", "split", "label", "mask_area")  # columns with a meaning of their own


MISSING = ("nan", "na", "n/a", "<na>", "none", "null")  # as tables are written by pandas and others
WHOLE = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")  # 1, 01, +1 and 1.0 are one fold


@dataclass(frozen=True)
class FoldFile:
    """A fold file.

    Args:
        folds: Name of the fold by image id, whole numbers without a point; of an image in several folds, the first.
        duplicated: Images in several folds.
        groups: Group by image id; empty where the file has no such column.
        labels: 0 or 1 by image id, from the column with nothing else in it.
        areas: Mask area by image id, in pixels; empty where the file has no column `mask_area`.
        chosen: Which columns were read, and which were not, one sentence each.
    """

    folds: dict[str, str]
    duplicated: list[str]
    groups: dict[str, str]
    labels: dict[str, int]
    areas: dict[str, int]
    chosen: list[str] = field(default_factory=list)


def read_fold_file(
    file: Path, rule: IdRule = DEFAULT, id_column: str | None = None, known: Collection[str] = ()
) -> FoldFile:
    """Read any CSV with a column of image ids and a column `fold`.

    Args:
        file: The CSV.
        rule: How ids are made. Default: from the name of the file.
        id_column: Name of the column of image ids. Default: found by its contents.
        known: Ids of the images, where they are known.

    Raises:
        GatemaskError: The file is not such a table, several columns could hold the ids, a fold is blank, or there are
            fewer than two folds.
    """
    table = read_table(file, ["fold"])
    choice = Choice(id_column, "named") if id_column else find_id_column(table, NO_IDS, "--id COLUMN", known, rule)
    ids = table.ids(choice.column, rule)
    folds: dict[str, str] = {}
    duplicated = set()
    for row, (image_id, text) in enumerate(zip(ids, table.column("fold"), strict=True)):
        if not text or text.casefold() in MISSING:
            where = f"{table.where(row)}, image {image_id}"
            raise GatemaskError("An image has no fold.", where=where, received=text or None, expected="a fold")
        fold = str(int(text.partition(".")[0])) if WHOLE.fullmatch(text) else text
        if folds.setdefault(image_id, fold) != fold:
            duplicated.add(image_id)
    if len(set(folds.values()) - {str(HOLDOUT)}) < 2:
        received = ", ".join(sorted(set(folds.values())))
        raise GatemaskError("A fold file has fewer than two folds.", where=file, received=received)
    groups = group_names(table, choice.column, "group", rule=rule) if "group" in table.header else {}
    areas = {}
    if "mask_area" in table.header:
        cells = zip(ids, table.column("mask_area"), strict=True)
        areas = {image_id: parse_area(text, table, row) for row, (image_id, text) in enumerate(cells)}
    skip = {choice.column, "fold", "group"}
    positives = find_positives_column(table, skip)
    labels: dict[str, int] = {}
    for image_id, cell in zip(ids, table.column(positives.column) if positives else [], strict=False):
        labels[image_id] = max(labels.get(image_id, 0), int(cell))  # positive if any of its rows is
    chosen = [f"Image ids: column '{choice.column}' ({choice.why})."]
    chosen += [f"Column '{name}' holds no ids: {why}." for name, why in choice.ignored.items()]
    if positives:
        chosen.append(f"Images with a mask: column '{positives.column}' ({positives.why}).")
        chosen += [f"Column '{name}' is ignored: {why}." for name, why in positives.ignored.items()]
    elif binary := binary_columns(table, skip):
        names = ", ".join(map(str, binary))
        chosen.append(f"No column says which images have a mask: several hold zeros and ones ({names}).")
    return FoldFile(folds, sorted(duplicated), groups, labels, areas, chosen)
