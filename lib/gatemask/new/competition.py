"""`gatemask new`: from files to experiments/NAME/, which runs at once.

Everything is examined first, in one direction: names, images, labels, test images, sample, groups. Then the YAMLs are
written to a folder beside, and renamed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from gatemask.config import Competition, load_competition, load_ensemble, load_experiment
from gatemask.config.names import METRIC_TITLES
from gatemask.config.schema import schema_files
from gatemask.console import say, table
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.new import label_files, label_table, planning, sample, table_layout, writing
from gatemask.new.decisions import Decisions, Question
from gatemask.new.files import matched_besides, names_below
from gatemask.new.groups import examine_groups
from gatemask.new.identity import find_naming
from gatemask.new.images import ImageFacts, examine_images, find_duplicates, neighbors_are_alike, read_sizes
from gatemask.new.inputs import Inputs, NewOptions, find_inputs
from gatemask.new.masks import LabelFacts
from gatemask.new.naming import Known, Naming, with_numbers
from gatemask.new.sections import Found, competition_sections, plan_experiments, quick_section
from gatemask.new.writing import Plans
from gatemask.project import DOCUMENTS, QUICK, competition_name_fault
from gatemask.results.new import FoundFact, NewResult


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
    _require_name_on_kaggle(options.competition)
    inputs = find_inputs(options, decisions)
    sections, plans = _examine(name, root, inputs, options, decisions)
    _print(decisions)
    decisions.require_answers()
    _validate({"name": name, **sections})
    beside = folder.with_name(f".{name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        writing.write_competition(beside, name, sections, decisions)
        writing.write_experiments(beside, name, plans)
        _require_free(folder, name)
        beside.rename(folder)
        for path, text in schema_files(folder.parent).items():
            write_text(path, text)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _load_all(folder)
    say(f"Written: {', '.join(sorted(path.name for path in folder.iterdir()))} in experiments/{name}.")
    say(f"Next: make loop COMP={name}")
    return NewResult(
        folder=f"experiments/{name}",
        findings=[FoundFact(topic=one.topic, found=one.found, why=one.why) for one in decisions.findings],
    )


def _validate(values: dict[str, object]) -> None:
    """Raise if what was found contradicts itself; nothing is written then."""
    try:
        Competition.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise GatemaskError(
            "What was found makes no valid competition.yaml.",
            received=f"{place}: {first['msg']}" if place else first["msg"],
            do="Correct the options of gatemask new, or copy a folder in experiments/ and write the file by hand.",
        ) from None


def _require_free(folder: Path, name: str) -> None:
    if fault := competition_name_fault(name):
        reason = fault.partition(". ")[0]
        example = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removesuffix(QUICK) or "my-competition"
        raise GatemaskError(f"{reason}.", do=f"Choose another name, such as {example}.")
    taken = [path.name for path in folder.parent.iterdir() if path.name.casefold() == name.casefold()]
    if taken:
        raise GatemaskError(
            f"The competition '{name}' exists already.",
            where=folder.parent / taken[0],
            do="Choose another name, or move this folder away: gatemask new never overwrites.",
        )


def _require_name_on_kaggle(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise GatemaskError(
            "--competition takes the competition's name on Kaggle.",
            received=name,
            expected="NAME of https://www.kaggle.com/competitions/NAME",
        )


def _load_all(folder: Path) -> None:
    load_competition(folder)
    for path in sorted(folder.glob("*.yaml")):
        if path.name not in DOCUMENTS:
            load_experiment(path)
    load_ensemble(folder)


def _print(decisions: Decisions) -> None:
    table("What was found", ["", "found", "because"], [(one.topic, one.found, one.why) for one in decisions.findings])


def _examine(
    name: str, root: Path, inputs: Inputs, options: NewOptions, decisions: Decisions
) -> tuple[dict[str, object], Plans]:
    raw = inputs.raw
    all_names = names_below(raw, inputs.images.files)
    masks = names_below(raw, inputs.masks.files) if inputs.masks else []
    cells = table_layout.cells_of_ids(inputs.table) if inputs.table else [w for path in masks for w in path.split("/")]
    naming = _as_narrow(find_naming(all_names, Known.of(cells), decisions), inputs)
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
    test, facts = _examine_test(raw, inputs, naming, facts, decisions)
    known = set(files)
    if test and inputs.test and inputs.test.files:
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
    found = Found(raw, naming, stacked, test, facts, labels, submission, frames)
    sections = competition_sections(name, root, found)
    if options.competition:
        sections["kaggle"] = {"competition": options.competition}
    sections |= {"metric": metric, "groups": {**groups.section, "duplicates": copies}}
    sections["folds"] = {"k": folds} | ({} if test else {"holdout": True})
    sections["quick"] = quick_section(frames)
    sections = writing.in_order(sections)
    return sections, plan_experiments(facts, labels, frames, folds)


def _as_narrow(naming: Naming, inputs: Inputs) -> Naming:
    """Return a naming whose pattern matches no more files than --images does."""
    others = [files for part in (inputs.masks, inputs.test) if part is not None for files in part.files]
    more = matched_besides(inputs.raw, naming.pattern, [*inputs.images.files, *others])
    if not more:
        return naming
    if "{" not in naming.pattern and inputs.images.pattern:
        root = inputs.images.root.relative_to(inputs.raw).as_posix()
        return Naming("", {"": f"{root}/{inputs.images.pattern}".removeprefix("./")})
    raise GatemaskError(
        "No pattern matches the training images only.",
        where=inputs.raw,
        received=f"{naming.pattern}, which also matches {len(more)} other files, such as {more[0]}",
        expected="images in folders of their own",
        do="Move the other files, or name a glob that fits images only.",
    )


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


def _examine_test(
    raw: Path, inputs: Inputs, naming: Naming, facts: ImageFacts, decisions: Decisions
) -> tuple[Naming | None, ImageFacts]:
    """Return how test files become images, and the facts about images with the sizes of the test images."""
    if inputs.test is None:
        decisions.note("test", "none", "a hold-out fold takes its place")
        return None, facts
    if not inputs.test.files:
        roots = [part.root.relative_to(raw).as_posix() for part in (inputs.images, inputs.test)]
        test = naming.below(*roots)
        decisions.note("test", "hidden", f"the folder is empty; {test.pattern} is expected there, as in training")
        return test, facts
    names = names_below(raw, inputs.test.files)
    test = naming.elsewhere(names)
    images = test.images(names)
    decisions.note("test", f"{len(images)} images", f"{test.pattern}")
    sizes, _ = read_sizes(raw, images)
    if facts.size is not None and set(sizes.values()) - {facts.size}:
        other = next(size for size in sizes.values() if size != facts.size)
        decisions.note("size", "mixed, because of the test images", f"some of them have {other[0]} x {other[1]}")
        facts = replace(facts, sizes={**facts.sizes, **sizes})
    return test, facts


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
