"""Understand mask files: which image each belongs to, and what its name and values mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gatemask.config.path_patterns import path_pattern
from gatemask.data.ids import without_extension
from gatemask.data.mask_files import interpret_mask
from gatemask.data.readers import read_stored
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions, Question
from gatemask.new.images import Size
from gatemask.new.masks import LabelFacts, MaskStats, measure, natural_order, touch
from gatemask.new.naming import TOKEN, Naming, suffix_of

SAMPLED = 200  # files whose values are read
MOST_CLASSES, MOST_VALUES = 50, 64
NAMED = 20_000  # files whose names are compared
SPLIT = re.compile(r"([/_\-. ])")


@dataclass(frozen=True)
class MaskNames:
    """How the names of mask files refer to images.

    Args:
        pattern: Value of labels.masks.
        owners: Paths of the masks by image id, each with the word in place of {class} or *.
        kind: Meaning of that word: "class", "object", or "" where there is none.
    """

    pattern: str
    owners: dict[str, list[tuple[str, str]]]
    kind: str = ""


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
    names = _assign(masks, naming, files, decisions)
    decisions.note("labels", f"{len(masks)} mask files as {names.pattern}", f"of {len(names.owners)} images")
    section: dict[str, object] = {"format": "png", "masks": names.pattern}
    classes: list[str] = []
    values: dict[str, int] = {}
    if names.kind == "class":
        classes = natural_order({word for owned in names.owners.values() for _, word in owned})
        decisions.note("classes", f"{len(classes)}: {', '.join(classes)}", "each has files of its own")
    objects = "files" if names.kind == "object" else ""
    contents = _read_values(raw, names)
    if names.kind != "class":
        values, ignored, numbered = _meaning(contents, bool(objects), decisions)
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


def _share_of_positives(stats: MaskStats, names: MaskNames, files: Mapping[str, str]) -> float:
    return stats.positives / max(1, stats.images) * len(names.owners) / len(files)


# --- names -----------------------------------------------------------------------------------------------------


def _assign(masks: Sequence[str], naming: Naming, files: Mapping[str, str], decisions: Decisions) -> MaskNames:
    """Return how the names of masks refer to images."""
    found = _by_parts(masks, naming, files) if naming.id is not None else None
    if found is not None:
        return found
    step = max(1, len(masks) // NAMED)
    templates: dict[str, tuple[str, str]] = {}
    for name in masks[::step]:
        template, image_id = _template(name, files)
        if template:
            templates[name] = template, image_id
    if not templates or len(templates) < 0.5 * len(masks[::step]):
        raise GatemaskError(
            "The names of the masks do not refer to the images.",
            received=f"masks such as {masks[0]}, and images such as {next(iter(files.values()))}",
            expected="masks that have the id of their image in their name or folder",
            do="Correct --images or --labels.",
        )
    suffix = suffix_of(list(templates))
    distinct = {template for template, _ in templates.values()}
    if len(distinct) == 1:
        owners: dict[str, list[tuple[str, str]]] = {}
        for name, (_, image_id) in templates.items():
            owners.setdefault(image_id, []).append((name, ""))
        return MaskNames(next(iter(distinct)) + suffix, owners)
    return _several_files(templates, suffix, decisions)


def _by_parts(masks: Sequence[str], naming: Naming, files: Mapping[str, str]) -> MaskNames | None:
    """Return how masks are named where ids are made of folders: like the images, in a folder of their own."""
    tail = next(iter(naming.tails.values()))
    bare = tail.removesuffix(suffix_of([tail.replace("*", "_")])) if "." in tail else tail
    depth = tail.count("/")
    roots = {"/".join(name.split("/")[: -1 - depth]) for name in masks}
    if len(roots) != 1:
        return None
    root = roots.pop()
    plain = bare.replace("*", "")
    for candidate in (bare, f"{bare}_mask", f"{bare}_seg", plain, f"{bare}*", f"{naming.id}", f"{naming.id}_mask"):
        pattern = f"{root}/{candidate}{suffix_of(masks)}".lstrip("/")
        reader = path_pattern(pattern)
        owners: dict[str, list[tuple[str, str]]] = {}
        for name in masks:
            readings = reader.readings(name)
            image_id = str(naming.id)
            for part, text in (readings[0] if readings else {}).items():
                image_id = image_id.replace(f"{{{part}}}", text)
            if image_id in files:
                owners.setdefault(image_id, []).append((name, ""))
        if sum(map(len, owners.values())) >= 0.9 * len(masks):
            return MaskNames(pattern, owners)
    return None


def _template(name: str, files: Mapping[str, str]) -> tuple[str, str]:
    """Return a mask's path without extension and with {id} in place of the longest known id, and the id."""
    bare = without_extension(name)
    best = ""
    offset = 0
    for part in bare.split("/"):
        tokens = list(TOKEN.finditer(part))
        for first, start in enumerate(tokens):
            for end in tokens[first:][::-1]:
                text = part[start.start() : end.end()]
                if len(text) > len(best) and without_extension(text) in files:
                    best = text
        offset += len(part) + 1
    if not best:
        return "", ""
    edges = rf"(?<![^/_\-. ]){re.escape(best)}(?![^/_\-. ])"
    return re.sub(edges, "{id}", bare), without_extension(best)


