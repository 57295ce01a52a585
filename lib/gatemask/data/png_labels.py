"""Read masks from image files: one per image, class or object, or with values that have a meaning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import PngLabels
from gatemask.config.path_patterns import part_names, path_pattern
from gatemask.console import progress, say
from gatemask.data.annotations import encode_numbered
from gatemask.data.class_rows import class_never_occurs, with_counts
from gatemask.data.findings import MaskSurvey
from gatemask.data.ids import DEFAULT, normalize, without_extension
from gatemask.data.image_files import ImageFile, MaskOwners
from gatemask.data.joins import IdList, examples, join_ids
from gatemask.data.mask_values import ShareSurvey, ValueSurvey
from gatemask.data.parsed_labels import ImageSizes, ParsedLabels, Size, Wanted
from gatemask.data.readers import inspect_mask, list_images, read_mask_shares, read_mask_values
from gatemask.data.shares import Shares
from gatemask.data.truth import IGNORED, Annotation, encode_shares
from gatemask.errors import GatemaskError, StorageError, nearest
from gatemask.masks import rle
from gatemask.masks.frame import HALF


class MaskFiles(NamedTuple):
    """The mask files of all images.

    Args:
        by_class: Files of each image, by class; one entry "" where files do not name their class.
        alone: Files that belong to no image of either split, below the raw folder.
    """

    by_class: dict[str, dict[str, list[Path]]]
    alone: list[str]


def read_png_labels(
    labels: PngLabels,
    raw: Path,
    images: Sequence[ImageFile],
    sizes: ImageSizes,
    others: Sequence[ImageFile],
    wanted: Wanted,
) -> ParsedLabels:
    """Read the masks of all images; a bad file affects only its image.

    Args:
        labels: Section `labels` of competition.yaml.
        raw: The raw folder.
        images: The images whose labels are wanted.
        sizes: Sizes of the images; one that could not be read is skipped.
        others: Images of the other split.
        wanted: What to read.

    Raises:
        GatemaskError: (Almost) no image has a mask, a mask fits several images, a class never occurs, or it is not
            clear what the values of mask files mean.
    """
    files = find_mask_files(labels, raw, images, others, wanted)
    reader = _MaskReader(labels, files, sizes, wanted)
    ids = [image.image_id for image in images]
    masks: dict[str, list[Annotation]] = {}
    soft: dict[str, str] = {}
    problems = []
    with ThreadPoolExecutor() as pool:
        for image_id, read in zip(ids, progress(pool.map(reader.read, ids), "masks", len(ids)), strict=True):
            if isinstance(read, GatemaskError):
                place = Path(str(read.details["where"])).relative_to(raw).as_posix()
                problems.append((image_id, place, read.short()))
            elif read is not None:
                masks[image_id] = read.annotations
                soft |= {image_id: read.shares} if read.shares else {}
    reader.report()
    return ParsedLabels(masks, problems, files.alone, soft)


class _ImageMasks(NamedTuple):
    """What the mask files of an image say.

    Args:
        annotations: Masks and ignored pixels.
        shares: Shares, from `encode_shares`. Default: none.
    """

    annotations: list[Annotation]
    shares: str = ""


class _MaskReader:
    """Reads the masks of one image after the other.

    Args:
        labels: Section `labels` of competition.yaml.
        files: The mask files of all images.
        sizes: Sizes of the images.
        wanted: What to read.
    """

    def __init__(self, labels: PngLabels, files: MaskFiles, sizes: ImageSizes, wanted: Wanted) -> None:
        self._labels, self._files, self._sizes, self._wanted = labels, files, sizes, wanted
        self._valued = bool(labels.values or labels.ignore or labels.numbered)
        self._surveys = {name: MaskSurvey(labels) for name in files.by_class}
        self._value_surveys = {name: ValueSurvey(labels) for name in files.by_class}
        self._shares = ShareSurvey(labels)

    def report(self) -> None:
        """Print what is peculiar about the files.

        Raises:
            GatemaskError: It is not clear what the values of mask files mean.
        """
        if self._labels.gives_shares:
            self._shares.report(self._wanted.complete)
        if self._labels.soft is not None:
            return
        for survey in self._value_surveys.values() if self._valued else self._surveys.values():
            survey.report()

    def read(self, image_id: str) -> _ImageMasks | GatemaskError | None:
        """Return the masks of an image; the error that makes them unusable; or None without a file."""
        paths = {name: files[image_id] for name, files in self._files.by_class.items() if image_id in files}
        if not paths:
            return None
        if (size := self._sizes.get(image_id)) is None:
            return _ImageMasks([])  # of an image that could not be read: it is reported as such
        try:
            if self._labels.gives_shares:
                return self._read_shares(paths, size)
            return _ImageMasks(self._read_masks(paths, size))
        except StorageError:  # of the machine: the file may be sound
            raise
        except GatemaskError as error:
            return error

    def _read_shares(self, paths: dict[str, list[Path]], size: Size) -> _ImageMasks:
        """Return the shares of an image; a pixel is unknown where no file of some class knows it."""
        classes = self._wanted.classes
        levels, ignored = np.zeros((*size, len(classes)), np.uint8), np.zeros(size, bool)
        for file_class, several in paths.items():
            names = [file_class] if file_class else list(classes) if self._labels.values else list(classes[:1])
            combined = Shares(size, len(names), self._labels.combine)
            for path in several:
                combined.add(*self._shares_of_file(path, file_class, size))
            self._shares.add_image(len(several))
            levels[:, :, [classes.index(name) for name in names]] = combined.levels
            ignored |= ~combined.known
        levels[ignored] = 0
        united = [Annotation(name, rle.encode(levels[:, :, index] >= HALF)) for index, name in enumerate(classes)]
        found = [annotation for annotation in [*united, Annotation(IGNORED, rle.encode(ignored))] if annotation.rle]
        return _ImageMasks(found, encode_shares(levels) if levels.any() else "")

    def _shares_of_file(self, path: Path, file_class: str, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares of a file, float32 (height, width, classes), and where they are known, bool."""
        if self._labels.soft is None:
            planes: dict[str, np.ndarray] = {}
            void = np.zeros(size, bool)
            self._read_file(path, file_class, size, planes, None, void)
            return np.stack(list(planes.values()), axis=2).astype(np.float32), ~void
        values = read_mask_shares(path, self._wanted.upright)
        _require_size(values, size, path)
        known = ~np.isin(values, self._labels.ignore)
        self._shares.add(path, np.where(known, values, 0))
        return (values / np.float32(self._labels.soft))[:, :, None], known

    def _read_masks(self, paths: dict[str, list[Path]], size: Size) -> list[Annotation]:
        """Return the masks of an image: united by class, or each object."""
        planes: dict[str, np.ndarray] = {}
        objects: list[Annotation] | None = [] if self._wanted.objects else None
        ignored = np.zeros(size, bool)
        for file_class, several in paths.items():
            for path in several:
                self._read_file(path, file_class, size, planes, objects, ignored)
        classes = self._wanted.classes
        united = [Annotation(name, rle.encode(planes[name] & ~ignored)) for name in classes if name in planes]
        order = {name: number for number, name in enumerate(classes)}
        kept_apart = sorted(objects or [], key=lambda annotation: order[annotation.class_name])
        found = [*kept_apart, *united, Annotation(IGNORED, rle.encode(ignored))]
        return [annotation for annotation in found if annotation.rle]

    def _read_file(
        self,
        path: Path,
        file_class: str,
        size: Size,
        planes: dict[str, np.ndarray],
        objects: list[Annotation] | None,
        ignored: np.ndarray,
    ) -> None:
        """Add the masks of a file to those of its image: to `objects` if they are kept apart, else to `planes`."""
        labels, only = self._labels, file_class or self._wanted.classes[0]
        if not self._valued:
            mask, facts = inspect_mask(path, labels.threshold, self._wanted.upright)
            self._surveys[file_class].add(path, facts)
            mask ^= labels.invert
            _require_size(mask, size, path)
            masks = {only: mask}
        else:
            values = read_mask_values(path, self._wanted.upright)
            _require_size(values, size, path)
            self._value_surveys[file_class].add(path, values)
            void = np.isin(values, labels.ignore)
            ignored |= void
            if labels.numbered and objects is not None:
                objects += [Annotation(only, text) for text in encode_numbered(np.where(void, 0, values))]
                return
            named = {name: labels.values[name] for name in self._wanted.classes} if labels.values else {}
            masks = {name: values == value for name, value in named.items()} or {only: (values > 0) & ~void}
        for name, mask in masks.items():
            if objects is not None:
                objects.append(Annotation(name, rle.encode(mask)))
            else:
                planes[name] = planes[name] | mask if name in planes else mask


