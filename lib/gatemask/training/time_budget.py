"""A session's time: `hours:` in a YAML, and whether the next piece of work still fits."""

from __future__ import annotations

import math
import time

MARGIN = 0.05  # of the limit, for what nobody measured


class Clock:
    """Counts from when it is made.

    Args:
        hours: the limit; None for none.
    """

    def __init__(self, hours: float | None) -> None:
        self._started = time.monotonic()
        self._limit_s = math.inf if hours is None else hours * 3600 * (1 - MARGIN)
        self._seconds: dict[str, float] = {}  # a unit of each kind of work, as it last took

    def took(self, kind: str, seconds: float, units: int = 1) -> None:
        """Remember how long so many units of a kind of work took."""
        self._seconds[kind] = seconds / max(1, units)

    def fits(self, **work: float) -> bool:
        """Whether so many units of each kind still fit; what was never measured counts as nothing."""
        needed = sum(self._seconds.get(kind, 0.0) * units for kind, units in work.items())
        return time.monotonic() - self._started + needed < self._limit_s
