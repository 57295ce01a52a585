"""Understand the sample submission: columns, rows per image, class or object, the text of an empty mask."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gatemask.data import table_columns
from gatemask.data.ids import IdRule, without_extension
from gatemask.data.rle_dialect import RUNS
from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions
from gatemask.new.masks import LabelFacts
from gatemask.new.table_layout import ClassColumns, find_columns

KEYS = ("id", "mask", "class_column", "joined", "columns")  # of `labels` that a submission has too


@dataclass(frozen=True)
class SampleFacts:
    """What `submission` of competition.yaml will say.

    Args:
        section: Section `submission`.
        classes: Classes in the sample; empty where it names none.
    """

    section: dict[str, object]
    classes: tuple[str, ...] = ()


def examine_sample(
    sample: Path | None, raw: Path, known: set[str], rule: IdRule, labels: LabelFacts, decisions: Decisions
) -> SampleFacts:
    """Return the format of submissions: that of the sample, or else that of the labels.

    Args:
        sample: The sample submission, a CSV or an archive; None where there is none.
        raw: The raw folder.
        known: Ids of the test images, or of the training images where the test set is hidden.
        rule: How ids are made.
        labels: What the labels say.
        decisions: Findings and questions.
    """
    if sample is None:
        return _like_labels(labels, decisions)
    if sample.suffix.lower() == ".zip":
        return _examine_archive(sample, labels, decisions)
    table = read_table(sample)
    try:
        columns = find_columns(table, known, rule)
    except GatemaskError:  # without rows, or without a cell that shows which column holds the masks
        columns = _columns_by_name(table, labels)
    masks = list(columns.masks.values())
    section: dict[str, object] = {"sample": sample.relative_to(raw).as_posix(), **columns.section}
    if columns.classes and len(columns.masks) > 1:
        section["columns"] = _named_as_in_labels(columns, labels)
    decisions.note(
        "sample", f"id in {columns.id}, masks in {', '.join(masks)}", f"{len(table.rows)} rows in {sample.name}"
    )
    if empty := _empty_marker(table, masks):
        section["rle"] = {"empty": empty[0]}
        decisions.note("empty masks", repr(empty[0]), empty[1])
    rows = _rows(table, columns, labels, decisions)
    if rows:
        section["rows"] = rows
    return SampleFacts(section, columns.classes)


def _columns_by_name(table: Table, labels: LabelFacts) -> ClassColumns:
    """Return the columns of a sample that shows no mask: they are named like those of the labels.

    Raises:
        GatemaskError: The names do not tell which column is which.
    """
    section, names = labels.section, table.header
    columns = section.get("columns")
    if isinstance(columns, dict) and set(columns.values()) <= set(names):
        return ClassColumns(_id_by_name(table, labels), dict(columns), classes=tuple(columns))
    ids = _id_by_name(table, labels)
    class_column = str(section.get("class_column") or "")
    class_column = class_column if class_column in names else ""
    others = [name for name in names if name not in (ids, class_column)]
    named = [name for name in others if table_columns.OF_MASKS.search(name.lower()) or name == section.get("mask")]
    masks = others if len(others) == 1 else named
    if len(masks) != 1:
        raise GatemaskError(
            "The sample submission does not tell which column holds the masks.",
            where=table.file,
            received=", ".join(names),
            expected="a name such as rle or EncodedPixels, or the names of the label table",
            do="Add a row with the id of a training image and its mask.",
        )
    joined = "" if class_column else str(section.get("joined") or "")
    classes = tuple(labels.classes) if class_column or joined else ()
    return ClassColumns(ids, {"": masks[0]}, class_column, joined, classes)


def _id_by_name(table: Table, labels: LabelFacts) -> str:
    """Return the column of the label table's ids, or else the first."""
    name = labels.section.get("id")
    return str(name) if name in table.header else table.header[0]


def _like_labels(labels: LabelFacts, decisions: Decisions) -> SampleFacts:
    section = {key: value for key, value in labels.section.items() if key in KEYS}
    if not section:
        section = {"id": "ImageId", "mask": "EncodedPixels"}
    if len(labels.classes) > 1 and not {"class_column", "joined", "columns"} & set(section):
        section["joined"] = "{id}_{class}"
    if labels.objects:
        section["rows"] = "object"
    decisions.note("submission", _described(section), "guess: there is no sample, so it looks like the labels")
    return SampleFacts(section)


def _described(section: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in section.items())


