"""Who belongs together: names from a table, a DICOM tag or a pattern, and copies, joined by union-find."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from gatemask.config import Groups
from gatemask.console import say
from gatemask.data.fold_files import plain_id
from gatemask.data.tables import read_table
from gatemask.errors import GatemaskError

# Copies come in twos and threes. Where "copies" chain up to this share of all images, they are only alike.
CREDIBLE = 0.02


# From an image's id and its DICOM tags to the name of its group, "" where the source does not know it.
Source = Callable[[str, Mapping[str, str]], str]


def sources(settings: Groups, raw: Path) -> list[Source]:
    """What competition.yaml says groups come from, in the order in which they name them.

    Raises:
        GatemaskError: no table (unless it is optional), no such column, one image in two groups, no pattern.
    """
    found: list[Source] = []
    prefix = settings.prefix
    if settings.file:
        file = raw / settings.file
        if settings.optional and not file.exists():
            say(f"There is no {settings.file} in {raw}: groups come from what else is known.")
        else:
            table = read_groups(file, settings.id, settings.column, prefix)
            found.append(lambda image_id, _: table.get(image_id, ""))
    if tag := settings.dicom:
        found.append(lambda _, tags: tags.get(tag, "")[:prefix])
    if settings.regex:
        pattern = _pattern(settings.regex)

        def by_pattern(image_id: str, _: Mapping[str, str]) -> str:
            match = pattern.search(image_id)
            return (match.group(1) or "")[:prefix] if match else ""

        found.append(by_pattern)
    return found


def read_groups(file: Path, id_column: str | int, column: str | int, prefix: int | None = None) -> dict[str, str]:
    """A table of groups: image id -> the first `prefix` characters of the group's name."""
    table = read_table(file, [id_column, column])
    named: dict[str, str] = {}
    ids = [plain_id(name) for name in table.column(id_column)]
    for row, (image_id, name) in enumerate(zip(ids, table.column(column), strict=True)):
        if named.setdefault(image_id, name[:prefix]) != name[:prefix]:
            raise GatemaskError(
                "An image is in two groups.",
                where=f"{table.where(row)}, image {image_id}",
                received=f"{named[image_id]} and {name[:prefix]}",
                expected="one group an image",
                do="Correct the table.",
            )
    return named


def _pattern(regex: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(regex)
    except re.error as error:
        raise GatemaskError(
            "The pattern of the groups is no regular expression.", where="groups.regex", received=f"{regex}: {error}"
        ) from None
    if not compiled.groups:
        raise GatemaskError(
            "The pattern of the groups has no parenthesis.",
            where="groups.regex",
            received=regex,
            expected="e.g. '^(patient[0-9]+)_', whose parenthesis names the group",
        )
    return compiled


def join(ids: Sequence[str], names: Iterable[Mapping[str, str]], copies: Iterable[tuple[str, str]]) -> dict[str, str]:
    """One group for all that any name, or a copy, puts together.

    Args:
        ids: the images.
        names: image id -> name, one mapping a source; the first that names an image also names its group.
        copies: pairs of ids.

    Returns:
        Image id -> name of its group: the smallest of its members' names, or of their ids where nothing names them.
    """
    parent: dict[object, object] = {}

    def root(node: object) -> object:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    named: dict[str, str] = {}
    for number, source in enumerate(names):
        for image_id in ids:
            if name := source.get(image_id):
                parent[root(("image", image_id))] = root((number, name))
                named.setdefault(image_id, name)
    for one, other in copies:
        parent[root(("image", one))] = root(("image", other))
    members: dict[object, list[str]] = {}
    for image_id in ids:
        members.setdefault(root(("image", image_id)), []).append(image_id)
    found: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for together in sorted(members.values(), key=min):
        name = min((named[i] for i in together if i in named), default=min(together))
        taken[name] += 1
        # A patient may be called as some other image is: two groups must not share a name.
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        found.update(dict.fromkeys(together, name))
    return found


def credible(pairs: Sequence[tuple[str, str]], images: int) -> bool:
    """Whether near copies are few to each image, as copies are, and do not chain through the whole set."""
    sizes = Counter(join(sorted({i for pair in pairs for i in pair}), [], pairs).values())
    return max(sizes.values(), default=0) <= max(12, CREDIBLE * images)
