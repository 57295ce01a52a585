"""The files that the options of `gatemask new` name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gatemask.data.image_files import MASK_NAME, MASK_WORDS
from gatemask.data.rle_dialect import RUNS
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions
from gatemask.new.files import FoundFiles, absolute, common_parent, find_images

SAMPLED_ROWS = 200  # of a table that may hold the labels


@dataclass(frozen=True)
class NewOptions:
    """Options of `gatemask new`.

    Args:
        images: Folder or glob of the training images.
        labels: Table, folder or glob of the labels; None to search beside the images.
        test: Folder or glob of the test images; None for a hold-out fold.
        sample: Sample submission; None where there is none.
        groups: Table of groups; None where there is none.
        metric: Name of the metric; None to guess.
        competition: Name of the competition on Kaggle; None where it is not known yet.
    """

    images: str
    labels: str | None = None
    test: str | None = None
    sample: Path | None = None
    groups: Path | None = None
    metric: str | None = None
    competition: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The files that the options name.

    Args:
        raw: Common parent of all files.
        images: Training images.
        table: The label table; None where masks are files.
        masks: Mask files; None where there is a table.
        test: Test images; without a file where the test set is hidden, None for a hold-out fold.
        sample: Sample submission; None where there is none.
        groups: Table of groups; None where there is none.
    """

    raw: Path
    images: FoundFiles
    table: Path | None
    masks: FoundFiles | None
    test: FoundFiles | None
    sample: Path | None
    groups: Path | None


def find_inputs(options: NewOptions, decisions: Decisions) -> Inputs:
    """Return the files that the options name.

    Raises:
        GatemaskError: A path does not exist or holds no image, or labels cannot be told from images.
    """
    tables = {"--sample": options.sample, "--groups": options.groups}
    paths = {option: absolute(path) for option, path in tables.items() if path is not None}
    for option, path in paths.items():
        if not path.is_file():
            raise GatemaskError(f"{option} names a file that does not exist.", where=path)
    test = _find_test(options.test) if options.test else None
    label_table_file, masks = _find_labels(options, decisions)
    others: list[Path] = [*(test.files if test else []), *(masks.files if masks else [])]
    images = find_images("--images", options.images, others)
    if masks is not None and masks.root == images.root and not masks.files:
        raise GatemaskError("--labels names no mask.", received=options.labels)
    given = [*images.files, *others, *paths.values(), *([label_table_file] if label_table_file else [])]
    raw = common_parent([*given, *([test.root] if test and not test.files else [])])
    return Inputs(raw, images, label_table_file, masks, test, paths.get("--sample"), paths.get("--groups"))


def _find_test(argument: str) -> FoundFiles:
    """Return the test images; none if the folder is empty, as it is where the whole test set is hidden."""
    folder = absolute(argument)
    if folder.is_dir() and not any(path.is_file() and path.name[0] != "." for path in folder.rglob("*")):
        return FoundFiles(folder, [])
    return find_images("--test", argument)


def _find_labels(options: NewOptions, decisions: Decisions) -> tuple[Path | None, FoundFiles | None]:
    """Return the label table, or the mask files."""
    path = absolute(options.labels) if options.labels is not None else _search_labels(options, decisions)
    if path.is_file():
        return path, None
    found = find_images("--labels", str(path))
    if absolute(options.images) != path:
        return None, found
    masks = [file for file in found.files if _is_named_as_mask(file)]  # images and masks in one folder
    if not masks:
        raise GatemaskError(
            "Images and masks in one folder cannot be distinguished.",
            where=path,
            expected="masks with a name such as NAME_mask.png",
            do="Name the masks with a glob, such as --labels 'train/*_seg.png'.",
        )
    return None, FoundFiles(found.root, masks)


def _is_named_as_mask(file: Path) -> bool:
    return bool(MASK_NAME.fullmatch(file.stem) or re.fullmatch(MASK_WORDS, file.parent.name, re.IGNORECASE))


def _search_labels(options: NewOptions, decisions: Decisions) -> Path:
    """Return the only table or folder of masks beside the images.

    Raises:
        GatemaskError: There is none, or several.
    """
    images = find_images("--images", options.images)
    given = {absolute(path) for path in (options.sample, options.groups) if path is not None}
    folders = list(dict.fromkeys([images.root, images.root.parent]))
    tables = [path for folder in folders for path in sorted(folder.glob("*.csv")) if path not in given]
    tables = [path for path in tables if "sample" not in path.name.lower() and _has_masks(path)]
    masks = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_dir() and path != images.root and re.fullmatch(MASK_WORDS, path.name, re.IGNORECASE)
    ]
    named = [file for file in images.files if MASK_NAME.fullmatch(file.stem)]
    beside = [images.root] if 3 * len(named) >= len(images.files) and len(named) < len(images.files) else []
    found = [*tables, *masks, *beside]
    if len(found) == 1:
        decisions.note("labels", str(found[0]), "guess: nothing else beside the images looks like labels")
        return found[0]
    raise GatemaskError(
        "--labels is missing, and several files could be meant." if found else "--labels is missing.",
        where=images.root,
        received=", ".join(path.name for path in found) or "no table or folder of masks beside the images",
        expected="a table of run-length encodings, or a folder or glob of mask files",
        do="Name it, such as --labels train.csv or --labels masks/.",
    )


def _has_masks(path: Path) -> bool:
    """Whether a table has a column of run-length encodings, by its first rows."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [line for _, line in zip(range(SAMPLED_ROWS), file, strict=False)]
    return any(RUNS.fullmatch(cell.strip().strip('"')) for line in lines for cell in line.rstrip("\n").split(","))
