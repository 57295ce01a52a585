"""Run Kaggle's own command as a separate process, and explain its failures.

Its exit code says little: it is 0 after many failures. `api` finds those in the output; this module explains the output
of calls that do fail.
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
from typing import IO, Any

from gatemask.console import say, say_command
from gatemask.errors import GatemaskError
from gatemask.secrets.known import kaggle_credential_files

PAUSES = (5.0, 20.0, 60.0)  # seconds between attempts where another one can help

# Patterns in the command's output; the first match counts. A JSON answer is printed as its message alone, without the
# HTTP status, so both are looked for.
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
    "full": ("The disk is full.", "Free some space and run it again; a download resumes where it stopped."),
    "folder": ("The kaggle command cannot write to a folder.", "Fix the folder's permissions."),
    "login": (
        "Kaggle does not accept the credentials: wrong, expired or unreadable (401).",
        "Create an API token at https://www.kaggle.com/settings and save it as ~/.kaggle/kaggle.json (chmod 600), "
        "or set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY.",
    ),
    "certificate": ("The connection to Kaggle is not trusted.", "Name your proxy's CA file in REQUESTS_CA_BUNDLE."),
    "network": ("Kaggle cannot be reached, or the connection broke.", f"Check network and proxy. {LATER}"),
    "partial": ("The download broke off.", f"{LATER} What has arrived is kept."),
    "limit": (
        "The submissions of this day are used up.",
        "Run it again after midnight UTC. The kernel is not run again; only the submission remains to be made.",
    ),
    "slots": (
        "Too many kernels of this account run at once.",
        "Wait until one of them ends, or stop one at https://www.kaggle.com/code.",
    ),
    "quota": (
        "The weekly quota of this accelerator is used up.",
        "Wait for the new week (kaggle quota shows when it begins), or choose another machine.",
    ),
    "busy": ("Kaggle asks for fewer requests (429).", LATER),
    "server": ("Kaggle's server failed (5xx).", LATER),
    "unknown": (
        "Kaggle has no competition 'SLUG', or not the requested part of it (404).",
        "Write kaggle.competition in competition.yaml as in https://www.kaggle.com/competitions/NAME.",
    ),
    "rules": (
        "Kaggle refuses ABOUT (403), usually because the competition's rules have not been accepted.",
        "Open https://www.kaggle.com/c/SLUG/rules with the account of your token, accept them, and run it again. Some "
        "competitions also require a verified phone number, or are closed after their end.",
    ),
    "absent": (
        "Kaggle does not have ABOUT, or does not show it to this account (403, 404).",
        "Check the name, its owner, and the account of your token (kaggle config view).",
    ),
    "refused": (
        "Kaggle does not let this account change ABOUT (403).",
        "It must belong to the account of your token (kaggle config view). The answer is the same while an earlier "
        "version is being processed: wait a minute then. Some machines require a verified phone number.",
    ),
    "other": ("The kaggle command failed.", "Try it by hand: COMMAND"),
}
RETRIED = frozenset({"network", "partial", "busy", "server"})
CHANGING = {"push", "create", "version", "submit", "delete"}  # commands that change something on Kaggle
# Lines that may appear anywhere in the output and carry no information.
NOISE = r"Warning: (Your Kaggle API key is readable|Looks like you're using an outdated)"
CHATTER = r"Warning:|Starting upload|Upload successful"  # may contain file names that look like reasons


class KaggleError(GatemaskError):
    """A failure between this machine and Kaggle.

    Args:
        what: Description, one sentence.
        kind: Key of MEANING, or what `api` found in an output with exit code 0.
        version: Number of the version that was made nevertheless, if any.
        details: As for GatemaskError.
    """

    def __init__(self, what: str, *, kind: str = "other", version: int | None = None, **details: Any) -> None:
        super().__init__(what, **details)
        self.kind, self.version = kind, version

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.what, self.kind, self.version, self.details)


def _restored(what: str, kind: str, version: int | None, details: Mapping[str, Any]) -> KaggleError:
    return KaggleError(what, kind=kind, version=version, **details)


def missing_credentials() -> KaggleError:
    """Return the error for an account without credentials."""
    return KaggleError("There are no Kaggle credentials.", kind="login", do=MEANING["login"][1])


def kaggle(
    *arguments: str,
    about: str,
    retry_on: frozenset[str] = RETRIED,
    limit_s: float = 600,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run `kaggle ARGUMENTS`, with further attempts where they can help.

    Args:
        arguments: Arguments of the command line.
        about: Subject of messages, such as "the kernel me/x".
        retry_on: Kinds of failure after which to try again, with PAUSES in between.
        limit_s: Time limit of one attempt, in seconds; exceeding it counts as a network failure.
        environment: Environment variables to add.

    Returns:
        What it printed on both streams, as one text.

    Raises:
        KaggleError: The command failed; the message explains its output.
    """
    pauses = iter(PAUSES)
    while True:
        code, output = _run(arguments, limit_s, environment or {})
        if code == 0:
            return output
        error = explain(output, about, arguments)
        pause = next(pauses, None) if error.kind in retry_on else None
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
            stop(process)
        return code, printed(output)


