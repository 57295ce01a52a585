"""`gatemask new`: from files to experiments/NAME/, which runs at once.

Everything is examined first, in one direction: names, images, labels, test images, sample, groups. Then the YAMLs are
written to a folder beside, and renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask.config import Competition, load_competition, load_ensemble, load_experiment
from gatemask.config.names import METRIC_TITLES
from gatemask.console import say, table
from gatemask.data.image_files import MASK_NAME
from gatemask.errors import GatemaskError
from gatemask.new import label_files, label_table, planning, sample, writing
from gatemask.new.decisions import Decisions, Question
from gatemask.new.files import FoundFiles, absolute, common_parent, find_images, names_below
from gatemask.new.groups import examine_groups
from gatemask.new.images import ImageFacts, examine_images, find_duplicates, neighbors_are_alike
from gatemask.new.masks import LabelFacts
from gatemask.new.naming import Known, Naming, find_naming, with_numbers
from gatemask.new.writing import Plans
from gatemask.project import competition_name_fault
from gatemask.results.new import FoundFact, NewResult

PLANS = ("quick", "good", "strong")
TOUCHING = 0.1  # share of images with touching objects from which they are split by a watershed
MANY_OBJECTS = 8  # per image, from which images probably have no upper side


@dataclass(frozen=True)
class NewOptions:
    """Options of `gatemask new`.

    Args:
        images: Folder or glob of the training images.
        labels: Table, folder or glob of the labels; None to search beside the images.
        test: Folder or glob of the test images; None for a hold-out fold.
        sample: Sample submission; None where there is none.
        groups: Table of groups; None where there is none.
        metric: Name of the metric; None to guess.
    """

    images: str
    labels: str | None = None
    test: str | None = None
    sample: Path | None = None
    groups: Path | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The files that the options name.

    Args:
        raw: Common parent of all files.
        images: Training images.
        table: The label table; None where masks are files.
        masks: Mask files; None where there is a table.
        test: Test images; None for a hold-out fold.
        sample: Sample submission; None where there is none.
        groups: Table of groups; None where there is none.
    """

    raw: Path
    images: FoundFiles
    table: Path | None
    masks: FoundFiles | None
    test: FoundFiles | None
    sample: Path | None
    groups: Path | None