def _require_size(mask: np.ndarray, size: Size, path: Path) -> None:
    if mask.shape == tuple(size):
        return
    turned = " (height and width are swapped)" if mask.shape[::-1] == tuple(size) else ""
    raise GatemaskError(
        "A mask has the wrong size.", where=path, received=f"{mask.shape}{turned}", expected=tuple(size)
    )


# --- which file belongs to which image ---------------------------------------------------------------------


def find_mask_files(
    labels: PngLabels, raw: Path, images: Sequence[ImageFile], others: Sequence[ImageFile], wanted: Wanted
) -> MaskFiles:
    """Return the mask files of each image and class.

    Raises:
        GatemaskError: A mask fits several images equally well, (almost) no image has a mask, or a class has no file.
    """
    everything = [*images, *others]
    # A part called class in the images' own pattern does not name the class of a mask.
    if not labels.class_in_name or any("class" in part_names(image.rule.images) for image in everything[:1]):
        owned, alone = _owned_files(labels.masks, raw, images, others)
        _join_masks(labels, raw, owned, alone, images)
        return MaskFiles({"": owned}, alone)
    by_class: dict[str, dict[str, list[Path]]] = {}
    strays: dict[str, set[str]] = {}
    taken: set[Path] = set()
    for name in sorted(wanted.classes, key=len, reverse=True):  # of bowel and large_bowel, the longer one is meant
        owned, alone = _owned_files(labels.masks.replace("{class}", _literal(name)), raw, images, others, taken)
        by_class[name], strays[name] = owned, set(alone)
        taken |= {path for paths in owned.values() for path in paths}
    names = {path.relative_to(raw).as_posix() for path in taken}
    alone = sorted(set().union(*strays.values()) - names)
    unknown = _other_classes(labels, raw, {image.path for image in everything}, names | set(alone))
    if wanted.complete:
        _require_files(by_class, unknown, wanted.classes, raw / labels.masks)
    if unknown:
        say(
            f"{sum(unknown.values())} mask files belong to classes that 'classes' does not name and are left out: "
            f"{with_counts(unknown, 'files')}."
        )
    owners = {image_id for owned in by_class.values() for image_id in owned}
    _join_masks(labels, raw, owners, alone, images)
    _report_incomplete({name: by_class[name] for name in wanted.classes}, owners)
    return MaskFiles({name: by_class[name] for name in wanted.classes}, alone)


