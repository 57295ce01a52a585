"""`gatemask data prepare`: raw files and labels, looked at once, become the tables that every stage reads.

data/<comp>/manifest.csv     one row an image: image_id, path, split, group, label, mask_area, height, ...
data/<comp>/masks.csv        truth of the training images, one flavour of RLE
data/<comp>/test_masks.csv   truth of the test images, where it is known
data/<comp>/problems.csv     what was left out, and why
data/<comp>/manifest.json    written last; remembers the raw folder
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from gatemask.config.schema import Competition, Groups, PngLabels
from gatemask.console import progress, say, table
from gatemask.data.labels import read_labels, read_table, write_masks
from gatemask.data.readers import list_images, perceptual_hash, read_image, read_tag
from gatemask.errors import GatemaskError
from gatemask.files import (
    fingerprint,
    is_current,
    listing_fingerprint,
    read_json,
    stamped_result,
    write_json,
    write_stamp,
    write_text,
)
from gatemask.masks import rle
from gatemask.project import Project

COLUMNS = ["image_id", "path", "split", "group", "label", "mask_area", "height", "width", "sha256", "phash"]


def prepare(project: Project, comp: Competition, data: Path | None = None, strict: bool = False) -> dict[str, Any]:
    """Write the manifest and the masks of a competition.

    Args:
        project: where things lie.
        comp: what the raw files look like.
        data: the raw folder, if not the one in competition.yaml or the one used last time.
        strict: refuse where any file has to be left out.
    """
    stamp = project.data / "manifest.json"
    raw = raw_folder(project, comp, data)
    if not raw.is_dir():
        if data is None and stamp.exists() and read_json(stamp)["made_from"]["settings"] == _settings(comp):
            say(f"The raw files are not here ({raw}); the manifest made from them stands.")
            return {"current": True, **stamped_result(stamp)}
        raise GatemaskError(
            "The raw files are not there.", where=raw, do="Name their folder with --data (make: DATA=folder)."
        )
    files = _image_files(raw, comp)
    made_from = _made_from(raw, comp, [path for path, _ in files])
    if is_current(stamp, made_from) and not (strict and read_json(stamp)["problems"]):
        if read_json(stamp)["raw"] != str(raw):  # the same files, moved
            write_json(stamp, {**read_json(stamp), "raw": str(raw)})
        return {"current": True, **stamped_result(stamp)}
    started = time.monotonic()
    rows, problems = _look_at(files, raw, comp)
    masks = read_labels(comp.labels, raw, [r["image_id"] for r in rows if r["split"] == "train"], comp.image.size)
    rows, missing = _with_labels(rows, masks, comp.image.size)
    problems += missing
    _report(problems, project.data / "problems.csv", strict)
    if not any(row["split"] == "train" for row in rows):
        raise GatemaskError(
            "No training image is left.",
            where=raw / comp.train.images,
            received=f"{len(problems)} problems",
            expected="images with labels",
            do=f"See {project.data / 'problems.csv'}.",
        )
    outputs = _write(project, comp, raw, rows, masks)
    train = [row for row in rows if row["split"] == "train"]
    result = {
        "images": len(train),
        "positives": sum(row["label"] for row in train),
        "test_images": len(rows) - len(train),
        "groups": len({row["group"] for row in train}),
        "problems": len(problems),
        "raw": str(raw),
    }
    return write_stamp(stamp, made_from, result, outputs, started)


def raw_folder(project: Project, comp: Competition, data: Path | None = None) -> Path:
    """The raw folder: the one named now, else the one named last time, else competition.yaml's."""
    stamp = project.data / "manifest.json"
    if data is not None:
        return data.resolve()
    if stamp.exists():
        return Path(read_json(stamp)["raw"])
    return default_raw(project, comp)


def default_raw(project: Project, comp: Competition) -> Path:
    """What competition.yaml says, with `{data}` filled in."""
    return project.root / comp.raw.replace("{data}", project.data.relative_to(project.root).as_posix())


def read_manifest(project: Project, split: str | None = None) -> pd.DataFrame:
    """manifest.csv, whole or one split of it."""
    path = project.data / "manifest.csv"
    if not (project.data / "manifest.json").exists():
        raise GatemaskError("There is no manifest yet.", where=path, do=f"Run gatemask data prepare {project.comp}.")
    text = {"image_id": str, "group": str, "phash": str, "sha256": str}
    frame = pd.read_csv(path, dtype=text, keep_default_na=False)
    return frame if split is None else frame[frame["split"] == split].reset_index(drop=True)


def _image_files(raw: Path, comp: Competition) -> list[tuple[Path, str]]:
    files = [(path, "train") for path in list_images(raw, comp.train.images)]
    if comp.test is not None:
        files += [(path, "test") for path in list_images(raw, comp.test.images)]
    if not files:
        raise GatemaskError("No image was found.", where=raw, expected=comp.train.images)
    return files


