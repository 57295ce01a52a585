"""Decide images gate first: mask networks see only the images whose averaged gate probability passes a rule.

Nothing is approximated: an image below the gate of every class is empty whatever its map says. Each image is decoded
once, goes through all members, and is forgotten, so memory does not grow with the number of images. Where a share of
the images passes, the gates see all images first, and those that pass are decoded again for the mask networks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gatemask.console import say
from gatemask.inference.budget import Budget
from gatemask.inference.images import DecodedImage
from gatemask.inference.members import LoadedEnsemble, predict_members
from gatemask.inference.tiles import TilePredictor, TimeIsUpError
from gatemask.masks import rule as rules
from gatemask.parallel import cores
from gatemask.results.ensemble import ShippedMember

MAX_UNFINISHED = 64  # images whose masks may be in the making: memory holds that many full-size maps
MAX_UNFINISHED_BYTES = 256 << 20  # of their maps together, where maps are large

Gates = tuple[float, ...]  # averaged gate probability, or quantile, for each class


class Decision(NamedTuple):
    """Result for one image.

    Args:
        image_id: Id of the image.
        gates: Averaged gate probability for each class.
        encoded: Encoded masks, or objects, of each class; None if the image did not pass a gate.
    """

    image_id: str
    gates: Gates
    encoded: Sequence[Sequence[str]] | None


class PassedImage(NamedTuple):
    """An image that passed a gate, with its averaged gate probability for each class."""

    image: DecodedImage
    gates: Gates


@dataclass(frozen=True)
class Decider:
    """Prediction of a stream of images by an ensemble.

    Args:
        ensemble: Loaded ensemble; members that fail, or do not fit the time limit, are dropped from it.
        budget: Time limit and measurements.
        step: Number of images that members see at a time.
        finish: Function of an image, its gate probabilities and its averaged map, uint8 (h, w, outputs), that returns
            the encoded masks of each class. Runs in threads.
        tiles: Prediction of large images, one at a time. Default: images are predicted whole.
    """

    ensemble: LoadedEnsemble
    budget: Budget
    step: int
    finish: Callable[[DecodedImage, Gates, np.ndarray], Sequence[Sequence[str]]]
    tiles: TilePredictor | None = None

    def rank(self, images: Iterable[DecodedImage], total: int) -> dict[str, Gates]:
        """Return the images that pass, with what rules compare with their gates; for rules of a share of the images.

        Images that cannot be read count neither as passing nor as images. Without the gates of all images, none passes.

        Args:
            images: Decoded images.
            total: Number of images.
        """
        ensemble, budget = self.ensemble, self.budget
        gates: dict[str, Gates] = {}
        try:
            for part in _parts(images, 1 if self.tiles else self.step):
                if budget.is_up():
                    raise TimeIsUpError
                inputs = self._count_inputs(part)
                for image, values in zip(part, self._gate_probabilities(part), strict=True):
                    image.scaled = None
                    if image.readable:
                        gates[image.image_id] = values
                budget.count_gated(len(part), inputs)
                budget.passed = round(budget.expected_share * budget.gated)
                self._keep_to_budget(total - budget.gated, budget.passed)
        except TimeIsUpError:
            ensemble.degraded.append(
                f"Time was up after the gates had seen {budget.gated} of {total} images; all masks are empty."
            )
            gates = {}
        passing = self._passing(gates)
        budget.passed = len(passing)
        return passing

    def _passing(self, gates: Mapping[str, Gates]) -> dict[str, Gates]:
        if not gates:
            return {}
        ids = sorted(gates)
        values = np.array([gates[image_id] for image_id in ids])
        if not self.ensemble.gates:  # those that failed saw some images only
            values = np.ones_like(values)
        scores = map(tuple, rules.gate_scores(self.ensemble.rules, values, ids).tolist())
        return {image_id: row for image_id, row in zip(ids, scores, strict=True) if self.ensemble.passes(row)}

    def decide(
        self, images: Iterable[DecodedImage], total: int, known: Mapping[str, Gates] | None = None
    ) -> Iterator[Decision]:
        """Yield a decision for each image until time is up, not necessarily in order.

        Args:
            images: Decoded images.
            total: Number of images.
            known: What rules compare with the gates of these images, from `rank`. Default: the gates are asked.
        """
        ensemble, budget = self.ensemble, self.budget
        waiting: list[PassedImage] = []  # until there are enough for a step
        unfinished: deque[Future[Decision]] = deque()
        step, seen = 1 if self.tiles else self.step, 0
        # The pixels of a large image are released as soon as they have been predicted.
        with ThreadPoolExecutor(cores()) as pool:
            try:
                for part in _parts(images, step):
                    if budget.is_up():
                        raise TimeIsUpError
                    inputs = self._count_inputs(part)
                    asked = known is None
                    part_gates = [known[image.image_id] for image in part] if known else self._gate_probabilities(part)
                    for image, gates in zip(part, part_gates, strict=True):
                        if image.readable and ensemble.passes(gates) and ensemble.masks:
                            waiting.append(PassedImage(image, gates))
                            budget.passed += asked
                        else:
                            image.scaled = None
                            yield Decision(image.image_id, gates, None)
                    seen += len(part)
                    if asked:
                        budget.count_gated(len(part), inputs)
                    while len(waiting) >= step:
                        futures, limit = self._segment(waiting[:step], pool)
                        unfinished += futures
                        waiting = waiting[step:]
                        while len(unfinished) > limit:
                            yield unfinished.popleft().result()
                    if asked:
                        self._keep_to_budget(total - seen, len(waiting) if seen < total else 0)
                    else:
                        self._keep_to_budget(0, total - seen + len(waiting))
                if waiting:
                    unfinished += self._segment(waiting, pool)[0]
            except TimeIsUpError:
                ensemble.degraded.append(
                    f"Time was up after {seen - len(waiting)} of {total} images; the others have empty masks."
                )
            while unfinished:
                yield unfinished.popleft().result()

    def _count_inputs(self, part: Sequence[DecodedImage]) -> int:
        """Return how often members are given an input for these images: once, or once per tile."""
        return len(part) if self.tiles is None else sum(map(self.tiles.count, part))

    def _gate_probabilities(self, images: Sequence[DecodedImage]) -> list[Gates]:
        """Return the averaged gate probabilities of each image; 1 if no gate is left."""
        ensemble, classes = self.ensemble, len(self.ensemble.rules)
        if self.tiles is None:
            predictions = predict_members(ensemble, ensemble.gates, images, self.budget)
        else:
            predictions = [(member, values[None]) for member, values in self.tiles.gates(images[0])]
        if not predictions:
            return [(1.0,) * classes] * len(images)
        # Relative to the largest weight: equal weights become ones, and their sum is as exact as a plain one.
        largest = max(member.weight for member, _ in predictions)
        weights = [member.weight / largest for member, _ in predictions]
        # Rounded as in the out-of-fold file. A gate for all classes is repeated for each.
        by_member = [
            [[round(float(value), 6) for value in row] for row in np.broadcast_to(values, (len(images), classes))]
            for _, values in predictions
        ]
        return [
            tuple(_weighted_mean([row[index] for row in rows], weights) for index in range(classes))
            for rows in zip(*by_member, strict=True)
        ]

    def _segment(self, passed: Sequence[PassedImage], pool: ThreadPoolExecutor) -> tuple[list[Future[Decision]], int]:
        """Predict masks; enlarging, the rule and encoding continue in threads.

        Returns:
            The decisions in the making, and how many may be at a time.
        """
        ensemble = self.ensemble
        limit = MAX_UNFINISHED
        average: Callable[[int], np.ndarray | None]
        if self.tiles is None:
            predictions = predict_members(ensemble, ensemble.masks, [item.image for item in passed], self.budget)
            average = _averages(predictions)
        else:
            maps = [self.tiles.average_map(item.image) for item in passed]
            average = maps.__getitem__
            limit = min(limit, MAX_UNFINISHED_BYTES // max(1, *(0 if one is None else one.nbytes for one in maps)))
            for item in passed:
                item.image.scaled = None

        def finish(index: int) -> Decision:
            image, gates = passed[index]
            averaged = average(index)
            if averaged is None:
                return Decision(image.image_id, gates, None)
            return Decision(image.image_id, gates, self.finish(image, gates, averaged))

        return [pool.submit(finish, index) for index in range(len(passed))], limit

    def _keep_to_budget(self, images: int, waiting: int) -> None:
        """Report progress, and drop members that do not fit the time limit; arguments as for `Budget.needed_s`."""
        ensemble, budget = self.ensemble, self.budget
        if line := budget.progress_line(images, waiting, ensemble.gates, ensemble.masks):
            say(line)
        if budget.limit_s is None or not (images or waiting):
            return
        gates, masks = budget.members_in_time(images, waiting, ensemble.gates, ensemble.masks)
        for member in [*ensemble.masks[::-1], *ensemble.gates[::-1]]:
            if member not in gates and member not in masks:
                ensemble.drop(member, "not enough time", budget.gated)
                if not ensemble.may_drop:
                    ensemble.degraded.append(f"{member.name} is dropped from image {budget.gated} on to save time.")


def _averages(predictions: Sequence[tuple[ShippedMember, np.ndarray]]) -> Callable[[int], np.ndarray | None]:
    """Return a function that averages the members' maps of one image of the batch."""
    weights = [member.weight for member, _ in predictions]
    maps = [rules.as_uint8(values) for _, values in predictions]
    return lambda index: rules.average_maps([of_member[index] for of_member in maps], weights) if maps else None


def _weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def _parts(images: Iterable[DecodedImage], step: int) -> Iterator[list[DecodedImage]]:
    part: list[DecodedImage] = []
    for image in images:
        part.append(image)
        if len(part) == step:
            yield part
            part = []
    if part:
        yield part
