"""`gatemask sync`: upload what W&B lacks of each run, wherever it was trained: epochs, images, tables, artifacts.

A run is complete on disk, so it is replayed from its files by a W&B client of its own, under the run id of the
training. The server decides what is sent: epochs are sent in order, so the last one it shows says which it has; hashes
say which of the rest it has (`tracking.extras`). If a sync is killed, the next one asks again and sends what is still
missing. `runs/<comp>/wandb-synced.json` saves the question: it lists the content of each run known to be on the server.

An online training calls `upload_fold` at the end of a fold.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gatemask.console import progress, say
from gatemask.errors import GatemaskError
from gatemask.files import locked
from gatemask.optional import require
from gatemask.project import Project
from gatemask.results.tracking import SyncResult, UploadedRun
from gatemask.secrets.guard import refuse_secrets
from gatemask.tracking import wandb_server
from gatemask.tracking.client_process import run_client
from gatemask.tracking.extras import SENT
from gatemask.tracking.guarded import call_guarded
from gatemask.tracking.local_run import LocalRun, find_runs, is_being_written, read_run
from gatemask.tracking.replay import Task
from gatemask.tracking.send_results import in_one_line, with_results
from gatemask.tracking.synced_runs import SyncedRuns
from gatemask.tracking.wandb_server import Account, RemoteRun, UnreachableError, not_accepted

UPLOAD_S = 900.0  # time limit for one run
FOLD_UPLOAD_S = 300.0  # the same at the end of a training
SETTLE_S = 20.0  # time limit until the server shows what was sent
IN_TRAINING = "still being trained; sync again when the training has ended."


def sync(project: Project, gaps: bool = False) -> SyncResult:
    """Upload the runs of a competition that W&B lacks, completely or in part.

    Runs that a training set aside (`fold0.replaced1`) are uploaded too, under ids of their own.

    Args:
        project: Project with the runs.
        gaps: Whether to upload a run whose first epochs are missing. W&B accepts no earlier epochs later.

    Raises:
        GatemaskError: wandb is not installed, the API key is missing or rejected, or the server did not answer before
            the first upload.
    """
    folders = find_runs(project)
    if folders:
        require("wandb", "An upload to W&B")
    else:
        say(f"There are no W&B runs below {project.runs}.")
        say("A training writes them unless its tracking.wandb, or WANDB_MODE, is disabled.")
        return SyncResult(current=True, synced=0, already=0, later={}, failed={}, runs={})
    with locked(project.runs / ".wandb-sync.lock", "Another upload of these runs is still running.") as lock:
        upload = _Upload(project, lock, gaps)
        upload.sort(folders)
        if upload.pending:
            upload.send_pending()
        for name, reason in (upload.later | upload.failed).items():
            say(f"{name}: {reason}")
        trainings = SyncResult(
            current=not upload.synced and not upload.later and not upload.failed,
            synced=upload.synced,
            already=upload.already,
            later=upload.later,
            failed=upload.failed,
            runs=upload.uploaded_runs,
        )
        return with_results(project, lock, trainings)  # which refer to the weights of the trainings


@dataclass
class _Upload:
    """An upload of a competition's runs, and the outcome for each of them.

    Args:
        project: Project with the runs.
        lock: File number of the lock. Uploading processes inherit it: they may outlive this one if it is killed.
        gaps: Whether a run may begin later than with its first epoch.
    """

    project: Project
    lock: int
    gaps: bool
    pending: list[LocalRun] = field(default_factory=list)
    later: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    uploaded_runs: dict[str, UploadedRun] = field(default_factory=dict)
    synced: int = 0
    already: int = 0

    def __post_init__(self) -> None:
        self.synced_runs = SyncedRuns(self.project, wandb_server.server_address())

    def name(self, folder: Path) -> str:
        return folder.relative_to(self.project.runs).as_posix()

    def sort(self, folders: list[Path]) -> None:
        """Read all runs, and decide which must be uploaded, are on W&B already, must wait, or are damaged."""
        seen: set[str] = set()
        for folder in folders:
            name = self.name(folder)
            try:
                run = read_run(self.project, folder)
            except GatemaskError as error:
                self.failed[name] = in_one_line(error)
                continue
            if run.fingerprint in seen:  # a copy of a folder counts once
                continue
            seen.add(run.fingerprint)
            if run.fingerprint in self.synced_runs:
                self.already += 1
            elif not run.finished and is_being_written(folder):
                self.later[name] = IN_TRAINING
            elif run.rows:
                self.pending.append(run)

    def send_pending(self) -> None:
        """Upload the pending runs."""
        account = wandb_server.sign_in()
        unreachable = False
        for run in progress(self.pending, "upload"):
            name = self.name(run.folder)
            if unreachable:
                self.later[name] = "W&B can no longer be reached."
                continue
            try:
                uploaded, sent = _Sender(account, self.project, run, self.lock).send(self.gaps)
            except GatemaskError as error:
                self.failed[name] = in_one_line(error)
                unreachable = isinstance(error, UnreachableError)
                continue
            self.synced_runs.add(run.fingerprint, name, uploaded, sent)
            self.uploaded_runs[run.id] = uploaded
            self.synced += sent
            self.already += not sent


def upload_fold(project: Project, folder: Path, settled: bool) -> None:
    """Upload what W&B lacks of a finished fold. Never raises, and ends within minutes: the training matters more.

    Args:
        project: Project of the run.
        folder: Folder of the run.
        settled: Whether all epochs were sent a moment ago, so that the server will show them.
    """
    upload = partial(_upload_fold, project, folder, settled)
    error = call_guarded("W&B upload", upload, FOLD_UPLOAD_S + SETTLE_S + 3 * wandb_server.ANSWER_S)
    if error is not None:
        say(f"{' '.join(error.split())} The run is complete on disk; gatemask sync sends what is missing.")


def _upload_fold(project: Project, folder: Path, settled: bool) -> None:
    with locked(project.runs / ".wandb-sync.lock", "Another upload of these runs is still running.") as lock:
        run = read_run(project, folder)
        sender = _Sender(wandb_server.sign_in(), project, run, lock, FOLD_UPLOAD_S)
        if settled:
            sender.wait_for_epochs()
        uploaded, sent = sender.send(gaps=False)
        synced_runs = SyncedRuns(project, wandb_server.server_address())
        synced_runs.add(run.fingerprint, folder.relative_to(project.runs).as_posix(), uploaded, sent)


@dataclass(frozen=True)
class _Sender:
    """Sends what the server lacks of a run.

    Args:
        account: Account that uploads.
        project: Project of the run.
        run: Run with at least one epoch.
        lock: File number of the lock.
        limit_s: Time limit of the client, in seconds. Default: `UPLOAD_S`.
    """

    account: Account
    project: Project
    run: LocalRun
    lock: int
    limit_s: float | None = None

    @property
    def place(self) -> tuple[str, str, str]:
        """Entity, project and run id on W&B."""
        return (wandb_server.entity_of(self.account), self.run.project, self.run.id)

    def ask(self) -> RemoteRun:
        return wandb_server.ask_run(self.account, *self.place)

    def send(self, gaps: bool) -> tuple[UploadedRun, bool]:
        """Send what is missing, and wait until the server shows it.

        Args:
            gaps: Whether the run may begin later than with its first epoch.

        Returns:
            The run on W&B, and whether anything had to be sent.

        Raises:
            GatemaskError: The beginning of the run is missing, the run contains a secret, or W&B did not accept all.
        """
        run, remote = self.run, self.ask()
        uploaded = UploadedRun(run="/".join(self.place), server=self.account.server, epochs=len(run.rows))
        last = -1 if remote.last_epoch is None else remote.last_epoch
        if last > run.last_epoch:  # this copy of the run is older
            return uploaded, False
        kinds, repair = self._missing(remote), self._incomplete(remote)
        same_summary = all(remote.summary.get(name) == value for name, value in run.summary.items())
        if last == run.last_epoch and same_summary and not kinds and not repair:
            return uploaded, False
        if last < 0 and run.first_epoch > 0 and not gaps:
            raise GatemaskError(
                "The first epochs of this run are missing.",
                received=f"Its metrics.jsonl begins with epoch {run.first_epoch + 1}",
                do="Fetch the complete run; if its beginning is lost, sync with --gaps.",
            )
        contents: dict[str, bytes | Path] = {name: run.folder / name for name in ("config.yaml", "metrics.jsonl")}
        if run.extras is not None:
            contents |= run.extras.files(kinds)
        refuse_secrets({**contents, "the name of the run": uploaded.run.encode()}, self.project.root)
        output = self._replay(last, kinds, repair, remote)
        deadline = time.monotonic() + SETTLE_S
        while not self._has_all():
            if time.monotonic() > deadline:
                raise not_accepted(output)
            time.sleep(0.5)
        if "Replayed" not in output:  # everything arrived, but not the end of the run
            raise not_accepted(output)
        return uploaded, True

    def wait_for_epochs(self) -> None:
        """Wait until the server shows all epochs, which it may do late."""
        deadline = time.monotonic() + SETTLE_S
        while self.ask().last_epoch != self.run.last_epoch and time.monotonic() < deadline:
            time.sleep(0.5)

    def _has_all(self) -> bool:
        remote = self.ask()
        return remote.last_epoch == self.run.last_epoch and not self._missing(remote) and not self._incomplete(remote)

    def _missing(self, remote: RemoteRun) -> tuple[str, ...]:
        """Return the kinds of extras that the server lacks."""
        return tuple(kind for kind, digest in self.run.hashes.items() if remote.get(f"{SENT}{kind}") != digest)

    def _incomplete(self, remote: RemoteRun) -> tuple[str, ...]:
        """Return the kinds whose row the server has, but not all files: a client was killed between the two."""
        hashes = self.run.hashes
        shown = {kind: remote.tail.get(kind) for kind in hashes if remote.tail.get(f"{SENT}{kind}") == hashes[kind]}
        return tuple(sorted(wandb_server.lost_files(self.account, *self.place, shown)))

    def _replay(self, last: int, kinds: tuple[str, ...], repair: tuple[str, ...], remote: RemoteRun) -> str:
        """Replay the rest of the run in a process of its own, and return its output."""
        run, project, limit_s = self.run, self.project, self.limit_s or UPLOAD_S
        with tempfile.TemporaryDirectory(prefix="gatemask-sync-") as scratch:
            step = int(str(remote.tail.get("_step", 0)))
            place = (str(run.folder), str(project.root), project.comp, project.quick, scratch)
            task = Task(*place, after=last, kinds=kinds, repair=repair, step=step)
            command = ["gatemask.tracking.replay", task.to_json()]
            return run_client(self.account, self.place[0], command, Path(scratch), self.lock, limit_s)
