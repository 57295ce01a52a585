"""Tests of the device benchmark and its kit. Processes that answer at once replace the networks."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gatemask.errors import GatemaskError
from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
# Behaves as its job says: answers, stays silent, ends, or reports a full memory unless it runs alone.
CHILD = """
import json, os, sys, time
job = json.loads(sys.argv[1])
behavior = job["behavior"].get(job["framework"], "answers")
def be_silent():
    open(job["records"] + "/silent", "w").close()
    time.sleep(600)
if behavior == "silent":
    be_silent()
if behavior == "ends":
    sys.exit("no driver")
if behavior == "full":
    tries = job["records"] + "/" + job["framework"] + job["name"]
    if not os.path.exists(tries):
        open(tries, "w").close()
        print(json.dumps({"fault": "RuntimeError: out of memory"}), flush=True)
        sys.exit(1)
print(json.dumps({"framework": job["framework"], "device": "card", "platform": "gpu", "devices": 1,
    "precision": "bfloat16", "versions": {}, "parameters": 6514465, "build_s": 1.0, "compile_s": 2.0}), flush=True)
times = {"ready": [12.0, 10.0, 11.0], "first": [20.0], "later": [11.0, 12.5, 13.0], "eager": [20.0] * 3,
    "compiled": [5.0] * 3}
count = {}
for line in sys.stdin:
    way = line.strip()
    if behavior == "ends at " + way:
        sys.exit("lost the device")
    if behavior == "silent at " + way:
        be_silent()
    number = count[way] = count.get(way, -1) + 1
    print(json.dumps({"way": way, "ms_per_step": times[way][number], "steps": 5, "memory_mb": 100.0 + number,
        "wait_share": 0.1 if way == "first" else None}), flush=True)
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("device")


@pytest.fixture
def plan(bench: ModuleType) -> ModuleType:
    return sys.modules["device_plan"]


class Run:
    """A benchmark of processes that answer at once, and what it printed."""

    def __init__(self, bench: ModuleType, folder: Path, seconds: float = 300.0, **behavior: str) -> None:
        self.folder, self.printed = folder, list[str]()
        child = folder / "child.py"
        child.write_text(CHILD)
        options = {"records": str(folder), "behavior": {k.replace("_", "-"): v for k, v in behavior.items()}}
        self.benchmark = bench.Benchmark(
            options,
            bench.Budget(seconds),
            bench.RowFile(folder / "rows.jsonl", {"run": "now"}),
            folder,
            {},
            (sys.executable, "-S", "-E", str(child)),
            self.printed.append,
        )

    def rows(self, networks: list[Any]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["network"], row["way"]): row for row in self.benchmark.run(networks)}

    def written(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in (self.folder / "rows.jsonl").read_text().splitlines()]


def jumping_clock(marker: Path, seconds: float, also: Callable[[], bool] = lambda: True) -> Callable[[], float]:
    """Return a clock that jumps ahead once a file exists and a condition holds: no test waits for a time limit."""
    return lambda: time.monotonic() + (seconds if marker.exists() and also() else 0.0)


@pytest.mark.integration
def test_rows_hold_the_best_round_and_the_ratios(bench: ModuleType, plan: ModuleType, tmp_path: Path) -> None:
    run = Run(bench, tmp_path)
    rows = run.rows(plan.NETWORKS[:1])
    assert list(rows) == [("gate", way) for way in ("ready", "first", "later", "eager", "compiled")]
    ready, first, later, eager = (rows["gate", way] for way in ("ready", "first", "later", "eager"))
    assert (ready["ms_per_step"], ready["images_per_s"], ready["rounds_ms"]) == (10.0, 6400.0, [12.0, 10.0, 11.0])
    assert (ready["vs_eager"], ready["vs_compiled"], ready["memory_mb"]) == (2.0, 0.5, 102.0)
    assert (first["of_ready"], first["wait_share"], first["rounds_ms"]) == (0.5, 0.1, [20.0])
    assert later["of_ready"] == pytest.approx(10 / 11, abs=1e-3)
    assert "vs_eager" not in eager and "of_ready" not in eager
    assert [{**row, "run": "now"} for row in rows.values()] == run.written()
    table = [text for text in run.printed if "JAX, ready batches" in text]
    assert "6,400" in table[0] and "2.0 s" in table[0] and "6.51 M" in table[0]
    assert run.printed[0].endswith("parameters") and len(table[0]) == len(run.printed[0])


@pytest.mark.integration
def test_silent_and_ended_processes_cost_only_their_own_rows(
    bench: ModuleType, plan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "ROUND_S", 60.0)  # half of the time is for the preparation
    run = Run(bench, tmp_path, seconds=600.0, jax="silent", torch="ends", torch_compile="ends at compiled")
    settled = lambda: sum(name in text for text in run.printed for name in ("torch ", "torch-compile ")) == 2  # noqa: E731
    run.benchmark.budget.clock = jumping_clock(tmp_path / "silent", 310.0, settled)
    rows = run.rows([plan.NETWORKS[0]])
    assert (rows["gate", "ready"]["status"], rows["gate", "eager"]["status"]) == ("killed", "failed")
    assert "see gate-jax.log" in rows["gate", "ready"]["reason"]
    assert "exit code 1, no driver" in rows["gate", "eager"]["reason"]
    assert "lost the device" in rows["gate", "compiled"]["reason"]
    assert [row["status"] for row in run.written()] == [row["status"] for row in rows.values()]


