"""Send results to W&B as runs of their own: at once after an online stage, otherwise by `gatemask sync`.

A result is sent from its files. The mark in the summary of its run says what the server has, and
`runs/<comp>/wandb-synced.json` saves the question. If W&B lacks the weights or the rule that a result was made from,
because their own run was not uploaded yet, the result is sent again later, so that its lineage becomes complete.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import copy_file, locked, sha256, write_text
from gatemask.project import Project
from gatemask.results.tracking import SyncResult, UploadedRun
from gatemask.secrets.guard import refuse_secrets
from gatemask.tracking import wandb_server
from gatemask.tracking.client_process import run_client
from gatemask.tracking.guarded import call_guarded
from gatemask.tracking.mode import environment_mode
from gatemask.tracking.replay_result import INCOMPLETE, MARK
from gatemask.tracking.result_run import ResultRun
from gatemask.tracking.result_runs import read_result, result_places
from gatemask.tracking.synced_runs import SyncedRuns
from gatemask.tracking.wandb_server import Account, UnreachableError

UPLOAD_S = 900.0  # time limit for one result in `gatemask sync`
AT_ONCE_S = 120.0  # time limit for the results of a stage, which must not wait for W&B
SETTLE_S = 20.0  # time limit until the server shows what was sent


@dataclass
class _Outcome:
    """What became of each result, by its place below the competition's runs."""

    synced: int = 0
    already: int = 0
    later: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    runs: dict[str, UploadedRun] = field(default_factory=dict)


def with_results(project: Project, lock: int, trainings: SyncResult) -> SyncResult:
    """Send the results that W&B lacks, and add them to the report of `gatemask sync`.

    Args:
        project: Project of the competition.
        lock: File number of the lock, held by the caller.
        trainings: Report on the trainings, which are sent first: results refer to their weights.

    Raises:
        GatemaskError: The API key is missing or rejected, or the server did not answer.
    """
    outcome, pending = _Outcome(), []
    for path in result_places(project):
        try:
            run = read_result(project, path)
        except GatemaskError as error:
            outcome.failed[_place(project, path)] = in_one_line(error)
            continue
        if run is not None and run.tracked:
            pending.append(run)
    _send_missing(project, pending, lock, outcome)
    for name, reason in (outcome.later | outcome.failed).items():
        say(f"{name}: {reason}")
    return SyncResult(
        current=trainings.current and not outcome.synced and not outcome.later and not outcome.failed,
        synced=trainings.synced + outcome.synced,
        already=trainings.already + outcome.already,
        later=trainings.later | outcome.later,
        failed=trainings.failed | outcome.failed,
        runs=trainings.runs | outcome.runs,
    )


def send_at_once(project: Project, paths: Sequence[Path]) -> None:
    """Send results whose trainings were online, or all if WANDB_MODE is online. Whatever goes wrong, the stage is done.

    Args:
        project: Project of the competition.
        paths: Stamps of stages, or records of submissions.
    """
    try:
        if (mode := environment_mode()) not in (None, "online"):
            return
        runs = [run for path in paths if (run := read_result(project, path)) is not None]
        runs = [run for run in runs if (mode or run.mode) == "online"]
        if not runs:
            return
        with locked(project.runs / ".wandb-sync.lock", "An upload of these runs is still running.") as lock:
            outcome = _Outcome()
            send = partial(_send_missing, project, runs, lock, outcome, time.monotonic() + AT_ONCE_S)
            error = call_guarded("W&B", send, AT_ONCE_S + wandb_server.ANSWER_S)
        faults = [" ".join(error.split())] if error else list((outcome.later | outcome.failed).values())
    except Exception as failure:  # the stage matters more
        faults = [in_one_line(failure) if isinstance(failure, GatemaskError) else repr(failure)]
    if faults:
        say(f"Not all of the result is on W&B yet; gatemask sync {project.comp} sends the rest. {faults[0]}")


