"""`gatemask data prepare`: turn raw files and labels into the tables that every stage reads.

data/<comp>/manifest.csv     one row per image: image_id, path, split, group, label, mask_area, height, ... and `extra`
data/<comp>/masks.csv        truth of the training images, in one RLE dialect
data/<comp>/test_masks.csv   truth of the test images, where it is known
data/<comp>/duplicates.csv   copies: image_id, split, other_id, other_split, kind
data/<comp>/problems.csv     what was left out, and why
data/<comp>/manifest.json    the stamp; holds the raw folder, too
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from gatemask.config import Competition, PngLabels, RleLabels
from gatemask.console import print_fields, recorded, say
from gatemask.data import groups
from gatemask.data.annotations import Annotations, area, present_classes
from gatemask.data.channel_files import report_split_stacks
from gatemask.data.duplicates import find_copies
from gatemask.data.findings import report_images
from gatemask.data.ids import reject_shared_ids, test_rule, train_rule
from gatemask.data.image_files import ImageFiles, find_images, image_files
from gatemask.data.joins import examples
from gatemask.data.labels import read_labels
from gatemask.data.manifest_inputs import (
    check_unlabeled,
    join_sample,
    label_files,
    read_extra_columns,
    reject_other_size,
    sizes_of,
)
from gatemask.data.manifest_tables import unusable, write_problems, write_tables
from gatemask.data.mask_order import compare_with_images
from gatemask.data.missed_files import missed_files
from gatemask.data.parsed_labels import ImageSizes, ParsedLabels, Size, Wanted
from gatemask.data.raw_folder import raw_folder, remembered, require_same_raw
from gatemask.data.readers import list_images
from gatemask.data.scan import Problems, ScannedImage, check_tags, scan_images
from gatemask.data.sizes import report_sizes
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.data.submission_dialect import dialect_notes
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, listing_fingerprint, read_json_object
from gatemask.project import Project
from gatemask.results.data import ManifestResult
from gatemask.stage import Stage, Stamp, write_stamp

SOFT_DEFAULTS = {"soft": None, "combine": "union"}
Copies = list[tuple[ScannedImage, ScannedImage, str]]  # two images and "exact" or "near"


def prepare(
    project: Project, comp: Competition, data: Path | None = None, strict: bool = False, labels_only: bool = False
) -> ManifestResult:
    """Write the manifest and the masks of a competition.

    Args:
        project: Project folders.
        comp: competition.yaml.
        data: Raw folder. Default: the folder used last time, or the one in competition.yaml.
        strict: Raise where anything must be left out.
        labels_only: Make the manifest from the labels alone, before the images are available: enough for folds.

    Raises:
        GatemaskError: The raw files are missing, a setting does not fit them, or no training image is left.
    """
    stamp, raw = project.data / "manifest.json", raw_folder(project, comp, data)
    if not raw.is_dir():
        if data is None and stamp.exists() and Stamp.load(stamp).made_from.get("settings") == _settings(comp):
            say(f"The raw files are not available ({raw}); the manifest made from them is kept.")
            kept = ManifestResult.load(stamp).model_copy(update={"current": True})
            _say_reports(kept)
            return kept
        raise GatemaskError(
            "The raw files do not exist.", where=raw, do="Name their folder with --data (make: DATA=folder)."
        )
    with recorded() as found:
        files = ImageFiles([], []) if labels_only else find_images(raw, comp)
        for sentence in [] if labels_only else missed_files(raw, comp):
            say(sentence)
    made_from = _made_from(raw, comp, files) | {"labels_only": labels_only}
    stage = Stage("data prepare", stamp, made_from, ManifestResult)

    def work() -> tuple[ManifestResult, list[Path]]:
        with recorded() as reports:
            result, outputs = _write_manifest(project, comp, raw, files, strict, labels_only)
        return result.model_copy(update={"reports": [*found, *reports]}), outputs

    result = stage.run(work)
    if result.current:
        _say_reports(result, found)
    if strict and result.problems:  # of a run without `strict`
        raise unusable(result.problems, project.data / "problems.csv")
    place = remembered(project, comp, raw)
    if (result.raw, result.raw_in_yaml) != (place["raw"], place["raw_in_yaml"]):  # the same files, moved
        write_stamp(stamp, {**read_json_object(stamp), **place})
        result = result.model_copy(update=place)
    return result


def _say_reports(result: ManifestResult, said: Sequence[str] = ()) -> None:
    """Print the reports of the run that made the manifest, except those that were printed just now."""
    for report in result.reports:
        if report not in said:
            say(report)


def print_manifest(result: ManifestResult) -> None:
    """Print the numbers; the reports were printed before."""
    print_fields({name: value for name, value in result.as_dict().items() if name != "reports"})


def _write_manifest(
    project: Project, comp: Competition, raw: Path, files: ImageFiles, strict: bool, labels_only: bool
) -> tuple[ManifestResult, list[Path]]:
    check_tags(comp)
    reject_other_size(files, comp)
    scanned = scan_images(files, comp) if comp.image.size == "mixed" else None  # masks have the size of their image
    sizes = sizes_of(scanned[0] if scanned else [], comp, "train")
    labels = _training_labels(files, raw, comp, sizes, labels_only)
    if not labels_only:
        check_unlabeled(files, labels, raw, comp)
        join_sample(files, raw, comp)
    train_ids = list(labels.masks) if labels_only else [file.image_id for file in files.train]
    sources = groups.group_sources(comp.groups, raw, train_ids, train_rule(comp))
    columns = read_extra_columns(raw, comp, train_ids)
    images, problems = scanned or scan_images(files, comp)
    report_images([image.facts for image in images if image.facts is not None], comp.image)
    report_sizes(images, comp)
    left_out = _report_submission(files, images, raw, comp)
    if labels_only:
        images = [ScannedImage(image_id, "train") for image_id in labels.masks]
    images = _with_labels(images, labels, set(train_ids), comp.classes, problems)
    images = _with_names(images, comp, sources, problems)
    copies = _find_copies(images, comp)
    _assign_groups(images, sources, copies)
    report_split_stacks(files.train, {image.image_id: image.group for image in images if image.split == "train"})
    _add_extra_columns(images, comp, columns)
    write_problems(problems, project.data / "problems.csv", strict)
    train = [image for image in images if image.split == "train"]
    if not train:
        raise GatemaskError(
            "No training image is left.",
            where=raw / comp.train.pattern,
            received=f"{len(problems)} problems, the first: {problems[0][1] if problems else 'no label at all'}",
            expected="images with labels",
            do=f"See {project.data / 'problems.csv'}.",
        )
    truth = _test_truth(files, raw, comp, sizes_of(images, comp, "test"))
    (project.data / "manifest.json").unlink(missing_ok=True)  # the tables below are replaced one by one
    outputs = write_tables(project.data, comp, images, labels, truth, copies)
    result = ManifestResult(
        images=len(train),
        positives=sum(image.label for image in train),
        test_images=len(images) - len(train),
        test_images_left_out=left_out,
        groups=len({image.group for image in train}),
        duplicates=len(copies),
        problems=len(problems),
        **remembered(project, comp, raw),
    )
    return result, outputs


def _training_labels(
    files: ImageFiles, raw: Path, comp: Competition, sizes: Size | dict[str, Size], labels_only: bool
) -> ParsedLabels:
    train_files = label_files(raw, comp) if labels_only else files.train
    wanted = Wanted.of(comp, train_rule(comp), complete=True)
    labels = read_labels(comp.labels, raw, train_files, sizes, files.test, wanted)
    if isinstance(comp.labels, RleLabels):
        paths = {file.image_id: file.path for file in files.train}
        compare_with_images(labels.masks, paths, ImageSizes(sizes), comp.labels.rle)
    return labels


def _report_submission(files: ImageFiles, images: list[ScannedImage], raw: Path, comp: Competition) -> int:
    """Report the dialect of submissions and test images that were left out; return the number of these."""
    for note in dialect_notes(comp, raw):
        say(f"note: {note}")
    kept = {image.image_id for image in images if image.split == "test"}
    left_out = {file.image_id for file in files.test} - kept
    if left_out:
        say(
            f"{len(left_out)} of {len(files.test)} test images are left out, such as {examples(left_out)}. A "
            "submission needs them all: the rehearsal shows what the kernel does with them."
        )
    return len(left_out)


def read_test_images(project: Project, comp: Competition) -> pd.DataFrame:
    """Return image_id and path of the test images, or of the hold-out fold where there are none.

    Before there is a manifest, the test images are those in the raw folder.
    """
    if comp.test is not None and not (project.data / "manifest.json").exists():
        raw = raw_folder(project, comp)
        rows = [(file.image_id, file.name) for file in image_files(raw, test_rule(comp), comp.test)]
        reject_shared_ids(rows, raw)
        return pd.DataFrame(rows, columns=["image_id", "path"])
    manifest = read_manifest(project)
    test = manifest[manifest["split"] == "test"]
    if len(test) or comp.test is not None:  # no images: a test set that is entirely hidden
        return test
    folds = read_folds(project)
    return manifest[manifest["image_id"].isin(folds["image_id"][folds["fold"] == HOLDOUT])]


def require_images(project: Project, comp: Competition) -> None:
    """Raise if the manifest was made from the labels alone, from another folder, or with other settings of `image`."""
    require_same_raw(project, comp)
    made_from = Stamp.load(project.data / "manifest.json").made_from
    if made_from.get("labels_only"):
        raise GatemaskError(
            "The manifest was made from the labels alone.",
            where=project.data / "manifest.csv",
            do=f"Run gatemask data prepare {project.comp} where the images are available.",
        )
    if made_from.get("image") != comp.image.pixel_settings:
        raise GatemaskError(
            "The manifest was made with other settings of 'image'.",
            where=project.data / "manifest.csv",
            received=made_from.get("image"),
            expected=comp.image.pixel_settings,
            do=f"Run gatemask data prepare {project.comp}.",
        )


# --- inputs ------------------------------------------------------------------------------------------------


def _made_from(raw: Path, comp: Competition, images: ImageFiles) -> dict[str, object]:
    sources = (comp.labels, comp.test and comp.test.labels, comp.groups, comp.extra)
    names = [getattr(source, "file", None) for source in sources] + [comp.submission.sample]
    existing = [raw / name for name in names if name and (raw / name).exists()]
    png_labels = [source for source in sources if isinstance(source, PngLabels)]
    masks = [path for source in png_labels for path in list_images(raw, source.masks)]
    files = listing_fingerprint([*images.paths, *existing, *masks], raw)
    return {"settings": _settings(comp), "image": comp.image.pixel_settings, "files": files}


def _settings(comp: Competition) -> str:
    sections = {"image", "train", "test", "labels", "classes", "groups", "extra"}
    kept_apart = {"objects": True} if comp.objects is not None else {}
    separated = {"exclusive": True} if comp.exclusive and len(comp.classes) > 1 else {}
    settings = comp.model_dump(include=sections)
    for labels in (settings["labels"], (settings["test"] or {}).get("labels") or {}):
        for name, default in SOFT_DEFAULTS.items():  # added later: manifests without them stay current
            if labels.get(name) == default:
                labels.pop(name, None)
    return fingerprint({**settings, **kept_apart, **separated, "sample": comp.submission.sample})


# --- labels, groups, columns -------------------------------------------------------------------------------


def _with_labels(
    images: list[ScannedImage], labels: ParsedLabels, train_ids: set[str], classes: Sequence[str], problems: Problems
) -> list[ScannedImage]:
    """Fill in label, classes and area; report images without a label and labels without an image."""
    rejected = {image_id for image_id, _, _ in labels.problems}
    problems += [(place, f"{complaint} (image {image_id})") for image_id, place, complaint in labels.problems]
    kept = []
    for image in images:
        if image.split == "train":
            if image.image_id not in labels.masks:
                if image.image_id not in rejected:
                    problems.append((image.path, "The image has no label."))
                continue
            annotations = labels.masks[image.image_id]
            image.mask_area, image.classes = area(annotations), present_classes(annotations, classes)
            image.label = int(bool(image.classes))
        kept.append(image)
    problems += [(image_id, "The label has no image.") for image_id in labels.masks if image_id not in train_ids]
    problems += [(name, "The mask has no image.") for name in labels.alone]
    return kept


def _find_copies(images: list[ScannedImage], comp: Competition) -> Copies:
    """Return pairs of copies, within and between the splits."""
    if comp.groups.duplicates == "ignore":
        return []
    near = comp.groups.duplicates == "near"
    pairs, recognizable = find_copies([image.sha256 for image in images], [image.signature for image in images], near)
    near_keys = [(images[pair.first].key, images[pair.second].key) for pair in pairs if pair.kind == "near"]
    if not recognizable or not groups.credible(near_keys, len(images)):
        say(
            "So many pairs resemble near copies that these images must be too alike: only byte-identical ones count. "
            "To make that permanent, set groups.duplicates: exact."
        )
        pairs = [pair for pair in pairs if pair.kind == "exact"]
    return [(images[pair.first], images[pair.second], pair.kind) for pair in pairs]


def _with_names(
    images: list[ScannedImage], comp: Competition, sources: list[groups.GroupSource], problems: Problems
) -> list[ScannedImage]:
    """Leave out training images that a source should name, but none does."""
    if not sources:
        return images
    train = [image for image in images if image.split == "train"]
    nameless = [image for image in train if not any(source(image.image_id, image.tags) for source in sources)]
    if comp.groups.optional:
        if train and len(nameless) == len(train) and train[0].path:  # the labels alone have no tags
            raise GatemaskError(
                "No training image has a group.",
                where="groups in competition.yaml",
                received=f"{len(sources)} sources of groups that name none of {len(train)} images",
                expected="a table, tag or pattern that fits the images",
                do="Correct groups, or remove the sources: each image is then a group of its own.",
            )
        if nameless:
            say(
                f"{len(nameless)} of {len(train)} training images have no group, such as "
                f"{examples(image.image_id for image in nameless)}: each is a group of its own, so images of one "
                "patient may be in training and validation."
            )
        return images
    problems += [(image.path or image.image_id, "The image has no group.") for image in nameless]
    left_out = {image.key for image in nameless}
    return [image for image in images if image.key not in left_out]


def _assign_groups(images: list[ScannedImage], sources: list[groups.GroupSource], copies: Copies) -> None:
    names = [{image.key: source(image.image_id, image.tags) for image in images} for source in sources]
    pairs = [(first.key, second.key) for first, second, _ in copies]
    joined = groups.join_groups(sorted(image.key for image in images), names, pairs)
    for image in images:
        image.group = joined[image.key].removeprefix("train/").removeprefix("test/")


def _add_extra_columns(images: list[ScannedImage], comp: Competition, columns: Mapping[str, Mapping[str, str]]) -> None:
    for image in images:
        image.extra = {tag: image.tags.get(tag, "") for tag in comp.extra.dicom}
        image.extra |= {name: values.get(image.image_id, "") for name, values in columns.items()}


def _test_truth(files: ImageFiles, raw: Path, comp: Competition, sizes: Size | dict[str, Size]) -> Annotations | None:
    """Return the masks of the test images, where they are known."""
    if comp.test is None or comp.test.labels is None or not files.test:
        return None
    wanted = Wanted.of(comp, test_rule(comp), complete=False)
    return read_labels(comp.test.labels, raw, files.test, sizes, files.train, wanted).masks
