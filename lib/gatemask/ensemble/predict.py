"""Gate-first prediction: from test images to submission.csv with the members of an ensemble.yaml.

The gates see every image; the mask networks see only those whose averaged gate probability passes the rule.
No approximation: an image below the gate is empty whatever its map says. This module is what the offline
kernel runs, so it needs nothing that Kaggle's image does not have.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gatemask import quiet
from gatemask.config.schema import Augment, Model, Rle, View
from gatemask.console import progress, say
from gatemask.data.readers import Window, list_images, read_image, resize_image
from gatemask.errors import GatemaskError
from gatemask.files import read_yaml, write_text
from gatemask.masks import rle
from gatemask.masks import rule as rules

BATCH = 16


@dataclass
class Member:
    """One set of weights with what it takes to run it; `share` is its part in the average.

    `view_weights` are those of the image as it is and of the views in `tta`, where they are not equal.
    """

    name: str
    weights: Path
    share: float
    config: Model
    size: int
    records: int
    tta: list[View]
    augment: list[Augment]
    view_weights: list[float] | None = None


def submit(ensemble: Path, weights: Path, competition: Path, output: Path) -> dict[str, Any]:
    """Predict a test set and write the submission.

    Args:
        ensemble: ensemble.yaml, as `gatemask ensemble` wrote it.
        weights: folder of the members' `<name>.weights.h5`.
        competition: folder with the test images, and the sample submission where there is one.
        output: submission.csv.

    Returns:
        images, passed (the gate), empty, unreadable, seconds.
    """
    started = time.monotonic()
    chosen = read_yaml(ensemble)
    facts, rule = chosen["competition"], rules.Rule(**chosen["rule"])
    files = {path.stem: path for path in list_images(competition, facts["test_images"])}
    ids = sample_ids(competition, facts["submission"]) or sorted(files)
    channels, unreadable = facts["image"]["channels"], set[str]()
    images = _Images(files, channels, facts["image"]["window"], unreadable)
    gates = _predict_gates(_members(chosen["gate"], weights), ids, images, channels)
    passed = [i for i in ids if gates[i] >= rule.gate and i not in unreadable]
    say(f"gate: {len(passed)} of {len(ids)} images pass")
    flavour, size = Rle(**facts["submission"]["rle"]), tuple(facts["image"]["size"])
    texts = dict.fromkeys(ids, flavour.empty)
    members = _members(chosen["mask"], weights)
    for image_id, small in _predict_maps(members, passed, images, channels, len(facts["classes"]), output.parent):
        mask = rules.apply(rule, gates[image_id], rules.enlarge(small, size)[:, :, 0])
        texts[image_id] = rle.encode(mask, flavour)
    write_submission(output, ids, texts, facts["submission"])
    empty = sum(text == flavour.empty for text in texts.values())
    return {
        "images": len(ids),
        "passed": len(passed),
        "empty": empty,
        "unreadable": sorted(unreadable),
        "seconds": round(time.monotonic() - started, 1),
    }


def find_competition(mounted: Path, dataset: Path) -> Path:
    """The folder below /kaggle/input with the test images; Kaggle's layouts differ in depth, so look for them."""
    facts = read_yaml(dataset / "ensemble.yaml")["competition"]
    sample = facts["submission"]["sample"]
    for depth in range(1, 5):
        for folder in sorted(mounted.glob("/".join(["*"] * depth))):
            if not folder.is_dir() or dataset in (folder, *folder.parents):
                continue
            # A sample says for certain where the root is; a pattern such as **/*.png would fit above it too.
            if (folder / sample).is_file() if sample else any(list_images(folder, facts["test_images"])):
                return folder
    raise GatemaskError(
        "No test images were found.",
        where=mounted,
        expected=sample or facts["test_images"],
        do="Attach the competition as a source of the kernel.",
    )


def sample_ids(competition: Path, submission: dict[str, Any]) -> list[str]:
    """The ids of the sample submission, each once, in its order; nothing where the competition has none."""
    name = submission["sample"]
    if not name:
        return []
    if not (competition / name).exists():
        raise GatemaskError("The sample submission is not there.", where=competition, expected=name)
    with (competition / name).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    if rows and submission["id"] not in rows[0]:
        raise GatemaskError(
            "The sample submission lacks the id column.",
            where=competition / name,
            received=", ".join(rows[0]),
            expected=submission["id"],
        )
    return list(dict.fromkeys(row[submission["id"]].strip() for row in rows))


def write_submission(path: Path, ids: Sequence[str], texts: dict[str, str], submission: dict[str, Any]) -> None:
    """One row an id, in order, with the competition's own header."""
    header = f"{submission['id']},{submission['mask']}"
    write_text(path, "\n".join([header, *(f"{i},{texts[i]}" for i in ids)]) + "\n")


