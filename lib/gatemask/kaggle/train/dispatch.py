"""Send folds to Kaggle: datasets first, then the kernel. Each step is recorded before it is taken."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gatemask.config import Competition, Experiment
from gatemask.config.machines import Machine, machine, machines
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, read_json_object, sha256, write_bytes
from gatemask.kaggle.client import account, api, reconcile
from gatemask.kaggle.client.cli import MEANING, KaggleError
from gatemask.kaggle.client.datasets import Dataset, ensure_uploaded
from gatemask.kaggle.client.slugs import kaggle_slug
from gatemask.kaggle.image import own_wheel
from gatemask.kaggle.image.machines import machine_for
from gatemask.kaggle.train import bundle
from gatemask.kaggle.train.inputs import input_datasets, payload_dataset
from gatemask.kaggle.train.kernel_records import Push, TrainingKernel, furthest_kernel, save_kernel
from gatemask.project import Project
from gatemask.results.kaggle_training import SessionRequest
from gatemask.training.fold_inputs import TrainingInputs

SHORTEST_SESSION_H = 0.5  # with fewer hours of the quota left, a session is not worth starting


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    Args:
        allow_dirty: Whether files may have changed since the last commit. Default: False.
        from_scratch: Whether unfinished folds begin again, without any earlier output. Default: False.
        hours: Session limit, in hours. Default: the machine's.
        poll_s: Pause between two requests to Kaggle, in seconds. Default: 30.
        overrides: Values of `--set`, kept with the push.
    """

    allow_dirty: bool = False
    from_scratch: bool = False
    hours: float | None = None
    poll_s: float = 30.0
    overrides: tuple[str, ...] = ()


def reconcile_pushes(project: Project, kernels: Sequence[TrainingKernel]) -> None:
    """Find out what became of pushes without a recorded outcome, after a command was killed or lost the network."""
    for kernel in kernels:
        if kernel.active and kernel.last.state == "pushing":
            arrived = reconcile.settle_push(kernel.ref, kernel.last.id)
            kernel.last.state = "running" if arrived else "refused"
            kernel.last.message = None if arrived else "The push did not reach Kaggle."
            save_kernel(project, kernel)


def unfinished_folds(project: Project, comp: Competition, exp: Experiment, folds: Sequence[int] | None) -> list[int]:
    """Return the folds that must be trained for the present settings and data.

    A fold that must only be predicted again, on this machine, is not among them.

    Args:
        project, comp, exp: Experiment to train.
        folds: Folds to choose from. Default: all.

    Raises:
        GatemaskError: A fold does not exist.
    """
    inputs = TrainingInputs(project, comp, exp)
    unfinished = [fold for fold in inputs.choose_folds(folds) if inputs.stage(fold).current() is None]
    trained = [fold for fold in unfinished if inputs.is_trained(fold)]
    for fold in trained:
        do = f"run gatemask train {project.comp}/{exp.name} --fold {fold}"
        say(f"{exp.name} fold {fold} is trained; to choose its epochs or predict it again, {do}.")
    return [fold for fold in unfinished if fold not in trained]


def folds_in_progress(kernels: Sequence[TrainingKernel], experiment: str) -> set[int]:
    """Return the folds of an experiment that an active kernel is training."""
    active = [kernel for kernel in kernels if kernel.active and kernel.experiment == experiment]
    return {fold for kernel in active for fold in kernel.last.folds}


def free_slots(kernels: Sequence[TrainingKernel], wanted: Machine) -> int:
    """Return how many more kernels Kaggle would run on such machines."""
    return wanted.at_once - sum(kernel.active and machine(kernel.machine).kind == wanted.kind for kernel in kernels)


def folds_at_once(exp: Experiment, wanted: Machine) -> int:
    """Return how many folds of an experiment a machine trains at the same time."""
    if exp.runtime.folds == "sequence" or not wanted.trains_folds_side_by_side:
        return 1
    return wanted.devices if exp.runtime.devices == "all" else min(exp.runtime.devices, wanted.devices)


