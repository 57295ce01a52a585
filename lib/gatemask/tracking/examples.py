"""Validation images of a finished fold: their scores as a table, and a few of them to look at.

Everything is made from the files of the run, the true masks and the raw images, so it can be made at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from gatemask.config import Competition
from gatemask.data.raw_folder import raw_folder
from gatemask.data.sources import ImageSource, own_pixels, read_source
from gatemask.data.split import read_manifest
from gatemask.data.training_sources import training_sources
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.masks.frame import comp_frame, resize
from gatemask.masks.rule import Rule, decide
from gatemask.oof import store
from gatemask.oof.full_maps import read_full
from gatemask.oof.tables import Tables, dice_per_image
from gatemask.project import Project
from gatemask.results.training import FoldResult

SIDE = 512  # pixels: images are reduced to this size
MOST_ROWS = 10_000  # of a table on W&B; the worst images are kept


@dataclass(frozen=True)
class Overlay:
    """An image with its masks.

    Args:
        image_id: Id of the image.
        kind: "best", "typical", "worst" or, of a gate, "wrong".
        text: Score in words.
        image: uint8 (height, width, 3); the longer side has at most `SIDE` pixels.
        truth: Class of each pixel, counted from 1, and 0 for none, uint8 (height, width).
        prediction: The same as predicted; None for a gate.
    """

    image_id: str
    kind: str
    text: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray | None

    @property
    def caption(self) -> str:
        return f"{self.kind}: {self.image_id}, {self.text}"


@dataclass(frozen=True)
class ImageTable:
    """Scores of the validation images, the worst first.

    Args:
        columns: Names of the columns; the first is the image id.
        rows: One row per image.
    """

    columns: list[str]
    rows: list[list[str | int | float]]


class FoldExamples:
    """Validation images of a finished fold.

    Args:
        project: Project with the truth and the raw images.
        comp: Competition.
        result: Result of the fold.
    """

    def __init__(self, project: Project, comp: Competition, result: FoldResult) -> None:
        self._project, self._comp, self._result = project, comp, result
        self._folder = project.fold(result.experiment, result.fold)

    def table(self) -> ImageTable:
        """Return the score of each image, at most `MOST_ROWS` of the worst.

        Masks: Dice at the best single threshold, and the areas of truth and prediction in pixels. Gates: probability,
        and its distance from the truth.
        """
        table = self._gate_table() if self._result.task == "gate" else self._mask_table()
        return ImageTable(table.columns, table.rows[:MOST_ROWS])

    def overlays(self, count: int) -> list[Overlay]:
        """Return some images: the best, the typical and the worst masks, or the most wrong gates.

        Args:
            count: Number of images.
        """
        if self._result.task == "gate":
            wrong = [image_id for image_id, *_ in self._gate_table().rows[:count]]
            return [self._gate_overlay(str(image_id)) for image_id in wrong]
        reader = store.MapReader([self._folder / "oof.h5"])
        try:
            return [self._mask_overlay(image_id, kind, reader) for image_id, kind in self._chosen(count)]
        finally:
            reader.close()

    # --- gates ---------------------------------------------------------------------------------------------

    @cached_property
    def _gate(self) -> dict[str, tuple[int, float]]:
        """Label and probability, that of the likeliest class, by image id."""
        manifest = read_manifest(self._project, "train")
        labels = dict(zip(manifest["image_id"], (manifest["label"] > 0).astype(int).tolist(), strict=True))
        gates = store.read_gates([self._folder / "oof.csv"], self._comp.classes)
        return {image_id: (labels[image_id], float(values.max())) for image_id, values in gates.items()}

    def _gate_table(self) -> ImageTable:
        rows: list[list[str | int | float]] = [
            [image_id, self._result.fold, label, round(probability, 6), round(abs(label - probability), 6)]
            for image_id, (label, probability) in self._gate.items()
        ]
        columns = ["image_id", "fold", "label", "probability", "error"]
        return ImageTable(columns, sorted(rows, key=lambda row: (-float(row[-1]), str(row[0]))))

    def _gate_overlay(self, image_id: str) -> Overlay:
        label, probability = self._gate[image_id]
        text = f"probability {probability:.3f}, {'positive' if label else 'empty'}"
        truth = self._truth[image_id]
        return self._overlay(image_id, "wrong", text, truth, None)

    # --- masks ---------------------------------------------------------------------------------------------

    @cached_property
    def _tables(self) -> Tables:
        return Tables.load(self._folder / "tables.npz")

    @cached_property
    def _rules(self) -> list[Rule]:
        """The best single threshold of each class, without gate and minimum area."""
        result = self._result
        by_class = result.threshold_by_class or dict.fromkeys(self._comp.classes, result.threshold or 0.5)
        cuts = [by_class[name] for name in self._comp.classes]
        return [Rule(gate=0.0, upper=cut, lower=cut, min_area=0) for cut in cuts]

    @cached_property
    def _dice(self) -> np.ndarray:
        """Dice of each image, the mean of its classes, float (n,)."""
        mean: np.ndarray = dice_per_image(self._tables, self._rules).mean(axis=1)
        return mean

    def _mask_table(self) -> ImageTable:
        tables, classes = self._tables, self._comp.classes
        dice, (_, areas) = dice_per_image(tables, self._rules), tables.counts(self._rules)
        columns, values = ["image_id", "fold", "dice"], [self._dice]
        if len(classes) > 1:
            columns += [f"dice_{name}" for name in classes]
            values += list(dice.T)
        columns += ["true_area", "predicted_area"]
        numbers = np.round(np.stack(values, axis=1), 6).tolist()
        pixels = np.stack([tables.truth.sum(axis=1), areas.sum(axis=1)], axis=1).astype(int).tolist()
        order = np.argsort(self._dice, kind="stable")
        ids = tables.ids.tolist()
        return ImageTable(columns, [[ids[i], self._result.fold, *numbers[i], *pixels[i]] for i in order])

    def _chosen(self, count: int) -> list[tuple[str, str]]:
        """Return ids and kinds: a third each of the best, the typical and the worst; no image twice.

        Images without any pixel in truth and prediction have a Dice of 1 and show nothing.
        """
        tables = self._tables
        _, areas = tables.counts(self._rules)
        shown = np.flatnonzero((tables.truth.sum(axis=1) > 0) | (areas.sum(axis=1) > 0))
        order = shown[np.argsort(-self._dice[shown], kind="stable")][: len(shown)]
        count = min(count, len(order))
        worst, best = -(-count // 3), -(-(count - -(-count // 3)) // 2)
        typical = count - worst - best
        between = order[best : len(order) - worst]
        middle = (len(between) - typical) // 2
        parts = {"best": order[:best], "typical": between[middle : middle + typical], "worst": order[::-1][:worst]}
        return [(str(tables.ids[index]), kind) for kind, indices in parts.items() for index in indices]

    def _mask_overlay(self, image_id: str, kind: str, reader: store.MapReader) -> Overlay:
        frame = None if self._comp.tiles else comp_frame(self._comp)
        full = read_full(image_id, [reader], self._truth, frame=frame)
        mask = decide(self._rules, 1.0, full.full_map, self._comp.exclusive)
        dice = float(self._dice[self._tables.ids.tolist().index(image_id)])
        return self._overlay(image_id, kind, f"Dice {dice:.3f}", full.truth, mask)

    # --- both ----------------------------------------------------------------------------------------------

    @cached_property
    def _truth(self) -> Masks:
        return Masks.of(self._project, self._comp)

    @cached_property
    def _sources(self) -> dict[str, ImageSource]:
        return training_sources(self._project, self._comp)

    def _overlay(self, image_id: str, kind: str, text: str, truth: np.ndarray, mask: np.ndarray | None) -> Overlay:
        height, width = truth.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        masks = [None if planes is None else _numbered(planes, size) for planes in (truth, mask)]
        assert masks[0] is not None
        return Overlay(image_id, kind, text, self._read(image_id, size), masks[0], masks[1])

    def _read(self, image_id: str, size: tuple[int, int]) -> np.ndarray:
        """Return an image in three channels; gray where its file is missing, which may be on another machine."""
        try:
            source = self._sources[image_id]
            image = resize(own_pixels(read_source(source, self._comp.image), source), size)
        except (GatemaskError, KeyError):
            return np.full((*size, 3), 128, np.uint8)
        return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)


def _numbered(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel, counted from 1, at another size; of overlapping classes the last."""
    numbers = np.zeros(planes.shape[:2], np.uint8)
    for index in range(planes.shape[2]):
        numbers[planes[:, :, index]] = index + 1
    return cv2.resize(numbers, size[::-1], interpolation=cv2.INTER_NEAREST)


def has_raw_images(project: Project, comp: Competition) -> bool:
    """Return whether the raw folder exists. A kernel has only records, and a fetched run may lie elsewhere."""
    try:
        raw = raw_folder(project, comp)
    except GatemaskError:
        return False
    return raw.is_dir() and any(raw.iterdir())


def outlined(overlay: Overlay, colors: Sequence[tuple[int, int, int]] = ((0, 200, 0), (230, 30, 30))) -> bytes:
    """Return a PNG of an overlay for viewers that draw no masks.

    Args:
        overlay: Image with masks.
        colors: Colors of the outlines of truth and prediction, RGB. Default: green and red.
    """
    image = np.ascontiguousarray(overlay.image.copy())
    for numbers, color in zip((overlay.truth, overlay.prediction), colors, strict=True):
        if numbers is None:
            continue
        for value in np.unique(numbers[numbers > 0]):
            plane = np.ascontiguousarray((numbers == value).astype(np.uint8))
            contours, _ = cv2.findContours(plane, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, contours, -1, color, 1)
    return bytes(cv2.imencode(".png", image[:, :, ::-1])[1])
