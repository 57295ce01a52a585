"""Time budget of a session: the `hours:` of a YAML, and whether the next piece of work still fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

MARGIN = 0.05  # share of the limit that is kept for work that is not measured


class TimeBudget:
    """Time limit that starts counting when it is created.

    Args:
        hours: Time limit, in hours; None for no limit.
        clock: Returns the time in seconds. Default: `time.monotonic`.
    """

    def __init__(self, hours: float | None, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or time.monotonic
        self._started = self.clock()
        self._limit_s = math.inf if hours is None else hours * 3600 * (1 - MARGIN)
        self._step_s = 0.0
        self._validation_s = 0.0

    @property
    def hours_left(self) -> float | None:
        """Hours that a budget starting now would need to end when this one does; None for no limit."""
        if math.isinf(self._limit_s):
            return None
        return (self._limit_s - (self.clock() - self._started)) / 3600 / (1 - MARGIN)

    @property
    def deadline(self) -> float | None:
        """Time at which this budget ends, as `time.time()` tells it in any process; None for no limit."""
        if math.isinf(self._limit_s):
            return None
        return time.time() + self._limit_s - (self.clock() - self._started)

    @classmethod
    def until(cls, deadline: float | None) -> TimeBudget:
        """Return a budget that ends at a deadline of another process."""
        return cls(None if deadline is None else (deadline - time.time()) / 3600 / (1 - MARGIN))

    def record_steps(self, seconds: float, steps: int) -> None:
        """Remember the duration of the latest training steps; it replaces earlier measurements."""
        self._step_s = seconds / max(1, steps)

    def record_validation(self, seconds: float) -> None:
        """Remember the duration of the latest pass over the validation fold."""
        self._validation_s = seconds

    def allows(self, steps: int = 0, validations: int = 0) -> bool:
        """Return whether this much work still fits. Work that was never measured counts as instantaneous.

        Args:
            steps: Number of training steps.
            validations: Number of passes over the validation fold.
        """
        needed = steps * self._step_s + validations * self._validation_s
        return self.clock() - self._started + needed < self._limit_s
