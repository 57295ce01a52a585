"""Decide which images belong together: by a table, a DICOM tag, a pattern, and copies, joined by union-find."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from gatemask.config import Groups
from gatemask.console import say
from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.joins import IdList, join_ids
from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError

# Copies come in twos and threes. Where "copies" chain up to this share of all images, the images are merely similar.
CREDIBLE = 0.02


# From an image's id and its DICOM tags to the name of its group, "" where the source does not name it.
GroupSource = Callable[[str, Mapping[str, str]], str]


def group_sources(settings: Groups, raw: Path, train_ids: Collection[str], rule: IdRule = DEFAULT) -> list[GroupSource]:
    """Return the sources of groups that competition.yaml lists, in the order in which they name groups.

    Args:
        settings: Section `groups` of competition.yaml.
        raw: The raw folder.
        train_ids: Ids of the training images; empty where they are unknown.
        rule: How the ids of training images are made. Default: from the name of the file.

    Raises:
        GatemaskError: The table is missing and not optional, lacks a column, names two groups for an image, or names
            (almost) no training image; or the pattern is invalid.
    """
    sources: list[GroupSource] = []
    prefix = settings.prefix
    if settings.file:
        file = raw / settings.file
        if settings.optional and not file.exists():
            others = settings.dicom or settings.regex
            consequence = "groups come from the other sources" if others else "no source tells which images are related"
            say(f"{settings.file} does not exist in {raw}: {consequence}.")
        else:
            table = read_table(file, [settings.id, settings.column])
            names = group_names(table, settings.id, settings.column, prefix, rule)
            _join_table(names, file, train_ids)
            sources.append(lambda image_id, _: names.get(image_id, ""))
    if tag := settings.dicom:
        sources.append(lambda _, tags: tags.get(tag, "")[:prefix])
    if settings.regex:
        pattern = _pattern(settings.regex)

        def by_pattern(image_id: str, _: Mapping[str, str]) -> str:
            match = pattern.search(image_id)
            return (match.group(1) or "")[:prefix] if match else ""

        sources.append(by_pattern)
    return sources


def _join_table(names: Mapping[str, str], file: Path, train_ids: Collection[str]) -> None:
    """Report how many training images a table of groups names; reject a table that names (almost) none."""
    if not train_ids:
        return
    join = join_ids(
        IdList("training images", train_ids),
        IdList(f"ids with a group in {file.name}", [image_id for image_id, name in names.items() if name], file),
        "Correct groups.id or the table, or remove groups.file if it belongs to other images.",
    )
    join.report()


def group_names(
    table: Table, id_column: str | int, group_column: str | int, prefix: int | None = None, rule: IdRule = DEFAULT
) -> dict[str, str]:
    """Return the group of each image in a table.

    Args:
        table: Any table with image ids (or names of files) and groups.
        id_column: Column of the ids, by name or number.
        group_column: Column of the groups, by name or number.
        prefix: Number of leading characters that name a group. Default: all.
        rule: How ids are made. Default: from the name of the file.

    Raises:
        GatemaskError: A column is missing, or an image is in two groups.
    """
    names: dict[str, str] = {}
    cells = zip(table.ids(id_column, rule), table.column(group_column), strict=True)
    for row, (image_id, group) in enumerate((image_id, group[:prefix]) for image_id, group in cells):
        if names.setdefault(image_id, group) != group:
            raise GatemaskError(
                "An image is in two groups.",
                where=f"{table.where(row)}, image {image_id}",
                received=f"{names[image_id]} and {group}",
                expected="one group per image",
                do="Correct the table.",
            )
    return names


def _pattern(regex: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(regex)
    except re.error as error:
        raise GatemaskError(
            "The pattern of the groups is not a regular expression.", where="groups.regex", received=f"{regex}: {error}"
        ) from None
    if not compiled.groups:
        raise GatemaskError(
            "The pattern of the groups has no parenthesis.",
            where="groups.regex",
            received=regex,
            expected="e.g. '^(patient[0-9]+)_', whose parenthesis names the group",
        )
    return compiled


def join_groups(
    ids: Sequence[str], names: Iterable[Mapping[str, str]], copies: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Put all images into one group that a name or a copy connects.

    Args:
        ids: Image ids.
        names: One mapping per source, from image id to name; the first source that names an image names its group.
        copies: Pairs of ids.

    Returns:
        Name of the group by image id: the smallest of its members' names, or of their ids where no source names them.
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
    for first, second in copies:
        parent[root(("image", first))] = root(("image", second))
    members: dict[object, list[str]] = {}
    for image_id in ids:
        members.setdefault(root(("image", image_id)), []).append(image_id)
    groups: dict[str, str] = {}
    uses: Counter[str] = Counter()
    for group in sorted(members.values(), key=min):
        name = min((named[image_id] for image_id in group if image_id in named), default=min(group))
        uses[name] += 1
        # A patient may have the name of another image: two groups must not share a name.
        name = name if uses[name] == 1 else f"{name}#{uses[name]}"
        groups.update(dict.fromkeys(group, name))
    return groups


def credible(pairs: Sequence[tuple[str, str]], images: int) -> bool:
    """Whether each image has few near copies, as real copies do, instead of chains through the whole set.

    Args:
        pairs: Ids of near copies.
        images: Number of images.
    """
    sizes = Counter(join_groups(sorted({image_id for pair in pairs for image_id in pair}), [], pairs).values())
    return max(sizes.values(), default=0) <= max(12, CREDIBLE * images)
