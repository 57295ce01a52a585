"""Two processes on one target: one works, the other waits or is refused with a clear message; nothing is lost.

The tests hold the lock of a stage, as a process that works on it does, and run the command. Trainings have tests of
their own.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gatemask import files
from gatemask.cli import main
from gatemask.config import load_competition
from gatemask.stage import Stage, StageResult
from tests.conftest import ROOT
from tests.tuned_results import tuned_result


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that looks finished up to each stage."""
    shutil.copytree(ROOT / "experiments/phantom", tmp_path / "experiments/phantom")
    shutil.copytree(ROOT / "experiments/siim-acr/rules", tmp_path / "experiments/siim-acr/rules")
    monkeypatch.setenv("GATEMASK_ROOT", str(tmp_path))
    monkeypatch.setattr(files, "LOCK_S", 0.0)
    for name in (
        "raw/train/1.dcm",
        "data/phantom/raw/sample_submission.csv",
        "data/phantom/masks.csv",
        "runs/phantom/ensemble.yaml",
        "runs/phantom/tuned/rule.yaml",
    ):
        files.write_text(tmp_path / name, "")
    rows = [f"1.2.{number},{number % 5},g{number},0" for number in range(10)]
    files.write_text(tmp_path / "folds/phantom.csv", "\n".join(["image_id,fold,group,stratum", *rows]) + "\n")
    lines = [f"1.2.{number},a.dcm,train,g{number},0,0,256,256" for number in range(10)]
    header = "image_id,path,split,group,label,mask_area,height,width"
    files.write_text(tmp_path / "data/phantom/manifest.csv", "\n".join([header, *lines]) + "\n")
    comp = load_competition(tmp_path / "experiments/phantom")
    made_from = {"image": comp.image.model_dump(mode="json")}
    files.write_json(
        tmp_path / "data/phantom/manifest.json", {"made_from": made_from, **MANIFEST, "raw": str(tmp_path / "raw")}
    )
    return tmp_path


MANIFEST = {"images": 10, "positives": 0, "test_images": 0, "groups": 10, "duplicates": 0, "problems": 0, "raw": "raw"}
FAKES = {  # what a stage asks of the stages before it
    "oof-tune": {"gatemask.tuning.tune.prediction_hashes": lambda *inputs: []},
    "ensemble": {
        "gatemask.ensemble.select.require_tuned": lambda *inputs: tuned_result(),
        "gatemask.ensemble.select._read_runs": lambda project, ensemble: {},
        "gatemask.ensemble.select.as_trained_notes": lambda *inputs: [],
    },
    "package": {
        "gatemask.kaggle.submit.package.require_ensemble": lambda project, *_: project.runs / "ensemble.yaml",
        "gatemask.kaggle.submit.package.present_settings": lambda *inputs: {},
    },
    "rehearse": {
        "gatemask.kaggle.submit.rehearse.require_package": lambda project, comp: "abc",
        "gatemask.kaggle.submit.rehearse.require_present_settings": lambda *inputs: [],
    },
}
LOCKS = {
    "data phantom": "data/phantom/raw/.phantom.json.lock",
    "data prepare": "data/phantom/.manifest.json.lock",
    "folds make": "data/phantom/.folds.json.lock",
    "folds import": "data/phantom/.folds.json.lock",
    "records make": "data/phantom/records-256/.index.json.lock",
    "oof-tune": "runs/phantom/tuned/.result.json.lock",
    "ensemble": "runs/phantom/ensemble/.result.json.lock",
    "package": "dist/phantom/.package.json.lock",
    "rehearse": "runs/phantom/rehearsal/.result.json.lock",
    "report": "runs/phantom/report/.result.json.lock",
    "loop": "runs/phantom/.loop.lock",
}


def snapshot(root: Path) -> dict[str, bytes]:
    """Return the contents of each file, without locks and what `gatemask runs` keeps to be fast."""
    found = (path for path in root.rglob("*") if path.suffix != ".lock" and ".runs" not in path.parts)
    paths = [path for path in found if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("command", LOCKS)
def test_a_second_process_is_refused_while_the_first_one_works(
    command: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, fake in FAKES.get(command, {}).items():
        monkeypatch.setattr(name, fake)
    if command == "data phantom":
        (root / "data/phantom/raw/sample_submission.csv").unlink()
    size = load_competition(root / "experiments/phantom").records.size
    lock = root / LOCKS[command].replace("records-256", f"records-{size}")
    before = snapshot(root)
    options = [str(root / "folds/phantom.csv"), "--force"] if command == "folds import" else []
    with files.locked(lock, "unused"), pytest.raises(SystemExit) as done:
        main([*command.split(), "phantom", *options])
    shown = capsys.readouterr()
    assert (done.value.code, shown.out) == (1, "")
    names = {"loop": "gatemask loop for phantom", "folds import": "folds make"}
    assert f"error: Another process is running {names.get(command, command)}.\n" in shown.err, shown.err
    assert f"received: process {os.getpid()} on " in shown.err
    assert "Wait until it ends, or stop it." in shown.err
    assert snapshot(root) == before, "nothing is lost, nothing is begun"


class Counted(StageResult):
    worker: str


def test_the_second_waits_and_finds_the_work_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_S", 600.0)
    begun, release = threading.Event(), threading.Event()
    results: dict[str, Counted] = {}

    def worker(name: str, work: Callable[[], tuple[Counted, list[Path]]]) -> threading.Thread:
        stage = Stage("counting", tmp_path / "result.json", {"a": 1}, Counted)
        thread = threading.Thread(target=lambda: results.__setitem__(name, stage.run(work)))
        thread.start()
        return thread

    def slow() -> tuple[Counted, list[Path]]:
        begun.set()
        assert release.wait(600)
        return Counted(worker="first"), [files.write_text(tmp_path / "out.txt", "first")]

    first = worker("first", slow)
    assert begun.wait(600)
    second = worker("second", lambda: pytest.fail("the work is done twice"))
    release.set()
    first.join(600)
    second.join(600)
    assert [results[name].current for name in ("first", "second")] == [False, True]
    assert results["second"].worker == "first"


def test_a_stage_that_begins_again_in_another_process_is_not_current(tmp_path: Path) -> None:
    """The other process removes stamp and outputs between two looks of this one."""
    stage = Stage("counting", tmp_path / "result.json", {"a": 1}, Counted)
    stage.run(lambda: (Counted(worker="x"), [files.write_text(tmp_path / "out.txt", "x")]))
    real, original = files.sha256, stage.current()
    assert original is not None

    def vanishing(path: Path) -> str:
        path.unlink()
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gatemask.stage.sha256", vanishing)
        assert stage.current() is None


def test_two_processes_write_one_file_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any lock, each writes to a temporary file of its own, so both files are complete."""

    def write_while_another_writes(temporary: Path) -> None:
        temporary.write_text("a" * 10)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 4_000_000)
            files.write_text(tmp_path / "summary.json", "b" * 20)
        assert (tmp_path / "summary.json").read_text() == "b" * 20

    files.write_with(tmp_path / "summary.json", write_while_another_writes)
    assert (tmp_path / "summary.json").read_text() == "a" * 10
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    killed, running = 4_000_001, 1
    others = [tmp_path / f".tmp-{running}-{files.MACHINE}-a.json", tmp_path / f".tmp-{killed}-othermachine-a.json"]
    stray = tmp_path / f".tmp-{killed}-{files.MACHINE}-a.json"
    for path in (*others, stray):
        path.write_text("half")
    files.write_text(tmp_path / "a.json", "{}")
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "a.json"])
