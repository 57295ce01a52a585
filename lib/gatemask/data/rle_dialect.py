"""Guess which flavour of RLE a label table is written in.

Nothing in a table says how its runs are counted, but the runs themselves give it away:

- *offsets*: absolute starts never fall into an earlier run; relative ones do all the time.
- *height*: a run ends where its column ends. At the right height hardly a run crosses from one column into the next,
  at other heights many do; and one column of a mask looks like the one before it.
- *base*: masks that touch the edge of the picture begin or end exactly at a column's edge. Counted from the wrong
  base, each of them would cross into the neighbouring column.
- *order*: transposing a picture changes its rows into columns, so a table by itself cannot tell. The pictures can:
  the outline of a mask lies on edges in the image.

What the runs leave open is filled in by the custom of Kaggle, and marked as assumed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gatemask.config import Rle
from gatemask.errors import GatemaskError
from gatemask.masks import rle

RUNS = re.compile(r"\s*[0-9]{1,15}\s+[0-9]{1,15}(\s+[0-9]{1,15}\s+[0-9]{1,15})*\s*")
SAMPLED_RUNS = 5_000
SAMPLED_IMAGES = 40
HIGHEST, LARGEST = 8192, 1 << 28  # pixels of a column, and of an image
# Malformed rows apart, no absolute encoding overlaps itself; relative ones seem to, unless they have few runs.
OVERLAPPING = 0.2
# A height is a candidate if runs cross it less than half as often as by chance, and that by four standard deviations.
CONVINCING, SIGNIFICANT = 0.5, 4.0
CANDIDATES, SAMPLED_MASKS = 20, 20


class Guess(NamedTuple):
    """A flavour, the size of the images, and why."""

    rle: Rle
    size: tuple[int, int] | None
    because: dict[str, str]


def guess(texts: list[str], marker: str, size: tuple[int, int] | None) -> Guess:
    """The flavour that most speaks for.

    Args:
        texts: encodings of masks, each a match of RUNS.
        marker: the word for an empty mask.
        size: height and width, where they are known.

    Raises:
        GatemaskError: no mask to learn from.
    """
    numbers = [pairs_of(text) for text in texts]
    because: dict[str, str] = {}
    offsets, because["offsets"] = offsets_of(numbers)
    runs = _sane([as_absolute(pairs) if offsets == "relative" else pairs for pairs in numbers])
    if not runs:
        raise GatemaskError("No row of the table holds a mask.", expected="'start length start length ...'")
    height, because["size"] = (size[0], "known") if size else _height(runs)
    last = max(int(pairs[-1].sum()) for pairs in runs)
    order, because["order"] = _order(runs, size)
    period = size[1] if size and order == "row" else height
    base, because["base"] = _base(runs, period, offsets, last, size)
    if height and not size:
        width, reason = _width(height, last - base)
        size, because["size"] = (height, width), f"{because['size']}; {reason}"
    return Guess(Rle(offsets=offsets, base=base, order=order, empty=marker), size, because)


def offsets_of(numbers: list[np.ndarray]) -> tuple[Any, str]:
    """ "absolute" or "relative", and why."""
    several = [pairs for pairs in numbers if len(pairs) > 1]
    if not several:
        return "absolute", "assumed: no mask has more than one run"
    overlapping = sum(_overlap(pairs) for pairs in several)
    if overlapping <= OVERLAPPING * len(several):
        return "absolute", f"in {len(several) - overlapping} of {len(several)} masks, runs read so do not overlap"
    return "relative", f"read as absolute, runs would overlap in {overlapping} of {len(several)} masks"


def _overlap(pairs: np.ndarray) -> bool:
    """Whether runs overlap, read as absolute, whatever their order."""
    ordered = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return bool((ordered[1:, 0] < ordered[:-1].sum(axis=1)).any())


def pairs_of(text: str) -> np.ndarray:
    """(runs, 2): start and length, as they are written."""
    return np.array(text.split(), np.int64).reshape(-1, 2)


def as_absolute(pairs: np.ndarray) -> np.ndarray:
    """Relative starts, counted from the beginning of the image instead; lengths as they are."""
    starts = np.cumsum(pairs.ravel())[::2]
    return np.stack([starts, pairs[:, 1]], axis=1)


def _crossings(starts: np.ndarray, ends: np.ndarray, height: int) -> int:
    """How many columns' edges lie strictly inside a run; ends are exclusive."""
    return int(((ends - 1) // height - starts // height).sum())


def _height(runs: list[np.ndarray]) -> tuple[int | None, str]:
    """The period that runs avoid to cross, of all up to HIGHEST pixels, for either base."""
    joined = np.concatenate(runs)
    step = -(-len(joined) // SAMPLED_RUNS)
    starts, ends = joined[::step, 0], joined[::step].sum(axis=1)
    inside = float((ends - starts - 1).sum())
    # No run but that of whole columns is longer than a column; fewer than 5 expected crossings would prove nothing.
    shortest = max(8, int(np.quantile(ends - starts, 0.9)))
    heights = np.arange(shortest, 1 + min(HIGHEST, int(ends.max()), int(inside / 5)))
    crossed = np.array([min(_crossings(starts - b, ends - b, h) for b in (0, 1)) for h in heights.tolist()])
    by_chance = inside / heights
    # Multiples of the height are avoided as well, but prove less, for fewer crossings are expected there.
    strength = np.where(crossed <= CONVINCING * by_chance, (by_chance - crossed) / np.sqrt(by_chance), 0)
    best = np.argsort(-strength, kind="stable")[:CANDIDATES]
    best = best[strength[best] >= SIGNIFICANT]
    if not len(best):
        return None, "not found: too few runs, or images of several sizes"
    # Parts and multiples of the height are avoided too, the ones by luck, the others less clearly.
    repeats = np.array([_repeats(runs, int(height)) for height in heights[best]])
    best = best[repeats >= 0.9 * repeats.max()]
    near = best[strength[best] >= 0.99 * strength[best].max()]
    at = max(near.tolist(), key=lambda index: _roundness(int(heights[index])))
    reason = f"columns of {heights[at]} are crossed {crossed[at]} times, where {by_chance[at]:.0f} would be by chance"
    return int(heights[at]), reason


def _repeats(runs: list[np.ndarray], height: int) -> float:
    """The share of pixels that are mask again `height` pixels on, averaged over a few masks."""
    shares = []
    for pairs in runs[:: -(-len(runs) // SAMPLED_MASKS)]:
        flat = np.zeros(int(pairs.sum(axis=1).max()), bool)
        for start, length in pairs.tolist():
            flat[start : start + length] = True
        shares.append(float((flat[height:] & flat[:-height]).sum() / flat.sum()))
    return float(np.mean(shares))


def _roundness(number: int) -> int:
    """The largest power of two in it."""
    return number & -number


def _sane(runs: list[np.ndarray]) -> list[np.ndarray]:
    """Without masks that end far behind all others: a wrong number must not decide about sizes."""
    ends = np.array([int(pairs.sum(axis=1).max()) for pairs in runs])
    if not len(ends):
        return []
    return [pairs for pairs, end in zip(runs, ends, strict=True) if end <= 20 * np.median(ends) and end <= LARGEST]


def _order(runs: list[np.ndarray], size: tuple[int, int] | None) -> tuple[Any, str]:
    """Where height and width differ, the one that runs avoid to cross is the direction in which they go."""
    if size and size[0] != size[1]:
        joined = np.concatenate(runs)
        starts, ends = joined[:, 0], joined.sum(axis=1)
        # As shares of what chance would give, for the shorter side is crossed more often.
        columns, rows = (min(_crossings(starts - b, ends - b, side) for b in (0, 1)) * side for side in size)
        if columns != rows:
            reason = f"runs cross columns of {size[0]} {columns // size[0]} times, rows of {size[1]} {rows // size[1]}"
            return ("column" if columns < rows else "row"), reason
    return "column", "assumed: nearly all competitions go down the columns; --images lets them be asked"


def _base(
    runs: list[np.ndarray], height: int | None, offsets: str, last: int, size: tuple[int, int] | None
) -> tuple[Any, str]:
    joined = np.concatenate(runs)
    starts, ends = joined[:, 0], joined.sum(axis=1)
    if starts.min() == 0:
        return 0, "a run starts at 0"
    if size and last == size[0] * size[1] + 1:
        return 1, "a run ends one behind the last pixel, counted from 0"
    if height:
        from_0, from_1 = _crossings(starts, ends, height), _crossings(starts - 1, ends - 1, height)
        if from_0 != from_1:
            reason = f"{from_0} runs would cross into the next column from base 0, {from_1} from base 1"
            return (0 if from_0 < from_1 else 1), reason
    custom = 0 if offsets == "relative" else 1
    return custom, f"assumed: the custom for {offsets} offsets; no mask touches an edge"


def _width(height: int, pixels: int) -> tuple[int, str]:
    least = -(-pixels // height)
    if least <= height:
        return height, f"square is assumed: the masks reach column {least}"
    rounded = -(-least // 32) * 32
    return rounded, f"the masks reach column {least}; the width is that, rounded up to a multiple of 32"


# --- what the images say -----------------------------------------------------------------------------------


def ask_images(found: Guess, folder: Path, pattern: str, texts: dict[str, str]) -> Guess:
    """The guess with the order that the images speak for: a mask's outline lies on edges of its image."""
    import cv2

    from gatemask.data.readers import list_images, read_image

    size, contrast, looked = found.size or (0, 0), {"column": 0.0, "row": 0.0}, 0
    for path in (p for p in list_images(folder, pattern) if p.stem in texts):
        image = cv2.GaussianBlur(read_image(path, 1)[:, :, 0], (0, 0), 2).astype(np.float32)
        if image.shape != tuple(size):
            raise GatemaskError("The images differ in size.", where=path, received=image.shape, expected=tuple(size))
        edges = np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
        outlines = {order: _outline(texts[path.stem], size, found.rle, order) for order in contrast}
        if not all(outline.any() for outline in outlines.values()):
            continue  # malformed, or a mask without an edge
        for order, outline in outlines.items():
            contrast[order] += float(edges[outline].mean() / max(edges.mean(), 1e-6))
        looked += 1
        if looked == SAMPLED_IMAGES:
            break
    if not looked:
        raise GatemaskError("No image belongs to a mask.", where=folder / pattern, expected="files named as the ids")
    order = max(contrast, key=lambda name: contrast[name])
    column, row = (contrast[name] / looked for name in ("column", "row"))
    reason = f"outlines lie on edges {column:.2f} times as strong as the average down the columns, {row:.2f} by rows"
    return Guess(found.rle.model_copy(update={"order": order}), size, {**found.because, "order": reason})


def _outline(text: str, size: tuple[int, int], flavour: Rle, order: str) -> np.ndarray:
    """The pixels about a mask's edge, bool (height, width); none for a malformed mask."""
    import cv2

    try:
        mask = rle.decode(text, size, flavour.model_copy(update={"order": order}))
    except GatemaskError:
        return np.zeros(size, bool)
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0


def image_size(folder: Path, pattern: str) -> tuple[int, int]:
    """Height and width of the first image that `pattern` names."""
    from gatemask.data.readers import list_images, read_image

    for path in list_images(folder, pattern):
        height, width = read_image(path, 1).shape[:2]
        return height, width
    raise GatemaskError("No image was found.", where=folder / pattern, do="Correct --images.")
