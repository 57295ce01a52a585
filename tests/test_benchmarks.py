"""Tests of the benchmarks: each runs on a few images. `make bench` measures the speeds."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.integration

KEYS = {"name", "ours", "reference", "ratio", "target", "met"}


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for module in (
        "rle",
        "folds",
        "records",
        "input",
        "tracking",
        "tuning",
        "inference",
        "finalists",
        "search",
        "runs",
        "scale",
        "run",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return importlib.import_module(name)


def test_rle(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("rle", monkeypatch)
    monkeypatch.setattr(bench, "LABELS", Path("missing"))
    monkeypatch.setattr(bench, "COUNT", 6)
    monkeypatch.setattr(bench, "LOOPS", 2)
    rows = list(bench.rows())
    assert len(rows) == 4
    assert all(set(row) == KEYS and row["ratio"] > 0 for row in rows)
    assert "6 phantom annotations" in rows[0]["name"]


def test_the_loops_agree_with_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    bench = load("rle", monkeypatch)
    mask = bench.phantom(np.random.default_rng(1))
    text = bench.rle.encode(mask, bench.DIALECT)
    assert bench.plain_encode(mask) == text
    assert (np.array(bench.plain_decode(text), bool) == mask.T.ravel()).all()


def test_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("folds", monkeypatch)
    monkeypatch.setattr(bench, "IMAGES", 400)
    monkeypatch.setattr(bench, "PATIENTS", 200)
    assert [set(row) for row in bench.rows()] == [KEYS, KEYS]


def test_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("runs", monkeypatch)
    monkeypatch.setattr(bench, "EXPERIMENTS", 3)
    monkeypatch.setattr(bench, "VARIANTS", 3)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    start = subprocess.run

    def run_compiled(command: list[str], env: dict[str, str], **options: Any) -> Any:
        env.pop("PYTHONPYCACHEPREFIX")  # to compile all modules takes longer than the rest
        return start(command, env=env, **options)

    monkeypatch.setattr(bench.subprocess, "run", run_compiled)
    rows = list(bench.rows())
    assert len(rows) == 3
    assert all(set(row) == KEYS and row["ratio"] > 0 for row in rows)


def small_inference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    bench = load("inference", monkeypatch)
    for name, value in {
        "IMAGES": 24,
        "SIDE": 64,
        "SIZE": 32,
        "MEMBERS": 2,
        "ENCODER": "mobilenet",
        "ROUNDS": 1,
    }.items():
        monkeypatch.setattr(bench, name, value)
    return bench


@pytest.mark.usefixtures("tiny_encoders")
def test_inference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = small_inference(monkeypatch)
    speed, floor, pixels = bench._speed(tmp_path)
    assert all(set(row) == KEYS and row["ratio"] > 0 for row in (speed, floor, pixels))
    assert pixels["met"], "gate-first masks differ from the plain pass in more than one pixel per million"


@pytest.mark.slow
def test_memory_of_inference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = small_inference(monkeypatch)
    for name, value in {"FEW": 20, "MANY": 100, "MEMORY_SIZE": 32}.items():
        monkeypatch.setattr(bench, name, value)
    assert set(bench._memory(tmp_path)) == KEYS


@pytest.mark.usefixtures("tiny_encoders")
def test_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("tracking", monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name, value in {"SIZE": 32, "BATCH": 2, "STEPS": 2, "ROUNDS": 1, "ENCODER": "mobilenet"}.items():
        monkeypatch.setattr(bench, name, value)
    assert [set(row) for row in bench.rows()] == [KEYS, KEYS]


def test_records(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("records", monkeypatch)
    monkeypatch.setattr(bench, "IMAGES", 20)
    monkeypatch.setattr(bench, "DIFFERENT", 2)
    timed, runs = bench.timed_records, []

    def timed_once(*arguments: object) -> tuple[float, float]:
        runs.append(arguments[1:])
        return timed(*arguments) if len(runs) == 1 else (1.0, 100.0)  # a process each

    monkeypatch.setattr(bench, "timed_records", timed_once)
    assert all(set(row) == KEYS for row in bench.rows())
    assert () in runs


def test_scale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = load("scale", monkeypatch)
    assert bench.banded(300)["pairs"] == bench.all_pairs(300)["pairs"]
    found = {**bench.prepared(str(tmp_path), 60), **bench.split(str(tmp_path), 60), **bench.counted(400)}
    assert set(found) == {*bench.STAGES, "tables", "search", "interval"}
    answers = {"banded": {"seconds": 1.0, "pairs": 2, "memory": 9.0}, "all_pairs": {"seconds": 2.0, "pairs": 2}}
    monkeypatch.setattr(bench, "measured", lambda name, *_: answers.get(name, found))
    rows = list(bench.rows())
    assert len(rows) == 3 + len(bench.STAGES) + 5
    assert all(set(row) == KEYS for row in rows)


def test_input(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("input", monkeypatch)
    for name, value in {"IMAGES": 20, "DIFFERENT": 2, "BATCH": 4, "SIZE": 64, "ROUNDS": 1, "PEER_IMAGES": 4}.items():
        monkeypatch.setattr(bench, name, value)
    rows = list(bench.rows())
    assert len(rows) == 22
    assert all(set(row) == KEYS and row["ratio"] > 0 for row in rows)


def test_the_reference_reads_the_same_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    bench = load("input", monkeypatch)
    for name, value in {"IMAGES": 16, "DIFFERENT": 2, "BATCH": 8, "SIZE": 64}.items():
        monkeypatch.setattr(bench, name, value)
    examples = bench.make_examples(3)
    assert sum(example.label for example in examples) == 3
    images, masks = (np.array(array) for array in next(iter(bench.peer(examples, 3))))
    assert (images.shape, images.dtype) == ((8, 64, 64, 3), np.uint8)
    assert (masks.shape, masks.dtype, masks.max()) == ((8, 64, 64, 1), np.uint8, 1)
    assert 60 < images.mean() < 180


@pytest.mark.usefixtures("tiny_encoders")
def test_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("onednn", monkeypatch)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "_seconds_per_step", lambda setting: bench.measure(32, 2, 1, "resnet18"))
    assert [set(row) for row in bench.rows()] == [KEYS]


@pytest.mark.slow
def test_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process reads what the first one compiled. How long either takes is for `make bench`."""
    bench = load("compile", monkeypatch)
    for name, value in {"SIZE": 32, "ROUNDS": 1, "ENCODER": "resnet18"}.items():
        monkeypatch.setattr(bench, name, value)
    from_start, from_built, building = bench.rows()
    assert all(set(row) == KEYS for row in (from_start, from_built, building))
    assert from_built["ratio"] > 1.5, "compiling a ResNet-18 takes several times as long as reading it"


