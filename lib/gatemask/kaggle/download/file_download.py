"""A competition's one file, fetched with the kaggle command.

Its exit code is not trusted: it takes an error page for the file, and after a broken connection it can go on with a
file that holds an error page in place of the first part. Whether the file is right is for its reader to say.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from gatemask.console import console, say
from gatemask.kaggle.client import cli
from gatemask.kaggle.client.cli import KaggleError

STALL_S = 600.0  # longer than the command's own pauses and time limits; its first request has none
PARTIAL = ".kaggle-partial"  # the note that the command puts beside a file on its way


def fetch(slug: str, work: Path, lock: int) -> Path:
    """Let the kaggle command bring its one file into `work`; where another try can help, it gets some.

    Args:
        slug: the competition's name on Kaggle.
        work: a folder for this competition alone. What a killed call left there is gone on with.
        lock: an open file that the command shall hold as long as it runs.

    Raises:
        KaggleError: what the command's output means, and what to do.
    """
    say(f"Downloading {slug} into {work}.")
    arguments = ["competitions", "download", "-q", "-c", slug, "-p", str(work)]
    pauses = iter(cli.PAUSES)
    while True:
        code, output = _call(arguments, work, lock)
        found = [path for path in _files(work) if path.suffix != PARTIAL]
        if code == 0 and len(found) == 1:
            return found[0]
        error = cli.explain(output, f"the files of {slug}", arguments) if code else _no_file(work, found)
        if error.kind == "partial":
            # What lies there may be an error page, to which the command would append the rest of the file.
            shutil.rmtree(work, ignore_errors=True)
        pause = next(pauses, None) if error.kind in cli.RETRIED else None
        if pause is None:
            raise error
        say(f"{error.what} Trying again in {pause:.0f} s.")
        time.sleep(pause)


def _call(arguments: list[str], work: Path, lock: int) -> tuple[int, str]:
    """Run the kaggle command once: exit code, and what it printed (on either stream)."""
    with tempfile.TemporaryFile() as output:
        process = cli.start(arguments, stdout=output, stderr=subprocess.STDOUT, held=[lock])
        try:
            ended = _watch(process, work)
        finally:
            cli.stop(process)
        return (process.returncode, cli.printed(output)) if ended else (-1, f"nothing came for {STALL_S:.0f} s")


def _watch(process: subprocess.Popen[bytes], work: Path) -> bool:
    """Show how the file grows until the command ends; False where it has not grown for too long."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    hidden = not console().is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console(), transient=True, disable=hidden) as bar:
        task = bar.add_task("downloading", total=None)
        size, since = -1, time.monotonic()
        while True:
            try:
                process.wait(0.2)
                return True
            except subprocess.TimeoutExpired:
                now = _arrived(work)
            bar.update(task, completed=now, total=_expected_size(work))
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > STALL_S:
                return False


def _files(work: Path) -> list[Path]:
    return [path for path in work.rglob("*") if path.is_file()]


def _arrived(work: Path) -> int:
    try:
        return sum(path.stat().st_size for path in _files(work))
    except FileNotFoundError:  # the note beside the file goes when the file is whole
        return 0


def _expected_size(work: Path) -> int | None:
    """The whole file's size, which the kaggle command notes beside a partial file."""
    try:
        return json.loads(next(work.glob(f"*{PARTIAL}")).read_text()).get("size")
    except (StopIteration, OSError, ValueError):
        return None


def _no_file(work: Path, found: list[Path]) -> KaggleError:
    return KaggleError(
        "The kaggle command says that it is done, but did not bring one file.",
        kind="partial",
        where=work,
        received=", ".join(path.name for path in found) or "nothing",
        do="Run it again.",
    )