@pytest.mark.integration
def test_a_process_that_stops_answering_keeps_its_rounds(bench: ModuleType, plan: ModuleType, tmp_path: Path) -> None:
    run = Run(bench, tmp_path, seconds=600.0, jax="silent at first")
    run.benchmark.budget.clock = jumping_clock(tmp_path / "silent", 1000.0)
    rows = run.rows([plan.NETWORKS[0]])
    assert rows["gate", "ready"]["rounds_ms"] == [12.0]
    assert rows["gate", "first"]["status"] == rows["gate", "later"]["status"] == "killed"
    assert rows["gate", "compiled"]["status"] == "measured"


@pytest.mark.integration
def test_what_does_not_fit_beside_others_is_tried_alone(bench: ModuleType, plan: ModuleType, tmp_path: Path) -> None:
    run = Run(bench, tmp_path, seconds=300.0, jax="full", torch="full")
    rows = run.rows(plan.NETWORKS[:1])
    assert {row["status"] for row in rows.values()} == {"measured"}
    assert sum("alone" in text for text in run.printed) == 2


@pytest.mark.integration
def test_frameworks_that_are_not_installed_are_skipped(bench: ModuleType, plan: ModuleType, tmp_path: Path) -> None:
    run = Run(bench, tmp_path)
    run.benchmark.missing["torch"] = "not installed: torch"
    rows = run.rows(plan.NETWORKS[:1])
    assert (rows["gate", "eager"]["status"], rows["gate", "eager"]["reason"]) == ("skipped", "not installed: torch")
    assert rows["gate", "compiled"]["status"] == "measured" and "vs_eager" not in rows["gate", "ready"]


