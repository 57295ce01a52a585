"""`gatemask push | status | wait | logs | fetch | resume`: kernels that train, each command as often as one likes.

All of them work on the lanes below runs/<comp>/kaggle/. A command that was killed is run again: what it had begun is
looked up on Kaggle and not done twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gatemask.config import Competition, Experiment
from gatemask.console import console, say, table
from gatemask.errors import GatemaskError
from gatemask.kaggle.client import account, api
from gatemask.kaggle.client.api import ENDED
from gatemask.kaggle.client.cli import RETRIED, KaggleError
from gatemask.kaggle.client.polling import tolerant
from gatemask.kaggle.image.machines import machine
from gatemask.kaggle.train import collect, dispatch, kernel_records
from gatemask.kaggle.train.dispatch import Options
from gatemask.kaggle.train.kernel_records import Lane
from gatemask.project import Project


def push(
    project: Project, comp: Competition, exp: Experiment, folds: Sequence[int] | None, opts: Options
) -> dict[str, Any]:
    """Send the folds of an experiment that are neither done nor in hand, on as many kernels as run at once.

    Returns:
        current (nothing was pushed), experiment, pushed (one entry a kernel), in_hand (folds).
    """
    with account.exclusive(project):
        every = kernel_records.load(project)
        dispatch.settle(project, every)
        refresh(project, [lane for lane in every if lane.experiment == exp.name], [])
        todo = dispatch.unfinished(project, comp, exp, folds)
        in_hand = sorted(dispatch.away(every, exp.name) & set(todo))
        todo = [fold for fold in todo if fold not in in_hand]
        if in_hand:
            say(f"{exp.name}: folds {', '.join(map(str, in_hand))} are in the hands of a kernel already")
        pushed = _start(project, comp, exp, todo, every, opts) if todo else []
    entries = [_entry(lane) for lane in pushed]
    return {"current": not pushed, "experiment": exp.name, "pushed": entries, "in_hand": in_hand}


def _start(
    project: Project, comp: Competition, exp: Experiment, folds: list[int], every: list[Lane], opts: Options
) -> list[Lane]:
    wanted = machine(comp, exp)
    free = dispatch.room(every, wanted)
    if free < 1:
        raise GatemaskError(
            "Kaggle runs no more kernels on such machines at once.",
            where=wanted.name,
            received=", ".join(lane.ref for lane in every if lane.active),
            expected=f"fewer than {wanted.at_once} running",
            do=f"gatemask wait {project.comp}, then push again; gatemask campaign {project.comp} does both.",
        )
    name = account.owner(comp)
    chosen = dispatch.plan(every, project.label, name, exp, folds, free)
    ready: dict[str, int] = {}
    pushed = [dispatch.start(project, comp, exp, lane, every, opts, ready) for lane in chosen]
    if left := sorted(set(folds) - {fold for lane in pushed for fold in lane.folds}):
        say(f"{exp.name}: folds {_joined(left)} wait, since no more kernels run at once; push again later")
    return pushed


def resume(project: Project, comp: Competition, exp: Experiment, opts: Options) -> dict[str, Any]:
    """Push again what was stopped by its time limit, failed or was lost, with the last output attached."""
    with account.exclusive(project):
        every = kernel_records.load(project)
        dispatch.settle(project, every)
        own = [lane for lane in every if lane.experiment == exp.name]
        refresh(project, own, [])
        left = {fold for fold, done in _last_sessions(own).items() if not done}
        todo = left & set(dispatch.unfinished(project, comp, exp, None)) - dispatch.away(every, exp.name)
        pushed = _start(project, comp, exp, sorted(todo), every, opts) if todo else []
    return {"current": not pushed, "pushed": [_entry(lane) for lane in pushed]}


def _last_sessions(own: Sequence[Lane]) -> dict[int, bool]:
    """Of each fold that was ever pushed, whether its last session finished it."""
    pushes = sorted((push for lane in own for push in lane.pushes), key=lambda push: push.at)
    return {fold: fold in push.done for push in pushes for fold in push.folds}


def refresh(project: Project, every: Sequence[Lane], home: list[Lane], quietly: bool = True) -> None:
    """Ask for each running kernel, and fetch those that ended; what came home is added to `home`.

    Raises:
        KaggleError: of the first kernel with which something went wrong, after all others were asked for.
    """
    trouble: KaggleError | None = None
    for lane in every:
        if not lane.active:
            continue
        try:
            if _ask(project, lane, quietly):
                home.append(lane)
        except KaggleError as error:
            if error.kind not in RETRIED:
                raise
            trouble = trouble or error
    if trouble:
        raise trouble


def _ask(project: Project, lane: Lane, quietly: bool) -> bool:
    """Whether the kernel has ended and its output is here."""
    status = api.kernel_status(lane.ref)
    if status.word != lane.last.word or not quietly:
        say(f"{lane.ref}: {status.word}" + (f", {status.message}" if status.message else ""))
    if status.word != lane.last.word:
        lane.last.word, lane.last.message = status.word, status.message
        kernel_records.save(project, lane)
    if status.word not in ENDED or not collect.collect(project, lane):
        return False
    say(f"{lane.ref}: {_told(lane)}")
    return True


def fetch(project: Project, chosen: str | None) -> dict[str, Any]:
    """Bring home what has ended; what still runs is left."""
    home: list[Lane] = []
    with account.exclusive(project):
        every = _of(project, chosen)
        dispatch.settle(project, every)
        refresh(project, every, home, quietly=False)
    running = [lane.ref for lane in every if lane.active]
    return {"current": not home, "fetched": [_entry(lane) for lane in home], "running": running}


def wait(project: Project, chosen: str | None, poll_s: float) -> dict[str, Any]:
    """Until no kernel runs any more; each is fetched as soon as it ends."""
    home: list[Lane] = []
    with account.exclusive(project):
        every = _of(project, chosen)
        settle = True
        for _ in polls(every, poll_s):
            with tolerant():
                if settle:
                    dispatch.settle(project, every)
                    settle = False
                refresh(project, every, home)
    return {"current": not home, "fetched": [_entry(lane) for lane in home]}


def polls(every: Sequence[Lane], poll_s: float) -> Iterator[None]:
    """Once, and again with pauses as long as any kernel is in hand."""
    with console().status("waiting for Kaggle"):
        while any(lane.active for lane in every):
            yield
            if any(lane.active for lane in every):
                time.sleep(poll_s)


def status(project: Project, chosen: str | None) -> dict[str, Any]:
    """Every kernel with Kaggle's present word; changes nothing."""
    every = _of(project, chosen)
    for lane in every:
        if lane.active:
            found = api.kernel_status(lane.ref)
            lane.last.word, lane.last.message = found.word, found.message
    return {"kernels": [_entry(lane) for lane in every]}


