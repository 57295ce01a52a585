"""Overlays, tables and artifacts of finished folds arrive at a server on localhost, each exactly once."""

from __future__ import annotations

import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gatemask import tracking
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.tracking import client_process
from gatemask.tracking import sync as syncing
from gatemask.tracking.local_run import read_run
from gatemask.tracking.sync import sync, upload_fold
from gatemask.tracking.wandb_run import supports_finish_timeout
from tests.conftest import kill_when
from tests.tracking.finished import finish_fold, rows, validation, write_result
from tests.tracking.wandb_server import Run, Server

if not supports_finish_timeout():
    pytest.skip("runs are uploaded by the client of requirements.txt only", allow_module_level=True)


pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_clients")]


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def the_run(server: Server) -> Run:
    (run,) = server.runs.values()
    return run


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("_")}


def assert_complete(server: Server, project: Project, task: str = "mask", killed: bool = False) -> dict[str, Any]:
    """Assert that all of a fold arrived, each part once, and return the row of overlays and table.

    Args:
        server: The server.
        project: Project of the fold.
        task: Task of the fold.
        killed: Whether a client was killed: a file on its way is then sent again, under its name.
    """
    run = the_run(server)
    history = [plain(row) for row in run.history]
    media = [row for row in history if "sent_per_image" in row]
    assert [row for row in history if row not in media] == rows(task)
    assert run.overwritten == 0 and len(media) == 1
    overlays, table = media[0]["overlays"], media[0]["per_image"]
    assert len(overlays["filenames"]) == len(overlays["captions"]) == 6
    assert all(set(masks) >= {"ground_truth"} for masks in overlays["all_masks"])
    masks = {mask["path"] for masks in overlays["all_masks"] for mask in masks.values()}  # empty ones are the same file
    assert set(run.media) == {*overlays["filenames"], *masks, table["path"]}
    assert {len(set(uploads) if killed else uploads) for uploads in run.media.values()} == {1}
    data = json.loads(run.media[table["path"]][0])
    assert sorted(row[0] for row in data["data"]) == sorted(validation(project))
    assert_artifacts(server, task)
    return media[0]


def assert_artifacts(server: Server, task: str = "mask") -> None:
    (run,) = server.runs
    artifacts = {kind: server.artifacts.named(kind) for kind in ("dataset", "folds", "weights")}
    name = f"phantom-quick-{task}_net-fold0"
    assert {kind: list(found) for kind, found in artifacts.items()} == {
        "dataset": ["phantom-quick-records:v0"],
        "folds": ["phantom-quick-folds:v0"],
        "weights": [f"{name}:v0"],
    }
    weights = artifacts["weights"][f"{name}:v0"]
    assert set(weights.files) == {"best.weights.h5", "result.json"} and weights.by == run
    assert weights.files["best.weights.h5"] == f"weights of {task}_net".encode()
    for kind in ("dataset", "folds"):
        (found,) = artifacts[kind].values()
        assert found.used_by == {run} and found.commits == 1
    assert set(next(iter(artifacts["dataset"].values())).files) == {"index.json", "manifest.csv"}
    assert weights.commits == 1
    assert the_run(server).summary["sent_artifacts"]


@pytest.mark.parametrize("task", ["mask", slow("gate")])
def test_a_finished_fold_is_uploaded_once(phantoms: Project, server: Server, task: str) -> None:
    finish_fold(phantoms, task)
    result = sync(phantoms)
    assert (result.synced, result.failed, result.later) == (1, {}, {})
    row = assert_complete(server, phantoms, task)
    kinds = {caption.split(":")[0] for caption in row["overlays"]["captions"]}
    assert kinds == ({"wrong"} if task == "gate" else {"best", "typical", "worst"})
    assert row["epoch"] == 2
    asked = len(server.requests)
    assert sync(phantoms).current and len(server.requests) == asked
    (phantoms.runs / "wandb-synced.json").unlink()
    again = sync(phantoms)
    assert (again.synced, again.already) == (0, 1)
    assert not any("file_stream" in request or "PUT" in request for request in server.requests[asked:])
    assert_complete(server, phantoms, task)


@pytest.mark.slow
def test_epochs_first_and_the_rest_when_the_fold_is_finished(
    phantoms: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.local_run, "QUIET_S", 0.0)
    folder = finish_fold(phantoms, "mask")
    (folder / "result.json").rename(folder / "begun.json")
    assert sync(phantoms).synced == 1
    assert the_run(server).media == {}
    (folder / "begun.json").rename(folder / "result.json")
    assert sync(phantoms).synced == 1
    assert_complete(server, phantoms)


@pytest.mark.parametrize("moment", ["PUT /storage/run", *map(slow, ["PUT /storage/artifact", "CommitArtifact"])])
def test_a_killed_sync_resumes(phantoms: Project, server: Server, moment: str) -> None:
    finish_fold(phantoms, "mask")
    server.hang_s, server.hang_on = 900.0, moment
    kill_when(
        lambda _: any(moment in request for request in server.requests),
        *("-m", "gatemask", "sync", "phantom", "--quick"),
        root=phantoms.root,
        group=True,
    )
    server.hang_s = 0.0
    assert sync(phantoms).failed == {}
    assert_complete(server, phantoms, killed=True)