def make_competition(root: Path, name: str, options: NewOptions, decisions: Decisions) -> NewResult:
    """Examine the files of a competition and write experiments/NAME/.

    Args:
        root: Folder of the project.
        name: Name of the competition.
        options: The files.
        decisions: Receives findings, and answers questions.

    Raises:
        GatemaskError: The name is taken or not allowed, the files make no sense, or a question is open.
    """
    folder = root / "experiments" / name
    _require_free(folder, name)
    inputs = _find_inputs(options)
    sections, plans = _examine(name, root, inputs, options, decisions)
    _print(decisions)
    decisions.require_answers()
    # Validated before anything is written: features that are valid but unfinished are reported afterwards.
    Competition.model_validate({"name": name, **sections})
    beside = folder.with_name(f".{name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        writing.write_competition(beside, name, sections, decisions)
        writing.write_experiments(beside, name, plans)
        _require_free(folder, name)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _load_all(folder)
    say(f"Written: {', '.join(sorted(path.name for path in folder.iterdir()))} in experiments/{name}.")
    say(f"Next: make loop COMP={name}")
    return NewResult(
        folder=f"experiments/{name}",
        findings=[FoundFact(topic=one.topic, found=one.found, why=one.why) for one in decisions.findings],
    )


def _require_free(folder: Path, name: str) -> None:
    if fault := competition_name_fault(name):
        what, _, do = fault.partition(". ")
        raise GatemaskError(f"{what}.", received=name, do=do.replace(" its folder below experiments/", "") or None)
    taken = [path.name for path in folder.parent.iterdir() if path.name.casefold() == name.casefold()]
    if taken:
        raise GatemaskError(
            f"The competition '{name}' exists already.",
            where=folder.parent / taken[0],
            do="Choose another name, or move this folder away: gatemask new never overwrites.",
        )


def _load_all(folder: Path) -> None:
    load_competition(folder)
    for path in sorted(folder.glob("*.yaml")):
        if path.name not in ("competition.yaml", "base.yaml", "ensemble.yaml"):
            load_experiment(path)
    load_ensemble(folder)


def _print(decisions: Decisions) -> None:
    table("What was found", ["", "found", "because"], [(one.topic, one.found, one.why) for one in decisions.findings])


# --- the files -------------------------------------------------------------------------------------------------


def _find_inputs(options: NewOptions) -> Inputs:
    tables = {"--sample": options.sample, "--groups": options.groups}
    paths = {option: absolute(path) for option, path in tables.items() if path is not None}
    for option, path in paths.items():
        if not path.is_file():
            raise GatemaskError(f"{option} names a file that does not exist.", where=path)
    test = find_images("--test", options.test) if options.test else None
    label_table_file, masks = _find_labels(options)
    others: list[Path] = [*(test.files if test else []), *(masks.files if masks else [])]
    images = find_images("--images", options.images, others)
    if masks is not None and masks.root == images.root and not masks.files:
        raise GatemaskError("--labels names no mask.", received=options.labels)
    given = [*images.files, *others, *paths.values(), *([label_table_file] if label_table_file else [])]
    raw = common_parent(given)
    return Inputs(raw, images, label_table_file, masks, test, paths.get("--sample"), paths.get("--groups"))


def _find_labels(options: NewOptions) -> tuple[Path | None, FoundFiles | None]:
    """Return the label table, or the mask files."""
    if options.labels is None:
        raise GatemaskError(
            "--labels is missing.",
            expected="a table of run-length encodings, or a folder or glob of mask files",
            do="Name it, such as --labels train.csv or --labels masks/.",
        )
    path = absolute(options.labels)
    if path.is_file():
        return path, None
    found = find_images("--labels", options.labels)
    if absolute(options.images) == path:  # images and masks in one folder
        masks = [
            file for file in found.files if MASK_NAME.fullmatch(file.stem) or file.parent.name in ("masks", "mask")
        ]
        if not masks:
            raise GatemaskError(
                "Images and masks in one folder cannot be told apart.",
                where=path,
                expected="masks with a name such as NAME_mask.png",
                do="Name the masks with a glob, such as --labels 'train/*_seg.png'.",
            )
        return None, FoundFiles(found.root, masks)
    return None, found


# --- what they are ---------------------------------------------------------------------------------------------


def _examine(
    name: str, root: Path, inputs: Inputs, options: NewOptions, decisions: Decisions
) -> tuple[dict[str, object], Plans]:
    raw = inputs.raw
    all_names = names_below(raw, inputs.images.files)
    masks = names_below(raw, inputs.masks.files) if inputs.masks else []
    cells = label_table.cells_of_ids(inputs.table) if inputs.table else [w for path in masks for w in path.split("/")]
    naming = find_naming(all_names, Known.of(cells), decisions)
    names = naming.images(all_names)
    facts = examine_images(raw, names, decisions)
    naming, stacked = _stack(raw, naming, names, facts, decisions)
    files = {naming.rule.of_file(path): path for path in names}
    if len(files) < len(names):
        raise GatemaskError("Several images have one id.", where=raw, received=f"{len(names)} images, {len(files)} ids")
    labels = (
        label_table.examine_table(inputs.table, raw, files, facts.sizes, naming.rule, decisions)
        if inputs.table
        else label_files.examine_files(raw, masks, naming, files, facts.sizes, decisions)
    )
    test = _examine_test(raw, inputs, naming, decisions)
    known = set(files)
    if test and inputs.test:
        known |= {test.rule.of_file(path) for path in test.images(names_below(raw, inputs.test.files))}
    submission = sample.examine_sample(inputs.sample, raw, known, naming.rule, labels, decisions)
    labels = sample.with_names_of(labels, submission, decisions)
    groups = examine_groups(inputs.groups, inputs.table, raw, files, naming, facts.kind == "DICOM", decisions)
    copies = find_duplicates(raw, names, facts, decisions)
    metric = _metric(options.metric, labels, submission, decisions)
    frames = planning.plan_frames(facts, labels)
    decisions.note("tiles" if frames.tiles else "records", _frames_text(frames), frames.why)
    decisions.note("fit", frames.fit, frames.why_fit)
    folds = planning.plan_folds(len(files), groups.count)
    decisions.note("folds", str(folds), "each of them is trained; more of them take longer")
    sections = _sections(name, root, raw, naming, stacked, test, facts, labels, submission, frames)
    sections |= {"metric": metric, "groups": {**groups.section, "duplicates": copies}}
    sections["folds"] = {"k": folds} | ({} if test else {"holdout": True})
    sections["quick"] = _quick(frames)
    sections = writing.in_order(sections)
    return sections, _plans(facts, labels, frames, folds, _channels(facts, naming, stacked))


def _frames_text(frames: planning.Frames) -> str:
    if frames.tiles:
        return f"{frames.tiles['size']} px, about {frames.per_image} per image"
    return f"whole images at {frames.records}"


def _stack(
    raw: Path, naming: Naming, names: Sequence[str], facts: ImageFacts, decisions: Decisions
) -> tuple[Naming, bool]:
    """Return a naming with numbered slices, and whether neighboring slices become channels."""
    numbered = with_numbers(naming, names)
    if facts.channels != 1 or numbered is None or not neighbors_are_alike(raw, numbered, names):
        return naming, False
    decisions.note("stack", "the slices before and after become channels", "neighboring numbers have similar images")
    return numbered, True


def _examine_test(raw: Path, inputs: Inputs, naming: Naming, decisions: Decisions) -> Naming | None:
    if inputs.test is None:
        decisions.note("test", "none", "a hold-out fold takes its place")
        return None
    names = names_below(raw, inputs.test.files)
    test = naming.elsewhere(names)
    decisions.note("test", f"{len(test.images(names))} images", f"{test.pattern}")
    return test


METRICS = {
    "mean_dice": "mean Dice of images (and classes), where an empty mask that is right counts 1",
    "object_precision": "mean precision of objects over IoU thresholds (DSB 2018, Sartorius)",
    "global_dice": "Dice of all pixels of all images together",
}


def _metric(given: str | None, labels: LabelFacts, submission: sample.SampleFacts, decisions: Decisions) -> str:
    if given is not None:
        decisions.note("metric", given, "named by --metric")
        return given
    per_object = submission.section.get("rows") == "object"
    empties = labels.positives < 0.995
    why = (
        "there is a row per object"
        if per_object
        else "some images are empty, and so is their right answer"
        if empties
        else f"{len(labels.classes)} classes, most of which are missing in some image"
        if len(labels.classes) > 1
        else "every image has a mask"
    )
    options = {**METRICS, **{name: title for name, title in METRIC_TITLES.items() if name not in METRICS}}
    guess = "object_precision" if per_object else "mean_dice"
    answer = decisions.choose(Question("metric", "Which metric does the competition use?", options, guess, why))
    return answer


def _channels(facts: ImageFacts, naming: Naming, stacked: bool) -> int:
    return 3 if stacked else facts.channels * len(naming.tails)


def _images_section(naming: Naming, stacked: bool, channels: int) -> dict[str, object]:
    patterns = naming.patterns
    images: object = naming.pattern
    if len(patterns) > 1:
        images = (
            patterns
            if channels == 1
            else {name: {"files": pattern, "channels": channels} for name, pattern in patterns.items()}
        )
    section: dict[str, object] = {"images": images}
    if stacked:
        section["stack"] = {"by": naming.number, "around": 1}
    if naming.id is not None:
        section["id"] = naming.id
    return section


def _sections(
    name: str,
    root: Path,
    raw: Path,
    naming: Naming,
    stacked: bool,
    test: Naming | None,
    facts: ImageFacts,
    labels: LabelFacts,
    submission: sample.SampleFacts,
    frames: planning.Frames,
) -> dict[str, object]:
    """Return the sections of competition.yaml that follow from the files."""
    channels = _channels(facts, naming, stacked)
    image: dict[str, object] = {"size": list(facts.size) if facts.size else "mixed", "channels": channels}
    if facts.window != "full":
        image["window"] = facts.window
    if frames.fit != "stretch":
        image["fit"] = frames.fit
    sections: dict[str, object] = {
        "title": name.replace("-", " ").capitalize(),
        "raw": os.path.relpath(raw, root),
        "image": image,
        "train": _images_section(naming, stacked, facts.channels),
        "labels": labels.section,
        "classes": labels.classes or ["object"],
        "submission": submission.section,
    }
    if test is not None:
        sections["test"] = _images_section(test, stacked, facts.channels)
    if labels.exclusive:
        sections["exclusive"] = True
    if labels.objects:
        touching = labels.touching > TOUCHING
        sections["objects"] = {"touching": "watershed", "border": True} if touching else {"touching": "components"}
    if frames.tiles:
        sections["tiles"] = frames.tiles
    # JPEG would blur small images, and cannot hold other numbers of channels.
    small = max(facts.typical) <= 256 or channels not in (1, 3) or stacked or not facts.lossy
    records: dict[str, object] = {"format": "png" if small else "jpeg"}
    if frames.records is not None:
        records["size"] = frames.records if isinstance(frames.records, int) else list(frames.records)
    sections["records"] = records
    return sections


def _quick(frames: planning.Frames) -> dict[str, object]:
    quick: dict[str, object] = {"folds": {"k": 2}}
    if frames.tiles:
        scale = float(frames.tiles.get("scale", 1.0))
        quick["tiles"] = {"size": planning.TILE // 4, "overlap": planning.OVERLAP // 4, "scale": scale / 4}
    return quick


def _plans(facts: ImageFacts, labels: LabelFacts, frames: planning.Frames, folds: int, channels: int) -> Plans:
    gated = labels.positives < 0.995 or labels.stats.class_empties > 0.01
    tasks = ["mask", "gate"] if gated else ["mask"]
    made = {
        (plan, task): planning.plan_experiment(plan, task, facts, labels, frames, folds)
        for plan in PLANS
        for task in tasks
    }
    return Plans(
        {plan: made[plan, "mask"] for plan in PLANS},
        {plan: made[plan, "gate"] for plan in PLANS} if gated else {},
        per_class=gated and len(labels.classes) > 1,
        flips=bool(frames.tiles) or labels.stats.many >= MANY_OBJECTS,
        square=all(isinstance(experiment.input, int) for experiment in made.values()),
        color=channels == 3,
        empty=1 - labels.positives,
    )
