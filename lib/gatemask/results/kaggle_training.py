"""Documents and results of training on Kaggle: a session's task and account, and the reports of the commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from gatemask.files import write_json
from gatemask.results.training import FoundBatch
from gatemask.stage import CommandResult, StageResult, load_document

ACCOUNT_FILE = "gatemask-output.json"


class _Document(BaseModel):
    """A JSON file that gatemask writes in one place and reads in another."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            GatemaskError: The file is damaged.
        """
        return load_document(cls, path, do="Run the command that wrote it again.")

    def write(self, path: Path) -> Path:
        """Write the file; fields that were never set are left out."""
        return write_json(path, self.model_dump(mode="json", by_alias=True, exclude_unset=True))


class SessionRequest(_Document):
    """What a training kernel is asked to do: session.json.

    Args:
        push: Id of the push. The kernel writes it into its account, which identifies the output.
        ref: Kernel, as owner/slug.
        comp: Folder name of the competition.
        quick: Whether all folders carry the suffix -quick.
        experiment: Name of the experiment.
        folds: Folds to train, in this order.
        machine: Name of the machine in machines.yaml.
        hours: Session limit, in hours.
        commit: Commit of the project; ends in "+dirty" after --allow-dirty.
        datasets: Digest of each attached dataset, by kind (records, wheels, weights).
        resume_from: State that each unfinished fold must continue from, by fold number.
        batch: The batch that was found for the experiment; None where the session finds it, or where it is fixed.
    """

    push: str
    ref: str
    comp: str
    quick: bool
    experiment: str
    folds: tuple[int, ...]
    machine: str
    hours: float
    commit: str | None
    datasets: dict[str, str]
    resume_from: dict[str, str] = Field(
        default_factory=dict, validation_alias=AliasChoices("goes_on", "resume_from"), serialization_alias="goes_on"
    )
    batch: FoundBatch | None = None

    def to_json(self) -> bytes:
        """Return the content of session.json."""
        return self.model_dump_json(by_alias=True, indent=2).encode()


class FoldAccount(_Document):
    """How far a session brought one fold.

    Args:
        done: Whether the fold is finished; left out where it failed.
        left: Remaining work of an unfinished fold.
        error: Reason of a failure; left out otherwise.
    """

    done: bool = False
    left: str | None = None
    error: str | None = None


class SessionAccount(_Document):
    """What a session leaves next to its runs: gatemask-output.json.

    Args:
        push: Id of the push.
        ref: Kernel, as owner/slug.
        experiment: Name of the experiment.
        commit: Commit of the project.
        state: "finished", "stopped" (by its time limit), "failed" or "lost" (ended by something outside training).
        folds: Outcome of each fold that was begun, by fold number.
        error: Why it failed.
        seconds: Duration of the session, in seconds.
        files: SHA-256 of each file, by path below the output folder.
        compiled: SHA-256 of the archive of compiled functions; left out without one.
    """

    push: str
    ref: str
    experiment: str
    commit: str | None
    state: str
    folds: dict[str, FoldAccount]
    error: str | None
    seconds: float
    files: dict[str, str]
    compiled: str | None = None

    def newest_states(self) -> dict[int, str]:
        """Return the newest saved state of each fold, such as "at-0003-00000". Names sort by epoch and step."""
        pattern = re.compile(rf"runs/{re.escape(self.experiment)}/fold(\d+)/state/(at-[\d-]+)\.h5")
        newest: dict[int, str] = {}
        for match in filter(None, map(pattern.fullmatch, self.files)):
            fold, state = int(match[1]), match[2]
            newest[fold] = max(newest.get(fold, ""), state)
        return newest

    def files_of(self, fold: int) -> dict[str, str]:
        """Return path and SHA-256 of each file of a fold's run."""
        prefix = f"runs/{self.experiment}/fold{fold}/"
        return {name: digest for name, digest in self.files.items() if name.startswith(prefix)}


class KernelEntry(CommandResult):
    """A training kernel and its last push.

    Args:
        ref: Kernel, as owner/slug.
        experiment: Name of the experiment.
        machine: Name of the machine in machines.yaml.
        state: Kaggle's status word, or the outcome of a fetched push.
        folds: Folds of the push.
        version: Kaggle's version number, if known.
        at: Time of the push, ISO 8601 in UTC.
        commit: Commit of the project.
        hours: Session limit, in hours.
        done: Folds that the push finished.
        progress: Newest state of each unfinished fold, by fold number.
        sources: Kernels whose output was attached.
        datasets: Version of each attached dataset, by owner/slug.
        message: Why it failed.
    """

    ref: str
    experiment: str
    machine: str
    state: str
    folds: tuple[int, ...]
    version: int | None
    at: str
    commit: str | None
    hours: float
    done: tuple[int, ...]
    progress: dict[str, str]
    sources: tuple[str, ...]
    datasets: dict[str, int]
    message: str | None


class PushReport(CommandResult):
    """Result of `gatemask push` and `gatemask resume`.

    Args:
        current: Whether nothing was pushed.
        experiment: Name of the experiment; left out by `resume`.
        pushed: Kernels that were pushed.
        in_hand: Requested folds that a kernel is training already; left out by `resume`.
    """

    current: bool
    experiment: str = ""
    pushed: tuple[KernelEntry, ...]
    in_hand: tuple[int, ...] = ()


class FetchReport(CommandResult):
    """Result of `gatemask fetch` and `gatemask wait`.

    Args:
        current: Whether nothing was fetched.
        fetched: Kernels whose output was fetched.
        running: Kernels that still run, each as owner/slug; left out by `wait`.
    """

    current: bool
    fetched: tuple[KernelEntry, ...]
    running: tuple[str, ...] = ()


class StatusReport(CommandResult):
    """Result of `gatemask status`.

    Args:
        kernels: All kernels, in the order of their last pushes.
    """

    kernels: tuple[KernelEntry, ...]


class CampaignReport(CommandResult):
    """Result of `gatemask campaign`.

    Args:
        current: Whether nothing was pushed.
        experiments: Score of each finished fold ("fold0", ...), by experiment.
        sessions: Number of sessions pushed by this call.
        hours: Duration of all sessions so far, in hours.
        given_up: Reason for each fold ("experiment/fold") or experiment that was given up.
    """

    current: bool
    experiments: dict[str, dict[str, float]]
    sessions: int
    hours: float
    given_up: dict[str, str]


class TrainingRehearsal(StageResult):
    """Result of `gatemask rehearse --train`.

    Args:
        isolation: How the network was cut off.
        script_kilobytes: Size of the kernel's script, in kB.
        payload_inside: Whether the payload is part of the script.
        kernel_seconds: Duration of the session, in seconds.
        files: Number of files in the output.
        output_megabytes: Size of the output, in MB.
        expected_megabytes: Expected size of the output of a full training, in MB.
        peak_memory_megabytes: Peak memory of the kernel, in MB.
    """

    isolation: str
    script_kilobytes: float
    payload_inside: bool
    kernel_seconds: float
    files: int
    output_megabytes: float
    expected_megabytes: float
    peak_memory_megabytes: int
