"""Train the trials of a search on Kaggle, within a quota of hours.

In each round every trial at work trains its next fold, as a campaign of `gatemask.kaggle.train`. A trial that is pruned
or finished makes room for another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from gatemask.config.machines import Machine
from gatemask.console import say
from gatemask.kaggle.image.machines import machine_for
from gatemask.kaggle.train.campaign import run_campaign
from gatemask.kaggle.train.dispatch import PushOptions
from gatemask.kaggle.train.kernel_records import load_kernels
from gatemask.search.trials import TakenTrial, Trials
from gatemask.training.fold_inputs import TrainingInputs


@dataclass(frozen=True)
class KaggleWork:
    """Trains trials on Kaggle.

    Args:
        opts: How to push.
        quota_h: Hours of kernels that all trials of the search may use together.
        at_once: Number of trials at work at a time. Default: the number of kernels that the machine runs at once.
    """

    opts: PushOptions
    quota_h: float
    at_once: int | None = None

    def __call__(self, trials: Trials) -> str | None:
        """Train trials until none is left or the quota is used, and return None; or why it stopped before."""
        slots = self.at_once or self._machine(trials).at_once
        with ExitStack() as locks:
            live: list[TakenTrial] = []
            while jobs := self._fill(trials, live, slots, locks):
                used, folds = hours_used(trials)
                needed = sum(used / folds if folds else self._estimate(trials, taken) for taken in live)
                if used + needed > self.quota_h:
                    return (
                        f"{used:.2f} of {self.quota_h:g} h are used, and the next {len(live)} folds need about "
                        f"{needed:.2f} h"
                    )
                self._train_round(trials, live, jobs, self.quota_h - used)
        return trials.left_to_others()

    def _fill(self, trials: Trials, live: list[TakenTrial], slots: int, locks: ExitStack) -> dict[str, list[int]]:
        """Replace the trials that are done by others, and return the next fold of each by name."""
        jobs: dict[str, list[int]] = {}
        candidates = list(live)
        live.clear()
        while True:
            for taken in candidates:
                if (fold := trials.next_fold(taken)) is not None:
                    live.append(taken)
                    jobs[taken.name] = [fold]
            if len(live) >= slots or (another := trials.take()) is None:
                return jobs
            locks.enter_context(another.lock)
            candidates = [another]

    def _train_round(
        self, trials: Trials, live: list[TakenTrial], jobs: Mapping[str, list[int]], left_h: float
    ) -> None:
        limit = min(self._machine(trials).hours, left_h / len(live))
        opts = replace(self.opts, hours=limit)
        report = run_campaign(trials.project, trials.comp, [taken.exp for taken in live], jobs, opts)
        for taken in list(live):
            (fold,) = jobs[taken.name]
            result = TrainingInputs(trials.project, trials.comp, taken.exp).stage(fold).current()
            if result is not None:
                trials.report(taken, fold, trials.score(result))
            else:
                trials.fail(taken, report.given_up.get(f"{taken.name}/{fold}", "The fold has no result."))
                live.remove(taken)

    def _estimate(self, trials: Trials, taken: TakenTrial) -> float:
        """Estimate the hours of a fold before any has been trained on Kaggle."""
        from gatemask.cost.plan import plan_experiment

        plan = plan_experiment(trials.project, trials.comp, taken.exp)
        name = self._machine(trials).name
        session = next((s for s in plan.sessions if s.machine == name), plan.sessions[-1])
        hours = session.hours_a_fold or 0.0
        say(f"{taken.name}: about {hours:.2f} h per fold on {session.session}")
        return hours

    def _machine(self, trials: Trials) -> Machine:
        return machine_for(trials.comp, trials.space.exp)


def hours_used(trials: Trials) -> tuple[float, int]:
    """Return the hours that kernels have spent on the trials of a search, and the number of folds they finished."""
    names = {trial.name for trial in trials.summaries()}
    kernels = [kernel for kernel in load_kernels(trials.project) if kernel.experiment in names]
    pushes = [push for kernel in kernels for push in kernel.pushes]
    return sum(push.seconds or 0.0 for push in pushes) / 3600, sum(len(push.done) for push in pushes)
