"""`gatemask campaign`: train experiments x folds on Kaggle until every fold has its result here.

Keeps as many kernels running as machines and quota allow, fetches each that ends, and pushes again what was stopped by
its time limit, with its last output attached. It can be killed and run again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from gatemask.config import Competition, Experiment
from gatemask.console import say, table
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, read_json_object
from gatemask.kaggle.client import account
from gatemask.kaggle.client.cli import KaggleError
from gatemask.kaggle.client.polling import poll, tolerant
from gatemask.kaggle.image.machines import machine_for
from gatemask.kaggle.train import commands, dispatch
from gatemask.kaggle.train.dispatch import Dispatcher, PushOptions
from gatemask.kaggle.train.kernel_records import TrainingKernel, load_kernels
from gatemask.notify import Event, notify
from gatemask.project import Project
from gatemask.results.kaggle_training import CampaignReport

Folds = Sequence[int] | Mapping[str, Sequence[int]] | None
MOST_LOSSES = 2  # consecutive sessions that may end without an output, or get no further, before a fold is given up


def run_campaign(
    project: Project, comp: Competition, experiments: Sequence[Experiment], folds: Folds, opts: PushOptions
) -> CampaignReport:
    """Train all folds of the experiments on Kaggle.

    Args:
        project, comp: Competition.
        experiments: Experiments to train.
        folds: Folds of each experiment, or folds by the name of the experiment; None for all.
        opts: How to push.

    Raises:
        GatemaskError: Kaggle refuses something for a reason that waiting cannot change: credentials, sources, quota.
    """
    with account.exclusive(project):
        campaign = _Campaign(project, comp, experiments, folds, opts)

        def finished() -> bool:
            with tolerant():
                campaign.refresh()
            with tolerant():
                campaign.push_next()
            return not campaign.unfinished()

        try:
            poll(finished, opts.poll_s)
        except GatemaskError as error:
            with suppress(GatemaskError):  # of a damaged result: this error is more important
                campaign.notify_of_end(error)
            raise
    campaign.notify_of_end()
    return campaign.report()


class _Campaign:
    """The state of a campaign.

    Args:
        project, comp, experiments, folds, opts: See `run_campaign`.
    """

    def __init__(
        self, project: Project, comp: Competition, experiments: Sequence[Experiment], folds: Folds, opts: PushOptions
    ) -> None:
        self.project, self.comp, self.opts, self.folds = project, comp, opts, folds
        # Experiments that start from another one's weights come last: `_waits` needs the counts of the others.
        self.experiments = sorted(experiments, key=lambda exp: exp.model.weights.startswith("run:"))
        self.kernels = load_kernels(project)
        self.given_up: dict[str, str] = {}
        self.sessions = 0
        self._unfinished: dict[str, list[int]] = {}
        for exp in self.experiments:
            self._count_unfinished(exp)
            if not self._waits(exp):
                self._recall_failures(exp)

    def unfinished(self) -> bool:
        """Return whether a kernel is running or a fold waits for one."""
        return any(kernel.active for kernel in self.kernels) or any(self._todo(exp) for exp in self.experiments)

    def _todo(self, exp: Experiment) -> list[int]:
        """Return the folds that are neither done, nor in progress, nor given up."""
        in_progress = dispatch.folds_in_progress(self.kernels, exp.name)
        return [
            fold
            for fold in self._unfinished[exp.name]
            if fold not in in_progress and f"{exp.name}/{fold}" not in self.given_up
        ]

    def _count_unfinished(self, exp: Experiment) -> None:
        """Check which folds are done. This hashes weights, so it is done only when something was fetched."""
        if self._waits(exp):
            self._unfinished[exp.name] = []
            return
        folds = self.folds[exp.name] if isinstance(self.folds, Mapping) else self.folds
        self._unfinished[exp.name] = dispatch.unfinished_folds(self.project, self.comp, exp, folds)

    def _waits(self, exp: Experiment) -> bool:
        """Return whether the experiment starts from the weights of another one that is not done yet."""
        earlier = exp.model.weights.removeprefix("run:")
        return earlier != exp.model.weights and bool(self._unfinished.get(earlier))

    def _recall_failures(self, exp: Experiment) -> None:
        """Give up what failed before and would fail again, since code, settings and data are unchanged."""
        for kernel in self.kernels:
            push = kernel.last_fetched
            if kernel.experiment != exp.name or push is None or push.outcome != "failed":
                continue
            if push.made_of == dispatch.training_fingerprint(self.project, self.comp, exp, push.folds):
                self._judge(kernel)
                say(f"{kernel.ref} failed before, and nothing has changed since; gatemask resume pushes it anyway.")

    def push_next(self) -> None:
        """Fill the free machines."""
        dispatcher = Dispatcher(self.project, self.comp, self.opts)
        for exp in self.experiments:
            wanted = machine_for(self.comp, exp)
            slots, at_once = dispatch.free_slots(self.kernels, wanted), dispatch.folds_at_once(exp, wanted)
            todo = self._todo(exp)
            if not todo or slots < 1:
                continue
            owner = account.owner(self.comp)
            label = self.project.label
            for kernel in dispatch.assign_to_kernels(self.kernels, label, owner, exp, todo, slots, at_once):
                if not self._push(exp, kernel, dispatcher):
                    break

    def _push(self, exp: Experiment, kernel: TrainingKernel, dispatcher: Dispatcher) -> bool:
        """Push a kernel. Returns False where no machine is free at the moment."""
        try:
            dispatcher.push(exp, kernel, self.kernels)
        except KaggleError as error:
            if error.kind == "slots":  # taken by other kernels of this account
                say(f"{error.what} Trying again in {self.opts.poll_s:.0f} s.")
                return False
            if error.kind == "quota" and any(running.active for running in self.kernels):
                say(f"{error.what} Waiting for the running kernels.")
                return False
            raise
        finally:
            self.kernels = load_kernels(self.project)
        self.sessions += 1
        return True

    def refresh(self) -> None:
        """Ask Kaggle once, and account for what was fetched."""
        dispatch.reconcile_pushes(self.project, self.kernels)  # the network may have failed during a push
        fetched: list[TrainingKernel] = []
        try:
            commands.refresh_kernels(self.project, self.kernels, fetched, comp=self.comp)
        finally:
            for exp in self.experiments if fetched else []:
                self._count_unfinished(exp)
            for kernel in fetched:
                self._judge(kernel)

    def _judge(self, kernel: TrainingKernel) -> None:
        """Give up folds for which another session would only waste hours."""
        push = kernel.last_fetched
        assert push is not None
        for fold in set(push.folds) & set(self._unfinished.get(kernel.experiment, ())):
            key = f"{kernel.experiment}/{fold}"
            if push.outcome == "failed":
                self.given_up[key] = push.message or "it failed"
            elif self._sessions_without_progress(kernel, fold) >= MOST_LOSSES:
                lost = push.outcome == "lost" and not push.progress
                what = "ended without an output" if lost else "got no further"
                reason = push.message or "too few hours per session"
                self.given_up[key] = f"{MOST_LOSSES} sessions in a row {what}: {reason}"

    def _sessions_without_progress(self, kernel: TrainingKernel, fold: int) -> int:
        """Return the number of sessions of the present settings since the one that brought the fold furthest."""
        made_of, count, furthest = kernel.last.made_of, 0, ""
        for push in kernel.pushes:
            if push.state != "fetched" or fold not in push.folds or push.made_of != made_of:
                continue
            state = push.progress.get(str(fold), "")
            count = 0 if state > furthest else count + 1
            furthest = max(furthest, state)
        return count

    def notify_of_end(self, error: GatemaskError | None = None) -> None:
        """Send a message. A later call reports the same end only after another session, or with another outcome."""
        report = self.report()
        done = sum(len(scores) for scores in report.experiments.values())
        texts = [f"{done} folds of {len(report.experiments)} experiments are finished; {report.hours:.1f} h in total."]
        texts += [f"{fold} was given up: {reason}" for fold, reason in report.given_up.items()]
        texts += [error.short()] if error else []
        pushes = [push.id for kernel in self.kernels for push in kernel.pushes]
        notify(self.project, Event("campaign_ended", " ".join(texts), fingerprint([texts, pushes])), self.comp)

    def report(self) -> CampaignReport:
        scores: dict[str, dict[str, float]] = {}
        for exp in self.experiments:
            unfinished = {f"fold{fold}" for fold in self._unfinished[exp.name]}
            results = sorted(self.project.runs.glob(f"{exp.name}/fold*/result.json"))
            current = [p for p in results if p.parent.name[4:].isdigit() and p.parent.name not in unfinished]
            scores[exp.name] = {p.parent.name: read_json_object(p, "score")["score"] for p in current}
        seconds = sum(push.seconds or 0 for kernel in self.kernels for push in kernel.pushes)
        waiting = {exp.name: "starts from one that is not done" for exp in self.experiments if self._waits(exp)}
        return CampaignReport(
            current=not self.sessions,
            experiments=scores,
            sessions=self.sessions,
            hours=round(seconds / 3600, 3),
            given_up={**self.given_up, **waiting},
        )


def print_campaign(report: CampaignReport) -> None:
    """Print a table of scores."""
    folds = sorted({fold for scores in report.experiments.values() for fold in scores})
    rows = [
        (name, *(f"{scores[fold]:.4f}" if fold in scores else "-" for fold in folds))
        for name, scores in report.experiments.items()
    ]
    table("Campaign", ["experiment", *folds], rows)
    say(f"{report.sessions} sessions pushed by this call; {report.hours:.2f} h of kernels in total")


def require_all_folds(report: CampaignReport) -> None:
    """Raise if a fold was given up.

    Raises:
        GatemaskError: A fold was given up.
    """
    if report.given_up:
        raise GatemaskError(
            "Some folds were given up.",
            received="; ".join(f"{fold}: {reason}" for fold, reason in report.given_up.items()),
            do="Read their logs (gatemask logs), fix the cause, and run gatemask campaign again: the others are here.",
        )
