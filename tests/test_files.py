"""Atomic writes, fingerprints, and errors about damaged files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatemask import files
from gatemask.errors import GatemaskError, nearest


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = files.write_text(tmp_path / "a.txt", "old")

    def fail(tmp: Path) -> None:
        tmp.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        files.write_with(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.integration
def test_readers_never_see_a_partial_file(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from gatemask.files import write_text\n"
        "for n in range(10**6): write_text(pathlib.Path(sys.argv[1]), str(n % 10) * 200_000)"
    )
    path = tmp_path / "big.txt"
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not path.exists():
        time.sleep(0.01)
    for _ in range(100):
        text = path.read_text()
        assert len(text) == 200_000
        assert len(set(text)) == 1
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert len(set(path.read_text())) == 1


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(GatemaskError, match=r"result\.json"):
        files.read_json(tmp_path / "result.json")


def test_listing_fingerprint_changes_with_modification_time(tmp_path: Path) -> None:
    path = files.write_text(tmp_path / "a", "1")
    first = files.listing_fingerprint([path], tmp_path)
    os.utime(path, ns=(1, 1))
    assert files.listing_fingerprint([path], tmp_path) != first


def test_nearest_names() -> None:
    assert nearest("efficentnetb0", ["efficientnetb0", "unet"]) == "efficientnetb0"
    assert nearest("zzz", ["unet"]) is None
