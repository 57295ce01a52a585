"""A machine of Kaggle's that trains nothing, and a project of one's own beside it: faults are met in seconds.

What the kernel does around the training is the real code, `gatemask.kaggle.train.session`: inputs, account, earlier
output. Only the training itself is a few files of a few bytes, stamped with the real hashes of what they are made from.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gatemask.config import Competition, Experiment, load_competition, load_experiment
from gatemask.data.split import read_folds
from gatemask.errors import GatemaskError
from gatemask.files import read_json, sha256, write_json, write_stamp
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
from gatemask.training import train
from gatemask.training.time_budget import Clock
from gatemask.training.trainer import Job
from tests.conftest import environment
from tests.kaggle.cloud import OWNER, Cloud, Run, Version

COMP, EXP = "phantom", "unet_b0"
RECORDS, WHEELS = f"{OWNER}/gatemask-phantom-quick-records-64", f"{OWNER}/gatemask-wheels"
CPU, TPU = "kaggle.accelerator=none", "kaggle.accelerator=TpuV5E8"


@dataclass
class Session:
    """How one session goes; as it is, every fold gets done.

    Args:
        epochs: after so many it stops in good order, as at its time limit.
        fails: fold -> what its GatemaskError says.
        crash: what an exception after the first epoch says.
        dies: its process is ended by a signal after the first epoch.
        vanish: all that it leaves is this log.
        killed_after: when this fold is done it goes on until Kaggle kills it.
        until: it runs until this is set.
        insists: it looks at its machine, as real ones do: that of the tests is a CPU.
        at_end: called when it has ended.
    """

    epochs: int | None = None
    fails: dict[int, str] = field(default_factory=dict)
    crash: str | None = None
    dies: bool = False
    vanish: str | None = None
    killed_after: int | None = None
    until: threading.Event | None = None
    insists: bool = False
    at_end: Callable[[], object] = lambda: None


class DiedError(BaseException):
    """As by a signal that ends the training's process, and not the one that waits for it."""


class KilledError(BaseException):
    """As by SIGKILL: nothing in the session may catch it."""


@dataclass
class Machine:
    """The runner of a `Cloud`: takes the next of `sessions`, or a good one where none is left.

    Args:
        sessions: how the next ones go, in the order of their start.
    """

    sessions: list[Session] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _mine: threading.local = field(default_factory=threading.local)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the places of what takes long, or looks at the machine."""
        real = session.require_machine
        monkeypatch.setattr(session, "train_folds", self._train)
        monkeypatch.setattr(session, "install_missing_packages", lambda wheels: None)
        monkeypatch.setattr(session, "finish_wandb", lambda: None)
        monkeypatch.setattr(session, "require_machine", lambda m: real(m) if self._mine.plan.insists else None)

    def __call__(self, run: Run) -> int:
        with self._lock:
            plan = self.sessions.pop(0) if self.sessions else Session()
        self._mine.plan, self._mine.run = plan, run
        while plan.until and not plan.until.wait(0.02):
            if run.stop.is_set():
                return -9
        try:
            code = self._session(run, plan)
        except KilledError:
            run.timed_out, code = True, -9
        plan.at_end()
        return code

    def _session(self, run: Run, plan: Session) -> int:
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
            told = read_json(account)["error"] if account.exists() else None
            run.log.write_text(f"here was a session\nerror: {told}\n" if told else "here was a session\n")

    def _train(self, project: Project, request: SessionRequest, started: float, output: SessionOutput) -> None:
        plan, run = self._mine.plan, self._mine.run
        exp = load_experiment(project.experiments / f"{request.experiment}.yaml")
        job = Job(project, load_competition(project.experiments), exp, read_folds(project), Clock(None))
        for fold in request.folds:
            if fold in plan.fails:
                output.record_failure(str(GatemaskError(plan.fails[fold])), fold)
                continue
            left = train_fold(
                job,
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
    """The payload, by the script's own means; the package in it is the one that runs here."""
    script: dict[str, Any] = {"__name__": "kernel"}
    exec(compile(run.source, "train.py", "exec"), script)
    script["KAGGLE"] = run.kaggle
    project = run.folder / "project"
    with zipfile.ZipFile(io.BytesIO(lzma.decompress(script["payload"]()))) as packed:
        packed.extractall(project, [name for name in packed.namelist() if not name.startswith("lib/")])
    return project


def train_fold(job: Job, fold: int, who: str, epochs: int | None = None) -> str | None:
    """Files as of a training, from where it stands; returns what is left after `epochs`."""
    folder, made_from, started = job.project.fold(job.exp.name, fold), job.made_from(fold), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    train._make_room(folder, made_from)
    metrics, state = folder / "metrics.jsonl", folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    rows = metrics.read_text().splitlines() if metrics.exists() else []
    assert len(list(state.iterdir())) == bool(rows), "rows and state do not belong together"
    for epoch in range(len(rows), job.exp.epochs)[:epochs]:
        rows.append(json.dumps({"epoch": epoch, "by": who}))
        metrics.write_text("".join(f"{row}\n" for row in rows))
        shutil.rmtree(state)
        state.mkdir()
        (state / f"at-{epoch + 1:04d}-00000.h5").write_text(f"{who} {epoch}")
    if len(rows) < job.exp.epochs:
        return f"{job.exp.epochs - len(rows)} of {job.exp.epochs} epochs"
    (folder / "best.weights.h5").write_text(f"weights of {who}")
    write_stamp(folder / "result.json", made_from, {"score": 0.5}, [folder / "best.weights.h5", metrics], started)
    train._tidy(folder)
    return None


