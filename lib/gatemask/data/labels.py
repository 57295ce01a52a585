"""Truth masks as a competition publishes them, brought to one flavour of RLE, one row an image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from gatemask.config.schema import PngLabels, RleLabels
from gatemask.errors import GatemaskError, nearest
from gatemask.files import write_text
from gatemask.masks import rle


def read_labels(labels: RleLabels | PngLabels, raw: Path, ids: Iterable[str], size: tuple[int, int]) -> dict[str, str]:
    """The united mask of each labelled image as RLE (`rle.INTERNAL`; empty text for no mask)."""
    return _from_table(labels, raw, size) if isinstance(labels, RleLabels) else _from_pictures(labels, raw, ids, size)


def _from_table(labels: RleLabels, raw: Path, size: tuple[int, int]) -> dict[str, str]:
    file = raw / labels.file
    table = read_table(file, [labels.id, labels.mask])
    united: dict[str, np.ndarray | None] = {}
    # Rows of one image need not be neighbours: unite by id, over the whole table.
    for row, (image_id, text) in enumerate(zip(table[labels.id], table[labels.mask], strict=True), start=2):
        where = f"{file}, row {row}, image {image_id}"
        starts, _ = rle.parse(text, size, labels.rle, where)
        old = united.setdefault(image_id, None)
        if len(starts):
            mask = rle.decode(text, size, labels.rle, where)
            united[image_id] = mask if old is None else old | mask
    return {name: "" if mask is None else rle.encode(mask) for name, mask in united.items()}


def _from_pictures(labels: PngLabels, raw: Path, ids: Iterable[str], size: tuple[int, int]) -> dict[str, str]:
    from gatemask.data.readers import read_mask

    found = {}
    for image_id in ids:
        path = raw / labels.masks.format(id=image_id)
        if not path.exists():
            continue
        mask = read_mask(path, labels.threshold)
        if mask.shape != tuple(size):
            raise GatemaskError("A mask has the wrong size.", where=path, received=mask.shape, expected=tuple(size))
        found[image_id] = rle.encode(mask)
    return found


def read_table(file: Path, columns: list[str]) -> pd.DataFrame:
    """A CSV as text, with the named columns; blanks around headers and values, and a BOM, are taken off."""
    if not file.exists():
        raise GatemaskError(
            "There is no such table.", where=file, do="Correct the path in competition.yaml, or --data."
        )
    try:
        table = pd.read_csv(file, dtype=str, encoding="utf-8-sig", keep_default_na=False, skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
        raise GatemaskError("A table cannot be read.", where=file, received=error, expected="CSV in UTF-8") from None
    table.columns = table.columns.str.strip()
    for column in columns:
        if column not in table.columns:
            close = nearest(column, table.columns)
            raise GatemaskError(
                f"A table lacks the column '{column}'.",
                where=file,
                received=", ".join(table.columns),
                do=f"Did you mean '{close}'?" if close else "Name the column in competition.yaml.",
            )
        table[column] = table[column].str.strip()
    return table


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

    def __getitem__(self, image_id: str) -> np.ndarray:
        """bool (height, width)."""
        return rle.decode(self._texts.get(image_id, ""), self._size, where=image_id)
