"""Online runs against a server on localhost that also breaks: the training continues, and nothing is lost."""

from __future__ import annotations

import pytest
import wandb

from gatemask import tracking
from gatemask.project import Project
from gatemask.tracking.sync import sync
from gatemask.tracking.wandb_run import WandbRun, supports_finish_timeout
from tests.conftest import slow
from tests.tracking.conftest import experiment, received, remote, row, rows, session, wandb_id
from tests.tracking.wandb_server import Server

if not supports_finish_timeout():
    pytest.skip("this W&B client has no time limit for its last upload and is not used online", allow_module_level=True)


pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_clients")]


@pytest.fixture(autouse=True)
def online(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "300")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "300")


def test_rows_arrive_at_the_step_of_their_epoch(project: Project, server: Server) -> None:
    """The second session trains the last epoch of the first again."""
    session(project, range(3), finished=False)
    session(project, range(2, 5))
    assert received(server) == rows(*range(5))
    run = remote(server)
    assert (run.summary["best"], run.summary["epochs"]) == (row(4)["auc"], 5)
    assert run.fields["groupName"] == "e"
    streams = sum("file_stream" in request for request in server.requests)
    result = sync(project)
    assert (result.synced, result.already, result.failed) == (0, 1, {})
    assert sum("file_stream" in request for request in server.requests) == streams


@pytest.mark.parametrize("broken", [slow("500"), "401", "hangs"])
def test_without_a_server_it_starts_offline(project: Project, server: Server, broken: str, capsys, monkeypatch) -> None:
    server.status, server.hang_s = {"500": (500, 0), "401": (401, 0), "hangs": (0, 30)}[broken]
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")  # for the server; the start offline takes as long as it takes
    folder = session(project, range(2))
    assert "W&B cannot be reached" in capsys.readouterr().err
    assert list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert server.runs == {}
    server.status, server.hang_s = 0, 0
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "300")
    assert sync(project).synced == 1
    assert received(server) == rows(0, 1)


@pytest.mark.parametrize("broken", ["500", slow("hangs")])
def test_a_server_that_breaks_during_a_training(project: Project, server: Server, broken: str, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = session(project, range(2))
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb_run = WandbRun(experiment(), "phantom", 0, folder, wandb_id())
    server.status, server.hang_s = {"500": (500, 0), "hangs": (0, 30)}[broken]
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    monkeypatch.setattr(tracking.wandb_run, "MARGIN_S", 1.0)  # the client does not keep to its own limit
    wandb_run.log(row(0))
    wandb_run.log(row(1))
    wandb_run.finish({"best": row(1)["auc"]})
    wandb.teardown()
    assert wandb_id() in server.runs  # it started online
    server.status, server.hang_s = 0, 0
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "300")
    result = sync(project)
    assert (result.failed, result.later) == ({}, {})
    assert received(server) == rows(0, 1)
