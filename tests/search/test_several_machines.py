"""Several machines share one search in PostgreSQL. A machine is a copy of the project."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest

from gatemask.config import load_competition
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.results.search import SearchResult
from gatemask.search import search
from gatemask.search.space import Space
from gatemask.tuning.database import VARIABLE, Database, chosen_database
from gatemask.tuning.optuna_search import search_with_optuna
from tests.conftest import ROOT, environment
from tests.search.fakes import FakeTraining, write_search
from tests.search.postgresql import postgresql_server

pytestmark = pytest.mark.integration

WORKER = """
import sys
from pathlib import Path
from gatemask.config import load_competition
from gatemask.project import Project
from gatemask.search import search
from gatemask.search.space import Space
from gatemask.tuning.database import chosen_database
from tests.search.fakes import FakeTraining
root, log, pause_s = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
search.train = FakeTraining(log, pause_s)
project = Project(root, "phantom", quick=True)
comp, space = load_competition(project.experiments, quick=True), Space(project.experiments / "net.yaml", True, ())
search.run_search(project, comp, space, database=chosen_database())
"""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    with postgresql_server() as running:
        yield running


@pytest.fixture
def database(server: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty database, which is set; the password is in PGPASSWORD."""
    import psycopg

    url, password = server
    monkeypatch.setenv("PGPASSWORD", password)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop database if exists studies with (force)")
        connection.execute("create database studies")
    monkeypatch.setenv(VARIABLE, url.replace("/postgres", "/studies"))
    chosen = chosen_database()
    assert chosen is not None
    return chosen


@pytest.fixture
def machines(phantom_records: Path, tmp_path: Path) -> list[Project]:
    """Two copies of a project with records and without runs."""
    projects = []
    for name in ("one", "two"):
        shutil.copytree(phantom_records, tmp_path / name, ignore=shutil.ignore_patterns("raw", "runs", "dist"))
        projects.append(Project(tmp_path / name, "phantom", quick=True))
        write_search(projects[-1], trials=6, pruner="none")
    return projects


def start(project: Project, log: Path, pause_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(project.root), str(log), str(pause_s)]
    return subprocess.Popen(
        command, env=environment(project.root), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(project: Project, database: Database, *overrides: str, afresh: bool = False) -> SearchResult:
    comp = load_competition(project.experiments, quick=True)
    space = Space(project.experiments / "net.yaml", True, overrides)
    return search.run_search(project, comp, space, afresh=afresh, database=database)


def trained(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_two_machines_and_one_of_them_is_killed(
    database: Database, machines: list[Project], tmp_path: Path, server: tuple[str, str]
) -> None:
    """Nothing is lost: the trial of the killed machine is continued, each fold counts once."""
    logs = [tmp_path / "log1", tmp_path / "log2"]
    killed = start(machines[0], logs[0], pause_s=600)  # in the middle of its first fold
    deadline = time.monotonic() + 120
    while not trained(logs[0]):
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    other = start(machines[1], logs[1], pause_s=0.1)
    while len(trained(logs[1])) < 2:  # works on other trials meanwhile
        assert other.poll() is None, other.communicate()[0]
        time.sleep(0.02)
    first = trained(logs[0])[0]
    assert first not in trained(logs[1]), "a trial at work is left alone"
    killed.send_signal(signal.SIGKILL)
    printed = killed.communicate()[0] + other.communicate(timeout=300)[0]
    assert other.returncode == 0, printed
    study = optuna.load_study(study_name="phantom-quick/search/net", storage=database.storage())
    assert [trial.number for trial in study.trials] == list(range(6))
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}
    assert first in trained(logs[1]), "the trial of the killed machine is continued"
    assert len(trained(logs[1])) == len(set(trained(logs[1]))) == 12, "no fold is trained twice"
    assert (machines[1].runs / "search/net/result.json").exists()
    assert not (machines[1].runs / "search/net/study.log").exists()
    for path in (p for machine in machines for p in machine.root.rglob("*") if p.is_file()):
        assert server[1].encode() not in path.read_bytes(), path
    assert server[1] not in printed


def test_a_search_in_a_database_finds_what_one_in_a_journal_finds(
    database: Database, machines: list[Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "train", FakeTraining())
    shared = run(machines[0], database)
    comp = load_competition(machines[1].experiments, quick=True)
    alone = search.run_search(machines[1], comp, Space(machines[1].experiments / "net.yaml", True, ()))
    assert [trial.values for trial in shared.trials] == [trial.values for trial in alone.trials]
    assert [trial.score for trial in shared.trials] == [trial.score for trial in alone.trials]
    assert run(machines[0], database).current
    with pytest.raises(GatemaskError, match="begun with other settings") as raised:
        run(machines[0], database, "epochs=7")
    assert "study phantom-quick/search/net in postgresql://127.0.0.1" in str(raised.value)
    run(machines[0], database, "epochs=7", afresh=True)
    names = optuna.get_all_study_names(database.storage())
    assert sorted(names) == ["phantom-quick/search/net", "phantom-quick/search/net.replaced1"]
    assert (machines[0].runs / "search/net.replaced1").is_dir()


def test_locks_end_with_their_process(database: Database) -> None:
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            with database.locked("x", "Busy.", 0.0):
                os.write(writer, b"1")
                signal.pause()
        finally:
            os._exit(1)
    os.read(reader, 1)
    assert database.is_locked("x")
    with pytest.raises(GatemaskError, match=r"Busy\."), database.locked("x", "Busy.", 0.3):
        pass
    with database.locked("y", "Busy.", 0.0):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with database.locked("x", "Busy.", 10.0):
        pass


def test_trials_of_the_thresholds_are_copied(database: Database) -> None:
    from gatemask.oof.tables import Tables

    levels = np.repeat([[[4] * 256 + [0]]], 4, axis=0)
    tables = Tables(np.arange(4).astype(str), np.arange(4), np.ones(4), levels, levels, levels[:, :, 0])
    for trials in (2, 2, 3):
        search_with_optuna(
            tables, "mean_dice", trials=trials, copy_to=lambda study: database.copy_trials(study, "p/oof-tune/rule")
        )
    kept = optuna.load_study(study_name="p/oof-tune/rule", storage=database.storage())
    assert len(kept.trials) == 3


def test_faults_are_explained_without_the_password(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Database(database.url.replace("gatemask@", "gatemask:not-the-Passw0rd@"))
    with pytest.raises(GatemaskError, match="cannot be reached") as raised:
        wrong.storage()
    assert "not-the-Passw0rd" not in f"{raised.value} {wrong!r}"
    with pytest.raises(GatemaskError, match="PostgreSQL"):
        chosen_database("mysql://host/x")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(GatemaskError, match="needs the package psycopg"):
        database.storage()
