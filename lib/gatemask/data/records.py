"""`gatemask records`: images and masks at training size as TFRecords, the same for every split.

data/<comp>/records-<px>/00000.tfrec ...   image_id, image (JPEG or PNG), mask (PNG, 0 or 255), label
data/<comp>/records-<px>/index.json        written last: counts, hashes, the settings that made them
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pandas as pd

from gatemask import quiet
from gatemask.config.schema import Competition
from gatemask.console import progress
from gatemask.data.labels import Masks
from gatemask.data.manifest import raw_folder, read_manifest
from gatemask.data.readers import read_image, resize_image, resize_mask
from gatemask.errors import GatemaskError
from gatemask.files import is_current, read_json, sha256, stamped_result, write_stamp, write_with
from gatemask.project import Project


class Example(NamedTuple):
    """One image as it lies in a record: still encoded."""

    image_id: str
    image: bytes
    mask: bytes
    label: int


def make(project: Project, comp: Competition) -> dict[str, Any]:
    """Write the records of all training images, hold-out included: folds are chosen when records are read."""
    folder = project.records(comp.records.size)
    stamp, inputs = folder / "index.json", _made_from(project, comp)
    manifest = read_manifest(project, "train")
    if is_current(stamp, inputs):
        return {"current": True, **stamped_result(stamp)}
    started = time.monotonic()
    stamp.unlink(missing_ok=True)
    for old in folder.glob("*.tfrec"):
        old.unlink()
    shards = [
        _write_shard(folder / f"{number:05d}.tfrec", part)
        for number, part in enumerate(_batches(project, comp, manifest))
    ]
    result = {
        "count": len(manifest),
        "positives": int(manifest["label"].sum()),
        "size": comp.records.size,
        "bytes": sum(shard.stat().st_size for shard in shards),
    }
    return write_stamp(stamp, inputs, result, shards, started)


def require_current(project: Project, comp: Competition) -> dict[str, str]:
    """Hashes of the shards, or an error where records are missing or older than manifest or masks."""
    stamp = project.records(comp.records.size) / "index.json"
    do = f"Run gatemask records {project.comp}."
    if not stamp.exists():
        raise GatemaskError("There are no finished records.", where=stamp.parent, do=do)
    index = read_json(stamp)
    if index["made_from"] != _made_from(project, comp):
        raise GatemaskError("The records were made from another manifest or other settings.", where=stamp, do=do)
    return index["outputs"]


def _made_from(project: Project, comp: Competition) -> dict[str, Any]:
    if not (project.data / "manifest.json").exists():
        raise GatemaskError(
            "There is no manifest yet.", where=project.data, do=f"Run gatemask data prepare {project.comp}."
        )
    tables = [project.data / "manifest.csv", project.data / "masks.csv"]
    settings = comp.records.model_dump() | {"channels": comp.image.channels}
    return {"settings": settings, **{path.name: sha256(path) for path in tables}}


def _batches(project: Project, comp: Competition, manifest: pd.DataFrame) -> Iterator[list[Example]]:
    """Encoded examples, a shard at a time; OpenCV and the JPEG decoder let threads run side by side."""
    raw, masks = raw_folder(project, comp), Masks(project.data / "masks.csv", comp.image.size)
    suffix, options = (
        (".png", []) if comp.records.format == "png" else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, comp.records.quality])
    )

    def encode(row: Any) -> Example:
        image = resize_image(read_image(raw / row.path, comp.image.channels), comp.records.size)
        if comp.image.channels == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        mask = resize_mask(masks[row.image_id], comp.records.size) * 255
        return Example(
            row.image_id,
            cv2.imencode(suffix, image, options)[1].tobytes(),
            cv2.imencode(".png", mask)[1].tobytes(),
            int(row.label),
        )

    with ThreadPoolExecutor() as pool:
        part: list[Example] = []
        for example in progress(pool.map(encode, manifest.itertuples()), "records", len(manifest)):
            part.append(example)
            if len(part) == comp.records.per_shard:
                yield part
                part = []
        if part:
            yield part


def _write_shard(path: Path, examples: list[Example]) -> Path:
    tf = quiet.tensorflow()

    def feature(value: bytes | int) -> Any:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def write(tmp: Path) -> None:
        with tf.io.TFRecordWriter(str(tmp)) as writer:
            for one in examples:
                features = {
                    "image_id": feature(one.image_id.encode()),
                    "image": feature(one.image),
                    "mask": feature(one.mask),
                    "label": feature(one.label),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString(deterministic=True))

    return write_with(path, write)


def read(folder: Path, ids: list[str]) -> list[Example]:
    """The examples of `ids`, in that order, still encoded; anything else is passed over undecoded.

    Raises:
        GatemaskError: no records, or an id that they do not hold.
    """
    tf = quiet.tensorflow()

    index = folder / "index.json"
    if not index.exists():
        raise GatemaskError("There are no finished records.", where=folder, do="Run gatemask records.")
    wanted, found = set(ids), {}
    for shard in read_json(index)["outputs"]:
        for raw in tf.data.TFRecordDataset(str(folder / shard)).as_numpy_iterator():
            features = tf.train.Example.FromString(raw).features.feature
            name = features["image_id"].bytes_list.value[0].decode()
            if name in wanted:
                image, mask = features["image"].bytes_list.value[0], features["mask"].bytes_list.value[0]
                found[name] = Example(name, image, mask, features["label"].int64_list.value[0])
    if lacking := [name for name in ids if name not in found]:
        raise GatemaskError(
            "The records lack images that the folds name.",
            where=folder,
            received=f"{len(lacking)}, such as {lacking[0]}",
            do="Run gatemask records again: folds and records come from different manifests.",
        )
    return [found[name] for name in ids]
