"""Upload offline runs with the real client to a server on localhost, and check what it received."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.tracking import sync as syncing
from gatemask.tracking import wandb_log, wandb_server
from gatemask.tracking.sync import sync
from gatemask.tracking.wandb_run import supports_finish_timeout
from tests.conftest import ROOT, environment, gatemask
from tests.tracking.conftest import read, received, row, session
from tests.tracking.wandb_server import KEY, Server

if not supports_finish_timeout():
    pytest.skip("runs are uploaded by the client of requirements.txt only", allow_module_level=True)


def uploads(server: Server) -> int:
    return sum("file_stream" in request for request in server.requests)


def test_a_run_is_uploaded_once(project: Project, server: Server) -> None:
    path = session(project, range(3), best=0.75)
    first = sync(project)
    assert (first.current, first.synced, first.already, first.failed) == (False, 1, 0, {})
    assert received(server) == [row(0), row(1), row(2)]
    run = server.runs["run0"]
    assert run.summary["best"] == 0.75
    assert run.summary["val_loss"] == row(2)["val_loss"]
    assert run.exits == [0]
    assert (run.fields["groupName"], run.fields["displayName"]) == ("e", "e-fold0")
    assert run.config["fold"] == 0
    assert run.config["task"] == "gate"
    asked = len(server.requests)
    again = sync(project)
    assert (again.current, again.synced, again.already) == (True, 0, 1)
    assert len(server.requests) == asked
    assert path.with_suffix(".wandb.synced").exists()
    assert KEY not in (project.runs / "wandb-synced.json").read_text()


def test_without_its_list_of_synced_logs_nothing_is_sent_twice(project: Project, server: Server) -> None:
    """This is the state after a kill between the upload and the update of the list."""
    session(project, range(3))
    sync(project)
    (project.runs / "wandb-synced.json").unlink()
    again = sync(project)
    assert again.failed == {}
    assert received(server) == [row(0), row(1), row(2)]
    assert len(server.runs["run0"].events) <= 1


def test_two_and_three_sessions_make_one_run(project: Project, server: Server) -> None:
    """The second trains the last epoch of the first again; the third does the same after a first upload."""
    session(project, range(3))
    session(project, range(2, 5))
    assert sync(project).synced == 2
    assert received(server) == [row(n) for n in range(5)]
    session(project, range(4, 7), best=0.875)
    third = sync(project)
    assert (third.synced, third.already) == (1, 2)
    assert received(server) == [row(n) for n in range(7)]
    summary = server.runs["run0"].summary
    assert (summary["best"], summary["epochs"], summary["epoch"]) == (0.875, 7, 6)
    (project.runs / "wandb-synced.json").unlink()
    sync(project)
    assert received(server) == [row(n) for n in range(7)]
    assert server.runs["run0"].summary == summary


def test_a_copy_of_a_folder_is_not_another_run(project: Project, server: Server) -> None:
    session(project, range(2))
    shutil.copytree(project.runs / "gate/fold0", project.runs / "gate/fold0.copy", symlinks=True)
    result = sync(project)
    assert (result.synced, result.failed) == (1, {})
    assert received(server) == [row(0), row(1)]


def test_set_aside_runs_are_uploaded_too(project: Project, server: Server) -> None:
    session(project, range(2), run="old", fold="fold0.replaced1")
    session(project, range(3), run="new")
    assert sync(project).synced == 2
    assert received(server, "old") == [row(0), row(1)]
    assert received(server, "new") == [row(0), row(1), row(2)]


KILLED = """
import os, signal, sys, time
from pathlib import Path
from gatemask.tracking.wandb_run import WandbRun
from tests.tracking.conftest import experiment
run = WandbRun(experiment(), "phantom", 0, Path(sys.argv[1]), "run0")
for epoch in range(3):
    run.log({"epoch": epoch, "loss": 1 / (epoch + 1), "val_loss": 2 / (epoch + 1), "seconds": 3.25})