class _Images:
    """Test images as batches at a member's size; one that cannot be read is grey, and remembered."""

    def __init__(self, files: dict[str, Path], channels: int, window: Window, unreadable: set[str]) -> None:
        self._files, self._channels = files, channels
        self._window: Window = window if isinstance(window, str) else (window[0], window[1])  # YAML has no tuples
        self._unreadable = unreadable

    def load(self, image_id: str, size: int, records: int) -> np.ndarray:
        try:
            if image_id not in self._files:
                raise GatemaskError("A test image is missing.", received=image_id)
            image = read_image(self._files[image_id], self._channels, self._window)
        except GatemaskError as error:
            if image_id not in self._unreadable:
                say(f"{error}\n  its mask stays empty")
            self._unreadable.add(image_id)
            return np.full((size, size, self._channels), 128, np.uint8)
        # By way of the records' size, since that is how training saw its images.
        return resize_image(resize_image(image, records), size)

    def batches(self, ids: Sequence[str], member: Member) -> Iterator[tuple[list[str], np.ndarray]]:
        """(ids, uint8 (BATCH, size, size, channels)); the last one padded, for shapes must be static."""
        size = member.size
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(ids), BATCH):
                part = list(ids[start : start + BATCH])
                images = np.zeros((BATCH, size, size, self._channels), np.uint8)
                for index, image in enumerate(pool.map(lambda i: self.load(i, size, member.records), part)):
                    images[index] = image
                yield part, images


def _members(listed: list[dict[str, Any]], weights: Path) -> list[Member]:
    members = []
    for one in listed:
        config = Model(**{**one["model"], "weights": "none"})
        tta, augment = [View(**view) for view in one["tta"]], [Augment(**step) for step in one.get("augment", [])]
        path = weights / f"{one['name']}.weights.h5"
        share = float(one.get("weight", 1.0))
        seen = (tta, augment, one.get("view_weights"))
        members.append(Member(one["name"], path, share, config, one["size"], one["records"], *seen))
    return members


def _models(members: list[Member], channels: int, classes: int) -> Iterator[tuple[Member, Any]]:
    """Each member's model in turn; members that differ only in their weights share one, and its trace."""
    quiet.tensorflow()
    from gatemask.builders import models

    model: Any = None
    built_for = None
    for member in members:
        wanted = (member.config, member.size)
        if wanted != built_for:
            model = models.build(member.config, member.size, channels, classes, seed=None).predict
            built_for = wanted
        model.load_weights(member.weights)
        yield member, model


def _predict_gates(members: list[Member], ids: Sequence[str], images: _Images, channels: int) -> dict[str, float]:
    from gatemask.builders.predict import predict, views

    total = dict.fromkeys(ids, 0.0)
    # In parts of the largest: equal shares are ones then, and their sum is as exact as a plain one.
    largest = max(member.share for member in members)
    for member, model in _models(members, channels, 1):
        seen = views(member.tta, member.augment, member.size)
        batches = progress(images.batches(ids, member), member.name, -(-len(ids) // BATCH))
        for part, batch in batches:
            for image_id, value in zip(part, predict(model, batch, seen)[:, 0], strict=False):
                # Rounded as the out-of-fold file keeps it.
                total[image_id] += member.share / largest * round(float(value), 6)
    parts = sum(member.share / largest for member in members)
    return {image_id: value / parts for image_id, value in total.items()}


def _predict_maps(
    members: list[Member], ids: Sequence[str], images: _Images, channels: int, classes: int, scratch: Path
) -> Iterable[tuple[str, np.ndarray]]:
    """Averaged maps, uint8 (s, s, classes), of the images that passed. Members' maps wait on disk, not in memory."""
    import h5py

    from gatemask.builders.predict import as_uint8, predict, views

    if not ids:
        return
    store, shares = scratch / "maps.tmp.h5", [member.share for member in members]
    with h5py.File(store, "w") as file:
        for member, model in _models(members, channels, classes):
            shape = (member.size, member.size, classes)
            maps = file.create_dataset(member.name, (len(ids), *shape), np.uint8, chunks=(1, *shape))
            at, seen = 0, views(member.tta, member.augment, member.size, member.view_weights)
            for part, batch in progress(images.batches(ids, member), member.name, -(-len(ids) // BATCH)):
                maps[at : at + len(part)] = as_uint8(predict(model, batch, seen)[: len(part)])
                at += len(part)
        for index, image_id in enumerate(ids):
            yield image_id, rules.average_maps([file[member.name][index] for member in members], shares)
    store.unlink()
