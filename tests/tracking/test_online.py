"""Online runs against a server on localhost that also breaks: the training continues, and nothing is lost."""

from __future__ import annotations

import pytest
import wandb

from gatemask.project import Project
from gatemask.tracking import wandb_log
from gatemask.tracking.sync import sync
from gatemask.tracking.wandb_run import WandbRun, supports_finish_timeout
from tests.tracking.conftest import experiment, received, row, session
from tests.tracking.wandb_server import Server

if not supports_finish_timeout():
    pytest.skip("this W&B client has no time limit for its last upload and is not used online", allow_module_level=True)


@pytest.fixture(autouse=True)
def online(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")


def test_rows_arrive_at_the_step_of_their_epoch(project: Project, server: Server) -> None:
    """The second session trains the last epoch of the first again."""
    session(project, range(3), best=0.5)
    session(project, range(2, 5), best=0.75)
    assert received(server) == [row(n) for n in range(5)]
    run = server.runs["run0"]
    assert (run.summary["best"], run.summary["epochs"]) == (0.75, 5)
    assert run.fields["groupName"] == "e"
    streams = sum("file_stream" in request for request in server.requests)
    result = sync(project)
    assert (result.synced, result.already, result.failed) == (0, 2, {})
    assert sum("file_stream" in request for request in server.requests) == streams


@pytest.mark.parametrize("broken", ["500", "401", "hangs"])
def test_without_a_server_it_starts_offline(project: Project, server: Server, broken: str, capsys) -> None:
    server.status, server.hang_s = {"500": (500, 0), "401": (401, 0), "hangs": (0, 30)}[broken]
    path = session(project, range(2))
    assert "W&B cannot be reached" in capsys.readouterr().err
    assert path.parent.name.startswith("offline-run-")
    assert server.runs == {}
    server.status, server.hang_s = 0, 0
    assert sync(project).synced == 1
    assert received(server) == [row(0), row(1)]


@pytest.mark.parametrize("broken", ["500", "hangs"])
def test_a_server_that_breaks_during_a_training(project: Project, server: Server, broken: str) -> None:
    run = WandbRun(experiment(), "phantom", 0, project.runs / "gate" / "fold0", "run0")
    server.status, server.hang_s = {"500": (500, 0), "hangs": (0, 30)}[broken]
    run.log(row(0))
    run.log(row(1))
    run.finish({"best": 0.5})
    wandb.teardown()
    assert "run0" in server.runs  # it started online
    server.status, server.hang_s = 0, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb_log, "QUIET_S", 0.0)
        result = sync(project)
    assert (result.failed, result.later) == ({}, {})
    assert received(server) == [row(0), row(1)]
