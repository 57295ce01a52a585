"""Find what tells which images belong together: a table, a DICOM tag, the names of volumes, a shared prefix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask.data import table_columns
from gatemask.data.ids import IdRule
from gatemask.data.readers import read_tags
from gatemask.data.tables import read_table
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions
from gatemask.new.naming import Naming

TAGGED = 200  # DICOM files that are read
SHARED = 0.67  # a prefix groups images if there are fewer prefixes than so much of the images
LARGEST_GROUP = 0.5
IN_FOLDERS = "images of one volume or folder belong together"


@dataclass(frozen=True)
class GroupFacts:
    """What `groups` of competition.yaml will say.

    Args:
        section: Section `groups`, without `duplicates`.
        count: Number of groups; None if unknown.
    """

    section: dict[str, object]
    count: int | None = None


def examine_groups(
    groups: Path | None,
    table: Path | None,
    raw: Path,
    files: Mapping[str, str],
    naming: Naming,
    dicom: bool,
    decisions: Decisions,
) -> GroupFacts:
    """Return the best source of groups, and report it.

    Args:
        groups: The table that --groups names; None where it names none.
        table: The label table, which may have a column of groups; None where there is none.
        raw: The raw folder.
        files: Paths of images by id.
        naming: How files become images.
        dicom: Whether images are DICOM files.
        decisions: Findings and questions.

    Raises:
        GatemaskError: The table that --groups names has no column of groups.
    """
    found = (
        _from_table(groups, table, raw, files, naming.rule, decisions)
        or (_from_tags(raw, files, decisions) if dicom else None)
        or _from_folders(naming, files, decisions)
        or _from_template(naming, files, decisions)
        or _from_prefix(list(files), decisions)
    )
    if found is None:
        decisions.note("groups", "none", "no table, tag or part of the names is shared by several images")
    return found or GroupFacts({})


def _from_tags(raw: Path, files: Mapping[str, str], decisions: Decisions) -> GroupFacts | None:
    names = list(files.values())[:TAGGED]
    patients = [read_tags(raw / name, ["PatientID"])[0] for name in names]
    if not all(patients) or len(set(patients)) < 2:
        return None
    decisions.note("groups", "the DICOM tag PatientID", f"{len(set(patients))} patients in {len(patients)} files")
    return GroupFacts({"dicom": "PatientID"}, len(set(patients)))


def _from_folders(naming: Naming, files: Mapping[str, str], decisions: Decisions) -> GroupFacts | None:
    """Return the outermost folder that differs, where ids begin with its name."""
    if naming.id is None:
        return None
    below = [(image_id, path.removeprefix(naming.root).lstrip("/").split("/")[:-1]) for image_id, path in files.items()]
    depth = min(len(folders) for _, folders in below)
    for place in range(depth - 1):  # the innermost is the volume itself
        names = {folders[place] for _, folders in below}
        if len(names) == 1:
            continue
        for joint in "_-":
            if all(image_id.startswith(folders[place] + joint) for image_id, folders in below):
                counts = {name.count(joint) for name in names}
                if len(counts) == 1:
                    return _of_regex(_first_words(joint, counts.pop() + 1), list(files), IN_FOLDERS, decisions)
    return None


def _first_words(joint: str, count: int) -> str:
    """Return a regular expression for the first words of an id."""
    part = f"[^{joint}]+"
    return f"^({part}{f'{joint}{part}' * (count - 1)}){joint}"


def _from_template(naming: Naming, files: Mapping[str, str], decisions: Decisions) -> GroupFacts | None:
    """Return the volume, or else the folder, as group of ids that are made of both."""
    if naming.id is None:
        return None
    before = naming.id.partition(f"{{{naming.number}}}")[0] if naming.number else naming.id
    last = before.rfind("}") if naming.number else before.find("}")
    if last < 0 or (not naming.number and last + 1 >= len(before)):
        return None
    joint = before[last + 1 :] if naming.number else before[last + 1 : before.find("{", last)]
    if naming.number:
        regex = f"^(.+){re.escape(joint)}[0-9]+"
    else:
        name = before[before.find("{") + 1 : last]
        counts = {naming.rule.parts(path)[name].count(joint) for path in files.values()} if joint else set()
        if len(counts) != 1:
            return None
        regex = _first_words(joint, counts.pop() + 1)
    return _of_regex(regex, list(files), IN_FOLDERS, decisions)


def _from_prefix(ids: Sequence[str], decisions: Decisions) -> GroupFacts | None:
    """Return the first words of the names, where several images share them."""
    for joint in "_-":
        for count in (1, 2):
            if not all(image_id.count(joint) >= count for image_id in ids):
                continue
            if found := _of_regex(_first_words(joint, count), ids, "names of several images begin alike", decisions):
                return found
    return None


def _of_regex(regex: str, ids: Sequence[str], why: str, decisions: Decisions) -> GroupFacts | None:
    matches = [re.search(regex, image_id) for image_id in ids]
    counted = Counter(match[1] for match in matches if match)
    if sum(counted.values()) < len(ids) or not 4 <= len(counted) <= SHARED * len(ids):
        return None
    if max(counted.values()) > LARGEST_GROUP * len(ids):
        return None
    decisions.note("groups", f"by {regex}", f"guess: {why}: {len(counted)} groups, such as {next(iter(counted))}")
    return GroupFacts({"regex": regex}, len(counted))


def _from_table(
    groups: Path | None, table: Path | None, raw: Path, files: Mapping[str, str], rule: IdRule, decisions: Decisions
) -> GroupFacts | None:
    known = set(files)
    for file in (groups, table):
        if file is None:
            continue
        read = read_table(file)
        try:
            ids = table_columns.find_id_column(read, (), "another header", known, rule).column
            column = table_columns.find_group_column(read, ids)
        except GatemaskError:
            if file == groups:
                raise
            continue
        cells = read.column(column)
        named = table_columns.OF_GROUPS.search(str(column).lower())
        if file != groups and (not named or len(set(cells)) < 2 or not known <= set(read.ids(ids, rule))):
            continue
        counted = len(set(cells))
        decisions.note("groups", f"{column} of {file.name}", f"{counted} groups for {len(files)} images")
        section: dict[str, object] = {"file": file.relative_to(raw).as_posix(), "id": str(ids), "column": str(column)}
        return GroupFacts(section, counted)
    return None
