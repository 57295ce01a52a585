"""The table of true masks, masks.csv: written once, and decoded image by image when needed.

One row per image and class, or one per object where the competition has objects. Masks are run-length encoded
(`rle.INTERNAL`) at the image's own size. Ignored pixels are rows of a class of their own. Where labels give shares,
masks are the pixels from half on, and one more row of each image holds the shares that networks learn.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from gatemask.config import Competition
from gatemask.data.split import read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.masks import rle
from gatemask.masks.frame import Frame, fit_mask
from gatemask.masks.objects import touching_borders
from gatemask.project import Project
from gatemask.stage import require_unchanged
from gatemask.storage import storage_errors

IGNORED = "~ignored"  # class of the pixels that are neither trained on nor scored
SOFT = "~soft"  # class of the row that holds an image's shares
REACH = 2  # pixels of the records within which two objects touch

Size = tuple[int, int]


class Annotation(NamedTuple):
    """A row of masks.csv: the mask of a class, or one object of it.

    Args:
        class_name: Name of the class; `IGNORED` for pixels to ignore.
        rle: Encoding (`rle.INTERNAL`) at the image's own size; never empty.
    """

    class_name: str
    rle: str


def write_masks(
    path: Path, masks: Mapping[str, Sequence[Annotation]], soft: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write masks.csv: image_id, class, rle; only what has pixels.

    Args:
        path: Path of the CSV.
        masks: Annotations by image id, in the order in which they are written.
        soft: Shares by image id, from `encode_shares`. Default: none.
    """
    rows: list[tuple[str, str, str]] = []
    for name in sorted(masks):
        rows += [(name, *annotation) for annotation in masks[name]]
        rows += [(name, SOFT, soft[name])] if name in soft else []
    frame = pd.DataFrame(rows, columns=["image_id", "class", "rle"])
    return write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def encode_shares(levels: np.ndarray) -> str:
    """Return the text of a row of shares: a PNG of the classes, one below the other, in base64.

    Args:
        levels: Shares of 255, uint8 (height, width, classes).
    """
    height, width, classes = levels.shape
    stacked = np.moveaxis(levels, 2, 0).reshape(classes * height, width)
    return base64.b64encode(cv2.imencode(".png", stacked)[1].tobytes()).decode()


def decode_shares(text: str, size: Size, classes: int, where: object = None) -> np.ndarray:
    """Return the shares of a row, uint8 (height, width, classes).

    Args:
        text: Result of `encode_shares`; "" for zeros.
        size: Height and width of the image, in pixels.
        classes: Number of classes.
        where: Place of the row, for errors. Default: unknown.

    Raises:
        GatemaskError: The text does not hold such shares.
    """
    if not text:
        return np.zeros((*size, classes), np.uint8)
    try:
        stacked = cv2.imdecode(np.frombuffer(base64.b64decode(text, validate=True), np.uint8), cv2.IMREAD_GRAYSCALE)
    except (ValueError, cv2.error):
        stacked = None
    if stacked is None or stacked.shape != (classes * size[0], size[1]):
        raise GatemaskError(
            "The shares of a soft mask cannot be read.",
            where=where,
            received="no image" if stacked is None else f"{stacked.shape[0]} x {stacked.shape[1]} pixels",
            expected=f"{classes} planes of {size[0]} x {size[1]} pixels",
            do="Run gatemask data prepare again.",
        )
    return np.moveaxis(stacked.reshape(classes, *size), 0, 2)


class EncodedMasks(NamedTuple):
    """The masks of one image, still encoded: small enough to be sent to another process.

    Args:
        size: Height and width of the image, in pixels.
        classes: Encodings of each class: one, or one per object.
        ignored: Encodings of the pixels to ignore; None for a competition without such pixels.
        reach: Distance in pixels within which two objects touch; 0 for masks without a plane of borders.
        soft: Shares of the classes, from `encode_shares`; "" if all are 0, None for a competition without shares.
    """

    size: Size
    classes: tuple[tuple[str, ...], ...]
    ignored: tuple[str, ...] | None = None
    reach: int = 0
    soft: str | None = None

    def levels(self) -> np.ndarray:
        """Return the planes that networks of soft masks learn, in the order of `planes`.

        Returns:
            uint8 (height, width, planes), shares of 255.
        """
        levels = self.planes().astype(np.uint8) * np.uint8(255)
        levels[:, :, : len(self.classes)] = decode_shares(self.soft or "", self.size, len(self.classes))
        return levels

    def planes(self) -> np.ndarray:
        """Return the planes that networks learn: classes, then borders between objects, then ignored pixels.

        Returns:
            bool (height, width, planes).
        """
        parts = [_decode_planes(self.classes, self.size)]
        if self.reach:
            everything = [text for texts in self.classes for text in texts]
            border = touching_borders(_number_objects(everything, self.size), self.reach)
            parts.append(border[:, :, None])
        if self.ignored is not None:
            parts.append(_decode_planes([self.ignored], self.size))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


