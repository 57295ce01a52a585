"""Results as runs of their own, sent by the real client to a server on localhost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gatemask.files import read_yaml, sha256, write_yaml
from gatemask.project import Project
from gatemask.results.tracking import SyncResult
from gatemask.tracking import send_results, wandb_server
from gatemask.tracking.replay_result import INCOMPLETE, MARK
from gatemask.tracking.result_run import ResultRun
from gatemask.tracking.result_runs import read_result, result_places
from gatemask.tracking.send_results import send_at_once, with_results
from gatemask.tracking.sync import sync
from gatemask.tracking.wandb_run import supports_finish_timeout
from tests.conftest import kill_when
from tests.tracking import results
from tests.tracking.finished import finish_fold
from tests.tracking.wandb_artifacts import Artifact
from tests.tracking.wandb_server import KEY, Run, Server

if not supports_finish_timeout():
    pytest.skip("results are sent by the client of requirements.txt only", allow_module_level=True)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_clients")]
NOTHING = SyncResult(current=True, synced=0, already=0, later={}, failed={}, runs={})


@pytest.fixture
def written(project: Project, server: Server) -> Project:
    """The project with all results; the server has the weights of the members."""
    results.write_results(project)
    put_weights(project, server)
    return project


def put_weights(project: Project, server: Server) -> None:
    for _, name in results.MEMBERS:
        for fold in results.FOLDS:
            digest = sha256(project.fold(name, fold) / "best.weights.h5")
            server.artifacts.put(f"phantom-{name}-fold{fold}", "weights", digest[:12])


def send(project: Project) -> SyncResult:
    """Send the results that the server lacks, as `gatemask sync` does after the trainings."""
    with (project.runs / ".lock").open("w") as lock:
        return with_results(project, lock.fileno(), NOTHING)


def read(project: Project) -> dict[str, ResultRun]:
    runs = [run for path in result_places(project) if (run := read_result(project, path)) is not None]
    return {run.job_type: run for run in runs}


def uploads(server: Server) -> int:
    return sum("file_stream" in request or "CreateArtifact" in request for request in server.requests)


def artifacts(server: Server) -> dict[str, Artifact]:
    kinds = ("dataset", "folds", "weights", "rule", "ensemble", "submission")
    return {name: one for kind in kinds for name, one in server.artifacts.named(kind).items()}


def used(server: Server, run_id: str) -> set[str]:
    """Return the artifacts that a run used, by name and version."""
    return {name for name, artifact in artifacts(server).items() if run_id in artifact.used_by}


def logged(server: Server, run_id: str) -> set[str]:
    """Return the artifacts that a run logged, by name and version, without those that it used."""
    made = {name for name, artifact in artifacts(server).items() if artifact.by == run_id}
    return made - used(server, run_id)


def check_complete(project: Project, server: Server) -> None:
    """Check that the server has every result exactly once."""
    for run in read(project).values():
        remote: Run = server.runs[run.id]
        assert remote.summary[MARK] == run.fingerprint
        assert {name: remote.summary[name] for name in run.summary} == run.summary
        assert remote.overwritten == 0
        (row,) = remote.history
        keys = {f"figures/{name}" for name in run.figures} | {f"tables/{name}" for name in run.tables}
        assert {key for key in row if "/" in key} == keys
        for name in run.figures:
            entry = row[f"figures/{name}"]
            assert (entry["_type"], entry["sha256"]) == ("image-file", run.hashes[name])
            assert set(remote.files[entry["path"]]) == {run.figures[name].read_bytes()}
        for logged in run.logs:
            artifact = server.artifacts.aliases[f"{logged.name}:{logged.sha256[:12]}"]
            assert (artifact.type, artifact.state, artifact.commits) == (logged.type, "COMMITTED", 1)
            assert list(artifact.files.values()) == [logged.file.read_bytes()]


def test_from_records_to_submission_everything_arrives_once(phantoms: Project, server: Server, monkeypatch) -> None:
    """Lineage is what the server recorded: artifacts that runs logged, and runs that used them."""
    monkeypatch.setattr(results, "MEMBERS", [("gate", "gate_net"), ("mask", "mask_net")])
    monkeypatch.setattr(results, "FOLDS", (0,))
    for task in ("gate", "mask"):
        finish_fold(phantoms, task, images=0)
    results.write_tuned(phantoms)
    results.write_ensemble(phantoms)
    results.write_submission(phantoms)
    first = sync(phantoms)
    assert (first.synced, first.already, first.later, first.failed) == (5, 0, {}, {})
    check_complete(phantoms, server)
    runs = read(phantoms)
    shown = [server.runs[run.id].fields for run in runs.values()]
    assert [(fields["displayName"], fields["jobType"], fields["groupName"]) for fields in shown] == [
        ("tuned", "tune", "phantom-quick"),
        ("ensemble", "ensemble", "phantom-quick"),
        ("submission-a1b2c3d4e5f6", "submission", "phantom-quick"),
    ]
    names = {key: value.fields["displayName"] for key, value in server.runs.items()}
    weights = {f"phantom-quick-{name}-fold0:v0" for name in ("gate_net", "mask_net")}
    for fold in ("gate_net-fold0", "mask_net-fold0"):
        (run_id,) = (key for key, name in names.items() if name == fold)
        assert used(server, run_id) == {"phantom-quick-records:v0", "phantom-quick-folds:v0"}
        assert logged(server, run_id) == {f"phantom-quick-{fold}:v0"}
    rule, ensemble, submission = (f"phantom-quick-{kind}:v0" for kind in ("rule", "ensemble", "submission"))
    assert [(used(server, run.id), logged(server, run.id)) for run in runs.values()] == [
        (weights, {rule}),
        ({rule, *weights}, {ensemble}),
        ({ensemble}, {submission}),
    ]
    asked = len(server.requests)
    again = sync(phantoms)
    assert (again.current, again.already, len(server.requests)) == (True, 5, asked)
    (phantoms.runs / "wandb-synced.json").unlink()
    sent = uploads(server)
    assert sync(phantoms).already == 5
    assert uploads(server) == sent, "the server is asked, and nothing is sent"
    assert KEY not in (phantoms.runs / "wandb-synced.json").read_text()


def is_marked(server: Server, run: ResultRun) -> bool:
    return run.id in server.runs and MARK in server.runs[run.id].summary


SEND = """
import sys
from pathlib import Path
from gatemask.project import Project
from gatemask.results.tracking import SyncResult
from gatemask.tracking.send_results import with_results
project = Project(Path(sys.argv[1]), "phantom")
nothing = SyncResult(current=True, synced=0, already=0, later={}, failed={}, runs={})
with (project.runs / ".lock").open("w") as lock:
    with_results(project, lock.fileno(), nothing)
