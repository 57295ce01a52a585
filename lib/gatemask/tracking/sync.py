"""`gatemask sync`: upload the runs that W&B lacks, wherever they were trained, each row once.

The server decides what is uploaded. The rows of a run are sent in the order of their epochs, so the last epoch on the
server says which rows it has; only later ones are sent. If a sync is killed, the next one asks again and sends the
rest. `runs/<comp>/wandb-synced.json` saves the question: it lists the content of each log known to be on the server.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

from gatemask.console import progress, say
from gatemask.errors import GatemaskError
from gatemask.files import locked, read_json, write_json
from gatemask.project import Project
from gatemask.results.tracking import SyncResult, UploadedRun
from gatemask.tracking import wandb_log, wandb_server
from gatemask.tracking.wandb_log import RunLog
from gatemask.tracking.wandb_server import Account, UnreachableError

UPLOAD_S = 900.0  # time limit for one log; `wandb sync` itself retries for days without a network
SETTLE_S = 20.0  # time limit until the server shows what was sent
GROWING = "still being written; sync again when the training has ended."
# They would change the run, or hide the output of `wandb sync`.
_REMOVED_VARIABLES = {
    *("WANDB_MODE", "WANDB_DISABLED", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_JOB_TYPE", "WANDB_TAGS"),
    *("WANDB_NOTES", "WANDB_RESUME", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_SILENT", "WANDB_QUIET"),
}


def sync(project: Project, gaps: bool = False) -> SyncResult:
    """Upload the offline runs of a competition, and the remaining rows of online runs that lost the network.

    Runs that a training set aside (`fold0.replaced1`) are uploaded too, under ids of their own.

    Args:
        project: Project with the runs.
        gaps: Whether to upload a run whose first session is missing. W&B accepts no earlier rows later, so the rows
            of that session stay out for good.

    Raises:
        GatemaskError: The API key is missing or rejected, or the server did not answer before the first upload.
    """
    paths = wandb_log.find_logs(project.runs)
    if not paths:
        say(f"There are no W&B runs below {project.runs}.")
        say("A training writes them unless its tracking.wandb, or WANDB_MODE, is disabled.")
        return SyncResult(current=True, synced=0, already=0, later={}, failed={}, runs={})
    with locked(project.runs / ".wandb-sync.lock", "Another upload of these runs is still running.") as lock:
        upload = _Upload(project.runs, lock, gaps)
        upload.sort(paths)
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


class _SyncedLogs:
    """The logs known to be on the server, by digest, as wandb-synced.json lists them for each server."""

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self._servers: dict[str, dict[str, dict[str, object]]] = read_json(path) if path.exists() else {}
        self._entries = self._servers.setdefault(server, {})

    def __contains__(self, log: RunLog) -> bool:
        return log.digest in self._entries

    def add(self, log: RunLog, name: str, run: UploadedRun, sent: bool) -> None:
        self._entries[log.digest] = {"fragment": name, **run.as_dict(), "sent": sent}
        write_json(self._path, self._servers)


@dataclass
class _Upload:
    """An upload of a competition's logs, and the outcome for each of them.

    Args:
        root: Folder of the competition's runs.
        lock: File number of the lock. Uploading processes inherit it: they may outlive this one if it is killed.
        gaps: Whether a run may begin later than with its first epoch.
    """

    root: Path
    lock: int
    gaps: bool
    pending: list[RunLog] = field(default_factory=list)  # in the order of writing
    later: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)  # run -> the session that must be uploaded first
    uploaded_runs: dict[str, UploadedRun] = field(default_factory=dict)
    synced: int = 0
    already: int = 0

    def __post_init__(self) -> None:
        self.synced_logs = _SyncedLogs(self.root / "wandb-synced.json", wandb_server.server_address())

    def name(self, path: Path) -> str:
        return path.parent.relative_to(self.root).as_posix()

    def sort(self, paths: list[Path]) -> None:
        """Read all logs, and decide which must be uploaded, are on W&B already, must wait, or are damaged."""
        digests: set[str] = set()
        for path in paths:
            name = self.name(path)
            try:
                log = wandb_log.read_log(path)
            except GatemaskError as error:
                self.failed[name] = _in_one_line(error)
                # Without its beginning, the rest would pass for the complete run, and the gap could not be closed.
                self.blocked.setdefault(path.stem.removeprefix("run-"), name)
                continue
            if log is None or not (log.epochs or log.summary):  # the session ended before its first epoch
                if (log is None or not log.ended) and wandb_log.is_growing(path):
                    self.later[name] = GROWING
            elif log.digest not in digests:  # a copy of the same folder counts once
                if log in self.synced_logs:
                    self.already += 1
                else:
                    self.pending.append(log)
            if log is not None:
                digests.add(log.digest)
        self.pending.sort(key=lambda log: log.started)

    def send_pending(self) -> None:
        """Upload the pending logs in order."""
        account = wandb_server.sign_in()
        unreachable = False
        for number, log in enumerate(progress(self.pending, "upload")):
            name = self.name(log.path)
            first = self.blocked.get(log.run)
            if unreachable:
                self.later[name] = "W&B can no longer be reached."
            elif first and _start_time(first) < _start_time(name):
                self.later[name] = f"waits for {first}, an earlier session of the same run."
            elif not log.ended and wandb_log.is_growing(log.path):
                self.blocked[log.run] = name
                self.later[name] = GROWING
            else:
                next_logs = [later for later in self.pending[number + 1 :] if later.run == log.run]
                superseded = {epoch for later in next_logs for epoch in later.epochs}
                unreachable = not self._send_guarded(account, log, superseded)

    def _send_guarded(self, account: Account, log: RunLog, superseded: Set[int]) -> bool:
        """Upload a log and record the outcome; return whether the server can still be reached."""
        name = self.name(log.path)
        try:
            run, sent = _send(account, log, superseded, self.lock, self.gaps)
        except GatemaskError as error:
            self.blocked[log.run] = name
            self.failed[name] = _in_one_line(error)
            return not isinstance(error, UnreachableError)
        self.synced_logs.add(log, name, run, sent)
        self.uploaded_runs[log.run] = run
        self.synced += sent
        self.already += not sent
        return True


def _start_time(name: str) -> str:
    """Return the part of a session's name that says when it began."""
    return name.rsplit("/", 1)[-1].removeprefix("offline-")


