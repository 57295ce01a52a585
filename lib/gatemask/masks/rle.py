"""Convert run-length encodings from text to runs, from runs to masks, and back.

Inside gatemask a mask is a boolean array (height, width), and an encoding is always absolute, base 0 and column-major
(`INTERNAL`). Other dialects exist at the two borders only: labels that come in, and submissions that go out.
"""

from __future__ import annotations

import numpy as np

from gatemask.config import Rle
from gatemask.errors import GatemaskError

INTERNAL = Rle(offsets="absolute", base=0, order="column", empty="")


def decode(
    text: str, shape: tuple[int, int], dialect: Rle = INTERNAL, where: object = None, ordered: bool = False
) -> np.ndarray:
    """Return the mask of an encoding.

    Args:
        text: Pairs "start length start length ..."; the dialect's empty marker, or "", for an empty mask.
        shape: Height and width, in pixels.
        dialect: How starts are counted. Default: `INTERNAL`.
        where: File, row and image id, for messages.
        ordered: Whether absolute starts must ascend, as Kaggle demands of submissions. Default: False.

    Returns:
        bool (height, width).

    Raises:
        GatemaskError: The text is not pairs of numbers, a length is below 1, or runs overlap, leave the image or are
            not in the order that is demanded.

    >>> decode("1 2", (2, 2)).astype(int).tolist()
    [[0, 1], [1, 0]]
    """
    alternating = _gaps_and_lengths(text, shape, dialect, where, ordered)
    # Gap, run, gap, ..., and the rest of the image: repeat() writes each of them in one go.
    counts = np.append(alternating, shape[0] * shape[1] - alternating.sum())
    values = np.zeros(len(counts), bool)
    values[1::2] = True
    flat = np.repeat(values, counts)
    return flat.reshape(shape[::-1]).T if dialect.order == "column" else flat.reshape(shape)


def encode(mask: np.ndarray, dialect: Rle = INTERNAL) -> str:
    """Return the encoding of a mask; the inverse of `decode`.

    Args:
        mask: bool or numbers (height, width); anything but 0 belongs to the mask.
        dialect: How starts are counted, and the marker of an empty mask. Default: `INTERNAL`.

    >>> encode(np.array([[0, 1], [1, 0]]))
    '1 2'
    """
    changes = _changes(np.asarray(mask).ravel(order="F" if dialect.order == "column" else "C"))
    if not len(changes):
        return dialect.empty
    return _as_text(changes[::2], changes[1::2], dialect)


def encode_objects(label: np.ndarray, dialect: Rle = INTERNAL) -> list[str]:
    """Return the encoding of each object, in the order of their numbers.

    Args:
        label: int32 (height, width): 0 outside, otherwise the number of the object.
        dialect: How starts are counted. Default: `INTERNAL`.

    >>> encode_objects(np.array([[2, 1], [2, 0]]))
    ['2 1', '0 2']
    """
    flat = label.ravel(order="F" if dialect.order == "column" else "C")
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    ends, numbers = np.append(starts[1:], flat.size), flat[starts]
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers[order], 1) :]
    objects = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
    return [_as_text(starts[runs], ends[runs], dialect) for runs in objects]


def _as_text(starts: np.ndarray, ends: np.ndarray, dialect: Rle) -> str:
    """Return runs, given by their first pixel and the one after their last, as text."""
    first = starts.copy()
    if dialect.offsets == "relative":
        first[1:] -= ends[:-1]
        first[0] += dialect.base
    else:
        first += dialect.base
    numbers = np.stack([first, ends - starts], axis=1).ravel().tolist()
    return ("%d " * len(numbers) % tuple(numbers)).rstrip()  # twice as fast as joining strings