@dataclass
class World:
    """A project, Kaggle, and a machine; the commands, called in this process with few polls.

    Args:
        cloud: its runner is `machine`.
        machine: how sessions go.
        project: with records and folds, and nothing trained.
    """

    cloud: Cloud
    machine: Machine
    project: Project

    def load(self, name: str = EXP, *sets: str) -> tuple[Competition, Experiment]:
        """The YAMLs; of `sets`, those of the competition begin with `kaggle.`."""
        for_comp = [f"kaggle.owner={OWNER}", CPU, *(one for one in sets if one.startswith("kaggle."))]
        comp = load_competition(self.project.experiments, quick=True, overrides=for_comp)
        others = [one for one in sets if not one.startswith("kaggle.")]
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
        """The folds that are finished here, by the very look that the commands take."""
        left = dispatch.unfinished_folds(self.project, *self.load(name, *sets), None)
        return [fold for fold in (0, 1) if fold not in left]

    def job(self, *sets: str) -> Job:
        """To train here."""
        comp, exp = self.load(EXP, *sets)
        return Job(self.project, comp, exp, read_folds(self.project), Clock(None))

    def fold(self, number: int = 0) -> Path:
        return self.project.fold(EXP, number)

    def by(self, number: int = 0) -> list[str]:
        """Whose epochs a fold here is made of, in order."""
        return [json.loads(row)["by"] for row in (self.fold(number) / "metrics.jsonl").read_text().splitlines()]

    def kernels(self) -> list[TrainingKernel]:
        return kernel_records.load_kernels(self.project)

    @property
    def kernel(self) -> TrainingKernel:
        (only_kernel,) = self.kernels()
        return only_kernel

    def versions(self, fold: int | str = 0) -> list[Version]:
        """What was pushed of a lane: one each that runs or ran."""
        return self.cloud.kernels.get(ref(fold), [])

    def finish(self) -> None:
        """Until every session has ended."""
        for thread in list(self.cloud._threads):
            thread.join(30)
            assert not thread.is_alive()

    def foreign(self, folder: Path) -> Run:
        """A session of this account that is none of ours, on a TPU; ends when its `state` is set."""
        run = Run(f"{OWNER}/other", 1, {"machineShape": "TpuV5E8"}, "", folder, 60, 0, state="RUNNING")
        self.cloud.kernels[run.ref] = [Version(1, run.request, "", run)]
        return run

    def command(self, *arguments: str) -> list[str]:
        """A command line of the real gatemask."""
        sets = ["--set", f"kaggle.owner={OWNER}", "--set", CPU] if arguments[0] in ("push", "campaign") else []
        more = ["--allow-dirty", *sets] if sets else []
        poll = [] if arguments[0] == "fetch" else ["--poll", "0.05"]
        return [sys.executable, "-m", "gatemask", *arguments, "--quick", *poll, *more, "--json"]

    def environment(self) -> dict[str, str]:
        return environment(self.project.root)


def ref(fold: int | str = 0) -> str:
    return f"{OWNER}/gatemask-phantom-quick-unet-b0-f{fold}"


def options(**more: Any) -> PushOptions:
    return PushOptions(**{"allow_dirty": True, "poll_s": 0.02, **more})


def seed(cloud: Cloud, project: Project) -> None:
    """Have on Kaggle what every kernel reads, as an earlier push would have left it."""
    comp = load_competition(project.experiments, quick=True)
    for source in (inputs.records_dataset(project, comp), inputs.wheels_dataset()):
        folder = datasets.write_upload_folder(project, source, OWNER)
        named = f"{OWNER}/{source.slug}"
        files: dict[str, bytes | Path] = {path.name: path.read_bytes() for path in folder.iterdir()}
        files.pop("dataset-metadata.json")
        cloud.datasets[named] = [files]
        note = {"ref": named, "digest": source.digest, "version": 1, "whole": True}
        write_json(project.root / "runs" / ".kaggle" / f"{source.slug}.json", note)


def project_from(prepared: Path, folder: Path) -> Project:
    """A project of one's own, from one whose records are made."""
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("raw", "runs", "dist"))
    return Project(folder, COMP, quick=True)


def change_records(project: Project) -> None:
    """As if the records had been made anew from other images."""
    index = project.records(64) / "index.json"
    known = read_json(index)
    name = sorted(known["outputs"])[0]
    shard = index.with_name(name)
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content + os.urandom(16))
    known["outputs"][name] = sha256(shard)
    write_json(index, known)
