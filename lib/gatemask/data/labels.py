"""Read truth masks as competitions publish them, and bring them into one dialect: one mask per image and class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from gatemask.config import PngLabels, Rle, RleLabels
from gatemask.data.annotations import require_every_class, separate_classes, split_united
from gatemask.data.class_rows import LabelRow, rows_with_classes
from gatemask.data.image_files import ImageFile
from gatemask.data.joins import IdList, join_ids
from gatemask.data.mask_order import reject_torn_masks
from gatemask.data.parsed_labels import ImageSizes, ParsedLabels, Size, Wanted
from gatemask.data.png_labels import read_png_labels
from gatemask.data.table_columns import rows_of_class
from gatemask.data.tables import Table, read_table
from gatemask.data.truth import Annotation
from gatemask.errors import GatemaskError
from gatemask.masks import rle

TOLERATED = 0.1  # share of malformed rows above which the dialect is wrong, not the rows


def read_labels(
    labels: RleLabels | PngLabels,
    raw: Path,
    images: Sequence[ImageFile],
    sizes: Size | Mapping[str, Size],
    others: Sequence[ImageFile] = (),
    wanted: Wanted | None = None,
) -> ParsedLabels:
    """Read all labels; a single bad one is reported, and never ends the run.

    Args:
        labels: Section `labels` of competition.yaml.
        raw: The raw folder.
        images: The images whose labels are wanted; none if a table alone is read.
        sizes: Height and width of every image, or by image id, in pixels; masks have the size of their image.
        others: Images of the other split: a mask or row of theirs belongs to none of `images`. Default: none.
        wanted: What to read. Default: one class; a table of several is rejected.

    Raises:
        GatemaskError: The table or a column is missing, (almost) no label belongs to an image, a mask fits several
            images, labels do not name the classes or know other ones, an image is both empty and masked, so many rows
            are malformed or torn that the dialect must be wrong, or the values of mask files are not clear.
    """
    wanted, known = wanted or Wanted(), ImageSizes(sizes)
    _require_names(labels, wanted.classes)
    if isinstance(labels, RleLabels):
        ids = {image.image_id for image in [*images, *others]}
        parsed = _read_rle_table(labels, raw, known, ids, wanted)
        if images:
            _join_table(labels, raw, {*parsed.masks, *(image_id for image_id, _, _ in parsed.problems)}, images, others)
    else:
        parsed = read_png_labels(labels, raw, images, known, others, wanted)
    found = frozenset([*parsed.masks, *(image_id for image_id, _, _ in parsed.problems)])
    masks = parsed.masks
    usable = masks or not parsed.problems  # where every label has a fault, the fault is reported
    if wanted.complete and usable and (len(wanted.classes) > 1 or labels.names_classes):
        where = raw / (labels.file if isinstance(labels, RleLabels) else labels.masks)
        require_every_class(masks, wanted.classes, where)
    if wanted.objects and not (isinstance(labels, PngLabels) and labels.numbered):
        masks = split_united(masks, known.of)
    if wanted.exclusive and len(wanted.classes) > 1:
        masks = separate_classes(masks, known.of)
    if labels.missing == "empty":
        masks.update({image.image_id: [] for image in images if image.image_id not in found})
    return parsed._replace(masks=masks, found=found)


def _require_names(labels: RleLabels | PngLabels, classes: Sequence[str]) -> None:
    """Raise if there are several classes, but labels do not say which mask belongs to which."""
    if len(classes) == 1 or labels.names_classes:
        return
    ways = (
        "class_column (a column names the class), joined (the id does, such as '{id}_{class}'), or columns (each class "
        "has a column of masks)"
        if isinstance(labels, RleLabels)
        else "{class} in masks (each class has files of its own), or values (the value of each class's pixels)"
    )
    raise GatemaskError(
        "The labels do not name the classes.",
        where="competition.yaml, labels",
        received=f"{len(classes)} classes ({', '.join(classes)}), and labels of one",
        expected=ways,
        do="Set one of these keys in labels, or name only one class.",
    )


def _join_table(
    labels: RleLabels, raw: Path, rows: set[str], images: Sequence[ImageFile], others: Sequence[ImageFile]
) -> None:
    """Report how many images and rows match; rows of the other split count as neither."""
    ids = {image.image_id for image in images}
    elsewhere = {image.image_id for image in others} - ids
    join = join_ids(
        IdList("images", ids, raw),
        IdList(f"ids of {labels.file}", rows - elsewhere - {""}, raw / labels.file),
        "Correct the table, labels.id, or the pattern and id of the images.",
    )
    join.report("Images without a row count as empty." if join.first_only and labels.missing == "empty" else "")


# --- tables ------------------------------------------------------------------------------------------------


def _read_rle_table(
    labels: RleLabels, raw: Path, sizes: ImageSizes, known: Collection[str], wanted: Wanted
) -> ParsedLabels:
    file = raw / labels.file
    masks_in = list(labels.columns.values()) if labels.columns else [labels.mask]
    columns = [labels.id, *masks_in, *([labels.class_column] if labels.class_column else [])]
    table = read_table(file, columns, header=not isinstance(labels.id, int))
    table = table.where_cells_are(labels.where)
    if labels.names_classes:
        rows = rows_with_classes(table, labels, wanted.classes, wanted.rule)
    else:
        name = wanted.classes[0]
        table = rows_of_class(table, labels.id, labels.mask, labels.where, known, name, rule=wanted.rule)
        cells = zip(table.ids(labels.id, wanted.rule), table.column(labels.mask), strict=True)
        rows = [LabelRow(row, image_id, name, text) for row, (image_id, text) in enumerate(cells)]
    empty = [rle.is_empty(row.text, labels.rle) for row in rows]
    _reject_contradictions(table, rows, empty)
    masks, problems, first = _decode_rows(table, rows, labels.rle, sizes, wanted)
    masked = len(rows) - sum(empty)
    if first and len(problems) > max(1, TOLERATED * masked):
        raise _wrong_dialect(first, len(problems), masked, file)
    texts = [(row.image_id, row.text) for row, blank in zip(rows, empty, strict=True) if not blank]
    reject_torn_masks([text for text in texts if masks.get(text[0])], labels.rle, sizes, file)
    return ParsedLabels(masks, [(image_id, f"{labels.file}, {place}", what) for image_id, place, what in problems])


def _decode_rows(
    table: Table, rows: Sequence[LabelRow], dialect: Rle, sizes: ImageSizes, wanted: Wanted
) -> tuple[dict[str, list[Annotation]], list[tuple[str, str, str]], GatemaskError | None]:
    """Return the masks of each image, the problems (image id, place, complaint), and the first error."""
    rows_of: dict[str, list[LabelRow]] = {}  # rows of one image need not be neighbors
    for row in rows:
        rows_of.setdefault(row.image_id, []).append(row)
    masks: dict[str, list[Annotation]] = {}
    problems: list[tuple[str, str, str]] = []
    first: GatemaskError | None = None
    for image_id, several in rows_of.items():
        size = sizes.get(image_id)
        if size is None and image_id:  # an image that could not be read, or none at all: it is reported as such
            masks[image_id] = []
            continue
        try:
            masks[image_id] = _masks_of_image(table, image_id, several, dialect, size or (1, 1), wanted)
        except GatemaskError as error:
            place = str(error.details["where"]).removeprefix(f"{table.file}, ").split(", image")[0]
            problems.append((image_id, place, error.short()))
            first = first or error
    return masks, problems, first


def _masks_of_image(
    table: Table, image_id: str, rows: Sequence[LabelRow], dialect: Rle, size: Size, wanted: Wanted
) -> list[Annotation]:
    """Return the rows of one image by class; annotators may overlap, so masks are united, never added."""
    if not image_id:
        raise GatemaskError("A row has no image id.", where=table.where(rows[0].row))
    found: list[Annotation] = []
    for name in ("", *wanted.classes) if "" not in wanted.classes else wanted.classes:
        united: np.ndarray | None = None
        for row in rows:
            if row.class_name != name or rle.is_empty(row.text, dialect):
                continue
            if name not in wanted.classes:
                raise GatemaskError("A mask has no class.", where=f"{table.where(row.row)}, image {image_id}")
            mask = rle.decode(row.text, size, dialect, f"{table.where(row.row)}, image {image_id}")
            if wanted.objects:
                found.append(Annotation(name, rle.encode(mask)))
            else:
                united = mask if united is None else united | mask
        if united is not None:
            found.append(Annotation(name, rle.encode(united)))
    return found


def _wrong_dialect(first: GatemaskError, malformed: int, masked: int, file: Path) -> GatemaskError:
    return GatemaskError(
        f"{malformed} of {masked} run-length encodings are malformed: the dialect must be wrong.",
        where=first.details["where"],
        received=f"{first.what} {first.details['received']}",
        expected=first.details["expected"],
        do=f"Run gatemask data labels {file} to find offsets, base, order and size. Then correct competition.yaml.",
    )


def _reject_contradictions(table: Table, rows: Sequence[LabelRow], empty: Sequence[bool]) -> None:
    """Raise if an image has both an empty row and a mask of one class: one of them must be wrong."""
    empty_ones, masked_ones = (
        {(row.image_id, row.class_name) for row, is_empty in zip(rows, empty, strict=True) if is_empty == wanted}
        for wanted in (True, False)
    )
    if contradictory := {key for key in empty_ones & masked_ones if key[1] is not None}:
        image_id, name = min(contradictory, key=str)
        lines = [str(table.lines[row.row]) for row in rows if (row.image_id, row.class_name) == (image_id, name)]
        raise GatemaskError(
            "An image is labeled both empty and masked.",
            where=f"{table.file}, rows {' and '.join(lines)}, image {image_id}"
            + (f", class {name}" if len({row.class_name for row in rows}) > 1 else ""),
            received=f"{len({image_id for image_id, _ in contradictory})} such images",
            expected="one or the other",
            do="Delete the wrong rows.",
        )
