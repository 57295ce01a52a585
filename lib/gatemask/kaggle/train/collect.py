"""Fetch a kernel's output and put its runs where `gatemask train` would have written them.

    runs/<comp>/kaggle/<slug>.fetched/        what was downloaded, until it is verified and placed
    runs/<comp>/<experiment>/fold<k>/         the run
    runs/<comp>/<experiment>/fold<k>/kaggle.json   which version of which kernel made it, from which commit

Nothing is believed but the kernel's own account, in which every file has its hash: the kaggle command saves an error
page under a file's name and says that all is well.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import read_json, set_aside, sha256, write_json, write_text
from gatemask.kaggle.client import api, cli
from gatemask.kaggle.client.cli import KaggleError
from gatemask.kaggle.client.polling import DOUBTFUL_ATTEMPTS, OUTPUT_ATTEMPTS
from gatemask.kaggle.train import kernel_records
from gatemask.kaggle.train.kernel_records import Lane
from gatemask.kaggle.train.session import OUTPUT, states
from gatemask.project import Project


def collect(project: Project, lane: Lane) -> bool:
    """Fetch the output of a lane's last push, which has ended, place its runs, and write down what came of it.

    Returns:
        False where Kaggle still shows the output of an earlier version: then it is to be asked again later.

    Raises:
        GatemaskError: the files cannot be had whole; what Kaggle holds stays there, to be fetched again.
    """
    push, target = lane.last, kernel_records.folder(project) / f"{lane.slug}.fetched"
    shown = _fetch(lane, target)
    account = shown if shown and shown["push"] == push.id else None
    # A kernel that ended well left an account; where an earlier version's is shown, this one's may still come; and one
    # that was pushed just now may not be known everywhere.
    patience = OUTPUT_ATTEMPTS if shown or push.word in ("complete", "absent") else DOUBTFUL_ATTEMPTS
    if account is None and push.asked < patience:
        push.asked += 1
        kernel_records.save(project, lane)
        return False
    _keep_log(project, lane, target)
    if account is None:
        told = [push.message, _last_words(lane, target)]  # Kaggle's word, such as an exit code, and the kernel's own
        push.outcome, push.message = "lost", " ".join(text for text in told if text)
    else:
        _place_all(project, lane, target, account)
        push.outcome, push.message, push.seconds = account["state"], account["error"], account["seconds"]
        push.done = [int(fold) for fold, one in account["folds"].items() if one.get("done")]
        push.progress = {str(fold): at for fold, at in states(account).items() if fold not in push.done}
    push.state = "fetched"
    kernel_records.save(project, lane)
    shutil.rmtree(target, ignore_errors=True)
    return True


def _fetch(lane: Lane, target: Path) -> dict[str, Any] | None:
    """The account that Kaggle shows, if any; where it is of the last push, all its files are verified in `target`."""
    pauses = iter(cli.PAUSES)
    while True:
        api.kernel_output(lane.ref, target)
        account, wrong = _verified(target)
        if not wrong or (account is not None and account["push"] != lane.last.id):
            return account
        pause = next(pauses, None)
        if pause is None:
            raise KaggleError(
                "The output of a kernel cannot be fetched whole.",
                kind="partial",
                where=lane.ref,
                received=f"{len(wrong)} wrong: " + "; ".join(wrong[:5]),
                expected="every file with the hash that the kernel wrote down",
                do="Run it again later: Kaggle keeps the output.",
            )
        say(f"{lane.ref}: {wrong[0]}. Fetching again in {pause:.0f} s.")
        time.sleep(pause)


def _verified(target: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The account, if there is one, and what is wrong with it or its files."""
    path = target / OUTPUT
    if not path.is_file():
        return None, []
    try:
        account = json.loads(path.read_text(encoding="utf-8"))
        files = dict(account["files"])
    except (ValueError, KeyError, TypeError):
        return None, [f"{OUTPUT} is not what the kernel wrote"]
    wrong = [f"{name} is missing" for name in files if not (target / name).is_file()]
    wrong += [
        f"{name} is damaged ({(target / name).stat().st_size} bytes)"
        for name, digest in files.items()
        if (target / name).is_file() and sha256(target / name) != digest
    ]
    return account, wrong


def _place_all(project: Project, lane: Lane, target: Path, account: dict[str, Any]) -> None:
    try:
        for fold in lane.last.folds:
            _place(project, lane, fold, target / "runs" / lane.experiment / f"fold{fold}", account)
    except OSError as error:
        raise GatemaskError(
            "What was fetched cannot be put in its place.",
            where=project.runs / lane.experiment,
            received=error.strerror or str(error),
            do="Make room, or mend the folder's permissions, and run it again: Kaggle keeps the output.",
        ) from error


def _place(project: Project, lane: Lane, fold: int, source: Path, account: dict[str, Any]) -> None:
    """Move a fold's run to its place, in one step; a run of other settings that is there is set aside."""
    listed = {name for name in account["files"] if name.startswith(f"runs/{lane.experiment}/fold{fold}/")}
    if not listed:
        return  # not begun
    for path in sorted(source.rglob("*")):
        if path.is_file() and f"runs/{lane.experiment}/fold{fold}/{path.relative_to(source).as_posix()}" not in listed:
            path.unlink()  # nothing vouches for it
    push, target = lane.last, project.fold(lane.experiment, fold)
    facts = {"kernel": lane.ref, "version": push.version, "push": push.id, "commit": push.commit}
    write_json(source / "kaggle.json", {**facts, "machine": lane.machine, "datasets": push.datasets})
    if target.exists() and _made_from(target) == _made_from(source):
        finished = (target / "result.json").exists()
        if finished or (not (source / "result.json").exists() and _newest(target) > _newest(source)):
            here = "finished here already" if finished else "further here"
            say(f"{lane.experiment} fold {fold}: is {here}; what was fetched is left out")
            return
    if target.exists() and _made_from(target) != _made_from(source):
        say(f"{target} was made from other settings or data: moved to {set_aside(target).name}.")
    older = target.with_name(f".{target.name}.older")
    if target.exists():
        shutil.rmtree(older, ignore_errors=True)  # only now: killed between the two renames, it is all that there is
        target.rename(older)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    shutil.rmtree(older, ignore_errors=True)


def _made_from(folder: Path) -> Any:
    """What a run is made from, finished or not."""
    stamp = next((path for name in ("result.json", "begun.json") if (path := folder / name).exists()), None)
    return read_json(stamp).get("made_from") if stamp else None


def _newest(folder: Path) -> str:
    """The name of a run's newest state; names sort by epoch and step."""
    return max((path.stem for path in folder.glob("state/at-*.h5")), default="")


def _log(lane: Lane, target: Path) -> str:
    path = target / f"{lane.slug}.log"
    return api.plain_log(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""


def _keep_log(project: Project, lane: Lane, target: Path) -> None:
    write_text(kernel_records.log(project, lane), _log(lane, target))


def _last_words(lane: Lane, target: Path) -> str:
    """The end of a log, for a kernel that left nothing else."""
    lines = [line for line in _log(lane, target).splitlines() if line.strip()]
    words = " | ".join(lines[-3:])[-500:]
    return f"Its last words: {words}" if words else "It left neither output nor log."
