"""Optuna's search: repeatable, resumes after a kill, and leaves no gate at an edge."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from gatemask.config import Variant
from gatemask.errors import GatemaskError, StorageError
from gatemask.masks.metrics import METRICS
from gatemask.masks.rule import Rule
from gatemask.oof.tables import score
from gatemask.project import Project
from gatemask.tuning import exact
from gatemask.tuning.dashboard import serve_dashboard
from gatemask.tuning.journal import storage_of
from gatemask.tuning.optuna_search import largest_area, search_with_optuna, settle_gate
from tests.conftest import ROOT
from tests.full_disk import limited_files
from tests.tuning.problems import noisy, tied

pytestmark = pytest.mark.integration  # takes seconds


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_the_search_beats_hand_set_rules_and_repeats_itself(sampler: str, tmp_path: Path) -> None:
    tables = noisy(0, 300)
    search = search_with_optuna(tables, "mean_dice", sampler=sampler, trials=60, seed=1, journal=tmp_path / "study.log")
    assert len(search.values) == 60
    assert search.best == max(search.values)
    assert score(tables, search.rule) >= search.best > score(tables, Rule(0.6, 0.75, 0.4, 200))
    assert search_with_optuna(tables, "mean_dice", sampler=sampler, trials=60, seed=1).rule == search.rule


def test_a_study_resumes(tmp_path: Path) -> None:
    tables, journal = noisy(0, 300), tmp_path / "study.log"
    first = search_with_optuna(tables, "mean_dice", trials=12, journal=journal)
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "worker')  # as a kill leaves it
    second = search_with_optuna(tables, "mean_dice", trials=20, journal=journal)
    assert second.values[:12] == first.values
    assert len(second.values) == 20
    assert search_with_optuna(tables, "mean_dice", trials=20, journal=journal).values == second.values
    assert len(search_with_optuna(tables, "mean_dice", trials=5, journal=journal, name="another").values) == 5


WRONG_RECORDS = {
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "a text": '"x"',
    "not JSON": "{broken",
    "empty": "{}",
    "an unknown operation": '{"op_code": 99, "worker_id": "a"}',
    "an operation that is no number": '{"op_code": "x", "worker_id": "a"}',
    "an operation without its fields": '{"op_code": 4, "worker_id": "a"}',
    "a trial of no study": '{"op_code": 4, "worker_id": "a", "study_id": 77, "datetime_start": "x"}',
    "a parameter of no trial": '{"op_code": 5, "worker_id": "a", "trial_id": 900, "param_name": "gate", '
    '"param_value_internal": 0.5, "distribution": "?"}',
    "not UTF-8": "\udcff",
    "deep": "[" * 100_000,
}


def spoil_first_trial(text: str, kind: str) -> str:
    """Change a field of the first trial in a journal."""
    lines = text.splitlines()
    index = next(number for number, line in enumerate(lines) if '"params"' in line)
    record = json.loads(lines[index])
    if kind == "score":
        record["value"] = 5.0
    elif kind == "no score":
        record["value"] = None
    elif kind == "bounds":
        record["params"]["gate"] = 7.0
    elif kind == "parameter":
        del record["params"]["gate"], record["distributions"]["gate"]
    elif kind == "distribution":
        record["distributions"]["gate"] = "{}"
    lines[index] = json.dumps(record)
    return "\n".join(lines) + "\n"


IGNORED = {"a trial of no study", "a parameter of no trial"}  # Optuna passes over what another worker got wrong


@pytest.mark.parametrize("record", WRONG_RECORDS)
def test_a_journal_with_a_wrong_record_is_set_aside(
    record: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tables, journal = noisy(0, 30), tmp_path / "study.log"
    expected = search_with_optuna(tables, "mean_dice", trials=3, journal=journal).values
    lines = journal.read_bytes().splitlines(keepends=True)
    wrong = WRONG_RECORDS[record].encode("utf-8", "surrogateescape") + b"\n"
    places = (0, len(lines) // 2, len(lines))
    lines.insert(places[list(WRONG_RECORDS).index(record) % 3], wrong)
    journal.write_bytes(b"".join(lines))
    assert search_with_optuna(tables, "mean_dice", trials=3, journal=journal).values == expected
    if record not in IGNORED:
        assert (tmp_path / "study.log.replaced1").read_bytes() == b"".join(lines)
        assert "is damaged" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["score", "no score", "bounds", "parameter", "distribution"])
def test_a_journal_with_an_edited_trial_is_set_aside(kind: str, tmp_path: Path) -> None:
    tables, journal = noisy(0, 30), tmp_path / "study.log"
    expected = search_with_optuna(tables, "mean_dice", trials=3, journal=journal).values
    journal.write_text(spoil_first_trial(journal.read_text(), kind))
    assert search_with_optuna(tables, "mean_dice", trials=3, journal=journal).values == expected
    assert (tmp_path / "study.log.replaced1").exists()


def test_a_full_disk_stops_the_study_and_it_resumes(tmp_path: Path) -> None:
    tables, journal = noisy(0, 30), tmp_path / "study.log"
    first = search_with_optuna(tables, "mean_dice", trials=3, journal=journal)
    size = journal.stat().st_size
    with limited_files(size + 500), pytest.raises(StorageError, match=r"larger than the system allows[\s\S]*study.log"):
        search_with_optuna(tables, "mean_dice", trials=6, journal=journal)
    again = search_with_optuna(tables, "mean_dice", trials=6, journal=journal)
    assert again.values[:3] == first.values
    assert len(again.values) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["study.log"]


def test_the_dashboard_rejects_a_damaged_study(tmp_path: Path) -> None:
    (tmp_path / "study.log").write_text("[]\n")
    with pytest.raises(GatemaskError, match=r"study cannot be read[\s\S]*study.log[\s\S]*oof-tune"):
        storage_of(tmp_path / "study.log")


def test_the_dashboard_shows_the_study_of_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    show = lambda storage, *_: shown.extend(study.study_name for study in storage.get_all_studies())  # noqa: E731
    monkeypatch.setattr("optuna_dashboard.run_server", show)
    project = Project(tmp_path, "c")
    with pytest.raises(GatemaskError, match=r"no study[\s\S]*search/unet[\s\S]*gatemask search c/unet"):
        serve_dashboard(project, 0, False, "unet")
    journal = project.runs / "search" / "unet" / "study.log"
    journal.parent.mkdir(parents=True)
    optuna.create_study(study_name="unet", storage=JournalStorage(JournalFileBackend(str(journal))))
    serve_dashboard(project, 0, False, "unet")
    assert shown == ["unet"]


@pytest.mark.integration
def test_a_killed_study_resumes(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    code = (
        "from pathlib import Path; from tests.tuning.problems import noisy\n"
        "from gatemask.tuning.optuna_search import search_with_optuna\n"
        f"search_with_optuna(noisy(0, 300), 'mean_dice', trials=5000, journal=Path({str(journal)!r}))"
    )
    started = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 600
    while not journal.exists() or journal.stat().st_size < 30_000:
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    before = len(optuna.load_study(study_name="rule", storage=JournalStorage(JournalFileBackend(str(journal)))).trials)
    search = search_with_optuna(noisy(0, 300), "mean_dice", trials=before + 5, journal=journal)
    assert len(search.values) == before + 5
    assert before >= 20


def test_the_search_can_start_from_the_exact_optimum(tmp_path: Path) -> None:
    tables = noisy(3, 300)
    rule, best = exact.search(tables, "mean_dice")
    search = search_with_optuna(tables, "mean_dice", trials=5, start=[rule])
    assert search.values[0] == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_the_gate_is_optimal_and_in_the_middle_of_its_plateau(metric: str) -> None:
    for seed in range(8):
        tables = tied(seed, images=30, classes=1 + seed % 2)
        rule = settle_gate(tables, Rule(0.97, 0.5, 0.3, 2), metric)
        dense = np.linspace(0, 1, 1001)
        by_force = np.array([score(tables, replace(rule, gate=float(g)), metric) for g in dense])
        assert score(tables, rule, metric) == pytest.approx(by_force.max(), abs=1e-12)
        tied_gates = dense[by_force >= by_force.max() - 1e-12]
        assert tied_gates[0] <= rule.gate <= tied_gates[-1]


def test_parts_that_are_not_searched_stay_out() -> None:
    tables = noisy(1, 200)
    assert search_with_optuna(tables, "mean_dice", Variant(gate=False), trials=10).rule.gate == 0
    one = search_with_optuna(tables, "mean_dice", Variant(thresholds=1), trials=10).rule
    assert one.upper == one.lower
    assert not one.by_component


def test_a_problem_without_positives_can_be_searched() -> None:
    tables = noisy(0, 40, positives=0.0)
    assert largest_area(tables.truth) == 1
    assert search_with_optuna(tables, "mean_dice", trials=10).best == 1.0
