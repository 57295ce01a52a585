"""Find out what the values of mask files mean: a mask, classes, ignored pixels, or numbers of objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gatemask.data.readers import read_stored
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions, Question
from gatemask.new.images import Size, spread
from gatemask.new.mask_names import MaskNames

SAMPLED = 2000  # files whose values are read
MOST_CLASSES, MOST_VALUES = 50, 64


@dataclass(frozen=True)
class Values:
    """Values of the sampled files, pixels of palettes as entries.

    Args:
        pixels: Number of pixels of each value.
        plain: Number of files whose values above 0 are 1, 2, ... without a gap, one component each.
        several: Number of files with two or more values above 0.
        highest: Highest value of each file.
        soft: Whether a file has edges of many levels.
        lossy: Whether files are JPEG.
        sampled: Number of files.
    """

    pixels: Counter[int]
    plain: int
    several: int
    highest: list[int]
    soft: bool
    lossy: bool
    sampled: int


def stored_values(path: Path) -> tuple[np.ndarray, bool]:
    """Return the values of a mask file, (height, width), and whether compression changes them."""
    stored = read_stored(path)
    if stored.indices is not None:
        return stored.indices, stored.lossy
    pixels = stored.pixels
    return (pixels if pixels.ndim == 2 else pixels.max(axis=2)), stored.lossy


def read_values(raw: Path, names: MaskNames, sizes: Mapping[str, Size]) -> Values:
    pixels: Counter[int] = Counter()
    plain = several = 0
    highest: list[int] = []
    soft = lossy = False
    paths = [name for owned in names.owners.values() for name, _ in owned]
    sample = spread(paths, SAMPLED, sizes)
    for name in sample:
        values, compressed = stored_values(raw / name)
        lossy = lossy or compressed
        found, counts = np.unique(values, return_counts=True)
        soft = soft or values.dtype.kind == "f" or (len(found) > MOST_VALUES and not _numbers_objects(values, found))
        if soft:
            continue
        pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        above = found[found > 0]
        highest.append(int(above.max(initial=0)))
        several += len(above) > 1
        plain += len(above) > 1 and _numbers_objects(values, found)
    return Values(pixels, plain, several, highest, soft, lossy, len(sample))


def _numbers_objects(values: np.ndarray, found: np.ndarray) -> bool:
    """Whether values are 1, 2, ... without a gap, and nearly each is one component."""
    above = found[found > 0]
    if values.dtype.kind == "f" or not len(above) or len(above) < 0.9 * int(above[-1]):
        return False
    chosen = above[:: max(1, len(above) // 20)]
    whole = sum(cv2.connectedComponents((values == value).astype(np.uint8), connectivity=8)[0] == 2 for value in chosen)
    return bool(whole >= 0.9 * len(chosen))


def meaning_of_values(found: Values, per_object: bool, decisions: Decisions) -> tuple[dict[str, int], list[int], bool]:
    """Return values by class, ignored values, and whether values number objects."""
    above = sorted(value for value in found.pixels if value > 0)
    if found.soft or found.lossy or len(above) <= 1 or per_object:
        kind = "levels, cut in the middle" if found.soft or found.lossy else f"0 and {above[0] if above else 0}"
        decisions.note("values", kind, f"of {found.sampled} mask files")
        return {}, [], False
    ignored = _ignored(found, above)
    values = [value for value in above if value not in ignored]
    if ignored:
        decisions.note("ignored", f"the value {ignored[0]}", "far above the others, as for void pixels")
    if len(values) == 1:
        decisions.note("values", f"0 and {values[0]}", f"of {found.sampled} mask files")
        return {f"class{values[0]}": values[0]}, ignored, False
    counts = len(set(found.highest))
    numbers = found.several > 0 and found.plain >= 0.9 * found.several and not ignored
    guess = "objects" if numbers and (counts >= 5 or max(values) > 20) else "classes"
    sure = (guess == "objects" and max(values) > 12) or not numbers
    why = (
        f"in {found.plain} of {found.several} files, values are 1, 2, ... with one component each"
        if numbers
        else f"values such as {', '.join(map(str, values[:5]))} occur in several components, or with gaps"
    )
    if sure:
        decisions.note("values", f"{guess}: {', '.join(map(str, values[:8]))}{', ...' if len(values) > 8 else ''}", why)
        answer = guess
    else:
        answer = decisions.choose(
            Question(
                "values",
                f"Do the values of the masks ({', '.join(map(str, values[:8]))}) mean classes or number objects?",
                {"classes": "each value is a class", "objects": "each value is one object"},
                guess,
                why,
            )
        )
    if answer == "objects":
        return {}, [], True
    if len(values) > MOST_CLASSES:
        raise GatemaskError(
            "The masks have too many values to be classes, and values do not number objects.",
            received=f"{len(values)} values: {', '.join(map(str, values[:8]))}, ...",
            expected=f"at most {MOST_CLASSES} classes, or numbers 1, 2, ... with one component each",
            do="Correct --labels.",
        )
    return {f"class{value}": value for value in values}, ignored, False


def _ignored(found: Values, above: Sequence[int]) -> list[int]:
    """Return the value of ignored pixels: 255, or the highest of 16 bits, far above all others."""
    if above[-1] in (255, 65535) and above[-2] < above[-1] // 2 and not (len(above) == 2 and above[0] > 20):
        return [above[-1]]
    return []
