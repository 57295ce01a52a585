"""A W&B server on localhost, a project whose user has its key, and sessions of the real client."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from gatemask.config import Experiment
from gatemask.project import Project
from gatemask.tracking import wandb_log
from gatemask.tracking.wandb_log import RunLog
from gatemask.tracking.wandb_run import WandbRun
from tests.conftest import ROOT
from tests.tracking.wandb_server import KEY, Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose user has a key for this server only."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    (tmp_path / "experiments").mkdir()
    shutil.copytree(ROOT / "experiments" / "phantom", tmp_path / "experiments" / "phantom")
    return Project(tmp_path, "phantom")


def experiment() -> Experiment:
    settings = {"task": "gate", "model": {"name": "gate", "encoder": "efficientnetb0"}, "input": {"size": 32}}
    return Experiment.model_validate({"name": "e", "loss": {"bce": 1}, "epochs": 2, **settings})


_MADE: dict[tuple[object, ...], Path] = {}


def session(project: Project, epochs: range, run: str = "run0", fold: str = "fold0", best: float = 0.5) -> Path:
    """Run one session of a training, and return its log. Offline sessions are made once and then copied."""
    folder = project.runs / "gate" / fold
    before = wandb_log.find_logs(project.runs)
    key = (epochs, run, best)
    if os.environ["WANDB_MODE"] == "offline":
        if key not in _MADE or any(path.parent.name >= _MADE[key].name for path in before):
            path = _session(project, epochs, run, folder, best)
            _MADE[key] = project.root / "home" / f"made{len(_MADE)}" / path.parent.name
            shutil.copytree(path.parent, _MADE[key])
            return path
        copy = folder / "wandb" / _MADE[key].name
        shutil.copytree(_MADE[key], copy)
        return copy / f"run-{run}.wandb"
    return _session(project, epochs, run, folder, best)


def _session(project: Project, epochs: range, run: str, folder: Path, best: float) -> Path:
    before = set(wandb_log.find_logs(project.runs))
    while any(time.strftime("%Y%m%d_%H%M%S") in str(path) for path in [*before, *_MADE.values()]):
        time.sleep(0.05)  # the client names sessions by the second
    wandb_run = WandbRun(experiment(), "phantom", 0, folder, run)
    for epoch in epochs:
        wandb_run.log(row(epoch))
    wandb_run.finish({"best": best, "epochs": epochs.stop})
    wandb.teardown()  # a session is a process of its own
    new = set(wandb_log.find_logs(project.runs)) - before
    (path,) = [path for path in new if len(new) == 1 or "offline" in path.parent.name]  # next to a start that failed
    deadline = time.monotonic() + 20  # the client's own process closes the log, a moment after finish() returned
    while not read(path).ended:
        assert time.monotonic() < deadline, "the client does not close its log"
        time.sleep(0.05)
    return path


def read(path: Path) -> RunLog:
    log = wandb_log.read_log(path)
    assert log is not None
    return log


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "loss": 1 / (epoch + 1), "val_loss": 2 / (epoch + 1), "seconds": 3.25}


def received(server: Server, run: str = "run0") -> list[dict]:
    """Return the rows of a run. Each is at the step of its epoch, and none was overwritten."""
    rows = server.runs[run].history
    assert [row["_step"] for row in rows] == [row["epoch"] for row in rows]
    assert server.runs[run].overwritten == 0
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
