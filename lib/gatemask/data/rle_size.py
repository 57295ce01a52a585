"""Guess height and width of images from the runs of their masks.

A run ends where its column ends. At the right height hardly any run crosses from one column into the next; at other
heights many do. Only runs that fit into a column tell: a longer one covers whole columns, and crosses at any height.
And one column of a mask resembles the next, more than any other shift by a few pixels does.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

HIGHEST = 8192  # pixels of a column
LOWEST = 8
SAMPLED_RUNS, SAMPLED_MASKS = 5_000, 20
# A height is a candidate if runs cross it less than half as often as by chance, and that by four standard deviations.
CONVINCING, SIGNIFICANT = 0.5, 4.0
EXPECTED = 5  # crossings by chance; fewer prove nothing
CANDIDATES = 20
FULL = 3  # masks that end at one pixel, which must be the last
MANY = 30  # masks that together reach nearly every part of the image
REACHED = 0.75  # share of a square's width below which so many masks show that the image is narrower


def crossings(starts: np.ndarray, ends: np.ndarray, height: int) -> int:
    """Return how many column edges fall strictly inside a run.

    Args:
        starts: First pixels, int64 (runs,).
        ends: Pixels behind the last, int64 (runs,).
        height: Height of a column, in pixels.
    """
    return int(((ends - 1) // height - starts // height).sum())


def guess_height(runs: list[np.ndarray]) -> tuple[int | None, str]:
    """Return the height that runs avoid to cross, for either base, and why.

    Args:
        runs: Starts (absolute) and lengths of each mask, int64 (runs, 2).
    """
    heights, crossed, by_chance = _count_crossings(runs)
    # Multiples of the height are avoided as well, but prove less, since fewer crossings are expected there.
    strength = np.where(crossed <= CONVINCING * by_chance, (by_chance - crossed) / np.sqrt(by_chance), 0)
    candidates = np.argsort(-strength, kind="stable")[:CANDIDATES]
    candidates = candidates[strength[candidates] >= SIGNIFICANT]
    # Fractions of the height are avoided by luck, and multiples less clearly: columns tell them apart.
    repeats = _repeats(runs, heights[candidates])
    peaks = (repeats[:, 1] > repeats[:, 0]) & (repeats[:, 1] > repeats[:, 2])
    candidates, shares = candidates[peaks], repeats[peaks, 1]
    if not len(candidates):
        return _height_of_full_masks(runs)
    candidates = candidates[shares >= 0.9 * shares.max()]
    strongest = candidates[strength[candidates] >= 0.99 * strength[candidates].max()]
    best = max(strongest.tolist(), key=lambda index: _roundness(int(heights[index])))
    # Where most runs are longer than a column, a multiple can be stronger than the height itself.
    divisors = [index for index in candidates.tolist() if heights[best] % heights[index] == 0]
    best = min(divisors, key=lambda index: int(heights[index]))
    reason = (
        f"runs cross columns of {heights[best]} {crossed[best]} times; {by_chance[best]:.0f} are expected by chance"
    )
    return int(heights[best]), reason


def contradicts(runs: list[np.ndarray], size: tuple[int, int]) -> str | None:
    """Return why masks cannot belong to images of a size; None where they may.

    Args:
        runs: Starts (absolute) and lengths of each mask, int64 (runs, 2).
        size: Height and width, in pixels.
    """
    last = max(int(pairs.sum(axis=1).max()) for pairs in runs)
    if last > size[0] * size[1] + 1:
        return f"a mask ends at pixel {last}"
    found, reason = guess_height(runs)
    if found is None or found in size:
        return None
    heights, crossed, by_chance = _count_crossings(runs)
    avoided = dict(zip(heights.tolist(), (crossed <= CONVINCING * by_chance).tolist(), strict=True))
    return None if any(avoided.get(side, True) for side in size) else f"the columns have a height of {found}: {reason}"


def guess_width(height: int, runs: list[np.ndarray], base: int) -> tuple[int, str]:
    """Return the width of the images, and why.

    Args:
        height: Height, in pixels.
        runs: Starts (absolute) and lengths of each mask, int64 (runs, 2).
        base: Number of the first pixel.
    """
    lasts = [int(pairs.sum(axis=1).max()) - base for pairs in runs]
    last = max(lasts)
    least = -(-last // height)
    if last % height == 0 and lasts.count(last) >= FULL:
        return least, f"{lasts.count(last)} masks end with column {least}"
    if least <= height and (least >= REACHED * height or len(runs) < MANY):
        return height, f"square is assumed: the masks reach column {least}"
    rounded = min(-(-least // step) * step for step in (32, 100))
    return rounded, f"the masks reach column {least}; the width is assumed: rounded up to a multiple of 32 or 100"


def _count_crossings(runs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return heights, how many of the runs that fit into a column cross its end, and how many would by chance."""
    joined = np.concatenate(runs)
    joined = joined[joined[:, 1] > 0]
    joined = joined[:: max(1, -(-len(joined) // SAMPLED_RUNS))]
    joined = joined[np.argsort(joined[:, 1], kind="stable")]
    # Divisions of int32 are faster, and no plausible mask ends above 2^28.
    starts, ends = joined[:, 0].astype(np.int32), joined.sum(axis=1).astype(np.int32)
    heights = np.arange(LOWEST, 1 + min(HIGHEST, int(ends.max(initial=0))))
    fitting = np.searchsorted(joined[:, 1], heights, side="right")
    inside = np.concatenate([[0], np.cumsum(joined[:, 1] - 1)])[fitting]
    enough = inside >= EXPECTED * heights
    heights, fitting, inside = heights[enough], fitting[enough], inside[enough]
    crossed = [
        min(crossings(starts[:count] - base, ends[:count] - base, height) for base in (0, 1))
        for height, count in zip(heights.tolist(), fitting.tolist(), strict=True)
    ]
    return heights, np.array(crossed, np.int64), inside / heights


def _repeats(runs: list[np.ndarray], heights: np.ndarray) -> np.ndarray:
    """Return the share of mask pixels that are mask again one column later, averaged over a few masks.

    Returns:
        float (heights, 3): for columns that are one pixel shorter, as high as given, and one pixel higher.
    """
    shares = np.zeros((len(heights), 3))
    sampled = runs[:: -(-len(runs) // SAMPLED_MASKS)]
    for pairs in sampled:
        flat = np.zeros(int(pairs.sum(axis=1).max()), bool)
        for start, length in pairs.tolist():
            flat[start : start + length] = True
        used = max(1, int(flat.sum()))
        for number, height in enumerate(heights.tolist()):
            for more in (-1, 0, 1):
                shares[number, more + 1] += np.count_nonzero(flat[height + more :] & flat[: -height - more]) / used
    return shares / len(sampled)


def _height_of_full_masks(runs: list[np.ndarray]) -> tuple[int | None, str]:
    """Return the side of a square at whose last pixel several masks end."""
    lasts = [int(pairs.sum(axis=1).max()) for pairs in runs]
    last = max(lasts)
    for base in (1, 0):
        side = isqrt(last - base)
        if side >= LOWEST and side * side == last - base and lasts.count(last) >= FULL:
            return side, f"assumed: {lasts.count(last)} masks end at pixel {side * side} = {side} x {side}"
    return None, "not found: too few runs, or images of several sizes"


def _roundness(number: int) -> int:
    """Return the largest power of two that divides a number."""
    return number & -number
