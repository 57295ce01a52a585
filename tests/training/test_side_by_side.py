"""Folds side by side: real processes with a stand-in for training, which are killed, fail, and lose their parent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from gatemask.config import Runtime, load_competition, load_experiment
from gatemask.errors import GatemaskError
from gatemask.kaggle.train import dispatch, session
from gatemask.kaggle.train.session_output import SessionOutput
from gatemask.pieces import devices, local
from gatemask.pieces.devices import Device
from gatemask.pieces.piece import Outcome, Piece
from gatemask.project import Project
from gatemask.results.kaggle_training import ACCOUNT_FILE, SessionAccount, SessionRequest
from gatemask.training import separate_devices, side_by_side
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.training.side_by_side import FoldOutcome, train_side_by_side
from gatemask.training.time_budget import TimeBudget
from gatemask.training.train import train
from tests.conftest import ROOT, environment
from tests.tiny import INSTALL
from tests.training.test_train import TINY, assert_identical

pytestmark = pytest.mark.integration

FOLDS = 5
OVERRIDES = ["runtime.folds=parallel", "runtime.devices=2", "runtime.accelerator=cpu", "tracking.wandb=disabled"]
# A training without a network. A file fold<k> in the folder PLANS says what happens in that fold.
FAKE = """
import os, signal, sys, time
from pathlib import Path
from gatemask.console import progress, say
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.pieces import process
from gatemask.pieces.piece import BrokenDeviceError
from gatemask.training import fold_run, train_piece, trainer
from gatemask.training.state import Progress
from tests.fold_results import fold_result

PLANS = Path(os.environ["PLANS"])

class FakeRun:
    def __init__(self, inputs, fold, budget):
        self.exp, self.fold, self.folder = inputs.exp, fold, inputs.project.fold(inputs.exp.name, fold)
        self.tracked_online = False
    def train(self):
        plan = PLANS / f"fold{self.fold}"
        plan = plan.read_text() if plan.exists() else ""
        write_text(self.folder / "state" / "at-0001-00000.h5", "state")
        say(f"fold {self.fold} on device {os.environ.get('DEVICE')} with {os.environ['GATEMASK_CORES']} cores")
        print("native noise of fold", self.fold, flush=True)
        for _ in progress(range(3), f"fold {self.fold}"):
            pass
        write_text(PLANS / f"begun{self.fold}", str(os.getpid()))
        if plan == "fail":
            raise GatemaskError("Loss became NaN or infinite.", where="epoch 1, step 2")
        if plan == "fault":
            raise ValueError("a package is broken")
        if plan == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while plan == "wait" and not (PLANS / "go").exists():
            time.sleep(0.02)
        return Progress(4, epoch=0 if plan == "late" else self.exp.epochs)
    def finish(self, progress):
        files = [write_text(self.folder / name, str(self.fold)) for name in ("best.weights.h5", "oof.csv")]
        return fold_result(experiment=self.exp.name, fold=self.fold), files

def require_device(exp, kind):
    if os.environ.get("DEVICE") == "broken":
        raise BrokenDeviceError("The experiment requires a GPU, and this machine has none.")

