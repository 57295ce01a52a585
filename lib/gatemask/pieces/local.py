"""Run pieces side by side on this machine, each in a process on a device of its own.

A free process takes the next piece. A process that dies takes only its piece with it: the others finish, and its device
runs no further piece. All processes end with the one that started them.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gatemask.console import say, several_bars
from gatemask.parallel import CORES, cores
from gatemask.pieces.devices import Device, devices_for
from gatemask.pieces.piece import OnOutcome, Outcome, Piece, always, ignore

COMMAND = (sys.executable, "-P", "-m", "gatemask.pieces.process")
LOOK_S = 1.0  # between two looks at processes that say nothing
END_S = 10.0  # in which a process that is asked to end must do so
TAIL = 15  # lines of a log that are shown after a failure


@dataclass(frozen=True)
class Local:
    """This machine.

    Args:
        devices: Devices, each for one process. Default: as many as the pieces need and cores and memory allow.
    """

    devices: Sequence[Device] | None = None

    def slots(self, piece: Piece) -> int:
        """Return how many pieces of this kind run at once."""
        return len(self.devices or devices_for(piece))

    def run(
        self, pieces: Sequence[Piece], on_outcome: OnOutcome = ignore, may_begin: Callable[[], bool] = always
    ) -> dict[str, Outcome]:
        """Run pieces as `Place.run` says."""
        if not pieces:
            return {}
        devices = (self.devices or devices_for(pieces[0]))[: len(pieces)]
        with _Pool(pieces, devices, on_outcome, may_begin) as pool:
            return pool.run()


class _Process:
    """A running process, as seen from here.

    Args:
        device: Its device.
        share: Number of cores it may use.
        events: Queue that receives each event of the process, and None at its end.
    """

    def __init__(
        self, device: Device, share: int, events: queue.SimpleQueue[tuple[_Process, dict[str, Any] | None]]
    ) -> None:
        self.device = device
        self.piece: Piece | None = None  # the one it runs
        self.ended = False
        reader, writer = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*COMMAND, str(writer)],
                stdin=subprocess.PIPE,
                pass_fds=(writer,),
                env={**os.environ, **device.environment, CORES: str(share), "PYTHONPATH": _python_path()},
                start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._thread = threading.Thread(target=self._read, args=(reader, events), daemon=True)
        self._thread.start()

    def _read(self, reader: int, events: queue.SimpleQueue[tuple[_Process, dict[str, Any] | None]]) -> None:
        with suppress(OSError, ValueError), os.fdopen(reader, encoding="utf-8") as lines:
            for line in lines:
                events.put((self, json.loads(line)))
        events.put((self, None))

    def send(self, task: Mapping[str, object]) -> None:
        """Send a task; a process that has died is noticed by its end, not here."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(f"{json.dumps(task)}\n".encode())
            self.process.stdin.flush()

    def begin(self, piece: Piece) -> None:
        self.piece = piece
        self.send(asdict(piece))

    def died_silently(self) -> bool:
        """Return whether the process is dead and all of its events have been read, or can never be."""
        if self.process.poll() is None:
            return False
        self._thread.join(LOOK_S)
        return True

    def ask_to_end(self) -> None:
        """Close stdin: a process that still expects work ends at once."""
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def wait_or_kill(self) -> None:
        for end in (lambda: None, self.process.terminate, self.process.kill):
            end()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_S)
                return


class _Pool:
    """Hands pieces to processes, shows what they print, and ends them all when it is left.

    Args:
        pieces, on_outcome, may_begin: Those of `Place.run`.
        devices: One per process.
    """

    def __init__(
        self, pieces: Sequence[Piece], devices: Sequence[Device], on_outcome: OnOutcome, may_begin: Callable[[], bool]
    ) -> None:
        self._pieces, self._devices = pieces, devices
        self._on_outcome, self._may_begin = on_outcome, may_begin
        self._waiting = deque(pieces)
        self._outcomes: dict[str, Outcome] = {}
        self._events: queue.SimpleQueue[tuple[_Process, dict[str, Any] | None]] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        self._exit = ExitStack()

    def __enter__(self) -> _Pool:
        self._draw = self._exit.enter_context(several_bars())
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._processes:
            running.ask_to_end()
        for running in self._processes:
            running.wait_or_kill()
        self._exit.close()

    def run(self) -> dict[str, Outcome]:
        share = max(1, cores() // len(self._devices))
        for device in self._devices:
            self._processes.append(_Process(device, share, self._events))
            self._give_work(self._processes[-1])
        while any(not running.ended for running in self._processes):
            try:
                running, event = self._events.get(timeout=LOOK_S)
            except queue.Empty:
                self._look_for_dead()
                continue
            if event is None:
                self._on_end(running)
            else:
                self._on_event(running, event)
        return {piece.name: self._outcomes[piece.name] for piece in self._pieces if piece.name in self._outcomes}

    def _give_work(self, running: _Process) -> None:
        """Let a process begin the next piece, or end."""
        running.piece = None
        if self._waiting and self._may_begin():
            running.begin(self._waiting.popleft())
        else:
            running.send({"end": True})

    def _on_event(self, running: _Process, event: Mapping[str, Any]) -> None:
        if "line" in event:
            say(f"[{running.device.name}] {event['line']}")
        elif "bar" in event:
            self._draw(running.device.name, f"[{running.device.name}] {event['bar'][0]}", *event["bar"][1:])
        elif "device" in event:
            self._retire(running, event["device"])
        else:
            assert running.piece is not None
            if "value" in event:
                self._record(running.piece, Outcome(event["value"]))
            elif "error" in event:
                self._record(running.piece, Outcome(error=event["error"]))
            else:
                self._record_fault(running.piece, event["fault"])
            self._give_work(running)

    def _retire(self, running: _Process, reason: str) -> None:
        """Give the piece of a process whose device does not work to another one, if there is one."""
        piece, running.piece = running.piece, None
        assert piece is not None
        others = [
            other for other in self._processes if other is not running and not other.ended and other.piece is not None
        ]
        running.send({"end": True})
        if others:
            say(f"[{running.device.name}] does not work, and runs nothing: {reason}")
            self._waiting.appendleft(piece)
        else:
            self._record_fault(piece, reason)

    def _on_end(self, running: _Process) -> None:
        """Account for a process that has ended."""
        if running.ended:
            return
        running.ended = True
        code = running.process.wait()
        if running.piece is None:
            return
        died = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code} and without a message"
        hint = "; 9 usually means that memory ran out" if code == -9 else ""
        self._record_fault(running.piece, f"Its process on {running.device.name} was {died}{hint}.")

    def _look_for_dead(self) -> None:
        for running in self._processes:
            if not running.ended and running.died_silently() and self._events.empty():
                self._on_end(running)

    def _record(self, piece: Piece, outcome: Outcome) -> None:
        self._outcomes[piece.name] = outcome
        if outcome.error is not None:
            say(f"{piece.name} failed; the others continue. {outcome.error}")
        self._on_outcome(piece, outcome)

    def _record_fault(self, piece: Piece, reason: str) -> None:
        """Record a failure that the user could not foresee, and show the end of the log."""
        if piece.log is None:
            self._record(piece, Outcome(error=reason))
            return
        with suppress(OSError):
            for line in Path(piece.log).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]:
                say(f"[{piece.name}] {line}")
        self._record(piece, Outcome(error=f"{reason} Log: {piece.log}"))


def _python_path() -> str:
    """Return the folders in which this process looks for modules, for another Python."""
    return os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
