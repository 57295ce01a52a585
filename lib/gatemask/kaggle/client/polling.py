"""Wait for Kaggle: one polling loop, and what counts as an outage that waiting outlasts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from gatemask.console import console, plain, say
from gatemask.kaggle.client.cli import RETRIED, KaggleError

# A kernel's status changes before its output does, so an output may be missing at first.
OUTPUT_ATTEMPTS = 20  # requests for an output that must exist, before it is given up
DOUBTFUL_ATTEMPTS = 3  # requests for an output that need not exist

T = TypeVar("T")


def poll(condition: Callable[[], T], every_s: float, message: str | None = None, timeout_s: float = math.inf) -> T:
    """Evaluate `condition` until it holds or the time is up, and return its last value.

    Args:
        condition: Asks Kaggle; a true value ends the wait.
        every_s: Pause between two requests, in seconds.
        message: Text of a spinner, such as "Waiting for Kaggle". Default: none; a condition that shows one itself needs
            that.
        timeout_s: Time limit, in seconds. Default: none.

    Returns:
        The last value of `condition`; it is false only after a timeout.
    """
    deadline = time.monotonic() + timeout_s
    with console().status(plain(message)) if message else nullcontext():
        while not (value := condition()) and time.monotonic() <= deadline:
            time.sleep(every_s)
    return value


@contextmanager
def tolerant() -> Iterator[None]:
    """Report network errors instead of raising them, so that waiting survives a night without a connection.

    Raises:
        KaggleError: Waiting cannot help: credentials, a refusal, a full disk.
    """
    try:
        yield
    except KaggleError as error:
        if error.kind not in RETRIED:
            raise
        say(f"{error.what} Continuing.")
