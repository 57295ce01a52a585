"""Send folds to Kaggle: datasets first, then the kernel, each step written down before it is taken."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gatemask.config import Competition, Experiment
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, is_current, read_json, sha256, write_bytes
from gatemask.kaggle.client import account, api, datasets, reconcile
from gatemask.kaggle.client.cli import MEANING, KaggleError
from gatemask.kaggle.image import wheels
from gatemask.kaggle.image.machines import MACHINES, Machine, machine
from gatemask.kaggle.train import bundle, inputs, kernel_records
from gatemask.kaggle.train.kernel_records import Lane, Push
from gatemask.project import Project

LEAST_H = 0.5  # hours left of a quota with which a session is not worth its start


@dataclass(frozen=True)
class Options:
    """How to push.

    Args:
        allow_dirty: take files that were changed since the last commit.
        afresh: attach no earlier output: unfinished folds begin anew.
        hours: a session's limit; default: the machine's.
        poll_s: seconds between two questions to Kaggle.
        overrides: `--set`, to be remembered.
    """

    allow_dirty: bool = False
    afresh: bool = False
    hours: float | None = None
    poll_s: float = 30.0
    overrides: tuple[str, ...] = ()


def settle(project: Project, every: Sequence[Lane]) -> None:
    """Find out what became of pushes that were begun and never noted as done: a command was killed there."""
    for lane in every:
        if lane.active and lane.last.state == "pushing":
            push = lane.last
            arrived = reconcile.settle_push(lane.ref, push.id)
            push.state = "running" if arrived else "refused"
            push.message = None if arrived else "it never got to Kaggle"
            kernel_records.save(project, lane)


def unfinished(project: Project, comp: Competition, exp: Experiment, folds: Sequence[int] | None) -> list[int]:
    """The folds, of those given or of all, whose result is not on this disk for these settings and data."""
    from gatemask.data.split import HOLDOUT, read_folds
    from gatemask.training.time_budget import Clock
    from gatemask.training.trainer import Job

    job = Job(project, comp, exp, read_folds(project), Clock(None))
    known = sorted(set(job.folds["fold"]) - {HOLDOUT})
    chosen = known if folds is None else list(folds)
    if unknown := [fold for fold in chosen if fold not in known]:
        raise GatemaskError("There is no such fold.", received=unknown[0], expected=", ".join(map(str, known)))
    done = [f for f in chosen if is_current(project.fold(exp.name, f) / "result.json", job.made_from(f))]
    return [fold for fold in chosen if fold not in done]


def away(every: Sequence[Lane], experiment: str) -> set[int]:
    """Folds of an experiment that a kernel has in hand."""
    return {fold for lane in every if lane.active and lane.experiment == experiment for fold in lane.last.folds}


def plan(every: Sequence[Lane], label: str, name: str, exp: Experiment, folds: Sequence[int], free: int) -> list[Lane]:
    """Lanes for the folds: each goes back to the kernel that began it; the others are dealt over new ones.

    Args:
        every: all lanes there are.
        label: of the project.
        name: of the kernels' owner.
        exp: the experiment.
        folds: to train; none of them in hand.
        free: how many kernels may be started.

    Returns:
        At most `free` lanes, each with the folds of its next push as `folds`.
    """
    found: dict[str, list[int]] = {}
    by_ref = {lane.ref: lane for lane in every}
    fresh = []
    for fold in folds:
        lane = kernel_records.holder(every, exp.name, fold)
        if lane is not None and not lane.active:
            found.setdefault(lane.ref, []).append(fold)
        else:
            fresh.append(fold)
    chosen = [Lane(ref, exp.name, part, "", by_ref[ref].pushes) for ref, part in found.items()][:free]
    count = min(len(fresh), free - len(chosen))
    if count == 0 and chosen:  # where the only kernel goes on with what it began, it takes the rest as well
        chosen[-1].folds = chosen[-1].folds + fresh
    for number in range(count):
        part = fresh[number::count]
        ref = f"{name}/{bundle.slug(label, exp.name, 'f' + '-'.join(map(str, part)))}"
        known = by_ref.get(ref)
        chosen.append(Lane(ref, exp.name, part, "", known.pushes if known else []))
    return chosen


def start(
    project: Project,
    comp: Competition,
    exp: Experiment,
    lane: Lane,
    every: Sequence[Lane],
    opts: Options,
    ready: dict[str, int],
) -> Lane:
    """Push a lane's folds: datasets are made sure of, the intent is written down, the kernel is pushed, and noted.

    Args:
        project, comp, exp: what to train.
        lane: the kernel, with the folds of this push.
        every: all lanes there are, among them those with earlier output of these folds.
        opts: how.
        ready: versions of datasets by name, that were made sure of just now; more are added.

    Raises:
        GatemaskError: Kaggle refuses it, or it cannot be bundled. Nothing runs then, unless the message says so.
    """
    _refuse_namesake(project, exp, lane)
    wanted, name = machine(comp, exp), lane.ref.split("/")[0]
    commit = account.clean_commit(project, opts.allow_dirty)
    hours = session_hours(wanted, opts.hours or exp.hours, every)
    needed = inputs.input_datasets(project, comp, exp, lane.folds)
    push = Push(uuid.uuid4().hex[:12], lane.folds, hours, commit, account.utc_now())
    push.overrides = list(opts.overrides)
    push.made_of = made_of(project, comp, exp, lane.folds)
    goes_on = {}
    for fold in [] if opts.afresh else lane.folds:
        if (holding := kernel_records.holder(every, exp.name, fold)) and (source := kernel_records.mounted(holding)):
            goes_on[str(fold)] = source.progress[str(fold)]
            push.sources = sorted({*push.sources, holding.ref})
    session = bundle.Session(
        push=push.id,
        ref=lane.ref,
        comp=comp.name,
        quick=project.quick,
        experiment=exp.name,
        folds=lane.folds,
        machine=wanted.name,
        hours=hours,
        commit=commit,
        datasets={one.kind: one.digest for one in needed},
        goes_on=goes_on,
    )
    data = bundle.payload(project, comp, exp, session)  # before any upload: it may be refused
    for one in needed:
        if (key := f"{name}/{one.slug}") not in ready:
            ready[key] = datasets.ensure_uploaded(project, one, name, opts.poll_s)
    attached = {key: ready[key] for key in (f"{name}/{one.slug}" for one in needed)}
    folder = project.dist / "kaggle" / lane.slug
    sources = {"dataset_sources": sorted(attached), "kernel_sources": push.sources}
    if not bundle.write(folder, data, session, wanted, sources):
        path = write_bytes(project.dist / "kaggle" / f"{lane.slug}-payload" / "payload.bin", data)
        one = inputs.payload_dataset(lane.slug, path)
        attached[f"{name}/{one.slug}"] = datasets.ensure_uploaded(project, one, name, opts.poll_s)
        bundle.write(folder, data, session, wanted, {**sources, "dataset_sources": sorted(attached)})
    push.datasets, push.at = attached, account.utc_now()
    # Of those that were refused, the last one is enough: a campaign that waits for a machine asks a hundred times.
    lane.machine, lane.pushes = wanted.name, [*(one for one in lane.pushes if one.state != "refused"), push]
    kernel_records.save(project, lane)
    _send(project, lane, folder)
    return lane


def made_of(project: Project, comp: Competition, exp: Experiment, folds: Sequence[int]) -> str:
    """Changes with all that could let a training end otherwise: code, settings, data, split, machine."""
    digests = [one.digest for one in inputs.input_datasets(project, comp, exp, list(folds))]
    settings = [exp.settings, machine(comp, exp).name, wheels.source_fingerprint(), sha256(project.folds)]
    return fingerprint([settings, digests])


def _send(project: Project, lane: Lane, folder: Path) -> None:
    push = lane.last
    push.state, push.version, error = reconcile.push_kernel(lane.ref, push.id, folder, round(push.hours * 3600))
    push.message = error.short() if error else None
    kernel_records.save(project, lane)
    if error:
        raise error
    folds = ", ".join(map(str, push.folds))
    number = f"version {push.version}" if push.version else "its version"
    say(f"{lane.ref}: {number} is pushed: {lane.experiment}, folds {folds}, at most {push.hours:.2g} h")


def session_hours(wanted: Machine, limit: float | None, every: Sequence[Lane]) -> float:
    """A session's limit: the machine's, the user's, and what the week's quota still has for it.

    Raises:
        KaggleError: kind "quota" where there is too little left.
    """
    hours = min(wanted.hours, limit or wanted.hours)
    quota = api.quota().get(wanted.quota) if wanted.quota else None
    if quota is None:
        return hours
    promised = sum(_ahead(lane) for lane in every if lane.active and MACHINES[lane.machine].quota == wanted.quota)
    left = quota.total_h - quota.used_h - promised
    if left < min(LEAST_H, hours):
        others = ", ".join(name for name, one in MACHINES.items() if one.quota != wanted.quota)
        raise KaggleError(
            MEANING["quota"][0],
            kind="quota",
            where=wanted.name,
            received=f"{max(0.0, left):.2f} h of {quota.total_h:.0f} h left"
            + (f", less {promised:.1f} h of kernels that run" if promised else ""),
            do=f"Wait until {quota.refresh}, or take another machine: --set kaggle.accelerator=, one of {others}.",
        )
    return min(hours, left)


def _ahead(lane: Lane) -> float:
    """Hours that a kernel may still use."""
    since = datetime.now(UTC) - datetime.fromisoformat(lane.last.at)
    return max(0.0, lane.last.hours - since.total_seconds() / 3600)


def room(every: Sequence[Lane], wanted: Machine) -> int:
    """How many more kernels Kaggle would run on such machines."""
    return wanted.at_once - sum(lane.active and MACHINES[lane.machine].kind == wanted.kind for lane in every)


def _refuse_namesake(project: Project, exp: Experiment, lane: Lane) -> None:
    """Two experiments may have names that become one on Kaggle: each push would take the other's kernel over."""
    for path in (project.root / "runs").glob(f"*/kaggle/{lane.slug}.json"):
        known = (path.parts[-3], read_json(path)["experiment"])
        if known != (project.label, exp.name):
            raise GatemaskError(
                "Two experiments have names that Kaggle cannot tell apart.",
                received=f"{'/'.join(known)} and {project.label}/{exp.name}",
                expected="names that differ in letters or digits",
                do="Rename one of them.",
            )
