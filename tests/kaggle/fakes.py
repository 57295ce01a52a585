"""A fake of Kaggle's machine, which trains nothing, and a project next to it, so that tests of faults take seconds.

The kernel runs the real code around the training, `gatemask.kaggle.train.session`: inputs, account, earlier output.
Only the training itself is faked by a few small files, stamped with the real hashes of what they are made from.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gatemask.config import Competition, Experiment, load_competition, load_experiment
from gatemask.errors import GatemaskError
from gatemask.files import read_json, sha256, write_json
from gatemask.kaggle.client import datasets
from gatemask.kaggle.train import campaign, commands, dispatch, inputs, kernel_records, session
from gatemask.kaggle.train.dispatch import PushOptions
from gatemask.kaggle.train.kernel_records import TrainingKernel
from gatemask.kaggle.train.session_output import SessionOutput
from gatemask.project import Project
from gatemask.results.kaggle_training import (
    ACCOUNT_FILE,
    CampaignReport,
    FetchReport,
    FoldAccount,
    PushReport,
    SessionRequest,
)
from gatemask.results.training import FoundBatch, TriedBatch
from gatemask.stage import write_stamp
from gatemask.training import train
from gatemask.training.fold_inputs import TrainingInputs, fingerprints
from gatemask.training.found_batch import write_found_batch
from tests.fold_results import fold_result
from tests.kaggle.cloud import OWNER, Cloud, Run, Version
from tests.kaggle.warm import GATEMASK

COMP, EXP = "phantom", "unet_b0"
RECORDS, WHEELS = f"{OWNER}/gatemask-phantom-quick-records-64", f"{OWNER}/gatemask-wheels"
CPU, TPU = "kaggle.accelerator=none", "kaggle.accelerator=TpuV5E8"


@dataclass
class FakeSession:
    """Course of a session; by default it finishes every fold.

    Args:
        epochs: Number of epochs after which it stops in an orderly way, as at its time limit.
        fails: Message of the GatemaskError that ends a fold, by fold.
        crash: Message of an exception after the first epoch.
        dies: Whether a signal ends its process after the first epoch.
        vanish: Log that is all it leaves.
        killed_after: Fold after which it runs until Kaggle kills it.
        until: Event that it waits for before it begins.
        checks_machine: Whether it checks its machine, as real sessions do; in tests that is a CPU.
        at_end: Called at its end.
    """

    epochs: int | None = None
    fails: dict[int, str] = field(default_factory=dict)
    crash: str | None = None
    dies: bool = False
    vanish: str | None = None
    killed_after: int | None = None
    until: threading.Event | None = None
    checks_machine: bool = False
    at_end: Callable[[], object] = lambda: None


class DiedError(BaseException):
    """Stands for a signal that ends the training process, but not its parent."""


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the session may catch it."""


@dataclass
class FakeMachine:
    """Runner of a `Cloud`: takes the next of `sessions`, or a successful one if none is left.

    Args:
        sessions: Course of the next sessions, in the order of their start.
        finds: Images per device that sessions find where the batch is `auto`.
    """

    sessions: list[FakeSession] = field(default_factory=list)
    finds: int = 32
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _current: threading.local = field(default_factory=threading.local)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace what takes long or depends on the machine."""
        require = session.require_machine
        monkeypatch.setattr(session, "train_folds", self._train)
        monkeypatch.setattr(session, "install_missing_packages", lambda wheels: None)
        monkeypatch.setattr(session, "finish_client", lambda: None)
        monkeypatch.setattr(
            session, "require_machine", lambda wanted: require(wanted) if self._current.plan.checks_machine else None
        )

    def __call__(self, run: Run) -> int:
        with self._lock:
            plan = self.sessions.pop(0) if self.sessions else FakeSession()
        self._current.plan, self._current.run = plan, run
        while plan.until and not plan.until.wait(0.02):
            if run.stop.is_set():
                return -9
        try:
            code = self._session(run, plan)
        except KilledError:
            run.timed_out, code = True, -9
        plan.at_end()
        return code

    def _session(self, run: Run, plan: FakeSession) -> int:
        if plan.vanish is not None:
            run.log.write_text(plan.vanish, encoding="utf-8")
            return 1
        try:
            project = unpack(run)
        except SystemExit as end:
            run.log.write_text(f"{end}\n", encoding="utf-8")
            return 1
        try:
            return session.work(project, run.kaggle, time.monotonic())
        except DiedError:
            request = SessionRequest.load(project / "session.json")
            output = SessionOutput(run.output, request, time.monotonic())
            output.record_death("ended by signal 9")
            return output.exit_code
        finally:
            account = run.output / ACCOUNT_FILE
            error = read_json(account)["error"] if account.exists() else None
            run.log.write_text(f"a session\nerror: {error}\n" if error else "a session\n")

    def _train(self, project: Project, request: SessionRequest, started: float, output: SessionOutput) -> None:
        plan, run = self._current.plan, self._current.run
        exp = load_experiment(project.experiments / f"{request.experiment}.yaml")
        training_inputs = TrainingInputs(project, load_competition(project.experiments), exp)
        if exp.batch.per_device == "auto" and training_inputs.found_batch is None:
            write_found_batch(project, exp.name, found_batch(exp, self.finds))
        for fold in request.folds:
            if fold in plan.fails:
                output.record_failure(str(GatemaskError(plan.fails[fold])), fold)
                continue
            left = train_fold(
                training_inputs,
                fold,
                request.push,
                plan.epochs if plan.epochs is not None else 1 if plan.crash or plan.dies else None,
            )
            if plan.dies:
                raise DiedError
            if plan.crash:
                raise RuntimeError(plan.crash)
            output.record_fold(fold, FoldAccount(done=left is None, left=left))
            if fold == plan.killed_after:
                run.stop.wait(run.timeout_s)
                raise KilledError


def unpack(run: Run) -> Path:
    """Unpack the payload with the script's own code, but for the package: the one of the tests runs."""
    script: dict[str, Any] = {"__name__": "kernel"}
    exec(compile(run.source, "train.py", "exec"), script)
    script["KAGGLE"] = run.kaggle
    project = run.folder / "project"
    with zipfile.ZipFile(io.BytesIO(lzma.decompress(script["payload"]()))) as packed:
        packed.extractall(project, [name for name in packed.namelist() if not name.startswith("lib/")])
    return project