def _made_from(raw: Path, comp: Competition, images: list[Path]) -> dict[str, Any]:
    sources = (comp.labels, comp.test and comp.test.labels, comp.groups)
    tables = [raw / name for source in sources if (name := getattr(source, "file", None))]
    existing = [path for path in tables if path.exists()]
    drawn = [source for source in sources if isinstance(source, PngLabels)]
    masks = [path for source in drawn for path in raw.glob(source.masks.format(id="*"))]
    return {"settings": _settings(comp), "files": listing_fingerprint([*images, *existing, *masks], raw)}


def _settings(comp: Competition) -> str:
    return fingerprint(comp.model_dump(include={"image", "train", "test", "labels", "classes", "groups"}))


def _look_at(
    files: list[tuple[Path, str]], raw: Path, comp: Competition
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Open every image once; a bad one becomes a problem and never ends the run."""
    group_of = _grouping(comp.groups, raw)

    def look(item: tuple[Path, str]) -> dict[str, Any] | GatemaskError:
        path, split = item
        try:
            image = read_image(path, comp.image.channels)
            if image.shape[:2] != tuple(comp.image.size):
                raise GatemaskError("An image has the wrong size.", where=path, received=image.shape[:2])
            group = group_of(path)
            if not group.strip():
                raise GatemaskError("An image's group is blank.", where=path)
            return {
                "image_id": path.stem,
                "path": path.relative_to(raw).as_posix(),
                "split": split,
                "group": group,
                "label": 0,
                "mask_area": 0,
                "height": image.shape[0],
                "width": image.shape[1],
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "phash": perceptual_hash(image),
            }
        except GatemaskError as error:
            return error

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    problems: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        for (path, split), found in zip(files, progress(pool.map(look, files), "looking", len(files)), strict=True):
            name = path.relative_to(raw).as_posix()
            if isinstance(found, GatemaskError):
                received = found.details["received"]
                problems.append((name, found.what if received is None else f"{found.what} {received}"))
            elif (split, path.stem) in rows:
                problems.append((name, f"A second file has the id {path.stem}."))
            else:
                rows[split, path.stem] = found
    return list(rows.values()), problems


def _grouping(groups: Groups | None, raw: Path) -> Callable[[Path], str]:
    """A function from an image's path to the name of its group; without groups, each image is its own."""
    if groups is None:
        return lambda path: path.stem
    if groups.dicom is not None:
        tag = groups.dicom
        return lambda path: read_tag(path, tag)[: groups.prefix]
    if groups.regex is not None:
        try:
            pattern = re.compile(groups.regex)
        except re.error as error:
            raise GatemaskError(
                "The pattern of the groups is no regular expression.",
                where="groups.regex",
                received=f"{groups.regex}: {error}",
            ) from None

        def by_pattern(path: Path) -> str:
            match = pattern.search(path.stem)
            if match is None or not match.groups():
                raise GatemaskError("The group's pattern does not match.", where=path, expected=pattern.pattern)
            return match.group(1)

        return by_pattern
    frame = read_table(raw / str(groups.file), [groups.id, groups.column])
    named = dict(zip(frame[groups.id], frame[groups.column], strict=True))

    def by_table(path: Path) -> str:
        if path.stem not in named:
            raise GatemaskError("An image has no group.", where=path, expected=f"a row in {groups.file}")
        return named[path.stem][: groups.prefix]

    return by_table


def _with_labels(
    rows: list[dict[str, Any]], masks: dict[str, str], size: tuple[int, int]
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Fill in label and area; report images without a label and labels without an image."""
    kept, problems, seen = [], [], set()
    for row in rows:
        if row["split"] == "train":
            seen.add(row["image_id"])
            if row["image_id"] not in masks:
                problems.append((row["path"], "The image has no label."))
                continue
            _, lengths = rle.parse(masks[row["image_id"]], size, rle.INTERNAL)
            row["mask_area"] = int(lengths.sum())
            row["label"] = int(row["mask_area"] > 0)
        kept.append(row)
    problems += [(name, "The label has no image.") for name in masks if name not in seen]
    return kept, problems


def _report(problems: list[tuple[str, str]], path: Path, strict: bool) -> None:
    frame = pd.DataFrame(problems, columns=["file", "problem"])
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))
    if not problems:
        return
    table(f"{len(problems)} left out", ["file", "problem"], problems[:10])
    say(f"All of them: {path}")
    if strict:
        raise GatemaskError(
            "Some files cannot be used.", where=path, received=len(problems), do="Mend them, or drop --strict."
        )


def _write(
    project: Project, comp: Competition, raw: Path, rows: list[dict[str, Any]], masks: dict[str, str]
) -> list[Path]:
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values(["split", "image_id"], ascending=[False, True])
    known = set(frame["image_id"][frame["split"] == "train"])
    folder = project.data
    outputs = [
        write_text(folder / "manifest.csv", frame.to_csv(index=False, lineterminator="\n")),
        write_masks(folder / "masks.csv", {n: t for n, t in masks.items() if n in known}, comp.classes[0]),
    ]
    (folder / "test_masks.csv").unlink(missing_ok=True)
    if comp.test is not None and comp.test.labels is not None:
        ids = list(frame["image_id"][frame["split"] == "test"])
        truth = read_labels(comp.test.labels, raw, ids, comp.image.size)
        outputs.append(write_masks(folder / "test_masks.csv", truth, comp.classes[0]))
    return outputs
