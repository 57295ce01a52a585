"""Calls of a client that may fail in any way, end the process or never return, while the training continues."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(eq=False)
class _Call:
    """A call, and what became of it.

    Args:
        what: Name for messages.
        function: The call.
        limit_s: Time limit, in seconds from its beginning.
    """

    what: str
    function: Callable[[], object]
    limit_s: float
    began: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    began_at: float = 0.0
    error: BaseException | None = None


class GuardedCalls:
    """Makes calls in order, in a thread of its own that never keeps the process from ending.

    After a call that failed or took too long, the calls that follow are left out.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._queue: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._pending: deque[_Call] = deque()
        self._thread: threading.Thread | None = None

    def add(self, what: str, function: Callable[[], object], limit_s: float) -> bool:
        """Queue a call, and return whether all earlier ones are sound so far. Does not wait.

        Args:
            what: Name for messages.
            function: The call.
            limit_s: Time limit, in seconds from its beginning.
        """
        if not self.check():
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="guarded calls", daemon=True)
            self._thread.start()
        call = _Call(what, function, limit_s)
        self._pending.append(call)
        self._queue.put(call)
        return True

    def check(self) -> bool:
        """Return whether no call failed, and none has been running for longer than its limit."""
        while self._pending and self.failure is None:
            call = self._pending[0]
            overdue = call.began.is_set() and time.monotonic() - call.began_at > call.limit_s
            if not call.done.is_set() and not overdue:
                break
            self._settle(call)
        return self.failure is None

    def wait(self) -> bool:
        """Wait for all calls, each as long as its limit allows, and return whether all succeeded."""
        while self._pending and self.failure is None:
            call = self._pending[0]
            call.began.wait()  # soon: the calls before it have ended
            call.done.wait(max(0.0, call.limit_s - (time.monotonic() - call.began_at)))
            self._settle(call)
        return self.failure is None

    def _settle(self, call: _Call) -> None:
        self._pending.popleft()
        if not call.done.is_set():
            self.failure = f"{call.what} did not return within {call.limit_s:.0f} s"
        elif isinstance(call.error, KeyboardInterrupt):
            raise call.error
        elif call.error is not None:
            self.failure = f"{call.what} failed: {type(call.error).__name__}: {call.error}"

    def _work(self) -> None:
        while self.failure is None:
            call = self._queue.get()
            call.began_at = time.monotonic()
            call.began.set()
            try:
                call.function()
            except BaseException as error:  # SystemExit too: some clients call sys.exit
                call.error = error
                call.done.set()
                return
            call.done.set()


def call_guarded(what: str, function: Callable[[], object], limit_s: float) -> str | None:
    """Make one call, and return what went wrong; None if nothing did.

    Args:
        what: Name for messages.
        function: The call.
        limit_s: Time limit, in seconds.
    """
    calls = GuardedCalls()
    calls.add(what, function, limit_s)
    calls.wait()
    return calls.failure


def kill_children(program: str) -> None:
    """Kill those child processes of this one that run a program; nothing on systems without /proc.

    A client whose helper process hangs would otherwise wait for it when Python exits.
    """
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for child in path.read_text().split():
                with suppress(OSError):
                    command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]
                    if Path(os.fsdecode(command)).name == program:
                        os.kill(int(child), signal.SIGKILL)
