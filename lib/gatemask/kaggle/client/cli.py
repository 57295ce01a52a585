"""Kaggle's own command, run as a process of its own, and its output told in plain words.

Its exit code says little: it ends with 0 after many failures. Those that it prints nevertheless are for `service` to
find; here is what it says when it does fail.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gatemask.console import say
from gatemask.errors import GatemaskError

PAUSES = (5.0, 20.0, 60.0)  # seconds between tries where a second one can help

# What the kaggle command's output gives away. The first that matches counts. An answer in JSON is printed as its
# message alone, without the status, so both are looked for.
SIGNS = {
    "missing": r"No module named",
    "full": r"\[Errno (28|122)\]",
    "folder": r"\[Errno (13|30)\]",
    "login": r"Authentication required|401 Client Error|Unauthenticated|Unauthorized",
    "certificate": r"SSLError|CERTIFICATE_VERIFY_FAILED",
    "network": r"Max retries exceeded|Failed to resolve|Connection ?(error|aborted|broken|reset|refused)|timed out"
    r"|ProxyError|IncompleteRead|RemoteDisconnected|nothing came|Log stream connection failed",
    "partial": r"does not match expected size",
    "limit": r"submission allowance|daily submission|submissions? limit|limit of \d+ submissions",
    "slots": r"maximum .*session count|too many .*\bsessions\b",
    "quota": r"\bquota\b.*\b(exceed|exhaust|used|reach|left|remain|not enough|insufficient)"
    r"|\b(exceed|exhaust|used|reach|left|remain|not enough|insufficient).*\bquota\b",
    "busy": r"429 Client Error|too many requests|rate limit",
    "server": r"5\d\d Server Error|internal (server )?error|unavailable|bad gateway",
    "unknown": r"404 Client Error|not ?found|could not find competition",
    "rules": r"403 Client Error|forbidden|\baccept\b|\brules\b|permission|denied",
}
LATER = "Run it again later."
MEANING = {
    "missing": ("The kaggle command is not installed in this Python.", "Run make setup, or pip install kaggle."),
    "full": ("The disk is full.", "Make room and run it again; a download goes on where it was."),
    "folder": ("The kaggle command may not write there.", "Mend the folder's permissions."),
    "login": (
        "Kaggle does not accept the credentials: wrong, expired or unreadable (401).",
        "Create an API token at https://www.kaggle.com/settings and save it as ~/.kaggle/kaggle.json (chmod 600), "
        "or set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY.",
    ),
    "certificate": ("The connection to Kaggle is not trusted.", "Name your proxy's CA file in REQUESTS_CA_BUNDLE."),
    "network": ("Kaggle cannot be reached, or the connection broke.", f"Look at network and proxy. {LATER}"),
    "partial": ("The download broke off.", f"{LATER} What has arrived is kept."),
    "limit": (
        "The submissions of this day are used up.",
        "Run it again after midnight UTC. Nothing is run anew then: only the submission is still to be made.",
    ),
    "slots": (
        "Too many kernels of this account run at once.",
        "Wait until one of them ends, or stop one at https://www.kaggle.com/code.",
    ),
    "quota": (
        "The weekly quota of this accelerator is used up.",
        "Wait for the new week (kaggle quota says when), or take another machine.",
    ),
    "busy": ("Kaggle asks for fewer requests (429).", LATER),
    "server": ("Kaggle has trouble of its own (5xx).", LATER),
    "unknown": (
        "Kaggle knows no competition 'SLUG', or not what is wanted of it (404).",
        "Write kaggle.competition in competition.yaml as in https://www.kaggle.com/competitions/NAME.",
    ),
    "rules": (
        "Kaggle refuses ABOUT (403), mostly since the competition's rules are not accepted.",
        "Open https://www.kaggle.com/c/SLUG/rules with the account of your token, accept them, and run it again. Some "
        "competitions also want a verified phone number, or take nobody in after their end.",
    ),
    "absent": (
        "Kaggle knows nothing of ABOUT, or does not show it to this account (403, 404).",
        "Look at the name, its owner, and the account of your token (kaggle config view).",
    ),
    "refused": (
        "Kaggle does not let this account change ABOUT (403).",
        "It must belong to the account of your token (kaggle config view). An earlier version that is still being "
        "processed is refused alike: then wait a minute. Some machines want a verified phone number.",
    ),
    "other": ("The kaggle command failed.", "Try it by hand: COMMAND"),
}
AGAIN = frozenset({"network", "partial", "busy", "server"})
WRITING = {"push", "create", "version", "submit", "delete"}
# Printed between anything else, and of no use to anybody here.
NOISE = r"Warning: (Your Kaggle API key is readable|Looks like you're using an outdated)"

CHATTER = r"Warning:|Starting upload|Upload successful"  # no reasons, but names of files that could look like some


class KaggleError(GatemaskError):
    """What went wrong between us and Kaggle.

    Args:
        what: one sentence.
        kind: a key of MEANING, or what `service` found in an output that ended with 0.
        version: the version that was made nevertheless, if one was.
        details: as GatemaskError.
    """

    def __init__(self, what: str, *, kind: str = "other", version: int | None = None, **details: Any) -> None:
        super().__init__(what, **details)
        self.kind, self.version = kind, version

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.what, self.kind, self.version, self.details)


def _restored(what: str, kind: str, version: int | None, details: dict[str, Any]) -> KaggleError:
    return KaggleError(what, kind=kind, version=version, **details)


def kaggle(
    *arguments: str,
    about: str,
    again: frozenset[str] = AGAIN,
    limit_s: float = 600,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run `kaggle ARGUMENTS`; where another try can help, it gets some.

    Args:
        arguments: as on the command line.
        about: what a message is about, such as "the kernel me/x".
        again: the kinds of failure after which it is tried again, with PAUSES between.
        limit_s: seconds after which a try is ended; that counts as a broken network.
        environment: variables to set besides our own.

    Returns:
        What it printed on either stream, as one text.

    Raises:
        KaggleError: what the output means, and what to do.
    """
    pauses = iter(PAUSES)
    while True:
        code, output = _run(arguments, limit_s, environment or {})
        if code == 0:
            return output
        error = explain(output, about, arguments)
        pause = next(pauses, None) if error.kind in again else None
        if pause is None:
            raise error
        say(f"{error.what} Trying again in {pause:.0f} s.")
        time.sleep(pause)


