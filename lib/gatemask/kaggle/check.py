"""Is this file a submission? Every id once, the header of the sample, every mask decodes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config.schema import Competition
from gatemask.data.labels import Masks
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.masks.metric import METRICS, total


def check(path: Path, comp: Competition, ids: Sequence[str]) -> dict[str, Any]:
    """Read a submission as strictly as Kaggle will.

    Args:
        path: submission.csv.
        comp: columns, flavour of RLE, image size.
        ids: the ids that must be there, each once.

    Returns:
        rows, empty, empty_share.

    Raises:
        GatemaskError: at the first thing that is wrong, with its row.
    """
    masks = read(path, comp)
    counts = Counter(image_id for image_id, _ in masks)
    if twice := [image_id for image_id, n in counts.items() if n > 1]:
        raise _refusal("An id comes more than once.", path, twice[0], "each id once")
    missing, unknown = set(ids) - set(counts), set(counts) - set(ids)
    if missing or unknown:
        example = sorted(missing or unknown)[0]
        received = f"{len(missing)} missing, {len(unknown)} unknown, such as {example}"
        raise _refusal("The ids are not those of the test set.", path, received, f"{len(ids)} ids")
    empty = sum(not mask.any() for _, mask in masks)
    return {"rows": len(masks), "empty": empty, "empty_share": round(empty / max(1, len(masks)), 4)}


def read(path: Path, comp: Competition) -> list[tuple[str, np.ndarray]]:
    """Rows of a submission as (id, bool (height, width)), in the file's order."""
    if not path.exists():
        raise _refusal("There is no submission.", path, "nothing", "submission.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    header = [comp.submission.id, comp.submission.mask]
    if not rows or rows[0] != header:
        raise _refusal("The header is not the sample's.", path, rows[0] if rows else "an empty file", header)
    masks = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2:
            raise _refusal("A row has the wrong number of columns.", f"{path}, row {number}", len(row), 2)
        where = f"{path}, row {number}, image {row[0]}"
        masks.append((row[0], rle.decode(row[1], comp.image.size, comp.submission.rle, where)))
    return masks


def score(path: Path, comp: Competition, truth: Masks) -> float:
    """The competition's metric of a submission against known masks, from the file itself."""
    pairs = [(truth[image_id], mask) for image_id, mask in read(path, comp)]
    counts = np.array([[(true & mask).sum(), mask.sum(), true.sum()] for true, mask in pairs], float)
    return total(*METRICS[comp.metric](*(counts[:, [n]] for n in range(3))))


def _refusal(what: str, where: object, received: object, expected: object) -> GatemaskError:
    return GatemaskError(
        what,
        where=where,
        received=received,
        expected=expected,
        do="Do not submit this file; run gatemask package and rehearse again.",
    )
