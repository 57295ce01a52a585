"""`gatemask data labels`: report the contents of a label table, and guess the RLE dialect it is written in.

The guess is made once and written into competition.yaml; from then on the YAML is trusted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Rle, RleLabels, load_competition
from gatemask.console import progress, say, table
from gatemask.data import rle_dialect
from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.joins import IdList, join_ids
from gatemask.data.listing import list_images
from gatemask.data.rle_dialect import RUNS
from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.masks import rle
from gatemask.project import Project
from gatemask.results.data import BadRow, GuessedDialect, ImageSize, LabelColumns, LabelCounts, LabelReport, LabelYaml
from gatemask.yaml12 import dump_yaml


class LabelTable(NamedTuple):
    """A label table whose columns were recognized.

    Args:
        table: The CSV.
        columns: Columns of ids and masks.
        header: Whether the first row names the columns.
        ids: Image id of each row.
        texts: RLE or empty marker of each row.
        marker: Text of an empty mask.
    """

    table: Table
    columns: LabelColumns
    header: bool
    ids: list[str]
    texts: list[str]
    marker: str


def inspect_labels(file: Path, size: tuple[int, int] | None = None, images: str | None = None) -> LabelReport:
    """Inspect a label table and guess its dialect.

    Args:
        file: Path of the CSV.
        size: Height and width of the images, in pixels. Default: guessed.
        images: Glob of images below the table's folder, which settle size and order.

    Raises:
        GatemaskError: The table does not exist, or has no column of run-length encodings.
    """
    labels = _read_label_table(file)
    ids = [DEFAULT.of_cell(name) for name in labels.ids]
    masked = {i: t for i, t in zip(ids, labels.texts, strict=True) if RUNS.fullmatch(t) and t != labels.marker}
    if images:
        _join_images(file, images, ids)
        size = size or rle_dialect.first_image_size(file.parent, images)
    encodings = [text for text in labels.texts if RUNS.fullmatch(text) and text != labels.marker]
    guess = rle_dialect.guess_dialect(encodings, labels.marker, size)
    if images:
        guess = rle_dialect.guess_order_from_images(guess, file.parent, images, masked)
    columns, image = labels.columns, {"image": ImageSize(size=guess.size)} if guess.size else {}
    section = RleLabels(format="rle", file=file.name, id=columns.id, mask=columns.mask, rle=guess.rle)
    return LabelReport(
        file=str(file),
        header=labels.header,
        columns=columns,
        **dict(_count(labels, guess)),
        guess=GuessedDialect(**guess.rle.model_dump(), size=guess.size),
        because=guess.because,
        yaml=LabelYaml(labels=section, **image),
    )


def _join_images(file: Path, images: str, ids: list[str]) -> None:
    """Reject images of another data set: their edges would say nothing about the masks."""
    rule = IdRule(images)
    found = {rule.of_file(path.relative_to(file.parent).as_posix()) for path in list_images(file.parent, images)}
    if found:
        do = "Correct --images: files need the names of the ids."
        join_ids(IdList("images", found, images), IdList(f"ids of {file.name}", ids, file), do, strict=False).report()


def mask_areas(file: Path) -> dict[str, int]:
    """Return the area of each image's united mask, in pixels, 0 for an empty one, from any label table."""
    labels = _read_label_table(file)
    encodings = [text for text in labels.texts if RUNS.fullmatch(text)]
    offsets, _ = rle_dialect.guess_offsets([rle_dialect.parse_pairs(text) for text in encodings])
    runs: dict[str, list[np.ndarray]] = {image_id: [] for image_id in labels.ids}
    for image_id, text in zip(labels.ids, labels.texts, strict=True):
        if text != labels.marker and RUNS.fullmatch(text):
            pairs = rle_dialect.parse_pairs(text)
            runs[image_id].append(rle_dialect.as_absolute(pairs) if offsets == "relative" else pairs)
    return {image_id: _united_area(annotations) for image_id, annotations in runs.items()}


