"""A process that runs pieces: the other end of `local`.

    python -m gatemask.pieces.process FD

It reads JSON lines from stdin: one piece per line, at last `{"end": true}`. When stdin ends before that, the process
that started it is gone, and it ends at once: pieces survive being killed. To the file descriptor FD it writes JSON
lines: `{"line": text}` and `{"bar": [text, done, total]}` for the screen, and for each piece one of `value`, `error`
(one that the user can fix), `device` (the device does not work) or `fault` with its name. stdout and stderr go to the
log of the piece.
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
from gatemask.errors import GatemaskError
from gatemask.pieces.piece import BrokenDeviceError, Piece, call

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
    """Run pieces until stdin sends `end`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one to answer
    events, tasks = Events(int(sys.argv[1])), _read_tasks()
    console.relay_to(events)
    while "end" not in (task := tasks.get()):
        piece = Piece(**task)
        if piece.log is not None:
            _write_log(Path(piece.log))
        try:
            events.send(piece=piece.name, value=call(piece))
        except BrokenDeviceError as error:
            events.send(piece=piece.name, device=str(error))
        except GatemaskError as error:
            events.send(piece=piece.name, error=str(error))
        except Exception as error:  # a fault of gatemask or of a package: its traceback is in the log
            traceback.print_exc()
            sys.stderr.flush()
            events.send(piece=piece.name, fault=f"{type(error).__name__}: {error}")


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


if __name__ == "__main__":
    main()
