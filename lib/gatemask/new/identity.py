"""Find out how the paths of images become ids.

A competition names images in one of few ways: the file's name is the id; ids repeat in several folders and include
the folder's name; several files, which differ in one word such as red and green, are the channels of one image; or a
running number in the name orders the slices of a volume.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gatemask.new.channels import find_channels
from gatemask.new.decisions import Decisions
from gatemask.new.files import plain_glob, suffix_of
from gatemask.new.naming import Known, Naming, stem_of

JOINERS = ("_", "-", ".", "")
ENOUGH = 0.5  # share of the images whose id must be known for a rule to count as right


def find_naming(names: Sequence[str], known: Known, decisions: Decisions) -> Naming:
    """Return how files become images.

    Args:
        names: Paths below the raw folder.
        known: Ids that tables and masks name.
        decisions: Findings and questions.
    """
    if channels := find_channels(names, known, decisions):
        return channels
    stems = [stem_of(name) for name in names]
    unique = len(set(stems)) == len(stems)
    if unique and (not known.cells or known.share(stems) >= ENOUGH):
        decisions.note("ids", f"the file's name, such as {stems[0]}", "it is different for every image")
        return Naming("", {"": plain_glob(names)})
    named = max(_namings(names), key=lambda naming: _fit(naming, names, known), default=None)
    share = -1.0 if named is None else _fit(named, names, known)
    if named is not None and share >= (ENOUGH if unique else 0):
        example = named.rule.of_file(names[0])
        why = f"{share:.0%} of the images are labeled under it" if share else "names repeat in several folders"
        decisions.note("ids", f"{named.id}, such as {example}", why)
        return named
    decisions.note("ids", f"the file's name, such as {stems[0]}", "no other part of the path fits the labels better")
    return Naming("", {"": plain_glob(names)})


def _fit(naming: Naming, names: Sequence[str], known: Known) -> float:
    """Return the share of images that a naming finds labels for; below 0 where ids repeat."""
    sample = names[:: max(1, len(names) // 2000)]
    try:
        ids = [naming.rule.of_file(name) for name in sample]
    except Exception:  # a path that fits in several ways
        return -1.0
    if len(set(ids)) < len(ids):
        return -1.0
    return known.share(ids)


def _namings(names: Sequence[str]) -> Iterator[Naming]:
    """Yield ids made of folders and names, the simplest first."""
    folders = [name.split("/")[:-1] for name in names]
    if len({len(parts) for parts in folders}) > 1 or not folders[0]:
        return
    levels = [list(level) for level in zip(*folders, strict=True)]
    varying = [place for place, level in enumerate(levels) if len(set(level)) > 1]
    first = varying[0] if varying else len(levels)
    root = "/".join(level[0] for level in levels[:first])
    stems = [stem_of(name) for name in names]
    for stem_pattern, stem_id in _stem_patterns(stems):
        for count in range(1, len(varying) + 1):
            used = varying[-count:]
            parts = {place: _part_name(levels[place], number, stem_pattern) for number, place in enumerate(used)}
            tail = "/".join(
                f"{{{parts[place]}}}" if place in parts else "*" if place in varying else levels[place][0]
                for place in range(first, len(levels))
            )
            for joint in JOINERS:
                joined = joint.join([*(f"{{{parts[place]}}}" for place in used), stem_id])
                number = "number" if "{number}" in stem_pattern else ""
                yield Naming(root, {"": f"{tail}/{stem_pattern}{suffix_of(names)}"}, joined, number)


def _stem_patterns(stems: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield patterns for the names of files, and the part of them that belongs to the id."""
    numbered = re.compile(r"(.*?)([0-9]+)")
    matches = [numbered.fullmatch(stem) for stem in stems]
    if all(matches) and len({match[1] for match in matches if match}) == 1:
        prefix = stems[0][: len(stems[0]) - len(numbered.fullmatch(stems[0])[2])]  # type: ignore[index]
        yield f"{prefix}{{number}}", f"{prefix}{{number}}"
    yield "{name}", "{name}"
    tokens = [stem.split("_") for stem in stems]
    if len({len(parts) for parts in tokens}) > 1:
        return
    # Names such as slice_0001_266_266: the size of the image, say, is not part of its id.
    constant = [len({parts[place] for parts in tokens}) == 1 for place in range(len(tokens[0]))]
    for count in range(1, len(tokens[0])):
        if constant[count - 1]:
            continue
        head = [
            tokens[0][place] if constant[place] else "{number}" if place == count - 1 else f"{{name{place}}}"
            for place in range(count)
        ]
        rest = ["*"] * (len(tokens[0]) - count)
        yield "_".join([*head, *rest]), "_".join(head)


def _part_name(values: Sequence[str], number: int, taken: str) -> str:
    """Return a name for a level of folders: the word that its folders begin with, such as case of case01."""
    words = {re.split(r"[^a-z]", value.lower())[0] for value in values}
    word = words.pop() if len(words) == 1 else ""
    free = len(word) > 1 and word not in ("id", "stem", "class", "name", "number") and number == 0
    return word if free and f"{{{word}}}" not in taken else f"folder{number + 1}"
