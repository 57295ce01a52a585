"""Labels that networks gave to images, one set per fold, written as records of a source.

    data/<comp>/sources/<name>/images/                     the images: manifest, copies, records without masks
    data/<comp>/sources/<name>/fold<k>/records-<px>/       images with the labels of fold k's networks
    data/<comp>/sources/<name>/fold<k>/.../images.csv      image_id, label, confidence, kept
    data/<comp>/sources/<name>/pseudo.json                 written last; without it, the source does not exist

A label of set k comes from networks that never saw the validation images of fold k, and only fold k reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from gatemask.config import Competition
from gatemask.data import tfrecord
from gatemask.data.encode import stack_planes
from gatemask.data.example import EncodedExample
from gatemask.files import sha256, write_text, write_with

STAMP = "pseudo.json"
IMAGES = "images"  # folder of the images without labels
HALF = 0.5  # probability from which a gate, or a pixel, counts as positive


class Labeled(NamedTuple):
    """An image with the label that networks gave it.

    Args:
        example: The image, whose own mask is ignored.
        planes: Probabilities of the planes, float32 (height, width, planes); None for labels of gates alone.
        label: Sum of 2 ** c over the classes c that are present.
        confidence: How sure the networks are, in [0, 1].
    """

    example: EncodedExample
    planes: np.ndarray | None
    label: int
    confidence: float


def label_image(example: EncodedExample, maps: np.ndarray | None, gates: np.ndarray | None, classes: int) -> Labeled:
    """Return an image with its label.

    Where gates say that a class is absent, its map is emptied: mask networks that were trained on positives alone find
    something in every image.

    Args:
        example: The image.
        maps: Average map of the mask networks, float32 (height, width, outputs), 0 to 1; None without any.
        gates: Average probability of the gates, float32 (1,) or (classes,); None without any.
        classes: Number of classes; further outputs are borders.
    """
    sure: list[float] = []
    absent: np.ndarray = np.zeros(classes, bool)
    if gates is not None:
        every = np.broadcast_to(gates, (classes,))
        absent = np.less(every, HALF)
        sure += np.maximum(gates, 1 - gates).tolist()
    if maps is None:
        return Labeled(example, None, _bits(absent, present=False), min(sure))
    maps = maps.copy()
    maps[:, :, :classes][:, :, absent] = 0
    if absent.all():
        maps[:] = 0
    sure += [map_confidence(maps[:, :, index]) for index in np.flatnonzero(~absent)]
    present = np.asarray((maps[:, :, :classes] >= HALF).any(axis=(0, 1)))
    return Labeled(example, maps, _bits(present), min(sure))


def map_confidence(probabilities: np.ndarray) -> float:
    """Return how sure a map is: its soft Dice with itself, cut at 0.5; of an empty mask, 1 - the largest probability.

    Args:
        probabilities: float32 (height, width), 0 to 1.

    >>> map_confidence(np.array([[1.0, 0.0]])), map_confidence(np.array([[0.6, 0.4]])), map_confidence(np.zeros((1, 2)))
    (1.0, 0.6, 1.0)
    """
    mask = probabilities >= HALF
    if not mask.any():
        return float(1 - probabilities.max())
    return float(2 * probabilities[mask].sum() / (probabilities.sum() + mask.sum()))


def _bits(flags: np.ndarray, present: bool = True) -> int:
    """Return the sum of 2 ** c over the classes c whose flag is `present`."""
    return sum(1 << number for number, flag in enumerate(flags.tolist()) if flag is present)


def write_label_set(
    folder: Path, labeled: Iterable[Labeled], comp: Competition, confidence: float, soft: bool
) -> tuple[pd.DataFrame, dict[Path, str]]:
    """Write the records of a set of labels.

    Args:
        folder: Folder of the records.
        labeled: Images with their labels, all tiles of an image together.
        comp: competition.yaml.
        confidence: Images whose labels are less sure are left out.
        soft: Whether masks hold probabilities instead of 0 and 1.

    Returns:
        One row per image or tile, and the hash of each file.
    """
    rows: list[tuple[str, int, float, int]] = []

    def kept() -> Iterator[tfrecord.Features]:
        for one in labeled:
            is_kept = one.confidence >= confidence
            rows.append((one.example.image_id, one.label, round(one.confidence, 4), int(is_kept)))
            if is_kept:
                yield _features(one, comp, soft)

    for old in folder.glob("*.tfrec"):
        old.unlink()
    hashes: dict[Path, str] = {}
    for number, some in enumerate(_chunks(kept(), comp.records.per_shard)):
        shard = write_with(folder / f"{number:05d}.tfrec", partial(tfrecord.write, examples=some))
        hashes[shard] = sha256(shard)
    frame = pd.DataFrame(rows, columns=["image_id", "label", "confidence", "kept"])
    table = write_text(folder / "images.csv", frame.to_csv(index=False, lineterminator="\n"))
    return frame, {**hashes, table: sha256(table)}


def _features(labeled: Labeled, comp: Competition, soft: bool) -> tfrecord.Features:
    height, width = comp.records.shape
    planes = np.zeros((height, width, comp.planes), np.uint8)
    if labeled.planes is not None:
        levels = labeled.planes if soft else labeled.planes >= HALF
        planes[:, :, : levels.shape[2]] = np.floor(levels * 255.0 + 0.5)
    example = labeled.example
    features: dict[str, bytes | int | tuple[int, ...]] = {
        "image_id": example.image_id.encode(),
        "image": example.image,
        "mask": cv2.imencode(".png", stack_planes(planes))[1].tobytes(),
        "label": labeled.label,
    }
    if example.origin is not None:
        features["origin"] = tuple(example.origin)
    return features


def _chunks(features: Iterator[tfrecord.Features], size: int) -> Iterator[list[tfrecord.Features]]:
    while some := list(islice(features, size)):
        yield some
