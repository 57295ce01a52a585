"""Read truth masks as competitions publish them, and unite them to one RLE per image, in one dialect."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import PngLabels, Rle, RleLabels
from gatemask.console import progress, say
from gatemask.data.findings import MaskSurvey
from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.image_files import ImageFile, MaskOwners
from gatemask.data.joins import IdList, examples, join_ids
from gatemask.data.readers import inspect_mask, list_images
from gatemask.data.table_columns import rows_of_class
from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError, StorageError
from gatemask.masks import rle

TOLERATED = 0.1  # share of malformed rows above which the dialect is wrong, not the rows


class ParsedLabels(NamedTuple):
    """Labels of all images.

    Args:
        masks: United mask of each labeled image as RLE (`rle.INTERNAL`; "" for an empty mask).
        problems: Image id, place and complaint of each unusable label; its image is not in `masks`.
        alone: Mask files that belong to no image, below the raw folder. Default: none.
        found: Ids of images that have a label, usable or not; the others are in `masks` only if `missing` is empty.
    """

    masks: dict[str, str]
    problems: list[tuple[str, str, str]]
    alone: Sequence[str] = ()
    found: frozenset[str] = frozenset()


def read_labels(
    labels: RleLabels | PngLabels,
    raw: Path,
    images: Sequence[ImageFile],
    size: tuple[int, int],
    others: Sequence[ImageFile] = (),
    rule: IdRule = DEFAULT,
    upright: bool = False,
    class_name: str = "",
) -> ParsedLabels:
    """Read all labels; a single bad one is reported, and never ends the run.

    Args:
        labels: Section `labels` of competition.yaml.
        raw: The raw folder.
        images: The images whose labels are wanted; none if a table alone is read.
        size: Height and width of every mask, in pixels.
        others: Images of the other split: a mask or row of theirs belongs to none of `images`. Default: none.
        rule: How ids are made. Default: from the name of the file.
        upright: Whether to rotate mask files as their orientation says. Default: False.
        class_name: Class whose rows are read from a table of several. Default: such a table is rejected.

    Raises:
        GatemaskError: The table or a column is missing, (almost) no label belongs to an image, a mask fits several
            images, the table has several classes of other names, an image is both empty and masked, so many rows are
            malformed that the dialect must be wrong, or it is not clear which pixels of mask files are mask.
    """
    if isinstance(labels, RleLabels):
        known = {image.image_id for image in [*images, *others]}
        parsed = _read_rle_table(labels, raw, size, rule, known, class_name)
        if images:
            _join_table(labels, raw, {*parsed.masks, *(image_id for image_id, _, _ in parsed.problems)}, images, others)
    else:
        parsed = _read_pngs(labels, raw, images, size, others, upright)
    found = frozenset([*parsed.masks, *(image_id for image_id, _, _ in parsed.problems)])
    if labels.missing == "empty":
        parsed.masks.update({image.image_id: "" for image in images if image.image_id not in found})
    return parsed._replace(found=found)


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


def _read_rle_table(
    labels: RleLabels, raw: Path, size: tuple[int, int], rule: IdRule, known: Collection[str], class_name: str
) -> ParsedLabels:
    file = raw / labels.file
    table = read_table(file, [labels.id, labels.mask], header=not isinstance(labels.id, int))
    table = table.where_cells_are(labels.where)
    table = rows_of_class(table, labels.id, labels.mask, labels.where, known, class_name, rule=rule)
    ids, texts = table.ids(labels.id, rule), table.column(labels.mask)
    empty = [rle.is_empty(text, labels.rle) for text in texts]
    _reject_contradictions(table, ids, empty)
    # Rows of one image need not be neighbors.
    rows_of: dict[str, list[int]] = {}
    for row, image_id in enumerate(ids):
        rows_of.setdefault(image_id, []).append(row)
    masks: dict[str, str] = {}
    problems: list[tuple[str, str, str]] = []
    first: GatemaskError | None = None
    for image_id, rows in rows_of.items():
        try:
            masks[image_id] = _unite_rows(table, image_id, [(row, texts[row]) for row in rows], labels.rle, size)
        except GatemaskError as error:
            place = str(error.details["where"]).removeprefix(f"{file}, ").split(", image")[0]
            problems.append((image_id, f"{labels.file}, {place}", error.short()))
            first = first or error
    masked = len(texts) - sum(empty)
    if first and len(problems) > max(1, TOLERATED * masked):
        raise _wrong_dialect(first, len(problems), masked, file)
    return ParsedLabels(masks, problems)


def _unite_rows(table: Table, image_id: str, rows: list[tuple[int, str]], dialect: Rle, size: tuple[int, int]) -> str:
    """Return the rows of one image as one RLE; annotators may overlap, so masks are united, never added."""
    if not image_id:
        raise GatemaskError("A row has no image id.", where=table.where(rows[0][0]))
    united: np.ndarray | None = None
    for row, text in rows:
        if not rle.is_empty(text, dialect):
            mask = rle.decode(text, size, dialect, f"{table.where(row)}, image {image_id}")
            united = mask if united is None else united | mask
    return "" if united is None else rle.encode(united)


def _wrong_dialect(first: GatemaskError, malformed: int, masked: int, file: Path) -> GatemaskError:
    return GatemaskError(
        f"{malformed} of {masked} run-length encodings are malformed: the dialect must be wrong.",
        where=first.details["where"],
        received=f"{first.what} {first.details['received']}",
        expected=first.details["expected"],
        do=f"Run gatemask data labels {file} to find offsets, base, order and size. Then correct competition.yaml.",
    )


def _reject_contradictions(table: Table, ids: Sequence[str], empty: Sequence[bool]) -> None:
    """Raise if an image has both an empty row and a mask: one of them must be wrong."""
    empty_ids, masked_ids = (
        {image_id for image_id, is_empty in zip(ids, empty, strict=True) if is_empty == wanted}
        for wanted in (True, False)
    )
    if contradictory := empty_ids & masked_ids:
        name = min(contradictory)
        lines = [str(line) for line, image_id in zip(table.lines, ids, strict=True) if image_id == name]
        raise GatemaskError(
            "An image is labeled both empty and masked.",
            where=f"{table.file}, rows {' and '.join(lines)}, image {name}",
            received=f"{len(contradictory)} such images",
            expected="one or the other",
            do="Delete the wrong rows.",
        )


def _read_pngs(
    labels: PngLabels,
    raw: Path,
    images: Sequence[ImageFile],
    size: tuple[int, int],
    others: Sequence[ImageFile],
    upright: bool,
) -> ParsedLabels:
    files, alone = _mask_files(labels, raw, images, others)
    survey = MaskSurvey(labels)

    def unite_files(image_id: str) -> str | GatemaskError | None:
        united: np.ndarray | None = None
        try:
            for path in files.get(image_id, ()):
                mask, facts = inspect_mask(path, labels.threshold, upright)
                survey.add(path, facts)
                mask ^= labels.invert
                if mask.shape != tuple(size):
                    raise GatemaskError(
                        "A mask has the wrong size.", where=path, received=mask.shape, expected=tuple(size)
                    )
                united = mask if united is None else united | mask
        except StorageError:  # of the machine: the file may be sound
            raise
        except GatemaskError as error:
            return error
        return None if united is None else rle.encode(united)

    ids = [image.image_id for image in images]
    masks: dict[str, str] = {}
    problems = []
    with ThreadPoolExecutor() as pool:
        for image_id, united in zip(ids, progress(pool.map(unite_files, ids), "masks", len(ids)), strict=True):
            if isinstance(united, GatemaskError):
                place = Path(str(united.details["where"])).relative_to(raw).as_posix()
                problems.append((image_id, place, united.short()))
            elif united is not None:
                masks[image_id] = united
    survey.report()
    return ParsedLabels(masks, problems, alone)


def _mask_files(
    labels: PngLabels, raw: Path, images: Sequence[ImageFile], others: Sequence[ImageFile]
) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the mask files of each image, and those that belong to no image of either split.

    Raises:
        GatemaskError: A mask fits several images equally well, or (almost) no image has a mask.
    """
    owners, image_paths = MaskOwners(labels.masks, [*images, *others]), {image.path for image in [*images, *others]}
    wanted, owned = set(images), dict[str, list[Path]]()
    alone: list[str] = []
    contested: list[str] = []
    for path in list_images(raw, labels.masks):
        if path in image_paths:
            continue  # an image that fits the pattern of its own masks
        name = path.relative_to(raw).as_posix()
        found = owners.of(name)
        if len(in_split := [image for image in found if image in wanted] or found) > 1:
            raise GatemaskError(
                "A mask file fits several images equally well.",
                where=path,
                received=", ".join(image.name for image in in_split[:3]),
                expected=f"one image per mask of the pattern {labels.masks}",
                do="Make the pattern more specific, such as masks/{id}_[0-9]*.png, or name the folder of the images.",
            )
        if not found:
            alone.append(name)
        elif (owner := in_split[0]) in wanted:
            owned.setdefault(owner.image_id, []).append(path)
            if len(owners.all(name)) > len(found):
                contested.append(f"{name} to {owner.image_id}")
    if contested:
        say(
            f"{len(contested)} mask files fit the ids of several images; each belongs to the longest id, such as "
            f"{examples(contested)}."
        )
    _join_masks(labels, raw, owned, alone, images)
    return owned, alone


def _join_masks(
    labels: PngLabels, raw: Path, owned: Collection[str], alone: Sequence[str], images: Sequence[ImageFile]
) -> None:
    """Report how many images have masks; files without an image count as ids of their own."""
    if not images:
        return
    ids = {image.image_id for image in images}
    strays = {name if (stem := DEFAULT.of_cell(name)) in ids else stem for name in alone}
    join = join_ids(
        IdList("images", ids, raw), IdList("mask files", {*owned, *strays}, raw / labels.masks), "Correct labels.masks."
    )
    join.report("Images without a mask file count as empty." if join.first_only and labels.missing == "empty" else "")