fold_run.FoldRun, trainer.Trainer, train_piece.require_device = FakeRun, lambda inputs: inputs, require_device
process.main()
"""
# `gatemask train` of two folds with this stand-in.
PARENT = """
import sys
from gatemask import cli
from gatemask.pieces import local
local.COMMAND = (sys.executable, "-c", sys.argv.pop(1))
cli.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def five_folds(phantom_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("side_by_side") / "project"
    shutil.copytree(phantom_records, root, ignore=shutil.ignore_patterns("runs", "dist"))
    folds = root / "folds" / "phantom-quick.csv"
    frame = pd.read_csv(folds)
    frame["fold"] = pd.factorize(frame["group"])[0] % FOLDS
    frame.to_csv(folds, index=False)
    return root


@pytest.fixture
def inputs(five_folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingInputs:
    shutil.rmtree(five_folds / "runs", ignore_errors=True)
    monkeypatch.setattr(local, "COMMAND", (sys.executable, "-c", FAKE))
    monkeypatch.setenv("PLANS", str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT))
    project = Project(five_folds, "phantom", quick=True)
    exp = load_experiment(project.experiments / "gate_r18.yaml", quick=True, overrides=OVERRIDES)
    return TrainingInputs(project, load_competition(project.experiments, quick=True), exp)


def plan(folder: Path, **plans: str) -> None:
    for fold, text in plans.items():
        (folder / fold).write_text(text)


DEVICES = [Device("cpu", f"cpu {name}", {"DEVICE": name}) for name in ("a", "b")]


def test_a_free_process_takes_the_next_fold(
    inputs: TrainingInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(tmp_path, fold0="wait")
    ended: list[int] = []

    def on_outcome(fold: int, outcome: FoldOutcome) -> None:
        ended.append(fold)
        if len(ended) == FOLDS - 1:
            (tmp_path / "go").touch()

    outcomes = train_side_by_side(inputs, range(FOLDS), DEVICES, TimeBudget(None), on_outcome)
    assert ended == [1, 2, 3, 4, 0]
    assert list(outcomes) == list(range(FOLDS))
    for fold, outcome in outcomes.items():
        assert outcome.result is not None
        assert outcome.result.fold == fold
        assert inputs.stage(fold).current() == outcome.result.model_copy(update={"current": True})
        log = (inputs.project.runs / f"gate_r18/logs/fold{fold}.log").read_text()
        assert log.count("native noise of fold") == 1, "another fold's output"
        assert f"native noise of fold {fold}\n" in log
    processes = [(tmp_path / f"begun{fold}").read_text() for fold in range(FOLDS)]
    assert len(set(processes[1:])) == 1 < len(set(processes))
    said = capsys.readouterr().err
    assert "5 folds, 2 side by side (cpu a, cpu b); logs in" in said
    share = max(1, local.cores() // 2)
    first, second = (
        f"[cpu {own}] fold {fold} on device {own} with {share} cores" for fold, own in ((0, "a"), (1, "b"))
    )
    assert first in said
    assert second in said


def test_failures_cost_only_their_own_folds(
    inputs: TrainingInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fold 3 kills its process, so its device trains nothing else; fold 4 is left to the other one."""
    plan(tmp_path, fold1="fail", fold2="fault", fold3="die", fold0="wait")
    ended: list[int] = []
    record = local._Pool._record

    def release(self: local._Pool, piece: Piece, outcome: Outcome) -> None:
        record(self, piece, outcome)
        ended.append(int(piece.name[-1]))
        if len(ended) == 3:
            (tmp_path / "go").touch()

    monkeypatch.setattr(local._Pool, "_record", release)
    with pytest.raises(GatemaskError) as caught:
        train(inputs.project, inputs.comp, inputs.exp)
    text = str(caught.value)
    assert ended == [1, 2, 3, 0, 4], text
    assert "3 of 5 folds of gate_r18 failed." in text
    assert "fold 1: Loss became NaN or infinite." in text
    assert "epoch 1, step 2" in text
    assert "fold 2: ValueError: a package is broken Log: " in text
    assert "fold 3: Its process on cpu 1 was ended by signal 9; 9 usually means that memory ran out. Log: " in text
    assert "finished folds are kept (0, 4)" in text
    assert "[gate_r18 fold 2] ValueError: a package is broken" in capsys.readouterr().err
    assert [fold for fold in range(FOLDS) if inputs.stage(fold).current()] == [0, 4]
    plan(tmp_path, fold1="", fold2="", fold3="")
    result = train(inputs.project, inputs.comp, inputs.exp)
    assert [fold for fold, outcome in result.folds.items() if outcome.current] == [0, 4]
    assert train(inputs.project, inputs.comp, inputs.exp).current


@pytest.mark.slow
def test_after_the_time_limit_no_fold_begins(inputs: TrainingInputs, tmp_path: Path) -> None:
    plan(tmp_path, fold0="wait", fold1="late")

    def release(fold: int, outcome: FoldOutcome) -> None:
        (tmp_path / "go").touch()

    outcomes = train_side_by_side(inputs, range(FOLDS), DEVICES, TimeBudget(None), release)
    assert outcomes[0].result is not None
    assert "epochs" in (outcomes[1].left or "")
    assert {outcomes[fold].left for fold in (2, 3, 4)} == {side_by_side.NOT_BEGUN}
    assert not (tmp_path / "begun2").exists()


@pytest.mark.slow
def test_a_device_that_does_not_work_trains_no_fold(
    inputs: TrainingInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Device("gpu", "gpu 1", {"DEVICE": "broken"})
    plan(tmp_path, fold0="wait")

    retire = local._Pool._retire

    def retire_and_release(self: local._Pool, running: local._Process, reason: str) -> None:
        assert not self._outcomes, "a fold has ended before the other process was heard"
        retire(self, running, reason)
        (tmp_path / "go").touch()

    monkeypatch.setattr(local._Pool, "_retire", retire_and_release)
    outcomes = train_side_by_side(inputs, [0, 1, 2], [DEVICES[0], broken], TimeBudget(None))
    assert all(outcome.result for outcome in outcomes.values())
    assert "[gpu 1] does not work, and runs nothing: The experiment requires a GPU" in capsys.readouterr().err
    alone = train_side_by_side(inputs, [3, 4], [broken], TimeBudget(None))
    assert "requires a GPU" in (alone[3].error or "")
    assert alone[4].left == side_by_side.NOT_BEGUN


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, -signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_processes_end_with_the_command(
    inputs: TrainingInputs, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    plan(tmp_path, fold0="wait", fold1="wait")
    overrides = [option for override in OVERRIDES for option in ("--set", override)]
    command = [sys.executable, "-c", PARENT, FAKE, "train", "phantom/gate_r18", "--quick", "--fold", "0,1", *overrides]
    env = {**environment(inputs.project.root), "PLANS": str(tmp_path)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)

    parent = start()
    begun = [tmp_path / f"begun{fold}" for fold in (0, 1)]
    while not all(path.exists() for path in begun):
        assert parent.poll() is None, parent.communicate()[1]
        time.sleep(0.02)
    processes = [int(path.read_text()) for path in begun]
    assert all(map(is_running, processes))
    parent.send_signal(sent)
    said = parent.communicate()[1]
    assert parent.returncode == code, said
    assert "Traceback" not in said
    while any(map(is_running, processes)):  # a hang is the failure of this test
        time.sleep(0.02)
    if sent == signal.SIGINT:
        (tmp_path / "go").touch()
        again = start()
        assert again.communicate()[1] is not None
        assert again.returncode == 0
        assert all(inputs.stage(fold).current() for fold in (0, 1))


@pytest.mark.slow
def test_a_session_accounts_for_each_fold(
    inputs: TrainingInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(tmp_path, fold1="fail", fold2="die", fold0="wait")
    request = SessionRequest(
        push="id", ref="me/gate", comp="phantom", quick=True, experiment="gate_r18", folds=(0, 1, 2, 3),
        machine="none", hours=1.0, commit=None, datasets={},
    )  # fmt: skip
    working = tmp_path / "working"
    output = SessionOutput(working, request, time.monotonic())
    record = output.record_failure

    def release(error: str, fold: int | None = None) -> None:
        record(error, fold)
        if fold == 2:
            (tmp_path / "go").touch()

    monkeypatch.setattr(output, "record_failure", release)
    monkeypatch.setattr("gatemask.config.load_competition", lambda folder: inputs.comp)
    monkeypatch.setattr("gatemask.config.load_experiment", lambda path: inputs.exp)
    working.mkdir()
    session.train_folds(inputs.project, request, time.monotonic(), output)
    account = SessionAccount.load(working / ACCOUNT_FILE)
    assert {fold for fold, outcome in account.folds.items() if outcome.done} == {"0", "3"}
    assert "NaN" in (account.folds["1"].error or "")
    assert "signal 9" in (account.folds["2"].error or "")
    assert account.state == "failed"


def test_one_fold_or_one_device_is_trained_in_this_process(inputs: TrainingInputs) -> None:
    assert len(side_by_side.devices_for(inputs, [0, 1])) == 2
    assert side_by_side.devices_for(inputs, [0]) == []
    sequence = inputs.exp.model_copy(update={"runtime": Runtime(devices=2)})
    assert side_by_side.devices_for(TrainingInputs(inputs.project, inputs.comp, sequence), [0, 1]) == []
    assert inputs.exp.settings == sequence.settings, "the way folds are trained must not decide which run they are"


# --- real networks -------------------------------------------------------------------------------------------------

REAL = (
    INSTALL
    + """
import json, os, sys
from pathlib import Path
from gatemask.config import Experiment, load_competition
from gatemask.project import Project
from gatemask.pieces import local
from gatemask.training.train import train
local.COMMAND = (sys.executable, "-c", sys.argv[1])
project = Project(Path(os.environ["GATEMASK_ROOT"]), "phantom", quick=True)
comp = load_competition(project.experiments, quick=True)
train(project, comp, Experiment.model_validate(json.load(sys.stdin)))
"""
)
REAL_PROCESS = INSTALL + "from gatemask.pieces import process; process.main()"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_folds_side_by_side_are_those_of_a_sequence(phantom_records: Path, backend: str, tmp_path: Path) -> None:
    """Weights, metrics, predictions and stamps are the same, also after the command was killed in the middle."""
    env = {**environment(phantom_records), "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    settings = {**TINY, "name": f"beside_{backend}", "epochs": 2}
    runs = phantom_records / "runs/phantom-quick" / settings["name"]

    def start(**runtime: object) -> subprocess.Popen[str]:
        given = {**settings, "runtime": {"backend": backend, "accelerator": "cpu", "deterministic": True, **runtime}}
        (tmp_path / "settings.json").write_text(json.dumps(given))
        command = [sys.executable, "-c", REAL, REAL_PROCESS]
        with (tmp_path / "settings.json").open() as stdin:
            return subprocess.Popen(command, env=env, stdin=stdin, stderr=subprocess.PIPE, text=True)

    def finish(started: subprocess.Popen[str]) -> str:
        said = started.communicate()[1]
        assert started.returncode == 0, said[-3000:]
        return said

    assert "side by side" not in finish(start(devices=1))
    sequence = runs.rename(tmp_path / "sequence")
    parallel: dict[str, object] = {"folds": "parallel", "devices": 2}
    if backend == "jax":  # each fold with a worker process of its own
        parallel = {"folds": "parallel", "devices": "all", "workers": 1}
    killed = start(**parallel)
    while not any(runs.glob("fold1/state/at-*.h5")):
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    said = finish(start(**parallel))
    assert "2 folds, 2 side by side (cpu 0, cpu 1)" in said
    assert f"[cpu 1] beside_{backend} fold 1: resumes at epoch" in said
    for fold in ("fold0", "fold1"):
        assert_identical(sequence / fold, runs / fold)
        assert (sequence / fold / "oof.csv").read_bytes() == (runs / fold / "oof.csv").read_bytes()
        stamps = [json.loads((folder / fold / "result.json").read_text()) for folder in (sequence, runs)]
        for stamp in stamps:
            for measured in ("seconds", "seconds_training", "outputs", "hash"):
                del stamp[measured]
        assert stamps[0] == stamps[1]


# --- devices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "number", "expected"),
    [(None, "all", ["0", "1", "10"]), ("1,GPU-5e", "all", ["1", "GPU-5e"]), (None, 2, ["0", "1"]), ("", "all", [])],
)
def test_gpus_are_those_that_cuda_would_see(
    visible: str | None, number: str | int, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia10", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    monkeypatch.setattr(separate_devices, "detect_accelerator", lambda: "gpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    runtime = Runtime.model_validate({"folds": "parallel", "devices": number})
    found = separate_devices.separate_devices(runtime)
    assert [device.environment["CUDA_VISIBLE_DEVICES"] for device in found] == expected
    with pytest.raises(GatemaskError, match="fewer devices"):
        separate_devices.separate_devices(Runtime(folds="parallel", devices=4))


def test_a_process_on_a_simulated_device_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(folds="parallel", accelerator="cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1 --xla_force_host_platform_device_count=3 --xla_two=2")
    found = separate_devices.separate_devices(runtime)
    assert [device.environment["XLA_FLAGS"].split() for device in found] == [["--xla_one=1", "--xla_two=2"]] * 3
    monkeypatch.delenv("XLA_FLAGS")
    assert len(separate_devices.separate_devices(runtime)) == 1
    assert len(separate_devices.separate_devices(Runtime(folds="parallel", accelerator="cpu", devices=4))) == 4


def test_the_chips_of_a_tpu_are_not_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separate_devices, "detect_accelerator", lambda: "tpu")
    with pytest.raises(GatemaskError, match="chips of a TPU train one fold together"):
        separate_devices.separate_devices(Runtime(folds="parallel"))


@pytest.mark.parametrize(
    ("folds", "slots", "at_once", "expected"),
    [
        (4, 2, 2, [[0, 2], [1, 3]]),
        (5, 2, 2, [[0, 2, 4], [1, 3]]),
        (2, 2, 2, [[0, 1]]),
        (2, 2, 1, [[0], [1]]),
        (5, 1, 2, [[0, 1, 2, 3, 4]]),
    ],
)
def test_kernels_get_as_many_folds_as_they_train_at_once(
    inputs: TrainingInputs, folds: int, slots: int, at_once: int, expected: list[list[int]]
) -> None:
    assigned = dispatch.assign_to_kernels([], "phantom", "me", inputs.exp, range(folds), slots, at_once)
    assert [kernel.folds for kernel in assigned] == expected


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from gatemask.parallel import cores

    available = cores()
    for share, expected in (("1", 1), ("100000", available), ("", available), ("0", available), ("two", available)):
        monkeypatch.setenv("GATEMASK_CORES", share)
        assert cores() == expected


def test_time_that_is_left_is_a_budget_of_its_own() -> None:
    now = [0.0]
    budget = TimeBudget(10.0, lambda: now[0])
    now[0] = 4 * 3600.0
    rest = TimeBudget(budget.hours_left, lambda: now[0])
    for hours, fits in ((9.4, True), (9.6, False)):  # both end together, 5 % before the limit
        now[0] = hours * 3600
        assert (budget.allows(), rest.allows()) == (fits, fits)
    assert TimeBudget(None).hours_left is None
    assert os.environ.get("GATEMASK_CORES") is None
