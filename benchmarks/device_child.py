"""One network in one framework, as a process of the device benchmark.

Its argument is the job, as JSON. It writes a JSON line when the step is prepared; then it reads the name of a way per
line from stdin, measures one round and writes a JSON line. It ends with its stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parent))
MODULES = {"jax": "device_jax", "torch": "device_torch", "torch-compile": "device_torch"}


class Step(Protocol):
    """A prepared training step."""

    def facts(self) -> dict[str, Any]:
        """Return device, versions, parameters and the time of the preparation."""

    def measure(self, way: str, seconds: float) -> dict[str, Any]:
        """Measure a round of about the given time, and return `ms_per_step`, `steps` and `memory_mb`."""


def main(job: dict[str, Any]) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print belongs to the log
    requests = _read_requests()
    try:
        step: Step = importlib.import_module(MODULES[job["framework"]]).prepare(job)
        answers.write(json.dumps(step.facts()) + "\n")
        while True:
            way = requests.get()
            answers.write(json.dumps({"way": way, **step.measure(way, job["round_s"])}) + "\n")
    except Exception as error:
        import traceback

        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        answers.write(json.dumps({"fault": f"{type(error).__name__}: {lines[0][:200]}"}) + "\n")
        os._exit(1)  # threads of the input may still wait for the device


def _read_requests() -> queue.Queue[str]:
    """Return the queue of requests. The process ends with its parent, even while it compiles."""
    requests: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(line.strip())
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return requests


def steps_for(seconds: float, seconds_per_step: float) -> int:
    """Return how many steps to measure: about `seconds`, but at least three."""
    return max(3, min(300, round(seconds / max(seconds_per_step, 1e-6))))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
