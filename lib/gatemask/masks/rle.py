"""Run-length encodings: from text to runs, from runs to masks, and back.

Inside gatemask a mask is a boolean array (height, width), and an encoding is always absolute, base 0 and
column-major (`INTERNAL`). Other flavours exist at the two borders only: labels that come in, and submissions
that go out.
"""

from __future__ import annotations

import numpy as np

from gatemask.config.schema import Rle
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
    starts, lengths = parse(text, shape, flavour, where)
    flat = np.zeros(shape[0] * shape[1], bool)
    if len(starts):
        # Runs are sorted and disjoint, so the flat image is an alternation of gaps and runs.
        edges = np.empty(2 * len(starts) + 1, np.int64)
        ends = starts + lengths
        edges[0] = starts[0]
        edges[1::2] = lengths
        edges[2:-1:2] = starts[1:] - ends[:-1]
        edges[-1] = flat.size - ends[-1]
        flat = np.repeat(np.arange(len(edges)) % 2 == 1, edges)
    return flat.reshape(shape[::-1]).T if flavour.order == "column" else flat.reshape(shape)


def encode(mask: np.ndarray, flavour: Rle = INTERNAL) -> str:
    """A mask as text, the inverse of `decode`.

    Args:
        mask: bool or numbers (anything but 0 is mask), (height, width).
        flavour: how starts are counted; its empty marker is returned for an empty mask.
    """
    flat = np.asarray(mask, bool).ravel(order="F" if flavour.order == "column" else "C")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        changes = np.concatenate(([0], changes))
    if flat.size and flat[-1]:
        changes = np.append(changes, flat.size)
    if not len(changes):
        return flavour.empty
    starts, ends = changes[::2], changes[1::2]
    first = starts.copy()
    if flavour.offsets == "relative":
        first[1:] -= ends[:-1]
        first[0] += flavour.base
    else:
        first += flavour.base
    pairs = np.stack([first, ends - starts], axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def parse(text: str, shape: tuple[int, int], flavour: Rle, where: object = None) -> tuple[np.ndarray, np.ndarray]:
    """Starts (absolute, base 0) and lengths of one encoding, int64, sorted; strict, see `decode`."""
    text = text.strip()
    if not text or text == flavour.empty.strip():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    try:
        numbers = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
        bad = next((word for word in text.split() if not word.lstrip("-").isdigit()), max(text.split(), key=len))
        raise _refusal(
            "holds something that is not a whole number", where, bad, "start length start length ..."
        ) from None
    if len(numbers) % 2:
        raise _refusal("has an odd count of numbers", where, f"{len(numbers)} numbers", "pairs of start and length")
    starts, lengths = numbers[::2].copy(), numbers[1::2]
    if (lengths < 1).any():
        at = int(np.argmax(lengths < 1))
        raise _refusal(
            "has a run without pixels", where, f"length {lengths[at]} in run {at + 1}", "lengths of 1 or more"
        )
    if flavour.offsets == "relative":
        if (starts[1:] < 0).any():
            at = int(np.argmax(starts[1:] < 0)) + 1
            raise _refusal(
                "steps back into an earlier run", where, f"offset {starts[at]} in run {at + 1}", "offsets >= 0"
            )
        # A relative start counts from the end of the run before it.
        starts = np.cumsum(starts) + np.concatenate(([0], np.cumsum(lengths)[:-1])) - flavour.base
    else:
        starts -= flavour.base
        order = np.argsort(starts, kind="stable")
        starts, lengths = starts[order], lengths[order]
    if starts[0] < 0:
        raise _refusal("starts before the image", where, f"start {starts[0] + flavour.base}", f"base {flavour.base}")
    if (starts[1:] < starts[:-1] + lengths[:-1]).any():
        at = int(np.argmax(starts[1:] < starts[:-1] + lengths[:-1]))
        raise _refusal("has runs that overlap", where, f"runs at {starts[at]} and {starts[at + 1]}", "disjoint runs")
    if (end := int(starts[-1] + lengths[-1])) > shape[0] * shape[1]:
        raise _refusal(
            "runs past the end of the image", where, f"pixel {end}", f"{shape[0]} x {shape[1]} = {shape[0] * shape[1]}"
        )
    return starts, lengths


def _refusal(what: str, where: object, received: object, expected: object) -> GatemaskError:
    return GatemaskError(
        f"A run-length encoding {what}.",
        where=where,
        received=received,
        expected=expected,
        do="Correct the row, or the flavour (offsets, base, order) in competition.yaml.",
    )
