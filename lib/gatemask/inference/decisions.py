"""Decide images gate first: mask networks see only the images whose averaged gate probability passes the rule.

Nothing is approximated: an image below the gate is empty whatever its map says. Each image is decoded once, goes
through all members, and is forgotten, so memory does not grow with the number of images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gatemask.console import say
from gatemask.inference.budget import Budget
from gatemask.inference.images import DecodedImage, InputSize, stack_images
from gatemask.inference.networks import LoadedMember
from gatemask.masks import rule as rules
from gatemask.masks.frame import resize_map
from gatemask.masks.rule import Rule
from gatemask.parallel import cores
from gatemask.results.ensemble import ShippedMember
from gatemask.results.submission import DroppedMember

MAX_UNFINISHED = 64  # images whose masks may be in the making: memory holds that many full-size maps


class Decision(NamedTuple):
    """Result for one image.

    Args:
        image_id: Id of the image.
        gate: Averaged gate probability.
        encoded: Encoded mask of each class; None if the image did not pass the gate.
    """

    image_id: str
    gate: float
    encoded: list[str] | None


class PassedImage(NamedTuple):
    """An image that passed the gate, with its averaged gate probability."""

    image: DecodedImage
    gate: float


@dataclass
class LoadedEnsemble:
    """Members in memory, with the decision rule.

    Args:
        gates: Gates, most important first: where time runs out, the last ones are dropped.
        masks: Mask networks, most important first.
        networks: Loaded members by name.
        rules: One rule per class.
        size: Height and width of the masks, in pixels.
        exclusive: Whether a pixel belongs to at most one class. Default: False.
        degraded: What went wrong, one sentence each.
        dropped: Members that were dropped.
        may_drop: Whether a time budget permits dropping members; otherwise a drop counts as a fault. Default: False.
    """

    gates: list[ShippedMember]
    masks: list[ShippedMember]
    networks: dict[str, LoadedMember]
    rules: list[Rule]
    size: tuple[int, int]
    exclusive: bool = False
    degraded: list[str] = field(default_factory=list)
    dropped: list[DroppedMember] = field(default_factory=list)
    may_drop: bool = False

    @property
    def lowest_gate(self) -> float:
        """Gate probability that an image needs for at least one class."""
        return min(rule.gate for rule in self.rules)

    def drop(self, member: ShippedMember, why: str, images: int) -> None:
        """Continue without a member.

        Args:
            member: The member.
            why: Reason.
            images: Number of images that have been through the gates.
        """
        self.gates = [other for other in self.gates if other is not member]
        self.masks = [other for other in self.masks if other is not member]
        self.dropped.append(DroppedMember(name=member.name, from_image=images, why=why))
        say(f"{member.name} is dropped from image {images} on: {why}")


@dataclass(frozen=True)
class Decider:
    """Prediction of a stream of images by an ensemble.

    Args:
        ensemble: Loaded ensemble; members that fail, or do not fit the time limit, are dropped from it.
        budget: Time limit and measurements.
        step: Number of images that members see at a time.
        encode: Function of masks, bool (height, width, classes), that returns the encoded mask of each class. Runs in
            threads.
    """

    ensemble: LoadedEnsemble
    budget: Budget
    step: int
    encode: Callable[[np.ndarray], list[str]]

    def decide(self, images: Iterable[DecodedImage], total: int) -> Iterator[Decision]:
        """Yield a decision for each image until time is up, not necessarily in order.

        Args:
            images: Decoded images.
            total: Number of images.
        """
        ensemble, budget = self.ensemble, self.budget
        waiting: list[PassedImage] = []  # until there are enough for a step
        unfinished: deque[Future[Decision]] = deque()
        with ThreadPoolExecutor(cores()) as pool:
            for part in _parts(images, self.step):
                if budget.is_up():
                    ensemble.degraded.append(
                        f"Time was up after {budget.gated} of {total} images; the others have empty masks."
                    )
                    waiting = []
                    break
                for image, gate in zip(part, self._gate_probabilities(part), strict=True):
                    if image.readable and gate >= ensemble.lowest_gate and ensemble.masks:
                        waiting.append(PassedImage(image, gate))
                        budget.passed += 1
                    else:
                        yield Decision(image.image_id, gate, None)
                budget.count_gated(len(part))
                while len(waiting) >= self.step:
                    unfinished += self._segment(waiting[: self.step], pool)
                    waiting = waiting[self.step :]
                    while len(unfinished) > MAX_UNFINISHED:
                        yield unfinished.popleft().result()
                self._keep_to_budget(total - budget.gated, len(waiting))
            if waiting:
                unfinished += self._segment(waiting, pool)
            while unfinished:
                yield unfinished.popleft().result()

    def _gate_probabilities(self, images: Sequence[DecodedImage]) -> list[float]:
        """Return the averaged gate probability of each image; 1 if no gate is left."""
        predictions = predict_members(self.ensemble, self.ensemble.gates, images, self.budget)
        if not predictions:
            return [1.0] * len(images)
        # Relative to the largest weight: equal weights become ones, and their sum is as exact as a plain one.
        largest = max(member.weight for member, _ in predictions)
        weights = [member.weight / largest for member, _ in predictions]
        # Rounded as in the out-of-fold file.
        by_member = [[round(float(value), 6) for value in values[:, 0]] for _, values in predictions]
        return [
            sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
            for values in zip(*by_member, strict=True)
        ]

    def _segment(self, passed: Sequence[PassedImage], pool: ThreadPoolExecutor) -> list[Future[Decision]]:
        """Predict masks; averaging, enlarging, the rule and encoding continue in threads."""
        ensemble = self.ensemble
        predictions = predict_members(ensemble, ensemble.masks, [item.image for item in passed], self.budget)
        weights = [member.weight for member, _ in predictions]
        maps = [rules.as_uint8(values) for _, values in predictions]

        def finish(index: int) -> Decision:
            image, gate = passed[index]
            if not maps:
                return Decision(image.image_id, gate, None)
            averaged = rules.average_maps([member_maps[index] for member_maps in maps], weights)
            full_size = resize_map(averaged, ensemble.size)
            masks = rules.decide(ensemble.rules, gate, full_size, ensemble.exclusive)
            return Decision(image.image_id, gate, self.encode(masks))

        return [pool.submit(finish, index) for index in range(len(passed))]

    def _keep_to_budget(self, images: int, waiting: int) -> None:
        """Report progress, and drop members that do not fit the time limit; arguments as for `Budget.needed_s`."""
        ensemble, budget = self.ensemble, self.budget
        if line := budget.progress_line(images, waiting, ensemble.gates, ensemble.masks):
            say(line)
        if budget.limit_s is None or not images:
            return
        gates, masks = budget.members_in_time(images, waiting, ensemble.gates, ensemble.masks)
        for member in [*ensemble.masks[::-1], *ensemble.gates[::-1]]:
            if member not in gates and member not in masks:
                ensemble.drop(member, "not enough time", budget.gated)
                if not ensemble.may_drop:
                    ensemble.degraded.append(f"{member.name} is dropped from image {budget.gated} on to save time.")


def _parts(images: Iterable[DecodedImage], step: int) -> Iterator[list[DecodedImage]]:
    part: list[DecodedImage] = []
    for image in images:
        part.append(image)
        if len(part) == step:
            yield part
            part = []
    if part:
        yield part


class _Prediction(NamedTuple):
    """A member's prediction for a batch, or the reason why there is none."""

    values: np.ndarray
    failure: str | None = None