def found_batch(exp: Experiment, per_device: int) -> FoundBatch:
    """Return a batch as a session with eight devices finds it."""
    return FoundBatch(
        per_device=per_device,
        devices=8,
        accelerator="tpu",
        backend="jax",
        gigabytes=14.4,
        tried=(TriedBatch(per_device=per_device, gigabytes=9.5),),
        settings=fingerprints(exp)["settings"],
    )


def train_fold(training_inputs: TrainingInputs, fold: int, who: str, epochs: int | None = None) -> str | None:
    """Write files like those of a training, from the present state on.

    Args:
        training_inputs: Experiment and project.
        fold: Fold to train.
        who: Author of the epochs, kept in the metrics.
        epochs: Number of epochs. Default: all that remain.

    Returns:
        What is left, or None if the fold is finished.
    """
    exp, stage, started = training_inputs.exp, training_inputs.stage(fold), time.monotonic()
    folder = stage.stamp.parent
    folder.mkdir(parents=True, exist_ok=True)
    train.claim_folder(folder, stage.made_from)
    metrics, state = folder / "metrics.jsonl", folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    rows = metrics.read_text().splitlines() if metrics.exists() else []
    assert len(list(state.iterdir())) == bool(rows), "rows and state do not belong together"
    for epoch in range(len(rows), exp.epochs)[:epochs]:
        rows.append(json.dumps({"epoch": epoch, "by": who}))
        metrics.write_text("".join(f"{row}\n" for row in rows))
        shutil.rmtree(state)
        state.mkdir()
        (state / f"at-{epoch + 1:04d}-00000.h5").write_text(f"{who} {epoch}")
    if len(rows) < exp.epochs:
        return f"{exp.epochs - len(rows)} of {exp.epochs} epochs"
    (folder / "best.weights.h5").write_text(f"weights of {who}")
    stage.finish(fold_result(experiment=exp.name, fold=fold), [folder / "best.weights.h5", metrics], started)
    train.remove_resume_files(folder)
    return None


