"""Kaggle's own command, run to fetch a competition's file, and its output told in plain words.

Its exit code is not trusted: it takes an error page for the file, and after a broken connection it can go on with a
file that holds an error page in place of the first part. Whether the file is right is for its reader to say.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from gatemask.console import console, say
from gatemask.errors import GatemaskError

PAUSES = (5.0, 20.0, 60.0)  # seconds between tries where a second one can help
STALL_S = 600.0  # longer than the command's own pauses and time limits; its first request has none

# What the kaggle command's output gives away. The first that matches counts. An answer in JSON is printed as its
# message alone, without the status, so both are looked for.
SIGNS = {
    "missing": r"No module named",
    "full": r"\[Errno (28|122)\]",
    "folder": r"\[Errno (13|30)\]",
    "login": r"Authentication required|401 Client Error|Unauthenticated|Unauthorized",
    "certificate": r"SSLError|CERTIFICATE_VERIFY_FAILED",
    "network": r"Max retries exceeded|Failed to resolve|Connection ?(error|aborted|broken|reset|refused)|timed out"
    r"|ProxyError|IncompleteRead|RemoteDisconnected|nothing came",
    "partial": r"does not match expected size",
    "busy": r"429 Client Error|too many requests|rate limit",
    "server": r"5\d\d Server Error|internal (server )?error|unavailable|bad gateway",
    "unknown": r"404 Client Error|not ?found",
    "rules": r"403 Client Error|forbidden|\baccept\b|\brules\b|permission|denied",
}
LATER = "Run it again later; what has arrived is kept."
MEANING = {
    "missing": ("The kaggle command is not installed in this Python.", "Run make setup, or pip install kaggle."),
    "full": ("The disk is full.", "Make room and run it again; what has arrived is kept."),
    "folder": ("The kaggle command may not write there.", "Mend the folder's permissions."),
    "login": (
        "Kaggle does not accept the credentials: wrong, expired or unreadable (401).",
        "Create an API token at https://www.kaggle.com/settings and save it as ~/.kaggle/kaggle.json (chmod 600), "
        "or set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY.",
    ),
    "certificate": ("The connection to Kaggle is not trusted.", "Name your proxy's CA file in REQUESTS_CA_BUNDLE."),
    "network": ("Kaggle cannot be reached, or the connection broke.", f"Look at network and proxy. {LATER}"),
    "partial": ("The download broke off.", LATER),
    "busy": ("Kaggle asks for fewer requests (429).", LATER),
    "server": ("Kaggle has trouble of its own (5xx).", LATER),
    "unknown": (
        "Kaggle knows no competition 'SLUG' with files to download (404).",
        "Write kaggle.competition in competition.yaml as in https://www.kaggle.com/competitions/NAME.",
    ),
    "rules": (
        "Kaggle refuses the files (403), mostly since the competition's rules are not accepted.",
        "Open https://www.kaggle.com/c/SLUG/rules with the account of your token, accept them, and run it again. Some "
        "competitions also want a verified phone number, or take nobody in after their end.",
    ),
    "other": ("The kaggle command failed.", "Try it by hand: kaggle competitions download -c SLUG"),
}
PARTIAL = ".kaggle-partial"  # the note that the command puts beside a file on its way
AGAIN = {"network", "partial", "busy", "server"}


def fetch(slug: str, work: Path, lock: int) -> Path:
    """Let the kaggle command bring its one file into `work`; where another try can help, it gets some.

    Args:
        slug: the competition's name on Kaggle.
        work: a folder for this competition alone. What a killed call left there is gone on with.
        lock: an open file that the command shall hold as long as it runs.

    Raises:
        GatemaskError: what the command's output means, and what to do.
    """
    say(f"Downloading {slug} into {work}.")
    pauses = iter(PAUSES)
    while True:
        code, output = _call(slug, work, lock)
        found = [path for path in _files(work) if path.suffix != PARTIAL]
        if code == 0 and len(found) == 1:
            return found[0]
        kind, error = explain(output, slug) if code else ("partial", _no_file(work, found))
        if kind == "partial":
            # What lies there may be an error page, to which the command would append the rest of the file.
            shutil.rmtree(work, ignore_errors=True)
        pause = next(pauses, None) if kind in AGAIN else None
        if pause is None:
            raise error
        say(f"{error.what} Trying again in {pause:.0f} s.")
        time.sleep(pause)


def _call(slug: str, work: Path, lock: int) -> tuple[int, str]:
    """Run the kaggle command once: exit code, and what it printed (on either stream)."""
    # -P: a folder called kaggle where the user stands is not the package.
    command = [sys.executable, "-P", "-m", "kaggle", "competitions", "download", "-q", "-c", slug, "-p", str(work)]
    # Where it talks much, it prints the headers of its requests, credentials and all.
    environment = {key: value for key, value in os.environ.items() if key not in ("VERBOSE", "VERBOSE_OUTPUT")}
    environment["PYTHONUNBUFFERED"] = "1"  # the last line shall be the last that was printed
    # On Linux it dies with us: it must not go on writing to the file that the next call goes on with.
    dies_too = partial(ctypes.CDLL(None).prctl, 1, int(signal.SIGKILL)) if sys.platform == "linux" else None
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[lock],
            preexec_fn=dies_too,
        )
        try:
            ended = _watch(process, work)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return (process.returncode, text) if ended else (-1, f"nothing came for {STALL_S:.0f} s")


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


def explain(output: str, slug: str) -> tuple[str, GatemaskError]:
    """What the kaggle command's output means: one of SIGNS or "other", and the error for the user."""
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("Warning:")]
    if "Traceback" in output:  # its lines of code are no messages
        lines = lines[-1:]
    kind = next((kind for kind, sign in SIGNS.items() if re.search(sign, "\n".join(lines), re.IGNORECASE)), "other")
    what, do = (text.replace("SLUG", slug) for text in MEANING[kind])
    if kind == "login" and not _credentials():
        what = "There are no Kaggle credentials."
    received = printable(lines[-1])[:200] if lines and kind != "login" else None
    return kind, GatemaskError(what, where=f"the files of {slug}", received=received, do=do)


def _no_file(work: Path, found: list[Path]) -> GatemaskError:
    return GatemaskError(
        "The kaggle command says that it is done, but did not bring one file.",
        where=work,
        received=", ".join(path.name for path in found) or "nothing",
        do="Run it again.",
    )


def _credentials() -> bool:
    """Whether there is something that the kaggle command would read, whatever it holds."""
    home, given = Path.home() / ".kaggle", os.environ
    named = given.get("KAGGLE_CONFIG_DIR") or Path(given.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    files = [home / name for name in ("kaggle.json", "access_token", "access_token.txt", "credentials.json")]
    in_environment = given.get("KAGGLE_API_TOKEN") or (given.get("KAGGLE_USERNAME") and given.get("KAGGLE_KEY"))
    return bool(in_environment) or any(path.exists() for path in [*files, Path(named) / "kaggle.json"])


def printable(text: str) -> str:
    """One line without control characters, credentials and the signatures that addresses carry."""
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "...")
    text = re.sub(r"\?[^\s'\")<]+", "?...", re.sub(r"//[^/@\s]+@", "//...@", text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
