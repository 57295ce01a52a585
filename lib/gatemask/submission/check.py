"""Is this file a submission? Every row once, the header of the sample, every mask decodes, no class on another."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gatemask.config import Competition
from gatemask.console import progress, say, table
from gatemask.data.labels import Masks
from gatemask.data.manifest import raw_folder, read_manifest, test_rows
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.masks import rle
from gatemask.masks.metrics import METRICS, dice_of_masks, total
from gatemask.project import Project
from gatemask.submission import file_format as layout
from gatemask.submission.file_format import Row

LARGE_MB = 100.0  # from here on Kaggle may refuse a file, and scoring takes its time
FAR = 2.0  # times more or fewer empty masks than in training: something may be wrong


class Line(NamedTuple):
    """One row of a file: what it is about, its mask as text, and where it stands."""

    row: Row
    text: str
    where: str


def check(path: Path, comp: Competition, expected: Sequence[Row]) -> dict[str, Any]:
    """Read a submission as strictly as Kaggle will.

    Args:
        path: submission.csv.
        comp: columns, flavour of RLE, image size, classes.
        expected: the rows that must be there, each once: of `expected_rows`.

    Returns:
        rows, images, empty, empty_share, in_order, megabytes.

    Raises:
        GatemaskError: at the first thing that is wrong, with its row.
    """
    lines = list(read(path, comp))
    counts = Counter((line.row.name, line.row.class_index) for line in lines)
    if twice := [key for key, n in counts.items() if n > 1]:
        raise _refusal("A row comes more than once.", path, _named(twice[0], comp), "each id once")
    wanted = {(row.name, row.class_index) for row in expected}
    missing, unknown = wanted - set(counts), set(counts) - wanted
    if missing or unknown:
        example = _named(sorted(missing or unknown)[0], comp)
        received = f"{len(missing)} missing, {len(unknown)} unknown, such as {example}"
        raise _refusal("The rows are not those of the test set.", path, received, f"{len(wanted)} rows")
    masked: dict[str, list[Line]] = {}
    for line in lines:
        if not rle.is_empty(line.text, comp.submission.rle):
            masked.setdefault(line.row.image_id, []).append(line)
    for of_image in progress(list(masked.values()), "checking"):
        _decode(of_image, comp)
    empty = len(lines) - sum(map(len, masked.values()))
    return {
        "rows": len(lines),
        "images": len({row.image_id for row in expected}),
        "empty": empty,
        "empty_share": round(empty / max(1, len(lines)), 4),
        "in_order": [(line.row.name, line.row.class_index) for line in lines]
        == [(row.name, row.class_index) for row in expected],
        "megabytes": round(path.stat().st_size / 1e6, 2),
    }


def _decode(lines: Sequence[Line], comp: Competition) -> None:
    """One image's masks: each valid and inside the image, and none on another where that is forbidden."""
    taken: np.ndarray | None = None
    for line in lines:
        mask = rle.decode(line.text, comp.image.size, comp.submission.rle, line.where)
        if taken is not None and not comp.submission.overlap and (taken & mask).any():
            pixels = f"{int((taken & mask).sum())} pixels of two classes"
            raise _refusal("Masks of two classes overlap.", line.where, pixels, "each pixel of one class at most")
        taken = mask if taken is None else taken | mask


