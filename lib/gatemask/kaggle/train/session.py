"""Run a training session inside a Kaggle kernel: find the inputs, train the folds, leave a hashed output.

Runs on the packages of Kaggle's images. The image of the TPU machines lacks most of what a laptop has.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

from gatemask.config.machines import Machine, machine
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import read_json_object
from gatemask.kaggle.train.session_inputs import find_inputs, link_project, restore_earlier_runs
from gatemask.kaggle.train.session_output import SessionOutput
from gatemask.project import Project
from gatemask.results.kaggle_training import FoldAccount, SessionRequest
from gatemask.tracking.wandb_run import finish_client

PIP_LIMIT_S = 600
LEAST_MARGIN_H = 0.1  # between the end of training and the end of the session, for W&B, hashes and Kaggle
WANDB = "wandb==0.31.0"  # as in requirements.txt; for images without it


def run_session(payload: Path, kaggle: Path, started: float) -> int:
    """Run the session that session.json describes, in a child process.

    Whatever ends the child (lack of memory, an abort in the accelerator's library), this process accounts for what it
    wrote. It forks before anything heavy is imported, since only one process can hold a TPU.

    Args:
        payload: Folder of the unpacked payload.
        kaggle: /kaggle, or a stand-in for it.
        started: `time.monotonic()` when the kernel began.

    Returns:
        Exit code of the kernel: 0 where it leaves something to keep or to continue from, since Kaggle may not mount
        what a failed kernel wrote. The account says what went wrong.
    """
    request = SessionRequest.load(payload / "session.json")
    output = SessionOutput(kaggle / "working", request, started)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        return work(payload, kaggle, started)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        output.record_death(f"The training process was ended by signal {-code}; 9 usually means that memory ran out.")
    elif code and not output.has_error():
        output.record_death(f"The training process ended with exit code {code} and without a message.")
    else:
        return code
    return output.exit_code


def work(payload: Path, kaggle: Path, started: float) -> int:
    """Run the session in this process. Arguments and result are those of `run_session`."""
    request = SessionRequest.load(payload / "session.json")
    output = SessionOutput(kaggle / "working", request, started)
    say(f"push {request.push} of {request.ref}, commit {request.commit or 'unknown'}")
    try:
        try:
            require_machine(machine(request.machine))
            inputs = find_inputs(kaggle / "input", request.datasets)
            install_missing_packages(inputs.get("wheels"))
            project = link_project(payload, kaggle, request, inputs)
            restore_earlier_runs(kaggle / "input", project, request)
        except GatemaskError as error:  # a fault of Kaggle's: another session may succeed
            output.record_lost(str(error))
            return output.exit_code
        train_folds(project, request, started, output)
    except GatemaskError as error:
        output.record_failure(str(error))
    except Exception as error:  # from any package, on a machine out of reach: the log must show everything
        traceback.print_exc()
        output.record_failure(f"{type(error).__name__}: {error}")
    finish_client()
    output.close()
    return output.exit_code


def train_folds(project: Project, request: SessionRequest, started: float, output: SessionOutput) -> None:
    """Train the folds, and account for each as soon as it has ended.

    Args:
        project: The session's project.
        request: Task of the session.
        started: `time.monotonic()` when the kernel began.
        output: Account of the session.
    """
    from gatemask.config import load_competition, load_experiment
    from gatemask.training.fold_inputs import TrainingInputs
    from gatemask.training.side_by_side import NOT_BEGUN, FoldOutcome, devices_for, train_side_by_side
    from gatemask.training.time_budget import MARGIN, TimeBudget
    from gatemask.training.train import train

    comp = load_competition(project.experiments)
    exp = load_experiment(project.experiments / f"{request.experiment}.yaml")
    set_up_wandb(exp.tracking.wandb)
    elapsed_h = (time.monotonic() - started) / 3600
    budget = TimeBudget(request.hours - elapsed_h - max(0.0, LEAST_MARGIN_H - MARGIN * request.hours))
    inputs = TrainingInputs(project, comp, exp)
    if devices := devices_for(inputs, request.folds):

        def record(fold: int, outcome: FoldOutcome) -> None:
            if outcome.error is not None:
                output.record_failure(outcome.error, fold)
            else:
                output.record_fold(fold, FoldAccount(done=outcome.result is not None, left=outcome.left))

        train_side_by_side(inputs, request.folds, devices, budget, record)
        return
    stopped = False
    for fold in request.folds:
        if stopped:  # another unfinished fold would be of no use
            output.record_fold(fold, FoldAccount(done=False, left=NOT_BEGUN))
            continue
        try:
            result = train(project, comp, exp, [fold], budget)
        except GatemaskError as error:  # of this fold's images or weights; other folds may succeed
            output.record_failure(str(error), fold)
            continue
        left = result.left.get(fold)
        stopped = left is not None
        output.record_fold(fold, FoldAccount(done=not stopped, left=left))


def require_machine(wanted: Machine) -> None:
    """Raise on another machine than requested: Kaggle may provide one silently, and the hours count.

    Args:
        wanted: Requested machine.

    Raises:
        GatemaskError: The machine is of another kind or has fewer devices.
    """
    from gatemask.pieces.devices import visible_gpus
    from gatemask.training.runtime import ACCELERATORS, detect_accelerator

    kind, devices = detect_accelerator(), None
    if kind == wanted.kind == "gpu":
        devices = len(visible_gpus()) or None  # None: not a driver whose files can be counted
    if kind == wanted.kind == "tpu":
        import jax  # type: ignore[import-not-found,import-untyped,unused-ignore]

        try:
            available = jax.devices()
        except RuntimeError as error:  # a TPU that does not start, or that another process holds
            raise GatemaskError("The TPU does not start.", received=str(error).splitlines()[0]) from None
        kind, devices = available[0].platform, len(available)
    if kind != wanted.kind or (devices is not None and devices < wanted.devices):
        raise GatemaskError(
            "Kaggle gave this kernel another machine than the one requested.",
            received=ACCELERATORS.get(kind, kind) + ("" if devices is None else f" of {devices} devices"),
            expected=f"{ACCELERATORS[wanted.kind]} of {wanted.devices} devices ({wanted.name})",
            do="Push it again. If that does not help, check that the account may use this accelerator (a verified "
            "phone number, hours left), and kaggle.accelerator in competition.yaml.",
        )
    say(f"machine: {ACCELERATORS[kind]}, as requested")


def install_missing_packages(wheels: Path | None) -> None:
    """Install the packages that the image lacks, from the dataset and without a network; replace none that it has.

    Args:
        wheels: Folder of the wheels. Default: none, then nothing is installed.

    Raises:
        GatemaskError: pip failed.
    """
    if wheels is None:
        return
    modules = read_json_object(wheels / "gatemask-wheels.json", "modules")["modules"]
    missing = [name for name, module in modules.items() if importlib.util.find_spec(module) is None]
    if missing:
        packages = Path(os.environ.get("TMPDIR", "/tmp")) / "gatemask-packages"
        error = _pip_install(
            "--no-index", "--find-links", str(wheels), "--no-deps", "--target", str(packages), *missing
        )
        if error:
            raise GatemaskError("pip could not install what the image lacks.", where=wheels, received=error)
        sys.path.insert(0, str(packages))
        say(f"installed: {', '.join(missing)}")


def _pip_install(*arguments: str) -> str | None:
    """Run pip install, and return an error message if it failed."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PIP_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"not finished after {PIP_LIMIT_S} s"
    importlib.invalidate_caches()
    return done.stderr.strip()[-300:] or f"exit {done.returncode}" if done.returncode else None


def set_up_wandb(mode: str) -> None:
    """Set W&B online where the account's secret is attached, else offline, for `gatemask sync` to upload later.

    A missing secret raises, differently in each image: nothing here may end the training.

    Args:
        mode: `tracking.wandb`. Only "disabled" is obeyed, since a kernel cannot know beforehand what it can reach.
    """
    if mode == "disabled":
        os.environ["WANDB_MODE"] = mode
        return
    try:
        from kaggle_secrets import UserSecretsClient

        key = UserSecretsClient().get_secret("WANDB_API_KEY")
    except BaseException as error:
        key = None
        say(f"W&B: no secret WANDB_API_KEY ({type(error).__name__}); offline")
    os.environ["WANDB_MODE"] = "online" if key else "offline"
    if key:
        os.environ["WANDB_API_KEY"] = key
    # Next to the image's packages, with its requirements: it must not replace an installed version.
    if importlib.util.find_spec("wandb") is None:
        error_text = _pip_install("--retries", "1", "--timeout", "20", WANDB)
        if error_text:
            say(f"W&B: not in this image and not installable ({error_text}); the run's own files hold all of its data.")