def _united_area(annotations: list[np.ndarray]) -> int:
    """Return the number of pixels in any of the runs."""
    if not annotations:
        return 0
    runs = np.concatenate(annotations)
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    ends = np.maximum.accumulate(runs.sum(axis=1))
    starts = np.maximum(runs[1:, 0], ends[:-1])
    return int(runs[0, 1] + np.maximum(runs[1:].sum(axis=1) - starts, 0).sum())


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width from a text such as "1024x1024"."""
    match = re.fullmatch(r"(\d+)\s*[xX,]\s*(\d+)", text.strip())
    if match is None or "0" in match.groups():
        raise GatemaskError("--size needs height and width.", received=text, expected="such as 1024x1024")
    return int(match.group(1)), int(match.group(2))


def write_labels_section(project: Project, report: LabelReport) -> Path:
    """Write the guess into competition.yaml: replace the section `labels`, check `image.size`.

    Nothing is written unless the file is valid afterwards.

    Raises:
        GatemaskError: The image size differs, or the file would become invalid.
    """
    path = project.experiments / "competition.yaml"
    comp, text = load_competition(project.experiments), path.read_text(encoding="utf-8")
    size = report.guess.size
    if size and size != tuple(comp.image.size):
        raise GatemaskError(
            "The table belongs to images of another size.",
            where=path,
            received=f"image.size {list(comp.image.size)}",
            expected=list(size),
            do="Correct image.size, or name the size of the masks with --size.",
        )
    labels = report.yaml.labels.model_dump(mode="json", exclude_unset=True)
    if comp.labels.missing == "empty":
        labels["missing"] = "empty"
    section = dump_yaml({"labels": labels}, flow_style=None)
    changed = _replace_section(text, "labels", section, path)
    trial = path.with_name(".tmp-competition.yaml")
    write_text(trial, changed)
    try:
        load_competition(project.experiments, file=trial.name)
    finally:
        trial.unlink()
    return write_text(path, changed)


def _replace_section(text: str, key: str, section: str, path: Path) -> str:
    """Replace a top-level section of a YAML, up to its last indented line; comments below belong to the next one."""
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line.startswith(f"{key}:")]
    if len(starts) != 1:
        raise GatemaskError(f"The file must have exactly one section '{key}:'.", where=path, received=f"{len(starts)}")
    end = start = starts[0]
    for number in range(start + 1, len(lines)):
        if lines[number].startswith((" ", "\t")) and lines[number].strip():
            end = number
        elif lines[number].strip() and not lines[number].startswith("#"):
            break
    return "".join([*lines[:start], section, *lines[end + 1 :]])


def print_label_report(report: LabelReport) -> None:
    """Print a report for people."""
    counts = [(name, getattr(report, name)) for name in LabelCounts.model_fields if name != "bad"]
    table(report.file, ["", "count"], counts)
    table(
        "the dialect, as guessed",
        ["", "guess", "because"],
        [(name, str(getattr(report.guess, name)), reason) for name, reason in report.because.items()],
    )
    for bad in report.bad:
        say(f"row {bad.row}, image {bad.image_id}: {bad.problem}")
    say("For competition.yaml (or --write COMP):\n")
    sections = report.yaml.model_dump(mode="json", exclude_unset=True)
    say(dump_yaml(sections, flow_style=None))


# --- the table ---------------------------------------------------------------------------------------------


def _read_label_table(file: Path) -> LabelTable:
    """Read a table and find its columns of ids and encodings; if the first row is data, there is no header."""
    read = read_table(file, header=False)
    shares = [_share_of_encodings(read.column(number)) for number in range(len(read.header))]
    if max(shares) == 0:
        raise GatemaskError(
            "No column holds run-length encodings.",
            where=file,
            received=", ".join(read.rows[0])[:120],
            expected="a column of 'start length start length ...'",
        )
    mask = int(np.argmax(shares))
    ids = next((number for number in range(len(shares)) if number != mask), None)
    if ids is None:
        raise GatemaskError("The table has no column of image ids.", where=file, expected="ids and encodings")
    header = not (RUNS.fullmatch(read.rows[0][mask]) or read.rows[0][mask] in ("", "-1"))
    columns = LabelColumns(id=ids, mask=mask)
    if header:
        read = read_table(file)
        columns = LabelColumns(id=read.header[ids], mask=read.header[mask])
    texts = read.column(columns.mask)
    return LabelTable(read, columns, header, read.column(columns.id), texts, _empty_marker(texts))


def _share_of_encodings(cells: Sequence[str]) -> float:
    return sum(bool(RUNS.fullmatch(cell)) for cell in cells) / max(1, len(cells))


def _empty_marker(texts: Iterable[str]) -> str:
    """Return the most frequent cell without runs, or with runs of no pixels: the text of an empty mask."""
    counted = Counter(text for text in texts if not RUNS.fullmatch(text) or set(text.split()[1::2]) == {"0"})
    # A single cell with blanks in it is a malformed encoding, not a marker.
    markers = [(count, text) for text, count in counted.items() if " " not in text or count > 1]
    return max(markers)[1] if markers else ""


def _count(labels: LabelTable, guess: rle_dialect.DialectGuess) -> LabelCounts:
    """Count rows, images and annotations under the guessed dialect; list malformed rows."""
    encodings = [text for text in labels.texts if RUNS.fullmatch(text)]
    # Where no size was found, count with one that holds every run.
    size = guess.size or (1, max((_last_pixel(text, guess.rle) for text in encodings), default=1))
    runs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    empty: set[str] = set()
    bad: list[BadRow] = []
    cells = list(zip(labels.ids, labels.texts, strict=True))
    for row, (image_id, text) in enumerate(progress(cells, "reading")):
        if rle.is_empty(text, guess.rle):
            empty.add(image_id)
            continue
        try:
            annotation = rle.parse(text, size, guess.rle, labels.table.where(row))
            runs.setdefault(image_id, []).append(annotation)
        except GatemaskError as error:
            problem = f"{error.what} {error.details['received']}"
            bad.append(BadRow(row=labels.table.lines[row], image_id=image_id, problem=problem))
    several = [annotations for annotations in runs.values() if len(annotations) > 1]
    return LabelCounts(
        rows=len(cells),
        images=len(set(labels.ids)),
        positives=len(runs),
        annotations=sum(map(len, runs.values())),
        multi_annotated=len(several),
        overlapping=sum(map(_overlap, several)),
        duplicates=len(cells) - len(set(cells)),
        contradictory=len(empty & set(runs)),
        bad_rows=len(bad),
        bad=bad[:20],
    )


def _overlap(annotations: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether several annotations of one image share a pixel."""
    starts = np.concatenate([starts for starts, _ in annotations])
    ends = starts + np.concatenate([lengths for _, lengths in annotations])
    order = np.argsort(starts, kind="stable")
    return bool((starts[order][1:] < ends[order][:-1]).any())


def _last_pixel(text: str, dialect: Rle) -> int:
    pairs = rle_dialect.parse_pairs(text)
    return int(pairs.sum()) if dialect.offsets == "relative" else int(pairs.sum(axis=1).max())
