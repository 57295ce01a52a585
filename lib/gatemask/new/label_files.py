"""Understand mask files: which image each belongs to, and what its name and values mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gatemask.data.mask_files import interpret_mask
from gatemask.data.readers import read_stored
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions, Question
from gatemask.new.images import Size, spread
from gatemask.new.mask_names import MaskNames, assign_masks
from gatemask.new.mask_values import meaning_of_values, read_values, stored_values
from gatemask.new.masks import LabelFacts, MaskStats, measure, natural_order, touch
from gatemask.new.naming import Naming

SAMPLED = 200  # images whose masks are measured


def examine_files(
    raw: Path,
    masks: Sequence[str],
    naming: Naming,
    files: Mapping[str, str],
    sizes: Mapping[str, Size],
    decisions: Decisions,
) -> LabelFacts:
    """Return what mask files say.

    Args:
        raw: The raw folder.
        masks: Paths of the masks below it.
        naming: How image files become images.
        files: Path of each image by id.
        sizes: Height and width by path.
        decisions: Findings and questions.

    Raises:
        GatemaskError: The masks cannot be assigned to the images, or their values make no sense.
    """
    names = assign_masks(masks, naming, files, decisions)
    decisions.note("labels", f"{len(masks)} mask files as {names.pattern}", f"of {len(names.owners)} images")
    section: dict[str, object] = {"format": "png", "masks": names.pattern}
    classes: list[str] = []
    values: dict[str, int] = {}
    if names.kind == "class":
        classes = natural_order({word for owned in names.owners.values() for _, word in owned})
        decisions.note("classes", f"{len(classes)}: {', '.join(classes)}", "each has files of its own")
    objects = "files" if names.kind == "object" else ""
    contents = read_values(raw, names, sizes)
    if names.kind != "class":
        values, ignored, numbered = meaning_of_values(contents, bool(objects), decisions)
        classes = list(values)
        if values:
            section["values"] = values
        if ignored:
            section["ignore"] = ignored[0] if len(ignored) == 1 else ignored
        if numbered:
            section["numbered"], objects = True, "numbers"
    complete = len(classes) if names.kind == "class" else 1
    missing = len(files) - sum(len({word for _, word in owned}) >= complete for owned in names.owners.values())
    if missing:
        section["missing"] = "empty"
    single = _single_value(values)
    stats, touching = _measure(raw, names, classes, values, bool(section.get("numbered")), files, sizes, single)
    if not classes and not objects and _covers_borders(stats) and _shows_background(decisions):
        section["invert"] = True
        stats, touching = _measure(raw, names, classes, values, False, files, sizes, single, invert=True)
    positives = _share_of_positives(stats, names, files)
    empties = round((1 - positives) * len(files))
    decisions.note(
        "empties", f"about {empties} of {len(files)} images", f"{missing} lack a file; {stats.images} were decoded"
    )
    exclusive = bool(len(values) > 1) or (len(classes) > 1 and stats.exclusive)
    return LabelFacts(section, classes, exclusive, len(names.owners), positives, stats, objects, touching)


def _single_value(values: Mapping[str, int]) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a function from pixels and the index of a class to its mask."""
    numbers = list(values.values())
    return lambda pixels, index: pixels == numbers[index]


def _covers_borders(stats: MaskStats) -> bool:
    """Whether masks cover most of the images, and nearly all of their outermost pixels, as the background does."""
    return bool(stats.area) and float(np.median(stats.area)) > 0.5 and float(np.median(stats.border)) > 0.9


def _shows_background(decisions: Decisions) -> bool:
    question = Question(
        "inverted",
        "Do the masks show the background instead of the objects?",
        {"mask": "masks show the objects", "background": "masks show the background"},
        "mask",
        "they cover most of the images and nearly all of their borders, as a background would",
    )
    return decisions.choose(question) == "background"


def _share_of_positives(stats: MaskStats, names: MaskNames, files: Mapping[str, str]) -> float:
    return stats.positives / max(1, stats.images) * len(names.owners) / len(files)


def _measure(
    raw: Path,
    names: MaskNames,
    classes: Sequence[str],
    values: Mapping[str, int],
    numbered: bool,
    files: Mapping[str, str],
    sizes: Mapping[str, Size],
    mask_of: Callable[[np.ndarray, int], np.ndarray],
    invert: bool = False,
) -> tuple[MaskStats, float]:
    """Return statistics of sampled masks, and the share of images with several objects in which objects touch."""
    ids = sorted(names.owners)
    stats, several, touching = MaskStats(), 0, 0
    for image_id in spread(ids, SAMPLED, sizes):
        owned = names.owners[image_id]
        planes: list[np.ndarray] = []
        objects: list[np.ndarray] = []
        if values:
            pixels, _ = stored_values(raw / owned[0][0])
            planes = [mask_of(pixels, index) for index in range(len(values))]
        elif numbered:
            pixels, _ = stored_values(raw / owned[0][0])
            objects = [pixels == value for value in np.unique(pixels)[1:51]]
            planes = [pixels > 0]
        else:
            read = [
                (word, interpret_mask(read_stored(raw / name), None, raw / name)[0] ^ invert) for name, word in owned
            ]
            if names.kind == "class":
                shape = read[0][1].shape
                by_class = dict(read)
                planes = [by_class.get(name, np.zeros(shape, bool)) for name in classes]
            else:
                objects = [mask for _, mask in read if mask.any()] if len(read) > 1 else []
                planes = [np.any([mask for _, mask in read], axis=0)]
        _require_size(planes[0], sizes.get(files.get(image_id, "")), raw / owned[0][0])
        measure([np.stack(planes, axis=2)], stats)
        several += len(objects) > 1
        touching += touch(objects[:50])
    return stats, touching / max(1, several)


def _require_size(mask: np.ndarray, size: Size | None, where: Path) -> None:
    if size is not None and mask.shape[:2] != size:
        raise GatemaskError(
            "A mask has another size than its image.", where=where, received=mask.shape[:2], expected=size
        )
