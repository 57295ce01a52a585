"""The members of an ensemble in memory, and their predictions of a batch; members that fail are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gatemask.console import say
from gatemask.inference.budget import Budget
from gatemask.inference.images import DecodedImage, InputSize, stack_images
from gatemask.inference.networks import LoadedMember
from gatemask.masks.rule import Rule
from gatemask.results.ensemble import ShippedMember
from gatemask.results.submission import DroppedMember


@dataclass
class LoadedEnsemble:
    """Members in memory, with the decision rule.

    Args:
        gates: Gates, most important first: where time runs out, the last ones are dropped.
        masks: Mask networks, most important first.
        networks: Loaded members by name.
        rules: One rule per class.
        border: Whether mask networks have an additional output, for borders between objects. Default: False.
        degraded: What went wrong, one sentence each.
        dropped: Members that were dropped.
        may_drop: Whether a time budget permits dropping members; otherwise a drop counts as a fault. Default: False.
    """

    gates: list[ShippedMember]
    masks: list[ShippedMember]
    networks: dict[str, LoadedMember]
    rules: list[Rule]
    border: bool = False
    degraded: list[str] = field(default_factory=list)
    dropped: list[DroppedMember] = field(default_factory=list)
    may_drop: bool = False

    @property
    def outputs(self) -> int:
        """Number of maps of a mask network."""
        return len(self.rules) + self.border

    @property
    def by_quantile(self) -> bool:
        """Whether a share of the images passes, so that the gates must have seen all images first."""
        return any(rule.quantile for rule in self.rules)

    def passes(self, gates: Sequence[float]) -> bool:
        """Return whether an image needs a mask, by its gate probability, or quantile, for each class."""
        return any(gate >= rule.gate for gate, rule in zip(gates, self.rules, strict=True))

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
    sizes = {InputSize.of(member) for member in members}
    batches = {size: stack_images(images, size) for size in sizes}
    queues: dict[str | None, list[ShippedMember]] = {}
    for member in members:
        queues.setdefault(ensemble.networks[member.name].device, []).append(member)

    def work(queue: Sequence[ShippedMember]) -> dict[str, _Prediction]:
        return {
            member.name: _predict_member(ensemble.networks[member.name], member, batches[InputSize.of(member)], budget)
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