def _literal(name: str) -> str:
    """Return a name as a glob that matches it alone."""
    return re.sub(r"[\[*?]", lambda match: f"[{match[0]}]", name)


def _other_classes(labels: PngLabels, raw: Path, images: Collection[Path], known: Collection[str]) -> dict[str, int]:
    """Return the number of mask files by class, for classes that are not wanted."""
    counts: Counter[str] = Counter()
    for path in list_images(raw, labels.masks):
        name = path.relative_to(raw).as_posix()
        if path not in images and name not in known:
            readings = path_pattern(labels.masks).readings(normalize(name))
            counts[without_extension(readings[0]["class"]) if readings else name] += 1
    return dict(counts)


def _require_files(
    by_class: Mapping[str, Mapping[str, Sequence[Path]]], unknown: dict[str, int], classes: Sequence[str], where: Path
) -> None:
    counts = {name: sum(map(len, owned.values())) for name, owned in by_class.items() if owned} | unknown
    for name in classes:
        if not by_class[name]:
            close = nearest(name, counts)
            hint = f"Did you mean '{close}'? " if close else ""
            raise class_never_occurs(name, where, with_counts(counts, "files"), hint)


def _report_incomplete(by_class: Mapping[str, Mapping[str, object]], owners: Collection[str]) -> None:
    """Report images that lack the file of a class which nearly all others have."""
    for name, owned in by_class.items():
        lacking = set(owners) - set(owned)
        if lacking and len(lacking) <= 0.1 * len(owners):
            say(
                f"{len(lacking)} of {len(owners)} images have no mask file of {name}, such as {examples(lacking)}: "
                "it counts as empty there."
            )


def _owned_files(
    pattern: str, raw: Path, images: Sequence[ImageFile], others: Sequence[ImageFile], taken: Collection[Path] = ()
) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each image, and those that belong to no image of either split; `taken` ones are skipped."""
    owners, image_paths = MaskOwners(pattern, [*images, *others]), {image.path for image in [*images, *others]}
    wanted, owned = set(images), dict[str, list[Path]]()
    alone: list[str] = []
    contested: list[str] = []
    for path in list_images(raw, pattern):
        if path in image_paths or path in taken:
            continue  # an image that fits the pattern of its own masks
        name = path.relative_to(raw).as_posix()
        found = owners.of(name)
        if len(in_split := [image for image in found if image in wanted] or found) > 1:
            raise GatemaskError(
                "A mask file fits several images equally well.",
                where=path,
                received=", ".join(image.name for image in in_split[:3]),
                expected=f"one image per mask of the pattern {pattern}",
                do="Make the pattern more specific, such as masks/{id}_[0-9]*.png, or name the folder of the images.",
            )
        if not found:
            alone.append(name)
        elif (owner := in_split[0]) in wanted:
            owned.setdefault(owner.image_id, []).append(path)
            if len(owners.all(name)) > len(found):
                contested.append(f"{name} to {owner.image_id}")
    if contested:
        say(
            f"{len(contested)} mask files fit the ids of several images; each belongs to the longest id, such as "
            f"{examples(contested)}."
        )
    return owned, alone


def _join_masks(
    labels: PngLabels, raw: Path, owned: Collection[str], alone: Sequence[str], images: Sequence[ImageFile]
) -> None:
    """Report how many images have masks; files without an image count as ids of their own."""
    if not images:
        return
    ids = {image.image_id for image in images}
    strays = {name if (stem := DEFAULT.of_cell(name)) in ids else stem for name in alone}
    join = join_ids(
        IdList("images", ids, raw), IdList("mask files", {*owned, *strays}, raw / labels.masks), "Correct labels.masks."
    )
    join.report("Images without a mask file count as empty." if join.first_only and labels.missing == "empty" else "")
