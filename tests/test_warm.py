"""The warm process that runs commands for tests leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.warm import Warm

CALL = """
import signal, sys
fifo = open(sys.argv[1], "w")
print("running", file=fifo, flush=True)
signal.pause()
"""
TESTS = f"""
import os, sys
from pathlib import Path
from tests.warm import Warm

folder = Path(sys.argv[1])
with open(folder / "log.txt", "w") as log:
    command = ["-c", {CALL!r}, str(folder / "fifo")]
    Warm(folder, []).start(command, stdout=log, stderr=log, environment=dict(os.environ)).wait()
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_a_call_ends_with_the_tests_even_if_they_are_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    tests = subprocess.Popen([sys.executable, "-c", TESTS, tmp_path], cwd=ROOT)
    with (tmp_path / "fifo").open("rb") as fifo:
        assert fifo.readline() == b"running\n"
        os.kill(tests.pid, signal.SIGKILL)
        tests.wait()
        assert fifo.read() == b"", "it ends when no process holds it any more"


CALLER = f"""
import os, sys
from pathlib import Path
from tests.warm import start

folder = Path(sys.argv[1])
with open(folder / "log.txt", "w") as log:
    command = ["-c", {CALL!r}, str(folder / "fifo")]
    call = start(folder / "warm.socket", command, stdout=log, stderr=log, environment=dict(os.environ), bound=True)
    call.wait()
"""


@pytest.mark.integration
def test_a_bound_call_ends_with_its_caller(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    warm = Warm(tmp_path, [])
    try:
        caller = subprocess.Popen([sys.executable, "-c", CALLER, tmp_path], cwd=ROOT)
        with (tmp_path / "fifo").open("rb") as fifo:
            assert fifo.readline() == b"running\n"
            caller.kill()
            caller.wait()
            assert fifo.read() == b""
    finally:
        warm.close()
