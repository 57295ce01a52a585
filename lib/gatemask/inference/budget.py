"""Time while the kernel runs: what each member takes, what is left to do, and which members still fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gatemask.inference.networks import Member

RESERVE_S = 30.0  # for the last masks, and the file
STEPS = 3  # of the gates, before anything is concluded from their time
DEARER = 3  # times that a mask network takes as long as a gate, until one of them is seen
TELL_S = 60.0  # between two lines on what is left: a kernel's log has no progress bar
PRIOR = 20.0  # images as many as which the expected share counts, before images were seen


@dataclass
class Spent:
    """What a member took so far."""

    images: int = 0
    seconds: float = 0.0

    @property
    def each(self) -> float:
        """Seconds an image; 0 before anything is known."""
        return self.seconds / self.images if self.images else 0.0


@dataclass
class Budget:
    """A limit on time, if there is one, and the measurements to keep to it.

    Args:
        limit_s: seconds since `started`; None for no limit.
        started: of the clock.
        expected_share: of images that will pass the gate, until it is seen.
        clock: seconds.
        at_once: members that run side by side, each on a device of its own.
    """

    limit_s: float | None
    started: float
    expected_share: float = 0.5
    clock: Callable[[], float] = time.monotonic
    at_once: int = 1
    spent: dict[str, Spent] = field(default_factory=dict)
    seen: int = 0
    passed: int = 0
    steps: int = 0
    _began: float | None = None
    _told: float | None = None

    def begin(self) -> None:
        """The first image comes now; what was before is not paid again for every image."""
        self._began = self._told = self.clock()

    def measure(self, member: Member, images: int, work: Callable[[], object]) -> object:
        """Do a member's step, and note how long it took."""
        before = self.clock()
        found = work()
        took = self.clock() - before
        of = self.spent.setdefault(member.name, Spent())
        of.images, of.seconds = of.images + images, of.seconds + took
        return found

    def saw(self, images: int) -> None:
        """So many images more have been through the gates."""
        self.seen, self.steps = self.seen + images, self.steps + 1

    @property
    def share(self) -> float:
        """Of images that pass the gate."""
        return (self.passed + PRIOR * self.expected_share) / (self.seen + PRIOR)

    def left_s(self) -> float:
        """Until the file has to be written."""
        if self.limit_s is None:
            return float("inf")
        return self.limit_s - RESERVE_S - (self.clock() - self.started)

    def is_up(self) -> bool:
        return self.left_s() <= 0

    def needed_s(self, images: int, waiting: int, gates: Sequence[Member], masks: Sequence[Member]) -> float:
        """Seconds for what is left.

        Args:
            images: that no gate has seen yet.
            waiting: that have passed, and that no mask network has seen.
        """
        shown = images * self.share + waiting
        of_gates = [self._each(one, 0.0) for one in gates]
        unseen = DEARER * sum(of_gates) / max(1, len(gates))
        members = images * sum(of_gates) + shown * sum(self._each(one, unseen) for one in masks)
        return images * self._besides() + members / self.at_once

    def tell(self, images: int, waiting: int, gates: Sequence[Member], masks: Sequence[Member]) -> str | None:
        """Now and then a line on how far it is and how long it will take; arguments as of `needed_s`."""
        now = self.clock()
        if self._told is None or now - self._told < TELL_S:
            return None
        self._told = now
        left = self.needed_s(images, waiting, gates, masks) / 60
        return (
            f"{self.seen} of {self.seen + images} images, {self.passed} passed the gate; about {left:.1f} minutes left"
        )

    def _each(self, member: Member, unseen: float) -> float:
        known = self.spent.get(member.name)
        return known.each if known and known.images else unseen

    @property
    def an_image(self) -> float:
        """Seconds an image so far, all in all."""
        return (self.clock() - self._began) / self.seen if self._began is not None and self.seen else 0.0

    def _besides(self) -> float:
        """Seconds an image that no member accounts for: decoding that could not be hidden, averaging, encoding."""
        if self._began is None or not self.seen:
            return 0.0
        members = sum(one.seconds for one in self.spent.values())
        return max(0.0, self.clock() - self._began - members / self.at_once) / self.seen

    def fitting(
        self, images: int, waiting: int, gates: Sequence[Member], masks: Sequence[Member]
    ) -> tuple[list[Member], list[Member]]:
        """The members that still fit: the last masks go first, then the last gates; one of each stays."""
        kept, shown = list(gates), list(masks)
        if self.steps < STEPS:
            return kept, shown
        while self.needed_s(images, waiting, kept, shown) > self.left_s():
            if len(shown) > 1:
                shown.pop()
            elif len(kept) > 1:
                kept.pop()
            else:
                break
        return kept, shown