def _in_one_line(error: GatemaskError) -> str:
    received = f" {error.details['received']}." if error.details["received"] else ""
    return f"{error.what}{received} {error.details['do']}"


def _send(account: Account, log: RunLog, superseded: Set[int], lock: int, gaps: bool) -> tuple[UploadedRun, bool]:
    """Send the rows of a log that the server lacks, and wait until it shows them.

    Args:
        account: Account that uploads.
        log: Log of a run whose earlier logs are on the server.
        superseded: Epochs that a later session trained again. Its rows count, as they do in metrics.jsonl.
        lock: File number of the lock.
        gaps: Whether the run may begin later than with its first epoch.

    Returns:
        The run, and whether anything had to be sent.

    Raises:
        GatemaskError: The beginning of the run is missing, or W&B did not accept all rows.
    """
    entity = log.entity or os.environ.get("WANDB_ENTITY") or account.entity
    remote = wandb_server.ask_run(account, entity, log.project, log.run)
    run = UploadedRun(run=f"{entity}/{log.project}/{log.run}", server=account.server, epochs=len(set(log.epochs)))
    last = remote.last_epoch
    if last is not None and log.epochs:
        same_summary = all(
            name in remote.summary and remote.summary[name] == value for name, value in log.summary.items()
        )
        # The summary of an older log would be older than the server's, too.
        if max(log.epochs) < last or (max(log.epochs) == last and same_summary):
            return run, False
    if last is None and log.epochs and min(log.epochs) > 0 and not gaps:
        raise GatemaskError(
            "The first session of this run is missing.",
            received=f"Its rows begin with epoch {min(log.epochs) + 1}",
            do="Fetch that session's folder first; if it is lost, sync with --gaps.",
        )
    uploaded = {epoch for epoch in log.epochs if last is not None and epoch <= last}
    with tempfile.TemporaryDirectory(prefix="gatemask-sync-") as scratch:
        copy = wandb_log.write_remaining(log, uploaded, superseded - uploaded, Path(scratch))
        output = _run_wandb_sync(account, entity, copy, Path(scratch), lock)
    if "Finished syncing" not in output:
        raise _not_accepted(output)
    if sent := {*log.epochs} - superseded - uploaded:
        _wait_for_epoch(account, (entity, log.project, log.run), max(sent), output)
    # The mark by which `wandb sync` itself, called by hand, skips the log.
    log.path.with_suffix(".wandb.synced").touch()
    return run, True


def _run_wandb_sync(account: Account, entity: str, copy: Path, scratch: Path, lock: int) -> str:
    """Run `wandb sync` on a log and return its output. It exits with 0 whatever happens."""
    environment = {
        **{name: value for name, value in os.environ.items() if name not in _REMOVED_VARIABLES},
        "WANDB_API_KEY": account.key,
        "WANDB_BASE_URL": account.server,
        "WANDB_DIR": str(scratch),
        "WANDB_ERROR_REPORTING": "false",
    }
    command = [sys.executable, "-P", "-m", "wandb", "sync", "--include-online", "--entity", entity, str(copy)]
    output = scratch / "output.txt"
    with output.open("w") as out:
        child = subprocess.Popen(
            # The client's own process closes all inherited files but stdin, so the lock is passed as stdin.
            command,
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


def _wait_for_epoch(account: Account, run: tuple[str, str, str], epoch: int, output: str) -> None:
    """Wait until the server shows the last epoch that was sent.

    Raises:
        GatemaskError: It does not within SETTLE_S.
    """
    deadline = time.monotonic() + SETTLE_S
    while (last := wandb_server.ask_run(account, *run).last_epoch) is None or last < epoch:
        if time.monotonic() > deadline:
            raise _not_accepted(output)
        time.sleep(0.5)


def _not_accepted(output: str) -> GatemaskError:
    lines = [line.removeprefix("wandb: ") for line in output.splitlines() if line.strip()]
    reasons = [line for line in lines if "ERROR" in line or line.startswith("no end")] or lines[-1:]
    return GatemaskError(
        "W&B did not accept all of it:",
        received="; ".join(reasons)[:300],
        do="Sync again: only what is missing is sent.",
    )
