"""The files of the hidden test set of a rehearsal: every file of an image, under names that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gatemask.config import Competition, Images, Stack
from gatemask.config.path_patterns import part_names, path_pattern
from gatemask.data.channel_files import with_sources
from gatemask.data.ids import IdRule, test_rule, train_rule
from gatemask.data.owners import ImageFile
from gatemask.errors import GatemaskError
from gatemask.kaggle.submit.hidden_names import HiddenName, hidden_name, hidden_volume, stand_in_name
from gatemask.kaggle.submit.rehearsed_images import RehearsedImages, volume_of

REPEATED = 3  # images that the hidden test set contains twice


@dataclass(frozen=True)
class HiddenFiles:
    """The hidden test set.

    Args:
        names: Name of each hidden image, by its id.
        sources: Files to copy, by their path below the competition's folder.
    """

    names: dict[str, HiddenName] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)


def hide_images(comp: Competition, raw: Path, images: RehearsedImages) -> HiddenFiles:
    """Return the rehearsed images under unknown ids; the first few occur twice.

    Args:
        comp: Competition.
        raw: The raw folder.
        images: Images of the rehearsal.

    Raises:
        GatemaskError: No name fits the patterns, or a file is missing.
    """
    test = comp.test or comp.train
    visible, rule = (comp.train, train_rule(comp)) if images.stand_ins else (test, test_rule(comp))
    files = [ImageFile(raw / name, name, image_id, rule) for image_id, name in images.paths.items()]
    files = with_sources(files, raw, visible)
    hidden = HiddenFiles()
    groups = _volumes(files, visible.stack) if visible.stack is not None else [[file] for file in files]
    copies = [(group, 0) for group in groups]
    # Slices of a second volume of the same name would be neighbors of the first's.
    if visible.stack is None or len(part_names(visible.pattern)) > 1:
        repeated = groups[:1] if visible.stack is not None else groups[:REPEATED]
        copies += [(group, 1) for group in repeated]
    for group, copy in copies:
        taken = {*images.paths, *hidden.names}
        for file, named in zip(group, _hidden_names(test, group, copy, taken, images.stand_ins), strict=True):
            hidden.names[named.image_id] = named._replace(visible_id=file.image_id, visible_name=file.name)
            hidden.sources.update(_sources(test, file, named.name, raw, images.stand_ins))
    for path in hidden.sources.values():
        if not path.exists():
            do = "Restore the raw files, or name their folder with --data."
            raise GatemaskError("A test image is missing.", where=path, do=do)
    return hidden


def _volumes(files: Sequence[ImageFile], stack: Stack) -> list[list[ImageFile]]:
    """Return the slices of each volume."""
    volumes: dict[tuple[str, ...], list[ImageFile]] = {}
    for file in files:
        volumes.setdefault(volume_of(file.rule, file.name, stack), []).append(file)
    return list(volumes.values())


def _hidden_names(
    test: Images, group: Sequence[ImageFile], copy: int, taken: set[str], stand_ins: bool
) -> list[HiddenName]:
    """Return new names for an image, or for all slices of a volume."""
    rule = IdRule(test.pattern, test.id)
    names = [
        (file.image_id, stand_in_name(rule.images, file.name, file.parts) if stand_ins else file.name) for file in group
    ]
    if test.stack is not None:
        return hidden_volume(rule, names, test.stack.by, copy, taken)
    return [hidden_name(rule, image_id, name, copy, taken) for image_id, name in names]


def _sources(test: Images, file: ImageFile, hidden: str, raw: Path, stand_ins: bool) -> dict[str, Path]:
    """Return the files of an image by their hidden names: those of further channels share its new parts."""
    sources = {hidden: file.path}
    if file.source.stacked:
        return sources
    parts = IdRule(test.pattern, test.id).parts(hidden)
    for part, path in zip(test.sources[1:], file.source.files[1:], strict=False):
        name = path.relative_to(raw).as_posix()
        sources[_other_name(part.files, name, parts, stand_ins)] = path
    return sources


def _other_name(pattern: str, name: str, parts: Mapping[str, str], stand_ins: bool) -> str:
    """Return the name of a file of further channels for new parts."""
    pieces = None if stand_ins else path_pattern(pattern).pieces(name)
    if pieces is None:
        return stand_in_name(pattern, name, parts)
    for place, part in enumerate(path_pattern(pattern).order):
        pieces[2 * place + 1] = parts[part]
    return "".join(pieces)