print("logged", flush=True)
time.sleep(60)
"""


@pytest.mark.integration
def test_a_killed_training_is_uploaded_and_a_running_one_waits(project: Project, server: Server) -> None:
    folder = project.runs / "gate" / "fold0"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"logged\n"
    (path,) = wandb_log.find_logs(project.runs)
    deadline = time.monotonic() + 20
    assert sync(project).synced == 0  # whatever it holds by now
    while (log := wandb_log.read_log(path)) is None or log.epochs != (0, 1, 2):  # although the run has not ended
        assert time.monotonic() < deadline, "the client holds rows back"
        time.sleep(0.1)
    running = sync(project)
    assert (running.synced, running.current, server.runs) == (0, False, {})
    assert "still being written" in running.later["gate/fold0/wandb/" + path.parent.name]
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(1.5)  # its client ends
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert not read(path).ended
    assert sync(project).synced == 1
    assert received(server) == [row(0), row(1), row(2)]
    session(project, range(3, 5))
    sync(project)
    assert received(server) == [row(n) for n in range(5)]


@pytest.mark.integration
@pytest.mark.parametrize("lines", [1, 3])
def test_a_killed_sync_resumes(project: Project, server: Server, lines: int) -> None:
    """It is killed with all its processes while it sends the rows, or the end of the run."""
    session(project, range(3))
    server.lines_at_most = lines
    command = [sys.executable, "-m", "gatemask", "sync", "phantom"]
    child = subprocess.Popen(command, env=environment(project.root), stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 30
    while "run0" not in server.runs or len(server.runs["run0"].lines) < lines:
        assert time.monotonic() < deadline, "nothing was uploaded"
        time.sleep(0.02)
    assert len(server.runs["run0"].lines) == lines
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (project.runs / "wandb-synced.json").exists()
    server.lines_at_most = None
    done = gatemask("sync", "phantom", "--json", root=project.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == {}
    assert received(server) == [row(0), row(1), row(2)]
    assert server.runs["run0"].summary["best"] == 0.5


@pytest.mark.integration
def test_what_an_upload_began_holds_the_lock(project: Project, server: Server) -> None:
    """A sync that is killed alone leaves the client's processes; another one does not start beside them."""
    from gatemask import files

    session(project, range(3))
    server.hang_s = 0.5
    command = [sys.executable, "-m", "gatemask", "sync", "phantom"]
    child = subprocess.Popen(command, env=environment(project.root), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not any("UpsertBucket" in request for request in server.requests):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.wait()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(GatemaskError, match="still running"):
        patch.setattr(files, "LOCK_S", 0.3)
        sync(project)
    server.hang_s = 0.0
    assert sync(project).failed == {}
    assert received(server) == [row(0), row(1), row(2)]


@pytest.mark.integration
def test_no_key(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    session(project, range(1))
    monkeypatch.delenv("WANDB_API_KEY")
    done = gatemask("sync", "phantom", root=project.root)
    assert done.returncode == 1
    assert "The W&B API key is missing." in done.stderr
    assert "wandb login" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.requests == []


def test_the_key_of_netrc(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    session(project, range(2))
    monkeypatch.delenv("WANDB_API_KEY")
    netrc = Path.home() / ".netrc"
    netrc.write_text(f"machine {server.url.removeprefix('http://')} login user password {KEY}\n")
    netrc.chmod(0o600)
    assert sync(project).synced == 1
    assert received(server) == [row(0), row(1)]


@pytest.mark.integration
@pytest.mark.parametrize("status", [401, 200])
def test_a_refused_key_is_not_shown(project: Project, server: Server, status: int) -> None:
    session(project, range(1))
    server.refuses = status
    server.keys = {"another"}
    done = gatemask("sync", "phantom", root=project.root)
    assert done.returncode == 1
    assert "W&B rejects the API key." in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert uploads(server) == 0


@pytest.mark.parametrize("broken", ["down", "500", "no json"])
def test_no_service(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    session(project, range(1))
    if broken == "down":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    server.status = {"500": 500, "no json": 204}.get(broken, 0)
    with pytest.raises(GatemaskError, match="cannot be reached"):
        sync(project)
    server.status = 0
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert sync(project).synced == 1


def test_a_server_that_stops_answering(project: Project, server: Server) -> None:
    """It accepts one row of the first run, then none; the next sync sends the rest."""
    session(project, range(3))
    session(project, range(3, 4))
    server.lines_at_most = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syncing, "UPLOAD_S", 3.0)
        result = sync(project)
    assert (result.synced, result.current) == (0, False)
    ((name, reason),) = result.failed.items()
    assert name.startswith("gate/fold0/wandb/offline-run-")
    assert "no end after 3 s" in reason
    assert [reason.split(",")[0] for reason in result.later.values()] == [f"waits for {name}"]
    server.lines_at_most = None
    assert sync(project).synced == 2
    assert received(server) == [row(0), row(1), row(2), row(3)]


@pytest.mark.integration
def test_a_damaged_log_is_named_and_the_others_are_uploaded(project: Project, server: Server) -> None:
    session(project, range(1), run="bad", fold="fold1")
    bad = session(project, range(1, 3), run="bad", fold="fold1")
    later = session(project, range(3, 4), run="bad", fold="fold1")
    session(project, range(2), run="good")
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 0xFF
    bad.write_bytes(data)
    done = gatemask("sync", "phantom", "--json", root=project.root)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert list(result["failed"]) == [bad.parent.relative_to(project.runs).as_posix()]
    assert "checksum" in result["failed"][bad.parent.relative_to(project.runs).as_posix()]
    assert list(result["later"]) == [later.parent.relative_to(project.runs).as_posix()]
    assert received(server, "good") == [row(0), row(1)]
    assert received(server, "bad") == [row(0)]
    shutil.rmtree(bad.parent)
    assert sync(project).synced == 1  # row 0 is on the server, so the gap is accepted
    assert [r["epoch"] for r in server.runs["bad"].history] == [0, 3]


def test_a_second_session_waits_for_the_first(project: Project, server: Server) -> None:
    """W&B accepts no earlier rows later; `gaps` says that the first session is lost for good."""
    first = session(project, range(2))
    session(project, range(2, 4))
    shutil.move(first.parent, project.root / "elsewhere")
    (reason,) = sync(project).failed.values()
    assert "The first session of this run is missing. Its rows begin with epoch 3." in reason
    assert server.runs == {}
    shutil.copytree(project.root / "elsewhere", first.parent)
    assert sync(project).synced == 2
    assert received(server) == [row(n) for n in range(4)]


def test_a_lost_first_session(project: Project, server: Server) -> None:
    session(project, range(2, 4))
    assert sync(project, gaps=True).synced == 1
    assert [r["epoch"] for r in server.runs["run0"].history] == [2, 3]


@pytest.mark.integration
def test_nothing_to_do(project: Project, server: Server) -> None:
    done = gatemask("sync", "phantom", "--json", root=project.root)
    assert done.returncode == 0
    assert json.loads(done.stdout)["current"] is True
    assert "tracking.wandb" in done.stderr
    assert server.requests == []


def test_a_run_of_another_program_is_rejected(project: Project, server: Server) -> None:
    from tests.tracking.wandb_server import Run

    session(project, range(2))
    server.runs["run0"] = Run(lines={0: '{"_step": 0, "loss": 1}'})
    (reason,) = sync(project).failed.values()
    assert "rows without an epoch" in reason
    assert len(server.runs["run0"].lines) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: b"x" + data[1:], "does not begin with"),
        (lambda data: data[:300] + b"\x00" * 40 + data[340:], "checksum|no record"),
        (lambda data: data[:7] + data[7:13] + b"\x09" + data[14:], "no record"),
        (lambda data: data[:7] + wandb_log.join_records([b"\xff\xff"])[7:] + data[7:], "pars"),
    ],
)
def test_damage(project: Project, change: Callable[[bytes], bytes], why: str) -> None:
    path = session(project, range(2))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(GatemaskError, match=f"damaged(.|\n)*({why})"):
        wandb_log.read_log(path)


