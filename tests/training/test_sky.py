"""SkyPilot tasks: one per fold, of the structure that SkyPilot reads, with a command that gatemask understands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatemask.config import load_competition, load_experiment
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.training.sky import SkyOptions, write_tasks
from tests.conftest import ROOT

# The part of SkyPilot's format for tasks that is used here: keys and the types of their values.
TASK: dict[str, Any] = {"name": str, "workdir": str, "resources": dict, "envs": dict, "setup": str, "run": str}
RESOURCES = {"accelerators": str, "use_spot": bool}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "folds").mkdir()
    rows = "".join(f"i{number},{number % 3},g{number},0\n" for number in range(9))
    (tmp_path / "folds/phantom.csv").write_text(f"image_id,fold,group,stratum\n{rows}")
    return Project(tmp_path, "phantom")


def tasks(project: Project, folds: list[int] | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    exp = load_experiment(project.experiment_file("unet_b0"), overrides=options.get("overrides", ()))
    result = write_tasks(project, load_competition(project.experiments), exp, folds, SkyOptions(**options))
    assert result.launch == [
        f"sky jobs launch -n {Path(path).stem.replace('unet_b0', 'phantom-unet-b0')} {path}" for path in result.tasks
    ]
    return {Path(path).name: yaml.safe_load((project.root / path).read_text()) for path in result.tasks}


def test_each_fold_is_a_managed_job(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEMASK_REMOTE", "s3://bucket/project")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)  # set where Keras was imported before
    written = tasks(project)
    assert list(written) == [f"unet_b0-fold{fold}.yaml" for fold in range(3)]
    for fold, task in enumerate(written.values()):
        assert {key: type(value) for key, value in task.items()} == TASK
        assert {key: type(value) for key, value in task["resources"].items()} == RESOURCES
        assert task["name"] == f"phantom-unet-b0-fold{fold}"
        assert task["resources"] == {"accelerators": "L4:1", "use_spot": True}
        assert task["envs"] == {"GATEMASK_REMOTE": "s3://bucket/project", "WANDB_MODE": "offline"}
        command = shlex.split(task["run"].splitlines()[-1])
        assert command == ["gatemask", "train", "phantom/unet_b0", "--fold", str(fold)]
    text = (project.dist / "sky/unet_b0-fold0.yaml").read_text()
    assert text.startswith("# sky jobs launch -n phantom-unet-b0-fold0 dist/phantom/sky/unet_b0-fold0.yaml\n")
    assert "secret" not in text


def test_settings_of_the_command_reach_the_job(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEMASK_REMOTE", raising=False)
    given = {"overrides": ("hours=4", "augment=[hflip]"), "accelerators": "tpu-v5e-8", "spot": False}
    (task,) = tasks(project, [1], **given).values()
    assert task["resources"] == {"accelerators": "tpu-v5e-8", "use_spot": False}
    assert task["envs"]["GATEMASK_REMOTE"] is None, "SkyPilot demands a value at launch"
    command = shlex.split(task["run"].splitlines()[-1])
    assert command[4:] == ["1", "--set", "augment=[hflip]", "--set", "hours=null"]
    assert load_experiment(project.experiment_file("unet_b0"), overrides=["hours=null"]).hours is None


def test_a_fold_must_exist(project: Project) -> None:
    with pytest.raises(GatemaskError, match="fold"):
        tasks(project, [7])
