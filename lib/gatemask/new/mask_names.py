"""Assign mask files to images by their names, and find out what else the names mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatemask.config.path_patterns import path_pattern
from gatemask.data.ids import without_extension
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions, Question
from gatemask.new.files import shared_beginning
from gatemask.new.masks import natural_order
from gatemask.new.naming import TOKEN, Naming, suffix_of

MOST_CLASSES = 50
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


def assign_masks(masks: Sequence[str], naming: Naming, files: Mapping[str, str], decisions: Decisions) -> MaskNames:
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
    covered = len({image_id for _, image_id in templates.values()})
    if not templates or max(len(templates) / len(masks[::step]), covered / len(files)) < 0.5:
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
        shared = shared_beginning(template for template, _ in templates.values())
        before, after = shared if shared.endswith("{id}") else re.sub(r"[^/_\-. ]*$", "", shared), ""
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
