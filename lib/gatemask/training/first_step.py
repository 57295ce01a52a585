"""Show and measure the first step of a model, which compiles it: seconds on TensorFlow, minutes on JAX."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter

from gatemask.console import is_drawing, say, status


class FirstStep:
    """The wait for the first step of a model in this process.

    A log gets a line at the beginning and one at the end. On a terminal, `note` is shown in between.

    Args:
        what: What is compiled, such as "unet_b0, training step".
        is_awaited: Whether the next step is the first one. Otherwise nothing is shown.
        clock: Returns the time in seconds. Default: `time.perf_counter`.

    Attributes:
        seconds: Duration of the wait, in seconds, once it is over; 0 if there was none.
    """

    def __init__(self, what: str, is_awaited: bool, clock: Callable[[], float] = perf_counter) -> None:
        self.is_awaited, self.seconds = is_awaited, 0.0
        self._what, self._clock = what, clock
        self._started: float | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Start the clock, right before the step."""
        if self.is_awaited and self._started is None:
            self._started = self._clock()
            if not is_drawing():
                say(f"{self._what}: compiling")

    def done(self) -> None:
        """Note that a step has ended; only the first one counts. Any thread may call it."""
        with self._lock:
            if not self.is_awaited or self._started is None:
                return
            self.is_awaited, self.seconds = False, self._clock() - self._started
        say(f"{self._what}: compiled in {self.seconds:.0f} s")

    def note(self) -> str:
        """Return "compiling, 40 s" during the wait, otherwise an empty text."""
        waiting = self.is_awaited and self._started is not None
        return f"compiling, {self._clock() - (self._started or 0.0):.0f} s" if waiting else ""

    def shown(self) -> AbstractContextManager[None]:
        """Show `note` inside the block where no progress bar does."""
        return status(lambda: f"{self._what}: {note}" if (note := self.note()) else "")
