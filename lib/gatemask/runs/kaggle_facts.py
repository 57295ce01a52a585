"""What the records of training kernels and submissions say about each experiment."""

from __future__ import annotations

from collections.abc import Iterable

from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.runs.cache import KaggleFacts, RunCache, Spent, Submitted
from gatemask.runs.scan import folder_signature


def read_kaggle_facts(project: Project, cache: RunCache) -> KaggleFacts:
    """Return costs on Kaggle and leaderboard scores, by experiment."""
    folders = (project.runs / "kaggle", project.runs / "submissions")
    signed = " ".join(folder_signature(folder, ".json") for folder in folders)
    if cache.facts.kaggle.signature != signed:
        cache.facts.kaggle = _read(project, signed)
        cache.changed()
    return cache.facts.kaggle


def _read(project: Project, signed: str) -> KaggleFacts:
    if not signed.strip():
        return KaggleFacts(signature=signed)
    problems: list[str] = []
    spent, submitted = _spent(project, problems), _submitted(project, problems)
    return KaggleFacts(signature=signed, spent=spent, submitted=submitted, problems=tuple(problems))


def _spent(project: Project, problems: list[str]) -> dict[str, Spent]:
    from gatemask.config.machines import machines
    from gatemask.kaggle.train.kernel_records import kernel_files, load_kernel

    hours: dict[str, float] = {}
    active: dict[str, set[int]] = {}
    for path in kernel_files(project):
        try:
            kernel = load_kernel(path)
        except GatemaskError as error:
            problems.append(f"{path}: {error.short()}")
            continue
        machine = machines().get(kernel.machine)
        seconds = sum(push.seconds or 0.0 for push in kernel.pushes) if machine is None or machine.quota else 0.0
        hours[kernel.experiment] = hours.get(kernel.experiment, 0.0) + seconds / 3600
        active.setdefault(kernel.experiment, set()).update(kernel.last.folds if kernel.active else ())
    return {name: Spent(quota_hours=hours[name], active=tuple(sorted(active[name]))) for name in hours}


def _submitted(project: Project, problems: list[str]) -> dict[str, Submitted]:
    from gatemask.kaggle.submit.submission_records import load_record, record_files

    best: dict[str, Submitted] = {}
    for path in record_files(project):
        try:
            record = load_record(path)
        except GatemaskError as error:
            problems.append(f"{path}: {error.short()}")
            continue
        if record.public is None:
            continue
        found = Submitted(public=record.public, id=record.id, experiments=tuple(record.experiments))
        for name in record.experiments:
            if name not in best or found.public > best[name].public:
                best[name] = found
    return best


def is_alone(name: str, submitted: Submitted, same_task: Iterable[str]) -> bool:
    """Return whether a submission holds no other experiment of a task."""
    return not set(submitted.experiments) & (set(same_task) - {name})