@pytest.mark.integration
def test_a_killed_benchmark_leaves_no_process(bench: ModuleType, tmp_path: Path) -> None:
    parent = f"""
import sys, json, queue, pathlib
sys.path.insert(0, {str(BENCHMARKS)!r})
from device_process import Measurement
job = {{"framework": "jax", "name": "gate", "records": {str(tmp_path)!r}}}
print(Measurement(job, queue.Queue(), pathlib.Path({str(tmp_path / "log")!r}))._process.pid, flush=True)
import time; time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(600):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1]:
            return
        time.sleep(0.05)
    pytest.fail("the process of a killed benchmark still runs")


# --- the division of the time ------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_network_takes_no_more_than_its_share(plan: ModuleType) -> None:
    clock = Clock()
    budget = plan.Budget(400.0 + plan.RESERVE_S, clock)
    gate, unet, unetpp = plan.NETWORKS
    limit = budget.limit(gate, [unet, unetpp])
    assert limit == pytest.approx(400 * plan.SLACK * gate.cost_s / (gate.cost_s + unet.cost_s + unetpp.cost_s))
    assert gate.cost_s < limit < 400 - unet.cost_s, "the next network must still fit"
    assert budget.prepare_limit(limit) == pytest.approx(limit - plan.round_s())
    clock.now += 390.0
    assert budget.limit(unetpp, []) == pytest.approx(10.0), "never more than is left"
    assert budget.prepare_limit(10.0) == pytest.approx(5.0)


def test_networks_that_do_not_fit_are_skipped(plan: ModuleType) -> None:
    clock = Clock()
    budget = plan.Budget(400.0 + plan.RESERVE_S, clock)
    gate, unet, _ = plan.NETWORKS
    assert budget.why_skip(unet, is_first=False) is None
    clock.now += 320.0
    assert budget.why_skip(unet, is_first=False) == f"80 s left, about {unet.prepare_s + plan.round_s():.0f} s needed"
    budget.prepared(gate, gate.prepare_s / 2)  # a fast machine
    assert budget.why_skip(unet, is_first=False) is None
    budget.prepared(gate, gate.prepare_s * 3)
    assert budget.why_skip(unet, is_first=False)
    assert budget.why_skip(unet, is_first=True) is None, "the first network is always tried"
    clock.now += 80.0
    assert budget.why_skip(unet, is_first=True), "but not when the time is over"


def test_the_options_shrink_the_networks(plan: ModuleType) -> None:
    small = plan.chosen_networks(["unetpp", "gate"], 64, 2)
    assert [(network.name, network.size, network.batch) for network in small] == [("gate", 64, 2), ("unetpp", 64, 2)]
    assert plan.chosen_networks(["unet"], None, None) == [plan.NETWORKS[1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "gate,fpn"], "--networks: unknown fpn; choose from gate, unet, unetpp"),
        (["--size", "70"], "--size: must be a multiple of 32, not 70"),
        (["--seconds", "0"], "--seconds: must be positive, not 0.0"),
        (["--images", "100"], "--images: must fill two batches, 128 images, not 100"),
    ],
)
def test_wrong_options_are_rejected(
    bench: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.parse(arguments)
    assert message in capsys.readouterr().err


def test_rows_follow_a_line_that_was_cut_off(bench: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"network": "ga')
    bench.RowFile(path, {"run": 1}).write({"network": "unet"})
    assert json.loads(path.read_text().splitlines()[1]) == {"run": 1, "network": "unet"}


def test_the_records_hold_xrays_with_and_without_lesions(bench: ModuleType, tmp_path: Path) -> None:
    xrays = importlib.import_module("device_xrays")
    examples = xrays.examples(tmp_path, 40, 64)
    assert len(examples) == 40 and len({example.key for example in examples}) == 40
    assert sum(example.label for example in examples) == 16
    from gatemask.input.decoding import shared_decoder
    from gatemask.input.layout import ONE_CLASS

    image, mask = shared_decoder(ONE_CLASS, (64, 64)).decode(examples[1], True)
    assert image.shape[:2] == (64, 64) and 20 < image.mean() < 200
    assert mask is not None and mask.any()
    assert [e.image_id for e in xrays.examples(tmp_path, 40, 64)] == [e.image_id for e in examples]


# --- the kit -----------------------------------------------------------------------------------------------


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("device_kit")


def test_the_kit_has_the_tested_versions(kit: ModuleType) -> None:
    pinned = kit.pinned_versions((ROOT / "requirements.txt").read_text())
    wanted = kit.requirements(["opencv-python-headless", "PyYAML"])
    assert f"keras=={pinned['keras']}" in wanted and f"Keras-Applications=={pinned['keras-applications']}" in wanted
    assert not any("opencv" in line or "YAML" in line for line in wanted)
    assert all("==" in line for line in wanted)


def test_only_packages_of_the_kit_can_be_left_out(kit: ModuleType) -> None:
    with pytest.raises(GatemaskError, match="numpi"):
        kit.requirements(["numpi"])


def test_the_kit_has_all_modules_of_the_benchmark(kit: ModuleType) -> None:
    modules = {path.stem for path in BENCHMARKS.glob("*.py")}
    for name in kit.SCRIPTS:
        tree = ast.parse((BENCHMARKS / name).read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert {f"{module}.py" for module in imported & modules} <= set(kit.SCRIPTS)
    child = importlib.import_module("device_child")
    assert {f"{module}.py" for module in child.MODULES.values()} <= set(kit.SCRIPTS)


@pytest.mark.integration
@pytest.mark.parametrize("fault", ["python", "damage"])
def test_a_kit_that_does_not_fit_is_refused(fault: str, tmp_path: Path) -> None:
    shutil.copy(BENCHMARKS / "device_run.sh", tmp_path / "run.sh")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "python-version").write_text("3.99\n" if fault == "python" else f"{version}\n")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  python-version\n")
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", str(tmp_path / "run.sh")], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    expected = f"for Python 3.99, and {sys.executable} is Python {version}" if fault == "python" else "kit is damaged"
    assert expected in done.stderr
    assert not (tmp_path / "packages").exists()


@pytest.mark.slow
@pytest.mark.integration
def test_the_kit_runs_without_a_network_and_without_tensorflow(kit: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    kit.pack(f"{sys.version_info[0]}.{sys.version_info[1]}", [], folder)
    environment = empty_environment(tmp_path / "empty")
    offline = (
        ["unshare", "-rn"] if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0 else []
    )
    small = ["--networks", "gate", "--size", "64", "--batch", "2", "--images", "32", "--precision", "float32"]
    rows = tmp_path / "rows.jsonl"
    done = subprocess.run(
        [*offline, "bash", str(folder / "run.sh"), "--seconds", "500", *small, "--out", str(rows)],
        env={"PATH": os.environ["PATH"], "PYTHON": str(environment / "bin/python"), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = {row["way"]: row for row in map(json.loads, rows.read_text().splitlines())}
    assert {way: row["status"] for way, row in measured.items()} == {
        **dict.fromkeys(("ready", "first", "later"), "measured"),
        **dict.fromkeys(("eager", "compiled"), "skipped"),
    }
    assert measured["ready"]["parameters"] == 6_514_465, "PyTorch's EfficientNet-B1 with one output has as many"
    assert (folder / "packages" / "installed").exists()


def empty_environment(folder: Path) -> Path:
    """Return a virtual environment with NumPy and JAX as its only packages, which the kit expects of a machine."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    target = next(folder.glob("lib/python*/site-packages"))
    for package in ("jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy"):
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin).parent
        for path in (source, source.with_name(f"{package}.libs"), *source.parent.glob(f"{package}-*.dist-info")):
            if path.exists():
                (target / path.name).symlink_to(path)
    return folder