class Masks:
    """Truth masks by image id, decoded when needed; the mask of an image that is not listed is empty.

    Args:
        path: masks.csv, or test_masks.csv.
        sizes: Height and width of each image, by id, or of all images, in pixels.
        classes: Names of the classes, in the order of the planes. Default: all rows belong to one class.
        scoring_size: Height and width at which masks are scored. Default: each image's own size.
        has_ignored: Whether `planes` end with the ignored pixels. Default: False.
        reach: Distance within which two objects touch, by image size; None for `planes` without borders.
        has_soft: Whether networks learn shares. Default: False.

    Raises:
        GatemaskError: The file is missing, cut short, edited, or holds other classes.
    """

    def __init__(
        self,
        path: Path,
        sizes: Size | Mapping[str, Size],
        classes: Sequence[str] = ("",),
        scoring_size: Size | None = None,
        has_ignored: bool = False,
        reach: _Reach | None = None,
        has_soft: bool = False,
    ) -> None:
        self.classes = tuple(classes)
        self._path, self._sizes, self._scoring_size = path, sizes, scoring_size
        self._has_ignored, self._reach, self._has_soft = has_ignored, reach, has_soft
        self._classes, self._ignored, self._soft = _read_texts(path, self.classes)

    @classmethod
    def of(cls, project: Project, comp: Competition, file: str = "masks.csv") -> Masks:
        """Return the masks of a competition.

        Args:
            project: Project folders.
            comp: competition.yaml.
            file: masks.csv for the training images, test_masks.csv for the test images. Default: masks.csv.

        Raises:
            GatemaskError: The file, or the manifest where images differ in size, is missing, cut short or edited.
        """
        sizes: Size | dict[str, Size]
        if comp.image.size == "mixed":
            manifest = read_manifest(project, "test" if file.startswith("test") else "train")
            rows = zip(manifest["image_id"], manifest["height"].tolist(), manifest["width"].tolist(), strict=True)
            sizes = {image_id: (height, width) for image_id, height, width in rows}
        else:
            sizes = comp.image.size
        border = comp.objects is not None and comp.objects.border
        reach = _Reach(comp.records.shape, comp.tiles.scale if comp.tiles else None) if border else None
        return cls(
            project.data / file, sizes, comp.classes, comp.image.scoring_size, comp.has_ignored, reach, comp.has_soft
        )

    def image_size(self, image_id: str) -> Size:
        """Return height and width of an image, in pixels.

        Raises:
            GatemaskError: The images differ in size, and this one is not in the manifest.
        """
        if isinstance(self._sizes, tuple):
            return self._sizes
        if image_id not in self._sizes:
            raise GatemaskError(
                "The size of an image is unknown: the manifest does not list it.",
                where=self._path.with_name("manifest.csv"),
                received=image_id,
                do="Run gatemask data prepare again.",
            )
        return self._sizes[image_id]

    def size(self, image_id: str) -> Size:
        """Return height and width at which a mask is scored, in pixels."""
        return self._scoring_size or self.image_size(image_id)

    def encoded(self, image_id: str) -> EncodedMasks:
        """Return the masks of an image at its own size, still encoded."""
        size = self.image_size(image_id)
        return EncodedMasks(
            size,
            self._texts(image_id),
            self._ignored.get(image_id, ()) if self._has_ignored else None,
            self._reach.pixels(size) if self._reach else 0,
            self._soft.get(image_id, "") if self._has_soft else None,
        )

    def planes(self, image_id: str) -> np.ndarray:
        """Return the planes that networks learn, at the image's own size.

        Returns:
            bool (height, width, planes): classes, borders (if there are borders), ignored pixels (if there are any).
        """
        return self.encoded(image_id).planes()

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the masks of an image at the scoring size, bool (height, width, classes)."""
        return self._scored(image_id, _decode_planes(self._texts(image_id), self.image_size(image_id), image_id))

    def ignored(self, image_id: str) -> np.ndarray | None:
        """Return the pixels to ignore at the scoring size, bool (height, width); None where there are none."""
        if image_id not in self._ignored:
            return None
        return self._scored(image_id, _decode_planes([self._ignored[image_id]], self.image_size(image_id)))[:, :, 0]

    def objects(self, image_id: str, class_index: int) -> np.ndarray:
        """Return the objects of a class, numbered from 1, at the scoring size.

        Where objects overlap, a pixel belongs to the smaller one. An object without a pixel at the scoring size keeps
        its number.

        Returns:
            int32 (height, width), 0 for background.
        """
        texts, own = self._texts(image_id)[class_index], self.image_size(image_id)
        size = self.size(image_id)
        if size == own:
            return _number_objects(texts, own)
        numbers = np.zeros(size, np.int32)
        for number, text in _largest_first(texts, own):
            numbers[self._scored(image_id, _decode_planes([[text]], own))[:, :, 0]] = number
        return numbers

    def _texts(self, image_id: str) -> tuple[tuple[str, ...], ...]:
        return self._classes.get(image_id) or ((),) * len(self.classes)

    def _scored(self, image_id: str, planes: np.ndarray) -> np.ndarray:
        size = self.size(image_id)
        return planes if planes.shape[:2] == size else fit_mask(planes, Frame(size)).astype(bool)


class _Reach(NamedTuple):
    """Distance within which objects touch, so that their border is seen in the records.

    Args:
        records: Height and width of the records, in pixels.
        scale: Factor by which images are reduced before tiles are cut; None without tiles.
    """

    records: Size
    scale: float | None

    def pixels(self, size: Size) -> int:
        """Return the distance in pixels of an image of the given size."""
        shares = (size[0] / self.records[0], size[1] / self.records[1])
        return math.ceil(REACH * max(1.0, *shares)) if self.scale is None else math.ceil(REACH / self.scale)


def _read_texts(
    path: Path, classes: Sequence[str]
) -> tuple[dict[str, tuple[tuple[str, ...], ...]], dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the encodings of each image by class, those of ignored pixels, and shares."""
    do = "Run gatemask data prepare: it is made again."
    if (stamp := path.with_name("manifest.json")).exists():
        require_unchanged(stamp, path, do)  # a mask that a cut-short file lacks would count as empty
    try:
        with storage_errors(path):
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows = list(zip(frame["image_id"], frame["class"], frame["rle"], strict=True))
    except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        received = " ".join(str(error).split())
        raise GatemaskError("The masks cannot be read.", where=path, received=received, do=do) from None
    index = {name: number for number, name in enumerate(classes)}
    by_class: dict[str, list[list[str]]] = {}
    ignored: dict[str, list[str]] = {}
    soft: dict[str, str] = {}
    for image_id, name, text in rows:
        number = 0 if len(classes) == 1 and name != IGNORED else index.get(name)
        if name == SOFT:
            soft[image_id] = text
        elif name == IGNORED:
            ignored.setdefault(image_id, []).append(text)
        elif number is not None:
            by_class.setdefault(image_id, [[] for _ in classes])[number].append(text)
        else:
            raise GatemaskError(
                "The masks belong to other classes.", where=path, received=name, expected=", ".join(classes), do=do
            )
    return (
        {image_id: tuple(map(tuple, lists)) for image_id, lists in by_class.items()},
        {image_id: tuple(texts) for image_id, texts in ignored.items()},
        soft,
    )


