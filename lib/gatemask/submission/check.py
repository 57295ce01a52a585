"""Check a submission: each row once, the sample's header, decodable masks, no forbidden overlap of classes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Competition
from gatemask.console import progress, say, table
from gatemask.data import submission_dialect
from gatemask.data.joins import find_repair
from gatemask.data.manifest import read_test_images
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import read_manifest
from gatemask.data.submission_format import Row, SubmissionFormat, allow_long_cells
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.masks import rle
from gatemask.masks.metrics import METRICS, dice_of_masks, total
from gatemask.project import Project
from gatemask.results.submission import CheckResult, SubmissionDifference, SubmissionSummary

LARGE_MB = 100.0  # Kaggle may reject larger files, and takes long to score them
UNUSUAL_RATIO = 2.0  # between the share of images with a mask in the submission and in training


class SubmissionLine(NamedTuple):
    """One line of a submission file, its mask still encoded.

    Args:
        row: Image and class.
        encoded: The mask, run-length encoded.
        where: File and line, for messages.
    """

    row: Row
    encoded: str
    where: str


def check_submission(path: Path, comp: Competition, expected: Sequence[Row]) -> SubmissionSummary:
    """Read a submission as strictly as Kaggle does.

    Args:
        path: The submission file.
        comp: Competition, for columns, RLE dialect, image size and classes.
        expected: Rows that the file must have, see `expected_rows`.

    Raises:
        GatemaskError: The file is not a valid submission; the message names the first faulty row.
    """
    lines = list(read_lines(path, comp))
    counts = Counter((line.row.name, line.row.class_index) for line in lines)
    if repeated := [key for key, count in counts.items() if count > 1]:
        raise _invalid("A row occurs more than once.", path, _row_name(repeated[0], comp), "each id once")
    required = {(row.name, row.class_index) for row in expected}
    missing, unknown = required - set(counts), set(counts) - required
    if missing or unknown:
        example = _row_name(sorted(missing or unknown)[0], comp)
        received = f"{len(missing)} missing, {len(unknown)} unknown, such as {example}"
        what = "The rows do not match the test set."
        raise _invalid(what, path, received, f"{len(required)} rows", _repair(missing, unknown))
    masked: dict[str, list[SubmissionLine]] = {}
    for line in lines:
        if not rle.is_empty(line.encoded, comp.submission.rle):
            masked.setdefault(line.row.image_id, []).append(line)
    for image_lines in progress(list(masked.values()), "checking"):
        _check_masks(image_lines, comp)
    empty = len(lines) - sum(map(len, masked.values()))
    return SubmissionSummary(
        rows=len(lines),
        images=len({row.image_id for row in expected}),
        empty=empty,
        empty_share=round(empty / max(1, len(lines)), 4),
        in_order=[(line.row.name, line.row.class_index) for line in lines]
        == [(row.name, row.class_index) for row in expected],
        megabytes=round(path.stat().st_size / 1e6, 2),
    )


def _repair(missing: set[tuple[str, int]], unknown: set[tuple[str, int]]) -> str:
    """Return why ids have no partner, if they differ in spelling only."""
    repair = find_repair({name for name, _ in missing}, {name for name, _ in unknown})
    if repair is None:
        return ""
    ours, theirs = repair.pairs[0]
    cause = repair.cause.replace("first list", "sample").replace("second list", "submission")
    return f"{cause}: {theirs} should be {ours}. "


def _check_masks(lines: Sequence[SubmissionLine], comp: Competition) -> None:
    """Decode the masks of one image, and reject overlapping classes where the competition forbids them."""
    taken: np.ndarray | None = None
    for line in lines:
        mask = rle.decode(line.encoded, comp.image.size, comp.submission.rle, line.where, ordered=True)
        if taken is not None and comp.exclusive and (taken & mask).any():
            received = f"{int((taken & mask).sum())} pixels with two classes"
            raise _invalid("Masks of two classes overlap.", line.where, received, "at most one class per pixel")
        taken = mask if taken is None else taken | mask


def read_lines(path: Path, comp: Competition) -> Iterator[SubmissionLine]:
    """Yield the lines of a submission in the order of the file."""
    if not path.is_file():
        raise _invalid("The submission file is missing.", path, "nothing", "submission.csv")
    layout = SubmissionFormat.of(comp)
    allow_long_cells()
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, None)
            if header is None or sorted(header) != sorted(layout.columns):
                raise _invalid("The header differs from the sample's.", path, header or "an empty file", layout.columns)
            for number, cells in enumerate(reader, start=2):
                where = f"{path}, row {number}"
                if len(cells) != len(header):
                    raise _invalid("A row has the wrong number of columns.", where, len(cells), len(header))
                yield _parse_line(dict(zip(header, cells, strict=True)), layout, where)
        except (csv.Error, UnicodeDecodeError) as error:
            raise _invalid("The submission is not a CSV table.", path, error, "CSV in UTF-8") from None


def _parse_line(cells: dict[str, str], layout: SubmissionFormat, where: str) -> SubmissionLine:
    row = layout.parse_row(cells, where)
    name, encoded = cells[layout.settings.id], cells[layout.settings.mask]
    empty = layout.settings.rle.empty
    if name != name.strip():
        raise _invalid("An id has spaces around it.", where, repr(name), repr(name.strip()))
    if not encoded.isascii():
        expected = "digits, spaces and the text for an empty mask"
        raise _invalid("A mask contains a character that is not ASCII.", where, ascii(encoded)[:60], expected)
    if not encoded.strip() and empty:
        raise _invalid("A mask is blank.", where, "nothing", f"'{empty}' for an empty mask")
    return SubmissionLine(row, encoded, f"{where}, image {row.image_id}")


def read_masks(path: Path, comp: Competition) -> Iterator[tuple[Row, np.ndarray]]:
    """Yield each row with its decoded mask, bool (height, width)."""
    for line in read_lines(path, comp):
        yield line.row, rle.decode(line.encoded, comp.image.size, comp.submission.rle, line.where)


def score_submission(path: Path, comp: Competition, truth: Masks) -> float:
    """Return the competition's metric for a submission of one class.

    Args:
        path: The submission file.
        comp: Competition, for format and metric.
        truth: True masks of the test images.
    """
    pixel_counts = []
    for row, mask in read_masks(path, comp):
        true = truth[row.image_id][:, :, 0]
        pixel_counts.append([(true & mask).sum(), mask.sum(), true.sum()])
    counts = np.array(pixel_counts, float)
    return total(*METRICS[comp.metric](*(counts[:, [column]] for column in range(3))))


def expected_rows(folder: Path, comp: Competition, ids: Sequence[str]) -> list[Row]:
    """Return the rows that a submission must have.

    Args:
        folder: Folder with the sample submission; where it has none, the rows follow from `ids`.
        comp: Competition, for format and name of the sample.
        ids: Ids of the test images.
    """
    layout, sample = SubmissionFormat.of(comp), comp.submission.sample
    if sample and (folder / sample).exists():
        return list(layout.read_sample(folder / sample).rows)
    return list(layout.table_of(sorted(ids)).rows)


def visible_rows(project: Project, comp: Competition) -> list[Row]:
    """Return the rows that a submission for the visible test set must have."""
    return expected_rows(raw_folder(project, comp), comp, list(read_test_images(project, comp)["image_id"]))


# --- gatemask submission check ------------------------------------------------------------------------------


def inspect_submission(project: Project, comp: Competition, path: Path, against: Path | None = None) -> CheckResult:
    """Check a submission for the visible test set, and compare it with an earlier one.

    Args:
        project: Project with the manifest.
        comp: Competition.
        path: The submission file.
        against: An earlier submission. Default: no comparison.

    Raises:
        GatemaskError: One of the files is not a valid submission.
    """
    summary = check_submission(path, comp, visible_rows(project, comp))
    share = train_empty_share(project, comp)
    texts = [line.encoded for line in read_lines(path, comp)]
    notes = [
        *submission_dialect.dialect_notes(comp, raw_folder(project, comp)),
        *submission_dialect.contradictions(texts, comp.submission.rle, comp.image.size),
        *_unusual_properties(summary, share),
    ]
    result = CheckResult(**dict(summary), train_empty_share=share, sha256=sha256(path), notes=notes)
    if against is None:
        return result
    return result.model_copy(update={"difference": _compare(path, against, comp)})


def train_empty_share(project: Project, comp: Competition) -> float | None:
    """Return the share of training images without a mask; None without a manifest, or with several classes."""
    if len(comp.classes) > 1 or not (project.data / "manifest.json").exists():
        return None
    train = read_manifest(project, "train")
    return round(1 - float(train["label"].mean()), 4) if len(train) else None


def _unusual_properties(summary: SubmissionSummary, train_share: float | None) -> list[str]:
    notes = []
    if not summary.in_order:
        notes.append("The rows have another order than the sample's; Kaggle matches them by id.")
    if summary.megabytes > LARGE_MB:
        notes.append(f"The file is large: {summary.megabytes:.0f} MB.")
    if not summary.rows:
        notes.append("The file has a header only, as the sample submission: the test set is hidden.")
    elif summary.empty == summary.rows:
        notes.append("All masks are empty.")
    elif train_share is not None:
        masked, masked_in_training = 1 - summary.empty_share, 1 - train_share
        if masked > UNUSUAL_RATIO * masked_in_training or masked < masked_in_training / UNUSUAL_RATIO:
            notes.append(f"{masked:.1%} of the rows have a mask, but {masked_in_training:.1%} of the training images.")
    return notes


def _compare(path: Path, against: Path, comp: Competition) -> SubmissionDifference:
    earlier_lines = {(line.row.image_id, line.row.class_index): line for line in read_lines(against, comp)}
    emptied = filled = changed = 0
    agreement = []
    for line in read_lines(path, comp):
        earlier = earlier_lines.get((line.row.image_id, line.row.class_index))
        if earlier is None:
            missing = f"without {line.row.name}"
            raise _invalid("The earlier submission has other rows.", against, missing, "the same rows")
        if line.encoded == earlier.encoded:
            agreement.append(1.0)
            continue
        after, before = (
            rle.decode(version.encoded, comp.image.size, comp.submission.rle, version.where)
            for version in (line, earlier)
        )
        changed += bool((after != before).any())
        emptied += bool(before.any() and not after.any())
        filled += bool(after.any() and not before.any())
        agreement.append(dice_of_masks(before, after))
    mean = round(float(np.mean(agreement)), 6) if agreement else 1.0
    return SubmissionDifference(against=str(against), changed=changed, emptied=emptied, filled=filled, agreement=mean)


def print_check(result: CheckResult) -> None:
    """Print the result of a check as a table."""
    labels = {
        "rows": "rows",
        "images": "images",
        "empty_share": "share of empty masks",
        "train_empty_share": "share of empty masks in training",
        "megabytes": "megabytes",
        "in_order": "in the sample's order",
    }
    cells = [[label, getattr(result, name)] for name, label in labels.items() if getattr(result, name) is not None]
    if difference := result.difference:
        compared = ("changed", "emptied", "filled", "agreement")
        cells += [[f"{name} (against the earlier one)", getattr(difference, name)] for name in compared]
    table("A valid submission", ["", ""], cells)
    for note in result.notes:
        say(f"note: {note}")


def _row_name(key: tuple[str, int], comp: Competition) -> str:
    return key[0] if len(comp.classes) == 1 else f"{key[0]} (class {comp.classes[key[1]]})"


def _invalid(what: str, where: object, received: object, expected: object, cause: str = "") -> GatemaskError:
    return GatemaskError(
        what,
        where=where,
        received=received,
        expected=expected,
        do=f"{cause}Do not submit this file; run gatemask package and gatemask rehearse again.",
    )
