"""`gatemask data prepare`: raw files and labels, looked at once, become the tables that every stage reads.

data/<comp>/manifest.csv     one row an image: image_id, path, split, group, label, mask_area, height, ... and `extra`
data/<comp>/masks.csv        truth of the training images, one flavour of RLE
data/<comp>/test_masks.csv   truth of the test images, where it is known
data/<comp>/duplicates.csv   copies: image_id, split, other_id, other_split, kind
data/<comp>/problems.csv     what was left out, and why
data/<comp>/manifest.json    written last; remembers the raw folder
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd

from gatemask.config import MANIFEST_COLUMNS, Competition, PngLabels
from gatemask.console import say, table
from gatemask.data import duplicates, groups
from gatemask.data.fold_files import plain_id
from gatemask.data.labels import Labels, read_labels, write_masks
from gatemask.data.readers import list_images
from gatemask.data.scan import Problems, Row, Seen, check_tags, look_at, without_image
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.data.tables import read_table
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


def prepare(
    project: Project, comp: Competition, data: Path | None = None, strict: bool = False, labels_only: bool = False
) -> dict[str, Any]:
    """Write the manifest and the masks of a competition.

    Args:
        project: where things lie.
        comp: what the raw files look like.
        data: the raw folder, if not the one in competition.yaml or the one used last time.
        strict: refuse where anything has to be left out.
        labels_only: make the manifest from the label table alone, before the images are there: enough for folds.
    """
    if len(comp.classes) > 1:
        raise GatemaskError(
            "Labels of several classes cannot be prepared for training.",
            where="competition.yaml, classes",
            received=", ".join(comp.classes),
            expected="one class; networks of several can be packaged, rehearsed and submitted",
        )
    stamp = project.data / "manifest.json"
    raw = raw_folder(project, comp, data)
    if not raw.is_dir():
        if data is None and stamp.exists() and read_json(stamp)["made_from"]["settings"] == _settings(comp):
            say(f"The raw files are not here ({raw}); the manifest made from them stands.")
            return {"current": True, **stamped_result(stamp)}
        raise GatemaskError(
            "The raw files are not there.", where=raw, do="Name their folder with --data (make: DATA=folder)."
        )
    files = [] if labels_only else _image_files(raw, comp)
    made_from = _made_from(raw, comp, [path for path, _ in files]) | {"labels_only": labels_only}
    if is_current(stamp, made_from) and not (strict and read_json(stamp)["problems"]):
        if read_json(stamp)["raw"] != str(raw):  # the same files, moved
            write_json(stamp, {**read_json(stamp), "raw": str(raw)})
        return {"current": True, **stamped_result(stamp)}
    started = time.monotonic()
    sources = groups.sources(comp.groups, raw)
    check_tags(comp)
    seen, problems = look_at(files, raw, comp)
    labels = read_labels(comp.labels, raw, _train_ids(seen, raw, comp, labels_only), comp.image.size)
    if labels_only:
        seen = [without_image(image_id, comp) for image_id in labels.masks]
    seen = _with_labels(seen, labels, comp.image.size, problems)
    seen = _with_names(seen, comp, sources, problems)
    pairs = _copies(seen, comp)
    rows = _with_groups(seen, sources, pairs)
    _add_extra(rows, seen, raw, comp)
    _report(problems, project.data / "problems.csv", strict)
    train = [row for row in rows if row["split"] == "train"]
    if not train:
        raise GatemaskError(
            "No training image is left.",
            where=raw / comp.train.images,
            received=f"{len(problems)} problems, the first: {problems[0][1] if problems else 'no label at all'}",
            expected="images with labels",
            do=f"See {project.data / 'problems.csv'}.",
        )
    truth = _test_truth(rows, raw, comp)
    stamp.unlink(missing_ok=True)  # from here on, tables of two origins may stand side by side
    outputs = _write(project, comp, rows, labels.masks, truth, pairs)
    result = {
        "images": len(train),
        "positives": sum(row["label"] for row in train),
        "test_images": len(rows) - len(train),
        "groups": len({row["group"] for row in train}),
        "duplicates": len(pairs),
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


def test_rows(project: Project, comp: Competition) -> pd.DataFrame:
    """image_id and path of what stands for the test: the manifest's test split, or the hold-out fold.

    Before there is a manifest, the test images in the raw folder.
    """
    if comp.test is not None and not (project.data / "manifest.json").exists():
        raw = raw_folder(project, comp)
        rows = [(path.stem, path.relative_to(raw).as_posix()) for path in list_images(raw, comp.test.images)]
        return pd.DataFrame(rows, columns=["image_id", "path"])
    manifest = read_manifest(project)
    test = manifest[manifest["split"] == "test"]
    if len(test):
        return test
    folds = read_folds(project)
    return manifest[manifest["image_id"].isin(folds["image_id"][folds["fold"] == HOLDOUT])]


def require_images(project: Project, comp: Competition) -> None:
    """Refuse a manifest that was made from the labels alone, or for images of another kind."""
    made_from = read_json(project.data / "manifest.json")["made_from"]
    if made_from.get("labels_only"):
        raise GatemaskError(
            "The manifest was made from the labels alone.",
            where=project.data / "manifest.csv",
            do=f"Run gatemask data prepare {project.comp} where the images are.",
        )
    if made_from.get("image") != comp.image.model_dump(mode="json"):
        raise GatemaskError(
            "The manifest was made with other settings of 'image'.",
            where=project.data / "manifest.csv",
            received=made_from.get("image"),
            expected=comp.image.model_dump(mode="json"),
            do=f"Run gatemask data prepare {project.comp}.",
        )


# --- what is there -----------------------------------------------------------------------------------------


def _image_files(raw: Path, comp: Competition) -> list[tuple[Path, str]]:
    files = [(path, "train") for path in list_images(raw, comp.train.images)]
    if comp.test is not None:
        files += [(path, "test") for path in list_images(raw, comp.test.images)]
    if not files:
        raise GatemaskError(
            "No image was found.",
            where=raw,
            expected=comp.train.images,
            do="Correct train.images, or --data; without images, --labels-only is enough for folds.",
        )
    return files


def _made_from(raw: Path, comp: Competition, images: list[Path]) -> dict[str, Any]:
    sources = (comp.labels, comp.test and comp.test.labels, comp.groups, comp.extra)
    tables = [raw / name for source in sources if (name := getattr(source, "file", None))]
    existing = [path for path in tables if path.exists()]
    drawn = [source for source in sources if isinstance(source, PngLabels)]
    masks = [path for source in drawn for path in list_images(raw, source.masks.format(id="*"))]
    files = listing_fingerprint([*images, *existing, *masks], raw)
    return {"settings": _settings(comp), "image": comp.image.model_dump(mode="json"), "files": files}


def _settings(comp: Competition) -> str:
    return fingerprint(comp.model_dump(include={"image", "train", "test", "labels", "classes", "groups", "extra"}))


def _train_ids(seen: list[Seen], raw: Path, comp: Competition, labels_only: bool) -> list[str]:
    if not labels_only:
        return [one.row["image_id"] for one in seen if one.row["split"] == "train"]
    if comp.labels.missing == "empty":
        raise GatemaskError(
            "--labels-only cannot know the images that have no label.",
            received="labels.missing: empty",
            do="Run it where the images are.",
        )
    if isinstance(comp.labels, PngLabels):
        before, after = comp.labels.masks.split("{id}")
        if "*" in before + after:
            raise GatemaskError("--labels-only needs a table, or one mask an image.", received=comp.labels.masks)
        paths = list_images(raw, f"{before}*{after}")
        return [p.relative_to(raw).as_posix()[len(before) :].removesuffix(after) for p in paths]
    return []


# --- what it means -----------------------------------------------------------------------------------------


def _with_labels(seen: list[Seen], labels: Labels, size: tuple[int, int], problems: Problems) -> list[Seen]:
    """Fill in label and area; report images without a label and labels without an image."""
    kept, known = [], set()
    refused = {image_id for image_id, _, _ in labels.problems}
    problems += [(place, f"{complaint} (image {image_id})") for image_id, place, complaint in labels.problems]
    for one in seen:
        image_id = one.row["image_id"]
        if one.row["split"] == "train":
            known.add(image_id)
            if image_id not in labels.masks:
                if image_id not in refused:
                    problems.append((one.row["path"], "The image has no label."))
                continue
            _, lengths = rle.parse(labels.masks[image_id], size, rle.INTERNAL)
            one.row.update(mask_area=int(lengths.sum()), label=int(len(lengths) > 0))
        kept.append(one)
    problems += [(name, "The label has no image.") for name in labels.masks if name not in known]
    return kept


def _copies(seen: list[Seen], comp: Competition) -> list[tuple[Row, Row, str]]:
    """Pairs of copies, within and between the splits."""
    if comp.groups.duplicates == "ignore":
        return []
    near = comp.groups.duplicates == "near"
    found, sure = duplicates.find([one.row["sha256"] for one in seen], [one.look for one in seen], near)
    keys = [f"{one.row['split']}/{one.row['image_id']}" for one in seen]
    alike = [(keys[pair.one], keys[pair.other]) for pair in found if pair.kind == "near"]
    if not sure or not groups.credible(alike, len(seen)):
        say(
            "So many pairs look like near copies that these images must be too alike to tell: only byte-identical ones "
            "count (groups.duplicates: exact says so for good)."
        )
        found = [pair for pair in found if pair.kind == "exact"]
    return [(seen[pair.one].row, seen[pair.other].row, pair.kind) for pair in found]


def _with_names(seen: list[Seen], comp: Competition, sources: list[groups.Source], problems: Problems) -> list[Seen]:
    """Leave out training images that a source should name, but none does."""
    kept = []
    for one in seen:
        must = bool(sources) and not comp.groups.optional and one.row["split"] == "train"
        if must and not any(source(one.row["image_id"], one.tags) for source in sources):
            problems.append((one.row["path"] or one.row["image_id"], "The image has no group."))
        else:
            kept.append(one)
    return kept


def _with_groups(seen: list[Seen], sources: list[groups.Source], pairs: list[tuple[Row, Row, str]]) -> list[Row]:
    """Name every image's group."""
    named = [{_key(one.row): source(one.row["image_id"], one.tags) for one in seen} for source in sources]
    copies = [(_key(one), _key(other)) for one, other, _ in pairs]
    joined = groups.join(sorted(_key(one.row) for one in seen), named, copies)
    for one in seen:
        one.row["group"] = joined[_key(one.row)].removeprefix("train/").removeprefix("test/")
    return [one.row for one in seen]


