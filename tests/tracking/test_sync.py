"""Replay runs with the real client to a server on localhost, and check what it received."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from gatemask import files
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.tracking import local_run, wandb_server
from gatemask.tracking import sync as syncing
from gatemask.tracking.sync import sync
from gatemask.tracking.wandb_run import supports_finish_timeout
from tests.conftest import gatemask, kill_when
from tests.tracking.conftest import finish, received, remote, row, rows, session, wandb_id
from tests.tracking.wandb_server import KEY, Run, Server

if not supports_finish_timeout():
    pytest.skip("runs are uploaded by the client of requirements.txt only", allow_module_level=True)


pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_clients")]


def uploads(server: Server) -> int:
    return sum("file_stream" in request for request in server.requests)


def test_a_run_is_uploaded_once(project: Project, server: Server) -> None:
    session(project, range(3))
    first = sync(project)
    assert (first.current, first.synced, first.already, first.failed) == (False, 1, 0, {})
    assert received(server) == rows(0, 1, 2)
    run = remote(server)
    assert run.summary["best"] == row(2)["auc"]
    assert run.summary["val_loss"] == row(2)["val_loss"]
    assert run.exits == [0]
    assert (run.fields["groupName"], run.fields["displayName"]) == ("e", "e-fold0")
    assert (run.config["fold"], run.config["task"]) == (0, "gate")
    assert run.events == {}, "the uploading machine did not train the run"
    asked = len(server.requests)
    again = sync(project)
    assert (again.current, again.synced, again.already) == (True, 0, 1)
    assert len(server.requests) == asked
    assert KEY not in (project.runs / "wandb-synced.json").read_text()


def test_without_its_list_of_synced_runs_nothing_is_sent_twice(project: Project, server: Server) -> None:
    """This is the state after a kill between the upload and the update of the list."""
    session(project, range(3))
    sync(project)
    (project.runs / "wandb-synced.json").unlink()
    sent = uploads(server)
    again = sync(project)
    assert (again.synced, again.already, again.failed) == (0, 1, {})
    assert (received(server), uploads(server)) == (rows(0, 1, 2), sent)


def test_sessions_of_a_run_are_uploaded_one_after_another(project: Project, server: Server) -> None:
    folder = session(project, range(3), finished=False)
    age(folder)
    assert sync(project).synced == 1
    session(project, range(2, 5), finished=False)  # trains an epoch again
    age(folder)
    assert sync(project).synced == 1
    session(project, range(5, 7))
    assert sync(project).synced == 1
    assert received(server) == rows(*range(7))
    summary = remote(server).summary
    assert (summary["best"], summary["epochs"], summary["epoch"]) == (row(6)["auc"], 7, 6)


@pytest.fixture(autouse=True)
def _long_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_run, "QUIET_S", 1e6)  # so that a busy machine makes no difference


def age(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 1e7, time.time() - 1e7))


def test_a_run_that_was_just_fetched_does_not_wait(project: Project) -> None:
    folder = session(project, range(2), finished=False)
    assert local_run.is_being_written(folder)
    age(folder)
    assert not local_run.is_being_written(folder)
    os.utime(folder / "metrics.jsonl")
    (folder / "kaggle.json").touch()
    assert not local_run.is_being_written(folder)


def test_a_copy_of_a_folder_is_not_another_run(project: Project, server: Server) -> None:
    session(project, range(2))
    shutil.copytree(project.runs / "gate/fold0", project.runs / "gate/fold0.copy")
    result = sync(project)
    assert (result.synced, result.failed) == (1, {})
    assert received(server) == rows(0, 1)


def test_set_aside_runs_are_uploaded_too(project: Project, server: Server) -> None:
    session(project, range(2), run="old", fold="fold0.replaced1")
    session(project, range(3), run="new")
    assert sync(project).synced == 2
    assert received(server, "old") == rows(0, 1)
    assert received(server, "new") == rows(0, 1, 2)


def test_a_running_training_waits_and_a_killed_one_is_uploaded(project: Project, server: Server) -> None:
    folder = session(project, range(3), finished=False)
    running = sync(project)
    assert (running.synced, running.current, server.runs) == (0, False, {})
    assert "still being trained" in running.later["gate/fold0"]
    (folder / "wandb/run.wandb").touch()
    age(folder)
    with (folder / "wandb/run.wandb").open():
        assert list(sync(project).later) == ["gate/fold0"], "a long epoch changes no file"
    assert sync(project).synced == 1
    assert received(server) == rows(0, 1, 2)
    session(project, range(3, 5))
    sync(project)
    assert received(server) == rows(*range(5))


@pytest.mark.parametrize("lines", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_sync_resumes(project: Project, server: Server, lines: int) -> None:
    """It is killed with all its processes while it sends the rows, or the end of the run."""
    session(project, range(3))
    server.lines_at_most = lines

    def uploaded(_: int) -> bool:
        return wandb_id() in server.runs and len(remote(server).lines) >= lines

    kill_when(uploaded, "-m", "gatemask", "sync", "phantom", root=project.root, group=True)
    assert len(remote(server).lines) == lines
    assert not (project.runs / "wandb-synced.json").exists()
    server.lines_at_most = None
    done = gatemask("sync", "phantom", "--json", root=project.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == {}
    assert received(server) == rows(0, 1, 2)
    summary = remote(server).summary
    assert (summary["best"], summary["epoch"]) == (row(2)["auc"], 2)


def test_the_processes_of_an_upload_hold_the_lock(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that is killed alone leaves the client's processes; no other sync starts next to them."""
    session(project, range(3))
    server.hang_s, server.hang_on = 900.0, "UpsertBucket"
    kill_when(
        lambda _: any("UpsertBucket" in request for request in server.requests),
        *("-m", "gatemask", "sync", "phantom"),
        root=project.root,
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(GatemaskError, match="still running"):
        patch.setattr(files, "LOCK_S", 0.0)
        sync(project)
    server.hang_s = 0.0
    monkeypatch.setattr(files, "LOCK_S", 600.0)
    assert sync(project).failed == {}
    assert received(server) == rows(0, 1, 2)


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
    assert received(server) == rows(0, 1)


@pytest.mark.parametrize("status", [401, 200])
def test_a_rejected_key_is_not_shown(project: Project, server: Server, status: int) -> None:
    session(project, range(1))
    server.refuses = status
    server.keys = {"another"}
    done = gatemask("sync", "phantom", root=project.root)
    assert done.returncode == 1
    assert "W&B rejects the API key." in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert uploads(server) == 0


@pytest.mark.parametrize("broken", ["down", "500", pytest.param("no json", marks=pytest.mark.slow)])
def test_no_server(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    session(project, range(1))
    if broken == "down":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    server.status = {"500": 500, "no json": 204}.get(broken, 0)
    with pytest.raises(GatemaskError, match="cannot be reached"):
        sync(project)
    server.status = 0
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert sync(project).synced == 1


def test_a_server_that_stops_accepting_rows(project: Project, server: Server) -> None:
    """It accepts one row of the run, then none; the next sync sends the rest."""
    session(project, range(4))
    server.lines_at_most = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syncing, "UPLOAD_S", 5.0)
        patch.setattr(syncing, "SETTLE_S", 1.0)
        result = sync(project)
    assert (result.synced, result.current) == (0, False)
    assert "no end after 5 s" in result.failed["gate/fold0"]
    server.lines_at_most = None
    assert sync(project).synced == 1
    assert received(server) == rows(0, 1, 2, 3)


def test_a_run_with_a_secret_is_not_uploaded(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "vT9-plantedQ4x7mZ"
    monkeypatch.setenv("DB_PASS", secret)
    bad = session(project, range(1), run="bad", fold="fold1")
    (bad / "metrics.jsonl").write_text(json.dumps({**row(0), secret: 1.0}) + "\n")
    session(project, range(1), run="good")
    result = sync(project)
    assert "A secret would be uploaded. the value of DB_PASS" in result.failed["gate/fold1"]
    assert secret not in str(result)
    assert received(server, "good") == rows(0)
    assert wandb_id("bad") not in server.runs


def test_a_damaged_run_is_named_and_the_others_are_uploaded(project: Project, server: Server) -> None:
    bad = session(project, range(1), run="bad", fold="fold1")
    session(project, range(2), run="good")
    (bad / "metrics.jsonl").write_text('{"epoch": 0, "lo')
    done = gatemask("sync", "phantom", "--json", root=project.root)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert "damaged" in result["failed"]["gate/fold1"]
    assert received(server, "good") == rows(0, 1)
    assert wandb_id("bad") not in server.runs


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("metrics.jsonl", "{", "not the row of an epoch"),
        ("metrics.jsonl", '{"loss": 1}', "epoch"),
        ("metrics.jsonl", '{"epoch": 1}\n{"epoch": 1}', "not in order"),
        ("result.json", "{", "Not valid JSON"),
        ("result.json", None, "neither"),
        ("config.yaml", "name: e", "Missing key: .task."),
    ],
)
def test_damage(project: Project, name: str, text: str | None, reason: str) -> None:
    folder = session(project, range(2))
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(GatemaskError, match=reason):
        local_run.read_run(project, folder)