"""


@pytest.mark.parametrize("moment", ["artifact", pytest.param("row", marks=pytest.mark.slow)])
def test_a_killed_upload_is_completed(written: Project, server: Server, moment: str) -> None:
    """It is killed with all its processes, when the rule or the row has arrived."""
    keep_only(written, "tuned")
    tuned = read(written)["tune"]
    reached: dict[str, Callable[[], object]] = {
        "artifact": lambda: any("CommitArtifact" in request for request in server.requests),
        "row": lambda: tuned.id in server.runs and server.runs[tuned.id].lines,
    }
    kill_when(lambda _: reached[moment](), "-c", SEND, written.root, root=written.root, group=True)
    assert not is_marked(server, tuned)
    assert send(written).failed == {}
    check_complete(written, server)


@pytest.mark.slow
def test_a_changed_result_is_another_run(written: Project, server: Server) -> None:
    keep_only(written, "tuned")
    send(written)
    before = read(written)["tune"]
    (written.tuned / "result.json").unlink()
    results.write_tuned(written, cross_fitted=0.85)
    assert send(written).synced == 1
    after = read(written)["tune"]
    scores = [server.runs[run.id].summary["cross_fitted"] for run in (before, after)]
    assert scores == [0.8, 0.85]
    assert len(server.artifacts.named("rule")) == 1, "the rule has not changed"
    check_complete(written, server)


def keep_only(project: Project, name: str) -> None:
    for other in {"tuned", "ensemble", "submissions"} - {name}:
        shutil.rmtree(project.runs / other)


def test_a_later_score_changes_the_same_run(written: Project, server: Server) -> None:
    record = results.write_submission(written, ensemble=None)
    keep_only(written, "submissions")
    send(written)
    (written.runs / "ensemble").mkdir()
    fields = {**record.model_dump(), "public": 0.79, "state": "scored"}
    path = written.runs / "submissions" / f"{record.id}.json"
    path.write_text(record.model_validate(fields).model_dump_json())
    assert send(written).synced == 1
    run = read(written)["submission"]
    assert server.runs[run.id].summary["public"] == 0.79
    check_complete(written, server)


def test_a_result_whose_inputs_are_missing_is_completed_later(project: Project, server: Server) -> None:
    results.write_results(project)
    keep_only(project, "tuned")
    first = send(project)
    assert "W&B does not have phantom-gate_r18-fold0, " in first.later["tuned"]
    run = read(project)["tune"]
    assert server.runs[run.id].summary[MARK] == run.fingerprint + INCOMPLETE
    put_weights(project, server)
    assert (send(project).later, len(used(server, run.id))) == ({}, 4)
    check_complete(project, server)


def test_a_changed_figure_and_a_secret_are_not_sent(written: Project, server: Server, monkeypatch) -> None:
    keep_only(written, "tuned")
    figure = written.tuned / "surface.png"
    original = figure.read_bytes()
    figure.write_bytes(original + b"x")
    assert "not the one that its stage wrote" in send(written).failed["tuned"]
    figure.write_bytes(original)
    monkeypatch.setenv("DB_PASS", "experiment-gate_r18")
    settings = written.tuned / "rule.yaml"
    assert settings.exists()
    (written.tuned / "result.json").unlink()
    results.write_tuned(written, shipped="experiment-gate_r18")
    assert "A secret would be uploaded" in send(written).failed["tuned"]
    assert server.runs == {}


def test_untracked_results_are_not_sent(written: Project, server: Server) -> None:
    for folder in written.runs.glob("*/fold*/wandb"):
        folder.rmdir()
    assert (send(written).current, server.requests) == (True, [])


def stamp(project: Project) -> list[Path]:
    return [project.tuned / "result.json"]


def test_an_online_stage_sends_its_result_at_once(written: Project, server: Server, monkeypatch, capsys) -> None:
    send_at_once(written, stamp(written))
    assert server.requests == [], "by default, nothing is sent before gatemask sync"
    monkeypatch.delenv("WANDB_MODE")
    send_at_once(written, stamp(written))
    assert server.requests == []
    config = written.fold("gate_r18", 0) / "config.yaml"
    settings = read_yaml(config)
    write_yaml(config, {**settings, "tracking": {"wandb": "online"}})
    monkeypatch.setenv("WANDB_MODE", "disabled")
    send_at_once(written, stamp(written))
    assert server.requests == []
    monkeypatch.delenv("WANDB_MODE")
    send_at_once(written, stamp(written))
    run = read(written)["tune"]
    assert set(server.runs) == {run.id}
    assert server.runs[run.id].summary[MARK] == run.fingerprint
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("broken", ["down", "500", "401", "hangs", "dies"])
def test_a_stage_ends_whatever_w_and_b_does(written: Project, server: Server, monkeypatch, capsys, broken: str) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(send_results, "AT_ONCE_S", 4.0)
    monkeypatch.setattr(send_results, "SETTLE_S", 0.5)
    monkeypatch.setattr(wandb_server, "ANSWER_S", 1.0)
    if broken == "down":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    server.status = {"500": 500, "401": 401}.get(broken, 0)
    if broken == "dies":  # it answers the account, and nothing from the first call of the client on
        server.hang_s, server.hang_on = 60.0, "UpsertBucket"
    if broken == "hangs":
        server.hang_s = 60.0
    send_at_once(written, stamp(written))
    assert "gatemask sync phantom sends the rest" in capsys.readouterr().err
    server.status, server.hang_s = 0, 0.0
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    keep_only(written, "tuned")
    if broken == "dies":
        assert send(written).failed == {}
        check_complete(written, server)


def test_a_bad_mode_does_not_end_the_stage(written: Project, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    send_at_once(written, stamp(written))
    assert "WANDB_MODE has a value that W&B does not know" in capsys.readouterr().err
