"""Predict a large image tile by tile: the gate is the maximum over its tiles, and their maps are blended.

Tiles are cut, predicted and blended in batches, row by row and for all members side by side, so the memory beside the
image and its map does not depend on the number of tiles or members.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee

import numpy as np

from gatemask.config import Tiles
from gatemask.inference.budget import Budget
from gatemask.inference.images import DecodedImage, Shape
from gatemask.inference.members import LoadedEnsemble, predict_members
from gatemask.masks import rule as rules
from gatemask.masks.frame import resize
from gatemask.masks.tiling import cut_tile, finished_rows, tile_origins
from gatemask.results.ensemble import ShippedMember


class TimeIsUpError(Exception):
    """The time limit was reached in the middle of an image."""


class _MemberDroppedError(Exception):
    """A member failed in the middle of an image, which is predicted again without it."""


@dataclass(frozen=True)
class TilePredictor:
    """Prediction of large images.

    Args:
        ensemble: Loaded ensemble; members that fail are dropped from it.
        budget: Time limit and measurements.
        tiles: How images are cut.
        step: Number of tiles that members see at a time.
    """

    ensemble: LoadedEnsemble
    budget: Budget
    tiles: Tiles
    step: int

    def count(self, image: DecodedImage) -> int:
        """Return the number of tiles of an image."""
        assert image.scaled is not None
        return len(tile_origins(image.scaled.shape[:2], self.tiles.size, self.tiles.overlap))

    def gates(self, image: DecodedImage) -> list[tuple[ShippedMember, np.ndarray]]:
        """Return the gate probabilities of an image by each gate, float32 (1,) or (classes,).

        Raises:
            TimeIsUpError: Time is up before the last tile.
        """
        while members := self.ensemble.gates:
            highest: list[np.ndarray] = []
            try:
                for values in self._predict(image, members):
                    highest = [np.maximum(*pair) for pair in zip(highest, values, strict=True)] if highest else values
                return list(zip(members, highest, strict=True))
            except _MemberDroppedError:
                continue
        return []

    def average_map(self, image: DecodedImage) -> np.ndarray | None:
        """Return the averaged map of an image, uint8 (height, width, outputs), scaled as the image; None without masks.

        Raises:
            TimeIsUpError: Time is up before the last tile.
        """
        while members := self.ensemble.masks:
            try:
                return self._average_map(image, members)
            except _MemberDroppedError:
                continue
        return None

    def _average_map(self, image: DecodedImage, members: Sequence[ShippedMember]) -> np.ndarray:
        assert image.scaled is not None
        size, outputs, side = image.scaled.shape[:2], self.ensemble.outputs, self.tiles.size
        origins = tile_origins(size, side, self.tiles.overlap)
        # Each member's tiles are blended by themselves; the same rows are finished at the same time.
        streams = tee(self._predict(image, members), len(members))
        blended = [
            finished_rows(size, side, origins, _maps_of(stream, place), outputs) for place, stream in enumerate(streams)
        ]
        averaged = np.zeros((*size, outputs), np.uint8)
        for parts in zip(*blended, strict=True):
            first, height = parts[0][0], len(parts[0][1])
            rows = rules.average_maps([part for _, part in parts], [member.weight for member in members])
            averaged[first : first + height] = rows
        return averaged

    def _predict(self, image: DecodedImage, members: Sequence[ShippedMember]) -> Iterator[list[np.ndarray]]:
        """Yield the predictions of each tile, one per member."""
        assert image.scaled is not None
        origins = tile_origins(image.scaled.shape[:2], self.tiles.size, self.tiles.overlap)
        shapes = {member.records_shape for member in members}
        for start in range(0, len(origins), self.step):
            part = origins[start : start + self.step]
            if self.budget.is_up():
                raise TimeIsUpError
            cut = [
                _as_image(image.image_id, cut_tile(image.scaled, origin, self.tiles.size), shapes) for origin in part
            ]
            predictions = predict_members(self.ensemble, members, cut, self.budget)
            if len(predictions) < len(members):
                raise _MemberDroppedError
            for place in range(len(part)):
                yield [values[place] for _, values in predictions]


def _as_image(image_id: str, tile: np.ndarray, shapes: Collection[Shape]) -> DecodedImage:
    return DecodedImage(image_id, {shape: resize(tile, shape) for shape in shapes})


def _maps_of(predictions: Iterable[list[np.ndarray]], place: int) -> Iterator[np.ndarray]:
    return (of_tile[place] for of_tile in predictions)
