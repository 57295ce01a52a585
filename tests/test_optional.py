"""A plain installation lacks the packages of the extras: what needs one of them says so, all else works."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.files import write_yaml
from gatemask.optional import is_installed, require
from gatemask.project import Project
from gatemask.tracking import wandb_run
from gatemask.tracking.sync import sync
from gatemask.tracking.wandb_run import WandbRun
from gatemask.tuning.dashboard import serve_dashboard
from tests.tracking.conftest import experiment


def test_what_is_installed() -> None:
    assert is_installed("numpy")
    assert not is_installed("no_such_package")
    with pytest.raises(GatemaskError, match=r"The table needs the package no-such-package\.") as caught:
        require("no_such_package", "The table")
    assert caught.value.details["do"] == "Install it: pip install no-such-package"


def test_without_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb_run._say_once.cache_clear()
    project = Project(tmp_path, "phantom")
    for fold in range(2):
        folder = project.runs / "gate" / f"fold{fold}"
        run = WandbRun(experiment(), "phantom", fold, folder, "id")
        run.log({"epoch": 0, "loss": 1.0})
        run.finish({"best": 1.0})
    assert capsys.readouterr().err.count("wandb is not installed: runs are kept locally") == 1
    write_yaml(folder / "config.yaml", {})
    with pytest.raises(GatemaskError, match="needs the package wandb"):  # and later, when it is installed, it is sent
        sync(project)


def test_without_optuna_dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    project = Project(tmp_path, "phantom")
    project.tuned.mkdir(parents=True)
    (project.tuned / "study.log").touch()
    with pytest.raises(GatemaskError, match="needs the package optuna-dashboard"):
        serve_dashboard(project, 0, False)
