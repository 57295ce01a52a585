"""The local run is complete, and W&B can fail in any way without stopping a training."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.tracking import run_folder, wandb_run
from gatemask.tracking.wandb_run import WandbRun, finish_client
from tests.input.test_pipeline import experiment

pytestmark = pytest.mark.integration  # takes seconds


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
    finish_client()  # the client's own process closes the file
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
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


def test_a_run_with_a_secret_stays_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, modes = "vT9-plantedQ4x7mZ", []
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb_run, "supports_finish_timeout", lambda: True)
    monkeypatch.setattr(WandbRun, "_start", lambda *given: modes.append(given[-1]))
    exp = experiment("gate")
    exp = exp.model_copy(update={"tracking": exp.tracking.model_copy(update={"project": secret})})
    assert WandbRun(exp, "tiles", 0, tmp_path, "run0").is_online
    monkeypatch.setenv("DB_PASS", secret)
    assert not WandbRun(exp, "tiles", 0, tmp_path, "run1").is_online
    assert modes == ["online", "offline"]
    output = capsys.readouterr().err
    assert "A secret would be uploaded" in output and secret not in output


class FakeRun:
    """A run of W&B's client.

    Args:
        log: What its `log` does.
        finish: What its `finish` does.
    """

    def __init__(self, log: Callable[[], object] = lambda: None, finish: Callable[[], object] = lambda: None) -> None:
        self.rows: list[int] = []
        self.summary: dict[str, float] = {}
        self._log, self.finish = log, finish

    def log(self, row: dict[str, int], step: int, commit: bool) -> None:
        self.rows.append(step)
        self._log()


def raises(error: BaseException) -> Callable[[], object]:
    def call() -> None:
        raise error

    return call


def hangs() -> None:
    threading.Event().wait()


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeRun], WandbRun]:
    monkeypatch.setattr(wandb_run, "LOG_S", 600.0)

    def start(fake: FakeRun) -> WandbRun:
        with monkeypatch.context() as patch:
            patch.setattr(WandbRun, "_start", lambda *_: fake)
            return WandbRun(experiment("gate"), "tiles", 0, tmp_path, "run0")

    monkeypatch.setenv("WANDB_MODE", "offline")
    return start


@pytest.mark.parametrize("error", [OSError("no space left"), SystemExit(3), GeneratorExit()], ids=type)
@pytest.mark.parametrize("where", ["log", "finish"])
def test_a_client_that_raises_is_dropped(started, error: BaseException, where: str, capsys) -> None:
    fake = FakeRun(**{where: raises(error)})
    run = started(fake)
    run.log({"epoch": 1})
    run.finish({"x": 1})
    run.log({"epoch": 2})
    assert fake.rows == [1]
    assert not run.is_online
    assert f"W&B {where} failed: {type(error).__name__}" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["log", "finish"])
def test_a_client_that_never_returns_is_left_behind(started, where: str, monkeypatch, capsys) -> None:
    run = started(FakeRun(**{where: hangs}))
    monkeypatch.setattr(wandb_run, "LOG_S", 0.05 if where == "log" else 600.0)
    monkeypatch.setattr(wandb_run, "_limit_s", lambda _: 0.05)
    for epoch in range(3):
        run.log({"epoch": epoch})
    run.finish({})
    assert f"W&B {where} did not return" in capsys.readouterr().err


@pytest.mark.parametrize("start", [raises(SystemExit(1)), hangs], ids=["exit", "hangs"])
def test_a_client_that_does_not_start_is_left_out(tmp_path: Path, monkeypatch, start, capsys) -> None:
    monkeypatch.setattr(wandb_run, "_limit_s", lambda _: 0.05)
    monkeypatch.setattr(WandbRun, "_start", lambda *_: start())
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = WandbRun(experiment("gate"), "tiles", 0, tmp_path, "run0")
    run.log({"epoch": 0})
    run.finish({})
    assert "the run is kept locally" in capsys.readouterr().err


def test_rows_arrive_in_order_before_the_end(started) -> None:
    order: list[str] = []
    fake = FakeRun(log=lambda: order.append("log"), finish=lambda: order.append("finish"))
    run = started(fake)
    for epoch in range(20):
        assert run._calls.wait()
        run.log({"epoch": epoch})
    assert run._calls.wait()
    run.finish({"best": 0.5})
    assert (fake.rows, fake.summary) == (list(range(20)), {"best": 0.5})
    assert order == ["log"] * 20 + ["finish"]


def test_an_interrupt_still_stops_the_training(started) -> None:
    run = started(FakeRun(log=raises(KeyboardInterrupt())))
    run.log({"epoch": 0})
    with pytest.raises(KeyboardInterrupt):
        run.finish({})


@pytest.mark.parametrize("text", ["{", "[]", '{"loss": 1}', '{"epoch": "x"}', '{"epoch": 0, "loss": "a"}', "[" * 5000])
def test_a_line_that_is_no_row_is_named_or_left_out(tmp_path: Path, text: str, capsys) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0, "loss": 1.5}\n' + text)
    with pytest.raises(GatemaskError, match="not the row of an epoch") as caught:
        run_folder.read_metrics(path)
    assert "line 2" in str(caught.value)
    assert run_folder.read_readable_metrics(path) == [{"epoch": 0, "loss": 1.5}]
    assert "1 lines cannot be read" in capsys.readouterr().err
