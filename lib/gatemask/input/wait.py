"""Measure how long the training step waits for its input."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import TypeVar

Batch = TypeVar("Batch")


class InputWait:
    """Clock readings of one pass over batches: two per batch, and one per step.

    A step waits from the end of the step before it until its batch is ready. Batches are prefetched, so one that is
    ready earlier costs nothing. Steps end when the device has finished them, however far ahead the host runs.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[float, float]] = []  # when each was asked for, and when it was ready
        self._ends: dict[int, float] = {}

    def watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, and note when each was asked for and ready."""
        noted = self._batches = []  # a second pass replaces the first
        asked = perf_counter()
        for batch in batches:
            noted.append((asked, perf_counter()))
            yield batch
            asked = perf_counter()

    def step_done(self, step: int) -> None:
        """Note that a step, counted from 0, has ended. Any thread may call it."""
        self._ends[step] = perf_counter()

    def seconds(self, start: int = 0) -> float:
        """Return the time in which steps waited for their batches, in seconds.

        Args:
            start: First step to count. Default: 0.
        """
        waited = latest = 0.0
        for step, (asked, ready) in enumerate(list(self._batches)):
            waited += max(0.0, ready - max(asked, latest)) if step >= start else 0.0
            latest = max(latest, self._ends.get(step, latest))
        return waited
