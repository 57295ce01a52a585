"""A search resumes after SIGKILL, is shared by processes, and ends with ordinary experiments."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from gatemask.config import load_competition, load_experiment
from gatemask.console import recorded
from gatemask.errors import DivergedError, GatemaskError
from gatemask.project import Project
from gatemask.results.search import SearchResult
from gatemask.search import search
from gatemask.search.space import Space
from gatemask.search.study import study_file
from gatemask.search.trials import Trials
from tests.conftest import ROOT, TINY_GATEMASK, environment, gatemask, kill_when, slow
from tests.search.fakes import FakeTraining, fake_score, write_search

pytestmark = pytest.mark.integration


@pytest.fixture
def project(phantom_records: Path, tmp_path: Path) -> Project:
    """A project with records and without runs."""
    root = tmp_path / "project"
    shutil.copytree(phantom_records, root, ignore=shutil.ignore_patterns("raw", "runs", "dist"))
    return Project(root, "phantom", quick=True)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(search, "train", fake)
    return fake


def run(project: Project, *overrides: str, afresh: bool = False) -> SearchResult:
    comp = load_competition(project.experiments, quick=True)
    space = Space(project.experiments / "net.yaml", True, overrides)
    return search.run_search(project, comp, space, afresh=afresh)


def trials_of(project: Project) -> Trials:
    comp = load_competition(project.experiments, quick=True)
    return Trials(project, comp, Space(project.experiments / "net.yaml", True))


def test_a_search_from_the_first_trial_to_the_figures(project: Project, training: FakeTraining) -> None:
    write_search(project, trials=8)
    result = run(project)
    assert [trial.number for trial in result.trials] == list(range(8))
    assert result.left == 0
    first = result.trials[0]
    assert first.values == {"schedule.peak": 0.002, "label_smoothing": 0.05}, "the experiment itself comes first"
    finished = [trial for trial in result.trials if trial.state == "finished"]
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert finished
    assert pruned
    assert all(len(trial.folds) == 1 and trial.score is None and "chance" in trial.reason for trial in pruned)
    best = max(finished, key=lambda trial: trial.score or 0)
    assert (result.best, result.best_score) == (best.name, best.score)
    assert result.trained == len(training.trained) == 2 * len(finished) + len(pruned)
    assert result.saved == len(pruned)
    for trial in result.trials:
        exp = load_experiment(project.experiment_file(trial.name), quick=True)
        assert trial.folds == {fold: fake_score(exp, fold) for fold in trial.folds}
        assert trial.score is None or trial.score == pytest.approx(np.mean(list(trial.folds.values())))
    folder = study_file(project, "net").parent
    assert {path.name for path in folder.glob("*.png")} == {"history.png", "slice.png", "importance.png"}
    with recorded() as lines:
        search.print_search(result)
    assert f"{result.trained} folds trained, {result.saved} saved" in lines[0]
    assert lines[1].startswith(f"best: {result.best} {result.best_score:.4f}; the experiment itself ")
    assert result.best_yaml == f"experiments/phantom/trials/{result.best}.yaml"
    again = run(project)
    assert again.current
    assert again.trials == result.trials
    more = run(project, "search.trials=9")
    assert more.trials[:8] == result.trials
    assert len(training.trained) in (result.trained + 1, result.trained + 2), "one more trial"


class Killed(BaseException):
    """Stands in for SIGKILL: nothing may catch it."""


@pytest.mark.parametrize("at", [("net-q000", 1), slow(("net-q002", 0)), ("net-q003", 1)])
def test_a_killed_search_ends_like_one_that_was_not(
    project: Project, training: FakeTraining, at: tuple[str, int]
) -> None:
    write_search(project, trials=5, pruner="none")
    whole = run(project)
    trained = list(training.trained)
    shutil.rmtree(project.root / "runs")
    shutil.rmtree(project.experiments / "trials")
    training.trained.clear()

    def kill(exp: Any, fold: int) -> None:
        if (exp.name, fold) == at:
            training.before = None
            raise Killed

    training.before = kill
    with pytest.raises(Killed):
        run(project)
    yaml = project.experiment_file(at[0]).read_text()
    running = trials_of(project).result().trials[-1]
    assert (running.name, running.state) == (at[0], "running")
    again = run(project)
    assert again.trials == whole.trials
    assert project.experiment_file(at[0]).read_text() == yaml
    assert training.trained == trained, "no fold is trained twice, and none is left out"


def test_a_lost_journal_is_made_again_from_the_folds(project: Project, training: FakeTraining) -> None:
    write_search(project, trials=5)
    whole = run(project)
    shutil.rmtree(study_file(project, "net").parent)
    training.trained.clear()
    assert run(project).trials == whole.trials
    assert training.trained == []


def test_a_torn_line_is_cut_and_a_damaged_journal_reported(project: Project, training: FakeTraining) -> None:
    write_search(project, trials=4)
    whole = run(project)
    journal = study_file(project, "net")
    records = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"op_code":6,"worker_id":"a')
    more = run(project, "search.trials=5")
    assert more.trials[:4] == whole.trials
    assert journal.read_bytes().startswith(records)
    assert all(json.loads(line) for line in journal.read_bytes().splitlines())
    journal.write_bytes(records.replace(b'{"op_code":4', b'{"op_co', 1))
    with pytest.raises(GatemaskError, match="cannot be read"):
        run(project, "search.trials=6")


def test_another_space_or_another_split_is_another_search(project: Project, training: FakeTraining) -> None:
    path = write_search(project, trials=3)
    run(project)
    path.write_text(path.read_text().replace("high: 0.3", "high: 0.2"))
    with pytest.raises(GatemaskError, match="other settings or data") as caught:
        run(project)
    assert caught.value.details["received"] == "different search"
    with pytest.raises(GatemaskError, match="different search, settings"):
        run(project, "epochs=3")
    result = run(project, afresh=True)
    assert len(result.trials) == 3
    aside = study_file(project, "net").parent.with_name("net.replaced1")
    assert sorted(path.name for path in (aside / "trials").iterdir()) == [f"net-q00{n}.yaml" for n in range(3)]
    assert run(project, afresh=True).current, "--afresh alone changes nothing"


def test_a_loss_that_diverges_ends_its_trial_only(project: Project, training: FakeTraining) -> None:
    write_search(project, trials=4)

    def diverge(exp: Any, fold: int) -> None:
        if exp.name == "net-q001":
            raise DivergedError("Loss became NaN or infinite.")
        if exp.name == "net-q002":
            raise MemoryError

    training.before = diverge
    states = {trial.name: (trial.state, trial.reason) for trial in run(project).trials}
    assert states["net-q001"] == ("failed", "failed: Loss became NaN or infinite.")
    assert states["net-q002"] == ("failed", "failed: Out of memory.")
    assert {"net-q000", "net-q003"} <= {name for name, (state, _) in states.items() if state != "failed"}


def test_other_errors_stop_the_search_and_the_trial_is_repeated(project: Project, training: FakeTraining) -> None:
    write_search(project, trials=3)

    def full_disk(exp: Any, fold: int) -> None:
        raise GatemaskError("The disk is full.")

    training.before = full_disk
    with pytest.raises(GatemaskError, match="The disk is full"):
        run(project)
    training.before = None
    assert run(project).trials[0].state == "finished"


def test_a_search_in_which_everything_fails_stops(project: Project, training: FakeTraining) -> None:
    write_search(project, trials=9)

    def diverge(exp: Any, fold: int) -> None:
        raise DivergedError("Loss became NaN or infinite.")

    training.before = diverge
    with pytest.raises(GatemaskError, match="All 3 trials so far have failed"):
        run(project)


def test_the_journal_opens_in_optuna(project: Project, training: FakeTraining) -> None:
    """As optuna-dashboard does: with Optuna's own backend and lock."""
    write_search(project, trials=3)
    result = run(project)
    backend = optuna.storages.journal.JournalFileBackend(str(study_file(project, "net")))
    study = optuna.load_study(study_name="net", storage=optuna.storages.JournalStorage(backend))
    assert [trial.params["label_smoothing"] for trial in study.trials] == pytest.approx(
        [trial.values["label_smoothing"] for trial in result.trials], rel=1e-3
    )
    assert study.best_value == result.best_score


