"""Out-of-fold masks to look at: the best, the typical, the worst, and both kinds of false alarm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gatemask.config import Competition
from gatemask.data.manifest import raw_folder
from gatemask.data.readers import read_image
from gatemask.data.split import read_manifest
from gatemask.errors import GatemaskError
from gatemask.masks import rule as rules
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Scorable, dice_per_image
from gatemask.plots import style
from gatemask.project import Project
from gatemask.tuning.members import Opened


def choose(counted: Scorable, rule: Rule, each: int = 4) -> dict[str, np.ndarray]:
    """Indices of the images that tell most, at most `each` of a kind."""
    found = dice_per_image(counted, rule).mean(axis=1)
    positive = counted.truth.sum(axis=1) > 0
    order = np.flatnonzero(positive)[np.argsort(-found[positive], kind="stable")]
    hit = order[found[order] > 0]
    middle = max(0, (len(hit) - each) // 2)
    false_alarms = np.flatnonzero(~positive & (found < 1))
    predicted = counted.counts(rule)[1].sum(axis=1)
    return {
        "Best": hit[:each],
        "Typical": hit[middle : middle + each],
        "Worst of those with any overlap": hit[::-1][:each],
        "Nothing found, or in the wrong place": order[found[order] == 0][:each],
        "False alarms": false_alarms[np.argsort(-predicted[false_alarms], kind="stable")][:each],
    }


class Gallery:
    """Draws rows of images.

    Args:
        project: where the raw files are.
        comp: how they are read.
        predicted: the members' maps.
        counted: what the rule was scored on.
        rule: the thresholds.
        weights: of the members.
    """

    def __init__(
        self,
        project: Project,
        comp: Competition,
        predicted: Opened,
        counted: Scorable,
        rule: Rule,
        weights: Sequence[float],
    ) -> None:
        manifest = read_manifest(project, "train")
        self._paths = dict(zip(manifest["image_id"], manifest["path"], strict=True))
        self._raw, self._comp, self._counted, self._rule = raw_folder(project, comp), comp, counted, rule
        self._predicted, self._weights = predicted, weights
        self._scores = dice_per_image(counted, rule).mean(axis=1)

    def row(self, chosen: np.ndarray) -> Figure:
        """One column an image: the image, its truth, the averaged map, the final mask."""
        drawn, axes = style.figure(2.1 * 4, 2.15 * 4, 4, 4, squeeze=False)
        for ax in axes.ravel():
            ax.set_axis_off()
        for column, index in enumerate(chosen):
            self._column(axes[:, column], int(index))
        return drawn

    def _column(self, axes: Any, index: int) -> None:
        name = str(self._counted.ids[index])
        truth = self._predicted.truth[name]
        averaged = rules.average_maps([reader[name] for reader in self._predicted.readers], self._weights)
        full = rules.resize_map(averaged, truth.shape)[:, :, 0]
        mask = rules.apply_rule(self._rule, float(self._counted.gate[index]), full)
        image = self._image(name, truth.shape)
        axes[0].imshow(image, cmap="gray", vmin=0, vmax=255)
        axes[0].set_title(f"{name[-22:]}\nDice {self._scores[index]:.3f}", fontsize=7, parse_math=False)
        for ax, drawn, colour, what in (
            (axes[1], truth, style.GREEN, "truth"),
            (axes[3], mask, style.RED, "final mask"),
        ):
            ax.imshow(image, cmap="gray", vmin=0, vmax=255)
            if drawn.any():
                ax.contour(drawn, [0.5], colors=[colour], linewidths=1.3)
            ax.set_title(f"{what}: {int(drawn.sum())} px", fontsize=7)
        axes[2].imshow(full, cmap="magma", vmin=0, vmax=255)
        axes[2].set_title(f"map; gate {self._counted.gate[index]:.3f}", fontsize=7)

    def _image(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        try:
            image = read_image(self._raw / self._paths[name], self._comp.image.channels, self._comp.image.window)
        except GatemaskError:  # the raw files may have stayed behind on another machine
            return np.full(shape, 128, np.uint8)
        return image[:, :, 0] if image.shape[2] == 1 else image


def fold_table(folds: pd.DataFrame, manifest: pd.DataFrame) -> list[list[Any]]:
    """Per fold: images, groups, share of positives, median mask area; -1 is the hold-out."""
    joined = folds.merge(manifest[["image_id", "label", "mask_area"]], on="image_id")
    rows: list[list[Any]] = []
    for fold, part in joined.groupby("fold"):
        areas = part["mask_area"][part["label"] == 1]
        name = "hold-out" if fold == -1 else str(fold)
        share = f"{part['label'].mean():.1%}"
        rows.append([name, len(part), int(part["group"].nunique()), share, int(areas.median()) if len(areas) else 0])
    return rows
