"""`gatemask data labels`: what a label table holds, and the flavour of RLE that it is written in.

The guess is made once and written into competition.yaml; from then on the YAML is believed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gatemask.config import Rle
from gatemask.console import progress, say, table
from gatemask.data import rle_dialect
from gatemask.data.rle_dialect import RUNS
from gatemask.data.tables import Table, read_table
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.masks import rle
from gatemask.project import Project


def inspect_labels(file: Path, size: tuple[int, int] | None = None, images: str | None = None) -> dict[str, Any]:
    """Look through a label table and guess its flavour.

    Args:
        file: the CSV.
        size: height and width, where they are known.
        images: a glob below the table's folder, which settles size and order.

    Returns:
        Counts (rows, images, positives, annotations, multi_annotated, overlapping, duplicates, contradictory,
        bad_rows), the guess with its reasons, and `yaml`: the section for competition.yaml.

    Raises:
        GatemaskError: no table, or no column with run-length encodings in it.
    """
    labelled, id_column, mask_column, header = _read(file)
    ids, texts = labelled.column(id_column), labelled.column(mask_column)
    marker = _empty_marker(texts)
    masked = {i: text for i, text in zip(ids, texts, strict=True) if RUNS.fullmatch(text) and text != marker}
    if images:
        size = size or rle_dialect.image_size(file.parent, images)
    guess = rle_dialect.guess([t for t in texts if RUNS.fullmatch(t) and t != marker], marker, size)
    if images:
        guess = rle_dialect.ask_images(guess, file.parent, images, masked)
    counts = _count(labelled, ids, texts, guess)
    chosen = {**guess.rle.model_dump(), "size": list(guess.size) if guess.size else None}
    columns: dict[str, Any] = {"id": id_column, "mask": mask_column}
    section = {"format": "rle", "file": file.name, **columns, "rle": guess.rle.model_dump()}
    return {
        "file": str(file),
        "header": header,
        "columns": columns,
        **counts,
        "guess": chosen,
        "because": guess.because,
        "yaml": {"labels": section, **({"image": {"size": chosen["size"]}} if guess.size else {})},
    }


def mask_areas(file: Path) -> dict[str, int]:
    """Image id -> pixels of its united mask, 0 for an empty one, of any label table."""
    labelled, id_column, mask_column, _ = _read(file)
    ids, texts = labelled.column(id_column), labelled.column(mask_column)
    marker = _empty_marker(texts)
    offsets, _ = rle_dialect.offsets_of([rle_dialect.pairs_of(text) for text in texts if RUNS.fullmatch(text)])
    runs: dict[str, list[np.ndarray]] = {image_id: [] for image_id in ids}
    for image_id, text in zip(ids, texts, strict=True):
        if text != marker and RUNS.fullmatch(text):
            pairs = rle_dialect.pairs_of(text)
            runs[image_id].append(rle_dialect.as_absolute(pairs) if offsets == "relative" else pairs)
    return {image_id: _united_area(found) for image_id, found in runs.items()}


def _united_area(found: list[np.ndarray]) -> int:
    """Pixels in any of the runs, whoever drew them."""
    if not found:
        return 0
    joined = np.concatenate(found)
    joined = joined[np.argsort(joined[:, 0], kind="stable")]
    ends = np.maximum.accumulate(joined.sum(axis=1))
    begins = np.maximum(joined[1:, 0], ends[:-1])
    return int(joined[0, 1] + np.maximum(joined[1:].sum(axis=1) - begins, 0).sum())


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "1024x1024"."""
    match = re.fullmatch(r"(\d+)\s*[xX,]\s*(\d+)", text.strip())
    if match is None or "0" in match.groups():
        raise GatemaskError("--size needs height and width.", received=text, expected="such as 1024x1024")
    return int(match.group(1)), int(match.group(2))


def write_labels_section(project: Project, found: dict[str, Any]) -> Path:
    """Put the guess into competition.yaml: `labels:` is replaced whole, `image: size` is held against it.

    Nothing is written unless the file is valid afterwards.
    """
    from gatemask.config import load_competition

    path = project.experiments / "competition.yaml"
    comp, text = load_competition(project.experiments), path.read_text(encoding="utf-8")
    size = found["guess"]["size"]
    if size and tuple(size) != tuple(comp.image.size):
        raise GatemaskError(
            "The table is of images of another size.",
            where=path,
            received=f"image.size {list(comp.image.size)}",
            expected=size,
            do="Correct image.size, or name the size of the masks with --size.",
        )
    labels = {**found["yaml"]["labels"], **({"missing": "empty"} if comp.labels.missing == "empty" else {})}
    section = yaml.safe_dump({"labels": labels}, sort_keys=False, default_flow_style=None, width=110)
    changed = _with_section(text, "labels", section, path)
    trial = path.with_name(".tmp-competition.yaml")
    write_text(trial, changed)
    try:
        load_competition(project.experiments, file=trial.name)
    finally:
        trial.unlink()
    return write_text(path, changed)


