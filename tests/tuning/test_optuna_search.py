"""Optuna's search: repeatable, resumes after a kill, and leaves no gate at an edge."""

from __future__ import annotations

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
from gatemask.masks.metrics import METRICS
from gatemask.masks.rule import Rule
from gatemask.oof.tables import score
from gatemask.tuning import exact
from gatemask.tuning.optuna_search import largest_area, search_with_optuna, settle_gate
from tests.conftest import ROOT
from tests.tuning.problems import noisy, tied


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


@pytest.mark.integration
def test_a_killed_study_resumes(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    code = (
        "from pathlib import Path; from tests.tuning.problems import noisy\n"
        "from gatemask.tuning.optuna_search import search_with_optuna\n"
        f"search_with_optuna(noisy(0, 300), 'mean_dice', trials=5000, journal=Path({str(journal)!r}))"
    )
    started = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 120
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
