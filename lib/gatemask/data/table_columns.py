"""Find the columns of a table by contents: image ids, masks, classes. A choice between equals is never guessed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from gatemask.console import say
from gatemask.data.ids import DEFAULT, IdRule, without_extension
from gatemask.data.rle_dialect import RUNS
from gatemask.data.tables import Table
from gatemask.errors import GatemaskError

Column = str | int

# Parts of names, in lower case. A column of the first kind is the id rather than one of the second; the third never is
# where there is another.
OF_IMAGES = re.compile(r"im(a)?ge?s?(?![a-z])|image|file|slice|dicom|dcm|scan|tile|photo|picture|instanceuid")
OF_IDS = re.compile(r"(^|[^a-z])(id|ids|name|uid|uuid|key|path)($|[^a-z])|id$|uid$")
OF_OTHERS = re.compile(
    r"patient|subject|study|series|person|group|fold|split|stratum|class|label|categ|annotator|rater|reader|site|"
    r"hospital|camera|width|height|size|area|age|sex|type|index|unnamed"
)
OF_CLASSES = re.compile(r"class|categor|defect")
# Often a property of the whole image; classes only where they tell the rows of one image apart.
PERHAPS_OF_CLASSES = re.compile(r"label|organ|tissue|species|type|disease|finding|structure")
OF_MASKS = re.compile(r"rle|mask|encod|pixels|segmentation")
OF_GROUPS = re.compile(r"group|patient|subject|person|case|study|owner|nih")
OF_POSITIVES = re.compile(r"label|exist|positive|mask|target|class|has_|is_")
DECIMAL = re.compile(r"-?[0-9]*\.[0-9]+([eE][-+]?[0-9]+)?")
COMPARABLE = 0.5  # share of the most values that a column needs, to compete for being the id
MOST_CLASSES = 50
COORDINATES = (2, 4)  # numbers of a point, size or box
FEWEST_COORDINATES = 3  # rows; fewer may be masks that happen to have so many numbers


@dataclass
class Choice:
    """A chosen column.

    Args:
        column: Its name, or its number in a table without a header.
        why: Reason, for people.
        ignored: Reason by name of each column that could be mistaken for it.
    """

    column: Column
    why: str
    ignored: dict[str, str] = field(default_factory=dict)


# --- ids -----------------------------------------------------------------------------------------------------


def find_id_column(
    table: Table, skip: Collection[Column], option: str, known: Collection[str] = (), rule: IdRule = DEFAULT
) -> Choice:
    """Return the column of image ids.

    Args:
        table: Any table.
        skip: Columns that have another meaning.
        option: How the user names the column, for messages, such as "--id COLUMN".
        known: Ids of the images, where they are known: the column that lists most of them is chosen.
        rule: How ids are made. Default: from the name of the file.

    Raises:
        GatemaskError: No column holds ids, or several do and none is better.
    """
    columns = _columns(table)
    ignored: dict[str, str] = {}
    candidates: dict[Column, list[str]] = {}
    for column, cells in columns.items():
        if column in skip:
            continue
        if reason := _no_ids(cells):
            ignored[_name(column)] = reason
        else:
            candidates[column] = _ids(cells, rule)
    if known and (found := _listing_most(candidates, set(known))) is not None:
        return Choice(found, "it lists the images", ignored)
    numbered = [c for c, cells in columns.items() if c not in skip and _counts_rows(cells) and not _is_index(c)]
    if not candidates and len(numbered) == 1:  # images may be named 0, 1, 2, ...
        del ignored[_name(numbered[0])]
        return Choice(numbered[0], "no other column can be an id", ignored)
    if not candidates:
        raise GatemaskError(
            "The table has no column of image ids.",
            where=table.file,
            received="; ".join(f"{name!r}: {reason}" for name, reason in ignored.items()) or "one column",
            expected="a column that names an image in each row",
            do=f"Name it with {option}.",
        )
    return _choose_id(table, candidates, ignored, option)


def _choose_id(table: Table, candidates: dict[Column, list[str]], ignored: dict[str, str], option: str) -> Choice:
    values = {column: len(set(cells)) for column, cells in candidates.items()}
    ranks = {column: _rank_as_id(column, candidates[column]) for column in candidates}
    named = [column for column in candidates if ranks[column] >= 2]
    rivals = [c for c in named or candidates if values[c] >= COMPARABLE * max(values[c] for c in named or candidates)]
    best_rank = max(ranks[column] for column in rivals)
    best = [column for column in rivals if ranks[column] == best_rank]
    most = max(values[column] for column in best)
    best = [column for column in best if values[column] == most]
    if any(candidates[column] != candidates[best[0]] for column in best):
        raise GatemaskError(
            "Several columns could hold the image ids.",
            where=table.file,
            received=", ".join(f"{_name(column)!r} (such as {candidates[column][-1]})" for column in best),
            expected="one of them",
            do=f"Name it with {option}.",
        )
    ignored |= {
        _name(column): f"{count} different values, {values[best[0]]} in {_name(best[0])!r}"
        for column, count in values.items()
        if column != best[0]
    }
    why = f"{most} different values" + (", and a name that fits" if best_rank >= 2 else "")
    return Choice(best[0], why, ignored)


def _listing_most(candidates: dict[Column, list[str]], known: set[str]) -> Column | None:
    """Return the column that alone lists most of the known ids; None where none or several do."""
    listed = {column: len(known & set(cells)) for column, cells in candidates.items()}
    most = max(listed.values(), default=0)
    best = [column for column, count in listed.items() if count == most]
    return best[0] if most and len(best) == 1 else None


def _no_ids(cells: Sequence[str]) -> str | None:
    """Return why cells cannot be image ids; None where they can."""
    filled = [cell for cell in cells if cell]
    if len(filled) < len(cells) / 2:
        return "mostly blank"
    if len(cells) > 1 and len(set(filled)) == 1:
        return "the same in every row"
    if _counts_rows(cells):
        return "numbers of the rows"
    if all(DECIMAL.fullmatch(cell) for cell in filled):
        return "decimal numbers"
    if all(RUNS.fullmatch(cell) for cell in filled):
        return "pairs of numbers"
    return None


def _is_index(column: Column) -> bool:
    """Whether a column has the name, or lack of one, of an index that pandas wrote."""
    return isinstance(column, str) and bool(re.fullmatch(r"|index|unnamed.*|level_[0-9]+", column.lower()))


def _counts_rows(cells: Sequence[str]) -> bool:
    """Whether cells number the rows, from 0 or 1, as an index does."""
    if len(cells) < 2 or cells[0] not in ("0", "1", "0.0", "1.0"):
        return False
    first = int(float(cells[0]))
    return all(cell.removesuffix(".0") == str(number) for number, cell in enumerate(cells, first))


def _rank_as_id(column: Column, cells: Sequence[str]) -> int:
    """Return how well the name of a column, and the kind of its cells, fit image ids; 2 and 3 for a name that does."""
    name = _low(column)
    if OF_IMAGES.search(name) and not re.search(r"width|height|size|type|index", name):
        return 3
    if OF_OTHERS.search(name):
        return -1
    if OF_IDS.search(name):
        return 2
    return int(any(not cell.isdigit() for cell in cells))


# --- masks ---------------------------------------------------------------------------------------------------


def find_mask_column(table: Table, option: str) -> Choice:
    """Return the column of run-length encodings.

    Args:
        table: Any table.
        option: How the user names the column, for messages, such as "--mask COLUMN".

    Raises:
        GatemaskError: No column holds encodings, or several do.
    """
    encoded, best, doubtful = _columns_of_runs(table)
    if not encoded:
        raise GatemaskError(
            "No column holds run-length encodings.",
            where=table.file,
            received=", ".join(table.rows[0])[:120] if table.rows else "no rows",
            expected="a column of 'start length start length ...'",
        )
    if len(best) > 1:
        raise GatemaskError(
            "Several columns hold run-length encodings.",
            where=table.file,
            received=", ".join(f"{_name(column)!r} ({len(encoded[column])} masks)" for column in best),
            expected="one column; if each is a class, labels.columns names them",
            do=f"Name the column to use with {option}.",
        )
    ignored = {_name(column): reason for column, reason in doubtful.items() if column != best[0]}
    return Choice(best[0], f"{len(encoded[best[0]])} masks", ignored)


def mask_columns(table: Table) -> list[Column]:
    """Return the columns of run-length encodings, in order; several where each is a class, or a version."""
    return _columns_of_runs(table)[1]


def _columns_of_runs(table: Table) -> tuple[dict[Column, list[str]], list[Column], dict[Column, str]]:
    """Return the runs of each column that has some, the columns that are masks, and why others are not."""
    encoded: dict[Column, list[str]] = {}
    for column, cells in _columns(table).items():
        if runs := [cell for cell in cells if RUNS.fullmatch(cell)]:
            encoded[column] = runs
    doubtful = {column: reason for column, runs in encoded.items() if (reason := _no_masks(runs))}
    best = [column for column in encoded if column not in doubtful]
    if not best:
        best = [column for column in encoded if OF_MASKS.search(_low(column))] or list(encoded)
    return encoded, best, doubtful


def _no_masks(runs: Sequence[str]) -> str | None:
    """Return why pairs of numbers do not look like masks; None where they do."""
    if len(runs) < FEWEST_COORDINATES:
        return None
    if len(set(runs)) == 1:
        return f"the same numbers in every row: {runs[0][:20]}"
    counts = {len(text.split()) for text in runs}
    return f"always {min(counts)} numbers, like a point or box" if counts in ({n} for n in COORDINATES) else None


# --- classes -------------------------------------------------------------------------------------------------


def find_class_column(
    table: Table, id_column: Column, mask_column: Column, skip: Collection[Column] = ()
) -> Column | None:
    """Return the column that names the class of each row; None where there is none."""
    apart = row_columns(table, id_column, mask_column)
    for column, cells in _columns(table).items():
        if column in (id_column, mask_column) or column in skip:
            continue
        name, values = _low(column), {cell for cell in cells if cell}
        named = OF_CLASSES.search(name) or (_name(column) in apart and PERHAPS_OF_CLASSES.search(name))
        if named and 2 <= len(values) <= MOST_CLASSES and not _tells_emptiness(cells, table.column(mask_column)):
            return column
    return None


def row_columns(table: Table, id_column: Column, mask_column: Column) -> dict[str, int]:
    """Return the columns that tell the rows of one image apart, with their number of values: classes perhaps."""
    ids = _ids(table.column(id_column), DEFAULT)
    rows_of: dict[str, list[int]] = {}
    for row, image_id in enumerate(ids):
        rows_of.setdefault(image_id, []).append(row)
    several = [rows for rows in rows_of.values() if len(rows) > 1]
    found = {}
    for column, cells in _columns(table).items():
        if not several or column in (id_column, mask_column) or _counts_rows(cells):
            continue
        values = len(set(cells))
        if 2 <= values <= MOST_CLASSES and all(len({cells[row] for row in rows}) == len(rows) for rows in several):
            found[_name(column)] = values
    return found


def joined_classes(names: Sequence[str], known: Collection[str] = (), rule: IdRule = DEFAULT) -> list[str]:
    """Return the classes that ids end with, such as Fish and Sugar of a.jpg_Fish and a.jpg_Sugar; empty for none.

    Args:
        names: Cells of the id column.
        known: Ids of the images, where they are known; otherwise only names with an extension are recognized.
        rule: How ids are made. Default: from the name of the file.
    """
    halves = [name.rpartition("_") for name in names]
    known, images = set(known), _ids([image for image, _, _ in halves], rule)
    fitting = [
        (image, last)
        for (image, joint, last), image_id in zip(halves, images, strict=True)
        if joint and (without_extension(image) != image or image_id in known)
    ]
    classes = sorted({last for _, last in fitting})
    return classes if 2 * len(fitting) > len(halves) and len(classes) <= MOST_CLASSES else []


def rows_of_class(
    table: Table,
    id_column: Column,
    mask_column: Column,
    where: Collection[str] = (),
    known: Collection[str] = (),
    class_name: str = "",
    do: str = "",
    rule: IdRule = DEFAULT,
) -> Table:
    """Return the rows of a label table that belong to one class; all of them where it has no classes.

    Args:
        table: A label table.
        id_column: Its column of image ids.
        mask_column: Its column of masks.
        where: Columns by which rows were selected.
        known: Ids of the images, where they are known.
        class_name: Name of the class in competition.yaml. Default: no class is selected.
        do: What to do where a class cannot be selected. Default: name it in competition.yaml.
        rule: How ids are made. Default: from the name of the file.

    Raises:
        GatemaskError: The rows belong to several classes, and none of them has the name: united they would be the
            mask of no class.
    """
    names = table.column(id_column)
    if not set(known) & set(_ids(names, rule)) and (classes := joined_classes(names, known, rule)):
        if (chosen := _matching(class_name, classes)) is None:
            raise _several_classes(
                f"{table.where(0)}, column {_name(id_column)}: {names[0]}",
                classes,
                f"Set classes: [{classes[0]}] in competition.yaml, or another class at the end of the ids.",
            )
        rows = [row for row, name in enumerate(names) if name.endswith(f"_{chosen}")]
        _say_chosen(len(rows), len(names), f"ids end with _{chosen}", classes)
        return table.with_rows(rows).with_cells(id_column, [names[row].removesuffix(f"_{chosen}") for row in rows])
    if (column := find_class_column(table, id_column, mask_column, where)) is not None:
        cells = table.column(column)
        classes = sorted({cell for cell in cells if cell})
        if (chosen := _matching(class_name, classes)) is None:
            one, some = f"where: {{{column}: {classes[0]}}}", f"{{{column}: [{', '.join(classes[:3])}]}}"
            raise _several_classes(
                f"{table.file}, column {_name(column)}",
                classes,
                do
                or f"Select the rows of one class in competition.yaml, such as labels: {{{one}}} (with missing: empty "
                f"if images without a row are empty). To unite several, list them: {some}.",
            )
        rows = [row for row, cell in enumerate(cells) if cell == chosen]
        _say_chosen(len(rows), len(cells), f"{_name(column)} is {chosen}", classes)
        return table.with_rows(rows)
    return table


def _several_classes(where: str, classes: Sequence[str], do: str) -> GatemaskError:
    return GatemaskError(
        "The label table has masks of several classes.",
        where=where,
        received=f"{len(classes)} classes: {', '.join(classes[:8])}",
        expected="the class that 'classes' names in competition.yaml; the masks of all would be united",
        do=do,
    )


def _matching(class_name: str, classes: Sequence[str]) -> str | None:
    """Return the one class that has a name, or the number at its end: class 3 for "defect3"."""
    name = class_name.casefold()
    found = [one for one in classes if one.casefold() == name]
    if not found and (number := re.search(r"[0-9]+$", name)):
        found = [one for one in classes if one == number[0]]
    return found[0] if len(found) == 1 else None


def _say_chosen(count: int, rows: int, what: str, classes: Sequence[str]) -> None:
    say(
        f"The label table has {len(classes)} classes ({', '.join(classes[:8])}): the {count} of {rows} rows whose "
        f"{what} are read, and no others."
    )


def _tells_emptiness(cells: Sequence[str], masks: Sequence[str]) -> bool:
    """Whether two values only say whether there is a mask."""
    pairs = {(cell, bool(RUNS.fullmatch(text))) for cell, text in zip(cells, masks, strict=True)}
    return len(pairs) == 2 and len({cell for cell, _ in pairs}) == len({masked for _, masked in pairs}) == 2


# --- groups and labels of images ----------------------------------------------------------------------------


def find_group_column(table: Table, id_column: Column) -> Column:
    """Return the column of groups: the only other one, or one that is named like patients.

    A table without a header may name its columns in the first row all the same.

    Raises:
        GatemaskError: There is none, or no telling.
    """
    others = {column: cells for column, cells in _columns(table).items() if column != id_column}
    named = {c: cells for c, cells in others.items() if not _counts_rows(cells) and not _counts_rows(cells[1:])}
    others = named or others
    names = {column: _low(column) or cells[0].lower() for column, cells in others.items()}
    exact = [column for column, name in names.items() if name == "group"]
    best = exact or [column for column, name in names.items() if len(names) == 1 or OF_GROUPS.search(name)]
    if len(best) != 1:
        raise GatemaskError(
            "The column of groups cannot be found.",
            where=table.file,
            received=", ".join(repr(name) for name in names.values()) or "no other column",
            expected="one column beside the ids, or one called 'group'",
            do="Remove the other columns, or rename the one with the groups.",
        )
    return best[0]


def binary_columns(table: Table, skip: Collection[Column]) -> list[Column]:
    """Return the columns with zeros and ones only."""
    return [column for column, cells in _columns(table).items() if column not in skip and set(cells) == {"0", "1"}]


def find_positives_column(table: Table, skip: Collection[Column]) -> Choice | None:
    """Return the column that says whether an image has a mask: one with zeros and ones only.

    Of several, the one with a fitting name; None where there is none, or no telling.
    """
    binary = binary_columns(table, skip)
    named = [column for column in binary if OF_POSITIVES.search(_low(column))]
    best = binary if len(binary) == 1 else named
    if len(best) != 1:
        return None
    others = {_name(column): "zeros and ones, but another name" for column in binary if column != best[0]}
    return Choice(best[0], "zeros and ones", others)


def _ids(cells: Sequence[str], rule: IdRule) -> list[str]:
    """Return the ids of cells; a cell that gives none is its own id, since the column may hold something else."""

    def of_cell(cell: str) -> str:
        try:
            return rule.of_cell(cell)
        except GatemaskError:
            return cell

    return [of_cell(cell) for cell in cells]


def _columns(table: Table) -> dict[Column, list[str]]:
    names: Iterable[Column] = table.header if table.has_names else range(len(table.header))
    columns: dict[Column, list[str]] = {}
    for number, name in enumerate(names):
        columns.setdefault(name, table.column(number))  # repeated names are rejected where they are used
    return columns


def _name(column: Column) -> str:
    return str(column)


def _low(column: Column) -> str:
    return str(column).lower() if isinstance(column, str) else ""