def assign_to_kernels(
    kernels: Sequence[TrainingKernel],
    label: str,
    owner: str,
    exp: Experiment,
    folds: Sequence[int],
    slots: int,
    at_once: int = 1,
) -> list[TrainingKernel]:
    """Distribute folds over kernels: each returns to the kernel that began it; new kernels share the others.

    Args:
        kernels: All existing kernels.
        label: Label of the project.
        owner: Owner of the kernels.
        exp: Experiment to train.
        folds: Folds to train, none of them in progress.
        slots: Number of kernels that may be started.
        at_once: Number of folds that a kernel trains at the same time; fewer would leave devices idle. Default: 1.

    Returns:
        At most `slots` kernels, each with the folds of its next push as `folds`.
    """
    by_ref = {kernel.ref: kernel for kernel in kernels}
    begun: dict[str, list[int]] = {}
    new: list[int] = []
    for fold in folds:
        kernel = furthest_kernel(kernels, exp.name, fold)
        if kernel is not None and not kernel.active:
            begun.setdefault(kernel.ref, []).append(fold)
        else:
            new.append(fold)
    assigned = [TrainingKernel(ref, exp.name, part, "", by_ref[ref].pushes) for ref, part in begun.items()][:slots]
    count = min(math.ceil(len(new) / at_once), slots - len(assigned))
    if count == 0 and assigned:  # no slot for a new kernel: the last one takes the new folds as well
        assigned[-1].folds = assigned[-1].folds + new
    for number in range(count):
        part = new[number::count]
        ref = f"{owner}/{kaggle_slug(label, exp.name, 'f' + '-'.join(map(str, part)))}"
        pushes = by_ref[ref].pushes if ref in by_ref else []
        assigned.append(TrainingKernel(ref, exp.name, part, "", pushes))
    return assigned


@dataclass
class Dispatcher:
    """Pushes training kernels of one competition.

    Args:
        project: Project to push from.
        comp: Its competition.
        opts: How to push.
    """

    project: Project
    comp: Competition
    opts: PushOptions
    _versions: dict[str, int] = field(default_factory=dict)  # of datasets, by owner/slug, ensured by this dispatcher

    def push(self, exp: Experiment, kernel: TrainingKernel, kernels: Sequence[TrainingKernel]) -> TrainingKernel:
        """Push a kernel's folds: upload datasets, record the intent, push, record the outcome.

        Args:
            exp: Experiment to train.
            kernel: Kernel, with the folds of this push.
            kernels: All existing kernels, among them those with earlier output of these folds.

        Raises:
            GatemaskError: Kaggle refuses the push, or it cannot be bundled. Nothing runs then, unless the message
                says so.
        """
        _refuse_slug_clash(self.project, exp, kernel)
        wanted = machine_for(self.comp, exp)
        push = self._new_push(exp, kernel, kernels)
        datasets = input_datasets(self.project, self.comp, exp, kernel.folds)
        request = SessionRequest(
            push=push.id,
            ref=kernel.ref,
            comp=self.comp.name,
            quick=self.project.quick,
            experiment=exp.name,
            folds=tuple(kernel.folds),
            machine=wanted.name,
            hours=push.hours,
            commit=push.commit,
            datasets={dataset.kind: dataset.digest for dataset in datasets},
            resume_from=self._attach_earlier_output(exp, push, kernels),
            batch=TrainingInputs(self.project, self.comp, exp).found_batch,
        )
        folder = self._write_bundle(exp, request, push, datasets)
        push.at = account.utc_now()
        # One refused push is enough: a campaign that waits for a machine may be refused a hundred times.
        kernel.pushes = [*(earlier for earlier in kernel.pushes if earlier.state != "refused"), push]
        kernel.machine = wanted.name
        save_kernel(self.project, kernel)
        self._send(kernel, folder)
        return kernel

    def _new_push(self, exp: Experiment, kernel: TrainingKernel, kernels: Sequence[TrainingKernel]) -> Push:
        commit = account.clean_commit(self.project, self.opts.allow_dirty)
        hours = session_hours(machine_for(self.comp, exp), self.opts.hours or exp.hours, kernels)
        push = Push(uuid.uuid4().hex[:12], kernel.folds, hours, commit, account.utc_now())
        push.overrides = list(self.opts.overrides)
        push.made_of = training_fingerprint(self.project, self.comp, exp, kernel.folds)
        return push

    def _attach_earlier_output(self, exp: Experiment, push: Push, kernels: Sequence[TrainingKernel]) -> dict[str, str]:
        """Attach the kernels that hold states of the folds; return the state to continue from, by fold number."""
        resume_from: dict[str, str] = {}
        for fold in [] if self.opts.from_scratch else push.folds:
            source = furthest_kernel(kernels, exp.name, fold)
            if source is not None and (mounted := source.mounted_push) is not None:
                resume_from[str(fold)] = mounted.progress[str(fold)]
                push.sources = sorted({*push.sources, source.ref})
        return resume_from

    def _write_bundle(self, exp: Experiment, request: SessionRequest, push: Push, datasets: Sequence[Dataset]) -> Path:
        """Upload the datasets, record their versions, and write the kernel to push."""
        owner, slug = request.ref.split("/")
        payload = bundle.build_payload(self.project, self.comp, exp, request)  # before any upload: it may be refused
        push.datasets = {f"{owner}/{dataset.slug}": self._version(dataset, owner) for dataset in datasets}
        folder = self.project.dist / "kaggle" / slug
        if not bundle.write_kernel(folder, payload, request, sorted(push.datasets), push.sources):
            path = write_bytes(self.project.dist / "kaggle" / f"{slug}-payload" / "payload.bin", payload)
            dataset = payload_dataset(slug, path)
            push.datasets[f"{owner}/{dataset.slug}"] = ensure_uploaded(self.project, dataset, owner, self.opts.poll_s)
            bundle.write_kernel(folder, payload, request, sorted(push.datasets), push.sources)
        return folder

    def _version(self, dataset: Dataset, owner: str) -> int:
        ref = f"{owner}/{dataset.slug}"
        if ref not in self._versions:
            self._versions[ref] = ensure_uploaded(self.project, dataset, owner, self.opts.poll_s)
        return self._versions[ref]

    def _send(self, kernel: TrainingKernel, folder: Path) -> None:
        push = kernel.last
        outcome = reconcile.push_and_reconcile(kernel.ref, push.id, folder, round(push.hours * 3600))
        push.state, push.version = outcome.state, outcome.version
        push.message = outcome.error.short() if outcome.error else None
        save_kernel(self.project, kernel)
        if outcome.error:
            raise outcome.error
        folds = ", ".join(map(str, push.folds))
        number = f"version {push.version}" if push.version else "a version of unknown number"
        say(f"{kernel.ref}: pushed {number}: {kernel.experiment}, folds {folds}, at most {push.hours:.2g} h")


