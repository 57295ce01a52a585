"""Choose out-of-fold masks to show: the best, the typical, the worst, and both kinds of error."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gatemask.config import Competition
from gatemask.data.sources import ImageSource, own_pixels, read_source
from gatemask.data.training_sources import training_sources
from gatemask.errors import GatemaskError
from gatemask.masks import rule as rules
from gatemask.masks.frame import resize
from gatemask.masks.metrics import dice_of_masks
from gatemask.masks.rule import Rule
from gatemask.oof.full_maps import read_full
from gatemask.oof.tables import Scorable, dice_per_image
from gatemask.plots.gallery import GalleryImage, draw_gallery
from gatemask.project import Project
from gatemask.tuning.members import MemberPredictions


def choose_images(counted: Scorable, rules: Rule | Sequence[Rule], each: int = 4) -> dict[str, np.ndarray]:
    """Return the indices of the most telling images by kind, at most `each` of a kind."""
    dice = dice_per_image(counted, rules).mean(axis=1)
    positive = counted.truth.sum(axis=1) > 0
    order = np.flatnonzero(positive)[np.argsort(-dice[positive], kind="stable")]
    hit = order[dice[order] > 0]
    middle = max(0, (len(hit) - each) // 2)
    false_alarms = np.flatnonzero(~positive & (dice < 1))
    predicted = counted.counts(rules)[1].sum(axis=1)
    return {
        "Best": hit[:each],
        "Typical": hit[middle : middle + each],
        "Worst of those with any overlap": hit[::-1][:each],
        "Nothing found, or in the wrong place": order[dice[order] == 0][:each],
        "False alarms": false_alarms[np.argsort(-predicted[false_alarms], kind="stable")][:each],
    }


class Gallery:
    """Draws rows of images.

    Args:
        project: Project with the raw files.
        comp: Format of the raw files.
        predictions: Predictions of the members.
        counted: Counts on which the rules were scored.
        by_class: Shipped rule of each class.
        weights: Weights of the mask members.
    """

    def __init__(
        self,
        project: Project,
        comp: Competition,
        predictions: MemberPredictions,
        counted: Scorable,
        by_class: Sequence[Rule],
        weights: Sequence[float],
    ) -> None:
        self._project, self._comp, self._counted, self._rules = project, comp, counted, by_class
        self._predictions, self._weights = predictions, weights

    def draw_row(self, indices: np.ndarray) -> Figure:
        """Draw up to four images, one per column: image, truth, averaged map, final mask."""
        return draw_gallery([self._image(int(index)) for index in indices])

    def _image(self, index: int) -> GalleryImage:
        name, gate = str(self._counted.ids[index]), self._counted.gate[index]
        given, exclusive = self._predictions, self._comp.exclusive
        shown = read_full(name, given.readers, given.truth, self._weights, given.frame)
        if self._comp.objects is None:
            mask = rules.decide(self._rules, gate, shown.full_map, exclusive)
        else:
            mask = rules.decide_objects(self._rules, gate, shown.full_map, exclusive) > 0
        truth = shown.truth
        if shown.ignored is not None:
            mask, truth = mask & ~shown.ignored[:, :, None], truth & ~shown.ignored[:, :, None]
        classes = range(len(self._rules))
        return GalleryImage(
            name=name,
            image=self._read(name, truth.shape[0], truth.shape[1]),
            truth=truth,
            full_map=shown.full_map[:, :, : len(self._rules)],
            mask=mask,
            dice=float(np.mean([dice_of_masks(truth[:, :, index], mask[:, :, index]) for index in classes])),
            gate=float(gate.max()),
        )

    @cached_property
    def _sources(self) -> dict[str, ImageSource]:
        return training_sources(self._project, self._comp)

    def _read(self, name: str, height: int, width: int) -> np.ndarray:
        """Return an image at the size of its truth."""
        try:
            source = self._sources[name]
            image = own_pixels(read_source(source, self._comp.image), source)
        except GatemaskError:  # the raw files may be on another machine
            return np.full((height, width), 128, np.uint8)
        image = resize(image, (height, width))
        return image if image.shape[2] == 3 else image[:, :, image.shape[2] // 2]  # of a stack, the slice itself


def fold_rows(folds: pd.DataFrame, manifest: pd.DataFrame) -> list[list[object]]:
    """Return one row per fold: name, images, groups, share of positives, median mask area. Fold -1 is the hold-out."""
    joined = folds.merge(manifest[["image_id", "label", "mask_area"]], on="image_id")
    rows: list[list[object]] = []
    for fold, part in joined.groupby("fold"):
        areas = part["mask_area"][part["label"] == 1]
        name = "hold-out" if fold == -1 else str(fold)
        share = f"{part['label'].mean():.1%}"
        rows.append([name, len(part), int(part["group"].nunique()), share, int(areas.median()) if len(areas) else 0])
    return rows
