"""Truth masks as a competition publishes them, brought to one flavour of RLE, one row an image."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from gatemask.config import PngLabels, Rle, RleLabels
from gatemask.console import progress
from gatemask.data.fold_files import plain_id
from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.masks import rle

# More malformed rows than this share, and it is not the rows that are wrong.
TOLERATED = 0.1


class Labels(NamedTuple):
    """What the labels say.

    Args:
        masks: the united mask of each labelled image as RLE (`rle.INTERNAL`; empty text for no mask).
        problems: image id, place and complaint of each label that cannot be used; its image has no mask here.
    """

    masks: dict[str, str]
    problems: list[tuple[str, str, str]]


def read_labels(labels: RleLabels | PngLabels, raw: Path, ids: Sequence[str], size: tuple[int, int]) -> Labels:
    """Read all labels; a single bad one is reported, and never ends the run.

    Args:
        labels: what competition.yaml says of them.
        raw: the raw folder.
        ids: the images; pictures are looked for by their names.
        size: height and width of every mask.

    Raises:
        GatemaskError: no table, no such column, an image both empty and masked, or so many malformed rows that the
            flavour must be wrong.
    """
    found = _from_table(labels, raw, size) if isinstance(labels, RleLabels) else _from_pictures(labels, raw, ids, size)
    if labels.missing == "empty":
        refused = {image_id for image_id, _, _ in found.problems}
        found.masks.update({i: "" for i in ids if i not in found.masks and i not in refused})
    return found


def _from_table(labels: RleLabels, raw: Path, size: tuple[int, int]) -> Labels:
    file = raw / labels.file
    table = read_table(file, [labels.id, labels.mask], header=not isinstance(labels.id, int))
    # Some tables name files, not ids.
    ids, texts = [plain_id(name) for name in table.column(labels.id)], table.column(labels.mask)
    _refuse_contradictions(table, ids, [rle.is_empty(text, labels.rle) for text in texts])
    # Rows of one image need not be neighbours: gather them by id, over the whole table.
    rows_of: dict[str, list[int]] = {}
    for row, image_id in enumerate(ids):
        rows_of.setdefault(image_id, []).append(row)
    masks: dict[str, str] = {}
    problems: list[tuple[str, str, str]] = []
    first: GatemaskError | None = None
    for image_id, rows in rows_of.items():
        try:
            masks[image_id] = _united(table, image_id, [(row, texts[row]) for row in rows], labels.rle, size)
        except GatemaskError as error:
            place = str(error.details["where"]).removeprefix(f"{file}, ").split(", image")[0]
            problems.append((image_id, f"{labels.file}, {place}", error.short()))
            first = first or error
    masked = sum(not rle.is_empty(text, labels.rle) for text in texts)
    if first and len(problems) > max(1, TOLERATED * masked):
        raise _wrong_flavour(first, len(problems), masked, file)
    return Labels(masks, problems)


def _united(table: Table, image_id: str, rows: list[tuple[int, str]], flavour: Rle, size: tuple[int, int]) -> str:
    """One image's rows as one encoding: annotators may overlap, so masks are united, never added."""
    if not image_id:
        raise GatemaskError("A row has no image id.", where=table.where(rows[0][0]))
    united: np.ndarray | None = None
    for row, text in rows:
        if not rle.is_empty(text, flavour):
            mask = rle.decode(text, size, flavour, f"{table.where(row)}, image {image_id}")
            united = mask if united is None else united | mask
    return "" if united is None else rle.encode(united)


def _wrong_flavour(first: GatemaskError, malformed: int, masked: int, file: Path) -> GatemaskError:
    return GatemaskError(
        f"{malformed} of {masked} run-length encodings are malformed: not the rows are wrong, but the flavour.",
        where=first.details["where"],
        received=f"{first.what} {first.details['received']}",
        expected=first.details["expected"],
        do=f"Run gatemask data labels {file}: it finds offsets, base, order and size. Then correct competition.yaml.",
    )


def _refuse_contradictions(table: Table, ids: Sequence[str], empty: Sequence[bool]) -> None:
    """No image may have a row that says "empty" beside one that holds a mask: one of the two is wrong."""
    contradicted = {i for i, e in zip(ids, empty, strict=True) if e} & {
        i for i, e in zip(ids, empty, strict=True) if not e
    }
    if contradicted:
        name = min(contradicted)
        lines = [str(line) for line, image_id in zip(table.lines, ids, strict=True) if image_id == name]
        raise GatemaskError(
            "An image is labelled both empty and masked.",
            where=f"{table.file}, rows {' and '.join(lines)}, image {name}",
            received=f"{len(contradicted)} such images",
            expected="one or the other",
            do="Delete the rows that are wrong.",
        )


def _from_pictures(labels: PngLabels, raw: Path, ids: Sequence[str], size: tuple[int, int]) -> Labels:
    from gatemask.data.readers import list_images, read_mask

    def unite(image_id: str) -> str | GatemaskError | None:
        paths = list(list_images(raw, labels.masks.format(id=_literal(image_id))))
        united: np.ndarray | None = None
        try:
            for path in paths:
                mask = read_mask(path, labels.threshold)
                if mask.shape != tuple(size):
                    raise GatemaskError(
                        "A mask has the wrong size.", where=path, received=mask.shape, expected=tuple(size)
                    )
                united = mask if united is None else united | mask
        except GatemaskError as error:
            return error
        return None if united is None else rle.encode(united)

    masks, problems = {}, []
    with ThreadPoolExecutor() as pool:
        for image_id, found in zip(ids, progress(pool.map(unite, ids), "masks", len(ids)), strict=True):
            if isinstance(found, GatemaskError):
                place = Path(str(found.details["where"])).relative_to(raw).as_posix()
                problems.append((image_id, place, found.short()))
            elif found is not None:
                masks[image_id] = found
    return Labels(masks, problems)


def _literal(name: str) -> str:
    """An id inside a glob, where brackets and stars would mean something else."""
    from glob import escape

    return escape(name)


def write_masks(path: Path, masks: dict[str, str], class_name: str) -> Path:
    """masks.csv: image_id, class, rle; positive images only."""
    rows = [(name, class_name, text) for name, text in sorted(masks.items()) if text]
    frame = pd.DataFrame(rows, columns=["image_id", "class", "rle"])
    return write_text(path, frame.to_csv(index=False, lineterminator="\n"))


class Masks:
    """Truth masks by image id, decoded when asked for; an id that is not listed has an empty mask."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        self._texts = dict(zip(frame["image_id"], frame["rle"], strict=True))
        self._size = size

    def text(self, image_id: str) -> str:
        """`rle.INTERNAL`; empty for no mask."""
        return self._texts.get(image_id, "")

    def __getitem__(self, image_id: str) -> np.ndarray:
        """bool (height, width)."""
        return rle.decode(self.text(image_id), self._size, where=image_id)
