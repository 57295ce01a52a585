"""`gatemask data labels`: report the contents of a label table, and guess the RLE dialect it is written in.

The guess is made once and written into competition.yaml; from then on the YAML is trusted.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from gatemask.config import Rle, load_competition
from gatemask.console import progress, say, table
from gatemask.data import rle_dialect, rle_size
from gatemask.data.annotations import union_area
from gatemask.data.ids import DEFAULT
from gatemask.data.joins import IdList, join_ids
from gatemask.data.label_table import Known, LabelTable, ids_of_images, read_label_table
from gatemask.data.rle_dialect import RUNS
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.masks import rle
from gatemask.project import Project
from gatemask.results.data import BadRow, GuessedDialect, ImageSize, LabelCounts, LabelReport, LabelYaml
from gatemask.yaml12 import dump_yaml


def inspect_labels(
    file: Path, size: tuple[int, int] | None = None, images: str | None = None, known: Known | None = None
) -> LabelReport:
    """Inspect a label table and guess its dialect.

    Args:
        file: Path of the CSV.
        size: Height and width of the images, in pixels. Default: guessed.
        images: Glob of images below the table's folder, which settle size and order.
        known: Everything that is known, in place of size and images. Default: nothing else.

    Raises:
        GatemaskError: The table does not exist, has no column of run-length encodings, has several columns that could
            hold them or the ids, or has masks of several classes although one is wanted.
    """
    known = known or Known(size=size, images=images)
    labels = read_label_table(file, known)
    ids = [DEFAULT.of_cell(name) for name in labels.ids]
    masked = {i: t for i, t in zip(ids, labels.texts, strict=True) if RUNS.fullmatch(t) and t != labels.marker}
    size = known.size
    if known.images:
        _join_images(file, known.images, ids)
        size = size or rle_dialect.first_image_size(file.parent, known.images)
    encodings = [text for text in labels.texts if RUNS.fullmatch(text) and text != labels.marker]
    if size is None and known.declared is not None:
        size = _require_fit(encodings, known.declared, file)
    guess = rle_dialect.guess_dialect(encodings, labels.marker, size)
    if known.images:
        guess = rle_dialect.guess_order_from_images(guess, file.parent, known.images, masked)
    columns, image = labels.columns, {"image": ImageSize(size=guess.size)} if guess.size else {}
    mask = {} if "columns" in labels.found.keys else {"mask": columns.mask}
    section = labels.found.section({"file": file.name, "id": columns.id, **mask}).model_copy(update={"rle": guess.rle})
    if known.where:
        section = section.model_copy(update={"where": dict(known.where)})
    return LabelReport(
        file=str(file),
        header=labels.header,
        columns=columns,
        **dict(_count(labels, guess)),
        guess=GuessedDialect(**guess.rle.model_dump(), size=guess.size),
        because={**labels.because, **guess.because},
        ignored=labels.ignored,
        classes=_masks_by_class(labels),
        yaml=LabelYaml(**({"classes": labels.found.classes} if labels.found.classes else {}), labels=section, **image),
    )


def _masks_by_class(labels: LabelTable) -> dict[str, int]:
    masked = zip(labels.names, labels.texts, strict=True)
    counts = Counter(name for name, text in masked if RUNS.fullmatch(text) and text != labels.marker)
    return {name: counts[name] for name in labels.found.classes}


def _join_images(file: Path, images: str, ids: list[str]) -> None:
    """Reject images of another data set: their edges would say nothing about the masks."""
    if found := ids_of_images(file, images):
        do = "Correct --images: files need the names of the ids."
        join_ids(IdList("images", found, images), IdList(f"ids of {file.name}", ids, file), do, strict=False).report()


def _require_fit(encodings: list[str], size: tuple[int, int], file: Path) -> tuple[int, int]:
    """Return a size that the masks do not contradict."""
    offsets, _ = rle_dialect.guess_offsets([rle_dialect.parse_pairs(text) for text in encodings])
    runs = rle_dialect.plausible_runs(encodings, offsets)
    if runs and (reason := rle_size.contradicts(runs, size)):
        raise GatemaskError(
            "The table belongs to images of another size.",
            where=file,
            received=reason,
            expected=f"image.size {list(size)} of competition.yaml",
            do="Correct image.size, or name the size of the masks with --size.",
        )
    return size


def mask_areas(file: Path) -> dict[str, int]:
    """Return the area of each image's united mask of all classes, in pixels, 0 for an empty one, from any table."""
    labels = read_label_table(file, classes_apart=False)
    encodings = [text for text in labels.texts if RUNS.fullmatch(text)]
    offsets, _ = rle_dialect.guess_offsets([rle_dialect.parse_pairs(text) for text in encodings])
    runs: dict[str, list[np.ndarray]] = {image_id: [] for image_id in labels.ids}
    for image_id, text in zip(labels.ids, labels.texts, strict=True):
        if text != labels.marker and RUNS.fullmatch(text):
            pairs = rle_dialect.parse_pairs(text)
            runs[image_id].append(rle_dialect.as_absolute(pairs) if offsets == "relative" else pairs)
    return {image_id: union_area(annotations) for image_id, annotations in runs.items()}


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width from a text such as "1024x1024"."""
    match = re.fullmatch(r"([0-9]{1,7})\s*[xX,]\s*([0-9]{1,7})", text.strip())
    if match is None or "0" in match.groups():
        raise GatemaskError("--size needs height and width.", received=text, expected="such as 1024x1024")
    return int(match.group(1)), int(match.group(2))


def parse_where(options: list[str]) -> dict[str, str]:
    """Return values by column from texts such as "ClassId=3"."""
    pairs = [option.partition("=") for option in options]
    if wrong := [option for option, (name, sign, _) in zip(options, pairs, strict=True) if not (name and sign)]:
        raise GatemaskError("--where needs a column and a value.", received=wrong[0], expected="such as ClassId=3")
    return {name.strip(): value.strip() for name, _, value in pairs}


def with_declared(known: Known, project: Project) -> Known:
    """Add what competition.yaml says about the size, and about the class if there is only one."""
    comp = load_competition(project.experiments)
    size = None if comp.image.size == "mixed" else comp.image.size
    return known._replace(declared=size, class_name=comp.classes[0] if len(comp.classes) == 1 else "")


def write_labels_section(project: Project, report: LabelReport) -> Path:
    """Write the guess into competition.yaml: replace the section `labels`, check `image.size`.

    Nothing is written unless the file is valid afterwards.

    Raises:
        GatemaskError: The image size differs, or the file would become invalid.
    """
    path = project.experiments / "competition.yaml"
    comp, text = load_competition(project.experiments), path.read_text(encoding="utf-8")
    size = report.guess.size
    found = list(report.classes)
    if found and (unknown := [name for name in comp.classes if name not in found]):
        raise GatemaskError(
            "The table has other classes.",
            where=path,
            received=f"classes: {', '.join(comp.classes)}, of which '{unknown[0]}' is not in the table",
            expected=", ".join(found),
            do="Correct 'classes', and how submissions name them: submission.class_column, joined or columns.",
        )
    if size and comp.image.size != "mixed" and size != comp.image.size:
        raise GatemaskError(
            "The table belongs to images of another size.",
            where=path,
            received=f"image.size {list(comp.image.size)}",
            expected=list(size),
            do="Correct image.size, or name the size of the masks with --size.",
        )
    labels = report.yaml.labels.model_dump(mode="json", exclude_unset=True)
    if comp.labels.missing == "empty":
        labels["missing"] = "empty"
    section = dump_yaml({"labels": labels}, flow_style=None)
    changed = _replace_section(text, "labels", section, path)
    trial = path.with_name(".tmp-competition.yaml")
    write_text(trial, changed)
    try:
        load_competition(project.experiments, file=trial.name)
    finally:
        trial.unlink()
    return write_text(path, changed)


def _replace_section(text: str, key: str, section: str, path: Path) -> str:
    """Replace a top-level section of a YAML, up to its last indented line; comments below belong to the next one."""
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line.startswith(f"{key}:")]
    if len(starts) != 1:
        raise GatemaskError(f"The file must have exactly one section '{key}:'.", where=path, received=f"{len(starts)}")
    end = start = starts[0]
    for number in range(start + 1, len(lines)):
        if lines[number].startswith((" ", "\t")) and lines[number].strip():
            end = number
        elif lines[number].strip() and not lines[number].startswith("#"):
            break
    return "".join([*lines[:start], section, *lines[end + 1 :]])


def print_label_report(report: LabelReport) -> None:
    """Print a report for people."""
    counts = [(name, getattr(report, name)) for name in LabelCounts.model_fields if name != "bad"]
    table(report.file, ["", "count"], counts)
    table(
        "the dialect, as guessed",
        ["", "guess", "because"],
        [(name, str(getattr(report.guess, name, "")), reason) for name, reason in report.because.items()],
    )
    if report.classes:
        say(f"masks by class: {', '.join(f'{name} {count}' for name, count in report.classes.items())}")
    for name, reason in report.ignored.items():
        say(f"column {name!r} is ignored: {reason}")
    for bad in report.bad:
        say(f"row {bad.row}, image {bad.image_id}: {bad.problem}")
    say("For competition.yaml (or --write COMP):\n")
    sections = report.yaml.model_dump(mode="json", exclude_unset=True)
    say(dump_yaml(sections, flow_style=None))


def _count(labels: LabelTable, guess: rle_dialect.DialectGuess) -> LabelCounts:
    """Count rows, images and annotations under the guessed dialect; list malformed rows."""
    encodings = [text for text in labels.texts if RUNS.fullmatch(text)]
    # Where no size was found, count with one that holds every run.
    size = guess.size or (1, max((_last_pixel(text, guess.rle) for text in encodings), default=1))
    runs: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}  # by image and class
    empty: set[tuple[str, str]] = set()
    bad: list[BadRow] = []
    cells = list(zip(labels.ids, labels.names, labels.texts, strict=True))
    for number, (image_id, name, text) in enumerate(progress(cells, "reading")):
        if rle.is_empty(text, guess.rle):
            empty.add((image_id, name))
            continue
        line = labels.lines[number]
        try:
            annotation = rle.parse(text, size, guess.rle, f"{labels.table.file}, row {line}")
            runs.setdefault((image_id, name), []).append(annotation)
        except GatemaskError as error:
            problem = f"{error.what} {error.details['received']}"
            bad.append(BadRow(row=line, image_id=image_id, problem=problem))
    several = [annotations for annotations in runs.values() if len(annotations) > 1]
    return LabelCounts(
        rows=len(set(labels.lines)),
        images=len(set(labels.ids)),
        positives=len({image_id for image_id, _ in runs}),
        annotations=sum(map(len, runs.values())),
        multi_annotated=len(several),
        overlapping=sum(map(_overlap, several)),
        duplicates=len(cells) - len(set(cells)),
        contradictory=len({image_id for image_id, _ in empty & set(runs)}),
        bad_rows=len(bad),
        bad=bad[:20],
    )


def _overlap(annotations: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether several annotations of one image share a pixel."""
    starts = np.concatenate([starts for starts, _ in annotations])
    ends = starts + np.concatenate([lengths for _, lengths in annotations])
    order = np.argsort(starts, kind="stable")
    return bool((starts[order][1:] < ends[order][:-1]).any())


def _last_pixel(text: str, dialect: Rle) -> int:
    pairs = rle_dialect.parse_pairs(text)
    return int(pairs.sum()) if dialect.offsets == "relative" else int(pairs.sum(axis=1).max())
