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
from gatemask.tracking import fragments
from gatemask.tracking.wandb_mirror import Mirror
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
    """A project whose user has a key for the server, and no other."""
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
    known = {"task": "gate", "model": {"name": "gate", "encoder": "efficientnetb0"}, "input": {"size": 32}}
    return Experiment.model_validate({"name": "e", "loss": {"bce": 1}, "epochs": 2, **known})


_MADE: dict[tuple[object, ...], Path] = {}


def session(project: Project, epochs: range, run: str = "run0", fold: str = "fold0", best: float = 0.5) -> Path:
    """One session of a training: its .wandb file. One offline is made once, and copied after that."""
    folder = project.runs / "gate" / fold
    before = fragments.find(project.runs)
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
    before = set(fragments.find(project.runs))
    while any(time.strftime("%Y%m%d_%H%M%S") in str(path) for path in [*before, *_MADE.values()]):
        time.sleep(0.05)  # the client names a session by the second
    mirror = Mirror(experiment(), "phantom", 0, folder, run)
    for epoch in epochs:
        mirror.log(row(epoch))
    mirror.finish({"best": best, "epochs": epochs.stop})
    wandb.teardown()  # a session is a process
    new = set(fragments.find(project.runs)) - before
    (path,) = [path for path in new if len(new) == 1 or "offline" in path.parent.name]  # beside a start that failed
    deadline = time.monotonic() + 20  # the client's own process ends the file, a moment after finish() came back
    while not look(path).ended:
        assert time.monotonic() < deadline, "the client does not end its file"
        time.sleep(0.05)
    return path


def look(path: Path) -> fragments.Fragment:
    fragment = fragments.read(path)
    assert fragment is not None
    return fragment


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "loss": 1 / (epoch + 1), "val_loss": 2 / (epoch + 1), "seconds": 3.25}


def received(server: Server, run: str = "run0") -> list[dict]:
    """The rows of a run; each at the step of its epoch, and none written over another."""
    rows = server.runs[run].history
    assert [r["_step"] for r in rows] == [r["epoch"] for r in rows]
    assert server.runs[run].written_over == 0
    return [{key: value for key, value in r.items() if not key.startswith("_")} for r in rows]
