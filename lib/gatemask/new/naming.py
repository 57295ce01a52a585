"""Which files belong to one image, how its path becomes its id, and which number orders slices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from gatemask.config.path_patterns import path_pattern
from gatemask.data.ids import IdRule, normalize, without_extension
from gatemask.new.files import plain_glob, suffix_of

TOKEN = re.compile(r"[^/_\-. ]+")


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

    def below(self, old: str, new: str) -> Naming:
        """Return the same naming for a folder that holds no file yet.

        Args:
            old: Folder of the training images, below the raw folder; "." for the raw folder itself.
            new: The folder without files.
        """
        prefix = "" if old == "." else f"{old}/"
        return replace(self, root=new, tails={name: p.removeprefix(prefix) for name, p in self.patterns.items()})

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


def stem_of(name: str) -> str:
    """Return the name of a file without folder and extension."""
    return without_extension(name.rpartition("/")[2])


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
    matches = [re.fullmatch(r"(.+?)([_\-. ]?[A-Za-z]*[_\-]?)([0-9]+)", stem_of(name)) for name in names]
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