def parse(text: str, shape: tuple[int, int], dialect: Rle, where: object = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs of an encoding, as strict as `decode`.

    Args:
        text: Pairs "start length start length ...", or an empty marker.
        shape: Height and width, in pixels.
        dialect: How starts are counted.
        where: File, row and image id, for messages.

    Returns:
        Starts (absolute, base 0, sorted) and lengths, int64 (runs,).

    >>> starts, lengths = parse("1 2 1 3", (4, 4), Rle(offsets="relative", base=0))
    >>> starts.tolist(), lengths.tolist()
    ([1, 4], [2, 3])
    """
    alternating = _gaps_and_lengths(text, shape, dialect, where)
    lengths = alternating[1::2]
    return np.cumsum(alternating)[1::2] - lengths, lengths


def is_empty(text: str, dialect: Rle) -> bool:
    """Whether a cell stands for an empty mask.

    >>> is_empty(" -1 ", Rle(empty="-1")), is_empty("", Rle(empty="-1")), is_empty("1 2", Rle())
    (True, True, False)
    """
    text = text.strip()
    return not text or text == dialect.empty.strip()


def _gaps_and_lengths(
    text: str, shape: tuple[int, int], dialect: Rle, where: object, ordered: bool = False
) -> np.ndarray:
    """Return gap, length, gap, length, ...: the pixels between the previous run and this one, and its own."""
    if is_empty(text, dialect):
        return np.empty(0, np.int64)
    numbers = _numbers(text, where)
    if len(numbers) % 2:
        raise _malformed("has an odd count of numbers", where, f"{len(numbers)} numbers", "pairs of start and length")
    if numbers[1::2].min() < 1:
        run = int(np.argmax(numbers[1::2] < 1))
        received = f"length {numbers[1::2][run]} in run {run + 1}"
        raise _malformed("has a run without pixels", where, received, "lengths of 1 or more")
    size = shape[0] * shape[1]
    # Both ends of the range are checked before any arithmetic, since sums of huge numbers would overflow.
    if numbers.max() > size + 1:
        received = text.split()[int(numbers.argmax())][:40]  # as it is written: it may exceed int64
        raise _malformed("runs past the end of the image", where, received, f"{shape[0]} x {shape[1]} = {size}")
    if numbers.min() < 0:
        raise _negative_start(numbers[::2], dialect, where)
    if dialect.offsets == "absolute":
        numbers = _as_gaps(numbers, where, ordered)
    numbers[0] -= dialect.base
    if numbers[0] < 0:
        received = f"start {numbers[0] + dialect.base}"
        raise _malformed("starts before the image", where, received, f"starts from {dialect.base}")
    if (end := int(numbers.sum())) > size:
        raise _malformed("runs past the end of the image", where, f"pixel {end}", f"{shape[0]} x {shape[1]} = {size}")
    return numbers


def _numbers(text: str, where: object) -> np.ndarray:
    """Return the numbers of a cell; those too large for int64 become its largest or smallest value."""
    # Checked first, since numpy before 2.3 stops silently at the first word that is not a number. Surrogates stand for
    # bytes that are not UTF-8.
    if text.encode(errors="surrogatepass").translate(None, b"0123456789 \t\r\n"):
        words = text.split()
        if bad := [word for word in words if not (word.isascii() and word.removeprefix("-").isdigit())]:
            raise _malformed("contains a word that is not a whole number", where, bad[0], "start length start ...")
        text = " ".join(words)  # Unicode has more blanks than numpy knows
    return np.fromstring(text, np.int64, sep=" ")  # four times as fast as int() on each word


def _negative_start(starts: np.ndarray, dialect: Rle, where: object) -> GatemaskError:
    run = int(np.argmax(starts < 0))
    if run == 0 or dialect.offsets == "absolute":
        received = f"start {starts[run]} in run {run + 1}"
        return _malformed("starts before the image", where, received, f"starts from {dialect.base}")
    return _malformed("steps back into an earlier run", where, f"offset {starts[run]} in run {run + 1}", ">= 0")


def _as_gaps(numbers: np.ndarray, where: object, ordered: bool) -> np.ndarray:
    """Turn absolute starts into distances from the end of the previous run."""
    starts, lengths = numbers[::2], numbers[1::2]
    if (unordered := starts[1:] < starts[:-1]).any():
        if ordered:
            run = int(np.argmax(unordered))
            received = f"start {starts[run + 1]} in run {run + 2}, after {starts[run]}"
            raise _malformed("has runs that are not sorted", where, received, "ascending starts")
        order = np.argsort(starts, kind="stable")
        starts, lengths = starts[order], lengths[order]
    ends = starts + lengths
    if (starts[1:] < ends[:-1]).any():
        run = int(np.argmax(starts[1:] < ends[:-1]))
        received = f"runs at {starts[run]} and {starts[run + 1]}"
        raise _malformed("has runs that overlap", where, received, "disjoint runs")
    gaps = np.empty(len(numbers), np.int64)
    gaps[0], gaps[2::2], gaps[1::2] = starts[0], starts[1:] - ends[:-1], lengths
    return gaps


def _changes(flat: np.ndarray) -> np.ndarray:
    """Return the positions at which runs begin and end, alternating."""
    if flat.itemsize != 1:
        flat = flat != 0
    # Masks are small: find the stretch that is not empty, eight pixels at a time, and search only there.
    aligned = flat.size // 8 * 8
    used = np.flatnonzero(flat[:aligned].view(np.uint64) != 0)
    rest = flat[aligned:].any()
    if not len(used) and not rest:
        return used
    first = int(used[0]) * 8 if len(used) else aligned
    last = flat.size if rest else int(used[-1]) * 8 + 8
    padded = np.zeros(last - first + 2, bool)
    np.not_equal(flat[first:last], 0, out=padded[1:-1])
    changes: np.ndarray = first + np.flatnonzero(padded[1:] != padded[:-1])
    return changes


def _malformed(fault: str, where: object, received: object, expected: object) -> GatemaskError:
    return GatemaskError(
        f"A run-length encoding {fault}.",
        where=where,
        received=received,
        expected=expected,
        do="Correct the row, or the dialect (offsets, base, order) in competition.yaml.",
    )
