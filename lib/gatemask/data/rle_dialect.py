"""Guess the RLE dialect of a label table.

A table does not say how its runs are counted, but the runs reveal it:

- *offsets*: absolute starts never fall into an earlier run; relative ones do all the time.
- *height*: see `gatemask.data.rle_size`.
- *base*: masks that touch the edge of the image begin or end exactly at a column's edge. Counted from the wrong base,
  each of them would cross into the neighboring column.
- *order*: transposing an image turns its rows into columns, so a table alone cannot decide. The images can: the outline
  of a mask follows edges in its image.

Whatever the runs leave open is filled in by Kaggle's conventions and marked as assumed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gatemask.config import Rle
from gatemask.data import rle_size
from gatemask.data.ids import IdRule
from gatemask.data.readers import list_images, read_image
from gatemask.data.rle_size import crossings
from gatemask.errors import GatemaskError
from gatemask.masks import rle

# At most ten digits each: their sums cannot overflow, and no image has more pixels.
RUNS = re.compile(r"\s*[0-9]{1,10}\s+[0-9]{1,10}(\s+[0-9]{1,10}\s+[0-9]{1,10})*\s*")
SAMPLED_IMAGES = 40
LARGEST = 1 << 28  # pixels of an image
# Except for malformed rows, absolute encodings never overlap themselves; relative ones seem to, unless runs are few.
OVERLAPPING = 0.2
# A dialect is contradicted where so many runs cross an edge, and so many times more than in another dialect.
CROSSED, TIMES = 10, 3

Offsets = Literal["absolute", "relative"]
Order = Literal["column", "row"]


class DialectGuess(NamedTuple):
    """A guessed dialect.

    Args:
        rle: The dialect.
        size: Height and width of the images; None where they could not be guessed.
        because: Reason for each part.
    """

    rle: Rle
    size: tuple[int, int] | None
    because: dict[str, str]


def guess_dialect(texts: list[str], marker: str, size: tuple[int, int] | None) -> DialectGuess:
    """Return the most plausible dialect.

    Args:
        texts: Encodings of masks, each a match of RUNS.
        marker: Text of an empty mask.
        size: Height and width, where they are known.

    Raises:
        GatemaskError: No row holds a mask.
    """
    because: dict[str, str] = {}
    offsets, because["offsets"] = guess_offsets([parse_pairs(text) for text in texts])
    runs = plausible_runs(texts, offsets)
    if not runs:
        raise GatemaskError("No row of the table holds a mask.", expected="'start length start length ...'")
    height, because["size"] = (size[0], "known") if size else rle_size.guess_height(runs)
    last = max(int(pairs.sum(axis=1).max()) for pairs in runs)
    order, because["order"] = _guess_order(runs, size)
    period = size[1] if size and order == "row" else height
    base, because["base"] = _guess_base(runs, period, offsets, last, size)
    if height and not size:
        width, reason = rle_size.guess_width(height, runs, base)
        size, because["size"] = (height, width), f"{because['size']}; {reason}"
    return DialectGuess(Rle(offsets=offsets, base=base, order=order, empty=marker), size, because)


def guess_offsets(encodings: list[np.ndarray]) -> tuple[Offsets, str]:
    """Return how starts are counted, and why.

    Args:
        encodings: `parse_pairs` of each mask.
    """
    several = [pairs for pairs in encodings if len(pairs) > 1]
    if not several:
        return "absolute", "assumed: no mask has more than one run"
    overlapping = sum(_overlap(pairs) for pairs in several)
    if overlapping <= OVERLAPPING * len(several):
        return "absolute", f"in {len(several) - overlapping} of {len(several)} masks, absolute runs do not overlap"
    return "relative", f"read as absolute, runs would overlap in {overlapping} of {len(several)} masks"


def _overlap(pairs: np.ndarray) -> bool:
    """Whether runs overlap, read as absolute, in any order; two runs seldom would, but ascend if they are absolute."""
    if len(pairs) == 2:
        return bool(pairs[1, 0] < pairs[0].sum())
    ordered = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return bool((ordered[1:, 0] < ordered[:-1].sum(axis=1)).any())


def parse_pairs(text: str) -> np.ndarray:
    """Return starts and lengths as they are written, int64 (runs, 2)."""
    return np.array(text.split(), np.int64).reshape(-1, 2)


def as_absolute(pairs: np.ndarray) -> np.ndarray:
    """Turn relative starts into absolute ones, int64 (runs, 2)."""
    starts = np.cumsum(pairs.ravel())[::2]
    return np.stack([starts, pairs[:, 1]], axis=1)


def plausible_runs(texts: Iterable[str], offsets: Offsets) -> list[np.ndarray]:
    """Return starts (absolute) and lengths of each mask, int64 (runs, 2).

    Masks that end far behind all others are dropped: a wrong number must not decide about sizes.

    Args:
        texts: Encodings of masks, each a match of RUNS.
        offsets: How their starts are counted.
    """
    encodings = [parse_pairs(text) for text in texts]
    runs = [as_absolute(pairs) if offsets == "relative" else pairs for pairs in encodings]
    ends = np.array([int(pairs.sum(axis=1).max()) for pairs in runs])
    if not len(ends):
        return []
    return [pairs for pairs, end in zip(runs, ends, strict=True) if end <= 20 * np.median(ends) and end <= LARGEST]


def empty_marker(texts: Iterable[str]) -> str | None:
    """Return the most frequent cell without runs, or with runs of no pixels: the text of an empty mask.

    >>> empty_marker(["1 3", "-1", "-1"]), empty_marker(["1 3", ""]), empty_marker(["1 3"])
    ('-1', '', None)
    """
    counted = Counter(text for text in texts if not RUNS.fullmatch(text) or set(text.split()[1::2]) == {"0"})
    # A single cell with blanks in it is a malformed encoding, not a marker.
    markers = [(count, text) for text, count in counted.items() if " " not in text or count > 1]
    return max(markers)[1] if markers else None


def contradicting_edges(
    encodings: list[np.ndarray], dialect: Rle, size: tuple[int, int] | Sequence[tuple[int, int]]
) -> str | None:
    """Return why base or order must be wrong: runs cross the edges of columns that they avoid in another dialect.

    Args:
        encodings: `parse_pairs` of each mask.
        dialect: The dialect that they should have.
        size: Height and width of all masks, or of each mask, in pixels.
    """
    if not encodings:
        return None
    groups: dict[tuple[int, int], list[np.ndarray]] = {}
    for number, pairs in enumerate(encodings):
        one = (size[0], size[1]) if isinstance(size, tuple) else size[number]
        groups.setdefault(one, []).append(as_absolute(pairs) if dialect.offsets == "relative" else pairs)
    joined = {one: np.concatenate(group) for one, group in groups.items()}

    def crossed(base: int, order: Order) -> dict[tuple[int, int], int]:
        found = {}
        for one, runs in joined.items():
            starts, ends = runs[:, 0], runs.sum(axis=1)
            found[one] = crossings(starts - base, ends - base, one[order == "row"])
        return found

    by_size = crossed(dialect.base, dialect.order)
    here, other = sum(by_size.values()), sum(crossed(1 - dialect.base, dialect.order).values())
    if here >= CROSSED and here >= TIMES * other:
        return (
            f"The first pixel seems to be {1 - dialect.base}, not {dialect.base}: {here} runs cross into the next "
            f"{dialect.order}, and {other} with the other base."
        )
    across: Order = "row" if dialect.order == "column" else "column"
    oblong = [one for one in joined if one[0] != one[1]]
    by_size_across = crossed(dialect.base, across)
    counts = sum(by_size[one] for one in oblong), sum(by_size_across[one] for one in oblong)
    # As shares of what chance would give, since the shorter side is crossed more often.
    here = sum(by_size[one] * one[dialect.order == "row"] for one in oblong)
    other = sum(by_size_across[one] * one[across == "row"] for one in oblong)
    if counts[0] >= CROSSED and here >= TIMES * other:
        return (
            f"The runs seem to be in {across} order, not in {dialect.order} order: they cross {dialect.order}s "
            f"{counts[0]} times, and {across}s {counts[1]} times."
        )
    return None


def _guess_order(runs: list[np.ndarray], size: tuple[int, int] | None) -> tuple[Order, str]:
    """Return the direction whose edges runs avoid to cross, where height and width differ."""
    if size and size[0] != size[1]:
        joined = np.concatenate(runs)
        starts, ends = joined[:, 0], joined.sum(axis=1)
        # As shares of what chance would give, since the shorter side is crossed more often.
        columns, rows = (min(crossings(starts - b, ends - b, side) for b in (0, 1)) * side for side in size)
        if columns != rows:
            reason = f"runs cross columns of {size[0]} {columns // size[0]} times, rows of {size[1]} {rows // size[1]}"
            return ("column" if columns < rows else "row"), reason
    return "column", "assumed: nearly all competitions count down the columns; --images can settle it"


def _guess_base(
    runs: list[np.ndarray], height: int | None, offsets: Offsets, last: int, size: tuple[int, int] | None
) -> tuple[Literal[0, 1], str]:
    joined = np.concatenate(runs)
    starts, ends = joined[:, 0], joined.sum(axis=1)
    if starts.min() == 0:
        return 0, "a run starts at 0"
    if size and last == size[0] * size[1] + 1:
        return 1, "a run ends one pixel past the last, counted from 0"
    if height:
        from_0, from_1 = crossings(starts, ends, height), crossings(starts - 1, ends - 1, height)
        if from_0 != from_1:
            reason = f"{from_0} runs would cross into the next column from base 0, {from_1} from base 1"
            return (0 if from_0 < from_1 else 1), reason
    reason = f"assumed: the convention for {offsets} offsets; no mask touches an edge"
    return (0, reason) if offsets == "relative" else (1, reason)


# --- evidence from images ----------------------------------------------------------------------------------


def guess_order_from_images(guess: DialectGuess, folder: Path, pattern: str, texts: dict[str, str]) -> DialectGuess:
    """Return the guess with the order under which mask outlines follow the edges of their images.

    Args:
        guess: The guess so far.
        folder: Folder of the label table.
        pattern: Glob of images below it.
        texts: Encoding by image id.

    Raises:
        GatemaskError: No image has a mask, or images differ in size.
    """
    size = guess.size or (0, 0)
    contrast: dict[Order, float] = {"column": 0.0, "row": 0.0}
    compared = 0
    rule = IdRule(pattern)
    files = ((path, rule.of_file(path.relative_to(folder).as_posix())) for path in list_images(folder, pattern))
    for path, image_id in ((path, image_id) for path, image_id in files if image_id in texts):
        found = outline_contrast(path, texts[image_id], size, guess.rle)
        if found is None:
            continue  # malformed, or a mask without an edge
        for order in contrast:
            contrast[order] += found[order]
        compared += 1
        if compared == SAMPLED_IMAGES:
            break
    if not compared:
        raise GatemaskError("No image belongs to a mask.", where=folder / pattern, expected="files named as the ids")
    column, row = contrast["column"] / compared, contrast["row"] / compared
    reason = f"outlines follow edges {column:.2f} times as strong as the average down the columns, {row:.2f} by rows"
    dialect = guess.rle.model_copy(update={"order": max(contrast, key=lambda order: contrast[order])})
    return DialectGuess(dialect, size, {**guess.because, "order": reason})


def outline_contrast(path: Path, text: str, size: tuple[int, int], dialect: Rle) -> dict[Order, float] | None:
    """Return how strong edges of an image are along the outline of its mask, for either order.

    Args:
        path: The image.
        text: Encoding of the mask.
        size: Height and width, in pixels.
        dialect: The dialect, whose order is not used.

    Returns:
        Mean strength of the edges along the outline, as a multiple of that of the whole image, by order; None for a
        malformed mask, or one without an edge.

    Raises:
        GatemaskError: The image has another size.
    """
    import cv2

    image = cv2.GaussianBlur(read_image(path, 1)[:, :, 0], (0, 0), 2).astype(np.float32)
    if image.shape != tuple(size):
        raise GatemaskError("The images differ in size.", where=path, received=image.shape, expected=tuple(size))
    edges = np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
    orders: tuple[Order, Order] = ("column", "row")
    outlines = {order: _outline(text, size, dialect, order) for order in orders}
    if not all(outline.any() for outline in outlines.values()):
        return None
    return {order: float(edges[one].mean() / max(edges.mean(), 1e-6)) for order, one in outlines.items()}


def _outline(text: str, size: tuple[int, int], dialect: Rle, order: Order) -> np.ndarray:
    """Return the pixels around a mask's edge, bool (height, width); none for a malformed mask."""
    import cv2

    try:
        mask = rle.decode(text, size, dialect.model_copy(update={"order": order}))
    except GatemaskError:
        return np.zeros(size, bool)
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0


def first_image_size(folder: Path, pattern: str) -> tuple[int, int]:
    """Return height and width of the first image below a folder that matches a glob.

    Raises:
        GatemaskError: No image matches.
    """
    for path in list_images(folder, pattern):
        height, width = read_image(path, 1).shape[:2]
        return height, width
    raise GatemaskError("No image was found.", where=folder / pattern, do="Correct --images.")