def _run(arguments: Sequence[str], limit_s: float, environment: Mapping[str, str]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as output:
        process = start(arguments, stdout=output, stderr=subprocess.STDOUT, environment=environment)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return -1, f"nothing came for {limit_s:g} s"
        finally:
            end(process)
        return code, told(output)


# The command, but on Linux it dies with us: it must not go on writing to a file that the next call goes on with. It
# sees to that itself, since between fork and exec of a process with threads no Python may run.
WITH_US = """
import os, runpy, sys
ours = int(sys.argv.pop(1))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != ours:
        sys.exit("whoever asked is gone")
sys.argv[0] = "kaggle"
runpy.run_module("kaggle", run_name="__main__", alter_sys=True)
"""


def start(
    arguments: Sequence[str],
    *,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    held: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the kaggle command. It ends with us at the latest, and holds the files `held` as long as it runs."""
    # -P: a folder called kaggle where the user stands is not the package.
    command = [sys.executable, "-P", "-c", WITH_US, str(os.getpid()), *arguments]
    # Where it talks much, it prints the headers of its requests, credentials and all.
    inherited = {key: value for key, value in os.environ.items() if key not in ("VERBOSE", "VERBOSE_OUTPUT")}
    # Unbuffered: the last line shall be the last that was printed. UTF-8: the names of files are.
    inherited |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:replace"}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**inherited, **(environment or {})},
        pass_fds=held,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def told(output: IO[bytes]) -> str:
    """What was printed into this file, without the command's notes on itself."""
    output.seek(0)
    text = output.read().decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(line for line in text.splitlines(keepends=True) if not re.match(NOISE, line))


def explain(output: str, about: str, arguments: Sequence[str]) -> KaggleError:
    """What the output of a failed `kaggle ARGUMENTS` means."""
    lines = [line for line in output.splitlines() if line.strip() and not re.match(CHATTER, line)]
    if "Traceback" in output:  # its lines of code are no messages
        lines = lines[-1:]
    kind = next((kind for kind, sign in SIGNS.items() if re.search(sign, "\n".join(lines), re.IGNORECASE)), "other")
    if kind in ("unknown", "rules") and arguments[0] != "competitions":
        # Kaggle answers 403, not 404, for what is not there: it could be somebody's secret.
        kind = "refused" if kind == "rules" and WRITING & set(arguments[:2]) else "absent"
    words = {"ABOUT": about, "SLUG": _competition(arguments), "COMMAND": shlex.join(["kaggle", *arguments])}
    what, do = (re.sub("ABOUT|SLUG|COMMAND", lambda found: words[found[0]], text) for text in MEANING[kind])
    if kind == "login" and not has_credentials():
        what = "There are no Kaggle credentials."
    received = printable(lines[-1])[:300] if lines and kind != "login" else None
    return KaggleError(what, kind=kind, where=about, received=received, do=do)


def _competition(arguments: Sequence[str]) -> str:
    if "-c" in arguments[:-1]:
        return arguments[arguments.index("-c") + 1]
    return arguments[2] if len(arguments) > 2 else ""


def has_credentials() -> bool:
    """Whether there is something that the kaggle command would read, whatever it holds."""
    given = os.environ
    in_environment = given.get("KAGGLE_API_TOKEN") or (given.get("KAGGLE_USERNAME") and given.get("KAGGLE_KEY"))
    return bool(in_environment) or any(path.exists() for path in credential_files())


def credential_files() -> list[Path]:
    """Where the kaggle command looks for credentials."""
    home, given = Path.home() / ".kaggle", os.environ
    named = given.get("KAGGLE_CONFIG_DIR") or Path(given.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    names = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
    return list(dict.fromkeys([*(home / name for name in names), Path(named) / "kaggle.json"]))


def printable(text: str) -> str:
    """One line without control characters, credentials and the signatures that addresses carry."""
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "...")
    text = re.sub(r"\?[^\s'\")<]+", "?...", re.sub(r"//[^/@\s]+@", "//...@", text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