def read(path: Path, comp: Competition) -> Iterator[Line]:
    """The rows of a submission in the file's order, masks still as text."""
    if not path.is_file():
        raise _refusal("There is no submission.", path, "nothing", "submission.csv")
    wanted = layout.columns(comp.submission.model_dump())
    layout.lift_limit()
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, None)
            if header is None or sorted(header) != sorted(wanted):
                raise _refusal("The header is not the sample's.", path, header or "an empty file", wanted)
            for number, cells in enumerate(reader, start=2):
                if len(cells) != len(header):
                    raise _refusal(
                        "A row has the wrong number of columns.", f"{path}, row {number}", len(cells), len(header)
                    )
                yield _line(dict(zip(header, cells, strict=True)), comp, f"{path}, row {number}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise _refusal("A submission is no table.", path, error, "CSV in UTF-8") from None


def _line(cell: dict[str, str], comp: Competition, where: str) -> Line:
    row = layout.row(cell, comp.submission.model_dump(), comp.classes, where)
    name, text = cell[comp.submission.id], cell[comp.submission.mask]
    if name != name.strip():
        raise _refusal("An id has spaces around it.", where, repr(name), repr(name.strip()))
    if not text.strip() and comp.submission.rle.empty:
        raise _refusal("A mask is blank.", where, "nothing", f"'{comp.submission.rle.empty}' for an empty mask")
    return Line(row, cell[comp.submission.mask], f"{where}, image {row.image_id}")


def masks(path: Path, comp: Competition) -> Iterator[tuple[Row, np.ndarray]]:
    """Rows with their masks, bool (height, width)."""
    for line in read(path, comp):
        yield line.row, rle.decode(line.text, comp.image.size, comp.submission.rle, line.where)


def score(path: Path, comp: Competition, truth: Masks) -> float:
    """The competition's metric of a submission of one class against known masks, from the file itself."""
    counts = []
    for row, mask in masks(path, comp):
        true = truth[row.image_id]
        counts.append([(true & mask).sum(), mask.sum(), true.sum()])
    array = np.array(counts, float)
    return total(*METRICS[comp.metric](*(array[:, [n]] for n in range(3))))


def expected_rows(folder: Path, comp: Competition, ids: Sequence[str]) -> list[Row]:
    """The rows that a submission must have: the sample's, where `folder` holds one, else those of the images `ids`."""
    submission = comp.submission.model_dump()
    if comp.submission.sample and (folder / comp.submission.sample).exists():
        return layout.of_sample(folder / comp.submission.sample, submission, comp.classes)[1]
    return layout.of_images(sorted(ids), submission, comp.classes)


def rows_of(project: Project, comp: Competition) -> list[Row]:
    """The rows of a submission on the visible test set."""
    return expected_rows(raw_folder(project, comp), comp, list(test_rows(project, comp)["image_id"]))


# --- gatemask submission check ------------------------------------------------------------------------------


def inspect(project: Project, comp: Competition, path: Path, against: Path | None = None) -> dict[str, Any]:
    """Check a submission against the visible test set, and against an earlier one.

    Returns:
        What `check` returns, train_empty_share, sha256, notes (sentences on what is allowed, but odd), and
        `difference` to the earlier one: rows, emptied, filled, agreement (mean Dice between the two).
    """
    found = check(path, comp, rows_of(project, comp))
    share = train_empty_share(project, comp)
    found |= {"train_empty_share": share, "sha256": sha256(path), "notes": _notes(found, share)}
    if against is not None:
        found["difference"] = _difference(path, against, comp)
    return found


def train_empty_share(project: Project, comp: Competition) -> float | None:
    """Of the training images; None where there are none here, or several classes."""
    if len(comp.classes) > 1 or not (project.data / "manifest.json").exists():
        return None
    train = read_manifest(project, "train")
    return round(1 - float(train["label"].mean()), 4) if len(train) else None


def _notes(found: dict[str, Any], train_share: float | None) -> list[str]:
    notes = []
    if not found["in_order"]:
        notes.append("The rows stand in another order than the sample's; Kaggle matches them by id.")
    if found["megabytes"] > LARGE_MB:
        notes.append(f"The file is large: {found['megabytes']:.0f} MB.")
    if found["empty"] == found["rows"]:
        notes.append("Every mask is empty.")
    elif train_share is not None:
        masked, usual = 1 - found["empty_share"], 1 - train_share
        if masked > FAR * usual or masked < usual / FAR:
            notes.append(f"{masked:.1%} of the rows have a mask, in training {usual:.1%} of the images have one.")
    return notes


def _difference(path: Path, against: Path, comp: Competition) -> dict[str, Any]:
    before = {(line.row.image_id, line.row.class_index): line for line in read(against, comp)}
    emptied = filled = changed = 0
    agreement = []
    for line in read(path, comp):
        other = before.get((line.row.image_id, line.row.class_index))
        if other is None:
            raise _refusal("The earlier submission is of other rows.", against, f"no {line.row.name}", "the same rows")
        if line.text == other.text:
            agreement.append(1.0)
            continue
        here, there = (rle.decode(one.text, comp.image.size, comp.submission.rle, one.where) for one in (line, other))
        changed += bool((here != there).any())
        emptied += bool(there.any() and not here.any())
        filled += bool(here.any() and not there.any())
        agreement.append(dice_of_masks(there, here))
    mean = round(float(np.mean(agreement)), 6) if agreement else 1.0
    return {"against": str(against), "changed": changed, "emptied": emptied, "filled": filled, "agreement": mean}


def show(found: dict[str, Any]) -> None:
    """The result for people."""
    named = {
        "rows": "rows",
        "images": "images",
        "empty_share": "share of empty masks",
        "train_empty_share": "the same in training",
        "megabytes": "megabytes",
        "in_order": "in the sample's order",
    }
    listed = [[text, found[key]] for key, text in named.items() if found.get(key) is not None]
    if difference := found.get("difference"):
        listed += [[f"{key} (earlier one)", difference[key]] for key in ("changed", "emptied", "filled", "agreement")]
    table("A valid submission", ["", ""], listed)
    for note in found["notes"]:
        say(f"note: {note}")


def _named(key: tuple[str, int], comp: Competition) -> str:
    return key[0] if len(comp.classes) == 1 else f"{key[0]} (class {comp.classes[key[1]]})"


def _refusal(what: str, where: object, received: object, expected: object) -> GatemaskError:
    return GatemaskError(
        what,
        where=where,
        received=received,
        expected=expected,
        do="Do not submit this file; run gatemask package and rehearse again.",
    )
