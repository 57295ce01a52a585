"""Find the other files of each image: those of its further channels, and the neighbors of a slice."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from gatemask.config import ChannelFiles, Stack
from gatemask.config.path_patterns import part_names
from gatemask.console import say
from gatemask.data.joins import examples
from gatemask.data.listing import list_images
from gatemask.data.owners import ImageFile, MaskOwners
from gatemask.data.sources import ImageSource


class Parts(Protocol):
    """What says which files an image has: a section of competition.yaml, or the facts that a kernel has of it."""

    @property
    def sources(self) -> list[ChannelFiles]: ...

    @property
    def stack(self) -> Stack | None: ...


def with_sources(files: Sequence[ImageFile], raw: Path, images: Parts) -> list[ImageFile]:
    """Return image files that know the other files of their images.

    A missing file is not an error here; reading the image raises it.

    Args:
        files: The files that name the images, masks excepted.
        raw: The raw folder.
        images: Section `train` or `test` of competition.yaml, or a kernel's facts of it.
    """
    if images.stack is not None:
        sources = _stacks(files, images.stack)
    elif len(images.sources) > 1:
        sources = _several_files(files, raw, images)
    else:
        return list(files)
    return [replace(file, others=sources[file]) for file in files]


def without_other_channels(files: Sequence[ImageFile], raw: Path, images: Parts) -> list[ImageFile]:
    """Return the files that name an image: those of further channels may match the first pattern as well.

    Args:
        files: Files that match the first pattern.
        raw: The raw folder.
        images: Section `train` or `test` of competition.yaml, or a kernel's facts of it.
    """
    further: set[ImageFile] = set()
    for part in images.sources[1:]:
        paths = set(list_images(raw, part.files))
        owners = MaskOwners(part.files, files)
        matched = [file for file in files if file.path in paths]
        further |= {file for file in matched if any(owner != file for owner in owners.of(file.name))}
    return [file for file in files if file not in further]


# --- several files -----------------------------------------------------------------------------------------


def _several_files(files: Sequence[ImageFile], raw: Path, images: Parts) -> dict[ImageFile, ImageSource]:
    """Return the files of each image, one per pattern; reports files of further patterns that no image has."""
    found: dict[ImageFile, list[Path]] = {file: [file.path] for file in files}
    faults: dict[ImageFile, str] = {}
    for part in images.sources[1:]:
        owned = _files_by_image(files, raw, part.files)
        for file in files:
            paths = owned.get(file, [])
            found[file] += paths[:1]
            if len(paths) != 1:
                names = ", ".join(path.relative_to(raw).as_posix() for path in paths[:3])
                count = f"{len(paths)} files" if paths else "no file"
                faults[file] = f"{count} of {_filled(part.files, file)}" + (f": {names}" if names else "")
    channels = tuple(part.channels for part in images.sources)
    return {
        file: ImageSource(file.image_id, tuple(found[file]), channels, fault=faults.get(file, "")) for file in files
    }


def _files_by_image(files: Sequence[ImageFile], raw: Path, pattern: str) -> dict[ImageFile, list[Path]]:
    """Return the files of a further pattern that belong to each image."""
    owners = MaskOwners(pattern, files)
    owned: dict[ImageFile, list[Path]] = {}
    alone = []
    for path in list_images(raw, pattern):
        name = path.relative_to(raw).as_posix()
        images = owners.of(name)
        alone += [] if images else [name]
        for file in images:
            owned.setdefault(file, []).append(path)
    if alone:
        say(f"{len(alone)} files of {pattern} belong to no image, such as {examples(alone)}.")
    return owned


def _filled(pattern: str, file: ImageFile) -> str:
    """Return a pattern with the parts of an image filled in, for messages."""
    for name in part_names(pattern):
        pattern = pattern.replace(f"{{{name}}}", file.parts.get(name, "*"))
    return pattern


# --- stacks ------------------------------------------------------------------------------------------------


def _stacks(files: Sequence[ImageFile], stack: Stack) -> dict[ImageFile, ImageSource]:
    """Return the neighbors of each slice; where slices are missing, the next in order, which is reported."""
    volumes: dict[tuple[str, ...], list[ImageFile]] = {}
    for file in files:
        names = [name for name in part_names(file.rule.images) if name != stack.by]
        volumes.setdefault(tuple(file.parts.get(name, "") for name in names), []).append(file)
    sources: dict[ImageFile, ImageSource] = {}
    gaps: list[str] = []
    offsets = [step * stack.step for step in range(-stack.around, stack.around + 1)]
    for slices in volumes.values():
        slices.sort(key=lambda file: (_number(file, stack), file.name))
        gaps += _gaps(slices, stack)
        last = len(slices) - 1
        twins = _twins(slices, stack)
        for place, file in enumerate(slices):
            paths = tuple(slices[min(max(place + offset, 0), last)].path for offset in offsets)
            sources[file] = ImageSource(
                file.image_id, paths, (1,) * len(paths), stack.around, True, twins.get(file, "")
            )
    if gaps:
        say(
            f"Numbers of slices are skipped {len(gaps)} times, and the next slice in order is the neighbor there: "
            f"{examples(gaps)}."
        )
    return sources


def report_split_stacks(files: Sequence[ImageFile], groups: Mapping[str, str]) -> None:
    """Warn if neighboring slices are in different groups: a fold could train on what another validates.

    Args:
        files: Training images with their sources.
        groups: Group of each image, by id.
    """
    group_of = {file.path: groups[file.image_id] for file in files if file.image_id in groups}
    split = [
        file.name
        for file in files
        if file.source.stacked and len({group_of[path] for path in file.source.files if path in group_of}) > 1
    ]
    if split:
        say(
            f"{len(split)} images have neighbors in other groups, such as {examples(split)}: folds may split volumes, "
            "and validate on slices that were trained on as neighbors. Set groups.regex, dicom or file so that each "
            "volume is one group."
        )


def _number(file: ImageFile, stack: Stack) -> tuple[tuple[int, int, str], ...]:
    """Return the sorting key of a slice: digits count as numbers, so that 10 follows 9."""
    pieces = re.split(r"([0-9]+)", file.parts.get(stack.by, ""))
    return tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece)


def _twins(slices: Sequence[ImageFile], stack: Stack) -> dict[ImageFile, str]:
    """Return a complaint for each slice whose number another slice of the volume has."""
    complaints = {}
    for before, after in itertools.pairwise(slices):
        if _number(before, stack) == _number(after, stack):
            text = f"two slices of the number {before.parts.get(stack.by, '')}: {before.name} and {after.name}"
            complaints.update({before: text, after: text})
    return complaints


def _gaps(slices: Sequence[ImageFile], stack: Stack) -> list[str]:
    """Return where numbers are skipped in a volume that is otherwise numbered evenly."""
    numbers = [file.parts.get(stack.by, "") for file in slices]
    pairs = [
        (before, after)
        for before, after in itertools.pairwise(slices)
        if before.parts.get(stack.by, "").isdecimal() and after.parts.get(stack.by, "").isdecimal()
    ]
    if len(pairs) + 1 < len(numbers) or not pairs:
        return []
    steps = [int(after.parts[stack.by]) - int(before.parts[stack.by]) for before, after in pairs]
    usual = min(steps)
    return [
        f"{before.name} is followed by {after.name.rpartition('/')[2]}"
        for (before, after), step in zip(pairs, steps, strict=True)
        if 0 < usual < step
    ]
