"""Run-length encodings: from text to runs, from runs to masks, and back.

Inside gatemask a mask is a boolean array (height, width), and an encoding is always absolute, base 0 and
column-major (`INTERNAL`). Other flavours exist at the two borders only: labels that come in, and submissions
that go out.
"""

from __future__ import annotations

import numpy as np

from gatemask.config import Rle
from gatemask.errors import GatemaskError

INTERNAL = Rle(offsets="absolute", base=0, order="column", empty="")


def decode(text: str, shape: tuple[int, int], flavour: Rle = INTERNAL, where: object = None) -> np.ndarray:
    """One encoding as a mask.

    Args:
        text: pairs "start length start length ..."; the flavour's empty marker, or nothing, for no mask.
        shape: height and width in pixels.
        flavour: how starts are counted.
        where: names the place in an error: file, row and image id.

    Returns:
        bool, (height, width).

    Raises:
        GatemaskError: odd count, not numbers, a length below 1, runs that overlap or leave the image.
    """
    alternating = _gaps_and_lengths(text, shape, flavour, where)
    # Gap, run, gap, ..., and the rest of the image: repeat() copies each of them in one go.
    counts = np.append(alternating, shape[0] * shape[1] - alternating.sum())
    values = np.zeros(len(counts), bool)
    values[1::2] = True
    flat = np.repeat(values, counts)
    return flat.reshape(shape[::-1]).T if flavour.order == "column" else flat.reshape(shape)


def encode(mask: np.ndarray, flavour: Rle = INTERNAL) -> str:
    """A mask as text, the inverse of `decode`.

    Args:
        mask: bool or numbers (anything but 0 is mask), (height, width).
        flavour: how starts are counted; its empty marker is returned for an empty mask.
    """
    changes = _changes(np.asarray(mask).ravel(order="F" if flavour.order == "column" else "C"))
    if not len(changes):
        return flavour.empty
    starts, ends = changes[::2], changes[1::2]
    first = starts.copy()
    if flavour.offsets == "relative":
        first[1:] -= ends[:-1]
        first[0] += flavour.base
    else:
        first += flavour.base
    numbers = np.stack([first, ends - starts], axis=1).ravel().tolist()
    return ("%d " * len(numbers) % tuple(numbers)).rstrip()  # twice as fast as joining strings


def parse(text: str, shape: tuple[int, int], flavour: Rle, where: object = None) -> tuple[np.ndarray, np.ndarray]:
    """Starts (absolute, base 0) and lengths of one encoding, int64, sorted; strict, see `decode`."""
    alternating = _gaps_and_lengths(text, shape, flavour, where)
    lengths = alternating[1::2]
    return np.cumsum(alternating)[1::2] - lengths, lengths


def is_empty(text: str, flavour: Rle) -> bool:
    """Whether a cell says that there is no mask."""
    text = text.strip()
    return not text or text == flavour.empty.strip()


def _gaps_and_lengths(text: str, shape: tuple[int, int], flavour: Rle, where: object) -> np.ndarray:
    """gap, length, gap, length, ...: the pixels before each run, counted from the end of the run before, and in it."""
    if is_empty(text, flavour):
        return np.empty(0, np.int64)
    numbers = _numbers(text, where)
    if len(numbers) % 2:
        raise _refusal("has an odd count of numbers", where, f"{len(numbers)} numbers", "pairs of start and length")
    if numbers[1::2].min() < 1:
        at = int(np.argmax(numbers[1::2] < 1))
        found = f"length {numbers[1::2][at]} in run {at + 1}"
        raise _refusal("has a run without pixels", where, found, "lengths of 1 or more")
    size = shape[0] * shape[1]
    if numbers.max() > size + 1:  # looked at first, for sums of huge numbers would overflow
        raise _refusal("runs past the end of the image", where, numbers.max(), f"{shape[0]} x {shape[1]} = {size}")
    if flavour.offsets == "absolute":
        numbers = _as_gaps(numbers, where)
    numbers[0] -= flavour.base
    if numbers[0] < 0:
        first = f"start {numbers[0] + flavour.base}"
        raise _refusal("starts before the image", where, first, f"starts from {flavour.base}")
    if numbers[::2].min() < 0:
        at = int(np.argmax(numbers[::2] < 0))
        raise _refusal("steps back into an earlier run", where, f"offset {numbers[2 * at]} in run {at + 1}", ">= 0")
    if (end := int(numbers.sum())) > size:
        raise _refusal("runs past the end of the image", where, f"pixel {end}", f"{shape[0]} x {shape[1]} = {size}")
    return numbers


def _numbers(text: str, where: object) -> np.ndarray:
    # Looked through first, since numpy before 2.3 reads up to what is no number, and leaves out the rest.
    if text.encode().translate(None, b"0123456789 \t\r\n"):
        words = text.split()
        if bad := [word for word in words if not (word.isascii() and word.removeprefix("-").isdigit())]:
            raise _refusal("holds something that is not a whole number", where, bad[0], "start length start ...")
    return np.fromstring(text, np.int64, sep=" ")  # four times as fast as int() on each word


def _as_gaps(numbers: np.ndarray, where: object) -> np.ndarray:
    """Absolute starts as distances from the end of the run before; runs may stand in any order."""
    starts, lengths = numbers[::2], numbers[1::2]
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts, kind="stable")
        starts, lengths = starts[order], lengths[order]
    ends = starts + lengths
    if (starts[1:] < ends[:-1]).any():
        at = int(np.argmax(starts[1:] < ends[:-1]))
        raise _refusal("has runs that overlap", where, f"runs at {starts[at]} and {starts[at + 1]}", "disjoint runs")
    gaps = np.empty(len(numbers), np.int64)
    gaps[0], gaps[2::2], gaps[1::2] = starts[0], starts[1:] - ends[:-1], lengths
    return gaps


def _changes(flat: np.ndarray) -> np.ndarray:
    """Where a run begins and where it ends, in turn."""
    if flat.itemsize != 1:
        flat = flat != 0
    # Masks are small: eight pixels at a time, find the stretch that is not empty, and look closely only there.
    whole = flat.size // 8 * 8
    used = np.flatnonzero(flat[:whole].view(np.uint64) != 0)
    rest = flat[whole:].any()
    if not len(used) and not rest:
        return used
    first = int(used[0]) * 8 if len(used) else whole
    last = flat.size if rest else int(used[-1]) * 8 + 8
    padded = np.zeros(last - first + 2, bool)
    np.not_equal(flat[first:last], 0, out=padded[1:-1])
    return first + np.flatnonzero(padded[1:] != padded[:-1])


def _refusal(what: str, where: object, received: object, expected: object) -> GatemaskError:
    return GatemaskError(
        f"A run-length encoding {what}.",
        where=where,
        received=received,
        expected=expected,
        do="Correct the row, or the flavour (offsets, base, order) in competition.yaml.",
    )
