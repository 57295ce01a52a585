"""Fetch a competition's single file with the kaggle command.

Its exit code is not trusted: it may save an error page as the file, and after a broken connection it may resume a file
whose first part is an error page. The caller must verify the file.
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

STALL_S = 600.0  # exceeds the command's own pauses and time limits; its first request has none
PARTIAL = ".kaggle-partial"  # suffix of the note that the command keeps next to an incomplete file


def fetch_competition_file(slug: str, work: Path, lock: int) -> Path:
    """Fetch the file with the kaggle command, with further attempts where they can help.

    Args:
        slug: Name of the competition on Kaggle.
        work: Folder for this competition alone. A file left by a killed call is resumed.
        lock: File descriptor of a lock that the command holds while it runs.

    Returns:
        Path of the file.

    Raises:
        KaggleError: The command failed; the message explains its output.
    """
    say(f"Downloading {slug} into {work}.")
    arguments = ["competitions", "download", "-q", "-c", slug, "-p", str(work)]
    pauses = iter(cli.PAUSES)
    while True:
        code, output = _call(arguments, work, lock)
        files = [path for path in _files(work) if path.suffix != PARTIAL]
        if code == 0 and len(files) == 1:
            return files[0]
        error = cli.explain(output, f"the files of {slug}", arguments) if code else _not_one_file(work, files)
        if error.kind == "partial":
            # The file may be an error page, to which the command would append the rest.
            shutil.rmtree(work, ignore_errors=True)
        pause = next(pauses, None) if error.kind in cli.RETRIED else None
        if pause is None:
            raise error
        say(f"{error.what} Trying again in {pause:.0f} s.")
        time.sleep(pause)


def _call(arguments: list[str], work: Path, lock: int) -> tuple[int, str]:
    """Run the kaggle command once; return its exit code, and what it printed on both streams."""
    with tempfile.TemporaryFile() as output:
        process = cli.start(arguments, stdout=output, stderr=subprocess.STDOUT, held=[lock])
        try:
            ended = _watch(process, work)
        finally:
            cli.stop(process)
        return (process.returncode, cli.printed(output)) if ended else (-1, f"nothing arrived for {STALL_S:.0f} s")


def _watch(process: subprocess.Popen[bytes], work: Path) -> bool:
    """Show progress until the command ends; return False if the file has not grown for too long."""
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
                arrived = _arrived_bytes(work)
            bar.update(task, completed=arrived, total=_expected_bytes(work))
            if arrived != size:
                size, since = arrived, time.monotonic()
            elif time.monotonic() - since > STALL_S:
                return False


def _files(work: Path) -> list[Path]:
    return [path for path in work.rglob("*") if path.is_file()]


def _arrived_bytes(work: Path) -> int:
    try:
        return sum(path.stat().st_size for path in _files(work))
    except FileNotFoundError:  # the note next to the file is deleted when the file is complete
        return 0


def _expected_bytes(work: Path) -> int | None:
    """Return the size of the complete file, which the kaggle command notes next to an incomplete one."""
    try:
        return json.loads(next(work.glob(f"*{PARTIAL}")).read_text()).get("size")
    except (StopIteration, OSError, ValueError):
        return None


def _not_one_file(work: Path, files: list[Path]) -> KaggleError:
    return KaggleError(
        "The kaggle command exited with 0, but did not leave exactly one file.",
        kind="partial",
        where=work,
        received=", ".join(path.name for path in files) or "nothing",
        do="Run it again.",
    )