@pytest.mark.parametrize("size", [0, 3, 7, 40])
def test_a_session_that_ended_at_once_leaves_nothing_to_upload(project: Project, server: Server, size: int) -> None:
    path = session(project, range(1))
    path.write_bytes(path.read_bytes()[:size])
    assert list(sync(project).later.values()) == [syncing.GROWING]
    os.utime(path, (time.time() - 100, time.time() - 100))
    result = sync(project)
    assert (result.current, result.later, result.failed, server.requests) == (True, {}, {}, [])


def test_logs_are_rewritten_byte_by_byte(project: Project, tmp_path: Path) -> None:
    """Records may cross blocks of 32 KiB, and the end may be cut off anywhere."""
    path = session(project, range(3))
    data = path.read_bytes()
    assert wandb_log.join_records(wandb_log.split_records(path)) == data
    long = tmp_path / "long.wandb"
    records = [bytes([n % 251]) * n for n in (0, 1, 32750, 32761, 5, 70000, 32747, 3, 32768)]
    long.write_bytes(wandb_log.join_records(records))
    assert list(wandb_log.split_records(long)) == records
    complete = list(wandb_log.split_records(path))
    for cut in range(8, len(data), 37):
        path.write_bytes(data[:cut])
        kept = list(wandb_log.split_records(path))
        assert kept == complete[: len(kept)]
    assert len(kept) < len(complete)


def test_the_key_is_not_shown_in_a_repr() -> None:
    assert KEY not in repr(wandb_server.Account("http://x", KEY))
