"""A search on Kaggle: folds of several trials at a time, within a quota, against the stand-in server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatemask.config.machines import machine
from gatemask.kaggle.client import account
from gatemask.kaggle.train import bundle, inputs
from gatemask.results.search import SearchResult
from gatemask.search import on_kaggle, search
from gatemask.search.on_kaggle import KaggleWork, hours_used
from gatemask.search.space import Space
from gatemask.search.trials import Trials
from tests.kaggle import fakes
from tests.kaggle.cloud import stand_in
from tests.kaggle.fakes import FakeMachine, FakeSession, World, options, project_from, seed
from tests.kaggle.warm import warm
from tests.search.fakes import fake_score, write_search

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def quick_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with warm(tmp_path_factory.mktemp("warm")) as start:
        yield start


@pytest.fixture
def world(
    phantom_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_command: Any
) -> Iterator[World]:
    project, machine = project_from(phantom_records, tmp_path / "project"), FakeMachine()
    with stand_in(tmp_path, monkeypatch) as cloud:
        machine.install(monkeypatch)
        monkeypatch.setattr("gatemask.kaggle.client.cli.start", quick_command)
        cloud.runner = machine
        seed(cloud, project)
        monkeypatch.setattr(inputs, "wheels_dataset", lambda: None)
        monkeypatch.setattr(bundle, "package_files", dict)
        # The fake of a training has one score for all; a search needs different ones.
        result = fakes.fold_result
        monkeypatch.setattr(fakes, "fold_result", lambda **f: result(**f, score=_score(project, **f)))
        monkeypatch.setattr(KaggleWork, "_estimate", lambda *_: 0.5)
        yield World(cloud, machine, project)


def _score(project: Any, experiment: str, fold: int) -> float:
    from gatemask.config import load_experiment

    return fake_score(load_experiment(project.experiment_file(experiment), quick=True), fold)


def run(world: World, quota_h: float = 100.0, at_once: int | None = 2, trials: int = 4) -> SearchResult:
    write_search(world.project, trials=trials)
    comp, _ = world.load("gate_r18")
    space = Space(world.project.experiments / "net.yaml", True)
    return search.run_search(world.project, comp, space, KaggleWork(options(), quota_h, at_once))


def test_trials_are_trained_on_kaggle(world: World) -> None:
    result = run(world)
    assert result.left == 0
    assert len(result.trials) == 4
    kernels = world.kernels()
    assert {kernel.experiment for kernel in kernels} == {trial.name for trial in result.trials}
    trained = sum(len(push.done) for kernel in kernels for push in kernel.pushes)
    assert trained == result.trained, "pruned folds were not pushed"
    assert all(push.overrides == [] for kernel in kernels for push in kernel.pushes)
    assert run(world).current


def test_the_quota_ends_the_search_and_a_larger_one_continues(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(world, quota_h=0.9)
    assert result.trained == 0
    assert result.stopped == "0.00 of 0.9 h are used, and the next 2 folds need about 1.00 h"
    monkeypatch.setattr(on_kaggle, "hours_used", lambda trials: (0.4 * (n := _folds(trials)), n))
    result = run(world, quota_h=1.7)
    assert result.trained == 4
    assert result.stopped is not None
    assert result.stopped.startswith("1.60 of 1.7 h are used")
    assert run(world, quota_h=100.0).left == 0


def _folds(trials: Trials) -> int:
    return trials.result().trained


def test_hours_are_those_of_the_trials_kernels(world: World) -> None:
    run(world, trials=2)
    for kernel in world.kernels():
        for push in kernel.pushes:
            push.seconds = 1800.0
        from gatemask.kaggle.train.kernel_records import save_kernel

        save_kernel(world.project, kernel)
    comp, _ = world.load("gate_r18")
    trials = Trials(world.project, comp, Space(world.project.experiments / "net.yaml", True))
    pushes = sum(len(kernel.pushes) for kernel in world.kernels())
    assert hours_used(trials) == (0.5 * pushes, trials.result().trained)


def test_a_fold_that_fails_on_kaggle_ends_its_trial(world: World) -> None:
    world.machine.sessions = [FakeSession(), FakeSession(fails={0: "Loss became NaN or infinite."})]
    result = run(world, at_once=1, trials=2)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert len(failed) <= 1
    assert all("Loss became NaN" in trial.reason for trial in failed)
    assert result.left == 0


def test_as_many_trials_at_a_time_as_the_machine_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    campaign = on_kaggle.run_campaign

    def counted(*arguments: Any) -> Any:
        rounds.append(len(arguments[2]))
        return campaign(*arguments)

    monkeypatch.setattr(on_kaggle, "run_campaign", counted)
    run(world, at_once=None, trials=6)
    assert rounds[0] == machine("none").at_once == 5


def test_new_yamls_of_trials_do_not_make_a_push_dirty(world: World, tmp_path: Path) -> None:
    import subprocess

    root = world.project.root
    for command in ("init -q", "add experiments folds", "-c user.name=a -c user.email=a@b.c commit -qm first"):
        subprocess.run(["git", "-C", str(root), *command.split()], check=True)
    trials = world.project.experiments / "trials"
    trials.mkdir()
    (trials / "net-q000.yaml").write_text("extends: ../gate_r18.yaml\n")
    assert account._changed_files(root) == []
    (world.project.experiments / "other.yaml").write_text("extends: gate_r18.yaml\n")
    assert account._changed_files(root) == ["experiments/phantom/other.yaml"]