def test_files_that_were_lost_are_sent_again(
    phantoms: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of the overlays is on the server, and some of its files are not: as after a kill between the two."""
    finish_fold(phantoms, "mask")
    server.loses = "mask"
    with monkeypatch.context() as patch:
        patch.setattr(syncing, "SETTLE_S", 1.0)
        assert "W&B did not accept all of it" in next(iter(sync(phantoms).failed.values()))
    server.loses = ""
    assert sync(phantoms).failed == {}
    assert_complete(server, phantoms, killed=True)


@pytest.mark.slow
def test_other_predictions_are_sent_next_to_the_old_ones(phantoms: Project, server: Server) -> None:
    """As after a change of `tta`: the fold is predicted again and keeps its run."""
    folder = finish_fold(phantoms, "gate")
    sync(phantoms)
    lines = (folder / "oof.csv").read_text().splitlines()
    (folder / "oof.csv").write_text("\n".join([*lines[:-1], f"{lines[-1].split(',')[0]},0.125"]) + "\n")
    result = FoldResult.load(folder / "result.json")
    (folder / "result.json").unlink()
    write_result(phantoms, result)
    assert sync(phantoms).synced == 1
    history = the_run(server).history
    assert sum("sent_overlays" in row for row in history) == 2
    assert [plain(row) for row in history if "sent_overlays" not in row] == rows("gate")
    assert list(server.artifacts.named("weights")) == [f"phantom-quick-gate_net-fold0:v{n}" for n in (0, 1)]
    assert len(server.artifacts.named("dataset")) == 1


def test_neither_images_nor_artifacts_where_the_yaml_says_so(phantoms: Project) -> None:
    folder = finish_fold(phantoms, "mask", images=0, artifacts=False)
    assert set(read_run(phantoms, folder).hashes) == {"per_image"}


@pytest.mark.slow
def test_without_raw_images_the_overlays_wait(phantoms: Project, server: Server) -> None:
    """A kernel has only records; the machine at home has the images."""
    folder = finish_fold(phantoms, "mask")
    raw = phantoms.data / "raw"
    raw.rename(phantoms.data / "elsewhere")
    assert set(read_run(phantoms, folder).hashes) == {"per_image", "artifacts"}
    assert sync(phantoms).synced == 1
    (phantoms.data / "elsewhere").rename(raw)
    assert sync(phantoms).synced == 1
    history = [plain(row) for row in the_run(server).history]
    assert ["sent_per_image" in row for row in history] == [False, False, False, True, False]
    assert ["sent_overlays" in row for row in history] == [False, False, False, False, True]
    assert_artifacts(server)


def test_secrets_in_what_belongs_to_a_fold_stay_here(
    phantoms: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "vT9-plantedQ4x7mZ"
    folder = finish_fold(phantoms, "mask")
    (folder / "best.weights.h5").write_bytes(b"..." + secret.encode())
    monkeypatch.setenv("DB_PASS", secret)
    (reason,) = sync(phantoms).failed.values()
    assert "the value of DB_PASS" in reason and secret not in reason
    assert server.runs == {}


# --- at the end of a training --------------------------------------------------------------------------------


def broken_client(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, how: str) -> None:
    """Break a call of W&B's client in all processes that are started from now on, with all their imports."""
    monkeypatch.setattr(client_process, "subprocess", subprocess)
    body = "raise SystemExit(3)" if how == "raises" else "threading.Event().wait()"
    owner = "wandb" if call in ("init", "Image", "Table", "Artifact") else "wandb.sdk.wandb_run.Run"
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import threading, wandb, wandb.sdk.wandb_run
            def broken(*_, **__):
                {body}
            {owner}.{call} = broken
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


CALLS = ["init", "log", "Image", "Table", "log_artifact", "use_artifact", "finish"]
FAST = [("Table", "raises")]
OTHERS = [slow(call, how) for call in CALLS for how in ("raises", "hangs") if (call, how) not in FAST]


@pytest.mark.parametrize(("call", "how"), [*FAST, *OTHERS])
def test_a_client_that_breaks_at_the_end_changes_nothing(
    phantoms: Project, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, call: str, how: str
) -> None:
    folder = finish_fold(phantoms, "mask")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with monkeypatch.context() as patch:
        broken_client(tmp_path, patch, call, how)
        patch.setattr(syncing, "FOLD_UPLOAD_S", 6.0 if how == "hangs" else 60.0)
        patch.setattr(syncing, "SETTLE_S", 0.5)
        upload_fold(phantoms, folder, settled=False)
    assert "gatemask sync sends what is missing" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert sync(phantoms).failed == {}
    assert_complete(server, phantoms, killed=True)


@pytest.mark.parametrize("broken", ["500", "hangs", "no key"])
def test_without_a_server_the_end_of_a_training_is_quiet(
    phantoms: Project, server: Server, monkeypatch: pytest.MonkeyPatch, capsys, broken: str
) -> None:
    folder = finish_fold(phantoms, "mask")
    server.status, server.hang_s = (500 if broken == "500" else 0), (30.0 if broken == "hangs" else 0)
    monkeypatch.setattr(tracking.wandb_server, "ANSWER_S", 1.0)
    if broken == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    upload_fold(phantoms, folder, settled=True)
    assert "gatemask sync sends what is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_the_end_of_a_training_uploads_all(phantoms: Project, server: Server) -> None:
    upload_fold(phantoms, finish_fold(phantoms, "mask"), settled=False)
    assert_complete(server, phantoms)
    asked = len(server.requests)
    assert sync(phantoms).current and len(server.requests) == asked