def _key(row: Row) -> str:
    """An id may come twice, in training and in test."""
    return f"{row['split']}/{row['image_id']}"


def _add_extra(rows: list[Row], seen: list[Seen], raw: Path, comp: Competition) -> None:
    tags = {_key(one.row): one.tags for one in seen}
    named: dict[str, dict[str, str]] = {}
    if comp.extra.file:
        file = read_table(raw / comp.extra.file, [comp.extra.id, *comp.extra.columns])
        ids = [plain_id(name) for name in file.column(comp.extra.id)]
        named = {name: dict(zip(ids, file.column(name), strict=True)) for name in comp.extra.columns}
    for row in rows:
        row.update({tag: tags[_key(row)].get(tag, "") for tag in comp.extra.dicom})
        row.update({name: values.get(row["image_id"], "") for name, values in named.items()})


# --- what is written ---------------------------------------------------------------------------------------


def _report(problems: Problems, path: Path, strict: bool) -> None:
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


def _test_truth(rows: list[Row], raw: Path, comp: Competition) -> dict[str, str] | None:
    """Masks of the test images, where they are known."""
    ids = [row["image_id"] for row in rows if row["split"] == "test"]
    if comp.test is None or comp.test.labels is None or not ids:
        return None
    return read_labels(comp.test.labels, raw, ids, comp.image.size).masks


def _write(
    project: Project,
    comp: Competition,
    rows: list[Row],
    masks: dict[str, str],
    truth: dict[str, str] | None,
    pairs: list[tuple[Row, Row, str]],
) -> list[Path]:
    columns = [*MANIFEST_COLUMNS, *comp.extra.names]
    frame = pd.DataFrame(rows, columns=columns).sort_values(["split", "image_id"], ascending=[False, True])
    known = set(frame["image_id"][frame["split"] == "train"])
    copies = [(a["image_id"], a["split"], b["image_id"], b["split"], kind) for a, b, kind in pairs]
    copied = pd.DataFrame(sorted(copies), columns=["image_id", "split", "other_id", "other_split", "kind"])
    folder = project.data
    outputs = [
        write_text(folder / "manifest.csv", frame.to_csv(index=False, lineterminator="\n")),
        write_text(folder / "duplicates.csv", copied.to_csv(index=False, lineterminator="\n")),
        write_masks(folder / "masks.csv", {n: t for n, t in masks.items() if n in known}, comp.classes[0]),
    ]
    (folder / "test_masks.csv").unlink(missing_ok=True)
    if truth is not None:
        outputs.append(write_masks(folder / "test_masks.csv", truth, comp.classes[0]))
    return outputs
