"""A W&B server on localhost, a project whose user has its key, and runs on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
import wandb

from gatemask.config import Experiment
from gatemask.files import write_json, write_yaml
from gatemask.project import Project
from gatemask.tracking import client_process, run_folder
from gatemask.tracking.local_run import run_id
from gatemask.tracking.wandb_run import WandbRun
from tests.conftest import ROOT, warm_gatemask
from tests.tracking.wandb_server import KEY, Run, Server
from tests.warm import Call


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


class WarmClients:
    """Takes the place of `subprocess` where clients are started: they fork from a process with all imports."""

    STDOUT, TimeoutExpired = subprocess.STDOUT, subprocess.TimeoutExpired

    @staticmethod
    def Popen(  # noqa: N802
        command: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: int, stdout: IO[str], stderr: int
    ) -> Call:
        assert command[:3] == [sys.executable, "-P", "-m"]
        streams: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        return warm_gatemask().start(command[2:], **streams, environment=env, folder=cwd)


@pytest.fixture
def warm_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the W&B clients of this process without the seconds of their imports; commands start them as usual."""
    monkeypatch.setattr(client_process, "subprocess", WarmClients)


@pytest.fixture
def account(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has a key for this server only."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "300")  # on a busy machine, a client may start slowly
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))


@pytest.fixture
def project(tmp_path: Path, account: None) -> Project:
    """A project without data."""
    (tmp_path / "experiments").mkdir()
    shutil.copytree(ROOT / "experiments" / "phantom", tmp_path / "experiments" / "phantom")
    return Project(tmp_path, "phantom")


@pytest.fixture
def phantoms(phantom_records: Path, tmp_path: Path, account: None) -> Project:
    """A project with the data of the quick phantoms."""
    shutil.copytree(phantom_records, tmp_path / "phantoms", ignore=shutil.ignore_patterns("runs"))
    return Project(tmp_path / "phantoms", "phantom", quick=True)


def experiment() -> Experiment:
    settings = {"task": "gate", "model": {"name": "gate", "encoder": "efficientnetb0"}, "input": {"size": 32}}
    return Experiment.model_validate({"name": "e", "loss": {"bce": 1}, "epochs": 2, **settings})


def session(project: Project, epochs: range, run: str = "run0", fold: str = "fold0", finished: bool = True) -> Path:
    """Run one session of a training, and return the folder of its run. Only an online session calls W&B.

    Args:
        project: Project of the run.
        epochs: Epochs to train.
        run: Name of the run; its id follows from it.
        fold: Name of the folder.
        finished: Whether the session finishes the run.
    """
    folder = project.runs / "gate" / fold
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", experiment().model_dump(mode="json", exclude={"quick"}, exclude_none=True))
    write_json(folder / "begun.json", {"made_from": made_from(run)})
    log = folder / "metrics.jsonl"
    earlier = [old for old in run_folder.read_metrics(log) if old["epoch"] < min(epochs, default=float("inf"))]
    run_folder.write_metrics(log, [*earlier, *map(row, epochs)])
    if os.environ["WANDB_MODE"] == "online":
        wandb_run = WandbRun(experiment(), "phantom", 0, folder, wandb_id(run))
        for epoch in epochs:
            wandb_run.log(row(epoch))
        wandb_run.finish({"best": row(epochs.stop - 1)["auc"], "epochs": epochs.stop})
        wandb.teardown()  # a session is a process of its own
    if finished:
        finish(folder)
    return folder


def finish(folder: Path) -> None:
    (folder / "begun.json").rename(folder / "result.json")


def made_from(run: str) -> dict[str, str]:
    return {"settings": run}


def wandb_id(run: str = "run0") -> str:
    return run_id("phantom", "e", made_from(run))


def row(epoch: int) -> dict[str, float]:
    return {
        "epoch": epoch,
        "loss": 1 / (epoch + 1),
        "val_loss": 2 / (epoch + 1),
        "auc": epoch / (epoch + 1),
        "seconds": 3.25,
    }


def rows(*epochs: int) -> list[dict[str, float]]:
    return [row(epoch) for epoch in epochs]


def remote(server: Server, run: str = "run0") -> Run:
    """Return the run on the server."""
    return server.runs[wandb_id(run)]


def received(server: Server, run: str = "run0") -> list[dict[str, float]]:
    """Return the rows of a run. Each is at the step of its epoch, and none was overwritten."""
    history = remote(server, run).history
    assert [entry["_step"] for entry in history] == [entry["epoch"] for entry in history]
    assert remote(server, run).overwritten == 0
    return [{key: value for key, value in entry.items() if not key.startswith("_")} for entry in history]
