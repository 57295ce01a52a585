"""Tests of the training rehearsal: the script that would be pushed, run as on Kaggle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gatemask.config import Competition, Experiment, load_competition, load_experiment
from gatemask.errors import GatemaskError
from gatemask.kaggle.train import rehearse
from gatemask.project import Project
from gatemask.results.kaggle_training import ACCOUNT_FILE, SessionAccount
from tests import tiny
from tests.conftest import gatemask

pytestmark = pytest.mark.trains


@pytest.fixture(autouse=True)
def tiny_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels that this process rehearses use the tiny encoder."""
    tiny.install_in_rehearsals(monkeypatch.setattr)


@pytest.fixture(scope="module")
def root(phantom_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rehearsal") / "project"
    shutil.copytree(phantom_records, root, ignore=shutil.ignore_patterns("runs", "dist"))
    with (root / "experiments/phantom/base.yaml").open("a") as settings:  # W&B takes longer than the training
        settings.write("tracking: {wandb: disabled}\n")
    return root


@pytest.fixture(scope="module")
def rehearsed(root: Path) -> dict[str, Any]:
    done = gatemask("rehearse", "phantom/gate_r18", "--train", "--fold", 1, "--quick", "--json", root=root, tiny=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_rehearsal_runs_as_on_kaggle(root: Path, rehearsed: dict[str, Any]) -> None:
    folder = root / "runs/phantom-quick/rehearsal-train/gate_r18"
    log = (folder / "log.txt").read_text()
    assert "no network" in rehearsed["isolation"]
    assert rehearsed["payload_inside"]
    assert rehearsed["script_kilobytes"] < 1000
    assert "installed: segmentation-models" in log, "the package was not installed from the dataset"
    assert "epoch 1/1" in log
    account = json.loads((folder / "kaggle/working/gatemask-output.json").read_text())
    assert account["state"] == "finished"
    assert "runs/gate_r18/fold1/oof.csv" in account["files"]
    assert rehearsed["peak_memory_megabytes"] > 100
    assert 0 < rehearsed["output_megabytes"] < rehearsed["expected_megabytes"]
    assert not (root / "runs/phantom-quick/gate_r18").exists(), "the rehearsal left a run"


def test_second_rehearsal_is_current(root: Path, rehearsed: dict[str, Any]) -> None:
    done = gatemask("rehearse", "phantom/gate_r18", "--train", "--fold", 1, "--quick", "--json", root=root, tiny=True)
    assert json.loads(done.stdout)["current"]


def load(root: Path) -> tuple[Project, Competition, Experiment]:
    project = Project(root, "phantom", quick=True)
    path = project.experiments / "gate_r18.yaml"
    return project, load_competition(project.experiments, quick=True), load_experiment(path, quick=True)


def test_output_larger_than_kaggle_keeps_is_rejected(
    root: Path, rehearsed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _, exp = load(root)
    working = root / "runs/phantom-quick/rehearsal-train/gate_r18/kaggle/working"
    account = SessionAccount.load(working / ACCOUNT_FILE)
    size = rehearse._measure_output(project, exp, working, account, 1)
    assert round(size.expected / 1e6, 1) == rehearsed["expected_megabytes"]
    monkeypatch.setattr(rehearse, "WORKING_LIMIT", size.expected / 2)
    with pytest.raises(GatemaskError, match="larger than what Kaggle keeps"):
        rehearse._measure_output(project, exp, working, account, 1)


def test_kernel_is_killed_at_its_time_limit(
    root: Path, rehearsed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearse, "TIME_LIMIT_S", 1.0)
    with pytest.raises(GatemaskError, match="ran past the time limit"):
        rehearse.rehearse_training(*load(root), fold=0)


def test_failed_kernel_says_why(root: Path, rehearsed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails because the images of its folds are not in the records."""
    few = rehearse._few_images
    monkeypatch.setattr(rehearse, "_few_images", lambda *given: few(*given).replace(b"\n", b"\nnobody", 1))
    with pytest.raises(GatemaskError, match="failed in the rehearsal") as failed:
        rehearse.rehearse_training(*load(root), fold=0)
    assert "nobody" in str(failed.value)