# Runs the command so that on Linux it dies with its parent: it must not keep writing to a file that the next call
# resumes. It arranges this itself, since no Python may run between fork and exec of a process with threads.
BOUND_TO_PARENT = """
import os, runpy, sys
parent = int(sys.argv.pop(1))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != parent:
        sys.exit("the parent process is gone")
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
    """Start the kaggle command. It ends with this process at the latest.

    Args:
        arguments: Arguments of the command line.
        stdout: File or descriptor for its output.
        stderr: File or descriptor for its error output.
        held: Descriptors that the command keeps open, such as a lock.
        environment: Environment variables to add.
    """
    say_command(["kaggle", *arguments])
    # -P: a folder named kaggle in the working directory is not the package.
    command = [sys.executable, "-P", "-c", BOUND_TO_PARENT, str(os.getpid()), *arguments]
    # With these set it prints the headers of its requests, credentials included.
    inherited = {key: value for key, value in os.environ.items() if key not in ("VERBOSE", "VERBOSE_OUTPUT")}
    # Unbuffered: the last line must be the last one printed. UTF-8: file names are.
    inherited |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:replace"}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**inherited, **(environment or {})},
        pass_fds=held,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and wait for its end."""
    process.kill()
    process.wait()


def printed(output: IO[bytes]) -> str:
    """Return what was printed into a file, without the command's remarks about itself."""
    output.seek(0)
    text = output.read().decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(line for line in text.splitlines(keepends=True) if not re.match(NOISE, line))


def explain(output: str, about: str, arguments: Sequence[str]) -> KaggleError:
    """Return the error that describes the output of a failed `kaggle ARGUMENTS`."""
    lines = [line for line in output.splitlines() if line.strip() and not re.match(CHATTER, line)]
    if "Traceback" in output:  # its lines of code are not messages
        lines = lines[-1:]
    kind = next((kind for kind, sign in SIGNS.items() if re.search(sign, "\n".join(lines), re.IGNORECASE)), "other")
    if kind in ("unknown", "rules") and arguments[0] != "competitions":
        # Kaggle answers 403, not 404, for what does not exist: it could be somebody's secret.
        kind = "refused" if kind == "rules" and CHANGING & set(arguments[:2]) else "absent"
    words = {"ABOUT": about, "SLUG": _competition(arguments), "COMMAND": shlex.join(["kaggle", *arguments])}
    what, do = (re.sub("ABOUT|SLUG|COMMAND", lambda match: words[match[0]], text) for text in MEANING[kind])
    if kind == "login" and not has_credentials():
        what = missing_credentials().what
    received = printable(lines[-1])[:300] if lines and kind != "login" else None
    return KaggleError(what, kind=kind, where=about, received=received, do=do)


def _competition(arguments: Sequence[str]) -> str:
    if "-c" in arguments[:-1]:
        return arguments[arguments.index("-c") + 1]
    return arguments[2] if len(arguments) > 2 else ""


def has_credentials() -> bool:
    """Return whether there is anything that the kaggle command would read as credentials, valid or not."""
    token, username, key = map(os.environ.get, ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"))
    return bool(token or (username and key)) or any(path.exists() for path in kaggle_credential_files())


def printable(text: str) -> str:
    """Return the text as one line, without control characters, credentials and signed parts of URLs."""
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "...")
    text = re.sub(r"\?[^\s'\")<]+", "?...", re.sub(r"//[^/@\s]+@", "//...@", text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
