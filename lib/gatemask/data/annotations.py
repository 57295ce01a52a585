"""Masks and objects of one image as annotations: made from arrays, split, cleared of overlaps, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gatemask.console import say
from gatemask.data.class_rows import with_counts
from gatemask.data.joins import examples
from gatemask.data.truth import IGNORED, Annotation
from gatemask.errors import GatemaskError
from gatemask.masks import rle

Annotations = dict[str, list[Annotation]]  # by image id
SizeOf = Callable[[str], tuple[int, int]]
TOLERATED = 0.05  # share of the masks' pixels that may belong to two exclusive classes


def encode_numbered(numbers: np.ndarray) -> list[str]:
    """Return the encodings (`rle.INTERNAL`) of numbered objects, in the order of their numbers.

    Args:
        numbers: Whole numbers (height, width), 0 for background; not all numbers need occur.

    >>> encode_numbered(np.array([[7, 0], [7, 3]]))
    ['3 1', '0 2']
    """
    flat = numbers.ravel(order="F")
    pixels = np.flatnonzero(flat)
    if not len(pixels):
        return []
    owners = flat[pixels]
    order = np.argsort(owners, kind="stable")
    pixels, owners = pixels[order], owners[order]
    first = np.ones(len(pixels), bool)
    first[1:] = (owners[1:] != owners[:-1]) | (pixels[1:] != pixels[:-1] + 1)
    starts = np.flatnonzero(first)
    runs = np.stack([pixels[starts], np.diff(np.append(starts, len(pixels)))], axis=1)
    ends = np.flatnonzero(np.diff(owners[starts])) + 1
    return [" ".join(map(str, part.ravel().tolist())) for part in np.split(runs, ends)]


def split_united(masks: Annotations, size_of: SizeOf) -> Annotations:
    """Return single objects: as they are labeled, or else the connected components (8 neighbors) of the masks.

    Args:
        masks: Annotations by image id.
        size_of: Function of an image's id that returns its height and width.
    """
    import cv2

    for rows in masks.values():
        names = [annotation.class_name for annotation in rows if annotation.class_name != IGNORED]
        if len(set(names)) < len(names):
            return masks  # several masks of one class: each is an object
    split: Annotations = {}
    for image_id, rows in masks.items():
        split[image_id] = []
        for annotation in rows:
            if annotation.class_name == IGNORED:
                split[image_id].append(annotation)
                continue
            mask = np.ascontiguousarray(rle.decode(annotation.rle, size_of(image_id))).view(np.uint8)
            _, numbers = cv2.connectedComponents(mask, connectivity=8)
            split[image_id] += [Annotation(annotation.class_name, text) for text in encode_numbered(numbers)]
    say("The labels hold one mask per image and class: its connected components are the objects.")
    return split


def separate_classes(masks: Annotations, size_of: SizeOf) -> Annotations:
    """Return masks of exclusive classes without overlaps: a pixel belongs to the smallest of its masks.

    Args:
        masks: Annotations by image id.
        size_of: Function of an image's id that returns its height and width.

    Raises:
        GatemaskError: So many pixels belong to two classes that the classes cannot be exclusive.
    """
    separated: Annotations = {}
    shared, total, found = 0, 0, list[str]()
    for image_id, rows in masks.items():
        total += area(rows)
        separated[image_id] = rows
        parts = [annotation for annotation in rows if annotation.class_name != IGNORED]
        several = len({part.class_name for part in parts}) > 1
        if not several or area(parts) == sum(area([part]) for part in parts):
            continue
        size = size_of(image_id)
        planes = [rle.decode(part.rle, size) for part in parts]
        claimed = np.zeros(size, bool)
        for number in sorted(range(len(parts)), key=lambda number: (int(planes[number].sum()), number)):
            planes[number] = planes[number] & ~claimed
            claimed |= planes[number]
        by_class = [area([part for part in parts if part.class_name == name]) for name in {p.class_name for p in parts}]
        if sum(by_class) > area(parts):
            shared += sum(by_class) - area(parts)
            found.append(image_id)
        rest = [annotation for annotation in rows if annotation.class_name == IGNORED]
        texts = [Annotation(part.class_name, rle.encode(plane)) for part, plane in zip(parts, planes, strict=True)]
        separated[image_id] = [annotation for annotation in [*texts, *rest] if annotation.rle]
    if shared > TOLERATED * total:
        raise GatemaskError(
            "Masks of exclusive classes overlap.",
            where=f"{len(found)} images, such as {examples(found)}",
            received=f"{100 * shared / total:.1f} % of the pixels belong to two classes",
            expected="at most one class per pixel, as exclusive: true says",
            do="Set exclusive: false in competition.yaml, or correct the labels.",
        )
    if found:
        say(
            f"Masks of exclusive classes overlap by {shared} pixels in {len(found)} images, such as "
            f"{examples(found)}: these pixels count for the smaller mask."
        )
    return separated


def area(rows: Sequence[Annotation]) -> int:
    """Return the number of pixels in any mask, ignored pixels excepted.

    >>> area([Annotation("a", "0 4"), Annotation("b", "2 4 9 1"), Annotation(IGNORED, "20 5")])
    7
    """
    runs = [_runs(annotation) for annotation in rows if annotation.class_name != IGNORED]
    return union_area(runs)


def union_area(runs: Sequence[np.ndarray]) -> int:
    """Return the number of pixels in any of several masks.

    Args:
        runs: Starts (absolute) and lengths of each mask, int64 (runs, 2).
    """
    if not runs:
        return 0
    joined = np.concatenate(runs)
    joined = joined[np.argsort(joined[:, 0], kind="stable")]
    ends = np.maximum.accumulate(joined.sum(axis=1))
    starts = np.maximum(joined[1:, 0], ends[:-1])
    return int(joined[0, 1] + np.maximum(joined[1:].sum(axis=1) - starts, 0).sum())


def _runs(annotation: Annotation) -> np.ndarray:
    return np.array(annotation.rle.split(), np.int64).reshape(-1, 2)


def present_classes(rows: Sequence[Annotation], classes: Sequence[str]) -> list[int]:
    """Return the indices of the classes that an image has.

    >>> present_classes([Annotation("b", "2 4"), Annotation("b", "9 1")], ["a", "b"])
    [1]
    """
    names = {annotation.class_name for annotation in rows}
    return [index for index, name in enumerate(classes) if name in names]


def require_every_class(masks: Annotations, classes: Sequence[str], where: object) -> None:
    """Raise if no image has a mask of some class: nothing could be learned about it.

    Args:
        masks: Annotations by image id.
        classes: Names of the classes.
        where: Place of the labels, for the message.
    """
    counts = dict.fromkeys(classes, 0)
    for rows in masks.values():
        for index in present_classes(rows, classes):
            counts[classes[index]] += 1
    if missing := [name for name, count in counts.items() if not count]:
        others = {name: count for name, count in counts.items() if count}
        raise GatemaskError(
            f"No image has a mask of the class '{missing[0]}'.",
            where=where,
            received=with_counts(others, "images") or "no mask at all",
            expected="at least one mask of every class that 'classes' names in competition.yaml",
            do="Correct how the labels name the class, or remove it from 'classes'.",
        )
