"""Two processes on one fold: one trains, the other waits or is refused, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatemask.config import load_competition, load_experiment
from gatemask.errors import GatemaskError
from gatemask.files import is_locked, sha256
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.tracking import run_folder
from gatemask.training import train as training
from tests.conftest import environment

pytestmark = pytest.mark.integration

# A training without a network: it says that it has begun, and ends when it is let go.
FAKE = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from gatemask import files
from gatemask.config import load_competition, load_experiment, load_ensemble
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.project import Project
from gatemask.stages import LOOP, Inputs
from gatemask.training import fold_run, trainer
from gatemask.training.state import Progress
from tests.fold_results import fold_result

root, folder, command, patience, *overrides = sys.argv[1:]
files.LOCK_S = float(patience)

class FakeRun:
    def __init__(self, inputs, fold, budget):
        self.exp, self.fold, self.folder = inputs.exp, fold, inputs.project.fold(inputs.exp.name, fold)
        self.tracked_online = False
    def train(self):
        write_text(self.folder / "state" / "at-0001-00000.h5", "state")
        write_text(Path(folder) / "begun", str(os.getpid()))
        while not (Path(folder) / "go").exists():
            time.sleep(0.02)
        return Progress(4, epoch=self.exp.epochs)
    def finish(self, progress):
        files = [write_text(self.folder / name, "x") for name in ("best.weights.h5", "oof.csv")]
        return fold_result(experiment=self.exp.name, fold=self.fold), files

fold_run.FoldRun, trainer.Trainer = FakeRun, lambda inputs: inputs
project = Project(Path(root), "phantom", quick=True)
exp = load_experiment(project.experiments / "gate_r18.yaml", quick=True, overrides=overrides)
inputs = Inputs(project, load_competition(project.experiments, quick=True), exp=exp, folds=[0])
try:
    (entry,) = [entry for entry in LOOP if entry.name == "train"]
    print(entry.run(inputs if command == "train" else replace(inputs, folds=None)).current)
except GatemaskError as error:
    print(error)
    sys.exit(1)
"""


@pytest.fixture
def project(phantom_records: Path) -> Project:
    return Project(phantom_records, "phantom", quick=True)


def start(project: Project, folder: Path, command: str, patience: float, *overrides: str) -> subprocess.Popen[str]:
    arguments = [str(project.root), str(folder), command, str(patience), *overrides]
    return subprocess.Popen(
        [sys.executable, "-c", FAKE, *arguments],
        env=environment(project.root),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_one_trains_and_the_others_wait_or_are_refused(project: Project, tmp_path: Path) -> None:
    first = start(project, tmp_path, "train", 0)
    while not (tmp_path / "begun").exists():
        assert first.poll() is None, first.stdout.read()  # type: ignore[union-attr]
        time.sleep(0.02)
    run = project.fold("gate_r18", 0)
    before = {path: sha256(path) for path in run.rglob("*") if path.is_file()}
    refused = [
        start(project, tmp_path, *options)
        for options in (("train", 0), ("train", 0, "seed=5"), ("loop", 0))  # the second would set the folder aside
    ]
    for process in refused:
        text = process.communicate()[0]
        assert process.returncode == 1, text
        assert "Another process is training or fetching gate_r18 fold 0." in text
    assert {path: sha256(path) for path in run.rglob("*") if path.is_file()} == before
    assert [path.name for path in run.parent.glob("fold*")] == ["fold0"]
    waits = start(project, tmp_path, "train", 1e6)
    (tmp_path / "go").touch()
    assert "False" in first.communicate()[0]
    assert "True" in waits.communicate()[0], "it does not find the finished fold"
    assert FoldResult.load(run / "result.json").experiment == "gate_r18"
    assert not (run / "state").exists()


def test_a_run_in_use_is_neither_moved_nor_replaced(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gatemask.files.LOCK_S", 0.0)
    comp = load_competition(project.experiments, quick=True)
    exp = load_experiment(project.experiments / "unet_b0.yaml", quick=True)
    folder = project.fold("unet_b0", 0)
    (folder / "state").mkdir(parents=True)
    with run_folder.locked_run(folder, "unet_b0 fold 0"):
        assert is_locked(run_folder.fold_lock(folder))
        with pytest.raises(GatemaskError, match="Another process is training or fetching unet_b0 fold 0"):
            training.train(project, comp, exp, [0])
    assert not is_locked(run_folder.fold_lock(folder))
    assert [path.name for path in folder.iterdir()] == ["state"]
