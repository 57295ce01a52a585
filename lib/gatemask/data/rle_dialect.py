"""Guess the RLE dialect of a label table.

A table does not say how its runs are counted, but the runs reveal it:

- *offsets*: absolute starts never fall into an earlier run; relative ones do all the time.
- *height*: a run ends where its column ends. At the right height hardly any run crosses from one column into the next;
  at other heights many do. And one column of a mask resembles the one before it.
- *base*: masks that touch the edge of the image begin or end exactly at a column's edge. Counted from the wrong base,
  each of them would cross into the neighboring column.
- *order*: transposing an image turns its rows into columns, so a table alone cannot decide. The images can: the outline
  of a mask follows edges in its image.

Whatever the runs leave open is filled in by Kaggle's conventions and marked as assumed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gatemask.config import Rle
from gatemask.data.ids import IdRule
from gatemask.data.readers import list_images, read_image
from gatemask.errors import GatemaskError
from gatemask.masks import rle

# At most ten digits each: their sums cannot overflow, and no image has more pixels.
RUNS = re.compile(r"\s*[0-9]{1,10}\s+[0-9]{1,10}(\s+[0-9]{1,10}\s+[0-9]{1,10})*\s*")
SAMPLED_RUNS = 5_000
SAMPLED_IMAGES = 40
HIGHEST, LARGEST = 8192, 1 << 28  # pixels of a column, and of an image
# Except for malformed rows, absolute encodings never overlap themselves; relative ones seem to, unless runs are few.
OVERLAPPING = 0.2
# A height is a candidate if runs cross it less than half as often as by chance, and that by four standard deviations.
CONVINCING, SIGNIFICANT = 0.5, 4.0
CANDIDATES, SAMPLED_MASKS = 20, 20

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
    encodings = [parse_pairs(text) for text in texts]
    because: dict[str, str] = {}
    offsets, because["offsets"] = guess_offsets(encodings)
    runs = _plausible([as_absolute(pairs) if offsets == "relative" else pairs for pairs in encodings])
    if not runs:
        raise GatemaskError("No row of the table holds a mask.", expected="'start length start length ...'")
    height, because["size"] = (size[0], "known") if size else _guess_height(runs)
    last = max(int(pairs[-1].sum()) for pairs in runs)
    order, because["order"] = _guess_order(runs, size)
    period = size[1] if size and order == "row" else height
    base, because["base"] = _guess_base(runs, period, offsets, last, size)
    if height and not size:
        width, reason = _guess_width(height, last - base)
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
    """Whether runs overlap, read as absolute, in any order."""
    ordered = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return bool((ordered[1:, 0] < ordered[:-1].sum(axis=1)).any())


def parse_pairs(text: str) -> np.ndarray:
    """Return starts and lengths as they are written, int64 (runs, 2)."""
    return np.array(text.split(), np.int64).reshape(-1, 2)


def as_absolute(pairs: np.ndarray) -> np.ndarray:
    """Turn relative starts into absolute ones, int64 (runs, 2)."""
    starts = np.cumsum(pairs.ravel())[::2]
    return np.stack([starts, pairs[:, 1]], axis=1)


def _crossings(starts: np.ndarray, ends: np.ndarray, height: int) -> int:
    """Return how many column edges fall strictly inside a run; ends are exclusive."""
    return int(((ends - 1) // height - starts // height).sum())


def _guess_height(runs: list[np.ndarray]) -> tuple[int | None, str]:
    """Return the period that runs avoid to cross, among all up to HIGHEST pixels, for either base."""
    joined = np.concatenate(runs)
    step = -(-len(joined) // SAMPLED_RUNS)
    starts, ends = joined[::step, 0], joined[::step].sum(axis=1)
    inside = float((ends - starts - 1).sum())
    # Only a run of whole columns is longer than a column; fewer than 5 expected crossings would prove nothing.
    shortest = max(8, int(np.quantile(ends - starts, 0.9)))
    heights = np.arange(shortest, 1 + min(HIGHEST, int(ends.max()), int(inside / 5)))
    crossed = np.array([min(_crossings(starts - b, ends - b, h) for b in (0, 1)) for h in heights.tolist()])
    by_chance = inside / heights
    # Multiples of the height are avoided as well, but prove less, since fewer crossings are expected there.
    strength = np.where(crossed <= CONVINCING * by_chance, (by_chance - crossed) / np.sqrt(by_chance), 0)
    candidates = np.argsort(-strength, kind="stable")[:CANDIDATES]
    candidates = candidates[strength[candidates] >= SIGNIFICANT]
    if not len(candidates):
        return None, "not found: too few runs, or images of several sizes"
    # Fractions and multiples of the height are avoided too: fractions by luck, multiples less clearly.
    repeats = np.array([_repeats(runs, int(height)) for height in heights[candidates]])
    candidates = candidates[repeats >= 0.9 * repeats.max()]
    strongest = candidates[strength[candidates] >= 0.99 * strength[candidates].max()]
    best = max(strongest.tolist(), key=lambda index: _roundness(int(heights[index])))
    expected = f"{by_chance[best]:.0f} are expected by chance"
    return int(heights[best]), f"runs cross columns of {heights[best]} {crossed[best]} times; {expected}"


def _repeats(runs: list[np.ndarray], height: int) -> float:
    """Return the share of mask pixels that are mask again `height` pixels later, averaged over a few masks."""
    shares = []
    for pairs in runs[:: -(-len(runs) // SAMPLED_MASKS)]:
        flat = np.zeros(int(pairs.sum(axis=1).max()), bool)
        for start, length in pairs.tolist():
            flat[start : start + length] = True
        shares.append(float((flat[height:] & flat[:-height]).sum() / flat.sum()))
    return float(np.mean(shares))


def _roundness(number: int) -> int:
    """Return the largest power of two that divides a number."""
    return number & -number


def _plausible(runs: list[np.ndarray]) -> list[np.ndarray]:
    """Drop masks that end far behind all others: a wrong number must not decide about sizes."""
    ends = np.array([int(pairs.sum(axis=1).max()) for pairs in runs])
    if not len(ends):
        return []
    return [pairs for pairs, end in zip(runs, ends, strict=True) if end <= 20 * np.median(ends) and end <= LARGEST]


def _guess_order(runs: list[np.ndarray], size: tuple[int, int] | None) -> tuple[Order, str]:
    """Return the direction whose edges runs avoid to cross, where height and width differ."""
    if size and size[0] != size[1]:
        joined = np.concatenate(runs)
        starts, ends = joined[:, 0], joined.sum(axis=1)
        # As shares of what chance would give, since the shorter side is crossed more often.
        columns, rows = (min(_crossings(starts - b, ends - b, side) for b in (0, 1)) * side for side in size)
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
        from_0, from_1 = _crossings(starts, ends, height), _crossings(starts - 1, ends - 1, height)
        if from_0 != from_1:
            reason = f"{from_0} runs would cross into the next column from base 0, {from_1} from base 1"
            return (0 if from_0 < from_1 else 1), reason
    reason = f"assumed: the convention for {offsets} offsets; no mask touches an edge"
    return (0, reason) if offsets == "relative" else (1, reason)


def _guess_width(height: int, pixels: int) -> tuple[int, str]:
    least = -(-pixels // height)
    if least <= height:
        return height, f"square is assumed: the masks reach column {least}"
    rounded = -(-least // 32) * 32
    return rounded, f"the masks reach column {least}; the width is rounded up to a multiple of 32"


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
    import cv2

    size = guess.size or (0, 0)
    contrast: dict[Order, float] = {"column": 0.0, "row": 0.0}
    compared = 0
    rule = IdRule(pattern)
    files = ((path, rule.of_file(path.relative_to(folder).as_posix())) for path in list_images(folder, pattern))
    for path, image_id in ((path, image_id) for path, image_id in files if image_id in texts):
        image = cv2.GaussianBlur(read_image(path, 1)[:, :, 0], (0, 0), 2).astype(np.float32)
        if image.shape != tuple(size):
            raise GatemaskError("The images differ in size.", where=path, received=image.shape, expected=tuple(size))
        edges = np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
        outlines = {order: _outline(texts[image_id], size, guess.rle, order) for order in contrast}
        if not all(outline.any() for outline in outlines.values()):
            continue  # malformed, or a mask without an edge
        for order, outline in outlines.items():
            contrast[order] += float(edges[outline].mean() / max(edges.mean(), 1e-6))
        compared += 1
        if compared == SAMPLED_IMAGES:
            break
    if not compared:
        raise GatemaskError("No image belongs to a mask.", where=folder / pattern, expected="files named as the ids")
    column, row = contrast["column"] / compared, contrast["row"] / compared
    reason = f"outlines follow edges {column:.2f} times as strong as the average down the columns, {row:.2f} by rows"
    dialect = guess.rle.model_copy(update={"order": max(contrast, key=lambda order: contrast[order])})
    return DialectGuess(dialect, size, {**guess.because, "order": reason})


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