def test_a_run_without_its_beginning_is_rejected(project: Project, server: Server) -> None:
    """W&B accepts no earlier epochs later; `gaps` says that the beginning is lost for good."""
    session(project, range(2, 4))
    (reason,) = sync(project).failed.values()
    assert "The first epochs of this run are missing. Its metrics.jsonl begins with epoch 3." in reason
    assert server.runs == {}
    assert sync(project, gaps=True).synced == 1
    assert received(server) == rows(2, 3)


def test_nothing_to_do(project: Project, server: Server) -> None:
    done = gatemask("sync", "phantom", "--json", root=project.root)
    assert done.returncode == 0
    assert json.loads(done.stdout)["current"] is True
    assert "tracking.wandb" in done.stderr
    assert server.requests == []


def test_a_run_of_another_program_is_rejected(project: Project, server: Server) -> None:
    session(project, range(2))
    server.runs[wandb_id()] = Run(lines={0: '{"_step": 0, "loss": 1}'})
    (reason,) = sync(project).failed.values()
    assert "rows without an epoch" in reason
    assert len(remote(server).lines) == 1


def test_a_run_without_epochs_or_without_wandb_is_left_out(project: Project, server: Server) -> None:
    session(project, range(0))
    shutil.rmtree(session(project, range(2), run="untracked", fold="fold1") / "wandb")
    result = sync(project)
    assert (result.current, result.later, result.failed, server.requests) == (True, {}, {}, [])


def test_an_unfinished_run_that_finishes_without_another_epoch(project: Project, server: Server) -> None:
    folder = session(project, range(2), finished=False)
    age(folder)
    sync(project)
    finish(folder)
    result = sync(project)
    assert (result.current, result.already) == (True, 1)
    assert received(server) == rows(0, 1)


def test_the_key_is_not_shown_in_a_repr() -> None:
    assert KEY not in repr(wandb_server.Account("http://x", KEY))