def test_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("tuning", monkeypatch)
    small = {
        "IMAGES": 60,
        "DIFFERENT": 12,
        "SIDE": 32,
        "SCORED": 64,
        "BUILDS": 1,
        "TABLE_SAMPLE": 2,
        "TRIAL_SAMPLE": 6,
        "CHUNK": 4,
    }
    for name, value in {**small, "PAIR_SAMPLE": 2, "TRIALS": (3, 4)}.items():
        monkeypatch.setattr(bench, name, value)
    rows = list(bench.rows())
    assert len(rows) == 9
    assert all(set(row) == KEYS and row["ratio"] > 0 for row in rows)
    assert "60 maps of 32 px scored at 64 px" in rows[0]["name"]


def test_exhaustive_search_of_a_pair_finds_its_best_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numpy as np

    bench = load("tuning", monkeypatch)
    for name, value in {"IMAGES": 40, "DIFFERENT": 10, "SIDE": 32, "SCORED": 64}.items():
        monkeypatch.setattr(bench, name, value)
    bench.make(tmp_path)
    bench.build_and_watch(str(tmp_path), 64)
    tables = bench.Tables.load(tmp_path / "tables.npz")
    assert 0 < (tables.truth > 0).sum() < 20
    assert len(np.unique(tables.area[:, 0, 1])) > 10, "too many images have equal areas"
    upper, lower = 150, 60
    best = max(
        bench.score(tables, bench.Rule(float(gate), round(upper / 255, 4), round(lower / 255, 4), int(area)))
        for gate in np.unique(tables.gate)
        for area in np.unique(tables.area[:, 0, upper])
    )
    assert bench.force_pair(tables, upper, lower) == pytest.approx(max(best, bench.all_empty_score(tables)), abs=1e-12)


def test_rows_of_other_benchmarks_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = load("run", monkeypatch)
    path = tmp_path / "bench.json"
    run.write(path, [{"bench": "rle", "name": "a"}, {"bench": "folds", "name": "b"}], ["rle", "folds"])
    run.write(path, [{"bench": "rle", "name": "c"}], ["rle"])
    assert [row["name"] for row in json.loads(path.read_text())] == ["c", "b"]


def test_an_unknown_benchmark_is_rejected() -> None:
    done = subprocess.run([sys.executable, "benchmarks/run.py", "rel"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Unknown benchmark rel. Choose from rle, folds, stages, records, reading, input" in done.stderr


def test_search(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("search", monkeypatch)
    monkeypatch.setattr(bench, "SEARCHES", 3)
    monkeypatch.setattr(bench, "TRIALS", 5)
    rows = list(bench.rows_of([bench.generated(0, 0.004)], 3))
    assert len(rows) == 8
    assert all(set(row) == KEYS and row["ratio"] >= 1 for row in rows[::2])
    assert rows[0]["name"].startswith("interval")


def test_a_replayed_search_without_a_pruner_trains_all_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    bench = load("search", monkeypatch)
    scores = np.array([[0.1, 0.2], [0.5, 0.4], [0.3, 0.2]])
    assert bench.replay_search(scores, bench.rules(scores[:, :, None])["no pruner"]) == (6, 1)