def predict_members(
    ensemble: LoadedEnsemble, members: Sequence[ShippedMember], images: Sequence[DecodedImage], budget: Budget
) -> list[tuple[ShippedMember, np.ndarray]]:
    """Return the predictions of each member, in order; members on different devices run at once.

    A member that raises an error, or predicts NaN or infinity, is dropped from the ensemble.

    Args:
        ensemble: Loaded ensemble.
        members: Members to ask.
        images: Images of one step.
        budget: Measures the time of each member.
    """
    sizes = {InputSize(member.records, member.size) for member in members}
    batches = {size: stack_images(images, size) for size in sizes}
    queues: dict[str | None, list[ShippedMember]] = {}
    for member in members:
        queues.setdefault(ensemble.networks[member.name].device, []).append(member)

    def work(queue: Sequence[ShippedMember]) -> dict[str, _Prediction]:
        return {
            member.name: _predict_member(
                ensemble.networks[member.name], member, batches[InputSize(member.records, member.size)], budget
            )
            for member in queue
        }

    if len(queues) < 2:
        predictions = work(members)
    else:
        with ThreadPoolExecutor(len(queues)) as pool:
            results = pool.map(work, queues.values())
            predictions = {name: prediction for result in results for name, prediction in result.items()}
    usable = []
    for member in members:
        values, failure = predictions[member.name]
        if failure is None:
            usable.append((member, values))
        else:
            ensemble.degraded.append(f"{member.name} failed: {failure}.")
            ensemble.drop(member, failure, budget.gated)
    return usable


def _predict_member(network: LoadedMember, member: ShippedMember, batch: np.ndarray, budget: Budget) -> _Prediction:
    from gatemask.builders.prediction import build_views, predict_averaged

    tta_views = build_views(member.tta, member.augment, member.size, member.view_weights)
    try:
        values = budget.measure(member, len(batch), lambda: predict_averaged(network, batch, tta_views))
    except Exception as error:  # one that this member's operations cause on this device; the others may work
        return _Prediction(np.zeros(0), f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    return _Prediction(values, None if np.isfinite(values).all() else "it predicts NaN or infinity")
