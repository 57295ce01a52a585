"""Check a submission: each row once, the sample's header, decodable masks, no overlap that is forbidden."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gatemask.config import Competition, Rle
from gatemask.console import progress, say, table
from gatemask.data import submission_dialect
from gatemask.data.joins import find_repair
from gatemask.data.manifest import read_test_images
from gatemask.data.mask_sizes import MaskSizes, sizes_in
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import read_manifest
from gatemask.data.submission_format import Row, SubmissionFormat
from gatemask.data.submission_table import SubmissionTable, read_sample, table_of
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.masks import rle
from gatemask.masks.metrics import dice_of_masks
from gatemask.project import Project
from gatemask.results.submission import CheckResult, SubmissionDifference, SubmissionSummary
from gatemask.submission.reading import SubmissionLine, by_image, invalid, read_lines

LARGE_MB = 100.0  # Kaggle may reject larger files, and takes long to score them
UNUSUAL_RATIO = 2.0  # between the share of images with a mask in the submission and in training


def check_submission(
    path: Path, comp: Competition, expected: SubmissionTable, sizes: MaskSizes | None = None
) -> SubmissionSummary:
    """Read a submission as strictly as Kaggle does.

    Args:
        path: The submission file.
        comp: Competition, for columns, RLE dialect and classes.
        expected: Rows that the file must have, see `expected_table`.
        sizes: Sizes of the masks. Default: those of competition.yaml, where all have one size.

    Raises:
        GatemaskError: The file is not a valid submission; the message names the first faulty row.
    """
    sizes, dialect = sizes or MaskSizes.of(comp.image), expected.format.dialect
    lines = list(read_lines(path, comp, expected, sizes))
    keys = [_key(line.row) for line in lines]
    if comp.submission.by_object:
        _check_object_rows(lines, expected, path, comp)
    else:
        _check_rows(keys, expected, path, comp)
    masked = by_image(line for line in lines if not rle.is_empty(line.encoded, dialect))
    for image_lines in progress(list(masked.values()), "checking"):
        _check_masks(image_lines, comp, sizes, dialect)
    empty = len(lines) - sum(map(len, masked.values()))
    present, listed = dict.fromkeys(keys), dict.fromkeys(_key(row) for row in expected.rows)
    return SubmissionSummary(
        rows=len(lines),
        images=len({row.image_id for row in expected.rows} | {line.row.image_id for line in lines}),
        empty=empty,
        empty_share=round(empty / max(1, len(lines)), 4),
        in_order=[key for key in present if key in listed] == [key for key in listed if key in present],
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


def _key(row: Row) -> tuple[str, int]:
    return row.name, row.class_index


def _check_rows(keys: Sequence[tuple[str, int]], expected: SubmissionTable, path: Path, comp: Competition) -> None:
    """Raise unless each row of the sample occurs once, and no other."""
    counts = Counter(keys)
    if repeated := [key for key, count in counts.items() if count > 1]:
        raise invalid("A row occurs more than once.", path, _row_name(repeated[0], comp), "each id once")
    required = {_key(row) for row in expected.rows}
    missing, unknown = required - set(counts), set(counts) - required
    if missing or unknown:
        raise _other_rows(missing, unknown, len(required), path, comp)


def _check_object_rows(
    lines: Sequence[SubmissionLine], expected: SubmissionTable, path: Path, comp: Competition
) -> None:
    """Raise unless each image of the sample has a row, no other image has one, and no row says empty beside objects."""
    listed = by_image(SubmissionLine(row, "", "") for row in expected.rows)
    present = by_image(lines)
    allowed = {(row.name, row.image_id) for row in [*expected.rows, *expected.unlisted]}
    unknown = {_key(line.row) for line in lines if (line.row.name, line.row.image_id) not in allowed}
    missing = {_key(rows[0].row) for image_id, rows in listed.items() if image_id not in present}
    # Listed with every class, an image needs a row for each.
    for image_id, rows in listed.items():
        if image_id in present and len(rows) == len(comp.classes):
            classes = {line.row.class_index for line in present[image_id]}
            missing |= {_key(line.row) for line in rows if line.row.class_index not in classes}
    if missing or unknown:
        raise _other_rows(missing, unknown, len(expected.rows), path, comp)
    for of_image in present.values():
        for key, count in Counter(line.row.key for line in of_image).items():
            of_class = [line for line in of_image if line.row.key == key]
            empty = [line for line in of_class if rle.is_empty(line.encoded, comp.submission.rle)]
            if count > 1 and empty:
                raise invalid(
                    "An image has a row without an object beside others.",
                    empty[0].where,
                    f"{count} rows",
                    "objects only, or one row without an object",
                )


def _other_rows(
    missing: set[tuple[str, int]], unknown: set[tuple[str, int]], count: int, path: Path, comp: Competition
) -> GatemaskError:
    example = _row_name(sorted(missing or unknown)[0], comp)
    received = f"{len(missing)} missing, {len(unknown)} unknown, such as {example}"
    return invalid("The rows do not match the test set.", path, received, f"{count} rows", _repair(missing, unknown))


def _check_masks(lines: Sequence[SubmissionLine], comp: Competition, sizes: MaskSizes, dialect: Rle) -> None:
    """Decode the masks of one image, and reject overlapping objects, and overlapping classes where it is forbidden."""
    taken: dict[int, np.ndarray] = {}
    for line in lines:
        row = line.row
        mask = rle.decode(line.encoded, sizes[row.image_id], dialect, line.where, ordered=True)
        for index, other in taken.items():
            if (index == row.class_index or comp.exclusive) and (both := int((other & mask).sum())):
                if index == row.class_index:
                    raise invalid(
                        "Objects of one class overlap.",
                        line.where,
                        f"{both} pixels in two objects",
                        "at most one object per pixel",
                    )
                raise invalid(
                    "Masks of two classes overlap.",
                    line.where,
                    f"{both} pixels with two classes",
                    "at most one class per pixel",
                )
        taken[row.class_index] = taken[row.class_index] | mask if row.class_index in taken else mask


def expected_table(folder: Path, comp: Competition, files: Mapping[str, str]) -> SubmissionTable:
    """Return the rows that a submission must have.

    Args:
        folder: Folder with the sample submission; where it has none, the rows follow from `files`.
        comp: Competition, for format and name of the sample.
        files: Path of each test image, by id.
    """
    layout, sample = SubmissionFormat.of(comp), comp.submission.sample
    if sample and (folder / sample).exists():
        return read_sample(layout, folder / sample).with_unlisted(files)
    return table_of(layout, sorted(files))


def visible_table(project: Project, comp: Competition) -> SubmissionTable:
    """Return the rows that a submission for the visible test set must have."""
    images = read_test_images(project, comp)
    files = dict(zip(images["image_id"].astype(str), images["path"], strict=True))
    return expected_table(raw_folder(project, comp), comp, files)


def visible_sizes(project: Project, comp: Competition) -> MaskSizes:
    """Return the sizes of the masks of test images, or of the hold-out; those in the manifest where they are mixed."""
    known = project.data / "manifest.json"
    return MaskSizes.of(comp.image, sizes_in(read_test_images(project, comp)) if known.exists() else None)


def training_sizes(project: Project, comp: Competition) -> MaskSizes:
    """Return the sizes of the masks of training images; those in the manifest where they are mixed."""
    return MaskSizes.of(comp.image, sizes_in(read_manifest(project, "train")))


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
    expected, sizes = visible_table(project, comp), visible_sizes(project, comp)
    summary = check_submission(path, comp, expected, sizes)
    share = train_empty_share(project, comp)
    notes = [
        *submission_dialect.dialect_notes(comp, raw_folder(project, comp)),
        *_contradictions(path, comp, expected, sizes),
        *_unusual_properties(summary, share),
    ]
    result = CheckResult(**dict(summary), train_empty_share=share, sha256=sha256(path), notes=notes)
    if against is None:
        return result
    return result.model_copy(update={"difference": _compare(path, against, comp, expected, sizes)})


def _contradictions(path: Path, comp: Competition, expected: SubmissionTable, sizes: MaskSizes) -> list[str]:
    """Return what in the runs speaks against the dialect; nothing where masks have no dialect, or many sizes."""
    if comp.submission.archive is not None or sizes.common is None:
        return []
    texts = [line.encoded for line in read_lines(path, comp, expected, sizes)]
    return submission_dialect.contradictions(texts, comp.submission.rle, sizes.common)


def train_empty_share(project: Project, comp: Competition) -> float | None:
    """Return the share of training images, or of their classes, without a mask; None where rows are not comparable."""
    if comp.submission.by_object or not (project.data / "manifest.json").exists():
        return None
    train = read_manifest(project, "train")
    if not len(train):
        return None
    if len(comp.classes) == 1:
        return round(1 - float(train["label"].mean()), 4)
    if "classes" not in train:  # of an older manifest
        return None
    present = train["classes"].str.split().str.len().sum()
    return round(1 - float(present) / (len(train) * len(comp.classes)), 4)


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


def _compare(
    path: Path,
    against: Path,
    comp: Competition,
    expected: SubmissionTable | None = None,
    sizes: MaskSizes | None = None,
) -> SubmissionDifference:
    sizes = sizes or MaskSizes.of(comp.image)
    earlier, present = (_by_row(read_lines(file, comp, expected, sizes)) for file in (against, path))
    missing = [key for key in present if key not in earlier]
    if missing and not comp.submission.by_object:
        received = f"without {present[missing[0]][0].row.name}"
        raise invalid("The earlier submission has other rows.", against, received, "the same rows")
    emptied = filled = changed = 0
    agreement = []
    dialect = SubmissionFormat.of(comp).dialect
    for key in dict.fromkeys([*present, *(earlier if comp.submission.by_object else ())]):
        versions = present.get(key, []), earlier.get(key, [])
        if [line.encoded for line in versions[0]] == [line.encoded for line in versions[1]]:
            agreement.append(1.0)
            continue
        after, before = (_united(lines, sizes[key[0]], dialect) for lines in versions)
        changed += bool((after != before).any())
        emptied += bool(before.any() and not after.any())
        filled += bool(after.any() and not before.any())
        agreement.append(dice_of_masks(before, after))
    mean = round(float(np.mean(agreement)), 6) if agreement else 1.0
    return SubmissionDifference(against=str(against), changed=changed, emptied=emptied, filled=filled, agreement=mean)


def _by_row(lines: Iterable[SubmissionLine]) -> dict[tuple[str, int], list[SubmissionLine]]:
    grouped: dict[tuple[str, int], list[SubmissionLine]] = {}
    for line in lines:
        grouped.setdefault(line.row.key, []).append(line)
    return grouped


def _united(lines: Sequence[SubmissionLine], size: tuple[int, int], dialect: Rle) -> np.ndarray:
    united = np.zeros(size, bool)
    for line in lines:
        united |= rle.decode(line.encoded, size, dialect, line.where)
    return united


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
