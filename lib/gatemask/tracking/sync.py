"""`gatemask sync`: runs that W&B has not seen, fetched from wherever they were trained, go there, each row once.

What decides is what the service holds. A run's rows go up in the order of their epochs, so that its last epoch says
which rows are there; only those behind it are sent. Killed at any moment, the next sync asks again and sends the rest.
`runs/<comp>/wandb-synced.json` then spares the question: it names each fragment's content that is known to be there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatemask.console import progress, say
from gatemask.errors import GatemaskError
from gatemask.files import locked, read_json, write_json
from gatemask.project import Project
from gatemask.tracking import fragments, wandb_server
from gatemask.tracking.fragments import Fragment
from gatemask.tracking.wandb_server import Account, UnreachableError

UPLOAD_S = 900.0  # for one fragment; without a network, `wandb sync` would try for days
SETTLE_S = 20.0  # until the service shows what it was sent
GROWS = "is still being written; sync again when the training has ended."
# They would change the run, or hide what `wandb sync` says.
_NOT_OURS = {
    *("WANDB_MODE", "WANDB_DISABLED", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_JOB_TYPE", "WANDB_TAGS"),
    *("WANDB_NOTES", "WANDB_RESUME", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_SILENT", "WANDB_QUIET"),
}


@dataclass
class _Work:
    """What was found: fragments in the order of writing, and what became of each."""

    root: Path
    pending: list[Fragment] = field(default_factory=list)
    later: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)  # run -> the fragment that must go first
    already: int = 0
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        return path.parent.relative_to(self.root).as_posix()


def sync(project: Project, gaps: bool = False) -> dict[str, Any]:
    """Upload the offline runs of a competition, each once; and the rest of online ones that lost the network.

    Runs that a training set aside (`fold0.replaced1`) are uploaded too: they have ids of their own.

    Args:
        project: where the runs lie.
        gaps: upload a run also where its first session is missing. W&B takes no rows backwards: should that session
            turn up later, its rows stay out.

    Returns:
        `current` where there was nothing to do, how many fragments were `synced` now and `already` before, those
        that must wait under `later` and those that `failed` with the reason, and under `runs` those that were
        uploaded, as they are called on W&B.

    Raises:
        GatemaskError: no key, a refused one, or no answer, before anything was uploaded.
    """
    paths = fragments.find(project.runs)
    if not paths:
        say(f"There are no runs of W&B below {project.runs}.")
        say("A training writes them unless its tracking.wandb, or WANDB_MODE, is disabled.")
        return {"current": True, "synced": 0, "already": 0, "later": {}, "failed": {}, "runs": {}}
    with locked(project.runs / ".wandb-sync.lock", "Another upload of these runs is still going on.") as lock:
        book = project.runs / "wandb-synced.json"
        here = wandb_server.server()
        notes = read_json(book) if book.exists() else {}
        known = notes.setdefault(here, {})
        work = _sort(project.runs, paths, known)
        synced = _upload_all(work, known, lambda: write_json(book, notes), lock, gaps) if work.pending else 0
    for what, why in (work.later | work.failed).items():
        say(f"{what}: {why}")
    done = not synced and not work.later and not work.failed
    return {
        "current": done,
        "synced": synced,
        "already": work.already,
        "later": work.later,
        "failed": work.failed,
        "runs": work.runs,
    }


def _sort(root: Path, paths: Sequence[Path], known: dict[str, Any]) -> _Work:
    """Read every fragment: which are to be uploaded, which are on W&B, which must wait, which are damaged."""
    work, seen = _Work(root), set()
    for path in paths:
        name = work.name(path)
        try:
            fragment = fragments.read(path)
        except GatemaskError as error:
            work.failed[name] = _told(error)
            # Without the beginning of a run, its rest would stand for the whole, and the gap could not be filled.
            work.blocked.setdefault(path.stem.removeprefix("run-"), name)
            continue
        if fragment is None or not (fragment.epochs or fragment.summary):  # it died before its first epoch
            if (fragment is None or not fragment.ended) and fragments.grows(path):
                work.later[name] = GROWS
        elif fragment.digest in known:
            work.already += fragment.digest not in seen
        elif fragment.digest not in seen:
            work.pending.append(fragment)
        seen |= {fragment.digest} if fragment else set()
    work.pending.sort(key=lambda one: one.started)
    return work


def _upload_all(work: _Work, known: dict[str, Any], note: Callable[[], object], lock: int, gaps: bool) -> int:
    account = wandb_server.sign_in()
    synced, away = 0, False
    for number, fragment in enumerate(progress(work.pending, "upload")):
        name = work.name(fragment.path)
        if away:
            work.later[name] = "W&B could not be reached any more."
            continue
        first = work.blocked.get(fragment.run)
        if first and _began(first) < _began(name):
            work.later[name] = f"waits for {first}, an earlier part of the same run."
            continue
        if not fragment.ended and fragments.grows(fragment.path):
            work.blocked[fragment.run] = name
            work.later[name] = GROWS
            continue
        again = {e for one in work.pending[number + 1 :] if one.run == fragment.run for e in one.epochs}
        try:
            entry = _upload(account, fragment, again, lock, gaps)
        except GatemaskError as error:
            work.blocked[fragment.run] = name
            work.failed[name] = _told(error)
            away = isinstance(error, UnreachableError)
            continue
        known[fragment.digest] = {"fragment": name, **entry}
        note()
        sent = entry.pop("sent")
        synced += sent
        work.already += not sent
        work.runs[fragment.run] = entry
    return synced


def _began(name: str) -> str:
    """The part of a session's name that says when it began."""
    return name.rsplit("/", 1)[-1].removeprefix("offline-")


