"""Train several folds at the same time, each in a process of its own on a device of its own.

A free process takes the next fold. Each fold has the batch of one device, so its weights are those that it would get
alone, in whatever order folds begin. A process that dies takes only its fold with it: the others finish, and its device
trains no further fold. Locks, states and stamps are those of any training, so an interrupted command is run again.

runs/<comp>/<experiment>/logs/fold<k>.log   what the processes printed
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatemask.console import say, several_bars
from gatemask.errors import GatemaskError
from gatemask.parallel import CORES, cores
from gatemask.results.training import FoldResult
from gatemask.training.fold_inputs import TrainingInputs, written_settings
from gatemask.training.fold_job import Job, log_of
from gatemask.training.separate_devices import SeparateDevice, separate_devices
from gatemask.training.time_budget import TimeBudget

COMMAND = (sys.executable, "-P", "-m", "gatemask.training.fold_process")
NOT_BEGUN = "not begun in this session"
LOOK_S = 1.0  # between two looks at processes that say nothing
END_S = 10.0  # in which a process that is asked to end must do so
TAIL = 15  # lines of a log that are shown after a failure


@dataclass(frozen=True)
class FoldOutcome:
    """How far a fold was brought; exactly one is set.

    Args:
        result: Result of a finished fold.
        left: Remaining work of a fold that the time limit stopped, or that was not begun.
        error: Why it failed, with the path of its log.
    """

    result: FoldResult | None = None
    left: str | None = None
    error: str | None = None


OnOutcome = Callable[[int, FoldOutcome], object]


def devices_for(inputs: TrainingInputs, folds: Sequence[int]) -> list[SeparateDevice]:
    """Return the devices on which folds are trained side by side; none if the folds are to be trained in sequence.

    Raises:
        GatemaskError: The experiment asks for it, and this machine cannot.
    """
    if inputs.exp.runtime.folds == "sequence":
        return []
    devices = separate_devices(inputs.exp.runtime)
    unfinished = [fold for fold in folds if inputs.stage(fold).current() is None]
    if len(devices) < 2 or len(unfinished) < 2:
        return []
    if inputs.exp.batch.per_device == "auto" and inputs.found_batch is None:
        say(f"{inputs.exp.name}: its batch is not found yet, so this time its folds are trained one after the other.")
        return []
    return devices[: len(unfinished)]


def train_side_by_side(
    inputs: TrainingInputs,
    folds: Sequence[int],
    devices: Sequence[SeparateDevice],
    budget: TimeBudget,
    on_outcome: OnOutcome = lambda fold, outcome: None,
) -> dict[int, FoldOutcome]:
    """Train folds, one per device at a time, and return what became of each.

    Args:
        inputs: Inputs of the experiment.
        folds: Numbers of the folds, in the order in which they begin.
        devices: Devices, each for one process.
        budget: Time limit that all folds share.
        on_outcome: Called with each fold and its outcome as soon as it is known.
    """
    names = ", ".join(device.name for device in devices)
    say(f"{inputs.exp.name}: {len(folds)} folds, {len(devices)} side by side ({names}); logs in {_logs(inputs)}")
    with _Pool(inputs, folds, devices, budget, on_outcome) as pool:
        return pool.train()


def raise_failures(inputs: TrainingInputs, outcomes: Mapping[int, FoldOutcome]) -> None:
    """Raise one error for all folds that failed, if any did."""
    failed = {fold: outcome.error for fold, outcome in outcomes.items() if outcome.error is not None}
    if not failed:
        return
    kept = [str(fold) for fold, outcome in outcomes.items() if outcome.result is not None]
    raise GatemaskError(
        f"{len(failed)} of {len(outcomes)} folds of {inputs.exp.name} failed.",
        where=_logs(inputs),
        received="\n            ".join(f"fold {fold}: {error}" for fold, error in failed.items()),
        do=f"Fix the cause and run the same command again; finished folds are kept ({', '.join(kept) or 'none'}).",
    )


def _logs(inputs: TrainingInputs) -> Path:
    return inputs.project.runs / inputs.exp.name / "logs"


class _FoldProcess:
    """A running process, as seen from here.

    Args:
        device: Its device.
        job: Its task.
        share: Number of cores it may use for its input.
        events: Queue that receives each event of the process, and None at its end.
    """

    def __init__(
        self,
        device: SeparateDevice,
        job: Job,
        share: int,
        events: queue.SimpleQueue[tuple[_FoldProcess, dict[str, Any] | None]],
    ) -> None:
        self.device = device
        self.fold: int | None = None  # the one it trains
        self.ready = self.ended = False
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
        self.send(job.to_json())

    def _read(self, reader: int, events: queue.SimpleQueue[tuple[_FoldProcess, dict[str, Any] | None]]) -> None:
        with suppress(OSError, ValueError), os.fdopen(reader, encoding="utf-8") as lines:
            for line in lines:
                events.put((self, json.loads(line)))
        events.put((self, None))

    def send(self, line: str) -> None:
        """Send a line; a process that has died is noticed by its end, not here."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def begin(self, fold: int, hours: float | None) -> None:
        self.fold = fold
        self.send(json.dumps({"fold": fold, "hours": hours}))

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
    """Hands folds to processes, shows what they print, and ends them all when it is left.

    Args:
        inputs, folds, devices, budget, on_outcome: Those of `train_side_by_side`.
    """

    def __init__(
        self,
        inputs: TrainingInputs,
        folds: Sequence[int],
        devices: Sequence[SeparateDevice],
        budget: TimeBudget,
        on_outcome: OnOutcome,
    ) -> None:
        self._inputs, self._folds, self._devices, self._budget = inputs, folds, devices, budget
        self._on_outcome = on_outcome
        self._waiting = deque(folds)
        self._outcomes: dict[int, FoldOutcome] = {}
        self._events: queue.SimpleQueue[tuple[_FoldProcess, dict[str, Any] | None]] = queue.SimpleQueue()
        self._processes: list[_FoldProcess] = []
        self._exit = ExitStack()
        self._stopped = False  # by the time limit: nothing else may begin

    def __enter__(self) -> _Pool:
        self._draw = self._exit.enter_context(several_bars())
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._processes:
            running.ask_to_end()
        for running in self._processes:
            running.wait_or_kill()
        self._exit.close()

    def train(self) -> dict[int, FoldOutcome]:
        share = max(1, cores() // len(self._devices))
        for device in self._devices:
            job = _job(self._inputs, device)
            self._processes.append(_FoldProcess(device, job, share, self._events))
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
        for fold in self._waiting:
            self._record(fold, FoldOutcome(left=NOT_BEGUN))
        return {fold: self._outcomes[fold] for fold in self._folds}

    def _give_work(self, running: _FoldProcess) -> None:
        """Let a process begin the next fold, or end."""
        running.fold = None
        if self._waiting and not self._stopped and self._budget.allows():
            running.begin(self._waiting.popleft(), self._budget.hours_left)
        else:
            running.send(json.dumps({"end": True}))

    def _on_event(self, running: _FoldProcess, event: Mapping[str, Any]) -> None:
        if "line" in event:
            say(f"[{running.device.name}] {event['line']}")
        elif "bar" in event:
            self._draw(running.device.name, f"[{running.device.name}] {event['bar'][0]}", *event["bar"][1:])
        elif "ready" in event:
            running.ready = True
        else:
            self._on_fold_end(running, event)

    def _on_fold_end(self, running: _FoldProcess, event: Mapping[str, Any]) -> None:
        fold = int(event["fold"])
        if "result" in event:
            self._record(fold, self._checked(fold, FoldResult.model_validate(event["result"])))
        elif "left" in event:
            self._stopped = True  # another unfinished fold would be of no use
            self._record(fold, FoldOutcome(left=event["left"]))
        elif not running.ready:
            self._retire(running, event.get("error") or event["fault"])
            return
        elif "error" in event:
            self._record(fold, FoldOutcome(error=event["error"]))
        else:
            self._record_fault(fold, event["fault"])
        self._give_work(running)

    def _retire(self, running: _FoldProcess, reason: str) -> None:
        """Give the fold of a process whose device does not work to another one, if there is one."""
        fold, running.fold = running.fold, None
        assert fold is not None
        others = [
            other for other in self._processes if other is not running and not other.ended and other.fold is not None
        ]
        running.send(json.dumps({"end": True}))
        if others:
            say(f"[{running.device.name}] does not work, and trains no fold: {reason}")
            self._waiting.appendleft(fold)
        else:
            self._record_fault(fold, reason)

    def _on_end(self, running: _FoldProcess) -> None:
        """Account for a process that has ended."""
        if running.ended:
            return
        running.ended = True
        code = running.process.wait()
        if running.fold is None:
            return
        died = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code} and without a message"
        hint = "; 9 usually means that memory ran out" if code == -9 else ""
        self._record_fault(running.fold, f"Its process on {running.device.name} was {died}{hint}.")

    def _look_for_dead(self) -> None:
        for running in self._processes:
            if not running.ended and running.died_silently() and self._events.empty():
                self._on_end(running)

    def _record(self, fold: int, outcome: FoldOutcome) -> None:
        self._outcomes[fold] = outcome
        if outcome.error is not None:
            say(f"{self._inputs.exp.name} fold {fold} failed; the others continue. {outcome.error}")
        self._on_outcome(fold, outcome)

    def _record_fault(self, fold: int, reason: str) -> None:
        """Record a failure that the user could not foresee, and show the end of the log."""
        log = log_of(_logs(self._inputs), fold)
        with suppress(OSError):
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]:
                say(f"[fold {fold}] {line}")
        self._record(fold, FoldOutcome(error=f"{reason} Log: {log}"))

    def _checked(self, fold: int, result: FoldResult) -> FoldOutcome:
        """Return the outcome of a finished fold, or an error if its files were made from other inputs than ours."""
        if self._inputs.stage(fold).current() is None:
            return FoldOutcome(error="It was trained from other settings or data than the command began with.")
        return FoldOutcome(result=result)


def _job(inputs: TrainingInputs, device: SeparateDevice) -> Job:
    project = inputs.project
    return Job(
        root=str(project.root),
        comp=project.comp,
        quick=project.quick,
        overrides=list(project.overrides),
        competition=inputs.comp.model_dump(mode="json", exclude={"quick"}, exclude_none=True),
        experiment=written_settings(inputs.exp),
        kind=device.kind,
        logs=str(_logs(inputs)),
    )


def _python_path() -> str:
    """Return the folders in which this process looks for modules, for another Python."""
    return os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
