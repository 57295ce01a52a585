"""Fetch a kernel's output and put its runs where `gatemask train` would have written them.

    runs/<comp>/kaggle/<slug>.fetched/             what was downloaded, until it is verified and placed
    runs/<comp>/<experiment>/fold<k>/              the run
    runs/<comp>/<experiment>/fold<k>/kaggle.json   kernel, version and commit that made it

Only files listed in the kernel's account, with matching hashes, are used: the kaggle command may save an error page
under a file's name and report success.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import set_aside, sha256, write_json, write_text
from gatemask.kaggle.client import api, cli
from gatemask.kaggle.client.cli import KaggleError
from gatemask.kaggle.client.polling import DOUBTFUL_ATTEMPTS, OUTPUT_ATTEMPTS
from gatemask.kaggle.train.kernel_records import TrainingKernel, kernel_log_path, kernels_folder, save_kernel
from gatemask.project import Project
from gatemask.results.kaggle_training import ACCOUNT_FILE, SessionAccount
from gatemask.results.training import trained_from
from gatemask.stage import Stamp
from gatemask.tracking import run_folder
from gatemask.training.found_batch import BATCH_FILE, batch_path, load_found_batch, write_found_batch


def collect_output(project: Project, kernel: TrainingKernel) -> bool:
    """Fetch the output of a kernel's last push, which has ended; place its runs and record the outcome.

    Returns:
        False where Kaggle still shows the output of an earlier version: ask again later.

    Raises:
        GatemaskError: The files cannot be fetched whole. Kaggle keeps its copy, to be fetched again.
    """
    push, folder = kernel.last, kernels_folder(project) / f"{kernel.slug}.fetched"
    shown = _fetch(kernel, folder)
    account = shown if shown and shown.push == push.id else None
    # A completed session left an account. Where an earlier version's is shown, this one's may follow; and a kernel that
    # was just pushed may not be known to all of Kaggle's servers yet.
    attempts = OUTPUT_ATTEMPTS if shown or push.word in ("complete", "absent") else DOUBTFUL_ATTEMPTS
    if account is None and push.asked < attempts:
        push.asked += 1
        save_kernel(project, kernel)
        return False
    log = _log(kernel, folder)
    write_text(kernel_log_path(project, kernel), log)
    if account is None:
        reasons = [push.message, _end_of_log(log)]  # Kaggle's reason, such as an exit code, and the kernel's own
        push.outcome, push.message = "lost", " ".join(reason for reason in reasons if reason)
    else:
        _place_runs(project, kernel, folder, account)
        push.outcome, push.message, push.seconds = account.state, account.error, account.seconds
        push.done = [int(fold) for fold, outcome in account.folds.items() if outcome.done]
        push.progress = {str(f): state for f, state in account.newest_states().items() if f not in push.done}
    push.state = "fetched"
    save_kernel(project, kernel)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _fetch(kernel: TrainingKernel, folder: Path) -> SessionAccount | None:
    """Return the account that Kaggle shows, if any. If it is of the last push, all its files are verified."""
    pauses = iter(cli.PAUSES)
    while True:
        api.kernel_output(kernel.ref, folder)
        account, faults = _verify(folder)
        if not faults or (account is not None and account.push != kernel.last.id):
            return account
        pause = next(pauses, None)
        if pause is None:
            raise KaggleError(
                "The output of a kernel cannot be fetched whole.",
                kind="partial",
                where=kernel.ref,
                received=f"{len(faults)} damaged: " + "; ".join(faults[:5]),
                expected="every file with the hash in the kernel's account",
                do="Run it again later: Kaggle keeps the output.",
            )
        say(f"{kernel.ref}: {faults[0]}. Fetching again in {pause:.0f} s.")
        time.sleep(pause)


def _verify(folder: Path) -> tuple[SessionAccount | None, list[str]]:
    """Return the account, if there is one, and the faults of its files."""
    if not (folder / ACCOUNT_FILE).is_file():
        return None, []
    try:
        account = SessionAccount.load(folder / ACCOUNT_FILE)
    except (GatemaskError, UnicodeDecodeError):
        return None, [f"{ACCOUNT_FILE} is not what the kernel wrote"]
    faults = [f"{name} is missing" for name in account.files if not (folder / name).is_file()]
    faults += [
        f"{name} is damaged ({(folder / name).stat().st_size} bytes)"
        for name, digest in account.files.items()
        if (folder / name).is_file() and sha256(folder / name) != digest
    ]
    return account, faults


def _place_runs(project: Project, kernel: TrainingKernel, folder: Path, account: SessionAccount) -> None:
    try:
        _place_batch(project, kernel, folder, account)
        for fold in kernel.last.folds:
            if account.files_of(fold):
                _place_run(project, kernel, fold, folder, account)
    except OSError as error:
        raise GatemaskError(
            "The fetched files cannot be moved to their place.",
            where=project.runs / kernel.experiment,
            received=error.strerror or str(error),
            do="Free some space, or fix the folder's permissions, and run it again: Kaggle keeps the output.",
        ) from error


def _place_batch(project: Project, kernel: TrainingKernel, folder: Path, account: SessionAccount) -> None:
    """Keep the batch that the session found, unless another session, or this machine, was first."""
    name = f"runs/{kernel.experiment}/{BATCH_FILE}"
    if name not in account.files:
        return
    fetched, path = load_found_batch(folder / name), batch_path(project, kernel.experiment)
    known = load_found_batch(path) if path.exists() else None
    if known is None or known.settings != fetched.settings:
        write_found_batch(project, kernel.experiment, fetched)
    elif str(known) != str(fetched):
        say(
            f"{kernel.ref} trained with a batch of {fetched}, other folds of {kernel.experiment} with {known}: its "
            "folds are trained again, or their batch is fixed in the YAML"
        )


def _place_run(project: Project, kernel: TrainingKernel, fold: int, folder: Path, account: SessionAccount) -> None:
    """Move a fold's run to its place in one step, setting aside an existing run of other settings.

    Raises:
        GatemaskError: A process on this machine is training the fold.
    """
    place = project.fold(kernel.experiment, fold)
    with run_folder.locked_run(place, f"{kernel.experiment} fold {fold}"):
        _place_locked(kernel, fold, folder, account, place)


def _place_locked(kernel: TrainingKernel, fold: int, folder: Path, account: SessionAccount, place: Path) -> None:
    fetched = folder / "runs" / kernel.experiment / f"fold{fold}"
    listed = account.files_of(fold)
    for path in sorted(fetched.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in listed:
            path.unlink()  # without a hash it cannot be trusted
    push = kernel.last
    origin = {"kernel": kernel.ref, "version": push.version, "push": push.id, "commit": push.commit}
    write_json(fetched / "kaggle.json", {**origin, "machine": kernel.machine, "datasets": push.datasets})
    if place.exists() and _made_from(place) == _made_from(fetched):
        finished = (place / "result.json").exists()
        if finished or (not (fetched / "result.json").exists() and _newest_state(place) > _newest_state(fetched)):
            reason = "is finished here already" if finished else "is further along here"
            say(f"{kernel.experiment} fold {fold}: {reason}; the fetched run is ignored")
            return
    if place.exists() and _made_from(place) != _made_from(fetched):
        say(f"{place} was made from other settings or data: moved to {set_aside(place).name}.")
    older = place.with_name(f".{place.name}.older")
    if place.exists():
        shutil.rmtree(older, ignore_errors=True)  # not before: killed between the two renames, it is the only copy
        place.rename(older)
    place.parent.mkdir(parents=True, exist_ok=True)
    fetched.rename(place)
    shutil.rmtree(older, ignore_errors=True)


def _made_from(run: Path) -> Any:
    """Return what a run, finished or not, is trained from."""
    stamp = next((path for name in ("result.json", "begun.json") if (path := run / name).exists()), None)
    return trained_from(Stamp.load(stamp).made_from) if stamp else None


def _newest_state(run: Path) -> str:
    return max((path.stem for path in run.glob("state/at-*.h5")), default="")  # names sort by epoch and step


def _log(kernel: TrainingKernel, folder: Path) -> str:
    path = folder / f"{kernel.slug}.log"
    return api.plain_log(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""


def _end_of_log(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    text = " | ".join(lines[-3:])[-500:]
    return f"Its log ends with: {text}" if text else "It left neither output nor log."