def _send_missing(
    project: Project, runs: Sequence[ResultRun], lock: int, outcome: _Outcome, deadline: float | None = None
) -> None:
    """Send those of the results that the server lacks.

    Args:
        project: Project of the competition.
        runs: Results.
        lock: File number of the lock.
        outcome: What became of each result; changed.
        deadline: Time on the monotonic clock at which all must have been sent. Default: `UPLOAD_S` for each result.
    """
    if not runs:
        return
    synced = SyncedRuns(project, wandb_server.server_address())
    pending = [run for run in runs if run.fingerprint not in synced]
    outcome.already += len(runs) - len(pending)
    if not pending:
        return
    account = wandb_server.sign_in()
    unreachable = False
    for run in pending:
        if unreachable:
            outcome.later[run.place] = "W&B can no longer be reached."
            continue
        limit_s = UPLOAD_S if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            uploaded, sent, missing = _send(account, run, lock, limit_s, project.root)
        except GatemaskError as error:
            outcome.failed[run.place] = in_one_line(error)
            unreachable = isinstance(error, UnreachableError)
            continue
        outcome.runs[run.id] = uploaded
        outcome.synced += sent
        outcome.already += not sent
        if missing:
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            outcome.later[run.place] = f"W&B does not have {names} yet, from which it was made; sync again later."
        else:
            synced.add(run.fingerprint, run.place, uploaded, sent)


def _send(
    account: Account, run: ResultRun, lock: int, limit_s: float, root: Path
) -> tuple[UploadedRun, bool, list[str]]:
    """Send a result unless the server has it.

    Returns:
        The run on W&B, whether anything had to be sent, and the names of the artifacts it was made from that W&B lacks.

    Raises:
        GatemaskError: A file of the result has changed, contains a secret, or W&B did not accept all of it.
    """
    entity = wandb_server.entity_of(account)
    place = (entity, run.project, run.id)
    uploaded = UploadedRun(run="/".join(place), server=account.server, epochs=0)
    if wandb_server.ask_summary(account, *place).get(MARK) == run.fingerprint:
        return uploaded, False, []
    with tempfile.TemporaryDirectory(prefix="gatemask-result-") as scratch:
        files = _copy(run, Path(scratch))
        refuse_secrets({**files, "the name of the run": uploaded.run.encode()}, root)
        command = ["gatemask.tracking.replay_result", scratch]
        output = run_client(account, entity, command, Path(scratch), lock, limit_s)
    lines = output.splitlines()
    missing = [line.removeprefix("Missing: ") for line in lines if line.startswith("Missing: ")]
    expected = run.fingerprint + (INCOMPLETE if missing else "")
    deadline = time.monotonic() + SETTLE_S
    while "Sent" not in lines or wandb_server.ask_summary(account, *place).get(MARK) != expected:
        if "Sent" not in lines or time.monotonic() > deadline:
            raise wandb_server.not_accepted(output)
        time.sleep(0.5)
    return uploaded, True, missing


def _copy(run: ResultRun, folder: Path) -> Mapping[str, Path]:
    """Copy the files of a result, and write run.json, which names the copies. Return all of them.

    Raises:
        GatemaskError: A file is not the one that its stage wrote: it is being made again, or was edited.
    """
    copies = {}

    def copy(source: Path, name: str, digest: str) -> Path:
        copies[name] = copy_file(source, folder / name)
        if sha256(copies[name]) != digest:
            raise GatemaskError(
                "A file of the result is not the one that its stage wrote.",
                where=source,
                received=source.name,
                do="Run its stage again, then sync again.",
            )
        return copies[name]

    figures = {name: copy(path, path.name, run.hashes[name]) for name, path in run.figures.items()}
    logs = [
        artifact.model_copy(update={"file": copy(artifact.file, artifact.file.name, artifact.sha256)})
        for artifact in run.logs
    ]
    staged = run.model_copy(update={"figures": figures, "logs": logs})
    return {**copies, "run.json": write_text(folder / "run.json", staged.model_dump_json())}


def _place(project: Project, path: Path) -> str:
    return path.relative_to(project.runs).as_posix()


def in_one_line(error: GatemaskError) -> str:
    """Return what an error says, for a list of runs that failed."""
    received = f" {error.details['received']}." if error.details["received"] else ""
    return f"{error.what}{received} {error.details['do']}"