def _told(error: GatemaskError) -> str:
    received = f" {error.details['received']}." if error.details["received"] else ""
    return f"{error.what}{received} {error.details['do']}"


def _upload(account: Account, fragment: Fragment, again: set[int], lock: int, gaps: bool) -> dict[str, Any]:
    """Send what the service lacks of a fragment, and see that it arrived.

    Args:
        account: who uploads.
        fragment: of a run whose earlier fragments are there.
        again: epochs that a later session trained again: its rows count, as they do in metrics.jsonl.
        lock: held by the upload too, which outlives us if we are killed.
        gaps: whether the run may begin later than with its first epoch.

    Raises:
        GatemaskError: the run's beginning is missing, or W&B did not take all of it.
    """
    entity = fragment.entity or os.environ.get("WANDB_ENTITY") or account.entity
    place = (entity, fragment.project, fragment.run)
    entry = {"run": "/".join(place), "server": account.server, "epochs": len(set(fragment.epochs))}
    held = wandb_server.held(account, *place)
    last = held.epoch
    if last is not None and fragment.epochs:
        same = all(name in held.summary and held.summary[name] == value for name, value in fragment.summary.items())
        # Of an older fragment, the summary too would be older than what is there.
        if max(fragment.epochs) < last or (max(fragment.epochs) == last and same):
            return {**entry, "sent": False}
    if last is None and fragment.epochs and min(fragment.epochs) > 0 and not gaps:
        raise GatemaskError(
            "The first session of this run is missing.",
            received=f"Its rows begin with epoch {min(fragment.epochs) + 1}",
            do="Fetch that session's folder first; where it is lost, sync with --gaps.",
        )
    there = {epoch for epoch in fragment.epochs if last is not None and epoch <= last}
    with tempfile.TemporaryDirectory(prefix="gatemask-sync-") as scratch:
        copy = fragments.write_without(fragment, there, again - there, Path(scratch))
        said = _wandb_sync(account, entity, copy, Path(scratch), lock)
    if "Finished syncing" not in said:
        raise _not_taken(said)
    if rows := {*fragment.epochs} - again - there:
        _arrived(account, place, max(rows), said)
    # The mark by which `wandb sync` itself, called by hand, knows not to send it again.
    fragment.path.with_suffix(".wandb.synced").touch()
    return {**entry, "sent": True}


def _wandb_sync(account: Account, entity: str, copy: Path, scratch: Path, lock: int) -> str:
    """Run the command on one fragment: what it said. It exits with 0 whatever happens."""
    ours = {key: value for key, value in os.environ.items() if key not in _NOT_OURS}
    env = {
        **ours,
        "WANDB_API_KEY": account.key,
        "WANDB_BASE_URL": account.server,
        "WANDB_DIR": str(scratch),
        "WANDB_ERROR_REPORTING": "false",
    }
    command = [sys.executable, "-P", "-m", "wandb", "sync", "--include-online", "--entity", entity, str(copy)]
    log = scratch / "said.txt"
    with log.open("w") as out:
        child = subprocess.Popen(
            # The lock as stdin goes on to the client's own process, which closes every other file.
            command,
            env=env,
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
    return log.read_text(errors="replace").replace(account.key, "...")


def _arrived(account: Account, place: tuple[str, str, str], epoch: int, said: str) -> None:
    """Wait until the service shows the last row that it was sent."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        last = wandb_server.held(account, *place).epoch
        if last is not None and last >= epoch:
            return
        if time.monotonic() > deadline:
            raise _not_taken(said)
        time.sleep(0.5)


def _not_taken(said: str) -> GatemaskError:
    lines = [line.removeprefix("wandb: ") for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "ERROR" in line or line.startswith("no end")] or lines[-1:]
    return GatemaskError(
        "W&B did not take all of it:", received="; ".join(telling)[:300], do="Sync again: only what is missing is sent."
    )
