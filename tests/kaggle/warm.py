"""The real kaggle command without its half second of imports: a warm process forks for each call.

Like a process started by `gatemask.kaggle.client.cli.start`, each call has its own environment and folder, reads the
credentials, writes to the caller's files and can be killed. For tests that do not concern the start itself.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class Call:
    """A call of the command, with the part of `Popen` that is used."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lines = connection, connection.makefile("r")
        self._pid = int(self._lines.readline())
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._connection.settimeout(timeout)
            try:
                self._code = int(self._lines.readline())
            except TimeoutError:
                self._connection.settimeout(None)
                self._lines = self._connection.makefile("r")
                raise subprocess.TimeoutExpired("kaggle", timeout or 0) from None
            self._lines.close()
            self._connection.close()
        return self._code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)


@contextmanager
def warm(folder: Path) -> Iterator[Any]:
    """Yield a replacement for `gatemask.kaggle.client.cli.start`; its socket is in `folder`."""
    place = folder / "kaggle.socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        command = [sys.executable, "-P", __file__, str(listening.fileno())]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE")}
        helper = subprocess.Popen(
            command,
            pass_fds=[listening.fileno()],
            env={**environment, "HOME": str(folder)},  # the import reads credentials; here are none
            stdout=subprocess.DEVNULL,
        )

    def start(
        arguments: Sequence[str], *, stdout: IO[bytes], stderr: int, environment: Mapping[str, str] | None = None
    ) -> Call:
        assert stderr == subprocess.STDOUT
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(place))
        message = json.dumps([list(arguments), {**os.environ, **(environment or {})}, str(Path.cwd())]).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big") + message], [stdout.fileno()])
        return Call(connection)

    try:
        yield start
    finally:
        helper.kill()
        helper.wait()


def serve(listening: socket.socket) -> None:
    """Fork for each call: one process that runs it, and one that reports its exit code."""
    import kaggle.cli  # noqa: F401

    for name in [name for name in sys.modules if name.split(".")[0] == "kaggle"]:
        del sys.modules[name]  # they read the environment, which is not that of a call
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection)
            os._exit(0)
        connection.close()


def _answer(connection: socket.socket) -> None:
    data, files, _, _ = socket.recv_fds(connection, 4, 1)
    size = int.from_bytes(data, "big")
    message = b""
    while len(message) < size:
        message += connection.recv(size - len(message))
    pid = os.fork()
    if pid == 0:
        _run(files[0], *json.loads(message))
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(output: int, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # read from the environment again
        for text in (sys.stdout, sys.stderr):
            text.reconfigure(encoding="utf-8", errors="replace", write_through=True)  # type: ignore[union-attr]
        sys.argv = ["kaggle", *arguments]
        runpy.run_module("kaggle", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