def _several_files(templates: Mapping[str, tuple[str, str]], suffix: str, decisions: Decisions) -> MaskNames:
    """Return the names of masks of which each image has several: of classes, or of objects."""
    pieces = {name: SPLIT.split(template) for name, (template, _) in templates.items()}
    lengths = {len(parts) for parts in pieces.values()}
    varying = (
        [place for place, level in enumerate(zip(*pieces.values(), strict=True)) if len(set(level)) > 1]
        if len(lengths) == 1
        else []
    )
    if varying:
        start, stop = varying[0], varying[-1] + 1
        first = next(iter(pieces.values()))
        before, after = "".join(first[:start]), "".join(first[stop:])
        words = {name: "".join(parts[start:stop]) for name, parts in pieces.items()}
    else:  # names of any form in a folder of the image, or behind its id
        before, after = _shared_beginning(template for template, _ in templates.values()), ""
        words = {name: template.removeprefix(before) for name, (template, _) in templates.items()}
    owners: dict[str, list[tuple[str, str]]] = {}
    for name, (_, image_id) in templates.items():
        owners.setdefault(image_id, []).append((name, words[name]))
    if all(len(owned) == 1 for owned in owners.values()):  # folders differ, say
        words_are = ""
    elif "/" in "".join(words.values()):
        words_are = "object"
    else:
        words_are = _kind_of_words(owners, decisions)
    if words_are == "class":
        return MaskNames(f"{before}{{class}}{after}{suffix}", owners, "class")
    return MaskNames(f"{before}*{after}{suffix}", owners, words_are)


def _shared_beginning(texts: Sequence[str] | object) -> str:
    listed = list(texts)  # type: ignore[call-overload]
    first, last = min(listed), max(listed)
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = first[:length]
    return str(shared if shared.endswith("{id}") else re.sub(r"[^/_\-. ]*$", "", shared))


def _kind_of_words(owners: Mapping[str, list[tuple[str, str]]], decisions: Decisions) -> str:
    """Return whether the words that tell an image's masks apart name classes or number objects."""
    counted = Counter(word for owned in owners.values() for _, word in owned)
    several = sum(len(owned) > 1 for owned in owners.values())
    everywhere = all(count == len(owners) for count in counted.values())
    numbers = all(re.fullmatch(r"[A-Za-z]*[0-9]+", word) for word in counted)
    few = len(counted) <= MOST_CLASSES and max(counted.values()) > 1
    if not few:
        decisions.note("objects", "one file per object", f"{several} images have several, with {len(counted)} words")
        return "object"
    if not numbers:
        return "class"
    answer = decisions.choose(
        Question(
            "objects",
            f"Do the numbers in the masks' names ({', '.join(natural_order(counted)[:6])}) mean classes or objects?",
            {"class": "each number is a class", "object": "each file is one object"},
            "class" if everywhere else "object",
            "every image has all of them" if everywhere else "images have different numbers of files",
        )
    )
    return answer


