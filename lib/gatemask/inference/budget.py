"""Measure time while the kernel runs, estimate what is left, and choose the members that still fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from gatemask.results.ensemble import ShippedMember

RESERVE_S = 30.0  # for the last masks, and the file
MIN_STEPS = 3  # steps of the gates before their times are trusted
ASSUMED_MASK_COST = 3  # time of a mask network relative to a gate, until one has been measured
PROGRESS_S = 60.0  # between two progress lines: a kernel's log has no progress bar
PRIOR_IMAGES = 20.0  # weight of the expected share of passing images, as a number of images

Output = TypeVar("Output")


@dataclass
class TimeSpent:
    """Images, or tiles, and seconds of one member so far."""

    images: int = 0
    seconds: float = 0.0

    @property
    def per_image(self) -> float:
        """Seconds per image; 0 before the first measurement."""
        return self.seconds / self.images if self.images else 0.0


@dataclass
class Budget:
    """A time limit and the measurements needed to keep it.

    Args:
        limit_s: Time limit in seconds, counted from `started`; None for no limit.
        started: Value of the clock when the kernel began.
        expected_share: Expected share of images that pass the gate. Default: 0.5.
        clock: Returns seconds. Default: `time.monotonic`.
        parallel_members: Number of members that run side by side, each on its own device. Default: 1.

    Attributes:
        spent: Time of each member, by name.
        gated: Number of images that have been through the gates.
        inputs: Number of inputs that each gate was given for them: as many, or more where images are cut into tiles.
        passed: Number of images that passed them.
        steps: Number of steps of the gates.
    """

    limit_s: float | None
    started: float
    expected_share: float = 0.5
    clock: Callable[[], float] = time.monotonic
    parallel_members: int = 1
    spent: dict[str, TimeSpent] = field(default_factory=dict)
    gated: int = 0
    inputs: int = 0
    passed: int = 0
    steps: int = 0
    _first_image_at: float | None = None
    _last_progress_at: float | None = None

    def start_images(self) -> None:
        """Note that the first image comes now; time before that is not counted per image."""
        self._first_image_at = self._last_progress_at = self.clock()

    def measure(self, member: ShippedMember, images: int, work: Callable[[], Output]) -> Output:
        """Run one step of a member, note how long it took, and return its output."""
        before = self.clock()
        output = work()
        seconds = self.clock() - before
        spent = self.spent.setdefault(member.name, TimeSpent())
        spent.images, spent.seconds = spent.images + images, spent.seconds + seconds
        return output

    def count_gated(self, images: int, inputs: int | None = None) -> None:
        """Count a step of images that have been through the gates.

        Args:
            images: Number of images.
            inputs: Number of inputs they were cut into. Default: one per image.
        """
        self.gated, self.inputs = self.gated + images, self.inputs + (images if inputs is None else inputs)
        self.steps += 1

    @property
    def inputs_per_image(self) -> float:
        """Number of inputs, such as tiles, that an image has; 1 before the first image."""
        return self.inputs / self.gated if self.gated else 1.0

    @property
    def share(self) -> float:
        """Estimated share of images that pass the gate."""
        return (self.passed + PRIOR_IMAGES * self.expected_share) / (self.gated + PRIOR_IMAGES)

    def left_s(self) -> float:
        """Return the seconds left until the file must be written."""
        if self.limit_s is None:
            return float("inf")
        return self.limit_s - RESERVE_S - (self.clock() - self.started)

    def is_up(self) -> bool:
        """Return whether no time is left."""
        return self.left_s() <= 0

    def needed_s(
        self, images: int, waiting: int, gates: Sequence[ShippedMember], masks: Sequence[ShippedMember]
    ) -> float:
        """Estimate the seconds that the remaining work takes.

        Args:
            images: Number of images that have not been through the gates.
            waiting: Number of images that passed and wait for the mask networks.
            gates: Gates in use.
            masks: Mask networks in use.
        """
        to_gate = images * self.inputs_per_image
        to_segment = (images * self.share + waiting) * self.inputs_per_image
        gate_times = [self._per_image(member, 0.0) for member in gates]
        assumed = ASSUMED_MASK_COST * sum(gate_times) / max(1, len(gates))
        mask_times = [self._per_image(member, assumed) for member in masks]
        members = to_gate * sum(gate_times) + to_segment * sum(mask_times)
        return images * self._overhead_per_image() + members / self.parallel_members

    def progress_line(
        self, images: int, waiting: int, gates: Sequence[ShippedMember], masks: Sequence[ShippedMember]
    ) -> str | None:
        """Return a line on progress and remaining time, at most once a minute; arguments as for `needed_s`."""
        now = self.clock()
        if self._last_progress_at is None or now - self._last_progress_at < PROGRESS_S:
            return None
        self._last_progress_at = now
        minutes = self.needed_s(images, waiting, gates, masks) / 60
        total = self.gated + images
        return f"{self.gated} of {total} images, {self.passed} passed the gate; about {minutes:.1f} minutes left"

    def _per_image(self, member: ShippedMember, assumed: float) -> float:
        spent = self.spent.get(member.name)
        return spent.per_image if spent and spent.images else assumed

    @property
    def seconds_per_image(self) -> float:
        """Seconds per image so far, everything included."""
        if self._first_image_at is None or not self.gated:
            return 0.0
        return (self.clock() - self._first_image_at) / self.gated

    def _overhead_per_image(self) -> float:
        """Seconds per image outside of members: decoding that could not be hidden, averaging, encoding."""
        if self._first_image_at is None or not self.gated:
            return 0.0
        members = sum(spent.seconds for spent in self.spent.values())
        return max(0.0, self.clock() - self._first_image_at - members / self.parallel_members) / self.gated

    def members_in_time(
        self, images: int, waiting: int, gates: Sequence[ShippedMember], masks: Sequence[ShippedMember]
    ) -> tuple[list[ShippedMember], list[ShippedMember]]:
        """Return the gates and mask networks that still fit.

        The last mask networks are dropped first, then the last gates; one of each is always kept. Arguments as for
        `needed_s`.
        """
        kept_gates, kept_masks = list(gates), list(masks)
        if self.steps < MIN_STEPS:
            return kept_gates, kept_masks
        while self.needed_s(images, waiting, kept_gates, kept_masks) > self.left_s():
            if len(kept_masks) > 1:
                kept_masks.pop()
            elif len(kept_gates) > 1:
                kept_gates.pop()
            else:
                break
        return kept_gates, kept_masks
