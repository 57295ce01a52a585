"""`gatemask campaign`: experiments x folds on Kaggle, until every fold has its result here.

Keeps as many kernels running as the accounts of machines and hours allow, fetches what ends, and pushes again what was
stopped by its time limit, with its own last output attached. It can be killed and called again at any moment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gatemask.config import Competition, Experiment
from gatemask.console import say, table
from gatemask.errors import GatemaskError
from gatemask.files import read_json
from gatemask.kaggle.client import account
from gatemask.kaggle.client.cli import KaggleError
from gatemask.kaggle.client.polling import tolerant
from gatemask.kaggle.image.machines import machine
from gatemask.kaggle.train import commands, dispatch, kernel_records
from gatemask.kaggle.train.dispatch import Options
from gatemask.kaggle.train.kernel_records import Lane
from gatemask.project import Project

LOSSES = 2  # sessions in a row that may end without an output, or get no further, before a fold is given up


def campaign(
    project: Project, comp: Competition, experiments: Sequence[Experiment], folds: Sequence[int] | None, opts: Options
) -> dict[str, Any]:
    """Train all folds of the experiments on Kaggle.

    Returns:
        current, experiments with the folds that are done, sessions, hours; `given_up` where a fold failed.

    Raises:
        GatemaskError: Kaggle refuses what no waiting mends: credentials, sources, hours of the week.
    """
    with account.exclusive(project):
        work = _Work(project, comp, experiments, folds, opts)
        with tolerant():
            dispatch.settle(project, work.every)
        while work.left():
            with tolerant():
                work.start()
            if work.left():
                time.sleep(opts.poll_s)
            with tolerant():
                work.poll()
    return work.result()


class _Work:
    """What is to be done, and what is under way.

    Args:
        project, comp, experiments, folds, opts: as of `campaign`.
    """

    def __init__(
        self,
        project: Project,
        comp: Competition,
        experiments: Sequence[Experiment],
        folds: Sequence[int] | None,
        opts: Options,
    ) -> None:
        self.project, self.comp, self.opts, self.folds = project, comp, opts, folds
        # Those that others go on from are counted first.
        self.experiments = sorted(experiments, key=lambda exp: exp.model.weights.startswith("run:"))
        self.every = kernel_records.load(project)
        self.given_up: dict[str, str] = {}
        self.sessions = 0
        self._unfinished: dict[str, list[int]] = {}
        for exp in self.experiments:
            self._count(exp)
            if not self._waits(exp):
                self._remember_failures(exp)

    def left(self) -> bool:
        """Whether a kernel is under way, or a fold waits for one."""
        return any(lane.active for lane in self.every) or any(self._todo(exp) for exp in self.experiments)

    def _todo(self, exp: Experiment) -> list[int]:
        """Folds that are neither done, nor in the hands of a kernel, nor given up."""
        away = dispatch.away(self.every, exp.name)
        return [f for f in self._unfinished[exp.name] if f not in away and f"{exp.name}/{f}" not in self.given_up]

    def _count(self, exp: Experiment) -> None:
        """Look which folds are done. Weights are hashed for it, so it is done when something came home."""
        if self._waits(exp):
            self._unfinished[exp.name] = []
            return
        self._unfinished[exp.name] = dispatch.unfinished(self.project, self.comp, exp, self.folds)

    def _waits(self, exp: Experiment) -> bool:
        """Whether it goes on from another experiment that is not done yet."""
        before = exp.model.weights.removeprefix("run:")
        return before != exp.model.weights and bool(self._unfinished.get(before))

    def _remember_failures(self, exp: Experiment) -> None:
        """What failed before, and would fail again, since neither code nor settings nor data were changed."""
        for lane in self.every:
            push = kernel_records.ended(lane)
            if lane.experiment != exp.name or push is None or push.outcome != "failed":
                continue
            if push.made_of == dispatch.made_of(self.project, self.comp, exp, push.folds):
                self._judge(lane)
                say(f"{lane.ref} failed before, and nothing was changed since; gatemask resume pushes it all the same.")

    def start(self) -> None:
        """Fill the machines that are free."""
        ready: dict[str, int] = {}
        for exp in self.experiments:
            free = dispatch.room(self.every, machine(self.comp, exp))
            todo = self._todo(exp)
            if not todo or free < 1:
                continue
            name = account.owner(self.comp)
            for lane in dispatch.plan(self.every, self.project.label, name, exp, todo, free):
                if not self._push(exp, lane, ready):
                    break

    def _push(self, exp: Experiment, lane: Lane, ready: dict[str, int]) -> bool:
        """Start one; False where Kaggle has no machine free just now."""
        try:
            dispatch.start(self.project, self.comp, exp, lane, self.every, self.opts, ready)
        except KaggleError as error:
            if error.kind == "slots":  # taken by kernels of this account that are not ours
                say(f"{error.what} Asking again in {self.opts.poll_s:.0f} s.")
                return False
            if error.kind == "quota" and any(one.active for one in self.every):
                say(f"{error.what} Waiting for the kernels that run.")
                return False
            raise
        finally:
            self.every = kernel_records.load(self.project)
        self.sessions += 1
        return True

    def poll(self) -> None:
        """Ask Kaggle once, and account for what came home."""
        dispatch.settle(self.project, self.every)  # a push whose end was not to be seen: the network went with it
        home: list[Lane] = []
        try:
            commands.refresh(self.project, self.every, home)
        finally:
            for exp in self.experiments if home else []:
                self._count(exp)
            for lane in home:
                self._judge(lane)

    def _judge(self, lane: Lane) -> None:
        """Give a fold up where going on would only waste hours."""
        push = kernel_records.ended(lane)
        assert push is not None
        for fold in set(push.folds) & set(self._unfinished[lane.experiment]):
            key = f"{lane.experiment}/{fold}"
            if push.outcome == "failed":
                self.given_up[key] = push.message or "it failed"
            elif self._idle(lane, fold) >= LOSSES:
                what = "ended without an output" if push.outcome == "lost" and not push.progress else "got no further"
                self.given_up[key] = f"{LOSSES} sessions in a row {what}: {push.message or 'hours are too few'}"

    def _idle(self, lane: Lane, fold: int) -> int:
        """Sessions since the one that brought this fold further than any before; of the present settings."""
        made_of, count, furthest = lane.pushes[-1].made_of, 0, ""
        for push in lane.pushes:
            if push.state != "fetched" or fold not in push.folds or push.made_of != made_of:
                continue
            state = push.progress.get(str(fold), "")
            count = 0 if state > furthest else count + 1
            furthest = max(furthest, state)
        return count

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for exp in self.experiments:
            done = sorted(self.project.runs.glob(f"{exp.name}/fold*/result.json"))
            left = {f"fold{fold}" for fold in self._unfinished[exp.name]}
            current = [p for p in done if p.parent.name[4:].isdigit() and p.parent.name not in left]
            found[exp.name] = {p.parent.name: read_json(p)["score"] for p in current}
        hours = sum(push.seconds or 0 for lane in self.every for push in lane.pushes) / 3600
        waiting = {exp.name: "goes on from one that is not done" for exp in self.experiments if self._waits(exp)}
        result = {"current": not self.sessions, "experiments": found, "sessions": self.sessions}
        return {**result, "hours": round(hours, 3), "given_up": {**self.given_up, **waiting}}


def show(result: dict[str, Any]) -> None:
    """A table of scores; and what was given up, as an error."""
    names = sorted({fold for scores in result["experiments"].values() for fold in scores})
    rows = [
        (name, *(f"{scores[f]:.4f}" if f in scores else "-" for f in names))
        for name, scores in result["experiments"].items()
    ]
    table("Campaign", ["experiment", *names], rows)
    say(f"{result['sessions']} sessions pushed by this call; {result['hours']:.2f} h of kernels in all")


def require_all(result: dict[str, Any]) -> None:
    if result["given_up"]:
        raise GatemaskError(
            "Some folds were given up.",
            received="; ".join(f"{fold}: {why}" for fold, why in result["given_up"].items()),
            do="Read their logs (gatemask logs), mend, and run gatemask campaign again: the others are here.",
        )
