"""Guess the RLE dialect of a label table, also where images differ in size, with their edges as evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gatemask.config import Rle
from gatemask.data import rle_dialect, rle_size
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions
from gatemask.new.images import Size, spread
from gatemask.new.table_layout import Rows, is_mask

OUTLINED = 24  # images whose edges are compared with outlines


def guess_dialect(
    rows: Rows,
    marker: str,
    raw: Path,
    files: Mapping[str, str],
    sizes: Mapping[str, Size],
    decisions: Decisions,
    file: Path,
) -> Rle:
    """Return the dialect of the masks, and report the reasons."""
    masks = [
        (sizes[files[image_id]], image_id, text)
        for image_id, text in zip(rows.ids, rows.texts, strict=True)
        if is_mask(text, marker) and files.get(image_id) in sizes
    ]
    if not masks:
        raise GatemaskError("No row of the label table holds the mask of an image.", where=file)
    masks = masks[:: max(1, len(masks) // 5000)]
    shared = {size for size, _, _ in masks}
    texts = [text for _, _, text in masks]
    guess = rle_dialect.guess_dialect(texts, marker, shared.pop() if len(shared) == 1 else None)
    dialect, because = guess.rle, dict(guess.because)
    if len({size for size, _, _ in masks}) > 1:
        dialect, reasons = _guess_of_sizes(masks, dialect)
        because |= reasons
    elif reason := rle_size.contradicts(rle_dialect.plausible_runs(texts, dialect.offsets), masks[0][0]):
        raise GatemaskError(
            "The masks of the label table belong to images of another size.",
            where=file,
            received=reason,
            expected=f"images of {masks[0][0][0]} x {masks[0][0][1]}",
            do="Check that the table belongs to these images.",
        )
    order, reason = _order_by_edges(masks, raw, files, sizes, dialect)
    if "assumed" in because["order"] and reason:
        dialect, because["order"] = dialect.model_copy(update={"order": order}), reason
    for part in ("offsets", "base", "order"):
        decisions.note(f"RLE {part}", str(getattr(dialect, part)), because[part])
    return dialect


def _guess_of_sizes(masks: Sequence[tuple[Size, str, str]], dialect: Rle) -> tuple[Rle, dict[str, str]]:
    """Return base and order under which runs cross fewest edges, for images of several sizes."""
    crossed: Counter[tuple[int, str]] = Counter()
    first = min(int(text.split()[0]) for _, _, text in masks)
    for (height, width), _, text in masks:
        pairs = rle_dialect.parse_pairs(text)
        pairs = rle_dialect.as_absolute(pairs) if dialect.offsets == "relative" else pairs
        for base in (0, 1):
            starts, ends = pairs[:, 0] - base, pairs.sum(axis=1) - base
            crossed[base, "column"] += rle_size.crossings(starts, ends, height) * height
            crossed[base, "row"] += rle_size.crossings(starts, ends, width) * width
    best = min(
        ((base, order) for base in (0, 1) for order in ("column", "row")), key=lambda key: (crossed[key], -key[0])
    )
    base = 0 if first == 0 else best[0]
    reason = f"runs cross fewest edges of {best[1]}s counted from {base}"
    return dialect.model_copy(update={"base": base, "order": best[1]}), {"base": reason, "order": reason}


def _order_by_edges(
    masks: Sequence[tuple[Size, str, str]], raw: Path, files: Mapping[str, str], sizes: Mapping[str, Size], dialect: Rle
) -> tuple[str, str]:
    """Return the order under which outlines follow the edges of the images, and why; "" where none is compared."""
    contrasts = []
    for size, image_id, text in spread(masks, OUTLINED, sizes):
        try:
            found = rle_dialect.outline_contrast(raw / files[image_id], text, size, dialect)
        except GatemaskError:  # an image that needs a window, or cannot be read
            continue
        if found is not None:
            contrasts.append((found["column"], found["row"]))
    if not contrasts:
        return dialect.order, ""
    column, row = np.mean(contrasts, axis=0)
    reason = f"outlines follow edges {column:.2f} times as strong as the average down the columns, {row:.2f} by rows"
    return ("column" if column >= row else "row"), reason