# --- values ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """Values of the sampled files, pixels of palettes as entries.

    Args:
        pixels: Number of pixels of each value.
        files: Number of files with each value.
        plain: Number of files whose values above 0 are 1, 2, ... without a gap, one component each.
        several: Number of files with two or more values above 0.
        highest: Highest value of each file.
        soft: Whether a file has edges of many levels.
        border: Share of the outermost pixels with each value.
        lossy: Whether files are JPEG.
    """

    pixels: Counter[int]
    files: Counter[int]
    plain: int
    several: int
    highest: list[int]
    soft: bool
    border: Counter[int]
    lossy: bool
    sampled: int


def stored_values(path: Path) -> tuple[np.ndarray, bool]:
    """Return the values of a mask file, (height, width), and whether compression changes them."""
    stored = read_stored(path)
    if stored.indices is not None:
        return stored.indices, stored.lossy
    pixels = stored.pixels
    return (pixels if pixels.ndim == 2 else pixels.max(axis=2)), stored.lossy


def _read_values(raw: Path, names: MaskNames) -> _Values:
    pixels: Counter[int] = Counter()
    files: Counter[int] = Counter()
    border: Counter[int] = Counter()
    plain = several = 0
    highest: list[int] = []
    soft = lossy = False
    paths = [name for owned in names.owners.values() for name, _ in owned]
    sample = paths[:: max(1, len(paths) // SAMPLED)][:SAMPLED]
    for name in sample:
        values, compressed = stored_values(raw / name)
        lossy = lossy or compressed
        found, counts = np.unique(values, return_counts=True)
        soft = soft or values.dtype.kind == "f" or (len(found) > MOST_VALUES and not _numbers_objects(values, found))
        if soft:
            continue
        pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        files.update(found.tolist())
        edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
        border.update(edge.tolist())
        above = found[found > 0]
        highest.append(int(above.max(initial=0)))
        several += len(above) > 1
        plain += len(above) > 1 and _numbers_objects(values, found)
    return _Values(pixels, files, plain, several, highest, soft, border, lossy, len(sample))


def _numbers_objects(values: np.ndarray, found: np.ndarray) -> bool:
    """Whether values are 1, 2, ... without a gap, and nearly each is one component."""
    above = found[found > 0]
    if values.dtype.kind == "f" or not len(above) or len(above) < 0.9 * int(above[-1]):
        return False
    chosen = above[:: max(1, len(above) // 20)]
    whole = sum(cv2.connectedComponents((values == value).astype(np.uint8), connectivity=8)[0] == 2 for value in chosen)
    return bool(whole >= 0.9 * len(chosen))


def _meaning(found: _Values, per_object: bool, decisions: Decisions) -> tuple[dict[str, int], list[int], bool]:
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


def _ignored(found: _Values, above: Sequence[int]) -> list[int]:
    """Return the value of ignored pixels: 255, or the highest of 16 bits, far above all others."""
    if above[-1] in (255, 65535) and above[-2] < above[-1] // 2 and not (len(above) == 2 and above[0] > 20):
        return [above[-1]]
    return []


# --- statistics ------------------------------------------------------------------------------------------------


def _measure(
    raw: Path,
    names: MaskNames,
    classes: Sequence[str],
    values: Mapping[str, int],
    numbered: bool,
    files: Mapping[str, str],
    sizes: Mapping[str, Size],
    mask_of: Callable[[np.ndarray, int], np.ndarray],
) -> tuple[MaskStats, float]:
    """Return statistics of sampled masks, and the share of images with several objects in which objects touch."""
    ids = sorted(names.owners)
    stats, several, touching = MaskStats(), 0, 0
    for image_id in ids[:: max(1, len(ids) // SAMPLED)][:SAMPLED]:
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
            read = [(word, interpret_mask(read_stored(raw / name), None, raw / name)[0]) for name, word in owned]
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
