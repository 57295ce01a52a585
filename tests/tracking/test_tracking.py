"""The local run is complete, and W&B can fail in any way without stopping a training."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from gatemask.tracking import run_folder
from gatemask.tracking.wandb_run import WandbRun
from tests.input.test_pipeline import experiment


def test_an_epoch_that_is_trained_again_replaces_its_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for epoch, loss in ((0, 3.0), (1, 2.0), (2, 1.0), (1, 1.5)):
        run_folder.append_metrics(path, {"epoch": epoch, "loss": loss})
    assert [(row["epoch"], row["loss"]) for row in run_folder.read_metrics(path)] == [(0, 3.0), (1, 1.5)]


@pytest.mark.integration
def test_the_commit_is_marked_as_dirty(tmp_path: Path) -> None:
    assert run_folder.commit(tmp_path) is None

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b", *words],
            check=True,
            capture_output=True,
        )

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = run_folder.commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert run_folder.commit(tmp_path) == f"{clean}+dirty"


def test_an_offline_run_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = WandbRun(experiment("gate"), "tiles", 0, tmp_path, "run0")
    run.log({"epoch": 0, "loss": 0.5})
    run.finish({"best": 0.9})
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    # The client's own process closes the file, on a busy machine a moment after finish() returned.
    deadline = time.monotonic() + 20
    while log.stat().st_size < 1000 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert log.stat().st_size > 1000


def test_without_key_and_network_it_falls_back_to_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    run = WandbRun(experiment("gate"), "tiles", 1, tmp_path, "run1")
    run.log({"epoch": 0, "loss": 0.5})
    run.finish({})
    assert "the run is kept locally" in capsys.readouterr().err


def test_a_broken_run_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = WandbRun(experiment("gate"), "tiles", 0, tmp_path, "run0")

    class Broken:
        def log(self, row: dict, **_: object) -> None:
            raise OSError("no space left")

    run._run = Broken()
    run.log({"epoch": 1})
    run.log({"epoch": 2})
    run.finish({"x": 1})
    assert run._run is None
