"""`gatemask sync`: upload the epochs that W&B lacks, wherever a run was trained, each epoch once.

A run is complete on disk, so it is replayed from its metrics.jsonl by a W&B client of its own, under the run id of the
training. The server decides what is sent: epochs are sent in order, so the last one it shows says which it has. If a
sync is killed, the next one asks again and sends the rest. `runs/<comp>/wandb-synced.json` saves the question: it lists
the content of each run known to be on the server.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gatemask.console import progress, say
from gatemask.errors import GatemaskError
from gatemask.files import locked, read_json_object, write_json
from gatemask.project import Project
from gatemask.results.tracking import SyncResult, UploadedRun
from gatemask.secrets.guard import refuse_secrets
from gatemask.tracking import wandb_server
from gatemask.tracking.local_run import LocalRun, find_runs, is_being_written, read_run
from gatemask.tracking.wandb_server import Account, UnreachableError

UPLOAD_S = 900.0  # time limit for one run
SETTLE_S = 20.0  # time limit until the server shows what was sent
IN_TRAINING = "still being trained; sync again when the training has ended."
# They would change the run.
_REMOVED_VARIABLES = {
    *("WANDB_MODE", "WANDB_DISABLED", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_JOB_TYPE", "WANDB_TAGS"),
    *("WANDB_NOTES", "WANDB_RESUME", "WANDB_PROJECT"),
}


def sync(project: Project, gaps: bool = False) -> SyncResult:
    """Upload the runs of a competition that W&B lacks, completely or in part.

    Runs that a training set aside (`fold0.replaced1`) are uploaded too, under ids of their own.

    Args:
        project: Project with the runs.
        gaps: Whether to upload a run whose first epochs are missing. W&B accepts no earlier epochs later.

    Raises:
        GatemaskError: The API key is missing or rejected, or the server did not answer before the first upload.
    """
    folders = find_runs(project)
    if not folders:
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
    return SyncResult(
        current=not upload.synced and not upload.later and not upload.failed,
        synced=upload.synced,
        already=upload.already,
        later=upload.later,
        failed=upload.failed,
        runs=upload.uploaded_runs,
    )


class _SyncedRuns:
    """Contents of runs known to be on the server, by fingerprint, as wandb-synced.json lists them per server."""

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        do = f"Restore it from a backup, or delete {path}: all runs are then compared with the server again."
        known = read_json_object(path, do=do) if path.exists() else {}
        self._servers: dict[str, dict[str, Mapping[str, object]]] = known
        self._entries = self._servers.setdefault(server, {})

    def __contains__(self, run: LocalRun) -> bool:
        return run.fingerprint in self._entries

    def add(self, run: LocalRun, name: str, uploaded: UploadedRun, sent: bool) -> None:
        self._entries[run.fingerprint] = {"fragment": name, **uploaded.as_dict(), "sent": sent}
        write_json(self._path, self._servers)


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
        self.synced_runs = _SyncedRuns(self.project.runs / "wandb-synced.json", wandb_server.server_address())

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
                self.failed[name] = _in_one_line(error)
                continue
            if run.fingerprint in seen:  # a copy of a folder counts once
                continue
            seen.add(run.fingerprint)
            if run in self.synced_runs:
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
                uploaded, sent = _send(account, run, self.lock, self.gaps, self.project.root)
            except GatemaskError as error:
                self.failed[name] = _in_one_line(error)
                unreachable = isinstance(error, UnreachableError)
                continue
            self.synced_runs.add(run, name, uploaded, sent)
            self.uploaded_runs[run.id] = uploaded
            self.synced += sent
            self.already += not sent


def _in_one_line(error: GatemaskError) -> str:
    received = f" {error.details['received']}." if error.details["received"] else ""
    return f"{error.what}{received} {error.details['do']}"


def _send(account: Account, run: LocalRun, lock: int, gaps: bool, root: Path) -> tuple[UploadedRun, bool]:
    """Send the epochs of a run that the server lacks, and wait until it shows them.

    Args:
        account: Account that uploads.
        run: Run with at least one epoch.
        lock: File number of the lock.
        gaps: Whether the run may begin later than with its first epoch.
        root: Project folder.

    Returns:
        The run on W&B, and whether anything had to be sent.

    Raises:
        GatemaskError: The beginning of the run is missing, the run contains a secret, or W&B did not accept all epochs.
    """
    place = (os.environ.get("WANDB_ENTITY") or account.entity, run.project, run.id)
    uploaded = UploadedRun(run="/".join(place), server=account.server, epochs=len(run.rows))
    remote = wandb_server.ask_run(account, *place)
    last = -1 if remote.last_epoch is None else remote.last_epoch
    same_summary = all(remote.summary.get(name) == value for name, value in run.summary.items())
    if last > run.last_epoch or (last == run.last_epoch and same_summary):
        return uploaded, False
    if last < 0 and run.first_epoch > 0 and not gaps:
        raise GatemaskError(
            "The first epochs of this run are missing.",
            received=f"Its metrics.jsonl begins with epoch {run.first_epoch + 1}",
            do="Fetch the complete run; if its beginning is lost, sync with --gaps.",
        )
    contents: dict[str, bytes | Path] = {name: run.folder / name for name in ("config.yaml", "metrics.jsonl")}
    refuse_secrets({**contents, "the name of the run": uploaded.run.encode()}, root)
    output = _replay(account, place[0], run, last, lock)
    deadline = time.monotonic() + SETTLE_S
    while (remote := wandb_server.ask_run(account, *place)).last_epoch != run.last_epoch:
        if time.monotonic() > deadline:
            raise _not_accepted(output)
        time.sleep(0.5)
    if "Replayed" not in output:  # all epochs arrived, but not the end of the run
        raise _not_accepted(output)
    return uploaded, True


def _replay(account: Account, entity: str, run: LocalRun, last: int, lock: int) -> str:
    """Replay the epochs after `last` in a process of its own, and return its output."""
    with tempfile.TemporaryDirectory(prefix="gatemask-sync-") as scratch:
        environment = {
            **{name: value for name, value in os.environ.items() if name not in _REMOVED_VARIABLES},
            "WANDB_MODE": "online",
            "WANDB_API_KEY": account.key,
            "WANDB_BASE_URL": account.server,
            "WANDB_ENTITY": entity,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_X_DISABLE_STATS": "true",  # this machine did not train the run
            "WANDB_X_DISABLE_META": "true",
            **{f"WANDB_{name}_DIR": scratch for name in ("CACHE", "DATA", "CONFIG")},
        }
        command = [sys.executable, "-P", "-m", "gatemask.tracking.replay", *map(str, (run.folder, run.label, last))]
        output = Path(scratch) / "output.txt"
        with output.open("w") as out:
            child = subprocess.Popen(
                # The client's own process closes all inherited files but stdin, so the lock is passed as stdin.
                [*command, scratch],
                env=environment,
                cwd=scratch,
                stdin=lock,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                child.wait(UPLOAD_S)
            except subprocess.TimeoutExpired:
                out.write(f"no end after {UPLOAD_S:.0f} s\n")
            finally:
                if child.poll() is None:
                    child.kill()  # its own process ends with it
                    child.wait()
        return output.read_text(errors="replace").replace(account.key, "...")


def _not_accepted(output: str) -> GatemaskError:
    lines = [line.removeprefix("wandb: ") for line in output.splitlines() if line.strip()]
    reasons = [line for line in lines if "ERROR" in line or "failed" in line or line.startswith("no end")] or lines[-1:]
    return GatemaskError(
        "W&B did not accept all of it:",
        received="; ".join(reasons)[:300],
        do="Sync again: only what is missing is sent.",
    )
