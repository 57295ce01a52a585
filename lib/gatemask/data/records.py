"""`gatemask records make | check`: images and masks at training size as TFRecords, the same for every split.

data/<comp>/records-<px>/00000.tfrec ...   image_id, image (JPEG or PNG), mask (PNG, 0 or 255), label
data/<comp>/records-<px>/making.json       while they are made: from what; finished shards are kept on that ground
data/<comp>/records-<px>/index.json        written last: counts, hashes, the settings that made them
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gatemask import quiet
from gatemask.config import Competition
from gatemask.console import progress, say
from gatemask.data.encode import Example, Part, Raw, pieces, write_parts
from gatemask.data.labels import Masks
from gatemask.data.manifest import raw_folder, require_images
from gatemask.data.split import read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import (
    fresh_folder,
    is_current,
    locked,
    read_json,
    sha256,
    stamped_result,
    write_json,
    write_stamp,
    write_with,
)
from gatemask.project import Project


def make_records(project: Project, comp: Competition) -> dict[str, Any]:
    """Write the records of all training images, hold-out included: folds are chosen when records are read.

    Shard by shard: one that was finished before a kill is not made again.
    """
    folder = project.records(comp.records.size)
    stamp, inputs = folder / "index.json", _made_from(project, comp)
    if is_current(stamp, inputs):
        return {"current": True, **stamped_result(stamp)}
    started = time.monotonic()
    with locked(project.data / f".records-{comp.records.size}.lock", "Another process makes these records."):
        return _make(project, comp, started)


def _make(project: Project, comp: Competition, started: float) -> dict[str, Any]:
    folder = project.records(comp.records.size)
    stamp, inputs = folder / "index.json", _made_from(project, comp)
    if is_current(stamp, inputs):  # since another process made them just now
        return {"current": True, **stamped_result(stamp)}
    raws = _raws(project, comp)
    step = comp.records.per_shard
    parts = [raws[at : at + step] for at in range(0, len(raws), step)]
    shards = [folder / f"{number:05d}.tfrec" for number in range(len(parts))]
    _keep_finished(folder, inputs)
    todo = [(shard, part) for shard, part in zip(shards, parts, strict=True) if not shard.exists()]
    if len(todo) < len(parts):
        say(f"{len(parts) - len(todo)} of {len(parts)} shards were finished before.")
    hashes = {shard: sha256(shard) for shard in shards if shard.exists()} | _make_shards(todo, folder / "parts", comp)
    result = {
        "count": len(raws),
        "positives": sum(raw.label for raw in raws),
        "size": comp.records.size,
        "bytes": sum(shard.stat().st_size for shard in shards),
        "shards": len(shards),
    }
    written = write_stamp(stamp, inputs, result, {shard: hashes[shard] for shard in shards}, started)
    (folder / "making.json").unlink(missing_ok=True)
    return written


def check_records(project: Project, comp: Competition) -> dict[str, Any]:
    """Read every record again: hashes, checksums, ids, labels, and that images and masks decode to their size.

    Raises:
        GatemaskError: there are none, they are not current, or any of them is damaged.
    """
    hashes = require_records(project, comp)
    folder, started = project.records(comp.records.size), time.monotonic()
    labels = dict(read_manifest(project, "train")[["image_id", "label"]].itertuples(index=False))
    seen: set[str] = set()
    problems: list[str] = []
    vanished = 0
    for name, digest in progress(list(hashes.items()), "checking"):
        if not (folder / name).exists() or sha256(folder / name) != digest:
            problems.append(f"{name}: not the file that was written")
            continue
        for example in _examples(folder / name):
            if complaint := _complaint(example, comp, labels):
                problems.append(f"{name}, image {example.image_id}: {complaint}")
            elif example.image_id in seen:
                problems.append(f"{name}, image {example.image_id}: twice")
            elif example.label and not _decoded(example.mask).any():
                vanished += 1
            seen.add(example.image_id)
    if not problems and len(seen) < len(labels):
        problems.append(f"{len(labels) - len(seen)} images of the manifest have no record")
    if problems:
        raise GatemaskError(
            "Some records are damaged.",
            where=folder,
            received=f"{len(problems)} problems: " + "; ".join(problems[:5]),
            do=f"Run gatemask records make {project.comp}: what is damaged is made again.",
        )
    if vanished:
        say(f"{vanished} masks vanish at {comp.records.size} px; their images still count as positive.")
    seconds = round(time.monotonic() - started, 2)
    return {"checked": len(seen), "shards": len(hashes), "vanished_masks": vanished, "seconds": seconds}


def require_records(project: Project, comp: Competition) -> dict[str, str]:
    """Hashes of the shards, or an error where records are missing or older than manifest or masks."""
    stamp = project.records(comp.records.size) / "index.json"
    do = f"Run gatemask records make {project.comp}."
    if not stamp.exists():
        raise GatemaskError("There are no finished records.", where=stamp.parent, do=do)
    index = read_json(stamp)
    if index["made_from"] != _made_from(project, comp):
        raise GatemaskError("The records were made from another manifest or other settings.", where=stamp, do=do)
    return index["outputs"]


def read_records(folder: Path, ids: list[str]) -> list[Example]:
    """The examples of `ids`, in that order, still encoded; anything else is passed over undecoded.

    Raises:
        GatemaskError: no records, or an id that they do not hold.
    """
    index = folder / "index.json"
    if not index.exists():
        raise GatemaskError("There are no finished records.", where=folder, do="Run gatemask records make.")
    wanted, found = set(ids), {}
    for shard in read_json(index)["outputs"]:
        found.update({one.image_id: one for one in _examples(folder / shard) if one.image_id in wanted})
    if lacking := [name for name in ids if name not in found]:
        raise GatemaskError(
            "The records lack images that the folds name.",
            where=folder,
            received=f"{len(lacking)}, such as {lacking[0]}",
            do="Run gatemask records make again: folds and records come from different manifests.",
        )
    return [found[name] for name in ids]


def _made_from(project: Project, comp: Competition) -> dict[str, Any]:
    if not (project.data / "manifest.json").exists():
        raise GatemaskError(
            "There is no manifest yet.", where=project.data, do=f"Run gatemask data prepare {project.comp}."
        )
    tables = [project.data / "manifest.csv", project.data / "masks.csv"]
    image = comp.image.model_dump(mode="json")
    return {"settings": comp.records.model_dump(), "image": image, **{path.name: sha256(path) for path in tables}}


def _raws(project: Project, comp: Competition) -> list[Raw]:
    require_images(project, comp)
    folder, masks = raw_folder(project, comp), Masks(project.data / "masks.csv", comp.image.size)
    rows = read_manifest(project, "train").itertuples()
    return [Raw(row.image_id, folder / row.path, masks.text(row.image_id), int(row.label)) for row in rows]


def _keep_finished(folder: Path, inputs: dict[str, Any]) -> None:
    """Leave the shards that the same inputs made, whole; take all others away."""
    stamp, making = folder / "index.json", folder / "making.json"
    hashes: dict[str, str] | None = None
    if stamp.exists() and read_json(stamp)["made_from"] == inputs:
        hashes = read_json(stamp)["outputs"]
    same = hashes is not None or (making.exists() and read_json(making) == inputs)
    for shard in folder.glob("*.tfrec"):
        # A shard takes its name only when it is complete, so where no hash is known yet, to be there is enough.
        if not same or (hashes is not None and sha256(shard) != hashes.get(shard.name)):
            shard.unlink()
    write_json(making, inputs)
    stamp.unlink(missing_ok=True)


def _make_shards(todo: list[tuple[Path, list[Raw]]], scratch: Path, comp: Competition) -> dict[Path, str]:
    """Each shard from its pieces, as soon as they are there; returns the hashes."""
    chunks = [pieces(part) for _, part in todo]
    flat = [chunk for of_shard in chunks for chunk in of_shard]
    written = write_parts(flat, fresh_folder(scratch), comp.image, comp.records)
    done = progress(written, "records", sum(map(len, flat)), size=lambda part: part.images)
    hashes = {}
    try:
        for (shard, _), of_shard in zip(todo, chunks, strict=True):
            _join(shard, islice(done, len(of_shard)))
            hashes[shard] = sha256(shard)  # here, while the processes go on, and not all in the end
    finally:
        written.close()  # and with it the processes
        shutil.rmtree(scratch)
    return hashes


def _join(shard: Path, parts: Iterator[Part]) -> Path:
    """A TFRecord file has neither head nor tail, so that pieces of it make a whole one by standing in a row."""

    def write(tmp: Path) -> None:
        with tmp.open("wb") as whole:
            for part in parts:
                with part.path.open("rb") as piece:
                    shutil.copyfileobj(piece, whole, 1 << 20)
                part.path.unlink()

    return write_with(shard, write)


def _examples(shard: Path) -> Iterator[Example]:
    tf = quiet.tensorflow()
    for raw in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        features = tf.train.Example.FromString(raw).features.feature
        image, mask = features["image"].bytes_list.value[0], features["mask"].bytes_list.value[0]
        image_id = features["image_id"].bytes_list.value[0].decode()
        yield Example(image_id, image, mask, features["label"].int64_list.value[0])


def _complaint(example: Example, comp: Competition, labels: dict[str, int]) -> str | None:
    size, channels = comp.records.size, comp.image.channels
    if example.image_id not in labels:
        return "not in the manifest"
    if example.label != labels[example.image_id]:
        return f"label {example.label}, where the manifest says {labels[example.image_id]}"
    image, mask = _decoded(example.image), _decoded(example.mask)
    shape = (size, size) if channels == 1 else (size, size, channels)
    if image is None or image.shape != shape:
        return f"an image of shape {getattr(image, 'shape', None)}, not {shape}"
    if mask is None or mask.shape != (size, size):
        return f"a mask of shape {getattr(mask, 'shape', None)}, not {(size, size)}"
    return None


def _decoded(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
