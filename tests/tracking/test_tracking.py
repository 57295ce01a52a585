"""Tracking: the local run is complete, and W&B can fail in any way without stopping a training."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from gatemask.tracking import run_folder
from gatemask.tracking.wandb_mirror import Mirror
from tests.input.test_pipeline import experiment


def test_an_epoch_that_is_run_again_replaces_its_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for epoch, loss in ((0, 3.0), (1, 2.0), (2, 1.0), (1, 1.5)):
        run_folder.append_metrics(path, {"epoch": epoch, "loss": loss})
    assert [(r["epoch"], r["loss"]) for r in run_folder.read_metrics(path)] == [(0, 3.0), (1, 1.5)]


@pytest.mark.integration
def test_the_commit_says_dirty(tmp_path: Path) -> None:
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
    mirror = Mirror(experiment("gate"), "tiles", 0, tmp_path, "run0")
    mirror.log({"epoch": 0, "loss": 0.5})
    mirror.finish({"best": 0.9})
    found = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(found) == 1
    # The client's own process closes the file, on a busy machine a moment after finish() came back.
    deadline = time.monotonic() + 20
    while found[0].stat().st_size < 1000 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found[0].stat().st_size > 1000


def test_no_key_and_no_network_fall_back_to_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    mirror = Mirror(experiment("gate"), "tiles", 1, tmp_path, "run1")
    mirror.log({"epoch": 0, "loss": 0.5})
    mirror.finish({})
    assert "the run is kept locally" in capsys.readouterr().err


def test_a_broken_run_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mirror = Mirror(experiment("gate"), "tiles", 0, tmp_path, "run0")

    class Broken:
        def log(self, row: dict, **_: object) -> None:
            raise OSError("no space left")

    mirror._run = Broken()
    mirror.log({"epoch": 1})
    mirror.log({"epoch": 2})
    mirror.finish({"x": 1})
    assert mirror._run is None