@dataclass
class World:
    """A project, Kaggle and its machine; and the commands, called in this process with short pauses.

    Args:
        cloud: Kaggle, with `machine` as its runner.
        machine: Decides the course of sessions.
        project: Project with records and folds, and without any run.
    """

    cloud: Cloud
    machine: FakeMachine
    project: Project

    def load(self, name: str = EXP, *sets: str) -> tuple[Competition, Experiment]:
        """Load the YAMLs with overrides; those of the competition begin with `kaggle.` and replace the defaults."""
        named = (value.split("=", 1) for value in (f"kaggle.owner={OWNER}", CPU, *sets) if value.startswith("kaggle."))
        for_comp = [f"{key}={value}" for key, value in dict(named).items()]
        comp = load_competition(self.project.experiments, quick=True, overrides=for_comp)
        others = [value for value in sets if not value.startswith("kaggle.")]
        return comp, load_experiment(self.project.experiments / f"{name}.yaml", quick=True, overrides=others)

    def push(self, *sets: str, folds: Sequence[int] | None = (0,), name: str = EXP, **opts: Any) -> PushReport:
        return commands.push_experiment(self.project, *self.load(name, *sets), folds, options(**opts))

    def resume(self, *sets: str, name: str = EXP, **opts: Any) -> PushReport:
        return commands.resume_experiment(self.project, *self.load(name, *sets), options(**opts))

    def wait(self) -> FetchReport:
        return commands.wait_for_kernels(self.project, None, 0.02)

    def fetch(self) -> FetchReport:
        return commands.fetch_kernels(self.project, None)

    def campaign(self, *sets: str, folds: Sequence[int] | None = (0,), **opts: Any) -> CampaignReport:
        comp, exp = self.load(EXP, *sets)
        return campaign.run_campaign(self.project, comp, [exp], folds, options(**opts))

    def done(self, *sets: str, name: str = EXP) -> list[int]:
        """Return the folds that are finished here, as the commands determine it."""
        unfinished = dispatch.unfinished_folds(self.project, *self.load(name, *sets), None)
        return [fold for fold in (0, 1) if fold not in unfinished]

    def inputs(self, *sets: str) -> TrainingInputs:
        """Return the inputs for a training on this machine."""
        comp, exp = self.load(EXP, *sets)
        return TrainingInputs(self.project, comp, exp)

    def fold(self, number: int = 0) -> Path:
        return self.project.fold(EXP, number)

    def authors(self, number: int = 0) -> list[str]:
        """Return the author of each epoch of a fold here, in order."""
        return [json.loads(row)["by"] for row in (self.fold(number) / "metrics.jsonl").read_text().splitlines()]

    def kernels(self) -> list[TrainingKernel]:
        return kernel_records.load_kernels(self.project)

    @property
    def kernel(self) -> TrainingKernel:
        (only_kernel,) = self.kernels()
        return only_kernel

    def versions(self, fold: int | str = 0) -> list[Version]:
        """Return the versions of a fold's kernel: one per session."""
        return self.cloud.kernels.get(ref(fold), [])

    def finish(self) -> None:
        """Wait until every session has ended."""
        for thread in list(self.cloud._threads):
            thread.join(30)
            assert not thread.is_alive()

    def start_foreign_session(self, folder: Path) -> Run:
        """Start a session on a TPU that gatemask did not push; it ends when its `state` is set."""
        run = Run(f"{OWNER}/other", 1, {"machineShape": "TpuV5E8"}, "", folder, 60, 0, state="RUNNING")
        self.cloud.kernels[run.ref] = [Version(1, run.request, "", run)]
        return run

    def command(self, *arguments: str) -> list[str]:
        """Return the arguments of Python that run the real gatemask, with the kaggle command of WARM_KAGGLE."""
        sets = ["--set", f"kaggle.owner={OWNER}", "--set", CPU] if arguments[0] in ("push", "campaign") else []
        more = ["--allow-dirty", *sets] if sets else []
        poll = [] if arguments[0] == "fetch" else ["--poll", "0.05"]
        return ["-c", GATEMASK, *arguments, "--quick", *poll, *more, "--json"]


def ref(fold: int | str = 0) -> str:
    return f"{OWNER}/gatemask-phantom-quick-unet-b0-f{fold}"


def options(**more: Any) -> PushOptions:
    return PushOptions(**{"allow_dirty": True, "poll_s": 0.02, **more})


def seed(cloud: Cloud, project: Project) -> None:
    """Put the datasets that every kernel reads on Kaggle, as an earlier push would have."""
    comp = load_competition(project.experiments, quick=True)
    for source in (inputs.records_dataset(project, comp), inputs.wheels_dataset()):
        folder = datasets.write_upload_folder(project, source, OWNER)
        dataset_ref = f"{OWNER}/{source.slug}"
        files: dict[str, bytes | Path] = {path.name: path.read_bytes() for path in folder.iterdir()}
        files.pop("dataset-metadata.json")
        cloud.datasets[dataset_ref] = [files]
        note = {"ref": dataset_ref, "digest": source.digest, "version": 1, "whole": True}
        write_json(project.root / "runs" / ".kaggle" / f"{source.slug}.json", note)


def project_from(prepared: Path, folder: Path) -> Project:
    """Copy a project whose records are made."""
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("raw", "runs", "dist"))
    return Project(folder, COMP, quick=True)


def change_records(project: Project) -> None:
    """Change the records as if they had been made from other images."""
    index = project.records(64) / "index.json"
    stamp = read_json(index)
    name = sorted(stamp["outputs"])[0]
    shard = index.with_name(name)
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content + os.urandom(16))
    stamp["outputs"][name] = sha256(shard)
    write_stamp(index, stamp)
