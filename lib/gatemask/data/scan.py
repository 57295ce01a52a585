"""Opening every raw image once: what it is, what it is recognised by, and what its DICOM tags say."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from gatemask.config import Competition
from gatemask.console import progress
from gatemask.data import duplicates
from gatemask.data.readers import read_image, read_tags
from gatemask.errors import GatemaskError, nearest

Row = dict[str, Any]
Problems = list[tuple[str, str]]  # file, complaint


class Seen(NamedTuple):
    """One image that could be read: its row so far, what it is recognised by, and its DICOM tags."""

    row: Row
    look: duplicates.Look
    tags: dict[str, str]


def check_tags(comp: Competition) -> None:
    """Refuse a tag that DICOM does not know, before ten thousand files are asked for it."""
    if not (wanted := tags_of(comp)):
        return
    from pydicom import datadict

    for tag in wanted:
        if datadict.tag_for_keyword(tag) is None:
            close = nearest(tag, (str(entry[4]) for entry in datadict.DicomDictionary.values()))
            raise GatemaskError(
                f"No DICOM tag is called '{tag}'.",
                where="groups.dicom or extra.dicom in competition.yaml",
                do=f"Did you mean '{close}'?" if close else None,
            )


def tags_of(comp: Competition) -> list[str]:
    """The tags that groups and more columns come from."""
    return [*([comp.groups.dicom] if comp.groups.dicom else []), *comp.extra.dicom]


def look_at(files: list[tuple[Path, str]], raw: Path, comp: Competition) -> tuple[list[Seen], Problems]:
    """Open every image once; a bad one becomes a problem and never ends the run."""
    tags = tags_of(comp)

    def look(item: tuple[Path, str]) -> Seen | GatemaskError:
        path, split = item
        try:
            image = read_image(path, comp.image.channels, comp.image.window)
            if image.shape[:2] != tuple(comp.image.size):
                expected = tuple(comp.image.size)
                raise GatemaskError("An image has the wrong size.", received=image.shape[:2], expected=expected)
            row = _row(path.stem, split, comp) | {
                "path": path.relative_to(raw).as_posix(),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            seen = duplicates.look(image)
            values = dict(zip(tags, read_tags(path, tags), strict=True)) if tags else {}
            return Seen(row | {"phash": seen.phash}, seen, values)
        except GatemaskError as error:
            return error

    found: dict[tuple[str, str], Seen] = {}
    problems: Problems = []
    with ThreadPoolExecutor() as pool:
        for (path, split), one in zip(files, progress(pool.map(look, files), "looking", len(files)), strict=True):
            name = path.relative_to(raw).as_posix()
            if isinstance(one, GatemaskError):
                problems.append((name, one.short()))
            elif (split, path.stem) in found:
                problems.append((name, f"A second file has the id {path.stem}: {found[split, path.stem].row['path']}."))
            else:
                found[split, path.stem] = one
    return list(found.values()), problems


def _row(image_id: str, split: str, comp: Competition) -> Row:
    size = {"height": comp.image.size[0], "width": comp.image.size[1]}
    return {"image_id": image_id, "path": "", "split": split, "label": 0, "mask_area": 0, **size, "sha256": ""}


def without_image(image_id: str, comp: Competition) -> Seen:
    """A training image of which only the label is known."""
    nothing = duplicates.Look("", duplicates.no_details(), blank=True)
    return Seen(_row(image_id, "train", comp) | {"phash": ""}, nothing, {})
