"""A process of the device benchmark: one network in one framework, with an end that nothing can delay."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

CHILD = [sys.executable, str(Path(__file__).with_name("device_child.py"))]
GRACE_S = 2.0  # for the workers of a killed process to notice it and remove their shared memory


class Message(NamedTuple):
    """What a process wrote.

    Args:
        process: The process.
        content: Its message; None at its end.
    """

    process: Measurement
    content: dict[str, Any] | None


class Measurement:
    """A process that prepares a training step, then measures one round per request.

    Args:
        job: What it measures: the fields of `Network`, "framework" and the options of the command line.
        messages: Queue that gets its messages.
        log: File for its stderr.
        command: Command to run. Default: device_child.py.

    Attributes:
        ready: Facts of the prepared step, once it is prepared.
        rounds: Rounds measured so far, by way.
        fault: Why it ended early; None otherwise.
    """

    def __init__(
        self, job: dict[str, Any], messages: queue.Queue[Message], log: Path, command: Sequence[str] = CHILD
    ) -> None:
        self.job, self.log, self._started = job, log, time.monotonic()
        self.ready: dict[str, Any] | None = None
        self.rounds: dict[str, list[dict[str, Any]]] = {}
        self.fault: str | None = None
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*command, json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **environment(job)},
                start_new_session=True,
                text=True,
            )
        threading.Thread(target=self._forward, args=(messages,), daemon=True).start()

    @property
    def name(self) -> str:
        return str(self.job["framework"])

    @property
    def out_of_memory(self) -> bool:
        """Whether it ended because the device's memory was full."""
        return self.fault is not None and "memory" in self.fault.lower()

    def take(self, content: dict[str, Any] | None) -> None:
        """Note a message: facts of the prepared step, a round, a fault or the end."""
        if content is None:
            if self.fault is None:
                self.fault = f"the process ended: {self._last_words()}"
        elif "fault" in content:
            self.fault = content["fault"]
        elif "way" in content:
            self.rounds.setdefault(content["way"], []).append(content)
        else:
            self.ready = {**content, "prepared_s": round(time.monotonic() - self._started, 1)}

    def ask(self, way: str) -> None:
        """Request a round."""
        with suppress(OSError):  # its end is a message, too
            assert self._process.stdin is not None
            self._process.stdin.write(way + "\n")
            self._process.stdin.flush()

    def kill(self, fault: str | None = None) -> None:
        """Kill the process; `end` waits for what it started.

        Args:
            fault: Why it is killed before it was done. Default: it is done.
        """
        if self.fault is None:
            self.fault = fault
        self._process.kill()
        self._killed = time.monotonic()

    def end(self) -> None:
        """Wait for the killed process. Its own workers notice its end, and those that do not are killed, too."""
        self._process.wait()
        while _group_exists(self._process.pid) and time.monotonic() < self._killed + GRACE_S:
            time.sleep(0.02)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _forward(self, messages: queue.Queue[Message]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(json.JSONDecodeError):  # a line that was cut off by the end of the process
                messages.put(Message(self, json.loads(line)))
        self._process.wait()
        messages.put(Message(self, None))

    def _last_words(self) -> str:
        """Return how the process ended, and the last line of its log."""
        code = self._process.returncode
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"exit code {code}" + (f", {lines[-1][:200]}" if lines else "")


def environment(job: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a process.

    Several processes share the device, so none may claim all of its memory. PyTorch compiles into a folder of its own:
    the usual one would hide what compiling costs, and may hold files that were cut off when a process was killed.
    """
    compiled = f"{job['records']}/{job['name']}-{job['framework']}"
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": f"{compiled}-inductor",
        "TRITON_CACHE_DIR": f"{compiled}-triton",
    }


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
