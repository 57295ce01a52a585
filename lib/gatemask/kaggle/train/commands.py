"""`gatemask push | status | wait | logs | fetch | resume`: train on Kaggle.

All of these work on the records below runs/<comp>/kaggle/. A command that was killed can be run again: what it had
begun is looked up on Kaggle and not done twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gatemask.config import Competition, Experiment
from gatemask.console import say, table
from gatemask.errors import GatemaskError
from gatemask.kaggle.client import account, api
from gatemask.kaggle.client.cli import RETRIED, KaggleError
from gatemask.kaggle.client.polling import poll, tolerant
from gatemask.kaggle.image.machines import machine_for
from gatemask.kaggle.train import dispatch
from gatemask.kaggle.train.collect import collect_output
from gatemask.kaggle.train.dispatch import Dispatcher, PushOptions
from gatemask.kaggle.train.kernel_records import (
    TrainingKernel,
    kernel_log_path,
    kernels_folder,
    load_kernels,
    save_kernel,
)
from gatemask.notify import Event, notify
from gatemask.project import Project
from gatemask.results.kaggle_training import FetchReport, KernelEntry, PushReport, StatusReport


def push_experiment(
    project: Project, comp: Competition, exp: Experiment, folds: Sequence[int] | None, opts: PushOptions
) -> PushReport:
    """Push the folds of an experiment that are neither done nor in progress, on as many kernels as may run at once.

    Args:
        project, comp, exp: Experiment to train.
        folds: Folds to train. Default: all.
        opts: How to push.
    """
    with account.exclusive(project):
        kernels = load_kernels(project)
        dispatch.reconcile_pushes(project, kernels)
        refresh_kernels(project, [kernel for kernel in kernels if kernel.experiment == exp.name], [], comp=comp)
        unfinished = dispatch.unfinished_folds(project, comp, exp, folds)
        in_progress = sorted(dispatch.folds_in_progress(kernels, exp.name) & set(unfinished))
        if in_progress:
            say(f"{exp.name}: folds {_joined(in_progress)} are being trained by a kernel already")
        todo = [fold for fold in unfinished if fold not in in_progress]
        pushed = _push_folds(project, comp, exp, todo, kernels, opts) if todo else []
    return PushReport(
        current=not pushed,
        experiment=exp.name,
        pushed=tuple(kernel.entry() for kernel in pushed),
        in_hand=tuple(in_progress),
    )


def resume_experiment(project: Project, comp: Competition, exp: Experiment, opts: PushOptions) -> PushReport:
    """Push again the folds that were stopped by their time limit, failed or were lost, with their last output attached.

    Args:
        project, comp, exp: Experiment to train.
        opts: How to push.
    """
    with account.exclusive(project):
        kernels = load_kernels(project)
        dispatch.reconcile_pushes(project, kernels)
        own_kernels = [kernel for kernel in kernels if kernel.experiment == exp.name]
        refresh_kernels(project, own_kernels, [], comp=comp)
        interrupted = {fold for fold, done in _last_sessions(own_kernels).items() if not done}
        unfinished = set(dispatch.unfinished_folds(project, comp, exp, None))
        todo = interrupted & unfinished - dispatch.folds_in_progress(kernels, exp.name)
        pushed = _push_folds(project, comp, exp, sorted(todo), kernels, opts) if todo else []
    return PushReport(current=not pushed, pushed=tuple(kernel.entry() for kernel in pushed))


def _push_folds(
    project: Project,
    comp: Competition,
    exp: Experiment,
    folds: list[int],
    kernels: list[TrainingKernel],
    opts: PushOptions,
) -> list[TrainingKernel]:
    wanted = machine_for(comp, exp)
    slots = dispatch.free_slots(kernels, wanted)
    if slots < 1:
        raise GatemaskError(
            "Kaggle runs no more kernels on such machines at once.",
            where=wanted.name,
            received=", ".join(kernel.ref for kernel in kernels if kernel.active),
            expected=f"fewer than {wanted.at_once} running",
            do=f"gatemask wait {project.comp}, then push again; gatemask campaign {project.comp} does both.",
        )
    if note := _memory_note(project, comp, exp):
        say(f"{exp.name}: {note}")
    owner = account.owner(comp)
    dispatcher = Dispatcher(project, comp, opts)
    at_once = dispatch.folds_at_once(exp, wanted)
    assigned = dispatch.assign_to_kernels(kernels, project.label, owner, exp, folds, slots, at_once)
    pushed = [dispatcher.push(exp, kernel, kernels) for kernel in assigned]
    if waiting := sorted(set(folds) - {fold for kernel in pushed for fold in kernel.folds}):
        say(f"{exp.name}: folds {_joined(waiting)} must wait, since no more kernels run at once; push again later")
    return pushed


def _memory_note(project: Project, comp: Competition, exp: Experiment) -> str | None:
    """Return in words whether the batch will fit into the memory of the machine; None if it will."""
    from gatemask.cost import devices, memory
    from gatemask.cost.plan import count_images
    from gatemask.training.fold_inputs import TrainingInputs

    wanted = machine_for(comp, exp)
    if wanted.kind == "cpu" or TrainingInputs(project, comp, exp).found_batch is not None:
        return None
    size = memory.read_network_size(project, comp, exp)
    if size is None:
        return f"gatemask plan {project.comp}/{exp.name} predicts whether its batch fits into memory"
    images = count_images(project, comp, exp)
    device = devices.devices_of(wanted, exp.runtime.precision).of_a_fold(exp)
    return memory.plan_batch(device, exp, size, None if images is None else images.shortest_epoch).note(device.name)


def _last_sessions(kernels: Sequence[TrainingKernel]) -> dict[int, bool]:
    """Return whether the last session of each fold that was ever pushed finished it."""
    pushes = sorted((push for kernel in kernels for push in kernel.pushes), key=lambda push: push.at)
    return {fold: fold in push.done for push in pushes for fold in push.folds}


def refresh_kernels(
    project: Project,
    kernels: Sequence[TrainingKernel],
    fetched: list[TrainingKernel],
    verbose: bool = False,
    comp: Competition | None = None,
) -> None:
    """Ask for the status of each running kernel, and fetch those that ended.

    Args:
        project: Project and competition.
        kernels: Kernels to ask for.
        fetched: Kernels whose output was fetched are appended, even if an error follows.
        verbose: Whether an unchanged status is printed too. Default: False.
        comp: Competition, for messages about kernels that died. Default: competition.yaml is read if one did.

    Raises:
        KaggleError: The first network error, raised after all other kernels were asked for; any other error at once.
    """
    network_error: KaggleError | None = None
    for kernel in kernels:
        if not kernel.active:
            continue
        try:
            if _refresh(project, kernel, verbose):
                _notify_of_death(project, kernel, comp)
                fetched.append(kernel)
        except KaggleError as error:
            if error.kind not in RETRIED:
                raise
            network_error = network_error or error
    if network_error:
        raise network_error


def _refresh(project: Project, kernel: TrainingKernel, verbose: bool) -> bool:
    """Return whether the kernel has ended and its output was fetched."""
    status = api.kernel_status(kernel.ref)
    changed = status.word != kernel.last.word
    if changed or verbose:
        say(f"{kernel.ref}: {status.word}" + (f", {status.message}" if status.message else ""))
    if changed:
        kernel.last.word, kernel.last.message = status.word, status.message
        save_kernel(project, kernel)
    if status.word not in api.ENDED or not collect_output(project, kernel):
        return False
    say(f"{kernel.ref}: {_outcome(kernel)}")
    return True


def _notify_of_death(project: Project, kernel: TrainingKernel, comp: Competition | None) -> None:
    push = kernel.last
    if push.outcome not in ("failed", "lost"):
        return
    message = f"{kernel.ref}, version {push.version}, folds {_joined(push.folds)}: {_outcome(kernel)}"
    fold = push.folds[0] if len(push.folds) == 1 else None
    notify(project, Event("kernel_died", message, push.id, kernel.experiment, fold), comp)


def fetch_kernels(project: Project, experiment: str | None) -> FetchReport:
    """Fetch the output of kernels that have ended, without waiting for others.

    Args:
        project: Project and competition.
        experiment: The only experiment of interest. Default: all.
    """
    fetched: list[TrainingKernel] = []
    with account.exclusive(project):
        kernels = _pushed_kernels(project, experiment)
        dispatch.reconcile_pushes(project, kernels)
        refresh_kernels(project, kernels, fetched, verbose=True)
    running = tuple(kernel.ref for kernel in kernels if kernel.active)
    return FetchReport(current=not fetched, fetched=tuple(kernel.entry() for kernel in fetched), running=running)


def wait_for_kernels(project: Project, experiment: str | None, poll_s: float) -> FetchReport:
    """Wait until no kernel runs; fetch the output of each as soon as it ends.

    Args:
        project: Project and competition.
        experiment: The only experiment of interest. Default: all.
        poll_s: Pause between two requests to Kaggle, in seconds.
    """
    fetched: list[TrainingKernel] = []
    with account.exclusive(project):
        kernels = _pushed_kernels(project, experiment)

        def all_ended() -> bool:
            with tolerant():
                dispatch.reconcile_pushes(project, kernels)
                refresh_kernels(project, kernels, fetched)
            return not any(kernel.active for kernel in kernels)

        poll(all_ended, poll_s, "Waiting for Kaggle")
    return FetchReport(current=not fetched, fetched=tuple(kernel.entry() for kernel in fetched))


def kernel_statuses(project: Project, experiment: str | None) -> StatusReport:
    """Return every kernel with its present status on Kaggle. Changes nothing.

    Args:
        project: Project and competition.
        experiment: The only experiment of interest. Default: all.
    """
    kernels = _pushed_kernels(project, experiment)
    for kernel in kernels:
        if kernel.active:
            kernel.last.word, kernel.last.message = api.kernel_status(kernel.ref)
    return StatusReport(kernels=tuple(kernel.entry() for kernel in kernels))


def latest_log(project: Project, experiment: str | None, follow: bool) -> Iterator[str]:
    """Yield the lines that the newest kernel printed; running kernels take precedence.

    Args:
        project: Project and competition.
        experiment: The only experiment of interest. Default: all.
        follow: Whether to continue until a running kernel ends.

    Raises:
        GatemaskError: Nothing was pushed yet.
    """
    kernels = _pushed_kernels(project, experiment)
    if not kernels:
        raise GatemaskError("Nothing was pushed yet.", where=kernels_folder(project), do="Run gatemask push first.")
    kernel = next((kernel for kernel in reversed(kernels) if kernel.active), kernels[-1])
    log = kernel_log_path(project, kernel)
    if kernel.active:
        say(f"{kernel.ref}, version {kernel.last.version}")
        yield from api.follow_log(kernel.ref) if follow else api.kernel_log(kernel.ref).splitlines()
    elif log.exists():
        say(f"{log}")
        yield from log.read_text(encoding="utf-8").splitlines()


def print_kernels(report: PushReport | FetchReport | StatusReport) -> None:
    """Print a table of kernels: all, or those that were pushed or fetched just now."""
    if isinstance(report, StatusReport):
        kernels, nothing = report.kernels, "Nothing was pushed yet."
    else:
        kernels = report.pushed if isinstance(report, PushReport) else report.fetched
        nothing = "Current: nothing to do."
    if not kernels:
        say(nothing)
        return
    table(
        "Kernels",
        ["kernel", "folds", "version", "state", "pushed (UTC)", "continues from"],
        [_table_row(kernel) for kernel in kernels],
    )
    for kernel in kernels:
        if kernel.message:
            say(f"{kernel.ref}: {kernel.message}")


def _table_row(kernel: KernelEntry) -> tuple[str, ...]:
    return (
        _slug(kernel.ref),
        _joined(kernel.folds),
        str(kernel.version),
        kernel.state,
        kernel.at[5:16],
        _joined(map(_slug, kernel.sources)),
    )


def _pushed_kernels(project: Project, experiment: str | None) -> list[TrainingKernel]:
    kernels = [kernel for kernel in load_kernels(project) if kernel.pushes]
    return [kernel for kernel in kernels if experiment in (None, kernel.experiment)]


def _outcome(kernel: TrainingKernel) -> str:
    push = kernel.last
    done = f"folds {_joined(push.done)} are finished" if push.done else "no fold is finished"
    outcomes = {
        "finished": done,
        "stopped": f"stopped by its time limit; {done}. gatemask resume continues",
        "failed": f"failed; {done}. {push.message}",
        "lost": f"ended early; {done}. {push.message}",
    }
    return outcomes[push.outcome or "lost"]


def _slug(ref: str) -> str:
    return ref.split("/")[1]


def _joined(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "-"