TWO = """
import sys
from pathlib import Path
from gatemask.config import load_competition
from gatemask.project import Project
from gatemask.search import search
from gatemask.search.space import Space
from tests.search.fakes import FakeTraining
root, log = sys.argv[1:]
search.train = FakeTraining(Path(log), pause_s=0.05)
project = Project(Path(root), "phantom", quick=True)
comp = load_competition(project.experiments, quick=True)
result = search.run_search(project, comp, Space(project.experiments / "net.yaml", True))
print(result.left, result.stopped)
"""


def test_two_processes_share_a_search(project: Project, tmp_path: Path) -> None:
    write_search(project, trials=8)
    log = tmp_path / "trained"
    command = [sys.executable, "-c", TWO, str(project.root), str(log)]
    both = [
        subprocess.Popen(command, env=environment(project.root), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    result = trials_of(project).result()
    assert [trial.number for trial in result.trials] == list(range(8))
    assert result.left == 0
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == result.trained, "no fold is trained twice"
    assert (study_file(project, "net").parent / "result.json").exists()


@pytest.mark.trains
def test_a_small_search_that_is_killed_in_the_middle_of_a_fold(project: Project) -> None:
    """Three trials on two folds of the phantoms, with a tiny encoder: the command, the real training, SIGKILL."""
    path = write_search(project, trials=3, pruner="none")
    command = ["search", "phantom/net", "--quick", "--set", "epochs=2", "--set", "checkpoints.steps=1", "--json"]
    state = project.fold("net-q001", 0) / "state"
    kill_when(lambda _: list(state.glob("at-*.h5")), *TINY_GATEMASK, *command, root=project.root)
    finished = {fold: project.fold("net-q000", fold) / "result.json" for fold in (0, 1)}
    before = {fold: stamp.stat().st_mtime_ns for fold, stamp in finished.items()}
    params = load_experiment(project.experiment_file("net-q001"), quick=True)
    done = gatemask(*command, root=project.root, tiny=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "net-q001 fold 0: resumes at epoch" in done.stderr
    result = SearchResult.model_validate(json.loads(done.stdout))
    assert [trial.state for trial in result.trials] == ["finished"] * 3
    assert {fold: stamp.stat().st_mtime_ns for fold, stamp in finished.items()} == before, "finished folds stay"
    assert load_experiment(project.experiment_file("net-q001"), quick=True) == params
    trained = gatemask("train", f"phantom/{result.best}", "--quick", "--json", root=project.root, tiny=True)
    assert json.loads(trained.stdout)["current"], "the YAML of a trial is an ordinary experiment"
    assert path.read_text().startswith("# make train")


@pytest.mark.slow
@pytest.mark.trains
def test_twelve_trials_on_three_folds(project: Project) -> None:
    """SIGKILL in the sixth trial loses no finished one; the pruner saves folds; every trial has its YAML and runs."""
    write_search(project, trials=12)
    header, *rows = project.folds.read_text().splitlines()
    column, group = header.split(",").index("fold"), header.split(",").index("group")
    cells = [row.split(",") for row in rows]
    groups = sorted({row[group] for row in cells})
    for row in cells:
        row[column] = str(groups.index(row[group]) % 3)
    project.folds.write_text("\n".join([header, *(",".join(row) for row in cells)]) + "\n")
    command = ["search", "phantom/net", "--quick", "--set", "sampling.epoch=32", "--json"]
    state = project.fold("net-q005", 0) / "state"
    kill_when(lambda _: list(state.glob("at-*.h5")), *TINY_GATEMASK, *command, root=project.root)
    backend = optuna.storages.journal.JournalFileBackend(str(study_file(project, "net")))
    killed = optuna.load_study(study_name="net", storage=optuna.storages.JournalStorage(backend)).trials
    finished = {trial.number: trial.intermediate_values for trial in killed if trial.state.is_finished()}
    assert sorted(finished) == [0, 1, 2, 3, 4]
    done = gatemask(*command, root=project.root, tiny=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = SearchResult.model_validate(json.loads(done.stdout))
    assert len(result.trials) == 12
    assert result.trained + result.saved == 36
    assert result.saved > 0
    for trial in result.trials:
        scores = dict(enumerate(trial.folds[fold] for fold in result.fold_order if fold in trial.folds))
        assert finished.get(trial.number, scores) == scores
        assert all((project.fold(trial.name, fold) / "best.weights.h5").exists() for fold in trial.folds)
    assert (study_file(project, "net").parent / "history.png").exists()
