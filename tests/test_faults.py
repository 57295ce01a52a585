"""How commands end: one sentence, an exit code, and a log for faults of gatemask."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.error
from pathlib import Path

import pytest

from gatemask import cli, faults
from gatemask.errors import GatemaskError
from tests.conftest import environment


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "experiments").mkdir()
    monkeypatch.setenv("GATEMASK_ROOT", str(tmp_path))
    return tmp_path


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def files_page() -> str:
        raise error

    monkeypatch.setattr("gatemask.stages.files_page", files_page)
    with pytest.raises(SystemExit) as done:
        cli.main(["files"])
    assert isinstance(done.value.code, int)
    return done.value.code


def test_an_unexpected_error_is_a_sentence_a_log_and_exit_code_70(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sesame-open-1234")
    monkeypatch.setattr(sys, "argv", ["gatemask", "files", "--write", "sesame-open-1234"])
    error = KeyError("no sesame-open-1234 at https://me:hunter2@host/x")
    assert fail_with(error, monkeypatch) == 70
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert shown.err.startswith("error: Something unexpected happened in gatemask.\n")
    assert "KeyError" in shown.err
    [log] = (root / "runs/.logs").iterdir()
    assert str(log) in shown.err
    text = log.read_text()
    for words in ("Traceback", "KeyError", "command: 'files'", "Python 3."):
        assert words in text
    for secret in ("sesame-open-1234", "hunter2"):
        assert secret not in text
        assert secret not in shown.err


def test_the_log_goes_to_the_temporary_folder_where_runs_cannot_be_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "runs").write_text("a file where the folder should be")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert fail_with(ZeroDivisionError("x"), monkeypatch) == 70
    [log] = (tmp_path / "temporary").iterdir()
    assert str(log) in capfd.readouterr().err


def test_without_any_log_the_place_of_the_error_is_printed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(faults, "_log_folders", list)
    assert fail_with(ZeroDivisionError("x"), monkeypatch) == 70
    shown = capfd.readouterr().err
    assert "could not be written" in shown
    assert "tools.py, line" in shown


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (GatemaskError("No."), 1, "error: No."),
        (OSError(28, "No space left on device", "a.csv"), 1, "error: The disk is full."),
        (OSError(30, "Read-only file system", "a.csv"), 1, "error: The disk is read-only."),
        (ConnectionResetError(104, "Connection reset by peer"), 1, "error: A network connection failed."),
        (urllib.error.URLError(OSError(111, "Connection refused")), 1, "error: A network connection failed."),
        (MemoryError(), 1, "error: Memory ran out."),
        (KeyboardInterrupt(), 130, "stopped; run the same command again to resume"),
        (RecursionError("too deep"), 70, "RecursionError: too deep"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), 70, "UnicodeDecodeError"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    words: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert fail_with(error, monkeypatch) == code
    shown = capfd.readouterr().err
    assert words in shown
    assert "Traceback" not in shown
    assert (root / "runs").exists() == (code == 70)


@pytest.mark.integration
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system lacks /dev/full")
def test_output_to_a_full_disk_is_an_error(root: Path) -> None:
    code = "from gatemask.cli import main; main(['files'])"
    command = [sys.executable, "-c", code]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=environment(root), stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: The disk is full.\n  where:    standard output\n"
        silent = subprocess.run([*command[:-1], code.replace("'files'", "'x'")], env=environment(root), stderr=full)
        assert silent.returncode in (1, 2), "the message is lost, the exit code is not"


def test_json_holds_names_that_are_not_utf8(capfd: pytest.CaptureFixture[str]) -> None:
    from gatemask.commands.options import print_json

    value = {"file": "caf\udce9.png", "título": "ü"}
    print_json(value)
    assert json.loads(capfd.readouterr().out) == value