# --- decoding ----------------------------------------------------------------------------------------------


def _decode_planes(classes: Sequence[Sequence[str]], size: Size, where: object = None) -> np.ndarray:
    """Return one plane per class, the union of its encodings, bool (height, width, classes), column by column."""
    if len(classes) == 1 and len(classes[0]) < 2:
        return rle.decode("".join(classes[0]), size, where=where)[:, :, None]
    flat = np.zeros((len(classes), size[1] * size[0]), bool)
    for plane, texts in zip(flat, classes, strict=True):
        if len(texts) == 1:  # faster than single pixels
            plane[:] = rle.decode(texts[0], size, where=where).T.ravel()
            continue
        for text in texts:
            plane[_pixels(text, size, where)] = True
    return flat.reshape(len(classes), size[1], size[0]).transpose(2, 1, 0)


def _number_objects(texts: Sequence[str], size: Size) -> np.ndarray:
    """Return each pixel's object, counted from 1, int32 (height, width); of several, the smaller one."""
    flat = np.zeros(size[0] * size[1], np.int32)
    for number, text in _largest_first(texts, size):
        flat[_pixels(text, size)] = number
    return flat.reshape(size[::-1]).T


def _largest_first(texts: Sequence[str], size: Size) -> list[tuple[int, str]]:
    """Return numbers, from 1, and encodings."""
    areas = [int(rle.parse(text, size, rle.INTERNAL)[1].sum()) for text in texts]
    order = sorted(range(len(texts)), key=lambda number: -areas[number])
    return [(number + 1, texts[number]) for number in order]


def _pixels(text: str, size: Size, where: object = None) -> np.ndarray:
    """Return the pixels of a mask, counted down the columns."""
    starts, lengths = rle.parse(text, size, rle.INTERNAL, where)
    firsts = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) if len(starts) else starts
    return firsts + np.arange(len(firsts))