def training_fingerprint(project: Project, comp: Competition, exp: Experiment, folds: Sequence[int]) -> str:
    """Return a fingerprint of all that decides the result: code, settings, data, split and machine."""
    digests = [dataset.digest for dataset in input_datasets(project, comp, exp, folds)]
    settings = [exp.settings, machine_for(comp, exp).name, own_wheel.source_fingerprint(), sha256(project.folds)]
    return fingerprint([settings, digests])


def session_hours(wanted: Machine, limit: float | None, kernels: Sequence[TrainingKernel]) -> float:
    """Return a session's limit in hours: the least of the machine's, the user's, and what the weekly quota leaves.

    Args:
        wanted: Machine of the session.
        limit: The user's limit, in hours. Default: none.
        kernels: All existing kernels; those that run will use part of the quota.

    Raises:
        KaggleError: Kind "quota": too few hours are left.
    """
    hours = min(wanted.hours, limit or wanted.hours)
    quota = api.quota().get(wanted.quota) if wanted.quota else None
    if quota is None:
        return hours
    reserved = sum(_hours_ahead(k) for k in kernels if k.active and machine(k.machine).quota == wanted.quota)
    left = quota.total_h - quota.used_h - reserved
    if left < min(SHORTEST_SESSION_H, hours):
        others = ", ".join(name for name, other in machines().items() if other.quota != wanted.quota)
        raise KaggleError(
            MEANING["quota"][0],
            kind="quota",
            where=wanted.name,
            received=f"{max(0.0, left):.2f} h of {quota.total_h:.0f} h left"
            + (f", less {reserved:.1f} h of running kernels" if reserved else ""),
            do=f"Wait until {quota.refresh}, or choose another machine: --set kaggle.accelerator=, one of {others}.",
        )
    return min(hours, left)


def _hours_ahead(kernel: TrainingKernel) -> float:
    """Return the hours that an active kernel may still use."""
    elapsed = datetime.now(UTC) - datetime.fromisoformat(kernel.last.at)
    return max(0.0, kernel.last.hours - elapsed.total_seconds() / 3600)


def _refuse_slug_clash(project: Project, exp: Experiment, kernel: TrainingKernel) -> None:
    """Raise if another experiment's name becomes the same slug: each push would take over the other's kernel."""
    for path in (project.root / "runs").glob(f"*/kaggle/{kernel.slug}.json"):
        record = read_json_object(path, "experiment", do=f"Restore {path} from a backup.")
        label, experiment = path.parts[-3], record["experiment"]
        if (label, experiment) != (project.label, exp.name):
            raise GatemaskError(
                "Two experiments have names that Kaggle cannot tell apart.",
                received=f"{label}/{experiment} and {project.label}/{exp.name}",
                expected="names that differ in letters or digits",
                do="Rename one of them.",
            )
