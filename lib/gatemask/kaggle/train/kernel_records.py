"""What was pushed, on disk: one file a kernel, whole or not there, so that any command may be killed at any moment.

    runs/<comp>/kaggle/<slug>.json        a lane: the kernel, its folds, and every push with what became of it
    runs/<comp>/kaggle/<slug>.v<n>.log    what version n printed (its push's id, where the number is not known)

A push is written down before it happens. Its id is in the kernel's source and in its output: whoever finds an intent
without an outcome can look on Kaggle whether it got there, and an output cannot be taken for another push's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gatemask.files import read_json, write_json
from gatemask.project import Project

# A push is `pushing` until Kaggle's answer is known, `running` until its output is here, or it is clear that there is
# none, and then `fetched`; or it never ran: `refused`.
ACTIVE = ("pushing", "running")


@dataclass
class Push:
    """One version of a kernel.

    Args:
        id: in the kernel's source, and in its output.
        folds: that it trains, in this order.
        hours: its session's limit.
        commit: of the project.
        at: when, ISO 8601 in UTC.
        state: pushing, running, fetched or refused.
        version: Kaggle's number, once it is known.
        datasets: the versions that it was pushed with, by name.
        overrides: `--set`, as it was pushed with.
        made_of: changes with code, settings and data.
        sources: kernels whose output it goes on from.
        asked: how often its output was asked for in vain.
        word: Kaggle's last word on it: queued, running, complete, error, cancelled.
        outcome: finished, stopped (by its time limit), failed, or lost (ended by something outside of the training).
        message: why it failed.
        seconds: that it ran, by its own account.
        done: the folds that it finished.
        progress: the newest state's name of each unfinished fold in its output; folds of others come along.
    """

    id: str
    folds: list[int]
    hours: float
    commit: str | None
    at: str
    state: str = "pushing"
    version: int | None = None
    datasets: dict[str, int] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    made_of: str | None = None
    asked: int = 0
    word: str | None = None
    outcome: str | None = None
    message: str | None = None
    seconds: float | None = None
    done: list[int] = field(default_factory=list)
    progress: dict[str, str] = field(default_factory=dict)


@dataclass
class Lane:
    """A kernel that trains some folds of an experiment, in as many sessions as it takes.

    Args:
        ref: owner/slug.
        experiment: its name.
        folds: of its present push.
        machine: of its present push, a name in MACHINES.
        pushes: the last one is the present one.
    """

    ref: str
    experiment: str
    folds: list[int]
    machine: str
    pushes: list[Push] = field(default_factory=list)

    @property
    def slug(self) -> str:
        return self.ref.split("/")[1]

    @property
    def last(self) -> Push:
        return self.pushes[-1]

    @property
    def active(self) -> bool:
        return bool(self.pushes) and self.last.state in ACTIVE


def folder(project: Project) -> Path:
    return project.runs / "kaggle"


def save(project: Project, lane: Lane) -> None:
    write_json(folder(project) / f"{lane.slug}.json", asdict(lane))


def load(project: Project) -> list[Lane]:
    """All lanes of the competition, in the order of their last pushes."""
    # Names with a dot in front are what a killed command was writing.
    found = [_lane(read_json(path)) for path in sorted(folder(project).glob("[!.]*.json"))]
    return sorted(found, key=lambda lane: lane.last.at if lane.pushes else "")


def _lane(values: dict[str, Any]) -> Lane:
    return Lane(**{**values, "pushes": [Push(**push) for push in values["pushes"]]})


def log(project: Project, lane: Lane) -> Path:
    """Where the log of a lane's last push is kept."""
    return folder(project) / f"{lane.slug}.v{lane.last.version or lane.last.id}.log"


def ended(lane: Lane) -> Push | None:
    """The last push whose output is here, or known to be none."""
    return next((push for push in reversed(lane.pushes) if push.state == "fetched"), None)


def mounted(lane: Lane) -> Push | None:
    """The push whose output Kaggle mounts where this kernel is a source: the last one that ended well.

    After one that failed it is an earlier one; of a kernel that was deleted there is none.
    """
    told = [push for push in lane.pushes if push.state == "fetched" and push.word in ("complete", "absent")]
    return told[-1] if told and told[-1].word == "complete" else None


def holder(lanes: Sequence[Lane], experiment: str, fold: int) -> Lane | None:
    """The lane whose output, as Kaggle mounts it, has the furthest state of an unfinished fold."""
    holding = [
        (push.progress[str(fold)], push.at, lane)
        for lane in lanes
        if lane.experiment == experiment and (push := mounted(lane)) is not None and str(fold) in push.progress
    ]
    return max(holding, key=lambda one: one[:2])[2] if holding else None


def overrides(project: Project, experiment: str | None) -> dict[str, list[str]]:
    """The experiments that were pushed, or the one, each with the `--set` of its last push."""
    every = [lane for lane in load(project) if lane.pushes and experiment in (None, lane.experiment)]
    return {lane.experiment: lane.last.overrides for lane in every}
