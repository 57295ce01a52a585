"""Start commands without the seconds of their imports: a warm process forks for each call.

Like a process that is started directly, each call has its own environment and folder, reads and writes the caller's
files, and can be killed. For tests that do not concern the start itself.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

# Modules that the commands of gatemask import where they need them.
HEAVY = ["tensorflow", "keras", "pandas", "cv2", "h5py", "pydicom", "optuna", "wandb", "matplotlib.pyplot"]
HEAVY += ["sklearn.metrics", "gatemask.cli", "gatemask.training.fold_run", "gatemask.builders.models"]
HEAVY += ["gatemask.tuning.exact"]

PR_SET_PDEATHSIG = 1
TEMPORARY_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # of the imported modules, such as W&B's client


class Call:
    """A started call, with the part of `Popen` that is used."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = self._receive()
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("warm", timeout or 0)
            self.returncode = self._receive()
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        """Return the next number that the other side sends."""
        data = self._connection.recv(8, socket.MSG_WAITALL)
        if len(data) < 8:
            raise RuntimeError("The warm process has ended.")
        return int.from_bytes(data, "big", signed=True)


def start(
    place: Path,
    arguments: Sequence[str],
    *,
    stdout: IO[Any],
    stderr: IO[Any] | int,
    environment: Mapping[str, str],
    folder: Path | None = None,
    stdin: int | None = None,
    held: Sequence[int] = (),
    bound: bool = False,
) -> Call:
    """Start `python ARGUMENTS`, where the first argument is -m or -c, from any process.

    Args:
        place: Socket of the warm process.
        arguments: Arguments of Python.
        stdout: File for its output.
        stderr: File for its error output, or `subprocess.STDOUT`.
        environment: All environment variables.
        folder: Working directory. Default: the present one.
        stdin: Descriptor of its input. Default: that of the warm process.
        held: Descriptors that the call keeps open, such as a lock.
        bound: Whether the call is killed as soon as the process that started it ends.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(place))
    request = Request(list(arguments), dict(environment), str(folder or Path.cwd()), stdin is not None, bound)
    message = json.dumps(request).encode()
    errors = stdout if isinstance(stderr, int) else stderr
    head = len(message).to_bytes(4, "big") + message
    given = [] if stdin is None else [stdin]
    socket.send_fds(connection, [head], [stdout.fileno(), errors.fileno(), *given, *held])
    return Call(connection)


class Request(NamedTuple):
    """A call to start, as JSON on the socket.

    Args:
        arguments: Arguments of Python.
        environment: All environment variables.
        folder: Working directory.
        has_stdin: Whether the third descriptor is that of its input.
        bound: Whether the call ends with the process that started it.
    """

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    has_stdin: bool
    bound: bool


class Warm:
    """A process that has imported some modules and forks for each call.

    Args:
        folder: Folder of its socket.
        modules: Modules to import; `kaggle` reads the environment again in each call.
        environment: Environment of the imports. Default: that of this process.
        python: Its Python. Default: that of this process.
    """

    def __init__(
        self,
        folder: Path,
        modules: Sequence[str],
        environment: Mapping[str, str] | None = None,
        python: Path | str = sys.executable,
    ) -> None:
        self.folder = folder
        self.place = folder / "warm.socket"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.place))
            listening.listen()
            command = [str(python), "-P", __file__, str(listening.fileno()), *modules]
            self._helper = subprocess.Popen(
                command, pass_fds=[listening.fileno()], env=environment, stdout=subprocess.DEVNULL
            )

    def start(
        self,
        arguments: Sequence[str],
        *,
        stdout: IO[Any],
        stderr: IO[Any] | int,
        environment: Mapping[str, str],
        folder: Path | None = None,
        stdin: int | None = None,
    ) -> Call:
        """Start a call; arguments as of `start`."""
        streams: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        return start(self.place, arguments, **streams, environment=environment, folder=folder)

    def close(self) -> None:
        self._helper.kill()
        self._helper.wait()


def serve(listening: socket.socket, modules: Sequence[str]) -> Request:
    """Import the modules, fork for each call, and report the calls' exit codes.

    Returns:
        The request, in the process that shall run it. The process that serves never returns.
    """
    end_with_parent()
    before = dict(os.environ)
    for name in modules:
        if name == "tensorflow":
            with suppress(ModuleNotFoundError):  # Kaggle's image has no gatemask
                importlib.import_module("gatemask.quiet").tensorflow()
        importlib.import_module(name)
    added = {name: value for name, value in os.environ.items() if name not in before}  # by the imports
    for name in [name for name in sys.modules if name.split(".")[0] == "kaggle"]:
        del sys.modules[name]  # they read the environment, which is not that of a call
    argparse._ = str  # type: ignore[attr-defined]  # else each option looks for its translation: half of a short call
    gc.collect()
    folders = [found for found in gc.get_objects() if isinstance(found, tempfile.TemporaryDirectory)]
    TEMPORARY_FOLDERS.extend(folders)
    gc.freeze()
    running: dict[int, socket.socket] = {}

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with running.pop(ended[0]) as connection, suppress(OSError):
                    connection.sendall(_as_bytes(os.waitstatus_to_exitcode(ended[1])))

    signal.signal(signal.SIGCHLD, reap)
    while True:
        connection, _ = listening.accept()
        data, files, _, _ = socket.recv_fds(connection, 1 << 16, 8)
        size, message = int.from_bytes(data[:4], "big"), data[4:]
        while len(message) < size:
            message += connection.recv(size - len(message))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # until the call is noted
        if (pid := os.fork()) == 0:
            request = Request(*json.loads(message))
            for inherited in (listening, *running.values()):
                inherited.close()
            streams = (1, 2, 0) if request.has_stdin else (1, 2)
            for file, stream in zip(files, streams, strict=False):  # the others are held
                os.dup2(file, stream)
                os.close(file)
            end_with_parent()  # a fork does not inherit this; the parent ends with the tests, even if they are killed
            os.setsid()  # its whole group can be killed
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            if request.bound:
                threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
            else:
                connection.close()
            return request._replace(environment={**added, **request.environment})
        for file in files:
            os.close(file)
        running[pid] = connection
        connection.sendall(_as_bytes(pid))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def end_with_parent() -> None:
    """Let this process be killed when its parent ends, where the system can do that."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with(connection: socket.socket) -> None:
    """Kill this process as soon as the other side, which sends nothing, is closed."""
    with suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _as_bytes(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def run(request: Request) -> None:
    """Do what `python ARGUMENTS` does."""
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    tempfile.tempdir = None  # read from the environment again
    for temporary in TEMPORARY_FOLDERS:  # the first call that ends would delete those of all
        temporary._finalizer.detach()  # type: ignore[attr-defined]
        temporary.name = tempfile.mkdtemp()
        temporary._finalizer = weakref.finalize(  # type: ignore[attr-defined]
            temporary, shutil.rmtree, temporary.name, ignore_errors=True
        )
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(encoding="utf-8", errors="replace", write_through=True)  # type: ignore[union-attr]
    kind, code, *sys.argv[1:] = request.arguments
    if kind == "-m":
        sys.argv[0] = code
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = kind
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def run_and_exit(request: Request) -> NoReturn:
    """Do what `python ARGUMENTS` does and end as it does, but leave all memory to the system.

    To free the modules one by one, the interpreter would write to each page that is shared with the warm process.
    """
    code, interrupted = 0, False
    try:
        run(request)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
        code = end.code or 0 if isinstance(end.code, int | None) else 1
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    run_and_exit(serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]))