def _named_as_in_labels(columns: ClassColumns, labels: LabelFacts) -> dict[str, str]:
    """Return columns by class, where the classes are those of the labels though their columns may differ."""
    if set(columns.classes) == set(labels.classes) or len(columns.classes) != len(labels.classes):
        return dict(columns.masks)
    low = {name.lower(): column for name, column in columns.masks.items()}
    if all(name.lower() in low for name in labels.classes):
        return {name: low[name.lower()] for name in labels.classes}
    return dict(zip(labels.classes, columns.masks.values(), strict=True))


def _empty_marker(table: Table, masks: Sequence[str]) -> tuple[str, str] | None:
    """Return the text of empty masks, and why; None where the sample does not show it."""
    cells = Counter(cell for mask in masks for cell in table.column(mask))
    empty = {cell: count for cell, count in cells.items() if not RUNS.fullmatch(cell)}
    if not empty:
        zeros = {cell: count for cell, count in cells.items() if set(cell.split()[1::2]) == {"0"}}
        if zeros:
            return max(zeros, key=lambda cell: zeros[cell]), "a run without pixels"
        return None
    marker = max(empty, key=lambda cell: empty[cell])
    return marker, f"{empty[marker]} of {cells.total()} masks of the sample"


def _rows(table: Table, columns: ClassColumns, labels: LabelFacts, decisions: Decisions) -> str:
    """Return "object" where a submission has a row per object, else ""."""
    keys = Counter(zip(table.column(columns.id), table.column(columns.class_column or columns.id), strict=True))
    repeated = sum(count > 1 for count in keys.values())
    if repeated:
        decisions.note("rows", "one per object", f"{repeated} ids of the sample are repeated")
        return "object"
    if labels.objects and len(columns.masks) == 1:
        decisions.note("rows", "one per object", "labels tell objects apart; the sample has one row per image")
        return "object"
    what = "image and class" if columns.class_column or columns.joined else "image"
    decisions.note("rows", f"one per {what}", "no id of the sample is repeated")
    return ""


def _examine_archive(sample: Path, labels: LabelFacts, decisions: Decisions) -> SampleFacts:
    with zipfile.ZipFile(sample) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    kinds = Counter(name.rpartition(".")[2].lower() for name in names)
    kind = kinds.most_common(1)[0][0] if kinds else ""
    if kind not in ("png", "tif", "tiff"):
        raise GatemaskError("The sample archive holds no masks.", where=sample, received=kind, expected="PNG or TIFF")
    first = names[0]
    bare = without_extension(first)
    folder, _, stem = bare.rpartition("/")
    file = "{id}"
    for label in sorted(labels.classes, key=len, reverse=True):
        if (end := re.fullmatch(rf".+([_\-. ]){re.escape(label)}", stem)) is not None:
            file = f"{{id}}{end[1]}{{class}}"
        elif (start := re.fullmatch(rf"{re.escape(label)}([_\-. ]).+", stem)) is not None:
            file = f"{{class}}{start[1]}{{id}}"
        elif label in folder.split("/"):
            folder = "/".join("{class}" if part == label else part for part in folder.split("/"))
        else:
            continue
        break
    file = f"{folder}/{file}".lstrip("/") + first[len(bare) :]
    decisions.note("submission", f"an archive of {file}", f"{len(names)} files in {sample.name}")
    values = labels.section.get("values")
    archive_section: dict[str, object] = {"files": file, "format": "png" if kind == "png" else "tiff"}
    if values and "{class}" not in file:
        archive_section["values"] = values
    return SampleFacts({"archive": archive_section})


def with_names_of(labels: LabelFacts, submission: SampleFacts, decisions: Decisions) -> LabelFacts:
    """Return the labels with the names of the sample's classes, where their values in mask files have no names."""
    values = labels.section.get("values")
    names = list(submission.classes)
    if labels.classes and set(labels.classes) < set(names):
        more = ", ".join(name for name in names if name not in labels.classes)
        decisions.note("classes", f"{more} as well", "the sample names them, but no label has them")
        return replace(labels, classes=names)
    if not isinstance(values, dict) or len(values) != len(names) or set(names) == set(values):
        return labels
    numbers = list(values.values())
    if sorted(names) == sorted(map(str, numbers)):
        renamed, why = {str(number): number for number in numbers}, "the sample names the values"
    else:
        renamed, why = dict(zip(names, numbers, strict=True)), "guess: in the order of the values"
    decisions.note("classes", ", ".join(f"{name} is {number}" for name, number in renamed.items()), why)
    return replace(labels, section={**labels.section, "values": renamed}, classes=list(renamed))