def show(result: dict[str, Any]) -> None:
    """A table of kernels: all, or those that were pushed or fetched just now."""
    kernels = result.get("kernels", result.get("pushed", result.get("fetched", [])))
    if not kernels:
        say("Current: nothing to do." if "current" in result else "Nothing was pushed yet.")
        return
    columns = ["kernel", "folds", "version", "state", "pushed (UTC)", "goes on from"]
    rows = [
        (
            _slug(one["ref"]),
            *_cells(one, "folds", "version", "state"),
            one["at"][5:16],
            _joined(map(_slug, one["sources"])),
        )
        for one in kernels
    ]
    table("Kernels", columns, rows)
    for one in kernels:
        if one["message"]:
            say(f"{one['ref']}: {one['message']}")


def _cells(entry: dict[str, Any], *names: str) -> list[str]:
    return [_joined(entry[name]) if isinstance(entry[name], list) else str(entry[name]) for name in names]


def logs(project: Project, chosen: str | None, follow: bool) -> Iterator[str]:
    """The log of the newest kernel, of those that still run if there are any, line by line."""
    every = _of(project, chosen)
    if not every:
        raise GatemaskError(
            "Nothing was pushed yet.", where=kernel_records.folder(project), do="Run gatemask push first."
        )
    lane = next((one for one in reversed(every) if one.active), every[-1])
    kept = kernel_records.log(project, lane)
    if lane.active:
        say(f"{lane.ref}, version {lane.last.version}")
        yield from api.follow_log(lane.ref) if follow else api.kernel_log(lane.ref).splitlines()
    elif kept.exists():
        say(f"{kept}")
        yield from kept.read_text(encoding="utf-8").splitlines()


def _of(project: Project, experiment: str | None) -> list[Lane]:
    return [lane for lane in kernel_records.load(project) if lane.pushes and experiment in (None, lane.experiment)]


def _entry(lane: Lane) -> dict[str, Any]:
    """A lane for people and machines."""
    push = lane.last
    state = {"fetched": push.outcome, "refused": "refused"}.get(push.state, push.word or "pushed")
    return {
        "ref": lane.ref,
        "experiment": lane.experiment,
        "machine": lane.machine,
        "state": state,
        **{name: getattr(push, name) for name in ("folds", "version", "at", "commit", "hours", "done", "progress")},
        **{name: getattr(push, name) for name in ("sources", "datasets", "message")},
    }


def _told(lane: Lane) -> str:
    push = lane.last
    done = f"folds {_joined(push.done)} are here" if push.done else "no fold is done"
    text = {
        "finished": done,
        "stopped": f"stopped by its time limit; {done}. gatemask resume goes on",
        "failed": f"failed; {done}. {push.message}",
        "lost": f"ended before its time; {done}. {push.message}",
    }
    return text[push.outcome or "lost"]


def _slug(ref: str) -> str:
    return ref.split("/")[1]


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values)) or "-"