def _with_section(text: str, key: str, section: str, path: Path) -> str:
    """A YAML with one top-level section replaced, up to its last indented line; comments below belong to the next."""
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line.startswith(f"{key}:")]
    if len(starts) != 1:
        raise GatemaskError(f"There is not one section '{key}:' to replace.", where=path, received=f"{len(starts)}")
    end = start = starts[0]
    for number in range(start + 1, len(lines)):
        if lines[number].startswith((" ", "\t")) and lines[number].strip():
            end = number
        elif lines[number].strip() and not lines[number].startswith("#"):
            break
    return "".join([*lines[:start], section, *lines[end + 1 :]])


def print_label_report(found: dict[str, Any]) -> None:
    """The findings for people."""
    counted = [name for name, value in found.items() if isinstance(value, int) and name != "header"]
    table(found["file"], ["", "count"], [(name, found[name]) for name in counted])
    guess = found["guess"]
    table(
        "the flavour, as guessed",
        ["", "guess", "because"],
        [(name, str(guess[name]), why) for name, why in found["because"].items()],
    )
    for bad in found["bad"]:
        say(f"row {bad['row']}, image {bad['image_id']}: {bad['problem']}")
    say("For competition.yaml (or --write COMP):\n")
    say(yaml.safe_dump(found["yaml"], sort_keys=False, default_flow_style=None, width=110))


# --- the table ---------------------------------------------------------------------------------------------


def _read(file: Path) -> tuple[Table, str | int, str | int, bool]:
    """The table, and which of its columns hold ids and encodings; a first row that is data means no header."""
    table = read_table(file, header=False)
    shares = [_share_of_encodings(table.column(number)) for number in range(len(table.header))]
    if max(shares) == 0:
        raise GatemaskError(
            "No column holds run-length encodings.",
            where=file,
            received=", ".join(table.rows[0])[:120],
            expected="a column of 'start length start length ...'",
        )
    mask = int(np.argmax(shares))
    ids = next((number for number in range(len(shares)) if number != mask), mask)
    if ids == mask:
        raise GatemaskError("The table has no column of image ids.", where=file, expected="ids and encodings")
    header = not (RUNS.fullmatch(table.rows[0][mask]) or table.rows[0][mask] in ("", "-1"))
    if not header:
        return table, ids, mask, False
    table = read_table(file)
    return table, table.header[ids], table.header[mask], True


def _share_of_encodings(cells: Sequence[str]) -> float:
    return sum(bool(RUNS.fullmatch(cell)) for cell in cells) / max(1, len(cells))


def _empty_marker(texts: Iterable[str]) -> str:
    """The word for "no mask": a cell without runs, or with runs of no pixels, that is seen most often."""
    counted = Counter(text for text in texts if not RUNS.fullmatch(text) or set(text.split()[1::2]) == {"0"})
    # A single cell with blanks in it is a malformed encoding, not a word.
    words = [(count, text) for text, count in counted.items() if " " not in text or count > 1]
    return max(words)[1] if words else ""


def _count(table: Table, ids: list[str], texts: list[str], guess: rle_dialect.Guess) -> dict[str, Any]:
    """Rows, images and annotations as the guess reads them; malformed rows by line and complaint."""
    # Where no size was found, one that holds every run does for counting.
    size = guess.size or (1, max((_last_pixel(t, guess.rle) for t in texts if RUNS.fullmatch(t)), default=1))
    runs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    empty, seen, bad, duplicates = set(), set(), [], 0
    for row, (image_id, text) in enumerate(progress(list(zip(ids, texts, strict=True)), "reading")):
        duplicates += (image_id, text) in seen
        seen.add((image_id, text))
        if rle.is_empty(text, guess.rle):
            empty.add(image_id)
            continue
        try:
            found = rle.parse(text, size, guess.rle, table.where(row))
            runs.setdefault(image_id, []).append(found)
        except GatemaskError as error:
            bad.append((table.lines[row], image_id, f"{error.what} {error.details['received']}"))
    several = {name: found for name, found in runs.items() if len(found) > 1}
    return {
        "rows": len(ids),
        "images": len(set(ids)),
        "positives": len(runs),
        "annotations": sum(map(len, runs.values())),
        "multi_annotated": len(several),
        "overlapping": sum(_overlap(found) for found in several.values()),
        "duplicates": duplicates,
        "contradictory": len(empty & set(runs)),
        "bad_rows": len(bad),
        "bad": [{"row": line, "image_id": image_id, "problem": problem} for line, image_id, problem in bad[:20]],
    }


def _overlap(found: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether runs of several annotations of one image share a pixel."""
    starts = np.concatenate([starts for starts, _ in found])
    ends = starts + np.concatenate([lengths for _, lengths in found])
    order = np.argsort(starts, kind="stable")
    return bool((starts[order][1:] < ends[order][:-1]).any())


def _last_pixel(text: str, guessed: Rle) -> int:
    pairs = rle_dialect.pairs_of(text)
    return int(pairs.sum()) if guessed.offsets == "relative" else int(pairs.sum(axis=1).max())
