"""Records of pushed training kernels: one JSON file per kernel, written atomically.

    runs/<comp>/kaggle/<slug>.json        the kernel, its folds, and every push with its outcome
    runs/<comp>/kaggle/<slug>.v<n>.log    log of version n (or of the push's id, where the number is unknown)

A push is recorded before it happens, so any command can be killed at any time. The push's id is in the kernel's source
and in its output: whether a push without an outcome reached Kaggle can be looked up there, and an output cannot be
taken for that of another push.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.files import read_json_object, write_json
from gatemask.project import Project
from gatemask.results.kaggle_training import KernelEntry

# A push is "pushing" until Kaggle's answer is known, "running" until its output is fetched or known to be missing, and
# then "fetched"; or it never ran: "refused".
ACTIVE = ("pushing", "running")


@dataclass
class Push:
    """One version of a training kernel.

    Args:
        id: Id, which is in the kernel's source and in its output.
        folds: Folds to train, in this order.
        hours: Session limit, in hours.
        commit: Commit of the project.
        at: Time of the push, ISO 8601 in UTC.
        state: "pushing", "running", "fetched" or "refused".
        version: Kaggle's number, once known.
        datasets: Version of each attached dataset, by owner/slug.
        sources: Kernels whose output is attached, to continue from.
        overrides: Values of `--set`.
        made_of: Fingerprint of code, settings and data.
        asked: Number of requests for the output that were in vain.
        word: Kaggle's last status: queued, running, complete, error, cancelled or absent.
        outcome: "finished", "stopped" (by its time limit), "failed", or "lost" (ended by something outside training).
        message: Why it failed.
        seconds: Duration of the session, in seconds.
        done: Folds that the session finished.
        progress: Newest state of each unfinished fold in its output, other pushes' folds included.
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
class TrainingKernel:
    """A Kaggle kernel that trains folds of an experiment, in as many sessions as it takes.

    Args:
        ref: Kernel, as owner/slug.
        experiment: Name of the experiment.
        folds: Folds of the last push.
        machine: Machine of the last push, a name in machines.yaml.
        pushes: All pushes, oldest first.
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

    @property
    def last_fetched(self) -> Push | None:
        """The last push whose output was fetched or known to be missing."""
        return next((push for push in reversed(self.pushes) if push.state == "fetched"), None)

    @property
    def mounted_push(self) -> Push | None:
        """The push whose output Kaggle mounts where this kernel is attached: the last one that completed.

        After a failed session that is an earlier push; a deleted kernel has none.
        """
        settled = [push for push in self.pushes if push.state == "fetched" and push.word in ("complete", "absent")]
        return settled[-1] if settled and settled[-1].word == "complete" else None

    def entry(self) -> KernelEntry:
        """Return the kernel and its last push as commands report them."""
        push = self.last
        state = {"fetched": push.outcome, "refused": "refused"}.get(push.state, push.word or "pushed")
        return KernelEntry.model_validate(
            {
                **{name: value for name, value in asdict(push).items() if name in KernelEntry.model_fields},
                "ref": self.ref,
                "experiment": self.experiment,
                "machine": self.machine,
                "state": state,
            }
        )


def kernels_folder(project: Project) -> Path:
    """Return the folder of all kernel records of a competition."""
    return project.runs / "kaggle"


def save_kernel(project: Project, kernel: TrainingKernel) -> None:
    """Write a kernel's record."""
    write_json(kernels_folder(project) / f"{kernel.slug}.json", asdict(kernel))


def load_kernels(project: Project) -> list[TrainingKernel]:
    """Return all kernels of the competition, ordered by their last pushes."""
    kernels = [load_kernel(path) for path in kernel_files(project)]
    return sorted(kernels, key=lambda kernel: kernel.last.at if kernel.pushes else "")


def kernel_files(project: Project) -> list[Path]:
    """Return the records of all kernels of the competition."""
    # A leading dot marks a file that a killed command was writing.
    return sorted(kernels_folder(project).glob("[!.]*.json"))


def load_kernel(path: Path) -> TrainingKernel:
    """Read the record of a kernel.

    Raises:
        GatemaskError: The record is damaged.
    """
    do = "Restore it from a backup, or delete it: gatemask then no longer knows this kernel, whose runs stay on Kaggle."
    record = read_json_object(path, "pushes", do=do)
    try:
        return TrainingKernel(**{**record, "pushes": [Push(**push) for push in record["pushes"]]})
    except TypeError as error:
        raise GatemaskError("The record of a kernel is damaged.", where=path, received=error, do=do) from None


def kernel_log_path(project: Project, kernel: TrainingKernel) -> Path:
    """Return the path of the log of a kernel's last push."""
    return kernels_folder(project) / f"{kernel.slug}.v{kernel.last.version or kernel.last.id}.log"


def furthest_kernel(kernels: Sequence[TrainingKernel], experiment: str, fold: int) -> TrainingKernel | None:
    """Return the kernel whose mounted output holds the newest state of an unfinished fold, or None."""
    candidates = [
        (push.progress[str(fold)], push.at, kernel)
        for kernel in kernels
        if kernel.experiment == experiment and (push := kernel.mounted_push) is not None and str(fold) in push.progress
    ]
    return max(candidates, key=lambda candidate: candidate[:2])[2] if candidates else None


def pushed_overrides(project: Project, experiment: str | None) -> dict[str, list[str]]:
    """Return the `--set` values of each pushed experiment's last push, by experiment.

    Args:
        project: Project and competition.
        experiment: The only experiment of interest. Default: all.
    """
    kernels = [kernel for kernel in load_kernels(project) if kernel.pushes]
    return {kernel.experiment: kernel.last.overrides for kernel in kernels if experiment in (None, kernel.experiment)}
