"""Real trainings that are tracked: by a server that comes and goes, and by clients that break."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from gatemask import tracking
from gatemask.config import Experiment, load_competition
from gatemask.project import Project
from gatemask.tracking.run_folder import read_metrics
from gatemask.tracking.sync import sync
from gatemask.tracking.wandb_run import supports_finish_timeout
from tests import conftest
from tests.conftest import TINY_GATEMASK, gatemask, kill_when
from tests.tracking.test_tensorboard import close, scalars
from tests.tracking.wandb_server import Run, Server
from tests.training.test_train import TINY, assert_identical, write

if not supports_finish_timeout():
    pytest.skip("this W&B client has no time limit for its last upload and is not used online", allow_module_level=True)

pytestmark = pytest.mark.trains


@pytest.fixture
def train(phantoms: Project, tiny_encoders: None, monkeypatch: pytest.MonkeyPatch):
    """Train fold 0 of a gate in this process, and return its folder."""
    from gatemask.training.train import train

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "300")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "300")
    comp = load_competition(phantoms.experiments, quick=True)

    def run(name: str, mode: str, **changes: Any) -> Path:
        settings = {**TINY, "name": name, "epochs": 3, "tracking": {"wandb": mode}, **changes}
        train(phantoms, comp, Experiment.model_validate(settings), [0])
        return phantoms.fold(name, 0)

    return run


def assert_complete(run: Run, folder: Path) -> None:
    """Assert that the rows on the server are those of metrics.jsonl, each once, and that the rest follows once."""
    history = [{key: value for key, value in row.items() if not key.startswith("_")} for row in run.history]
    *epochs, media = history
    assert epochs == read_metrics(folder / "metrics.jsonl")
    assert run.overwritten == 0
    assert {"overlays", "per_image", "sent_overlays", "sent_per_image"} < set(media)
    assert {len(uploads) for uploads in run.media.values()} == {1}


def test_an_online_training(train, phantoms: Project, server: Server) -> None:
    folder = train("online", "online", tracking={"wandb": "online", "tensorboard": True})
    (run,) = server.runs.values()
    assert_complete(run, folder)
    assert list(server.artifacts.named("weights")) == ["phantom-quick-online-fold0:v0"]
    rows = read_metrics(folder / "metrics.jsonl")
    for row in rows:
        assert row["images_per_s"] > 0 and 0 <= row["input_wait"] <= 1 and row["memory_mb"] > 50
    first, *later = (row["compile_seconds"] for row in rows)
    assert first > 0 and set(later) <= {0}
    assert scalars(folder) == close(rows)
    asked = len(server.requests)
    assert sync(phantoms).current and len(server.requests) == asked


@pytest.mark.slow
def test_a_server_that_dies_and_returns(train, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatemask.training.fold_run import FoldRun

    original = FoldRun._close_epoch

    def close_epoch(self, progress, *arguments):
        server.status = 500 if progress.epoch == 1 else 0
        return original(self, progress, *arguments)

    monkeypatch.setattr(FoldRun, "_close_epoch", close_epoch)
    folder = train("returns", "online")
    (run,) = server.runs.values()
    assert_complete(run, folder)


@pytest.mark.slow
def test_a_killed_online_training_resumes_on_w_and_b(
    phantoms: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed with the client's process while rows are on their way: the server keeps none of the second epoch."""
    original = conftest.environment
    monkeypatch.setattr(conftest, "environment", lambda root: {**original(root), "WANDB_MODE": "online"})
    path = write(phantoms.root, "killed", epochs=40, tracking={"wandb": "online", "tensorboard": True})
    folder = phantoms.fold("killed", 0)

    def epochs() -> list[Path]:
        return [state for state in folder.glob("state/at-*-00000.h5") if state.name > "at-0002"]

    server.lines_at_most = 1
    kill_when(
        lambda _: epochs() and any(run.lines for run in server.runs.values()),
        *(*TINY_GATEMASK, "train", path, "--quick", "--fold", 0),
        root=phantoms.root,
        group=True,
    )
    server.lines_at_most = None
    done = gatemask("train", path, "--quick", "--fold", 0, root=phantoms.root, tiny=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = server.runs.values()
    assert_complete(run, folder)
    assert scalars(folder) == close(read_metrics(folder / "metrics.jsonl"))


@pytest.mark.slow
def test_an_offline_training_is_synced_with_all_that_belongs_to_it(train, phantoms: Project, server: Server) -> None:
    folder = train("offline", "offline")
    assert server.runs == {}
    assert sync(phantoms).synced == 1
    (run,) = server.runs.values()
    assert_complete(run, folder)


def breaks(how: str) -> Any:
    def call(*_: Any, **__: Any) -> None:
        if how == "raises":
            raise SystemExit(3)
        threading.Event().wait()

    return call


CALLS = ["init", "define_metric", "log", "finish"]
FAST = [("init", "hangs"), ("log", "raises")]
OTHERS = [(call, how) for call in CALLS for how in ("raises", "hangs") if (call, how) not in FAST]


@pytest.mark.parametrize(("call", "how"), [*FAST, *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)])
def test_a_client_that_breaks_changes_no_weights(train, monkeypatch: pytest.MonkeyPatch, call: str, how: str) -> None:
    monkeypatch.setattr(tracking.wandb_run, "LOG_S", 0.2)
    monkeypatch.setattr(tracking.wandb_run, "_limit_s", lambda _: 0.2)
    client = SimpleNamespace(
        **dict.fromkeys(("define_metric", "log", "finish"), lambda *_, **__: None),
        summary=SimpleNamespace(update=print),
    )
    if call == "init":
        monkeypatch.setattr(wandb, "init", breaks(how))
    else:
        setattr(client, call, breaks(how))
        monkeypatch.setattr(wandb, "init", lambda **_: client)
    plain = train("plain", "disabled")
    assert_identical(plain, train("broken", "offline"))
