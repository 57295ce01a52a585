"""A process that trains folds on one device: the other end of `side_by_side`.

    python -m gatemask.training.fold_process FD

It reads JSON lines from stdin: first the `Job`, then one `{"fold": k, "hours": h}` per fold, at last `{"end": true}`.
When stdin ends before that, the process that started it is gone, and it ends at once: a state on disk is always whole.
To the file descriptor FD it writes JSON lines: `{"ready": true}` when its device answers, `{"line": text}` and `{"bar":
[text, done, total]}` for the screen, and for each fold one of `result`, `left`, `error` or `fault` with its number.
stdout and stderr go to the log of the fold that is being trained.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from gatemask import console
from gatemask.config import Competition, Experiment
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.training.fold_job import Job, log_of

BAR_PAUSE_S = 0.25  # between two reports of a progress bar
ABANDONED = 3  # exit code after the end of the process that started this one


class Events:
    """Writes events for the process that started this one; it is also the relay of the console."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # its end must be seen even if children of this process live on
        self._file = os.fdopen(fd, "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._bar_at = 0.0

    def send(self, **event: object) -> None:
        with self._lock:
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()

    def line(self, text: str) -> None:
        self.send(line=text)

    def bar(self, what: str, done: int, total: int | None) -> None:
        if time.monotonic() - self._bar_at > BAR_PAUSE_S:
            self._bar_at = time.monotonic()
            self.send(bar=[what, done, total])


def main() -> None:
    """Train folds until stdin sends `end`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one to answer
    events, tasks = Events(int(sys.argv[1])), _read_tasks()
    console.relay_to(events)
    job = Job(**tasks.get())
    project = Project(Path(job.root), job.comp, job.quick, tuple(job.overrides))
    comp, exp = Competition.model_validate(job.competition), Experiment.model_validate(job.experiment)
    from gatemask.tracking.wandb_run import finish_client
    from gatemask.training.fold_inputs import TrainingInputs

    inputs = TrainingInputs(project, comp, exp)
    ready = False
    while "end" not in (task := tasks.get()):
        fold = int(task["fold"])
        _write_log(log_of(Path(job.logs), fold))
        try:
            if not ready:
                _require_device(exp, job.kind)
                events.send(ready=True)
                ready = True
            events.send(fold=fold, **_outcome(inputs, fold, task["hours"]))
        except GatemaskError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            events.send(fold=fold, error=str(error))
        except Exception as error:  # a fault of gatemask or of a package: its traceback is in the log
            traceback.print_exc()
            sys.stderr.flush()
            events.send(fold=fold, fault=f"{type(error).__name__}: {error}")
    finish_client()


def _read_tasks() -> queue.SimpleQueue[dict[str, Any]]:
    """Return a queue of the lines of stdin, read by a thread that ends this process when they stop too early."""
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        # Unbuffered: Python cannot end while a thread waits in a buffered stdin.
        with open(0, "rb", buffering=0, closefd=False) as lines:
            for line in lines:
                task = json.loads(line)
                tasks.put(task)
                if "end" in task:
                    return
        os._exit(ABANDONED)

    threading.Thread(target=read, daemon=True, name="tasks").start()
    return tasks


def _write_log(path: Path) -> None:
    """Append all that this process prints from now on to a log, native libraries included."""
    sys.stdout.flush()
    sys.stderr.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}\n")
        log.flush()
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)


def _require_device(exp: Experiment, kind: str) -> None:
    """Raise if the device that this process was given does not work; Keras would silently take the CPU."""
    from gatemask.training.runtime import start_keras

    if kind == "gpu":
        start_keras(exp.runtime.model_copy(update={"accelerator": "gpu"}))


def _outcome(inputs: Any, fold: int, hours: float | None) -> dict[str, object]:
    from gatemask.training.time_budget import TimeBudget
    from gatemask.training.train import train_fold

    outcome = train_fold(inputs, fold, TimeBudget(hours), may_begin=True)
    if isinstance(outcome, FoldResult):
        return {"result": outcome.as_dict()}
    return {"left": outcome}


if __name__ == "__main__":
    main()
