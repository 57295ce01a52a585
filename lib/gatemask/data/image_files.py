"""Find the training and test images below the raw folder: each file once, in one split, under an id of its own.

Globs catch more than images. Files of the test set and masks beside the images are separated from training images
here, before anything is read; ambiguous files are rejected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask.config import Competition, Images, PngLabels
from gatemask.config.path_patterns import part_names
from gatemask.console import say
from gatemask.data.channel_files import Parts, with_sources, without_other_channels
from gatemask.data.ids import IdRule, reject_shared_ids, test_rule, train_rule
from gatemask.data.joins import examples
from gatemask.data.missed_files import missed_files
from gatemask.data.owners import ImageFile, MaskOwners
from gatemask.data.readers import list_images
from gatemask.errors import GatemaskError

__all__ = ["ImageFile", "ImageFiles", "MaskOwners", "find_images", "image_files", "reject_suspects"]

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MASK_WORDS = "masks?|seg|segs|segmentations?|labels?|annotations?|gt|ground_?truth|mattes?"
MASK_NAME = re.compile(rf"(?P<image>.+?)[_\-. ]*({MASK_WORDS})[_\-. ]*[0-9]*", re.IGNORECASE)
TEST_FOLDER = re.compile(r"(.*[_\-. ])?test(ing)?([_\-. ].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class ImageFiles:
    """The images of a competition.

    Args:
        train: Training images, sorted by path.
        test: Test images, sorted by path.
    """

    train: list[ImageFile]
    test: list[ImageFile]

    @property
    def all(self) -> list[tuple[ImageFile, str]]:
        """Every image with its split."""
        return [(file, "train") for file in self.train] + [(file, "test") for file in self.test]

    @property
    def paths(self) -> list[Path]:
        """Every file of every image, each once."""
        return list(dict.fromkeys(path for file, _ in self.all for path in file.source.files))


def find_images(raw: Path, comp: Competition) -> ImageFiles:
    """Return the images of a competition.

    Args:
        raw: The raw folder.
        comp: competition.yaml.

    Raises:
        GatemaskError: There is no image, two files of a split have one id, or images cannot be told from masks.
    """
    test = image_files(raw, test_rule(comp), comp.test) if comp.test is not None else []
    train = image_files(raw, train_rule(comp), comp.train)
    if not train and not test:
        raise GatemaskError(
            "No image was found.",
            where=raw,
            expected=comp.train.pattern,
            do=" ".join(missed_files(raw, comp))
            or "Correct train.images, or --data; without images, --labels-only is enough for folds.",
        )
    tests = {file.path for file in test}
    if in_both := [file.name for file in train if file.path in tests]:
        say(
            f"{len(in_both)} files match train.images and test.images, such as {examples(in_both)}: "
            "they are test images only. Narrow train.images to make that explicit."
        )
        train = [file for file in train if file.path not in tests]
        if not train:
            raise GatemaskError(
                "Every file that train.images matches is a test image.",
                where="competition.yaml",
                received=f"train.images: {comp.train.pattern}, test.images: {comp.test and comp.test.pattern}",
                expected="training images that are not matched by test.images",
                do="Correct both patterns.",
            )
    if isinstance(comp.labels, PngLabels):
        train = _without_masks(train, raw, _of_any_class(comp.labels, comp.train))
    if comp.test is not None and isinstance(comp.test.labels, PngLabels):
        test = _without_masks(test, raw, _of_any_class(comp.test.labels, comp.test))
    for files in (train, test):
        _reject_control_characters(files, raw)
        reject_shared_ids([(file.image_id, file.name) for file in files], raw)
    test = with_sources(test, raw, comp.test) if comp.test is not None else []
    return ImageFiles(with_sources(train, raw, comp.train), test)


def image_files(raw: Path, rule: IdRule, images: Parts | None = None) -> list[ImageFile]:
    """Return the files that a pattern matches, hidden ones excepted, with their ids.

    Args:
        raw: The raw folder.
        rule: Pattern of the files, and how their ids are made.
        images: Section `train` or `test` of competition.yaml: files that hold further channels of another image are
            left out. Default: no image has several files.

    Raises:
        GatemaskError: The name of a file gives no id.
    """
    files = []
    for path in list_images(raw, rule.images):
        name = path.relative_to(raw).as_posix()
        files.append(ImageFile(path, name, rule.of_file(name), rule))
    return without_other_channels(files, raw, images) if images is not None else files


def _reject_control_characters(files: Sequence[ImageFile], raw: Path) -> None:
    """Raise if a name holds a line break, a tab or the like, which tables of ids cannot hold reliably."""
    if odd := [file.name for file in files if CONTROL.search(file.name)]:
        raise GatemaskError(
            "The name of an image file holds a control character.",
            where=raw,
            received=f"{len(odd)} such files, the first {odd[0]!r}",
            expected="names without line breaks, tabs and the like",
            do="Rename the files, and their ids in tables.",
        )


# --- masks beside images -----------------------------------------------------------------------------------


def _of_any_class(labels: PngLabels, images: Images) -> str:
    """Return the pattern of masks of all classes."""
    return labels.masks if "class" in part_names(images.pattern) else labels.masks.replace("{class}", "*")


def _without_masks(files: list[ImageFile], raw: Path, masks: str) -> list[ImageFile]:
    """Return the files that are not masks of other files."""
    mask_paths = set(list_images(raw, masks))
    if not any(file.path in mask_paths for file in files):
        return files
    owners = MaskOwners(masks, files)
    candidates = {file: owners.all(file.name) for file in files if file.path in mask_paths}
    others_of = {file: [other for other in found if other != file] for file, found in candidates.items()}
    beside = {file for file, others in others_of.items() if others}
    names = [path.relative_to(raw).as_posix() for path in mask_paths] if beside else []
    own_masks = {owner for name in names for owner in owners.of(name) if owner.name != name}
    for file in sorted(beside, key=lambda file: file.name):
        others = others_of[file]
        # Its own id fits as well as another's, or it has masks itself: it may be an image or a mask.
        if (file in candidates[file] and not _has_twin(file, others)) or file in own_masks:
            raise GatemaskError(
                "Images cannot be distinguished from masks: the pattern of the masks fits images too.",
                where=raw / file.name,
                received=f"the pattern {masks}, which makes it a mask of {others[0].name}",
                expected="a pattern that fits masks only, or a pattern of images that does not fit masks",
                do="Narrow labels.masks, for instance to {id}_mask.png, or train.images to a folder of images.",
            )
    if beside:
        say(
            f"{len(beside)} files are masks beside the images, such as {examples(file.name for file in beside)}: "
            "they are not taken for images. Narrow the pattern of the images to make that explicit."
        )
    return [file for file in files if file not in beside]


def _has_twin(file: ImageFile, others: Sequence[ImageFile]) -> bool:
    """Whether another file has the same id: images and masks of equal names, in folders that one glob matches."""
    return any(other.image_id == file.image_id for other in others)


# --- files that only look like training images -------------------------------------------------------------


def reject_suspects(unlabeled: Sequence[ImageFile], train: Sequence[ImageFile], listed: set[str]) -> None:
    """Raise if images without a label look like masks or test images: `missing: empty` would train on them as empty.

    Args:
        unlabeled: Training images without a label.
        train: All training images.
        listed: Ids of the test set, from its files and the sample submission.
    """
    ids = {file.image_id for file in train}
    labeled = {folder for file in set(train) - set(unlabeled) for folder in _folders(file)}
    for what, suspects in (
        ("masks", [file for file in unlabeled if _looks_like_mask(file, ids)]),
        ("test images, since the test set has their ids", [f for f in unlabeled if f.image_id in listed]),
        (
            "test images, since their folder is called so and has no label",
            [file for file in unlabeled if any(_is_test(folder) for folder in set(_folders(file)) - labeled)],
        ),
    ):
        if suspects:
            raise GatemaskError(
                f"Files that train.images matches are probably {what}.",
                where="competition.yaml, train.images",
                received=f"{len(suspects)} files without a label, such as {examples(f.name for f in suspects)}",
                expected="training images only; labels.missing: empty would make empty masks of all others",
                do="Narrow train.images, or give these files a row with an empty mask if they are training images.",
            )


def _folders(file: ImageFile) -> list[str]:
    parts = file.name.split("/")[:-1]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]


def _is_test(folder: str) -> bool:
    return TEST_FOLDER.fullmatch(folder.rpartition("/")[2]) is not None


def _looks_like_mask(file: ImageFile, ids: set[str]) -> bool:
    """Whether a file is named like the mask of an image, or lies in a folder of masks."""
    match = MASK_NAME.fullmatch(file.image_id)
    in_folder = any(re.fullmatch(MASK_WORDS, part, re.IGNORECASE) for part in file.name.split("/")[:-1])
    return in_folder or (match is not None and match["image"].rstrip("_-. ") in ids)
