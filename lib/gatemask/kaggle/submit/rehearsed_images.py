"""Choose the images of a rehearsal: all test images that the sample submission lists, or training images in place of a
test set that is entirely hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gatemask.config import Competition, Images, Stack
from gatemask.config.path_patterns import part_names
from gatemask.console import say
from gatemask.data.ids import IdRule, test_rule, train_rule
from gatemask.data.image_files import image_files
from gatemask.data.joins import examples
from gatemask.data.manifest import read_test_images
from gatemask.data.manifest_inputs import sample_ids
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import read_manifest
from gatemask.errors import GatemaskError
from gatemask.project import Project

STAND_INS = 30  # training images in place of a hidden test set


@dataclass(frozen=True)
class RehearsedImages:
    """The images of a rehearsal.

    Args:
        paths: Paths below the raw folder by image id, of the images that are taken.
        needed: Number of images that a complete submission for the visible test set has.
        missing: Images that the sample submission lists and the raw folder lacks.
        stand_ins: Whether they are training images in place of a hidden test set.
    """

    paths: dict[str, str]
    needed: int
    missing: list[str] = field(default_factory=list)
    stand_ins: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing is missing in a submission for these images; a hidden test set needs a header only."""
        return self.stand_ins or len(self.paths) == self.needed


def choose_images(project: Project, comp: Competition, most: int) -> RehearsedImages:
    """Return the images of a rehearsal.

    Args:
        project: Project with the manifest.
        comp: Competition.
        most: Maximum number of images.

    Raises:
        GatemaskError: The sample submission lists images that have no file, although all that have one are taken; or
            there is no image at all.
    """
    raw = raw_folder(project, comp)
    frame = read_test_images(project, comp)
    paths = dict(zip(frame["image_id"].astype(str), frame["path"], strict=True))
    listed = _listed(raw, comp)
    if comp.test is not None:
        # The manifest lacks test images that are damaged or of another size; the kernel will meet them all the same.
        files = {file.image_id: file.name for file in image_files(raw, test_rule(comp), comp.test)}
        paths |= {image_id: name for image_id, name in files.items() if image_id not in paths}
        if not paths:
            return _stand_ins(project, comp, listed, raw, most)
    if listed and not comp.submission.by_object:  # of objects, the sample may list examples only
        paths = {image_id: name for image_id, name in paths.items() if image_id in listed}
    missing = sorted(listed - set(paths))
    if missing and len(paths) <= most:
        raise GatemaskError(
            "The sample submission lists images that have no file.",
            where=raw / str(comp.submission.sample),
            received=f"{len(missing)} of {len(listed)} images, such as {examples(missing)}",
            expected=f"a file that matches test.images: {(comp.test or comp.train).images}",
            do="Correct test.images and test.id in competition.yaml, or download the files; then run gatemask data "
            "prepare. To rehearse without them, take fewer images than there are: gatemask rehearse --images N.",
        )
    test = comp.test or comp.train
    chosen = _first(paths, most, test, test_rule(comp))
    needed = len(paths) if comp.submission.by_object else len(listed or paths)
    return RehearsedImages(chosen, needed, missing)


def _first(paths: Mapping[str, str], most: int, images: Images, rule: IdRule) -> dict[str, str]:
    """Return the first images; of a stack, whole volumes, since slices see their neighbors."""
    if images.stack is None:
        return dict(list(paths.items())[:most])
    volumes: dict[tuple[str, ...], list[str]] = {}
    for image_id, name in paths.items():
        volumes.setdefault(volume_of(rule, name, images.stack), []).append(image_id)
    chosen: list[str] = []
    for slices in volumes.values():
        if len(chosen) < most:
            chosen += slices
    return {image_id: paths[image_id] for image_id in chosen}


def _listed(raw: Path, comp: Competition) -> set[str]:
    sample = comp.submission.sample
    return sample_ids(raw / sample, comp) if sample and (raw / sample).is_file() else set()


def _stand_ins(project: Project, comp: Competition, listed: set[str], raw: Path, most: int) -> RehearsedImages:
    """Return training images, evenly spread over those with and without a mask."""
    frame = read_manifest(project, "train").sort_values(["label", "image_id"])
    paths = dict(zip(frame["image_id"].astype(str), frame["path"], strict=True))
    names = [name for name in paths if paths[name]]
    if not names:
        raise GatemaskError("There are no images to rehearse.", where=raw, expected="test or training images")
    count = min(most, STAND_INS, len(names))
    chosen = [names[number * len(names) // count] for number in range(count)]
    if comp.train.stack is not None:
        chosen = list(_first({name: paths[name] for name in names}, count, comp.train, train_rule(comp)))
        count = len(chosen)
    say(
        f"The visible test set has no images: {count} training images are rehearsed in its place. Set "
        "kaggle.test_images to the size of the hidden test set, so that time and memory are extrapolated."
    )
    return RehearsedImages({name: paths[name] for name in chosen}, len(listed), stand_ins=True)


def volume_of(rule: IdRule, name: str, stack: Stack) -> tuple[str, ...]:
    """Return what names the volume of a slice: all parts of its path but the one that numbers slices."""
    parts = rule.parts(name)
    return tuple(parts.get(part, "") for part in part_names(rule.images) if part != stack.by)
