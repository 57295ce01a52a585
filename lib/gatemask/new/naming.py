"""Which files belong to one image, and how its path becomes its id.

A competition names images in one of few ways: the file's name is the id; ids repeat in several folders and include
the folder's name; several files, which differ in one word such as red and green, are the channels of one image; or a
running number in the name orders the slices of a volume.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from gatemask.config.path_patterns import path_pattern
from gatemask.data.ids import IdRule, normalize, without_extension
from gatemask.new.decisions import Decisions, Question
from gatemask.new.files import plain_glob, suffix_of

MOST_CHANNELS = 8
CHANNEL_WORDS = re.compile(
    "red|green|blue|yellow|cyan|magenta|nir|ir|rgb|swir|thermal|depth|dapi|gfp|hoechst|actin|er|nuclei|protein|flair|t1|"
    "t1c|t1ce|t1gd|t2|adc|dwi|vv|vh|hh|hv|dem|elevation"
)
TOKEN = re.compile(r"[^/_\-. ]+")
JOINERS = ("_", "-", ".", "")
ENOUGH = 0.5  # share of the images whose id must be known for a rule to count as right


@dataclass(frozen=True)
class Known:
    """Ids that tables and masks name.

    Args:
        cells: Complete texts.
        parts: Their beginnings and ends as well, since a cell may join an id with a class.
    """

    cells: frozenset[str]
    parts: frozenset[str]

    @classmethod
    def of(cls, cells: Iterable[str]) -> Known:
        """Return what the cells of an id column say."""
        texts = frozenset(without_extension(normalize(cell).replace("/", "_")) for cell in cells)
        parts = {part for text in texts for part in (*_beginnings(text), *_ends(text))}
        return cls(texts, frozenset({*texts, *parts}))

    def share(self, ids: Sequence[str]) -> float:
        """Return the share of ids that are known."""
        return sum(one in self.parts for one in ids) / max(1, len(ids))


def _beginnings(text: str) -> Iterator[str]:
    return (without_extension(text[: match.end()]) for match in TOKEN.finditer(text))


def _ends(text: str) -> Iterator[str]:
    return (text[match.start() :] for match in TOKEN.finditer(text))


@dataclass(frozen=True)
class Naming:
    """How files become images.

    Args:
        root: Folder below the raw folder that all paths share; "" for the raw folder itself.
        tails: Patterns below it, by name of the channel; one without a name where each image is one file.
        id: Template of the id; None where the file's name, or {id}, is the id.
        number: Named part that numbers slices; "" where there is none.
    """

    root: str
    tails: dict[str, str]
    id: str | None = None
    number: str = ""

    @property
    def patterns(self) -> dict[str, str]:
        """Patterns below the raw folder, by name of the channel."""
        return {name: f"{self.root}/{tail}".lstrip("/") for name, tail in self.tails.items()}

    @property
    def pattern(self) -> str:
        """Pattern of the files that name images."""
        return next(iter(self.patterns.values()))

    @property
    def rule(self) -> IdRule:
        """How ids are made."""
        return IdRule(self.pattern, self.id)

    def images(self, names: Sequence[str]) -> list[str]:
        """Return the files that name an image, of all files."""
        if len(self.tails) == 1:
            return list(names)
        pattern = path_pattern(self.pattern)
        return [name for name in names if pattern.readings(name)]

    def elsewhere(self, names: Sequence[str]) -> Naming:
        """Return the same naming for files in another folder, such as the test images."""
        depth = next(iter(self.tails.values())).count("/")
        roots = {"/".join(name.split("/")[: -1 - depth]) for name in names}
        if "{" not in self.pattern or len(roots) > 1:
            return Naming("", {"": plain_glob(names)})
        suffix = suffix_of(names)
        old = suffix_of(list(self.tails.values()))
        tails = {name: tail.removesuffix(old) + suffix for name, tail in self.tails.items()}
        return replace(self, root=roots.pop(), tails=tails)


def find_naming(names: Sequence[str], known: Known, decisions: Decisions) -> Naming:
    """Return how files become images.

    Args:
        names: Paths below the raw folder.
        known: Ids that tables and masks name.
        decisions: Findings and questions.
    """
    if channels := _find_channels(names, known, decisions):
        return channels
    stems = [_stem(name) for name in names]
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


def _stem(name: str) -> str:
    return without_extension(name.rpartition("/")[2])


# --- ids with folders ------------------------------------------------------------------------------------------


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
    stems = [_stem(name) for name in names]
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


# --- several files per image -----------------------------------------------------------------------------------


def _find_channels(names: Sequence[str], known: Known, decisions: Decisions) -> Naming | None:
    """Return the naming of images whose files differ in one word; None where each file is an image."""
    for place, by_rest in _words(names):
        words = sorted(next(iter(by_rest.values())))
        rests = list(by_rest)
        stems = [_stem(name) for name in names]
        if len(set(stems)) == len(stems) and len(known.cells & set(stems)) >= ENOUGH * len(stems):
            continue  # labels name each file
        naming = _channel_naming(rests, words, suffix_of(names))
        if naming is None:
            continue
        known_words = sum(CHANNEL_WORDS.fullmatch(word.lower()) is not None for word in words)
        labeled = known.share([_stem(naming.rule.of_file(f"{rest}".replace("\0", words[0]))) for rest in rests])
        text = f"{len(words)} files per image: {', '.join(words)}"
        why = f"their names differ in one word{' of the folder' if place < 0 else ''} only"
        if known_words >= 2 or labeled >= ENOUGH:
            decisions.note("files", text, why)
            return naming
        answer = decisions.choose(
            Question(
                "files",
                f"Are the files that differ only in {', '.join(words)} channels of one image?",
                {"images": "each file is an image", "channels": text},
                "images",
                f"{why}, but none of the words names a channel",
            )
        )
        return naming if answer == "channels" else None
    return None


def _words(names: Sequence[str]) -> Iterator[tuple[int, dict[str, set[str]]]]:
    """Yield places in the paths where every image has the same few words: words by path with a gap."""
    suffixes = {name: name[len(without_extension(name)) :] for name in names}
    bare = [name.removesuffix(suffixes[name]) for name in names]
    for in_folder in (False, True):
        for place in (-1, -2, -3, 0):
            by_rest: dict[str, set[str]] = {}
            for name in bare:
                folder, _, stem = name.rpartition("/")
                text, offset = (folder, 0) if in_folder else (stem, len(folder) + bool(folder))
                tokens = list(TOKEN.finditer(text)) if not in_folder else list(re.finditer(r"[^/]+", text))
                if not -len(tokens) <= place < len(tokens):
                    break
                start, end = offset + tokens[place].start(), offset + tokens[place].end()
                by_rest.setdefault(f"{name[:start]}\0{name[end:]}", set()).add(name[start:end])
            else:
                words = next(iter(by_rest.values()))
                few = 2 <= len(words) <= MOST_CHANNELS and len(by_rest) > 1
                if few and all(one == words for one in by_rest.values()) and not any(w.isdigit() for w in words):
                    yield (-1 if in_folder else 0), by_rest


def _channel_naming(rests: Sequence[str], words: Sequence[str], suffix: str) -> Naming | None:
    """Return the naming of several files per image.

    Args:
        rests: Path of each image below the raw folder, without suffix, with a zero byte for the word.
        words: The words.
        suffix: Glob of the suffixes.
    """
    folders = [rest.split("/") for rest in rests]
    if len({len(parts) for parts in folders}) > 1:
        return None
    pattern = []
    for level in zip(*folders, strict=True):
        values = set(level)
        if len(values) == 1:
            pattern.append(level[0])
            continue
        prefix, rest = _shared_ends(list(values))
        pattern.append(f"{prefix}{{}}{rest}")
    varying = [place for place, part in enumerate(pattern) if "{}" in part]
    if not varying:
        return None
    parts = ["id"] if len(varying) == 1 else [*(f"folder{n + 1}" for n in range(len(varying) - 1)), "name"]
    for place, part in zip(varying, parts, strict=True):
        pattern[place] = pattern[place].replace("{}", f"{{{part}}}")
    root = "/".join(pattern[: next(place for place, part in enumerate(pattern) if "{" in part or "\0" in part)])
    tail = "/".join(pattern).removeprefix(root).lstrip("/")
    template = None if parts == ["id"] else "_".join(f"{{{part}}}" for part in parts)
    return Naming(root, {_channel_name(word): tail.replace("\0", word) + suffix for word in words}, template)


def _channel_name(word: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", word.lower())


def _shared_ends(values: Sequence[str]) -> tuple[str, str]:
    """Return what all values begin with and end with; a gap must be inside one of the ends, and words stay whole."""
    first, last = min(values), max(values)
    begin = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    turned = sorted(value[::-1] for value in values)
    end = next(
        (n for n, (a, b) in enumerate(zip(turned[0], turned[-1], strict=False)) if a != b), min(map(len, values))
    )
    prefix, suffix = first[:begin], first[len(first) - end :] if end else ""
    # Only what the gap touches is literal: digits that all ids happen to share belong to the ids.
    prefix = (
        prefix[: prefix.rfind("\0") + 1 + (prefix[prefix.rfind("\0") + 1 :][:1] in tuple("_-. "))]
        if "\0" in prefix
        else ""
    )
    if "\0" in suffix:
        at = suffix.find("\0")
        suffix = suffix[at - (at > 0 and suffix[at - 1] in "_-. ") :]
    else:
        suffix = ""
    return prefix, suffix


# --- slices ----------------------------------------------------------------------------------------------------


def with_numbers(naming: Naming, names: Sequence[str]) -> Naming | None:
    """Return a naming whose part {number} orders slices of volumes; None where images are not numbered like slices.

    Args:
        naming: The naming so far.
        names: Paths below the raw folder.
    """
    if len(naming.tails) > 1:
        return None
    if not naming.number and naming.id is not None:
        return None
    if not naming.number:
        naming = _numbered_names(names) or naming
    if not naming.number:
        return None
    return naming if _look_like_slices(volumes(naming, names)) else None


def _numbered_names(names: Sequence[str]) -> Naming | None:
    """Return a naming of flat files such as vol1_003.png, whose last number orders slices."""
    folders = {name.rpartition("/")[0] for name in names}
    matches = [re.fullmatch(r"(.+?)([_\-. ]?[A-Za-z]*[_\-]?)([0-9]+)", _stem(name)) for name in names]
    joints = {match[2] for match in matches if match}
    if len(folders) > 1 or not all(matches) or len(joints) != 1 or not (joint := joints.pop()):
        return None
    tail = f"{{volume}}{joint}{{number}}"
    return Naming(folders.pop(), {"": f"{tail}{suffix_of(names)}"}, tail, "number")


def volumes(naming: Naming, names: Sequence[str]) -> dict[str, list[tuple[int, str]]]:
    """Return the numbered files of each volume, in order."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        parts = naming.rule.parts(name)
        number = parts.pop(naming.number)
        if not number.isdigit():
            return {}
        key = "\0".join(text for part, text in parts.items() if part not in ("id", "stem"))
        found.setdefault(key, []).append((int(number), name))
    return {key: sorted(slices) for key, slices in found.items()}


def _look_like_slices(found: dict[str, list[tuple[int, str]]]) -> bool:
    """Whether several volumes have runs of numbers that overlap from volume to volume."""
    numbers = [[number for number, _ in slices] for slices in found.values()]
    if len(numbers) < 2 or sum(map(len, numbers)) < 3 * len(numbers):
        return False
    steps = [b - a for one in numbers for a, b in pairwise(one)]
    regular = sum(step == min(steps) for step in steps) >= 0.8 * len(steps) and min(steps) > 0
    return regular and len({number for one in numbers for number in one}) <= 0.75 * sum(map(len, numbers))
