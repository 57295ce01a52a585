"""How a command ends when something fails: one sentence, an exit code, and a log where the fault is gatemask's."""

from __future__ import annotations

import errno
import os
import platform
import re
import socket
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from gatemask.errors import GatemaskError, StorageError
from gatemask.files import write_text
from gatemask.storage import fault_number, storage_error

USER_ERROR, FAULT, STOPPED = 1, 70, 130  # 70 is EX_SOFTWARE of sysexits.h
NETWORK = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT}
DEBUG = "GATEMASK_DEBUG"  # variable of the environment: whether errors have a traceback
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|PWD|PAT$", re.IGNORECASE)
SHORTEST_SECRET = 6  # characters; shorter values would match by chance
CREDENTIALS = re.compile(r"(?<=//)[^/\s@]+(?=@)")  # of a URL


def report(error: Exception) -> int:
    """Print an error and return the exit code of the command.

    A GatemaskError and a fault of the disk are printed as they are. Anything else is a fault of gatemask: its
    traceback goes to a log, whose path is printed.
    """
    if os.environ.get(DEBUG):
        say_error(without_secrets("".join(traceback.format_exception(error))))
    known = error if isinstance(error, GatemaskError) else storage_error(error) or _network_error(error)
    if known is not None:
        say_error(f"error: {known}")
        return USER_ERROR
    fault = GatemaskError(
        "Something unexpected happened in gatemask.",
        where=_innermost(error),
        received=_one_line(error),
        do="Run the same command again: what was finished is kept. If it happens again, report it with this log.",
    )
    fault.details["log"] = write_log(error) or "could not be written"
    say_error(f"error: {fault}")
    return FAULT


def _network_error(error: Exception) -> GatemaskError | None:
    if not isinstance(error, ConnectionError | TimeoutError | socket.gaierror) and fault_number(error) not in NETWORK:
        return None
    do = "Check the connection, and run the same command again: what was finished is kept."
    return GatemaskError("A network connection failed.", received=_one_line(error), do=do)


def write_log(error: BaseException) -> Path | None:
    """Write the traceback of an error to runs/.logs/, or to the temporary folder where that is impossible.

    Returns:
        The log; None if no folder can be written.
    """
    text = without_secrets(_log_text(error))
    name = f"fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in _log_folders():
        with suppress(OSError):
            return write_text(folder / name, text)
    return None


def without_secrets(text: str) -> str:
    """Return a text without the values of secret environment variables, and without credentials in URLs."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET and not value.startswith(("/", "~")):
            text = text.replace(value, "***")
    return CREDENTIALS.sub("***", text)


def say_error(text: str) -> None:
    """Print a text to stderr; nothing happens if stderr is closed or its disk is full."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def print_out(text: str, end: str = "\n") -> None:
    """Print a text to stdout at once.

    Raises:
        StorageError: The file or device behind stdout cannot be written.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        raise
    except (OSError, ValueError) as error:
        raise _output_error(error) from None


def flush_output(code: str | int | None) -> str | int | None:
    """Write what is left in stdout's buffer, and return the exit code: that of an error if it cannot be written."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        if not code and not isinstance(error, BrokenPipeError):
            say_error(f"error: {_output_error(error)}")
            code = USER_ERROR
        _discard_stdout()
    return code


def _output_error(error: Exception) -> StorageError:
    known = storage_error(error)
    what = "The output cannot be written." if known is None else known.what
    return StorageError(what, where="standard output", received=None if known else error)


def _discard_stdout() -> None:
    """Point stdout at nothing, or Python fails at exit, when it flushes once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _log_folders() -> list[Path]:
    from gatemask.project import find_root

    folders = []
    with suppress(GatemaskError, OSError):
        folders.append(find_root() / "runs" / ".logs")
    with suppress(OSError):
        folders.append(Path(tempfile.gettempdir()))
    return folders


def _log_text(error: BaseException) -> str:
    from importlib import metadata

    version = "unknown"
    with suppress(metadata.PackageNotFoundError):
        version = metadata.version("gatemask")
    lines = [
        f"command: {' '.join(map(ascii, sys.argv[1:]))}",
        f"time:    {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        f"version: gatemask {version}, Python {platform.python_version()}, {platform.platform()}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def _innermost(error: BaseException) -> str | None:
    """Return file and line of gatemask nearest to the error."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "gatemask" in Path(frame.filename).parts]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else None


def _one_line(error: BaseException) -> str:
    words = without_secrets(" ".join(str(error).split()))
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__
